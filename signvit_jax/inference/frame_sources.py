"""Frames of a stream, which come from the caller, from a camera, or from a file that is played."""

import collections
import importlib
import os
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from numbers import Real
from typing import NamedTuple, Protocol

import numpy as np

from signvit_jax.data.schema import STORED_FRAME_RATE
from signvit_jax.media.cameras import Image, SourceError, can_read_cameras, open_camera
from signvit_jax.media.video import Sampling, VideoLimits, open_video
from signvit_jax.runtime.optional_deps import import_optional

# A file that is played live may last a day; 10 million frames allow 115 per second.
_DAY_LONG = VideoLimits(
    max_seconds=86_400.0, max_frames=10_000_000, cpu_seconds=86_400.0, wall_seconds=3600.0
)
_MAX_SECONDS = 1e8  # largest time of a frame in a stream: three years

__all__ = ["Image", "SourceError"]


class Frame(NamedTuple):
    """A frame of a stream."""

    seconds: float  # since the first frame
    image: Image  # in the model's size
    arrived: float  # when it arrived, by time.monotonic()


class TakenFrames(NamedTuple):
    """The frames that a source has received since the last call."""

    frames: list[Frame]  # in order of time
    seconds: float  # the time of the stream now
    has_ended: bool


class FrameSource(Protocol):
    """Frames in order of time; `dropped` counts those that were dropped before they were taken."""

    dropped: int

    def take(self, until: float) -> TakenFrames:
        """Wait until the stream has reached `until` seconds or has ended.

        Raises what reading the stream raises, such as SourceError and VideoDecodeError.
        """
        ...

    def close(self) -> None:
        """End the stream and free its device or file."""
        ...


class RecordedSource:
    """Frames of a known rate, read as fast as they are taken; none is dropped."""

    def __init__(self, frames: Iterable[Image], fps: float, fit: Callable[[Image], Image]):
        self.dropped = 0
        self._frames = iter(frames)
        self._fps = fps
        self._fit = fit
        self._num_read = 0
        self._rate_limiter = _RateLimiter()

    def take(self, until: float) -> TakenFrames:
        taken = []
        while (seconds := self._num_read / self._fps) < until:
            image = next(self._frames, None)
            if image is None:
                return TakenFrames(taken, seconds, True)
            if self._rate_limiter.keeps(seconds):
                taken.append(Frame(seconds, self._fit(image), time.monotonic()))
            self._num_read += 1
        return TakenFrames(taken, seconds, False)

    def close(self) -> None:
        pass


class PushedFrames:
    """Frames that one thread pushes and another one, or the same, takes.

    Args:
        fit: Brings a frame to the model's size, in the thread that pushes. Raises ClipError.
        seconds: Length of the queue. When it is full, the oldest frames are dropped.
    """

    def __init__(self, fit: Callable[[Image], Image], seconds: float):
        self.dropped = 0
        self._fit = fit
        self._queue: collections.deque[Frame] = collections.deque(
            maxlen=max(round(seconds * STORED_FRAME_RATE), 1)
        )
        self._changed = threading.Condition()
        self._rate_limiter = _RateLimiter()
        self._began: float | None = None  # when the first frame arrived, by time.monotonic()
        self._follows_clock = False  # time passes between frames too
        self._now = 0.0  # the time of the newest frame
        self._has_ended = False
        self._is_closed = False
        self._error: Exception | None = None

    @property
    def has_ended(self) -> bool:
        """True once further frames are refused."""
        return self._has_ended or self._is_closed

    def push(self, image: Image, seconds: float | None = None) -> bool:
        """Add a frame at a time of the stream; return False, and ignore it, after the end.

        `seconds`: not less than that of the frame before; None: the time since the first frame, by
        the clock. Raises SourceError for another time.
        """
        if self.has_ended:
            return False
        arrived = time.monotonic()
        if seconds is None:
            self._follows_clock = True
            seconds = arrived - (arrived if self._began is None else self._began)
        self._check_time(seconds)
        fitted = self._fit(image) if self._rate_limiter.keeps(seconds) else None
        with self._changed:
            if self.has_ended:
                return False
            if self._began is None:
                self._began = arrived
            self._now = seconds
            if fitted is not None:
                self.dropped += len(self._queue) == self._queue.maxlen
                self._queue.append(Frame(seconds, fitted, arrived))
            self._changed.notify_all()
        return True

    def end(self, error: Exception | None = None) -> None:
        """End the stream; `error` is raised to the thread that takes."""
        with self._changed:
            self._has_ended = True
            self._error = self._error or error
            self._changed.notify_all()

    def close(self) -> None:
        """End the stream at once; frames that were not taken are given up."""
        with self._changed:
            self._is_closed = True
            self._queue.clear()
            self._changed.notify_all()

    def take(self, until: float) -> TakenFrames:
        with self._changed:
            while not self._is_due(until):
                self._changed.wait(until - self._time() if self._follows_clock else None)
            return self._take_all()

    def take_if_due(self, until: float) -> TakenFrames | None:
        """As `take`, but return None instead of waiting."""
        with self._changed:
            return self._take_all() if self._is_due(until) else None

    def _is_due(self, until: float) -> bool:
        return self.has_ended or self._time() >= until

    def _time(self) -> float:
        """The time of the stream."""
        if self._follows_clock and self._began is not None:
            return max(self._now, time.monotonic() - self._began)
        return self._now

    def _take_all(self) -> TakenFrames:
        if self._error is not None:
            raise self._error
        taken = list(self._queue)
        self._queue.clear()
        return TakenFrames(taken, self._time(), self.has_ended)

    def _check_time(self, seconds: float) -> None:
        is_number = isinstance(seconds, Real | np.number) and not isinstance(seconds, bool)
        if not is_number or not self._now <= seconds <= _MAX_SECONDS:
            raise SourceError(
                f"a frame has the time {seconds!r}; allowed: seconds from {self._now:g}, those of "
                f"the frame before it, to {_MAX_SECONDS:g}"
            )


