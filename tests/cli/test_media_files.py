import os
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from signvit_jax.cli.media_files import media_files, output_names


@pytest.fixture
def folder(tmp_path):
    for name in (
        "b.mp4",
        "a.MOV",
        "notes.txt",
        "deep/er/c.webm",
        "deep/d.gif",
        ".mp4/readme",
        "empty/x.csv",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


def names(found, folder):
    return [path.relative_to(folder).as_posix() for path in found]


def test_a_folder_gives_the_videos_in_it_however_deep_in_order_of_name(folder):
    assert names(media_files([str(folder)]), folder) == [
        "a.MOV",
        "b.mp4",
        "deep/d.gif",
        "deep/er/c.webm",
    ]


def test_what_a_mac_keeps_beside_videos_is_left_out_and_said(folder, capsys):
    for name in ("._b.mp4", "deep/._d.gif", "._notes.txt", "._x/e.m4v", "f.3gp"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    assert names(media_files([str(folder)]), folder) == [
        "._x/e.m4v",
        "a.MOV",
        "b.mp4",
        "deep/d.gif",
        "deep/er/c.webm",
        "f.3gp",
    ]
    assert "note: skipped 2 files named ._*" in capsys.readouterr().err
    assert names(media_files([f"{folder}/deep/*.gif"]), folder) == ["deep/d.gif"]
    assert capsys.readouterr().err == ""
    assert media_files([f"{folder}/._b.mp4"]) == [folder / "._b.mp4"]


def test_a_folder_without_videos_stays_to_be_reported(folder):
    assert media_files([str(folder / "empty"), str(folder / "deep")])[0] == folder / "empty"


def test_patterns_match_files_and_those_that_match_nothing_stay_to_be_reported(folder):
    assert names(media_files([f"{folder}/*.mp4"]), folder) == ["b.mp4"]
    assert names(media_files([f"{folder}/**/*.webm"]), folder) == ["deep/er/c.webm"]
    assert media_files([f"{folder}/*.avi"]) == [folder / "*.avi"]


def test_a_file_is_taken_as_it_is_and_one_whose_name_looks_like_a_pattern_too(folder):
    odd = folder / "take[1].mp4"
    odd.touch()
    assert media_files([str(odd), str(folder / "notes.txt"), "missing.mp4"]) == [
        odd,
        folder / "notes.txt",
        Path("missing.mp4"),
    ]


def test_names_that_occur_once_are_the_files_own():
    assert output_names([Path("x/a.mp4"), Path("y/b.part1.mp4")]) == [Path("a"), Path("b.part1")]


parts = st.lists(st.sampled_from(["a", "b", "..", "a_1", "a_mp4", "."]), max_size=3)
clips = st.builds(
    lambda folders, stem, suffix: Path(*folders, stem + suffix),
    parts,
    st.sampled_from(["a", "a_1", "a_mp4", "b"]),
    st.sampled_from([".mp4", ".mov", ""]),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(clips, max_size=8))
def test_no_two_clips_share_a_name_and_none_leaves_the_output_folder(clips):
    found = output_names(clips)
    assert len(set(found)) == len(clips)
    assert all(not name.is_absolute() and ".." not in name.parts and name.name for name in found)


def test_the_same_names_ten_thousand_times_take_a_second_or_so():
    clips = [Path(f"day{number // 10}/clip{number % 10}.mp4") for number in range(10_000)] + [
        Path("other/clip.mp4")
    ] * 2000
    began = time.process_time()
    found = output_names(clips)
    assert time.process_time() - began < 4  # what is quadratic takes a minute and more
    assert len(set(found)) == len(clips)
    assert [str(name) for name in found[:11]] == [
        *(f"day0/clip{number}" for number in range(10)),
        "day1/clip0",
    ]
    assert [str(name) for name in found[-2:]] == ["other/clip_mp4_1998", "other/clip_mp4_1999"]


def test_a_folder_within_that_may_not_be_read_stays_to_be_reported(folder, monkeypatch):
    scan = os.scandir

    def refused(path):
        if str(path).endswith("deep"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refused)
    assert names(media_files([str(folder)]), folder) == ["a.MOV", "b.mp4", "deep"]
