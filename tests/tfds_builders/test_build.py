"""Tests of the build command: records, messages, and that a data set is never left incomplete."""

import importlib.util
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

import tfds_builders
from signvit_jax.data.schema import IndexEntry, read_index, split_of
from tests.helpers import tiny_run
from tests.helpers.video_frames import read_video
from tfds_builders import apache_beam_build, audit, build, clips
from tfds_builders.base import BuildError

BUILDERS = Path(tfds_builders.__file__).parent
REPOSITORY = BUILDERS.parent
DUMMY = BUILDERS / "video_folder" / "dummy_data"


def write_source(
    root: Path, rows: str, header: str = "uid,text", damaged: tuple[str, ...] = ()
) -> list[str]:
    """Write the three dummy videos and a table to `root`; return the options of a build."""
    shutil.copytree(DUMMY / "videos", root / "videos", dirs_exist_ok=True)
    for name in damaged:
        (root / "videos" / f"{name}.mp4").write_bytes(b"not a video at all")
    (root / "clips.csv").write_text(f"{header}\n{rows}", encoding="utf-8")
    return [f"--csv={root / 'clips.csv'}", f"--videos={root / 'videos'}", "--workers=1"]


ALL_ROWS = "morning-1,Good morning.\nmorning-2,How are you?\nevening-1,Good night.\n"
ALL_IN_TRAIN = ["--val_fraction=0", "--test_fraction=0"]


def run(data_dir: Path, *options: str, name: str = "video_folder") -> int:
    return tiny_run.command(build.main, name, f"--data_dir={data_dir}", *options)


class Killed(BaseException):
    """Raised in place of SIGKILL: the code under test does not catch it."""


def run_until_killed(data_dir: Path, *options: str) -> None:
    """Run a build whose patched `encode_clip` raises Killed."""
    with pytest.raises(Killed):
        build.main(["video_folder", f"--data_dir={data_dir}", *options])


def records(
    data_dir: Path, split: str = "train", name: str = "video_folder", version: str = "1.0.0"
) -> list[dict]:
    return list(tfds.builder_from_directory(data_dir / name / version).as_data_source()[split])


def report_of(data_dir: Path) -> dict:
    return json.loads((data_dir / "video_folder" / "1.0.0" / "build_report.json").read_text())


def test_a_record_holds_its_row_and_its_video(tmp_path):
    assert (
        run(
            tmp_path / "data",
            f"--csv={DUMMY / 'clips.csv'}",
            f"--videos={DUMMY / 'videos'}",
            "--workers=1",
            *ALL_IN_TRAIN,
        )
        == 0
    )
    found = records(tmp_path / "data")
    assert [record["id"].decode() for record in found] == ["morning-1", "morning-2", "evening-1"]
    record = found[1]
    assert (record["text"], record["gloss"], record["video_id"], record["signer"]) == (
        b"How are you?",
        b"YOU HOW",
        b"morning",
        b"",
    )
    assert (record["fps"], record["start"], record["end"]) == (10.0, -1.0, -1.0)
    images = np.stack([np.asarray(Image.open(io.BytesIO(frame))) for frame in record["video"]])
    source = read_video(DUMMY / "videos" / "morning-2.mp4").frames
    assert images.shape == source.shape
    assert np.abs(images.astype(int) - source).mean() < 4
    entries = read_index(tmp_path / "data" / "video_folder" / "1.0.0", "train")
    assert [(e.id, e.num_frames, e.text, e.gloss, e.video_id) for e in entries] == [
        (
            r["id"].decode(),
            len(r["video"]),
            r["text"].decode(),
            r["gloss"].decode(),
            r["video_id"].decode(),
        )
        for r in found
    ]


def test_isign_keeps_a_recording_in_one_split(tmp_path):
    dummy = BUILDERS / "isign" / "dummy_data"
    options = [
        f"--csv={dummy / 'iSign_v1.1.csv'}",
        f"--videos={dummy / 'iSign-videos_v1.1'}",
        "--workers=1",
        "--val_fraction=0.5",
        "--test_fraction=0",
    ]
    assert run(tmp_path, *options, name="isign") == 0
    splits = tfds.builder_from_directory(tmp_path / "isign" / "1.1.0").info.splits
    split_of_clip = {
        record["id"].decode(): split
        for split in splits
        for record in records(tmp_path, split, "isign", "1.1.0")
    }
    assert len(split_of_clip) == 3
    assert split_of_clip["0a1b2c3d4e5f-1"] == split_of_clip["0a1b2c3d4e5f-4"]


