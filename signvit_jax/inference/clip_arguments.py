"""Checks and conversion of the arguments of `Translator`."""

import math
import operator
import os
from collections.abc import Iterable, Iterator
from numbers import Real
from typing import Protocol, SupportsIndex

import numpy as np

from signvit_jax.config.errors import ConfigError
from signvit_jax.inference.frame_sources import SourceError
from signvit_jax.inference.windowing import Clip, ClipError, check_frames


class ReadableFile(Protocol):
    """A file opened with 'rb'."""

    def read(self) -> bytes: ...


# Clips that `Translator` accepts by their type; lists of frames and other libraries' arrays are
# accepted too, see `checked_clip`.
AnyClip = Clip | bytearray | memoryview | ReadableFile

_ALLOWED_CLIPS = (
    "allowed: the path of a video; the bytes of a video file (bytes, bytearray, memoryview or a "
    "file opened with 'rb'); uint8 RGB frames (t, h, w, 3) as an array; or a list of frames "
    "(h, w, 3) of one size"
)
_MIN_FPS, _MAX_FPS = 0.01, 1000.0  # frames per second
_MAX_SEED = 2**32 - 1  # the largest seed that `jax.random.key` keeps exactly


def checked_clip(clip: object) -> Clip:
    """Return any accepted clip as a path, bytes or an array of frames. Raises ClipError."""
    if isinstance(clip, str | os.PathLike | bytes):
        return clip
    if isinstance(clip, bytearray):
        return bytes(clip)
    if isinstance(clip, memoryview) and clip.ndim == 1:
        return clip.tobytes()
    if isinstance(clip, list | tuple):
        return _stack_frames(clip)
    read = getattr(clip, "read", None)
    if callable(read):
        try:
            content = read()
        except (OSError, ValueError) as error:
            raise ClipError(f"the file of a clip cannot be read: {error}") from error
        if not isinstance(content, bytes | bytearray | memoryview):
            raise ClipError(
                f"the file gives {type(content).__name__} and not bytes; open it with 'rb'"
            )
        return bytes(content)
    frames = _as_numpy(clip)
    if frames is None:
        raise ClipError(f"a clip has the type {type(clip).__name__}; {_ALLOWED_CLIPS}")
    check_frames(frames)
    return frames


def is_one_clip(items: list | tuple) -> bool:
    """Return True if the items are the frames of one clip, False if they are clips."""
    return bool(items) and all(getattr(item, "ndim", None) == 3 for item in items)


def checked_rate(fps: float | None, error: type[Exception] = ClipError) -> float | None:
    """Return the frame rate as a float, or None if it is None.

    Raises `error` unless it is a number from 0.01 to 1000 frames per second.
    """
    if fps is None:
        return None
    is_number = isinstance(fps, Real | np.number) and not isinstance(fps, bool)
    if not is_number or not _MIN_FPS <= fps <= _MAX_FPS:
        raise error(
            f"fps is {fps!r}; allowed: frames per second from {_MIN_FPS:g} to {_MAX_FPS:g}, or None"
        )
    return float(fps)


def checked_seed(seed: SupportsIndex) -> int:
    """Return the seed as an int. Raises ConfigError unless it is an integer from 0 to 2**32 - 1."""
    try:
        number = -1 if isinstance(seed, bool) else operator.index(seed)
    except TypeError:
        number = -1
    if not 0 <= number <= _MAX_SEED:
        raise ConfigError(f"seed is {seed!r}; allowed: an integer from 0 to {_MAX_SEED}")
    return number


def checked_source(frames: object) -> Iterable[np.ndarray] | int | str | os.PathLike:
    """Return a source for `Translator.stream`: a camera's number, a path, or frames.

    Raises SourceError for anything else. An item of an iterable that is not an array raises
    ClipError when it arrives; the caller checks the shape and dtype of arrays.
    """
    if isinstance(frames, str | os.PathLike):
        return frames
    if isinstance(frames, SupportsIndex) and not isinstance(frames, bool):
        try:
            return operator.index(frames)
        except TypeError:  # arrays have __index__ too; it raises unless they hold one integer
            pass
    is_bytes = isinstance(frames, bytes | bytearray | memoryview)
    if is_bytes or isinstance(frames, bool) or not isinstance(frames, Iterable):
        raise SourceError(
            f"a stream has the type {type(frames).__name__}; allowed: a camera's number, the path "
            "of a video, or an iterable of uint8 RGB frames (h, w, 3)"
        )
    return _checked_frames(frames)


def check_pace(every: float, votes: int) -> None:
    """Raise ConfigError unless `every` is a number of seconds > 0 and `votes` an integer >= 1."""
    is_number = isinstance(every, Real | np.number) and not isinstance(every, bool)
    if not is_number or not 0 < every < math.inf:
        raise ConfigError(f"every is {every!r}; allowed: seconds > 0 between hypotheses")
    if isinstance(votes, bool) or not isinstance(votes, int | np.integer) or votes < 1:
        raise ConfigError(f"votes is {votes!r}; allowed: an integer >= 1")


def _checked_frames(frames: Iterable[object]) -> Iterator[np.ndarray]:
    for number, frame in enumerate(frames):
        array = _as_numpy(frame)
        if array is None:
            raise ClipError(
                f"frame {number} of the stream has the type {type(frame).__name__}; "
                "allowed: uint8 RGB frames (h, w, 3)"
            )
        yield array


def _stack_frames(frames: list | tuple) -> np.ndarray:
    if not frames:
        raise ClipError(f"a clip is a {type(frames).__name__} without frames; {_ALLOWED_CLIPS}")
    arrays = []
    for frame in frames:
        array = _as_numpy(frame)
        if array is None or array.ndim != 3:
            raise ClipError(
                f"a clip is a {type(frames).__name__} of {type(frame).__name__}; {_ALLOWED_CLIPS}"
            )
        arrays.append(array)
    shapes = sorted({array.shape for array in arrays})
    if len(shapes) > 1:
        raise ClipError(
            f"the frames of a clip have the shapes {', '.join(map(str, shapes))}; "
            "allowed: frames of one size"
        )
    stacked = np.stack(arrays)
    check_frames(stacked)
    return stacked


def _as_numpy(value: object) -> np.ndarray | None:
    """Return an array of any library (NumPy, JAX, PyTorch on the CPU) as NumPy's, else None."""
    if isinstance(value, np.ndarray):
        return value
    if not isinstance(value, memoryview) and not any(
        hasattr(value, name) for name in ("__array__", "__array_interface__", "__dlpack__")
    ):
        return None
    try:
        return np.asarray(value)
    except Exception:  # a tensor on another device, say: each library raises its own class
        return None
