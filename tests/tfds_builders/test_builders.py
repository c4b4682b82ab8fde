"""Tests of every builder on its dummy data, and of its parser on real annotations."""

import importlib
import io
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

import tfds_builders
from signvit_jax.data.dataset import open_dataset
from tests.helpers.clip_makers import encode, shades
from tests.helpers.tiny_run import command
from tfds_builders import build, check
from tfds_builders.annotation_files.tables import AnnotationError, read_table
from tfds_builders.csl_daily import csl_daily_dataset_builder as csl_daily
from tfds_builders.how2sign import how2sign_dataset_builder as how2sign
from tfds_builders.include import include_dataset_builder as include
from tfds_builders.isign.isign_dataset_builder import Builder as ISign
from tfds_builders.media import MediaFolder
from tfds_builders.phoenix14t import phoenix14t_dataset_builder as phoenix14t
from tfds_builders.sign_language_datasets import sign_language_datasets_dataset_builder as adapter

BUILDERS = Path(tfds_builders.__file__).parent
REAL_ANNOTATIONS = BUILDERS.parent.parent / "shared" / "annotations"
needs_shared = pytest.mark.skipif(
    not REAL_ANNOTATIONS.is_dir(), reason="there are no real annotation files in ../shared"
)
SOURCE_OPTIONS = {
    "phoenix14t": ["--root={}"],
    "csl_daily": ["--root={}"],
    "how2sign": ["--root={}"],
    "include": ["--root={}", "--tables={}"],
    "sign_language_datasets": ["--source={}/probe_signs/1.0.0"],
}


def dummy(name: str) -> Path:
    return BUILDERS / name / "dummy_data"


def build_and_open(name: str, data_dir: Path, root: Path | None = None, *more: str, code: int = 0):
    """Build data set `name` from `root` (default: its dummy data), check the code, and open it."""
    options = [option.format(root or dummy(name)) for option in SOURCE_OPTIONS[name]]
    assert (
        command(build.main, name, f"--data_dir={data_dir}", "--workers=1", *options, *more) == code
    )
    return open_dataset(data_dir, name)


def report_of(data_dir: Path, name: str) -> dict:
    return json.loads(next((data_dir / name).glob("*/build_report.json")).read_text())


def fields_of(record: dict) -> tuple:
    return tuple(record[key] for key in ("id", "text", "gloss", "signer", "video_id", "fps"))


def test_phoenix14t_reads_its_release_layout(tmp_path):
    dataset = build_and_open("phoenix14t", tmp_path)
    train = dataset.split("train")
    assert [fields_of(train[i]) for i in range(2)] == [
        (
            "01January_2024_Monday_probe-1",
            "morgen kommt regen",
            "REGEN KOMMEN",
            "Signer01",
            "01January_2024_Monday_probe",
            25.0,
        ),
        (
            "01January_2024_Monday_probe-2",
            "dann scheint die sonne",
            "SONNE",
            "Signer02",
            "01January_2024_Monday_probe",
            25.0,
        ),
    ]
    assert (len(dataset.split("validation")), len(dataset.split("test"))) == (1, 1)
    assert dataset.split("test")[0]["gloss"] == ""
    folder = (
        dummy("phoenix14t") / "features/fullFrame-210x260px/train/01January_2024_Monday_probe-2"
    )
    for jpeg, file in zip(train[1]["video"], sorted(folder.iterdir()), strict=True):
        difference = np.asarray(Image.open(io.BytesIO(jpeg))).astype(int) - np.asarray(
            Image.open(file).convert("RGB")
        )
        assert abs(difference).mean() < 6


def test_csl_daily_reads_its_release_layout(tmp_path):
    dataset = build_and_open("csl_daily", tmp_path)
    assert fields_of(dataset.split("train")[1]) == (
        "S000001_P0001_T00",
        "我们去学校",
        "我们 去 学校",
        "1",
        "S000001_P0001_T00",
        25.0,
    )
    assert [len(dataset.split(name)) for name in ("train", "validation", "test")] == [2, 1, 1]
    assert len(dataset.split("test")[0]["video"]) == 4  # 0.13 s at 25 per second
    assert [
        note for note in report_of(tmp_path, "csl_daily")["warnings"] if "in train as well" in note
    ] == []


