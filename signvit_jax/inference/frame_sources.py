"""Frames of a stream: of a camera, of a file that is played, or of the caller."""

import collections
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, Protocol

import numpy as np

from signvit_jax.data.schema import STORED_FRAME_RATE
from signvit_jax.errors.base import SignVitError
from signvit_jax.media.video import Sampling, VideoLimits, open_video
from signvit_jax.runtime.optional_deps import import_optional

_ENDLESS = VideoLimits(
    max_seconds=86_400.0, max_frames=10_000_000, cpu_seconds=86_400.0, wall_seconds=3600.0
)


class SourceError(SignVitError, ValueError):
    """A camera or stream that cannot be read; the message says what to do."""


class Frame(NamedTuple):
    """A frame of a stream."""

    seconds: float  # of the stream
    image: np.ndarray  # in the model's size
    arrived: float  # time.monotonic


class FrameSource(Protocol):
    """Frames in order of time; `dropped` counts those that were dropped before they were taken."""

    dropped: int

    def take(self, until: float) -> tuple[list[Frame], float, bool]:
        """Wait until the stream has reached `until` seconds.

        Returns the frames since the last call, the stream's time now, and whether it has ended.
        """
        ...

    def close(self) -> None: ...


class RecordedSource:
    """Frames of a known rate, read as fast as they are taken; none is dropped."""

    def __init__(
        self, frames: Iterable[np.ndarray], fps: float, fit: Callable[[np.ndarray], np.ndarray]
    ):
        self.dropped = 0
        self._frames = iter(frames)
        self._fps = fps
        self._fit = fit
        self._count = 0
        self._keeps = _RateLimiter()

    def take(self, until: float) -> tuple[list[Frame], float, bool]:
        taken = []
        while (seconds := self._count / self._fps) < until:
            image = next(self._frames, None)
            if image is None:
                return taken, seconds, True
            if self._keeps(seconds):
                taken.append(Frame(seconds, self._fit(image), time.monotonic()))
            self._count += 1
        return taken, seconds, False

    def close(self) -> None:
        pass


class LiveSource:
    """Frames timed by the clock as they arrive, collected by a thread.

    It holds at most `seconds` of frames; when it is full, the oldest ones are dropped.
    """

    def __init__(
        self,
        frames: Callable[[threading.Event], Iterator[np.ndarray]],
        fit: Callable[[np.ndarray], np.ndarray],
        seconds: float,
    ):
        self.dropped = 0
        self._open = frames
        self._fit = fit
        self._queue: collections.deque[Frame] = collections.deque(
            maxlen=max(round(seconds * STORED_FRAME_RATE), 1)
        )
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._ended = False
        self._error: Exception | None = None
        self._began: float | None = None  # when the first frame arrived
        self._thread: threading.Thread | None = None

    def take(self, until: float) -> tuple[list[Frame], float, bool]:
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._collect, name="signvit_jax_frames", daemon=True
            )
            self._thread.start()
        with self._changed:
            while not self._ended and self._now() < until:
                self._changed.wait(None if self._began is None else until - self._now())
            if self._error is not None:
                raise self._error
            taken = list(self._queue)
            self._queue.clear()
            return taken, self._now(), self._ended

    def close(self) -> None:
        """End the thread; it stops after the frame that it waits for."""
        self._stop.set()

    def _now(self) -> float:
        return 0.0 if self._began is None else time.monotonic() - self._began

    def _collect(self) -> None:
        keeps = _RateLimiter()
        try:
            for image in self._open(self._stop):
                arrived = time.monotonic()
                began = arrived if self._began is None else self._began
                if self._stop.is_set():
                    return
                fitted = self._fit(image) if keeps(arrived - began) else None
                with self._changed:
                    if self._began is None:
                        self._began = began
                        self._changed.notify()
                    if fitted is not None:
                        self.dropped += len(self._queue) == self._queue.maxlen
                        self._queue.append(Frame(arrived - began, fitted, arrived))
        except Exception as error:
            self._error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify()


def open_source(
    frames: Iterable[np.ndarray] | int | str | os.PathLike,
    fps: float | None,
    fit: Callable[[np.ndarray], np.ndarray],
    short_side: int,
    seconds: float,
) -> FrameSource:
    """Open the source of `Translator.stream`. Raises SourceError.

    `fps` is the frame rate of an iterable that is a recording; None: its frames arrive live. `fit`
    brings a frame to the model's size. Files are decoded with a `short_side` in pixels. A live
    source holds at most `seconds` of frames.
    """
    if isinstance(frames, int):
        return LiveSource(_camera(frames), fit, seconds)
    if isinstance(frames, str | os.PathLike):
        return LiveSource(lambda stop: _play(frames, short_side, stop), fit, seconds)
    if fps is None:
        return LiveSource(lambda stop: iter(frames), fit, seconds)
    if not fps > 0:
        raise SourceError(
            f"fps is {fps}; allowed: frames per second > 0, or None for frames that arrive live"
        )
    return RecordedSource(frames, fps, fit)


def _camera(index: int) -> Callable[[threading.Event], Iterator[np.ndarray]]:
    cv2 = import_optional("cv2", f"reading camera {index}", SourceError)
    camera = cv2.VideoCapture(index)
    if not camera.isOpened():
        raise SourceError(
            f"camera {index} cannot be opened; is it connected, and not in use? "
            "Cameras are numbered from 0"
        )

    def frames(stop: threading.Event) -> Iterator[np.ndarray]:
        try:
            while not stop.is_set():
                is_read, image = camera.read()
                if not is_read:
                    raise SourceError(f"camera {index} gives no more frames")
                yield np.ascontiguousarray(image[..., ::-1])  # OpenCV's channels are BGR
        finally:
            camera.release()

    return frames


def _play(path: str | os.PathLike, short_side: int, stop: threading.Event) -> Iterator[np.ndarray]:
    """Yield the frames of a file, each at its time."""
    sampling = Sampling(short_side, max_frame_rate=STORED_FRAME_RATE)
    with open_video(path, sampling, _ENDLESS) as video:
        began, first = time.monotonic(), None
        for seconds, image in video.frames:
            first = seconds if first is None else first
            if stop.wait(max(0.0, began + seconds - first - time.monotonic())):
                return
            yield image


class _RateLimiter:
    """The choice of frames to keep: `STORED_FRAME_RATE` per second, evenly spaced."""

    def __init__(self):
        self._next = 0.0

    def __call__(self, seconds: float) -> bool:
        step = 1.0 / STORED_FRAME_RATE
        if seconds < self._next - 0.4 * step:  # cameras are not exact to the millisecond
            return False
        self._next = max(self._next + step, seconds - step)
        return True
