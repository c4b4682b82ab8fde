"""Arguments of the API: every type that can be used is accepted, and other types are refused."""

import io
import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from signvit_jax.config.errors import ConfigError
from signvit_jax.inference.clip_arguments import (
    check_pace,
    checked_clip,
    checked_rate,
    checked_seed,
    checked_source,
    is_one_clip,
)
from signvit_jax.inference.frame_sources import SourceError
from signvit_jax.inference.windowing import ClipError

FRAMES = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)


class TensorOnAnotherDevice:
    def __array__(self, *_, **__):
        raise TypeError("can't convert device type tensor to numpy")


@pytest.mark.parametrize(
    "clip",
    [
        b"video",
        bytearray(b"video"),
        memoryview(b"video"),
        memoryview(b"vxixdxexox")[::2],
        io.BytesIO(b"video"),
    ],
)
def test_every_kind_of_bytes_becomes_bytes(clip):
    assert checked_clip(clip) == b"video"


@pytest.mark.parametrize(
    "clip",
    [FRAMES, jnp.asarray(FRAMES), memoryview(FRAMES), list(FRAMES), tuple(jnp.asarray(FRAMES))],
)
def test_every_kind_of_frames_becomes_an_array(clip):
    np.testing.assert_array_equal(checked_clip(clip), FRAMES)


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        (None, "NoneType"),
        (5, "int"),
        ({}, "dict"),
        ((frame for frame in FRAMES), "generator"),
        ([], "without frames"),
        ([None], "list of NoneType"),
        (FRAMES.tolist(), "list of list"),
        ([FRAMES[0], FRAMES[0, :2]], r"\(2, 4, 3\), \(4, 4, 3\)"),
        (FRAMES[0], r"\(4, 4, 3\)"),
        (FRAMES.astype(np.float32), "float32"),
        (np.zeros((0, 4, 4, 3), np.uint8), r"\(0, 4, 4, 3\)"),
        (io.StringIO("video"), "'rb'"),
        (TensorOnAnotherDevice(), "TensorOnAnotherDevice"),
    ],
)
def test_an_invalid_clip_is_refused_with_its_type(clip, message):
    with pytest.raises(ClipError, match=message) as refused:
        checked_clip(clip)
    assert "allowed" in str(refused.value) or "open it with" in str(refused.value)


def test_a_closed_file_is_refused():
    file = io.BytesIO(b"video")
    file.close()
    with pytest.raises(ClipError, match="closed"):
        checked_clip(file)


def test_a_list_of_frames_is_not_a_list_of_clips():
    assert is_one_clip(list(FRAMES)) and is_one_clip(tuple(jnp.asarray(FRAMES)))
    for clips in ([], [FRAMES], ["a.mp4"], [FRAMES[0], "a.mp4"]):
        assert not is_one_clip(clips)


@pytest.mark.parametrize(
    "fps", [-5, 0, 1e-300, 1e9, float("nan"), float("inf"), -float("inf"), "25", True, 1 + 2j]
)
def test_an_invalid_frame_rate_is_refused_with_its_value(fps):
    with pytest.raises(ClipError, match=r"fps is .*allowed: frames per second from 0\.01 to 1000"):
        checked_rate(fps)


def test_every_kind_of_frame_rate_becomes_a_float():
    assert [checked_rate(fps) for fps in (None, 25, 29.97, np.float32(0.5), np.int64(30))] == [
        None,
        25.0,
        29.97,
        0.5,
        30.0,
    ]


@pytest.mark.parametrize("seed", [-1, 2**32, 2**64, 2**70, 1.5, "7", None, True, False])
def test_a_seed_outside_the_range_of_keys_is_refused(seed):
    with pytest.raises(ConfigError, match=r"seed is .*allowed: an integer from 0 to 4294967295"):
        checked_seed(seed)


def test_every_kind_of_integer_is_a_seed():
    assert [checked_seed(seed) for seed in (0, 2**32 - 1, np.uint32(7))] == [0, 2**32 - 1, 7]


@pytest.mark.parametrize("source", [None, True, 1.5, b"video", bytearray(b"video")])
def test_an_invalid_source_of_a_stream_is_refused_at_once(source):
    with pytest.raises(SourceError, match=f"{type(source).__name__}; allowed: a camera"):
        checked_source(source)


def test_paths_cameras_and_frames_are_streams():
    assert checked_source("a.mp4") == "a.mp4" and checked_source(np.int64(2)) == 2
    assert [frame.shape for frame in checked_source(jnp.asarray(FRAMES))] == [(4, 4, 3)] * 2


@pytest.mark.parametrize("invalid", [None, "frame", 5])
def test_an_invalid_frame_of_a_stream_is_an_error(invalid):
    frames = checked_source(itertools.chain(FRAMES, [invalid], FRAMES))
    assert len(list(itertools.islice(frames, 2))) == 2
    message = f"frame 2 of the stream has the type {type(invalid).__name__}"
    with pytest.raises(ClipError, match=message):
        next(frames)


@pytest.mark.parametrize(
    ("every", "votes"),
    [
        (0, 3),
        (True, 3),
        (float("nan"), 3),
        (float("inf"), 3),
        ("1", 3),
        (0.5, 0),
        (0.5, 1.5),
        (0.5, True),
    ],
)
def test_an_invalid_pace_is_refused(every, votes):
    with pytest.raises(ConfigError, match=r"every is|votes is"):
        check_pace(every, votes)