class RunsCode:
    """An object whose unpickling would call print."""

    def __reduce__(self):
        return (print, ("a pickle has run code",))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (pickle.dumps({"info": [RunsCode()]}), "it needs builtins.print"),
        (pickle.dumps({"info": [{"name": "a"}]}), "KeyError"),
        (pickle.dumps([1]), "not the label file of CSL-Daily"),
        (b"\x80\x04nonsense", "not the label file of CSL-Daily"),
        (b"", "not the label file of CSL-Daily"),
    ],
)
def test_a_pickle_with_code_is_refused_and_never_run(tmp_path, capsys, content, reason):
    shutil.copytree(dummy("csl_daily"), tmp_path / "csl")
    (tmp_path / "csl" / csl_daily.LABELS).write_bytes(content)
    assert (
        command(
            build.main, "csl_daily", f"--data_dir={tmp_path / 'data'}", f"--root={tmp_path / 'csl'}"
        )
        == 2
    )
    found = capsys.readouterr()
    assert reason in found.err and "has run code" not in found.out


def test_a_csl_daily_clip_without_label_or_frames_is_reported(tmp_path):
    shutil.copytree(dummy("csl_daily"), tmp_path / "csl")
    with (tmp_path / "csl" / csl_daily.SPLITS).open("a") as file:
        file.write("S000005_P0004_T00|train\nS000001_P0000_T00|dev\n")
    shutil.rmtree(tmp_path / "csl" / csl_daily.FRAMES / "S000002_P0000_T00")
    build_and_open("csl_daily", tmp_path / "data", tmp_path / "csl", code=3)
    failed = {
        problem["id"]: (problem["line"], problem["reason"])
        for problem in report_of(tmp_path / "data", "csl_daily")["failed"]
    }
    assert failed["S000005_P0004_T00"] == (6, "no label for it in csl2020ct_v2.pkl")
    assert failed["S000001_P0000_T00"] == (7, "the id is there twice; first in line 2")
    assert failed["S000002_P0000_T00"][1].startswith("no folder of PNG or JPEG images")


@pytest.fixture
def image_folders(tmp_path):
    """Write image folders a, n/ü (NFD) and unused, the video c.mp4 and a table; return options."""
    for name, count in (("a", 20), ("n/u\u0308", 10), ("unused", 5)):
        folder = tmp_path / "frames" / name
        folder.mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (48, 36), (10 * number, 0, 0)).save(folder / f"{number}.png")
        (folder / "._0.png").write_bytes(b"no image")
        (folder / "notes.txt").write_text("no image")
    encode(tmp_path / "frames" / "c.mp4", shades(15), fps=10)
    (tmp_path / "clips.csv").write_text(
        "uid,text,video_id,start,end\na,one two,,,\nn/\u00fc,three,,,\nc,four,,,\n"
        "a-2,five,a,0.5,1.5\n"
    )
    return [f"--csv={tmp_path / 'clips.csv'}", f"--videos={tmp_path / 'frames'}"]


def test_video_folder_reads_folders_of_images(tmp_path, image_folders, capsys):
    split_options = ["--val_fraction=0", "--test_fraction=0", "--workers=1", "--image_rate=10"]
    arguments = ["video_folder", *image_folders, *split_options]
    assert command(check.main, *arguments) == 0
    assert "4 of 4 clips can be built" in capsys.readouterr().out
    assert command(build.main, *arguments, f"--data_dir={tmp_path / 'data'}") == 0
    clips = {
        clip["id"]: clip for clip in open_dataset(tmp_path / "data", "video_folder").split("train")
    }
    lengths = {name: (len(clip["video"]), clip["fps"]) for name, clip in clips.items()}
    assert lengths == {"a": (20, 10.0), "n/\u00fc": (10, 10.0), "c": (15, 10.0), "a-2": (10, 10.0)}
    warnings = " ".join(report_of(tmp_path / "data", "video_folder")["warnings"])
    assert "1 videos in" in warnings and "such as unused" in warnings


