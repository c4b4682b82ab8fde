"""What `Translator` can be given: clips, streams and numbers are checked here, before anything is read or computed."""

import math
import operator
import os
from collections.abc import Iterable, Iterator
from numbers import Real

import numpy as np

from signvit_jax.config.errors import ConfigError
from signvit_jax.inference.streaming import SourceError
from signvit_jax.inference.windowing import Clip, ClipError, Span, check_frames
from signvit_jax.media.video import VideoDecodeError

CLIPS = (
    "allowed: the path of a video; the bytes of a video file (bytes, bytearray, memoryview or a file opened with 'rb'); "
    "uint8 RGB frames (t, h, w, 3) as an array; or a list of frames (h, w, 3) of one size"
)
_LOWEST_RATE, _HIGHEST_RATE = 0.01, 1000.0  # frames a second
_LARGEST_SEED = 2**32 - 1  # JAX's random keys hold no more


def checked_clip(clip: object) -> Clip:
    """The clip as a path, bytes or frames, whatever it was given as. Raises ClipError."""
    if isinstance(clip, str | os.PathLike | bytes):
        return clip
    if isinstance(clip, bytearray):
        return bytes(clip)
    if isinstance(clip, memoryview) and clip.ndim == 1:
        return clip.tobytes()
    if isinstance(clip, list | tuple):
        return _stacked(clip)
    if callable(getattr(clip, "read", None)):
        try:
            content = clip.read()
        except (OSError, ValueError) as error:
            raise ClipError(f"the file of a clip cannot be read: {error}") from error
        if not isinstance(content, bytes | bytearray | memoryview):
            raise ClipError(
                f"the file gives {type(content).__name__} and not bytes; open it with 'rb'"
            )
        return bytes(content)
    frames = _array(clip)
    if frames is None:
        raise ClipError(f"a clip is a {type(clip).__name__}; {CLIPS}")
    check_frames(frames)
    return frames


def is_frames(clips: list | tuple) -> bool:
    """True for a list that is one clip, frame by frame, and not a list of clips."""
    return bool(clips) and all(getattr(one, "ndim", None) == 3 for one in clips)


def checked_rate(fps: float | None, error: type[Exception] = ClipError) -> float | None:
    """Raises `error` for what is no rate of a video."""
    if fps is None:
        return None
    if (
        isinstance(fps, bool)
        or not isinstance(fps, Real | np.number)
        or not _LOWEST_RATE <= fps <= _HIGHEST_RATE
    ):
        raise error(
            f"fps is {fps!r}; allowed: frames a second from {_LOWEST_RATE:g} to {_HIGHEST_RATE:g}, or None"
        )
    return float(fps)


def checked_seed(seed: int) -> int:
    """Raises ConfigError for a seed that `jax.random.key` cannot hold whole."""
    try:
        number = operator.index(seed)
    except TypeError:
        number = -1
    if not 0 <= number <= _LARGEST_SEED:
        raise ConfigError(f"seed is {seed!r}; allowed: a whole number from 0 to {_LARGEST_SEED}")
    return number


def checked_source(frames: object) -> Iterable[np.ndarray] | int | str | os.PathLike:
    """What `Translator.stream` can follow; frames of an iterable are checked as they come. Raises SourceError, then ClipError."""
    if isinstance(frames, str | os.PathLike):
        return frames
    if not isinstance(frames, bool):
        try:
            return operator.index(frames)
        except TypeError:
            pass
    if isinstance(frames, bool | bytes | bytearray | memoryview) or not isinstance(
        frames, Iterable
    ):
        raise SourceError(
            f"a stream is a {type(frames).__name__}; allowed: a camera's number, the path of a video, or an iterable of uint8 RGB frames (h, w, 3)"
        )
    return _checked_frames(frames)


def checked_pace(every: float, votes: int) -> None:
    """Raises ConfigError for what `Translator.stream` cannot keep to."""
    if not isinstance(every, Real | np.number) or not 0 < every < math.inf:
        raise ConfigError(f"every is {every!r}; allowed: seconds > 0 between hypotheses")
    if isinstance(votes, bool) or not isinstance(votes, int | np.integer) or votes < 1:
        raise ConfigError(f"votes is {votes!r}; allowed: a whole number >= 1")


def named_errors(spans: Iterator[Span], name: str) -> Iterator[Span]:
    """VideoDecodeErrors of a file that has no name of its own, or none that its owner knows, under `name`."""
    try:
        yield from spans
    except VideoDecodeError as error:
        raise VideoDecodeError(name, error.reason) from None


def _checked_frames(frames: Iterable[object]) -> Iterator[np.ndarray]:
    for number, frame in enumerate(frames):
        found = _array(frame)
        if found is None:
            raise ClipError(
                f"frame {number} of the stream is a {type(frame).__name__}; allowed: uint8 RGB frames (h, w, 3)"
            )
        yield found


def _stacked(frames: list | tuple) -> np.ndarray:
    if not frames:
        raise ClipError(f"a clip is a {type(frames).__name__} without frames; {CLIPS}")
    arrays = []
    for frame in frames:
        array = _array(frame)
        if array is None or array.ndim != 3:
            raise ClipError(
                f"a clip is a {type(frames).__name__} of {type(frame).__name__}; {CLIPS}"
            )
        arrays.append(array)
    shapes = sorted({array.shape for array in arrays})
    if len(shapes) > 1:
        raise ClipError(
            f"the frames of a clip have the shapes {', '.join(map(str, shapes))}; allowed: frames of one size"
        )
    stacked = np.stack(arrays)
    check_frames(stacked)
    return stacked


def _array(value: object) -> np.ndarray | None:
    """Arrays of any library (numpy, JAX, PyTorch on the CPU) as numpy's; None for what is no array."""
    if isinstance(value, np.ndarray):
        return value
    if not isinstance(value, memoryview) and not any(
        hasattr(value, name) for name in ("__array__", "__array_interface__", "__dlpack__")
    ):
        return None
    try:
        return np.asarray(value)
    except (
        Exception
    ):  # such as a tensor on another device, of which every library has its own kind of error
        return None