@pytest.mark.parametrize(("builder", "version"), [("video_folder", "1.0.0"), ("isign", "1.1.0")])
def test_tfds_builds_from_manual_dir_and_the_description_has_the_command(
    tmp_path, builder, version
):
    shutil.copytree(BUILDERS / builder / "dummy_data", tmp_path / "manual")
    module = importlib.import_module(f"tfds_builders.{builder}.{builder}_dataset_builder")
    dataset_builder = module.Builder(
        data_dir=tmp_path / "data", workers=1, val_fraction=0.0, test_fraction=0.0
    )
    dataset_builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(manual_dir=tmp_path / "manual")
    )
    assert dataset_builder.info.splits["train"].num_examples == 3
    assert len(dataset_builder.as_data_source(split="train")) == 3
    assert "python -m tfds_builders.build" in dataset_builder.info.description
    assert (tmp_path / "data" / builder / version / "build_report.json").is_file()


def test_unreadable_clips_are_listed_and_the_others_built(tmp_path, capsys):
    options = write_source(
        tmp_path, ALL_ROWS + "gone-1,Lost.\nmorning-2,Again.\n,No name.\n", damaged=("evening-1",)
    )
    assert run(tmp_path / "data", *options, *ALL_IN_TRAIN) == 3
    assert "4 clips could not be read" in capsys.readouterr().err
    report = report_of(tmp_path / "data")
    assert report["splits"]["train"]["clips"] == 2
    failed = {(problem["id"], problem["line"]): problem["reason"] for problem in report["failed"]}
    assert set(failed) == {("evening-1", 4), ("gone-1", 5), ("morning-2", 6), ("", 7)}
    assert failed["evening-1", 4].startswith("not a video")
    assert all(problem["file"].endswith("clips.csv") for problem in report["failed"])
    assert len(records(tmp_path / "data")) == 2
    assert run(tmp_path / "data", *options, *ALL_IN_TRAIN) == 0
    assert "4 clips could not be read then" in capsys.readouterr().out


def test_no_readable_media_exits_with_4_and_leaves_no_files(tmp_path, capsys):
    (tmp_path / "videos").mkdir()
    (tmp_path / "clips.csv").write_text("uid,text\na,b\n")
    options = [f"--csv={tmp_path / 'clips.csv'}", f"--videos={tmp_path / 'videos'}", "--workers=1"]
    assert run(tmp_path / "data", *options) == 4
    assert "no video a" in capsys.readouterr().err
    options = write_source(tmp_path, ALL_ROWS, damaged=("morning-1", "morning-2", "evening-1"))
    assert run(tmp_path / "data", *options) == 4
    assert "none of the 3 clips could be read" in capsys.readouterr().err
    assert list((tmp_path / "data").iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["video_foldr"], "did you mean 'video_folder'?"),
        ([], "there are csl_daily, how2sign, include, isign"),
        (
            [
                "video_folder",
                "--data_dir={data}",
                "--csv={csv}",
                "--videos={videos}",
                "--val_fraction=0.9",
                "--test_fraction=0.2",
            ],
            "add up to at most 1",
        ),
        (
            [
                "video_folder",
                "--data_dir={data}",
                "--csv={csv}",
                "--videos={videos}",
                "--short_side=0",
            ],
            "--short_side is 0; allowed: an integer from 1",
        ),
        (["video_folder", "--data_dir={data}", "--csv={csv}", "--videos={csv}"], "no such folder"),
        (
            ["video_folder", "--data_dir={data}", "--csv={videos}", "--videos={videos}"],
            "cannot be read",
        ),
        (
            ["video_folder", "--data_dir={csv}", "--csv={csv}", "--videos={videos}"],
            "cannot be written",
        ),
        (
            ["video_folder", "--data_dir={data}", "--csv={no_text}", "--videos={videos}"],
            "no column 'text'",
        ),
    ],
)
def test_wrong_usage_exits_with_2_and_lists_allowed_values(tmp_path, capsys, options, message):
    write_source(tmp_path, ALL_ROWS)
    (tmp_path / "no_text.csv").write_text("uid,sentence\na,b\n")
    paths = {
        "data": tmp_path / "data",
        "csv": tmp_path / "clips.csv",
        "videos": tmp_path / "videos",
        "no_text": tmp_path / "no_text.csv",
    }
    assert tiny_run.command(build.main, *(option.format(**paths) for option in options)) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data_dir=x"], "the following arguments are required: --videos"),
        (["--csv=a", "--videos=b"], "required: --data_dir"),
        (
            ["--data_dir=x", "--csv=a", "--videos=b", "--short_sid=3", "more"],
            "unknown argument --short_sid; did you mean --short_side?",
        ),
        (
            ["--data_dir=x", "--csv=a", "--videos=b", "--txt_column=b"],
            "did you mean --text_column?",
        ),
        (["--data_dir=x", "--csv=a", "--videos=b", "more"], "unexpected argument 'more'"),
    ],
)
def test_missing_and_misspelled_options_exit_with_2_and_are_named(capsys, options, message):
    assert tiny_run.command(build.main, "video_folder", *options) == 2
    shown = capsys.readouterr().err
    assert message in shown and "video_folder --help" in shown