def test_a_folder_of_images_without_a_rate_names_the_option(tmp_path, image_folders, capsys):
    options = [*image_folders, "--workers=1", "--val_fraction=0", "--test_fraction=0"]
    assert command(build.main, "video_folder", f"--data_dir={tmp_path / 'data'}", *options) == 3
    printed = capsys.readouterr().err
    assert "there is a, a folder of images" in printed and "--image_rate=25" in printed
    assert "unused" not in printed


def test_how2sign_prefers_clips_to_parts_of_long_videos(tmp_path):
    shutil.copytree(dummy("how2sign"), tmp_path / "h2s")
    videos = tmp_path / "h2s" / "train" / "raw_videos"
    dataset = build_and_open("how2sign", tmp_path / "cut", tmp_path / "h2s")
    first, second = dataset.split("train")
    assert fields_of(second) == (
        "-aBc_1-1-rgb_front",
        'This is a "test" of times.',
        "",
        "1",
        "-aBc",
        10.0,
    )
    assert (len(first["video"]), len(second["video"])) == (5, 7)
    assert (second["start"], second["end"]) == pytest.approx((0.5, 1.2))
    shutil.copy(videos / "-aBc-1-rgb_front.mp4", videos / "-aBc_1-1-rgb_front.mp4")
    second = build_and_open("how2sign", tmp_path / "clip", tmp_path / "h2s").split("train")[1]
    assert (len(second["video"]), second["start"], second["end"]) == (12, -1.0, -1.0)


def test_how2sign_names_ambiguous_and_missing_files(tmp_path, capsys):
    shutil.copytree(dummy("how2sign"), tmp_path / "h2s")
    (tmp_path / "h2s" / "more").mkdir()
    video = tmp_path / "h2s" / "test" / "raw_videos" / "gHi-5-rgb_front.mp4"
    shutil.copy(video, tmp_path / "h2s" / "more")
    build_and_open("how2sign", tmp_path / "data", tmp_path / "h2s", code=3)
    (problem,) = report_of(tmp_path / "data", "how2sign")["failed"]
    assert "there are two videos of that name" in problem["reason"]
    shutil.copy(
        tmp_path / "h2s" / "test" / "how2sign_realigned_test.csv", tmp_path / "h2s" / "more"
    )
    assert (
        command(build.main, "how2sign", f"--data_dir={tmp_path}", f"--root={tmp_path / 'h2s'}") == 2
    )
    assert command(build.main, "how2sign", f"--data_dir={tmp_path}", f"--root={video.parent}") == 2
    errors = capsys.readouterr().err
    assert (
        "more than one how2sign_realigned_test.csv" in errors
        and "there is no how2sign_realigned_{train,val,test}.csv" in errors
    )


def test_include_reads_the_word_from_its_folder(tmp_path):
    dataset = build_and_open("include", tmp_path / "a")
    assert [fields_of(dataset.split(name)[0])[:3] for name in ("train", "validation", "test")] == [
        ("Animals/4. Bird/MVI_0001", "Bird", "BIRD"),
        ("Animals/4. Bird/MVI_0002", "Bird", "BIRD"),
        ("Greetings/51. Good Morning/MVI_0003", "Good Morning", "GOOD-MORNING"),
    ]
    assert (
        len(build_and_open("include", tmp_path / "b", None, "--subset=include50").split("test"))
        == 1
    )


