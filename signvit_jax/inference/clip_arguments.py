"""Checks of the arguments of `Translator`, made before anything is read or computed."""

import math
import operator
import os
from collections.abc import Iterable, Iterator
from numbers import Real
from typing import Protocol, SupportsIndex

import numpy as np

from signvit_jax.config.errors import ConfigError
from signvit_jax.inference.streaming import SourceError
from signvit_jax.inference.windowing import Clip, ClipError, VideoWindow, check_frames
from signvit_jax.media.video import VideoDecodeError


class ReadableFile(Protocol):
    """A file opened with 'rb'."""

    def read(self) -> bytes: ...


# The clips that `Translator` accepts; arrays of other libraries work too.
AnyClip = Clip | bytearray | memoryview | ReadableFile

_ALLOWED_CLIPS = (
    "allowed: the path of a video; the bytes of a video file (bytes, bytearray, memoryview or a "
    "file opened with 'rb'); uint8 RGB frames (t, h, w, 3) as an array; or a list of frames "
    "(h, w, 3) of one size"
)
_MIN_FPS, _MAX_FPS = 0.01, 1000.0
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
        raise ClipError(f"a clip is a {type(clip).__name__}; {_ALLOWED_CLIPS}")
    check_frames(frames)
    return frames


def is_frames(clips: list | tuple) -> bool:
    """Return True if this list is the frames of one clip, and not a list of clips."""
    return bool(clips) and all(getattr(item, "ndim", None) == 3 for item in clips)


def checked_rate(fps: float | None, error: type[Exception] = ClipError) -> float | None:
    """Return the frame rate as a float, or None. Raises `error` for anything that is no rate."""
    if fps is None:
        return None
    is_number = isinstance(fps, Real | np.number) and not isinstance(fps, bool)
    if not is_number or not _MIN_FPS <= fps <= _MAX_FPS:
        raise error(
            f"fps is {fps!r}; allowed: frames a second from {_MIN_FPS:g} to {_MAX_FPS:g}, or None"
        )
    return float(fps)


def checked_seed(seed: SupportsIndex) -> int:
    """Return the seed as an integer. Raises ConfigError if `jax.random.key` cannot keep it."""
    try:
        number = operator.index(seed)
    except TypeError:
        number = -1
    if not 0 <= number <= _MAX_SEED:
        raise ConfigError(f"seed is {seed!r}; allowed: an integer from 0 to {_MAX_SEED}")
    return number


def checked_source(frames: object) -> Iterable[np.ndarray] | int | str | os.PathLike:
    """Return a source for `Translator.stream`: a camera's number, a path, or frames.

    The frames of an iterable are checked as they arrive. Raises SourceError now, and ClipError for
    an item that is no frame.
    """
    if isinstance(frames, str | os.PathLike):
        return frames
    if isinstance(frames, SupportsIndex) and not isinstance(frames, bool):
        try:
            return operator.index(frames)
        except TypeError:  # an array has __index__ too, and works only with a single integer
            pass
    is_bytes = isinstance(frames, bytes | bytearray | memoryview)
    if is_bytes or isinstance(frames, bool) or not isinstance(frames, Iterable):
        raise SourceError(
            f"a stream is a {type(frames).__name__}; allowed: a camera's number, the path of a "
            "video, or an iterable of uint8 RGB frames (h, w, 3)"
        )
    return _checked_frames(frames)


def check_pace(every: float, votes: int) -> None:
    """Raise ConfigError for an interval or a number of votes that `Translator.stream` refuses."""
    if not isinstance(every, Real | np.number) or not 0 < every < math.inf:
        raise ConfigError(f"every is {every!r}; allowed: seconds > 0 between hypotheses")
    if isinstance(votes, bool) or not isinstance(votes, int | np.integer) or votes < 1:
        raise ConfigError(f"votes is {votes!r}; allowed: an integer >= 1")


def with_video_name(windows: Iterator[VideoWindow], name: str) -> Iterator[VideoWindow]:
    """Yield the windows; a VideoDecodeError is raised again with `name` for the file's own name.

    For a video that was read from a temporary file, whose name tells the caller nothing.
    """
    try:
        yield from windows
    except VideoDecodeError as error:
        raise VideoDecodeError(name, error.reason) from None


def _checked_frames(frames: Iterable[object]) -> Iterator[np.ndarray]:
    for number, frame in enumerate(frames):
        array = _as_numpy(frame)
        if array is None:
            raise ClipError(
                f"frame {number} of the stream is a {type(frame).__name__}; "
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
