"""Tests of the schema, the index of a data set, and the stable splits."""

import hashlib
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signvit_jax.data.schema import (
    IndexEntry,
    SchemaError,
    index_digest_path,
    read_index,
    source_video_of,
    split_of,
    stable_fraction,
    write_index,
)


def test_an_index_is_read_as_it_was_written_for_any_text(tmp_path):
    entries = [
        IndexEntry("a-1", 3, 25.0, 'two\nlines, "quotes", \u2028 and \x85', "GLOSS A", "anna", "a"),
        IndexEntry("वीडियो-2", 0, 12.5, "", video_id="वीडियो"),
    ]
    path = write_index(tmp_path, "train", entries)
    assert path.name == "train.index.jsonl"
    assert read_index(tmp_path, "train") == entries
    assert sorted(p.name for p in tmp_path.iterdir()) == [path.name, "train.index.sha256"]


@pytest.mark.parametrize(
    "line",
    ["{", "[]", '{"id": "a"}', '{"id": "a", "num_frames": 1, "fps": 1.0, "text": "", "color": 2}'],
)
def test_the_error_of_a_damaged_index_names_file_and_line(tmp_path, line):
    path = write_index(tmp_path, "test", [IndexEntry("a", 1, 1.0, "")])
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(SchemaError, match=r"test\.index\.jsonl does not match test\.index\.sha256"):
        read_index(tmp_path, "test")
    index_digest_path(tmp_path, "test").unlink()  # as in earlier releases
    with pytest.raises(SchemaError, match=r"test\.index\.jsonl, line 2"):
        read_index(tmp_path, "test")


def test_a_failure_while_writing_leaves_the_old_index(tmp_path):
    old = [IndexEntry("a", 1, 1.0, "")]
    write_index(tmp_path, "train", old)

    def fail_midway():
        yield old[0]
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError):
        write_index(tmp_path, "train", fail_midway())
    assert read_index(tmp_path, "train") == old
    assert len(list(tmp_path.iterdir())) == 2


def test_the_fraction_is_the_leading_bits_of_sha256():
    for video in ("a", "1782bea75c7d", "हिन्दी"):
        expected = int(hashlib.sha256(video.encode()).hexdigest()[:13], 16) / 16**13
        assert stable_fraction(video) == expected


def test_the_fraction_is_the_same_in_every_process():
    code = (
        "from signvit_jax.data.schema import stable_fraction; print(repr(stable_fraction('abc')))"
    )
    outputs = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in "12"
    ]
    assert outputs == [repr(stable_fraction("abc")) + "\n"] * 2


def test_splits_have_about_their_fractions():
    splits = [split_of(f"video{i}", 0.1, 0.2) for i in range(5000)]
    assert 0.08 < splits.count("validation") / 5000 < 0.12
    assert 0.18 < splits.count("test") / 5000 < 0.22
    assert {split_of(f"video{i}", 0.0, 0.0) for i in range(200)} == {"train"}


@given(st.text(st.characters(codec="utf-8")))
def test_every_name_has_a_fraction_below_one(video):
    assert 0.0 <= stable_fraction(video) < 1.0


@pytest.mark.parametrize(
    ("clip", "video"),
    [
        ("1782bea75c7d-43", "1782bea75c7d"),
        ("-a_b-c-7", "-a_b-c"),
        ("good-morning", "good-morning"),
        ("morning", "morning"),
        ("-3", "-3"),
        ("a/b-1", "a/b"),
    ],
)
def test_the_source_video_ends_at_the_last_dash_and_number(clip, video):
    assert source_video_of(clip) == video