def test_include_without_tables_splits_all_videos_by_a_hash(tmp_path):
    shutil.copytree(dummy("include"), tmp_path / "include")
    shutil.copy(tmp_path / "include/Animals/4. Bird/MVI_0001.MOV", tmp_path / "include/stray.mov")
    options = [
        f"--data_dir={tmp_path / 'data'}",
        f"--root={tmp_path / 'include'}",
        "--workers=1",
        "--val_fraction=0",
        "--test_fraction=0",
    ]
    assert command(build.main, "include", *options) == 3
    (problem,) = report_of(tmp_path / "data", "include")["failed"]
    assert (problem["id"], problem["reason"]) == (
        "stray",
        "it is not in a folder <Category>/<Word>",
    )
    assert len(open_dataset(tmp_path / "data", "include").split("train")) == 3
    assert command(build.main, "include", *options, "--subset=include40") == 2


def test_the_adapter_reads_data_of_sign_language_datasets(tmp_path):
    dataset = build_and_open("sign_language_datasets", tmp_path)
    record = dataset.split("train")[0]
    assert fields_of(record) == ("probe-0", "guten tag", "GUT TAG", "s0", "probe", 10.0)
    assert len(record["video"]) == 5
    source = adapter.StoredFrames(
        adapter.shards_of(dummy("sign_language_datasets") / "probe_signs/1.0.0")["train"],
        0,
        False,
        10.0,
    )
    frames, _ = source()
    images = [np.asarray(Image.open(io.BytesIO(jpeg))).astype(int) for jpeg in record["video"]]
    assert np.abs(np.stack(images) - frames).mean() < 6
    swapped = build_and_open("sign_language_datasets", tmp_path / "bgr", None, "--bgr=true")
    first_jpeg = swapped.split("train")[0]["video"][0]
    first_image = np.asarray(Image.open(io.BytesIO(first_jpeg))).astype(int)
    assert np.abs(first_image - frames[0, ..., ::-1]).mean() < 6


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"video": []}, "built with include_video=False"),
        ({}, "built with include_video=False"),
        ({"video": [b"/home/me/a.mp4"]}, "built with process_video=False"),
    ],
)
def test_the_adapter_names_features_it_cannot_read(values, reason):
    with pytest.raises(LookupError, match=reason):
        adapter.check_video(values)


def test_the_adapter_needs_array_records_and_all_files(tmp_path, capsys):
    source = tmp_path / "probe"
    shutil.copytree(dummy("sign_language_datasets") / "probe_signs/1.0.0", source)
    next(source.glob("*test.array_record*")).unlink()
    run = ["sign_language_datasets", f"--data_dir={tmp_path / 'data'}", f"--source={source}"]
    assert command(build.main, *run) == 2
    assert "the files of split 'test' are not there" in capsys.readouterr().err
    info = json.loads((source / "dataset_info.json").read_text())
    (source / "dataset_info.json").write_text(json.dumps(info | {"fileFormat": "tfrecord"}))
    assert command(build.main, *run) == 2
    assert "allowed: array_record" in capsys.readouterr().err
    assert command(build.main, *run, "--bgr=perhaps") == 2


@pytest.mark.parametrize("name", SOURCE_OPTIONS)
def test_tfds_finds_the_files_of_each_builder_in_manual_dir(tmp_path, name):
    manual = dummy(name) / "probe_signs/1.0.0" if name == "sign_language_datasets" else dummy(name)
    module = importlib.import_module(f"tfds_builders.{name}.{name}_dataset_builder")
    dataset_builder = module.Builder(data_dir=tmp_path, workers=1)
    dataset_builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(manual_dir=manual)
    )
    assert sum(split.num_examples for split in dataset_builder.info.splits.values()) >= 2
    assert "python -m tfds_builders.build" in dataset_builder.info.description
    assert dataset_builder.info.citation
    assert (
        sorted(
            path.suffix
            for path in Path(dataset_builder.data_dir).iterdir()
            if path.suffix in (".shard", ".tmp")
        )
        == []
    )
    assert not (Path(dataset_builder.data_dir) / "plan.json").exists()