NUMBERS = {
    "short_side": "64",
    "frame_rate": "10",
    "jpeg_quality": "80",
    "val_fraction": "0.2",
    "test_fraction": "0.2",
    "workers": "1",
}


@pytest.mark.parametrize("option", [*NUMBERS, "shard_megabytes"])
@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "-1", "1e400", "abc", "0", "1e9"])
def test_a_number_out_of_range_is_named_with_its_allowed_range(tmp_path, capsys, option, value):
    if value == "0" and option in ("val_fraction", "test_fraction", "workers"):
        return  # zero is allowed
    given = NUMBERS | {option: value}
    options = [f"--{name}={number}" for name, number in given.items()]
    assert run(tmp_path / "data", *write_source(tmp_path, ALL_ROWS)[:2], *options) == 2
    shown = capsys.readouterr().err
    assert shown.startswith(f"error: --{option} is ") and "; allowed: a" in shown
    assert [name for name in given if name != option and f"--{name}" in shown] == []
    assert "Traceback" not in shown


@pytest.mark.parametrize(
    ("name", "option"),
    [
        *(
            ("synthetic_signs", f"{name}={value}")
            for name in ("num_train", "size", "seed")
            for value in ("nan", "-1", "1.5")
        ),
        *(("synthetic_signs", f"rest_fraction={value}") for value in ("nan", "inf", "-0.1", "1.1")),
        *(("sign_language_datasets", f"source_fps={value}") for value in ("nan", "inf", "0", "-1")),
        ("include", "subset=inclde"),
    ],
)
def test_options_of_a_single_builder_are_checked(tmp_path, capsys, name, option):
    needed = {
        "synthetic_signs": [],
        "sign_language_datasets": [f"--source={tmp_path}"],
        "include": [f"--root={tmp_path}"],
    }[name]
    assert (
        tiny_run.command(
            build.main, name, f"--data_dir={tmp_path / 'data'}", *needed, f"--{option}"
        )
        == 2
    )
    assert f"error: --{option.partition('=')[0]} is " in capsys.readouterr().err


def test_python_callers_get_the_same_messages():
    module = importlib.import_module(
        "tfds_builders.synthetic_signs.synthetic_signs_dataset_builder"
    )
    for arguments, message in [
        ({"shard_megabytes": float("nan")}, "--shard_megabytes is nan; allowed: a number above 0"),
        ({"short_side": 12.5}, "--short_side is 12.5; allowed: an integer"),
        ({"options": {"num_trian": 3}}, "no option num_trian; .* did you mean 'num_train'"),
        ({"options": {"rest_fraction": float("nan")}}, "--rest_fraction is nan"),
    ]:
        with pytest.raises(BuildError, match=message):
            module.Builder(data_dir="/nowhere", **arguments)


def test_column_names_do_not_change_the_data_set(tmp_path, capsys):
    options = write_source(
        tmp_path, "morning-1,Good morning.,A\nmorning-2,Hello.,B\n", header="Name,Satz,Wer"
    )
    columns = ["--uid_column=Name", "--text_column=Satz", "--signer_column=wer"]
    assert run(tmp_path / "data", *options, *ALL_IN_TRAIN, *columns) == 0
    assert [(r["id"], r["text"], r["signer"]) for r in records(tmp_path / "data")] == [
        (b"morning-1", b"Good morning.", b"A"),
        (b"morning-2", b"Hello.", b"B"),
    ]
    write_source(
        tmp_path, "morning-1,Good morning.,A\nmorning-2,Hello.,B\n", header="uid,text,signer"
    )
    assert run(tmp_path / "data", *options, *ALL_IN_TRAIN) == 0  # other names, same content
    assert "already built" in capsys.readouterr().out
    assert run(tmp_path / "data", *options, *ALL_IN_TRAIN, "--signer_column=text") == 2
    assert (
        "built differently: the annotations or the video files have changed"
        in capsys.readouterr().err
    )


