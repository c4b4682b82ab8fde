"""Tests of finding the media files that a command line names, and of names for the outputs."""

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


def test_a_folder_is_searched_recursively_in_order_of_name(folder):
    assert names(media_files([str(folder)]), folder) == [
        "a.MOV",
        "b.mp4",
        "deep/d.gif",
        "deep/er/c.webm",
    ]


def test_macos_attribute_files_are_skipped_with_a_note(folder, capsys):
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


def test_a_folder_without_videos_stays_in_the_list(folder):
    assert media_files([str(folder / "empty"), str(folder / "deep")])[0] == folder / "empty"


def test_a_pattern_without_a_match_stays_in_the_list(folder):
    assert names(media_files([f"{folder}/*.mp4"]), folder) == ["b.mp4"]
    assert names(media_files([f"{folder}/**/*.webm"]), folder) == ["deep/er/c.webm"]
    assert media_files([f"{folder}/*.avi"]) == [folder / "*.avi"]


def test_an_existing_file_is_never_taken_for_a_pattern(folder):
    file = folder / "take[1].mp4"
    file.touch()
    assert media_files([str(file), str(folder / "notes.txt"), "missing.mp4"]) == [
        file,
        folder / "notes.txt",
        Path("missing.mp4"),
    ]


def test_unique_names_are_kept():
    assert output_names([Path("x/a.mp4"), Path("y/b.part1.mp4")]) == [Path("a"), Path("b.part1")]


folder_names = st.lists(st.sampled_from(["a", "b", "..", "a_1", "a_mp4", "."]), max_size=3)
clips = st.builds(
    lambda folders, stem, suffix: Path(*folders, stem + suffix),
    folder_names,
    st.sampled_from(["a", "a_1", "a_mp4", "b"]),
    st.sampled_from([".mp4", ".mov", ""]),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(clips, max_size=8))
def test_output_names_differ_and_stay_in_the_output_folder(clips):
    found = output_names(clips)
    assert len(set(found)) == len(clips)
    assert all(not name.is_absolute() and ".." not in name.parts and name.name for name in found)


def test_naming_ten_thousand_equal_names_is_fast():
    clips = [Path(f"day{number // 10}/clip{number % 10}.mp4") for number in range(10_000)] + [
        Path("other/clip.mp4")
    ] * 2000
    began = time.process_time()
    found = output_names(clips)
    assert time.process_time() - began < 4  # a quadratic algorithm takes more than a minute
    assert len(set(found)) == len(clips)
    assert [str(name) for name in found[:11]] == [
        *(f"day0/clip{number}" for number in range(10)),
        "day1/clip0",
    ]
    assert [str(name) for name in found[-2:]] == ["other/clip_mp4_1998", "other/clip_mp4_1999"]


def test_an_unreadable_subfolder_stays_in_the_list(folder, monkeypatch):
    scan = os.scandir

    def refuse(path):
        if str(path).endswith("deep"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert names(media_files([str(folder)]), folder) == ["a.MOV", "b.mp4", "deep"]
