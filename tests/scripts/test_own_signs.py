"""Tests of the benchmark of own signs: its test clips are no copies of its training clips."""

import csv
import sys

import numpy as np
import pytest

from tests.helpers.scripts import SCRIPTS, load_script
from tests.helpers.video_frames import read_video


@pytest.fixture
def own_signs(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS / "bench")
    yield load_script("bench/own_signs")
    for name in ("drawn_language", "own_signs"):
        sys.modules.pop(name, None)


def test_takes_differ_in_all_but_the_sign(own_signs, tmp_path):
    person = own_signs.language.Signer(np.random.default_rng(0))
    for take in (1, 2):
        own_signs.draw_take(tmp_path / f"{take}.mp4", 0, person, "BOOK", take, None)
    own_signs.draw_take(tmp_path / "live.mp4", 0, person, "BOOK", 2, own_signs.LIVE_RESTS)
    first, second, live = (read_video(tmp_path / f"{name}.mp4") for name in (1, 2, "live"))
    assert first.frames.shape == second.frames.shape == (45, 120, 160, 3)
    assert np.abs(first.frames[0].astype(int) - second.frames[0]).mean() > 10
    assert 80 < len(live.frames) < 110
    assert np.abs(live.frames[0].astype(int) - second.frames[0]).mean() < 5  # the same room
    motion = np.abs(np.diff(live.frames.astype(int), axis=0)).mean(axis=(1, 2, 3))
    assert motion[:20].max() < motion.max() / 2 and motion[-40:].max() < motion.max() / 2


def test_the_third_take_of_each_letter_is_the_test_clip(own_signs, tmp_path):
    videos = tmp_path / "letters" / "videos"
    videos.mkdir(parents=True)
    for letter in "ABCDEFGHIK":
        for take in (1, 2, 3):
            (videos / f"Person2-{letter}-{take}.mp4").write_text(f"{letter}{take}")
    test_takes = own_signs.irish_takes(tmp_path / "letters", 2, tmp_path / "out")
    assert [take.text for take in test_takes] == list("abcdefghik")
    # A build refuses links that leave its folder, so the files are copies.
    for take in test_takes:
        assert not take.video.is_symlink() and take.video.read_text().endswith("3")
    assert not any(file.is_symlink() for file in (tmp_path / "out" / "takes").iterdir())
    with open(tmp_path / "out" / "takes" / "clips.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["split"] for row in rows if row["uid"].endswith("-3")} == {"test"}
    assert {row["split"] for row in rows if not row["uid"].endswith("-3")} == {"train"}
