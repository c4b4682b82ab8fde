"""Tests of `signvit check`, which predicts from headers what a build would make of a folder."""

import json
import shlex
import shutil
from pathlib import Path

import pytest

from signvit_jax.commands import dispatch
from tests.helpers.clip_makers import encode, shades
from tests.helpers.eaf import Eaf
from tests.helpers.tiny_run import command
from tfds_builders import build, check, clips

DUMMY = Path(build.__file__).parent
ROWS = "a,one two\nb,two three four\n"


def write_folder(
    root: Path, rows: str = ROWS, header: str = "uid,text", subfolder: str = ""
) -> Path:
    """Write the videos a.mp4 (1.5 s) and b.mp4 (2 s) and their table to a folder; return it."""
    (root / "own" / subfolder).mkdir(parents=True)
    encode(root / "own" / subfolder / "a.mp4", shades(15), fps=10)
    encode(root / "own" / subfolder / "b.mp4", shades(20), fps=10)
    (root / "own" / "clips.csv").write_text(f"{header}\n{rows}", encoding="utf-8")
    return root / "own"


def run_check(capsys, *arguments: object, code: int = 0) -> str:
    """Run the command, check its exit code, and return what it prints."""
    assert dispatch.main(["check", *map(str, arguments)]) == code
    return capsys.readouterr().out


def row_of(page: str, split: str) -> list[str]:
    """Return the cells of a split's row in the printed table."""
    (line,) = [line for line in page.splitlines() if line.startswith(f"  {split} ")]
    return line.split()[1:]


def printed_command(page: str) -> list[str]:
    """Return the arguments of the build command at the end of the output."""
    _, _, command = page.partition("Build it with:\n  signvit ")
    return shlex.split(command)


def test_a_folder_is_checked_and_the_printed_command_builds_it(tmp_path, capsys, monkeypatch):
    folder = write_folder(tmp_path)
    page = run_check(capsys, folder, "--val_fraction=0", "--test_fraction=0")
    assert page.startswith("video_folder: 2 of 2 clips can be built\n")
    assert row_of(page, "train") == ["2", "0.0010", "5", "4", "0", "0", "2"]
    assert "Only headers were read." in page and "cannot be built" not in page
    monkeypatch.chdir(tmp_path)
    assert dispatch.main([*printed_command(page), "--workers=1"]) == 0
    report = json.loads((tmp_path / "data/video_folder/1.0.0/build_report.json").read_text())
    assert report["splits"]["train"]["clips"] == 2


def test_no_frame_is_decoded_without_the_flag(tmp_path, capsys, monkeypatch):
    folder = write_folder(tmp_path)

    def fail(*_: object) -> None:
        raise AssertionError("a clip was decoded")

    monkeypatch.setattr("tfds_builders.encoding.encode_clip", fail)
    run_check(capsys, folder)
    with pytest.raises(AssertionError, match="a clip was decoded"):
        check.main([str(folder), "--decode", "--workers=1"])


def test_the_problems_are_those_that_the_build_reports(tmp_path, capsys):
    rows = (
        "a,one two,,,\nb,,,,\nc,gone,,,\nd,no video,,,\nb-1,late,b,1.9,9\nb-2,after,b,7,8\n"
        "b-3,part,b,0.5,1.5\nb-4,order,b,2,1\na,again,,,\nb-5,time,b,x,2\n"
    )
    folder = write_folder(tmp_path, rows, "uid,text,video_id,start,end")
    (folder / "d.mp4").write_bytes(b"not a video")
    options = [f"--csv={folder / 'clips.csv'}", f"--videos={folder}"]
    split_options = ["--val_fraction=0", "--test_fraction=0"]
    page = run_check(capsys, "video_folder", *options, *split_options, code=3)
    assert "2 of 10 clips can be built" in page and "\n8 clips cannot be built:" in page
    data = f"--data_dir={tmp_path / 'data'}"
    assert command(build.main, "video_folder", data, "--workers=1", *options, *split_options) == 3
    report = json.loads((tmp_path / "data/video_folder/1.0.0/build_report.json").read_text())
    assert len(report["failed"]) == 8
    for failed in report["failed"]:
        assert str(clips.Problem(**failed)) in page
    assert row_of(page, "train")[:3] == ["2", "0.0007", "3"]
    assert len(printed_command(page)) == 7


def test_many_problems_of_one_kind_are_summarized(tmp_path, capsys):
    missing = "".join(f"gone{number},text {number}\n" for number in range(300))
    page = run_check(capsys, write_folder(tmp_path, f"{ROWS}{missing}c,\n"), code=3)
    assert "2 of 303 clips can be built" in page
    assert "and 295 more of this kind" in page and "c: no text" in page
    assert len(page.splitlines()) < 30