def test_a_table_with_swallowed_rows_is_not_built(tmp_path, capsys):
    options = write_source(
        tmp_path, 'morning-1,"Good morning.\nmorning-2,How are you?\nevening-1,5 feet 11"\n'
    )
    assert run(tmp_path / "data", *options) == 2
    assert (
        "clips.csv, lines 2 to 4: the quotation mark that opens in line 2"
        in capsys.readouterr().err
    )
    assert list((tmp_path / "data").iterdir()) == []


def test_clips_of_rest_are_stored_without_text_and_counted(tmp_path, capsys):
    options = write_source(tmp_path, "morning-1,Good morning.\nmorning-2,<rest>\nevening-1,\n")
    assert run(tmp_path / "data", *options, *ALL_IN_TRAIN) == 3
    assert [(r["id"], r["text"]) for r in records(tmp_path / "data")] == [
        (b"morning-1", b"Good morning."),
        (b"morning-2", b""),
    ]
    shown = capsys.readouterr().err
    assert "note: in 1 clips nobody signs (train 1): the text is empty" in shown
    assert "evening-1: no text; a clip in which nobody signs has the text <rest>" in shown
    assert report_of(tmp_path / "data")["splits"]["train"]["rest"] == 1


def test_notes_on_media_survive_a_kill(tmp_path, monkeypatch, capsys):
    rows = "still,a,,\nmorning-1,b,0,0.6\nmorning-2,c,0.5,9\nevening-1,d,,\n"
    options = write_source(tmp_path, rows, header="uid,text,start,end")
    times = [0, *range(10_000, 12_000, 40)]
    write_video(tmp_path / "videos" / "still.mp4", times)
    (tmp_path / "videos" / "._still.mp4").write_bytes(b"x")
    options += [*ALL_IN_TRAIN, "--shard_megabytes=0.00001"]
    encode = clips.encode_clip

    def encode_until_killed(clip, encoding):
        if clip.id == "evening-1":
            raise Killed
        return encode(clip, encoding)

    with monkeypatch.context() as patch:
        patch.setattr("tfds_builders.encoding.encode_clip", encode_until_killed)
        run_until_killed(tmp_path / "data", *options)
    capsys.readouterr()
    assert run(tmp_path / "data", *options) == 3
    shown = capsys.readouterr().err
    report = report_of(tmp_path / "data")
    assert report["media"] == {
        "end_cut": {"clips": 1, "listed": ["morning-1"]},
        "variable_rate": {"clips": 1, "listed": ["still"]},
    }
    for note in (
        "1 clips have a variable frame rate, such as still",
        "1 clips end a little later in the table",
        "1 files named ._* in",
    ):
        assert (
            shown.count(note) == 1 and sum(note in warning for warning in report["warnings"]) == 1
        )
    assert "morning-2: the clip should end at 9.00 s, but the video ends at 0.60 s" in shown
    still, morning, evening = records(tmp_path / "data")
    assert (still["fps"], len(still["video"])) == (25.0, 300)
    assert (morning["id"], evening["id"]) == (b"morning-1", b"evening-1")


def test_shards_of_an_older_reader_are_written_again(tmp_path, monkeypatch):
    options = [*write_many_clips(tmp_path, 12), "--workers=1"]
    encoded = []
    encode = clips.encode_clip

    def count_and_stop(clip, encoding):
        encoded.append(clip.id)
        if len(encoded) == 11:
            raise Killed
        return encode(clip, encoding)

    monkeypatch.setattr("tfds_builders.encoding.encode_clip", count_and_stop)
    run_until_killed(tmp_path / "data", *options)
    plan_file = tmp_path / "data" / ".building_video_folder" / "shards" / "plan.json"
    plan = json.loads(plan_file.read_text())
    del plan["reader"]  # older releases did not write it
    plan_file.write_text(json.dumps(plan))
    assert run(tmp_path / "data", *options) == 3
    assert encoded[11:] == [f"copy-{i}" for i in range(12)]


def test_a_built_data_set_is_rebuilt_only_with_overwrite(tmp_path, capsys):
    options = write_source(tmp_path, ALL_ROWS)
    assert run(tmp_path / "data", *options, *ALL_IN_TRAIN) == 0
    shard = next((tmp_path / "data" / "video_folder" / "1.0.0").glob("*.array_record*"))
    before = shard.stat().st_mtime_ns
    assert run(tmp_path / "data", *options, *ALL_IN_TRAIN) == 0
    assert "already built" in capsys.readouterr().out
    assert shard.stat().st_mtime_ns == before
    assert run(tmp_path / "data", *options, *ALL_IN_TRAIN, "--short_side=16") == 2
    assert "short_side was 256, now 16" in capsys.readouterr().err
    write_source(tmp_path, ALL_ROWS.replace("Good night.", "Sleep well."))
    assert run(tmp_path / "data", *options, *ALL_IN_TRAIN) == 2
    assert "the annotations or the video files have changed" in capsys.readouterr().err
    assert records(tmp_path / "data")[2]["text"] == b"Good night."
    assert run(tmp_path / "data", *options, *ALL_IN_TRAIN, "--short_side=16", "--overwrite") == 0
    record = records(tmp_path / "data")[2]
    assert record["text"] == b"Sleep well."
    assert Image.open(io.BytesIO(record["video"][0])).size == (24, 16)
    assert os.listdir(tmp_path / "data") == ["video_folder"]


