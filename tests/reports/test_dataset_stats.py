"""Statistics of a built data set, and the page that shows them."""

import base64
import io
import json
import re
import unicodedata
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from signvit_jax.commands import data_report
from signvit_jax.config.schema import from_mapping, to_json
from signvit_jax.data.dataset import open_dataset
from signvit_jax.data.keypoints import KeypointLayout
from signvit_jax.reports import dataset_stats
from signvit_jax.reports.dataset_page import _histogram
from signvit_jax.reports.dataset_stats import ctc_steps, split_facts, vocabulary
from signvit_jax.runtime.exit_codes import run_command
from tests.helpers import toy_dataset
from tests.helpers.toy_dataset import gray_jpeg, record

CONFIG = from_mapping(
    {
        "model": {"encoder": {"patch_size": 16}, "ctc": {"source": "frames", "target": "gloss"}},
        "data": {"sampling": "rate", "frame_rate": 25.0, "num_frames": 8, "image_size": 16},
    }
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy")
    train = [
        record("a", 4, "the cat sat", gloss="CAT SIT"),
        record("b", 2, "the <b>dog", gloss="DOG DOG"),
        record("c", 50, "a dog ran", gloss="A B C"),
    ]
    for clip, signer in zip(train, ("ann", "ann", "bob"), strict=True):
        clip["signer"] = signer
    toy_dataset.write(
        folder, train=train, test=[record("d", 9, "the bird sat", gloss="CAT"), record("e", 3, "")]
    )
    return folder


def test_facts_match_the_records(folder):
    dataset = open_dataset(folder, "toy")
    train = split_facts(dataset.split("train"), CONFIG, dataset)
    assert train.clips == train.videos == 3
    assert train.frames.tolist() == [4, 2, 50]
    assert train.sampled.tolist() == [4, 2, 8]
    assert train.words.tolist() == [3, 2, 3]
    assert train.seconds.tolist() == pytest.approx([0.16, 0.08, 2.0])
    assert dict(train.signers) == {"ann": 2, "bob": 1}
    test = split_facts(dataset.split("test"), CONFIG, dataset)
    assert test.words.tolist() == [3, 0]
    assert (test.text.words, test.text.distinct) == (3, 3)
    assert (test.text.unseen, test.text.unseen_running, test.text.examples) == (1, 1, ("bird",))


def test_a_clip_that_needs_more_steps_than_frames_cannot_align(folder):
    dataset = open_dataset(folder, "toy")
    train = split_facts(dataset.split("train"), CONFIG, dataset)
    # Clip b has two frames, but DOG, blank, DOG needs three steps.
    assert train.ctc_target == "gloss"
    assert (train.ctc_impossible, train.ctc_examples) == (1, ("b",))


@pytest.mark.parametrize(
    ("ids", "steps"), [([], 0), ([1], 1), ([1, 1], 3), ([1, 2, 1], 3), ([1, 1, 1, 2, 2], 8)]
)
def test_ctc_needs_a_blank_between_equal_labels(ids, steps):
    assert ctc_steps(ids) == steps


def test_words_are_characters_in_scripts_without_spaces():
    found = vocabulary(["今天很好", "今天不好"], ["今天很好"])
    assert (found.words, found.distinct, found.unseen, found.examples) == (8, 5, 1, ("不",))


def test_glosses_are_separated_by_spaces_in_every_script():
    glosses = vocabulary(["今天 天气"], ["今天"], by_spaces=True)
    assert (glosses.words, glosses.unseen, glosses.examples) == (2, 1, ("天气",))


def test_unicode_normal_forms_make_no_unseen_word():
    assert vocabulary([unicodedata.normalize("NFD", "été")], ["été"]).unseen == 0


def test_words_are_compared_ignoring_case():
    assert vocabulary(["The CAT cat"], ["the"]).unseen == 1


def config_file(folder) -> str:
    """Write a config file that samples half as many frames as CONFIG; return its flag."""
    values = {
        "data": {"sampling": "rate", "frame_rate": 12.5, "num_frames": 8, "image_size": 16},
        "model": {"encoder": {"patch_size": 16}},
    }
    path = folder / "config.py"
    path.write_text(f"def get_config():\n    return {values!r}\n")
    return f"--config={path}"


@pytest.fixture
def run_report(monkeypatch, tmp_path):
    """A function flags -> (exit code of the command, config of the statistics or None)."""

    def run(*flags: str):
        configs = []

        def record_config(split, config, dataset):
            configs.append(config)
            return split_facts(split, config, dataset)

        monkeypatch.setattr(dataset_stats, "split_facts", record_config)
        code = run_command(lambda: data_report.main([*flags, f"--output={tmp_path / 'page.html'}"]))
        return code, configs[0] if configs else None

    return run


def test_the_report_is_for_the_config_that_is_trained(folder, tmp_path, run_report):
    overrides = [
        f"--config.data.data_dir={folder}",
        "--config.data.name=toy",
        "--config.data.num_frames=4",
    ]
    code, config = run_report(config_file(tmp_path), *overrides)
    assert code == 0
    assert (config.data.frame_rate, config.data.num_frames, config.data.name) == (12.5, 4, "toy")
    workdir = tmp_path / "run"
    workdir.mkdir()
    (workdir / "config.json").write_text(to_json(config))
    assert run_report(f"--workdir={workdir}") == (0, config)


@pytest.mark.parametrize(
    "flags",
    [
        ["--data_dir={}", "--name=toy"],
        ["{config}", "--workdir={}"],
        ["--data_dir={}", "--name=toy", "--config.data.num_frames=4"],
    ],
)
def test_exactly_one_of_config_and_workdir_is_required(folder, tmp_path, run_report, capsys, flags):
    flags = [flag.format(folder, config=config_file(tmp_path)) for flag in flags]
    assert run_report(*flags) == (2, None)
    message = capsys.readouterr().err
    assert "--config=FILE.py" in message and "Traceback" not in message


class Page(HTMLParser):
    """The tags, the links and the texts of a page."""

    def __init__(self):
        super().__init__()
        self.links, self.tags, self.text = [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [value for name, value in attributes if name in ("src", "href")]

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_shows_the_records_and_the_build_report(folder, tmp_path, capsys):
    version = open_dataset(folder, "toy").folder
    failed = [
        {"id": "x<script>", "reason": "cut or damaged", "path": "", "file": "clips.csv", "line": 7}
    ]
    (version / "build_report.json").write_text(
        json.dumps({"warnings": ["2 clips have the same frames"], "failed": failed})
    )
    output = tmp_path / "new" / "page.html"
    flags = [f"--data_dir={folder}", "--name=toy", f"--output={output}", "--clips=3"]
    assert data_report.main([config_file(tmp_path), *flags]) == 0
    assert capsys.readouterr().out.strip() == str(output)
    page = Page()
    page.feed(output.read_text())
    assert "script" not in page.tags and "b" not in page.tags
    assert page.links and all(link.startswith("data:image/jpeg;base64,") for link in page.links)
    text = " ".join(page.text)
    for expected in (
        "the <b>dog",
        "x<script>",
        "clips.csv, line 7",
        "cut or damaged",
        "2 clips have the same frames",
        "bird",
        "cannot align",
        "ann",
    ):
        assert expected in text


def test_a_page_without_report_texts_or_images_is_written(tmp_path):
    toy_dataset.write(tmp_path, train=[record("a", 1, "", frames=[b"no image"])])
    output = tmp_path / "page.html"
    flags = [f"--data_dir={tmp_path}", "--name=toy", f"--output={output}"]
    assert data_report.main([config_file(tmp_path), *flags]) == 0
    page = output.read_text()
    assert "record 0 cannot be shown" in page and "no build_report.json" in page


def test_a_histogram_has_the_range_of_its_axis_and_quantiles():
    drawn = _histogram("seconds", np.linspace(0.0, 10.0, 101))
    assert "<span>0</span><span>10</span>" in drawn
    assert "median 5, 90&nbsp;% from 0.5 to 9.5" in drawn


def test_the_histogram_counts_every_clip():
    for values in (
        np.array([1.0]),
        np.arange(100.0),
        np.array([0.0, 0.0]),
        np.array([0.1, 3.7, 900.5]),
    ):
        drawn = _histogram("x", values)
        titles = re.findall("<title>(.*?)</title>", drawn, re.DOTALL)
        counts = [int(title.rsplit(" ", 1)[1]) for title in titles]
        assert sum(counts) == len(values)


HANDS = KeypointLayout("hands", ("nose", "left_hand", "right_hand"))


def test_the_page_shows_keypoints_on_the_frames(tmp_path):
    points = np.zeros((4, 3, 3), np.float16)
    points[1:, 0] = 0.25, 0.25, 1.0
    points[1:, 1] = 0.75, 0.25, 1.0
    points[1:, 2] = 0.25, 0.75, 0.25  # a confidence below one half is drawn as a ring
    train = [record("a", 4, frames=[gray_jpeg(120)] * 4) | {"keypoints": points}]
    train.append(record("b", 2) | {"keypoints": points[:2] * 0})
    toy_dataset.write(tmp_path, HANDS, train=train)
    output = tmp_path / "page.html"
    data_report.main(
        [config_file(tmp_path), f"--data_dir={tmp_path}", "--name=toy", f"--output={output}"]
    )
    page = Page()
    page.feed(output.read_text())
    content = " ".join(page.text)
    assert "hands, 3 points" in content.replace("&nbsp;", " ") and "50.0%" in content
    first = base64.b64decode(page.links[0].partition("base64,")[2])
    sheet = np.asarray(Image.open(io.BytesIO(first)).convert("RGB")).astype(int)
    side = 112
    frame = sheet[:side, side : 2 * side]  # the second frame
    low, high = int(0.25 * side), int(0.75 * side)
    nose, left, right, background = (
        frame[low, low],
        frame[low, high],
        frame[high, low],
        frame[high, high],
    )
    assert nose.min() > 190 and left[2] > left[0] + 80
    assert np.abs(right - background).max() < 60 and np.abs(background - 120).max() < 12
    ring = frame[high - 3 : high + 3, low - 3 : low + 3]
    assert (ring[..., 0] - ring[..., 2]).max() > 60
    assert np.abs(sheet[:side, :side] - 120).max() < 12  # the first frame has no keypoints


def test_a_data_set_without_keypoints_has_no_section_on_them(folder, tmp_path):
    output = tmp_path / "page.html"
    data_report.main(
        [config_file(tmp_path), f"--data_dir={folder}", "--name=toy", f"--output={output}"]
    )
    page = Page()
    page.feed(output.read_text())
    assert "Keypoints" not in " ".join(page.text)