def test_damaged_frames_are_found_by_decoding(tmp_path, capsys):
    folder = write_folder(tmp_path)
    content = bytearray((folder / "b.mp4").read_bytes())
    start = content.index(b"mdat") + 200
    end = content.index(b"moov") - 100
    content[start:end] = b"\xff" * (end - start)
    (folder / "b.mp4").write_bytes(content)
    assert "2 of 2 clips" in run_check(capsys, folder)
    page = run_check(capsys, folder, "--decode", "--workers=1", code=3)
    assert "1 of 2 clips can be built" in page and "\n  b: " in page
    assert "Their frames take 0.0 MB." in page and "Only headers" not in page


@pytest.mark.parametrize("kind", ["eaf", "subtitles"])
def test_annotations_in_a_folder_are_found(tmp_path, capsys, kind):
    folder = write_folder(tmp_path)
    (folder / "clips.csv").unlink()
    if kind == "eaf":
        file = Eaf("a.mp4")
        file.tier("Translation", [(0, 700, "one"), (700, 1400, "two words"), (1400, 1450, "")])
        (folder / "a.eaf").write_text(str(file))
    else:
        (folder / "a.de.vtt").write_text(
            "WEBVTT\n\n00:00.000 --> 00:00.700\none\n\n00:00.700 --> 00:01.400\ntwo words\n\n"
            "00:01.400 --> 00:01.450\n\n"
        )
    page = run_check(capsys, folder)
    assert row_of(page, "train") == ["2", "0.0004", "3", "3", "0", "0", "1"]
    assert "1 annotations without text are left out" in page
    assert "1 videos in " in page and "have no annotation, such as b.mp4" in page
    assert f"--{kind}={folder}" in printed_command(page)


def test_videos_in_a_folder_beside_the_table_are_found(tmp_path, capsys):
    folder = write_folder(tmp_path, subfolder="videos")
    assert f"--videos={folder / 'videos'}" in printed_command(run_check(capsys, folder))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "there is no such file in it; say with --csv=FILE (a table), --eaf=PATH"),
        (["a.csv", "b.tsv"], "there is a.csv and b.tsv in it"),
        (["a.csv", "x.eaf", "y.eaf"], "there is a.csv and 2 eaf files in it"),
    ],
)
def test_a_folder_without_clear_annotations_is_wrong_usage(tmp_path, capsys, names, message):
    for name in ("a.mp4", *names):
        (tmp_path / name).write_bytes(b"x")
    assert command(check.main, tmp_path) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["video_foldr"], "neither a folder nor a data set; there are csl_daily, "),
        (["video_foldr"], "did you mean 'video_folder'?"),
        (["video_folder"], "given: none; give one of --csv, --eaf, --subtitles"),
        (["video_folder", "--csv=a.csv"], "--videos is missing"),
        (["video_folder", "--cvs=a"], "unknown argument --cvs; did you mean --csv?"),
        (["video_folder", "--csv=none.csv", "--videos=."], "none.csv: cannot be read"),
    ],
)
def test_wrong_usage_exits_with_2_and_lists_allowed_values(capsys, arguments, message):
    assert command(check.main, *arguments) == 2
    assert message in capsys.readouterr().err


def test_a_folder_without_buildable_clips_exits_with_4(tmp_path, capsys):
    page = run_check(capsys, write_folder(tmp_path, "x,one\ny,two\n"), code=4)
    assert "0 of 2 clips can be built" in page and "Build it with" not in page


def test_leaks_and_repeated_frames_are_reported(tmp_path, capsys):
    folder = write_folder(tmp_path, "a,one,train\nb,one,test\nc,two,test\n", "uid,text,split")
    shutil.copy(folder / "a.mp4", folder / "c.mp4")
    page = run_check(capsys, folder)
    assert "1 of the 2 texts of test are word for word in train too, such as 'one'" in page
    assert row_of(page, "all")[0] == "3"
    page = run_check(capsys, folder, "--decode", "--workers=1")
    assert "2 clips have the same frames as another" in page


@pytest.mark.parametrize(
    ("name", "options", "count"),
    [
        ("phoenix14t", ["--root={}"], 4),
        ("include", ["--root={}", "--tables={}"], 3),
        ("synthetic_signs", ["--num_train=3", "--num_validation=1", "--num_test=1"], 5),
    ],
)
def test_other_data_sets_are_checked_too(capsys, name, options, count):
    filled_options = [option.format(DUMMY / name / "dummy_data") for option in options]
    page = run_check(capsys, name, *filled_options)
    assert f"{name}: {count} of {count} clips can be built" in page
    assert ("is not known without reading them" in page) == (name == "synthetic_signs")


def test_help_lists_the_options_of_a_data_set(capsys):
    with pytest.raises(SystemExit) as stopped:
        check.main(["video_folder", "--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    assert "--text_tier" in shown and "--decode" in shown and "signvit build video_folder" in shown
