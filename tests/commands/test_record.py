"""Tests of `signvit record`, which saves takes of a camera to a folder with a table.

Known images and a clock that they advance replace the camera; one test plays a real file.
"""

import csv
import os
import types

import numpy as np
import pytest

from signvit_jax.commands import record
from signvit_jax.runtime.exit_codes import run_command
from tests.helpers.clip_makers import encode
from tests.helpers.video_frames import read_video


def moving_square(count: int) -> list[np.ndarray]:
    """Return images of a bright square that moves."""
    images = np.full((count, 48, 64, 3), 30, np.uint8)
    for number, image in enumerate(images):
        image[10:30, number % 40 : number % 40 + 20] = 220
    return list(images)


@pytest.fixture
def camera(monkeypatch):
    """A function that sets the images of the camera and its rate in images per second."""
    now = 0.0

    def use(images, rate=25.0):
        def open_live(source):
            def frames(stop):
                nonlocal now
                for image in images:
                    now += 1 / rate
                    yield image

            return frames

        monkeypatch.setattr("signvit_jax.inference.frame_sources.open_live", open_live)

    monkeypatch.setattr(record, "time", types.SimpleNamespace(monotonic=lambda: now))
    use(moving_square(250))
    return use


def run(output, *flags: str) -> int:
    arguments = [f"--output={output}", "--seconds=0.2", "--countdown=0"]
    return run_command(lambda: record.main([*arguments, *flags]))


def rows(output) -> list[dict[str, str]]:
    with open(output / "clips.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_takes_of_each_text_are_recorded(camera, tmp_path, capsys):
    output = tmp_path / "my signs"
    assert run(output, "--text=thank  you", "--text=yes", "--takes=2", "--signer=me") == 0
    names = ["thank-you_01", "thank-you_02", "yes_01", "yes_02"]
    assert [row["uid"] for row in rows(output)] == names
    assert rows(output)[0]["text"] == "thank you" and rows(output)[0]["signer"] == "me"
    video = read_video(output / "yes_02.mp4")
    assert video.frames.shape == (5, 48, 64, 3) and video.fps == 25.0
    shown = capsys.readouterr()
    assert "take 2 of 2, 'yes': done, yes_02.mp4" in shown.err and "warning" not in shown.err
    assert "4 takes recorded" in shown.out and "4 takes of 2 texts" in shown.out
    assert f"signvit check '{output}'" in shown.out


def test_a_second_recording_adds_takes(camera, tmp_path, capsys):
    for _ in range(2):
        assert run(tmp_path / "out", "--text=yes", "--takes=1") == 0
    assert [row["uid"] for row in rows(tmp_path / "out")] == ["yes_01", "yes_02"]
    assert "1 take recorded" in (shown := capsys.readouterr().out) and "2 takes of 1 text" in shown


def test_eight_of_ten_takes_are_for_training(camera, tmp_path):
    output = tmp_path / "out"
    assert run(output, "--text=yes", "--takes=11", "--seconds=0.08") == 0
    splits = [row["split"] for row in rows(output)]
    assert splits == ["train"] * 4 + ["validation"] + ["train"] * 4 + ["test", "train"]
    assert run(output, "--text=yes", "--takes=1", "--split=test") == 0
    assert rows(output)[-1]["split"] == "test"


def test_a_take_begins_after_the_countdown(camera, tmp_path, capsys):
    output = tmp_path / "out"
    assert run(output, "--text=yes", "--takes=1", "--countdown=1") == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == ["take 1 of 1, 'yes' in 1", "take 1 of 1, 'yes': sign now"]
    first = read_video(output / "yes_01.mp4").frames[0]
    assert int(first[20].mean(axis=1).argmax()) > 15  # the square has moved for a second


def test_finished_takes_stay_if_the_source_ends(camera, tmp_path, capsys):
    camera(moving_square(9))
    assert run(tmp_path / "out", "--text=yes", "--takes=3") == 2
    assert [row["uid"] for row in rows(tmp_path / "out")] == ["yes_01"]
    assert sorted(os.listdir(tmp_path / "out")) == ["clips.csv", "yes_01.mp4"]
    shown = capsys.readouterr()
    assert "1 take recorded" in shown.out and "0 ended before all takes were recorded" in shown.err


def test_finished_takes_stay_after_ctrl_c(camera, tmp_path, capsys, monkeypatch):
    def say(line):
        if "take 2" in line and "now" in line:
            raise KeyboardInterrupt

    monkeypatch.setattr(record, "_say", say)
    assert run(tmp_path / "out", "--text=yes") == 130
    assert sorted(os.listdir(tmp_path / "out")) == ["clips.csv", "yes_01.mp4"]
    assert "1 take recorded" in capsys.readouterr().out


def test_an_interrupted_take_leaves_nothing(camera, tmp_path, capsys, monkeypatch):
    def interrupt(self, seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr("signvit_jax.media.takes.TakeWriter.finish", interrupt)
    assert run(tmp_path / "out", "--text=yes") == 130
    assert os.listdir(tmp_path / "out") == []
    assert "no take was recorded" in capsys.readouterr().out


def test_a_take_without_motion_or_images_is_reported(camera, tmp_path, capsys):
    camera([np.zeros((48, 64, 3), np.uint8)] * 20, rate=5)
    assert run(tmp_path / "out", "--text=yes", "--takes=1", "--seconds=1") == 0
    errors = capsys.readouterr().err
    assert "only 5.0 images a second" in errors and "nothing moves in it" in errors


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--text= "], "--text is empty"),
        (["--text=a", "--text=b", "--gloss=A"], "record them one by one"),
        (["--text=a", "--seconds=9999"], "at most 600"),
        (["--text=a", "--rate=1000"], "at most 120"),
        (["--text=a", "--takes=0"], "an integer >= 1"),
        (["--text=a", "--camera=http://host/stream"], "is an address"),
    ],
)
def test_invalid_flags_are_refused(camera, tmp_path, capsys, flags, message):
    assert run(tmp_path / "out", *flags) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_missing_camera_is_refused(tmp_path, capsys):
    assert run(tmp_path / "out", "--text=a", "--camera=/dev/none") == 2
    assert "camera /dev/none cannot be opened" in capsys.readouterr().err
    assert run(tmp_path / "out", "--text=a", f"--camera={tmp_path / 'none.mp4'}") != 0
    assert "none.mp4" in capsys.readouterr().err and os.listdir(tmp_path / "out") == []


def test_takes_of_a_played_file_can_be_built(tmp_path, capsys):
    from tfds_builders.check import main as check

    played_file = encode(tmp_path / "camera.mp4", moving_square(250), fps=25)
    flags = ["--text=yes", "--text=<rest>", "--takes=1", f"--camera={played_file}"]
    assert run(tmp_path / "out", *flags) == 0
    assert read_video(tmp_path / "out" / "yes_01.mp4").frames.shape == (5, 48, 64, 3)
    capsys.readouterr()
    assert check([str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    assert "2 of 2 clips can be built" in shown and "in 1 clips nobody signs" in shown