def test_frame_rate_and_split_columns_are_used(tmp_path):
    rows = "morning-1,a,train,0,0.25\nmorning-2,b,dev,,\nevening-1,c,test,,\n"
    options = write_source(tmp_path, rows, header="uid,text,split,start,end")
    assert run(tmp_path / "data", *options, "--frame_rate=20") == 0
    (train,), (validation,), (test,) = (
        records(tmp_path / "data", split) for split in ("train", "validation", "test")
    )
    assert (train["id"], validation["id"], test["id"]) == (b"morning-1", b"morning-2", b"evening-1")
    assert (train["fps"], len(train["video"]), train["start"], train["end"]) == (20.0, 5, 0.0, 0.25)
    assert len(validation["video"]) == 12
    assert any(
        "have clips in train as well as in validation (such as morning)" in warning
        for warning in report_of(tmp_path / "data")["warnings"]
    )


def test_an_empty_split_is_reported(tmp_path, capsys):
    assert (
        run(
            tmp_path / "data",
            *write_source(tmp_path, "morning-1,a\nmorning-2,b\n"),
            "--val_fraction=0.0001",
            "--test_fraction=0",
        )
        == 0
    )
    assert "the split 'validation' is empty" in capsys.readouterr().err


def write_video(path: Path, milliseconds: list[int]) -> None:
    """Write a video with one uniform gray frame at each of the given times."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for i, pts in enumerate(milliseconds):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), i * 4 % 250, np.uint8), "rgb24")
            frame.pts = pts
            frame.time_base = Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def write_named_clips(root: Path, names: list[str]) -> list[str]:
    """Write a clip for each name, with one of the dummy videos; return the options of a build."""
    options = write_source(root, "".join(f"{name},text {i}\n" for i, name in enumerate(names)))
    for i, name in enumerate(names):
        shutil.copy(
            DUMMY / "videos" / f"{('morning-1', 'morning-2', 'evening-1')[i % 3]}.mp4",
            root / "videos" / f"{name}.mp4",
        )
    return options


def test_clips_that_all_fall_into_one_split_are_explained(tmp_path, capsys):
    options = write_named_clips(tmp_path, [f"clip-{i}" for i in range(1, 25)])
    assert run(tmp_path / "data", *options) == 0
    shown = capsys.readouterr().err
    assert (
        "note: all 24 clips are in the split 'train', and the splits 'validation' and 'test' are "
        "empty: they are of one source video" in shown
    )
    assert "'clip-1' is a part of 'clip', as are 23 others" in shown
    assert shown.count("--video_id_column=uid makes every clip its own video") == 1
    assert "video_id_column" in report_of(tmp_path / "data")["warnings"][1]
    assert run(tmp_path / "data", *options, "--video_id_column=uid", "--overwrite") == 0
    assert "empty" not in capsys.readouterr().err
    assert sorted(report_of(tmp_path / "data")["splits"]) == ["test", "train", "validation"]


def test_a_train_split_far_below_its_share_is_explained(tmp_path, capsys):
    names = [
        f"clip{video}-{i}"
        for video in range(40)
        for i in range(1 if split_of(f"clip{video}") == "train" else 30)
    ][:200]
    assert run(tmp_path / "data", *write_named_clips(tmp_path, names)) == 0
    assert "clips are in the split 'train': " in capsys.readouterr().err


def test_many_shards_are_read_in_order(tmp_path):
    assert (
        run(
            tmp_path / "data",
            *write_source(tmp_path, ALL_ROWS),
            *ALL_IN_TRAIN,
            "--shard_megabytes=0.00001",
        )
        == 0
    )
    folder = tmp_path / "data" / "video_folder" / "1.0.0"
    assert sorted(path.name[-15:] for path in folder.glob("*array_record*")) == [
        f"-0000{i}-of-00003" for i in range(3)
    ]
    assert [r["id"].decode() for r in records(tmp_path / "data")] == [
        e.id for e in read_index(folder, "train")
    ]


def test_too_little_disk_space_is_reported_at_the_start(tmp_path, monkeypatch, capsys):
    rows = "".join(f"copy-{i},text {i}\n" for i in range(12))
    options = write_source(tmp_path, rows)
    for i in range(12):
        shutil.copy(DUMMY / "videos" / "morning-1.mp4", tmp_path / "videos" / f"copy-{i}.mp4")
    usage = type(shutil.disk_usage(tmp_path))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 1000))
    assert run(tmp_path / "data", *options) == 1
    assert "GB are free" in capsys.readouterr().err
    assert list((tmp_path / "data").iterdir()) == []


def test_a_second_build_at_the_same_time_is_refused(tmp_path, capsys):
    options = write_source(tmp_path, ALL_ROWS)
    final = tmp_path / "data" / "video_folder" / "1.0.0"
    final.parent.mkdir(parents=True)
    with build._staging_folder(final, tmp_path / "data" / ".building_video_folder"):
        assert run(tmp_path / "data", *options) == 2
    assert "another process is building" in capsys.readouterr().err


def test_a_kill_between_two_renames_restores_the_old_data_set(tmp_path):
    options = write_source(tmp_path, ALL_ROWS)
    assert run(tmp_path / "data", *options, *ALL_IN_TRAIN) == 0
    final, staging = (
        tmp_path / "data" / "video_folder" / "1.0.0",
        tmp_path / "data" / ".building_video_folder",
    )
    staging.mkdir()
    os.rename(final, staging / "replaced")
    assert run(tmp_path / "data", *options, *ALL_IN_TRAIN) == 0
    assert len(records(tmp_path / "data")) == 3


def build_command(data_dir: Path, options: list[str]) -> list[str]:
    return [
        sys.executable,
        "-m",
        "tfds_builders.build",
        "video_folder",
        f"--data_dir={data_dir}",
        *options,
    ]


def content_of(folder: Path) -> dict[str, object]:
    """Return the bytes of every file of a data set, and of shards the records.

    The bytes of shards differ between builds: protocol buffers store maps in any order.
    """
    files: dict[str, object] = {path.name: path.read_bytes() for path in folder.iterdir()}
    for name in [name for name in files if "array_record" in name]:
        files[name] = list(tfds.builder_from_directory(folder).as_data_source()["train"])
    return files


def descendants(pid: int) -> list[int]:
    """Return the ids of all processes that `pid` started, directly or not, from /proc."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found += [int(stat.parent.name), *descendants(int(stat.parent.name))]
    return found


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def write_many_clips(root: Path, count: int) -> list[str]:
    """Write `count` clips, copy-7 damaged; return options for shards of a few clips."""
    options = write_source(
        root, "".join(f"copy-{i},text {i}\n" for i in range(count)), damaged=("copy-7",)
    )[:2]
    for i in set(range(count)) - {7}:
        os.link(
            root / "videos" / f"{('morning-1', 'morning-2', 'evening-1')[i % 3]}.mp4",
            root / "videos" / f"copy-{i}.mp4",
        )
    return [*options, *ALL_IN_TRAIN, "--shard_megabytes=0.02"]


