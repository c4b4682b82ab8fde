"""Windows of videos: one for a clip, several for a recording; memory use does not grow."""

import dataclasses
import weakref

import numpy as np
import pytest

from signvit_jax.config.schema import DataConfig, InferenceConfig
from signvit_jax.inference import windowing
from signvit_jax.inference.windowing import (
    ClipError,
    VideoInput,
    clip_limit,
    frame_rate_warning,
    longest_clip,
    longest_window,
)

DATA = DataConfig(num_frames=2, image_size=4)
FPS = 10.0


def frames(count: int) -> np.ndarray:
    """Return frames whose color encodes their number."""
    numbers = np.arange(count)
    colors = np.stack(
        [numbers // 256 % 256, numbers % 256, np.zeros_like(numbers)], axis=-1
    ).astype(np.uint8)
    return np.broadcast_to(colors[:, None, None], (count, 4, 4, 3))


@pytest.mark.parametrize(("count", "is_clip"), [(1, True), (30, True), (31, False)])
def test_a_video_up_to_the_longest_clip_is_one_window(count, is_clip):
    video = VideoInput(
        np.ascontiguousarray(frames(count)),
        FPS,
        DATA,
        InferenceConfig(max_clip_seconds=3.0, window_seconds=2.0),
    ).peek()
    assert video.is_clip == is_clip
    assert video.seconds == pytest.approx(count / FPS)
    if is_clip:
        (window,) = video.windows
        assert (window.start, window.end) == (0.0, pytest.approx(count / FPS))


@pytest.mark.parametrize(
    ("data", "seconds"),
    [
        # As in configs/small.py.
        (DataConfig(sampling="rate", num_frames=48, frame_rate=8.33), 48 / 8.33),
        (DataConfig(sampling="segment", num_frames=32, frame_rate=5.0), 6.4),
        (DataConfig(sampling="even", num_frames=16), 6.0),
        (DataConfig(sampling="even", num_frames=250), 10.0),
    ],
)
def test_the_longest_clip_has_the_frame_rate_of_training(data, seconds):
    assert clip_limit(data) == pytest.approx(seconds) == longest_clip(data, InferenceConfig())
    assert longest_window(data, InferenceConfig()) == pytest.approx(seconds)
    assert longest_clip(data, InferenceConfig(max_clip_seconds=30.0)) == 30.0  # set by the user
    assert longest_window(data, InferenceConfig(max_clip_seconds=2.0)) == 2.0
    for clip_seconds in (seconds - 0.1, 3 * seconds):
        rate = 25.0
        images = np.zeros((round(clip_seconds * rate), 4, 4, 3), np.uint8)
        small = dataclasses.replace(data, image_size=4)
        one_window = InferenceConfig(max_clip_seconds=100.0)
        (window,) = VideoInput(images, rate, small, one_window).windows
        warning = frame_rate_warning(window, rate, data)
        assert (warning is not None) == (clip_seconds > seconds and data.sampling != "segment")


def test_a_video_of_a_low_frame_rate_gives_a_warning():
    data = DataConfig(sampling="rate", num_frames=48, frame_rate=8.33, image_size=4)
    (window,) = VideoInput(np.zeros((20, 4, 4, 3), np.uint8), 5.0, data, InferenceConfig()).windows
    assert "5.0 frames per second" in frame_rate_warning(window, 5.0, data)


def moving(count: int, *still: tuple[int, int]) -> np.ndarray:
    """Return frames in which a bar moves, and which have no bar in the ranges `still`."""
    images = np.full((count, 16, 16, 3), 60, np.uint8)
    for t in range(count):
        if not any(first <= t < end for first, end in still):
            top = 2 * t % 14
            images[t, top : top + 2, 4:12] = 250
    return images


def test_without_times_a_recording_is_split_where_nothing_moves():
    images = moving(400, (0, 50), (125, 170), (250, 400))
    data = dataclasses.replace(DATA, image_size=16)
    inference = InferenceConfig(max_clip_seconds=3.0, window_seconds=10.0)
    windows = list(VideoInput(images, 12.5, data, inference).windows)
    assert [(round(window.start), round(window.end)) for window in windows] == [(4, 10), (13, 20)]


def test_signing_longer_than_a_window_has_overlapping_windows():
    data = dataclasses.replace(DATA, image_size=16)
    inference = InferenceConfig(max_clip_seconds=3.0, window_seconds=2.0, window_overlap=0.25)
    windows = list(VideoInput(moving(300), 12.5, data, inference).windows)
    assert windows[0].start == pytest.approx(0.0, abs=0.1)
    assert windows[-1].end == pytest.approx(24.0, abs=0.1)
    assert np.diff([window.start for window in windows[:-1]]) == pytest.approx(1.5, abs=0.1)
    assert all(window.end - window.start <= 2.1 for window in windows)


def test_a_still_recording_has_no_window():
    data = dataclasses.replace(DATA, image_size=16)
    video = VideoInput(moving(300, (0, 300)), 12.5, data, InferenceConfig()).peek()
    assert not video.is_clip and list(video.windows) == [] and video.seconds == pytest.approx(24.0)


def test_a_new_shot_ends_a_window():
    images = moving(300)
    images[140:] = 255 - images[140:]
    data = dataclasses.replace(DATA, image_size=16)
    windows = list(VideoInput(images, 12.5, data, InferenceConfig(window_seconds=30.0)).windows)
    new_shot = 140 / 12.5  # seconds
    assert [window.start for window in windows] == pytest.approx([0.0, new_shot], abs=0.1)
    assert windows[0].end <= new_shot + 1e-6


def test_memory_holds_the_frames_of_a_few_windows(monkeypatch):
    references = []  # weak ones, to all frames that were read

    def fit_frames(images, size, fit):
        image = np.array(images[0])
        references.append(weakref.ref(image))
        return [image]

    def frames_in_memory() -> int:
        return sum(reference() is not None for reference in references)

    monkeypatch.setattr(windowing, "fit_frames", fit_frames)
    inference = InferenceConfig(max_clip_seconds=3.0, window_seconds=2.0)
    data = dataclasses.replace(DATA, image_size=16)
    peak = 0

    def detect_nothing(windows):
        nonlocal peak
        peak = max(peak, frames_in_memory())
        return [()] * len(windows)

    video = VideoInput(moving(3000), 12.5, data, inference, detect_signs=detect_nothing)
    assert list(video.windows) == []
    assert len(references) == 3000 and 20 <= peak <= 6 * 25
    for _ in VideoInput(moving(3000), 12.5, data, inference).windows:
        peak = max(peak, frames_in_memory())
    assert peak <= 6 * 25


def test_invalid_frames_are_refused_before_reading():
    with pytest.raises(ClipError, match=r"\(8, 4, 4\) and dtype uint8"):
        VideoInput(np.zeros((8, 4, 4), np.uint8), None, DATA, InferenceConfig())
