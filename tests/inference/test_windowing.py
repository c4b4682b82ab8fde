"""How videos are cut into what a model reads: clips whole, recordings in windows, in memory that does not grow."""

import dataclasses
import weakref

import numpy as np
import pytest

from signvit_jax.config.schema import DataConfig, InferenceConfig
from signvit_jax.inference import windowing
from signvit_jax.inference.windowing import (
    ClipError,
    clip_limit,
    longest_clip,
    longest_window,
    open_video_input,
    thinner_than_trained,
)

DATA = DataConfig(num_frames=2, image_size=4)
FPS = 10.0


def frames(count: int) -> np.ndarray:
    """The frame's number is in its color."""
    numbers = np.arange(count)
    colors = np.stack(
        [numbers // 256 % 256, numbers % 256, np.zeros_like(numbers)], axis=-1
    ).astype(np.uint8)
    return np.broadcast_to(colors[:, None, None], (count, 4, 4, 3))


@pytest.mark.parametrize(("count", "is_clip"), [(1, True), (30, True), (31, False)])
def test_a_video_up_to_the_longest_clip_is_one_span(count, is_clip):
    footage = open_video_input(
        np.ascontiguousarray(frames(count)),
        FPS,
        DATA,
        InferenceConfig(max_clip_seconds=3.0, window_seconds=2.0),
    ).begin()
    assert footage.is_clip == is_clip
    assert footage.seconds == pytest.approx(count / FPS)
    if is_clip:
        (span,) = footage.spans
        assert (span.start, span.end) == (0.0, pytest.approx(count / FPS))


@pytest.mark.parametrize(
    ("data", "seconds"),
    [
        (
            DataConfig(sampling="rate", num_frames=48, frame_rate=8.33),
            48 / 8.33,
        ),  # configs/small.py
        (DataConfig(sampling="segment", num_frames=32, frame_rate=5.0), 6.4),
        (DataConfig(sampling="even", num_frames=16), 6.0),
        (DataConfig(sampling="even", num_frames=250), 10.0),
    ],
)
def test_a_clip_may_be_as_long_as_the_model_sees_as_densely_as_in_training(data, seconds):
    assert clip_limit(data) == pytest.approx(seconds) == longest_clip(data, InferenceConfig())
    assert longest_window(data, InferenceConfig()) == pytest.approx(seconds)
    assert longest_clip(data, InferenceConfig(max_clip_seconds=30.0)) == 30.0  # the user's word
    assert longest_window(data, InferenceConfig(max_clip_seconds=2.0)) == 2.0
    for longest in (seconds - 0.1, 3 * seconds):
        rate = 25.0
        pictures = np.zeros((round(longest * rate), 4, 4, 3), np.uint8)
        (span,) = open_video_input(
            pictures,
            rate,
            dataclasses.replace(data, image_size=4),
            InferenceConfig(max_clip_seconds=100.0),
        ).spans
        warning = thinner_than_trained(span, rate, data)
        assert (warning is not None) == (longest > seconds and data.sampling != "segment")


def test_a_video_of_fewer_frames_a_second_than_training_saw_says_so():
    data = DataConfig(sampling="rate", num_frames=48, frame_rate=8.33, image_size=4)
    (span,) = open_video_input(
        np.zeros((20, 4, 4, 3), np.uint8), 5.0, data, InferenceConfig()
    ).spans
    assert "5.0 frames a second" in thinner_than_trained(span, 5.0, data)


def moving(count: int, *still: tuple[int, int]) -> np.ndarray:
    """Something moves in all frames but those from and to."""
    pictures = np.full((count, 16, 16, 3), 60, np.uint8)
    for t in range(count):
        if not any(first <= t < last for first, last in still):
            place = 2 * t % 14
            pictures[t, place : place + 2, 4:12] = 250
    return pictures


def test_without_times_a_recording_is_cut_where_nothing_moves():
    pictures = moving(400, (0, 50), (125, 170), (250, 400))
    data = dataclasses.replace(DATA, image_size=16)
    spans = list(
        open_video_input(
            pictures, 12.5, data, InferenceConfig(max_clip_seconds=3.0, window_seconds=10.0)
        ).spans
    )
    assert [(round(span.start), round(span.end)) for span in spans] == [(4, 10), (13, 20)]


def test_signing_longer_than_a_window_is_read_in_windows_that_overlap():
    data = dataclasses.replace(DATA, image_size=16)
    inference = InferenceConfig(max_clip_seconds=3.0, window_seconds=2.0, window_overlap=0.25)
    spans = list(open_video_input(moving(300), 12.5, data, inference).spans)
    assert spans[0].start == pytest.approx(0.0, abs=0.1) and spans[-1].end == pytest.approx(
        24.0, abs=0.1
    )
    assert np.diff([span.start for span in spans[:-1]]) == pytest.approx(1.5, abs=0.1)
    assert all(span.end - span.start <= 2.1 for span in spans)


def test_a_still_recording_gives_no_span():
    data = dataclasses.replace(DATA, image_size=16)
    footage = open_video_input(moving(300, (0, 300)), 12.5, data, InferenceConfig()).begin()
    assert (
        not footage.is_clip and list(footage.spans) == [] and footage.seconds == pytest.approx(24.0)
    )


def test_another_shot_ends_a_piece():
    pictures = moving(300)
    pictures[140:] = 255 - pictures[140:]
    spans = list(
        open_video_input(
            pictures,
            12.5,
            dataclasses.replace(DATA, image_size=16),
            InferenceConfig(window_seconds=30.0),
        ).spans
    )
    assert [round(span.start, 2) for span in spans] == pytest.approx([0.0, 140 / 12.5], abs=0.1)
    assert spans[0].end <= 140 / 12.5 + 1e-6


def test_no_more_frames_are_held_than_a_few_windows_have(monkeypatch):
    alive = []

    def fit(pictures, size, fit):
        picture = np.array(pictures[0])
        alive.append(weakref.ref(picture))
        return [picture]

    monkeypatch.setattr(windowing, "fit_frames", fit)
    inference = InferenceConfig(max_clip_seconds=3.0, window_seconds=2.0)
    most = 0
    data = dataclasses.replace(DATA, image_size=16)

    def hears_nothing(spans):
        nonlocal most
        most = max(most, sum(reference() is not None for reference in alive))
        return [()] * len(spans)

    assert not list(open_video_input(moving(3000), 12.5, data, inference, hear=hears_nothing).spans)
    assert len(alive) == 3000 and 20 <= most <= 6 * 25
    for _ in open_video_input(moving(3000), 12.5, data, inference).spans:
        most = max(most, sum(reference() is not None for reference in alive))
    assert most <= 6 * 25


def test_what_is_no_clip_is_refused_before_it_is_read():
    with pytest.raises(ClipError, match=r"\(8, 4, 4\) and dtype uint8"):
        open_video_input(np.zeros((8, 4, 4), np.uint8), None, DATA, InferenceConfig())