class AllFiles:
    """A media folder that finds every name: real annotations are parsed without their media."""

    def find(self, *names: str) -> str:
        return "/" + names[0]


@needs_shared
def test_phoenix14t_parses_its_real_dev_table_without_loss():
    table = read_table(
        REAL_ANNOTATIONS / "PHOENIX-2014-T.dev.corpus.csv",
        ("name", "translation"),
        ("orth", "speaker"),
        delimiters="|",
        quoted=False,
    )
    found = phoenix14t.parse({"dev": table}, AllFiles())
    assert (len(found.clips), found.problems) == (519, [])
    assert sum(not clip.gloss for clip in found.clips) == 2
    assert {clip.split for clip in found.clips} == {"validation"}
    assert found.clips[0].path == "/dev/11August_2010_Wednesday_tagesschau-2"
    assert found.clips[0].source_video == "11August_2010_Wednesday_tagesschau"


@needs_shared
def test_csl_daily_parses_its_real_split_file_without_loss():
    table = read_table(
        REAL_ANNOTATIONS / "csl_daily_split_1.txt", ("name", "split"), delimiters="|"
    )
    labels = {row.values["name"]: csl_daily.Label("x", "X", "0") for row in table.rows}
    found = csl_daily.parse(table, labels, AllFiles())
    assert found.problems == []
    counts = {
        split: sum(clip.split == split for clip in found.clips)
        for split in ("train", "validation", "test")
    }
    assert counts == {"train": 18401, "validation": 1077, "test": 1176}


@needs_shared
def test_how2sign_parses_its_real_test_table_without_loss():
    table = read_table(
        REAL_ANNOTATIONS / "how2sign_realigned_test.csv",
        how2sign.COLUMNS,
        ("VIDEO_ID",),
        delimiters="\t",
    )

    class OnlyLongVideos(AllFiles):
        def find(self, *names: str) -> str:
            if "_" in names[0].removesuffix("-rgb_front")[11:]:
                raise LookupError("no such clip")
            return super().find(*names)

    found = how2sign.parse({"test": table}, OnlyLongVideos())
    assert (len(found.clips), found.problems) == (2357, [])
    assert (found.clips[0].start, found.clips[0].end, found.clips[0].source_video) == (
        0.26,
        6.79,
        "-fZc293MpJk",
    )
    assert {clip.signer for clip in found.clips} == {"1", "2", "3", "5", "8", "10"}
    assert any('"You know what?' in clip.text for clip in found.clips)


@needs_shared
def test_include_parses_its_real_test_table_without_loss():
    table = read_table(
        REAL_ANNOTATIONS / "include50_test.csv", ("Word", "FilePath"), delimiters=","
    )
    found = include.parse({"test": table}, AllFiles())
    assert (len(found.clips), found.problems) == (192, [])
    assert {"Bird", "Good Morning", "T-Shirt", "you (plural)"} <= {
        clip.text for clip in found.clips
    }


@needs_shared
def test_isign_parses_its_real_rows_without_loss(tmp_path):
    table = read_table(REAL_ANNOTATIONS / "isign_v1.1_head.csv", ("uid", "text"), delimiters=",")
    for row in table.rows:
        (tmp_path / f"{row.values['uid']}.mp4").write_bytes(b"x")
    found = ISign(
        data_dir=tmp_path / "data",
        options={"csv": REAL_ANNOTATIONS / "isign_v1.1_head.csv", "videos": tmp_path},
    ).read_clips(None)
    assert (len(found.clips), found.problems) == (15, [])
    assert len({clip.source_video for clip in found.clips}) == 6


def test_the_error_of_a_release_without_tables_lists_them(tmp_path):
    for read in (
        phoenix14t.read_tables,
        how2sign.read_tables,
        lambda folder: include.read_tables(folder, "include"),
    ):
        with pytest.raises(AnnotationError, match="train"):
            read(tmp_path)
    with pytest.raises(AnnotationError, match="no video in it"):
        include.parse_folders(MediaFolder(tmp_path))
