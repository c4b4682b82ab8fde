"""Tests of a folder of takes: complete or absent, never replaced, each with a row in the table."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest

from signvit_jax.media.takes import COLUMNS, TakeError, TakeFolder, TakeWriter
from tests.helpers.video_frames import read_video

HEADER = ",".join(COLUMNS) + "\n"


def gray_image(value: int, height: int = 24, width: int = 32) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def add_take(folder: TakeFolder, text: str, content: bytes = b"video", **values: str) -> Path:
    temporary = folder.temporary()
    temporary.write_bytes(content)
    return folder.add(text, temporary, values)


def rows(folder: TakeFolder) -> list[dict[str, str]]:
    with folder.table.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_takes_are_numbered_and_listed(tmp_path):
    folder = TakeFolder(tmp_path / "new" / "takes")
    names = [
        add_take(folder, text, signer="me").name for text in ("Thank you!", "thank you", "Bye, now")
    ]
    assert names == ["thank-you_01.mp4", "thank-you_02.mp4", "bye-now_01.mp4"]
    assert rows(folder)[2] == {
        **dict.fromkeys(COLUMNS, ""),
        "uid": "bye-now_01",
        "text": "Bye, now",
        "signer": "me",
    }
    assert folder.counts() == (3, 3)
    assert sorted(os.listdir(folder.folder)) == sorted([*names, "clips.csv"])


def test_a_take_never_replaces_a_file_or_the_take_of_a_row(tmp_path):
    (tmp_path / "yes_02.MOV").write_bytes(b"mine")
    (tmp_path / "clips.csv").write_text("uid,text\nyes_07.webm,yes\n")
    folder = TakeFolder(tmp_path)
    assert add_take(folder, "yes").name == "yes_08.mp4"
    assert (tmp_path / "yes_02.MOV").read_bytes() == b"mine"
    (tmp_path / "yes_09.mp4").symlink_to("nowhere")
    assert add_take(folder, "yes").name == "yes_10.mp4"


def test_takes_are_saved_where_hard_links_are_impossible(tmp_path, monkeypatch):
    def no_links(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    folder = TakeFolder(tmp_path)
    first, second = add_take(folder, "yes", b"1"), add_take(folder, "yes", b"2")
    assert (first.read_bytes(), second.read_bytes()) == (b"1", b"2")
    assert len(os.listdir(tmp_path)) == 3


@pytest.mark.parametrize("text", ["谢谢", "привет, мир", "<rest>", "???", "a/../b", "x" * 300])
def test_any_text_names_a_file(tmp_path, text):
    folder = TakeFolder(tmp_path)
    path = add_take(folder, text)
    assert path.parent == tmp_path and path.exists() and len(path.name) < 60
    assert rows(folder)[0]["text"] == text


@pytest.mark.parametrize(
    ("table", "row"),
    [
        (b"uid,text\na,b", b"\nhi_01,hi\n"),
        (b"\xef\xbb\xbfuid;text;note\r\na;b;c\r\n", b"hi_01;hi;\r\n"),
        (b"Signer\tText\tUID\nme\tb\ta\n", b"me\thi\thi_01\n"),
    ],
)
def test_a_row_is_written_in_the_format_of_its_table(tmp_path, table, row):
    (tmp_path / "clips.csv").write_bytes(table)
    add_take(TakeFolder(tmp_path), "hi", signer="me", split="train")
    assert (tmp_path / "clips.csv").read_bytes() == table + row


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"name,sentence\na,b\n", "does not name the columns uid and text"),
        (b"", "does not name the columns"),
        ("uid,text\na,h\u00e9\n".encode("latin-1"), "not in UTF-8"),
        (b"uid,text\n", "has no column 'signer'"),
    ],
)
def test_a_table_that_cannot_list_takes_is_refused(tmp_path, content, message):
    (tmp_path / "clips.csv").write_bytes(content)
    with pytest.raises(TakeError, match=message):
        TakeFolder(tmp_path, ("signer",))
    assert (tmp_path / "clips.csv").read_bytes() == content


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "f").write_text("")
    with pytest.raises(TakeError, match="is a file"):
        TakeFolder(tmp_path / "f")


def test_images_at_irregular_times_become_a_video_of_constant_rate(tmp_path):
    writer = TakeWriter(tmp_path / "a.mp4", 10.0)
    for value, seconds in ((40, 0.0), (120, 0.21), (121, 0.22), (200, 0.5)):
        writer.add(gray_image(value), seconds)
    writer.finish(1.0)
    found = read_video(tmp_path / "a.mp4")
    levels = [10 * round(frame.mean() / 10) for frame in found.frames]
    assert found.fps == 10.0 and levels == [40, 40, 120, 120, 120, 200, 200, 200, 200, 200]
    assert writer.num_images == 4


def test_images_of_odd_size_are_stored(tmp_path):
    writer = TakeWriter(tmp_path / "a.mp4", 12.5)
    writer.add(gray_image(90, 25, 33), 0.0)
    writer.finish(0.4)
    assert read_video(tmp_path / "a.mp4").frames.shape == (5, 24, 32, 3)
