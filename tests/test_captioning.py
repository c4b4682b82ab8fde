"""How videos are cut into what a model reads: clips whole, recordings in windows, in memory that does not grow."""

import itertools
import weakref

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from signvit_jax import captioning
from signvit_jax.captioning import ClipError, open_footage
from signvit_jax.config import DataConfig, InferenceConfig

DATA = DataConfig(num_frames=2, image_size=4)
FPS = 10.0


def frames(count: int) -> np.ndarray:
    """The frame's number is in its colour."""
    numbers = np.arange(count)
    colours = np.stack([numbers // 256 % 256, numbers % 256, np.zeros_like(numbers)], axis=-1).astype(np.uint8)
    return np.broadcast_to(colours[:, None, None], (count, 4, 4, 3))


def spans_of(count: int, **inference: float) -> list:
    return list(open_footage(np.ascontiguousarray(frames(count)), FPS, DATA, InferenceConfig(**inference)).spans)


def number_of(frame: np.ndarray) -> int:
    return int(frame[0, 0, 0]) * 256 + int(frame[0, 0, 1])


@pytest.mark.parametrize(("count", "is_clip"), [(1, True), (30, True), (31, False)])
def test_a_video_up_to_the_longest_clip_is_one_span(count, is_clip):
    footage = open_footage(np.ascontiguousarray(frames(count)), FPS, DATA, InferenceConfig(max_clip_seconds=3.0, window_seconds=2.0)).begin()
    assert footage.is_clip == is_clip
    spans = list(footage.spans)
    assert (spans[0].start, spans[-1].end) == (0.0, pytest.approx(count / FPS))
    assert footage.seconds == pytest.approx(count / FPS)


@settings(max_examples=60, deadline=None)
@given(count=st.integers(1, 200), window=st.floats(0.1, 4.0), overlap=st.floats(0.0, 0.95), longest=st.floats(0.1, 8.0))
def test_spans_cover_the_video_in_order_and_hold_its_own_frames(count, window, overlap, longest):
    spans = spans_of(count, window_seconds=window, window_overlap=overlap, max_clip_seconds=longest)
    assert spans[0].start == 0.0 and spans[-1].end == pytest.approx(count / FPS)
    for before, after in itertools.pairwise(spans):
        assert before.start < after.start <= before.end + 1e-9 and before.end < after.end
    if len(spans) > 1:
        assert all(span.end - span.start <= max(window, 1 / FPS) + 0.5 / FPS + 1e-9 for span in spans)
    for span in spans:  # even sampling of two frames: the first and the last
        assert number_of(span.frames[0]) == round(span.start * FPS) and number_of(span.frames[-1]) == round(span.end * FPS) - 1


def test_no_more_frames_are_held_than_the_longest_clip_has(monkeypatch):
    alive = []

    def fit(pictures, size, fit):
        picture = np.zeros((size, size, 3), np.uint8)
        alive.append(weakref.ref(picture))
        return [picture]

    monkeypatch.setattr(captioning, "fit_frames", fit)
    inference = InferenceConfig(max_clip_seconds=3.0, window_seconds=2.0)
    most = 0
    for _ in open_footage(np.ascontiguousarray(frames(3000)), FPS, DATA, inference).spans:
        most = max(most, sum(reference() is not None for reference in alive))
    assert len(alive) == 3000 and most <= 32


def test_what_is_no_clip_is_refused_before_it_is_read():
    with pytest.raises(ClipError, match=r"\(8, 4, 4\) and dtype uint8"):
        open_footage(np.zeros((8, 4, 4), np.uint8), None, DATA, InferenceConfig())