def check_kills(tmp_path: Path, count: int, kills: int, workers: str = "--workers=2") -> None:
    """Kill builds at random moments; check that the last one equals an undisturbed build."""
    options = write_many_clips(tmp_path, count)
    began = time.monotonic()
    assert run(tmp_path / "undisturbed", *options, "--workers=1") == 3
    build_seconds = time.monotonic() - began + 1.5  # 1.5 s: a process starts
    undisturbed = content_of(tmp_path / "undisturbed" / "video_folder" / "1.0.0")
    rng = random.Random(0)
    final, shards = (
        tmp_path / "data" / "video_folder" / "1.0.0",
        tmp_path / "data" / ".building_video_folder" / "shards",
    )
    for _ in range(kills):
        process = subprocess.Popen(
            build_command(tmp_path / "data", [*options, workers]),
            cwd=REPOSITORY,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(rng.uniform(0.3, 1.0) * build_seconds)
        children = descendants(process.pid)
        process.kill()
        process.wait()
        assert not final.exists() or content_of(final) == undisturbed
        deadline = time.monotonic() + 120
        while any(map(is_running, children)):
            assert time.monotonic() < deadline, "a worker outlived the build"
            time.sleep(0.05)
        if final.exists():  # the build finished before the kill
            shutil.rmtree(final)
    done = subprocess.run(
        build_command(tmp_path / "data", [*options, workers]),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 3, done.stderr
    assert content_of(final) == undisturbed
    assert not shards.exists() and os.listdir(tmp_path / "data") == ["video_folder"]


def test_builds_killed_twice_end_with_the_same_records(tmp_path):
    check_kills(tmp_path, 40, kills=2)


@pytest.mark.long
def test_builds_killed_ten_times_end_with_the_same_records(tmp_path):
    check_kills(tmp_path, 300, kills=10)


def test_a_build_resumes_after_its_last_finished_shard(tmp_path, monkeypatch):
    options = [*write_many_clips(tmp_path, 30), "--workers=1"]
    encoded = []
    encode = clips.encode_clip

    def count_and_stop(clip, encoding):
        encoded.append(clip.id)
        if is_first_build and len(encoded) == 28:
            raise Killed
        return encode(clip, encoding)

    monkeypatch.setattr("tfds_builders.encoding.encode_clip", count_and_stop)
    is_first_build = True
    run_until_killed(tmp_path / "data", *options)
    shards = tmp_path / "data" / ".building_video_folder" / "shards"
    kept = json.loads(max(shards.glob("train.*.json")).read_text())["end"]
    assert 0 < kept < 27
    is_first_build = False
    encoded = []
    assert run(tmp_path / "data", *options) == 3
    assert encoded == [f"copy-{i}" for i in range(kept, 30)]
    assert run(tmp_path / "undisturbed", *options) == 3
    undisturbed, resumed = (
        content_of(tmp_path / folder / "video_folder" / "1.0.0")
        for folder in ("undisturbed", "data")
    )
    assert resumed == undisturbed


@pytest.mark.parametrize("damage", ["shard truncated", "journal truncated", "other options"])
def test_a_resumed_build_keeps_only_valid_shards_of_its_plan(tmp_path, monkeypatch, damage):
    options = [*write_many_clips(tmp_path, 24), "--workers=1"]
    encode = clips.encode_clip

    def encode_until_killed(clip, encoding):
        if clip.id == "copy-22":
            raise Killed
        return encode(clip, encoding)

    with monkeypatch.context() as patch:
        patch.setattr("tfds_builders.encoding.encode_clip", encode_until_killed)
        run_until_killed(tmp_path / "data", *options)
    first = tmp_path / "data" / ".building_video_folder" / "shards" / "train.00000.shard"
    target = first if damage.startswith("shard") else first.with_suffix(".json")
    if damage.endswith("truncated"):
        target.write_bytes(target.read_bytes()[:100])
    else:
        options.append("--short_side=24")
    assert run(tmp_path / "data", *options) == 3
    found = records(tmp_path / "data")
    assert [record["id"].decode() for record in found] == [f"copy-{i}" for i in range(24) if i != 7]
    assert {min(Image.open(io.BytesIO(record["video"][0])).size) for record in found} == {
        24 if damage == "other options" else 32
    }


def test_beam_builds_the_same_records(tmp_path):
    pytest.importorskip(
        "apache_beam", reason="Apache Beam is not installed: pip install -e '.[beam]'"
    )
    options = write_many_clips(tmp_path, 30)
    assert run(tmp_path / "beam", *options, "--beam_runner=DirectRunner") == 3
    assert run(tmp_path / "undisturbed", *options, "--workers=1") == 3
    assert [r["id"] for r in records(tmp_path / "beam")] == [
        r["id"] for r in records(tmp_path / "undisturbed")
    ]
    assert records(tmp_path / "beam")[3]["video"] == records(tmp_path / "undisturbed")[3]["video"]
    assert report_of(tmp_path / "beam")["failed"] == report_of(tmp_path / "undisturbed")["failed"]


def test_shards_written_out_of_order_hold_the_same_records(tmp_path, monkeypatch):
    """Beam's workers write each shard alone, in any order, and may write one twice."""
    options = write_many_clips(tmp_path, 30)

    def write_in_reverse(splits, folder, encoding, runner, clips_per_shard):
        tasks = apache_beam_build.tasks_of(splits, folder, clips_per_shard)
        assert runner == "SomeRunner" and len(tasks) == 6
        for task in [*reversed(tasks), tasks[1]]:
            apache_beam_build.write_shard(task, folder, encoding)
        assert apache_beam_build.tasks_of(splits, folder, clips_per_shard) == []

    monkeypatch.setattr(apache_beam_build, "write_shards", write_in_reverse)
    assert run(tmp_path / "beam", *options, "--beam_runner=SomeRunner") == 3
    assert run(tmp_path / "undisturbed", *options, "--workers=1") == 3
    assert records_equal(tmp_path / "beam", tmp_path / "undisturbed")
    assert report_of(tmp_path / "beam")["failed"] == report_of(tmp_path / "undisturbed")["failed"]


def records_equal(a: Path, b: Path) -> bool:
    """Return whether two built data sets have the same records in their train splits."""
    return [{k: str(v) for k, v in record.items()} for record in records(a)] == [
        {k: str(v) for k, v in record.items()} for record in records(b)
    ]


@pytest.mark.skipif(
    importlib.util.find_spec("apache_beam") is not None, reason="Apache Beam is installed"
)
def test_missing_beam_is_reported_before_the_build(tmp_path, capsys):
    assert (
        run(tmp_path / "data", *write_source(tmp_path, ALL_ROWS), "--beam_runner=DirectRunner") == 2
    )
    assert "needs Apache Beam: pip install" in capsys.readouterr().err
    assert list((tmp_path / "data").iterdir()) == []


def test_duplicates_and_leaks_are_reported_and_printed(tmp_path, capsys):
    rows = (
        "morning-1,Good morning.,ann,train\nmorning-2,Good morning.,ann,test\n"
        "evening-1,Bye.,bob,train\nevening-2,Night.,bob,test\n"
    )
    options = write_source(tmp_path, rows, header="uid,text,signer,split")
    shutil.copy(tmp_path / "videos" / "evening-1.mp4", tmp_path / "videos" / "evening-2.mp4")
    assert run(tmp_path / "data", *options) == 0
    shown = capsys.readouterr().err
    assert (
        "2 clips have the same frames as another, in 1 groups, such as evening-1 (train) and "
        "evening-2 (test); 1 of these" in shown
    )
    assert (
        "1 of the 2 texts of test are word for word in train too, such as 'Good morning.'" in shown
    )
    assert "2 source videos have clips in train as well as in test (such as evening)" in shown
    assert "signers" not in shown  # this data set allows shared signers: only the report lists them
    report = report_of(tmp_path / "data")
    assert report["same_frames"]["listed"] == [
        [{"split": "train", "id": "evening-1"}, {"split": "test", "id": "evening-2"}]
    ]
    assert report["same_text"]["listed"] == [{"text": "Good morning.", "clips": 2}]
    assert report["shared_signers"] == [
        {"splits": ["train", "test"], "count": 2, "allowed": True, "listed": ["ann", "bob"]}
    ]


def test_shared_signers_are_a_leak_if_the_protocol_says_so():
    splits = {
        "train": [IndexEntry("a", 3, 10.0, "x", signer="ann")],
        "test": [IndexEntry("b", 3, 10.0, "y", signer="ann")],
    }
    digests = {"train": ["1"], "test": ["2"]}
    assert (
        audit.notes(
            audit.audit(splits, digests, shared_videos_allowed=False, signer_independent=False)
        )
        == []
    )
    (note,) = audit.notes(
        audit.audit(splits, digests, shared_videos_allowed=False, signer_independent=True)
    )
    assert note.startswith("1 signers have clips in train as well as in test (such as ann)")


IDLE_WORKERS = """
import sys, time
from tfds_builders.clips import Clip, Encoding
from tfds_builders.encoding import ClipEncoder

if __name__ == "__main__":
    with ClipEncoder(Encoding(), 2) as encoder:
        clips = [Clip(id=str(i), text="", path=sys.argv[1]) for i in range(4)]
        print(len(list(encoder.encode(clips))), flush=True)
        time.sleep(60)
"""


def test_idle_workers_end_with_a_killed_parent(tmp_path):
    (tmp_path / "idle.py").write_text(IDLE_WORKERS)
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "idle.py"), str(DUMMY / "videos" / "morning-1.mp4")],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "4\n"
    children = descendants(process.pid)
    assert len(children) >= 2
    process.kill()
    process.wait()
    process.stdout.close()
    deadline = time.monotonic() + 120
    while any(map(is_running, children)):
        assert time.monotonic() < deadline, "a worker outlived its parent"
        time.sleep(0.05)


# A shell that starts the tests in the background makes all its children ignore SIGINT. This program
# restores the handler and becomes the command.
RESTORE_SIGINT = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_build_with_its_exit_code(tmp_path, number, code):
    rows = "".join(f"copy-{i},text {i}\n" for i in range(1500))
    options = write_source(tmp_path, rows)[:2]
    for i in range(1500):
        os.link(tmp_path / "videos" / "morning-1.mp4", tmp_path / "videos" / f"copy-{i}.mp4")

    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            RESTORE_SIGINT,
            *build_command(tmp_path / "data", [*options, "--workers=2"]),
        ],
        cwd=REPOSITORY,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 200  # seconds
    while not list((tmp_path / "data").glob(".building*/**/*.shard")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    _, errors = process.communicate(timeout=250)
    assert process.returncode == code, errors
    assert "Traceback" not in errors
    assert list((tmp_path / "data").iterdir()) == []
