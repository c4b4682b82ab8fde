"""The record of a run's data set and teacher (origin.json), and a resume with other ones."""

import json
import shutil
import types

import numpy as np
import pytest

from signvit_jax.checkpoints.workdir import Workdir
from signvit_jax.commands import train
from signvit_jax.config.errors import ConfigError
from signvit_jax.config.schema import Config
from signvit_jax.data.dataset import open_dataset
from signvit_jax.training.origin import check_data_set, recorded_teacher, write_origin
from tests.helpers import tiny_run, toy_dataset
from tests.helpers.toy_dataset import record

ARCHIVE = tiny_run.REPOSITORY / "tests" / "fixtures" / "workdir_0.1.tar.xz"
TRAIN = [record(f"clip-{i}", num_frames=i + 1) for i in range(4)]
VALIDATION = [record("clip-8", 2), record("clip-9", 3)]


@pytest.fixture
def workdir(tmp_path):
    return Workdir.create(tmp_path / "run")


def run_data(folder, settings=None, **splits):
    """Return the part of RunData that is needed, for a new data set of these records."""
    built = toy_dataset.write(folder, **{"train": TRAIN, "validation": VALIDATION, **splits})
    if settings is not None:
        (built / "build_report.json").write_text(json.dumps({"settings": settings}))
    return as_run_data(folder)


def as_run_data(folder):
    dataset = open_dataset(folder, "toy")
    return types.SimpleNamespace(dataset=dataset, train=dataset.split("train"), config=Config())


def test_the_same_data_set_in_another_folder_is_accepted(workdir, tmp_path):
    first = run_data(tmp_path / "a", {"jpeg_quality": 90})
    check_data_set(first, workdir)  # at a first start there is no record
    write_origin(workdir, first, None)
    check_data_set(run_data(tmp_path / "b", {"jpeg_quality": 90}), workdir)
    # Neither an option that only another release of the builder has, nor a deleted report, makes
    # a difference.
    check_data_set(run_data(tmp_path / "c", {"jpeg_quality": 90, "color": True}), workdir)
    check_data_set(run_data(tmp_path / "d"), workdir)
    assert recorded_teacher(workdir) is None


def test_a_split_without_files_is_compared_by_its_size(workdir, tmp_path):
    first = run_data(tmp_path / "a", test=VALIDATION)
    write_origin(workdir, first, None)
    for name, test in (("b", VALIDATION), ("c", VALIDATION[:1])):
        run_data(tmp_path / name, test=test)
        (shard,) = (tmp_path / name).rglob("toy-test*")
        shard.unlink()
    check_data_set(as_run_data(tmp_path / "b"), workdir)
    with pytest.raises(ConfigError, match=r"split 'test': 2 clips, .* then, 1 clips"):
        check_data_set(as_run_data(tmp_path / "c"), workdir)


def with_other_frames(records):
    """Return the records, with one gray frame as the video of the first."""
    return [
        records[0] | {"video": [toy_dataset.jpeg(np.full((16, 16, 3), 8, np.uint8), quality=20)]},
        *records[1:],
    ]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"train": TRAIN[:-1]}, r"split 'train': 4 clips, .* then, 3 clips, .* now"),
        ({"train": [*TRAIN[:-1], TRAIN[-1] | {"text": "hello theRe"}]}, "split 'train'"),
        ({"train": with_other_frames(TRAIN)}, "split 'train'"),
        ({"train": TRAIN[::-1]}, "split 'train'"),
        ({"validation": VALIDATION[:1]}, r"split 'validation': 2 clips, .* then, 1 clips"),
        ({"validation": with_other_frames(VALIDATION)}, "split 'validation'"),
        ({"test": VALIDATION}, r"split 'test': none then, 2 clips"),
        ({"settings": {"jpeg_quality": 50}}, "option jpeg_quality: 90 then, 50 now"),
    ],
    ids=[
        "fewer",
        "text",
        "frames",
        "order",
        "validation",
        "validation_frames",
        "one_split_more",
        "option",
    ],
)
def test_another_data_set_is_refused_with_the_differences(workdir, tmp_path, changed, message):
    write_origin(workdir, run_data(tmp_path / "a", {"jpeg_quality": 90}), None)
    now = run_data(tmp_path / "b", **{"settings": {"jpeg_quality": 90}, **changed})
    differs = r"(?s)the data set .* differs from the one that this workdir was started on.*"
    with pytest.raises(ConfigError, match=differs + message) as caught:
        check_data_set(now, workdir)
    assert str(caught.value).count("\n  ") == 1  # one difference is listed
    assert caught.value.exit_code == 2


def test_a_workdir_of_release_0_1_is_checked_by_its_own_record(workdir, tmp_path, caplog):
    data = run_data(tmp_path / "a")
    workdir.fingerprint_txt.write_text(data.train.fingerprint + "\n")
    check_data_set(run_data(tmp_path / "b", validation=VALIDATION[:1]), workdir)
    assert "recorded only ids, texts, glosses and frame counts of the training split" in caplog.text
    with pytest.raises(ConfigError, match=rf"fingerprint \w+, before {data.train.fingerprint}"):
        check_data_set(run_data(tmp_path / "c", train=TRAIN[:-1]), workdir)
    # A record of this release replaces the earlier one.
    write_origin(workdir, data, None)
    workdir.fingerprint_txt.write_text("0123456789ab\n")
    caplog.clear()
    check_data_set(as_run_data(tmp_path / "a"), workdir)
    assert not caplog.text


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"data_set": 3}', '{"data_set": {"splits": {}}}', "[" * 100_000]
)
def test_a_damaged_record_of_the_data_set_is_an_error(workdir, tmp_path, content):
    workdir.origin_json.write_text(content)
    with pytest.raises(ConfigError, match=r"origin\.json"):
        check_data_set(run_data(tmp_path / "a"), workdir)


@pytest.mark.parametrize("teacher", [3, {}, {"path": "a", "step": "x", "digest": "b"}])
def test_a_damaged_record_of_the_teacher_is_an_error(workdir, teacher):
    workdir.origin_json.write_text(json.dumps({"teacher": teacher}))
    with pytest.raises(ConfigError, match=r"origin\.json"):
        recorded_teacher(workdir)


@pytest.mark.usefixtures("light_jax")
def test_a_workdir_of_release_0_1_resumes_and_gets_a_new_record(trained, tmp_path, capfd):
    workdir = tmp_path / "run"
    workdir.mkdir()
    shutil.unpack_archive(ARCHIVE, workdir, filter="data")
    config = tmp_path / "config.py"
    values = json.loads((workdir / "config.json").read_text())
    values["data"]["data_dir"] = str(trained.data_dir)
    config.write_text(f"def get_config():\n    return {values!r}\n")
    start = [train.main, f"--config={config}", f"--workdir={workdir}"]
    assert tiny_run.command(*start) == 0
    messages = capfd.readouterr().err
    assert "an earlier release started this workdir" in messages and "nothing to do" in messages
    origin = json.loads((workdir / "origin.json").read_text())
    assert origin["data_set"]["splits"]["validation"]["clips"] == tiny_run.CLIPS["validation"]
    assert origin["data_set"]["settings"]["jpeg_quality"] == 90
    assert tiny_run.command(*start) == 0
    assert "an earlier release" not in capfd.readouterr().err
    (workdir / "origin.json").unlink()
    (workdir / "training_split.txt").write_text("0123456789abcdef\n")
    assert tiny_run.command(*start) == 2
    assert "0123456789abcdef" in capfd.readouterr().err