class LiveSource(PushedFrames):
    """Frames timed by the clock as they arrive, pushed by a thread.

    Args:
        open_frames: Called in the thread; gives the frames, and ends soon after its event is set.
        fit, seconds: As in `PushedFrames`.
    """

    def __init__(
        self,
        open_frames: Callable[[threading.Event], Iterator[Image]],
        fit: Callable[[Image], Image],
        seconds: float,
    ):
        super().__init__(fit, seconds)
        self._open_frames = open_frames
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def take(self, until: float) -> TakenFrames:
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._collect, name="signvit_jax_frames", daemon=True
            )
            self._thread.start()
        return super().take(until)

    def close(self) -> None:
        """End the thread; it stops after the frame that it waits for."""
        self._stop.set()
        super().close()

    def _collect(self) -> None:
        try:
            for image in self._open_frames(self._stop):
                if not self.push(image):
                    return
        except Exception as error:
            self.end(error)
        finally:
            self.end()


def open_source(
    frames: Iterable[Image] | int | str | os.PathLike,
    fps: float | None,
    fit: Callable[[Image], Image],
    short_side: int,
    seconds: float,
) -> FrameSource:
    """Open the source of `Translator.stream`. Raises SourceError.

    Args:
        frames: The number of a camera or its device, a file that is played at its own speed, or
            RGB frames.
        fps: Frames per second of an iterable that is a recording; None: its frames arrive live.
        fit: Brings a frame to the model's size.
        short_side: Pixels to which the shorter side of a file's larger frames is shrunk.
        seconds: Length of the queue of a live source.
    """
    if isinstance(frames, int | str | os.PathLike):
        return LiveSource(open_live(frames, short_side), fit, seconds)
    if fps is None:
        return LiveSource(lambda stop: iter(frames), fit, seconds)
    if not fps > 0:
        raise SourceError(
            f"fps is {fps}; allowed: frames per second > 0, or None for frames that arrive live"
        )
    return RecordedSource(frames, fps, fit)


def open_live(
    source: int | str | os.PathLike, short_side: int | None = None
) -> Callable[[threading.Event], Iterator[Image]]:
    """Return the function that yields the frames of a camera, or of a file at its own speed.

    It ends soon after its event is set. A camera is a number or a device such as /dev/video0, and
    is opened at once. The shorter side of a file's larger frames is shrunk to `short_side` pixels.
    Raises SourceError; the returned function raises SourceError and VideoDecodeError.
    """
    if isinstance(source, int):
        if can_read_cameras() and not _has_opencv():
            return open_camera(source)
        return _camera(source)
    if _is_device(source):
        return open_camera(os.fspath(source))
    return lambda stop: _play(source, short_side, stop)


def _has_opencv() -> bool:
    try:
        importlib.import_module("cv2")
    except ImportError:
        return False
    return True


def _is_device(path: str | os.PathLike) -> bool:
    """Return True for a camera's device, and for the name of one that is not connected."""
    try:
        return os.fspath(path).startswith("/dev/") or stat.S_ISCHR(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def _camera(index: int) -> Callable[[threading.Event], Iterator[Image]]:
    """Open a camera by OpenCV. Raises SourceError."""
    cv2 = import_optional("cv2", f"reading camera {index}", SourceError)
    camera = cv2.VideoCapture(index)
    if not camera.isOpened():
        raise SourceError(
            f"camera {index} cannot be opened; is it connected, and not in use? "
            "Cameras are numbered from 0"
        )

    def frames(stop: threading.Event) -> Iterator[Image]:
        try:
            while not stop.is_set():
                is_read, image = camera.read()
                if not is_read:
                    raise SourceError(f"camera {index} gives no more frames")
                yield np.ascontiguousarray(image[..., ::-1])  # OpenCV's channels are BGR
        finally:
            camera.release()

    return frames


def _play(
    path: str | os.PathLike, short_side: int | None, stop: threading.Event
) -> Iterator[Image]:
    """Yield the frames of a file, waiting until the time of each has come."""
    sampling = Sampling(short_side, max_frame_rate=STORED_FRAME_RATE)
    with open_video(path, sampling, _DAY_LONG) as video:
        began, first = time.monotonic(), None
        for seconds, image in video.frames:
            first = seconds if first is None else first
            if stop.wait(max(0.0, began + seconds - first - time.monotonic())):
                return
            yield image


class _RateLimiter:
    """The choice of frames to keep: at most `STORED_FRAME_RATE` per second, evenly spaced."""

    def __init__(self):
        self._due = 0.0  # seconds of the stream at which the next frame should come

    def keeps(self, seconds: float) -> bool:
        """Return True if the frame at `seconds` of the stream is kept."""
        step = 1.0 / STORED_FRAME_RATE
        # A frame may come a little early: cameras are not exact to the millisecond.
        if seconds < self._due - 0.4 * step:
            return False
        # After a pause, do not catch up on the frames that were due during it.
        self._due = max(self._due + step, seconds - step)
        return True
