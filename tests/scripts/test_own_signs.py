"""The benchmark of own signs: what is asked is no copy of what is taught."""

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
    one, other, live = (read_video(tmp_path / f"{name}.mp4") for name in (1, 2, "live"))
    assert one.frames.shape == other.frames.shape == (45, 120, 160, 3)
    assert np.abs(one.frames[0].astype(int) - other.frames[0]).mean() > 10
    assert 80 < len(live.frames) < 110
    assert np.abs(live.frames[0].astype(int) - other.frames[0]).mean() < 5  # the same room
    moved = np.abs(np.diff(live.frames.astype(int), axis=0)).mean(axis=(1, 2, 3))
    assert moved[:20].max() < moved.max() / 2 and moved[-40:].max() < moved.max() / 2


def test_the_third_take_of_each_letter_is_the_test_clip(own_signs, tmp_path):
    videos = tmp_path / "letters" / "videos"
    videos.mkdir(parents=True)
    for letter in "ABCDEFGHIK":
        for take in (1, 2, 3):
            (videos / f"Person2-{letter}-{take}.mp4").write_text(f"{letter}{take}")
    asked = own_signs.irish_takes(tmp_path / "letters", 2, tmp_path / "out")
    assert [take.text for take in asked] == list("abcdefghik")
    # The build follows no link out of its folder.
    for take in asked:
        assert not take.video.is_symlink() and take.video.read_text().endswith("3")
    assert not any(file.is_symlink() for file in (tmp_path / "out" / "takes").iterdir())
    with open(tmp_path / "out" / "takes" / "clips.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["split"] for row in rows if row["uid"].endswith("-3")} == {"test"}
    assert {row["split"] for row in rows if not row["uid"].endswith("-3")} == {"train"}
