"""Live captions: where frames come from, and how hypotheses about a sliding window become text that stays.

A hypothesis about the frames not yet settled is made every half second, and what most of the last three say is the text. It is settled, and the
window begins anew, when all of them agree on a window at least half full, or when the window is full; then the next one sees its end again, and words
that both say are said once.
"""

import collections
import dataclasses
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from signvit_jax.config import ConfigError
from signvit_jax.data.video import Sampling, VideoLimits, open_video
from signvit_jax.decoding.subtitles import Segment
from signvit_jax.decoding.windows import shared_words
from signvit_jax.decoding.words import Word
from signvit_jax.evaluation.evaluator import Hypothesis

MOST_FRAMES_A_SECOND = 25.0  # of a faster source, frames in between are passed over, as when a data set is built
_ENDLESS = VideoLimits(max_seconds=86_400.0, max_frames=10_000_000, cpu_seconds=86_400.0, wall_seconds=3600.0)


class SourceError(ValueError):
    """A camera or stream that cannot be read; the message says what to do."""

    exit_code = 2


@dataclasses.dataclass(frozen=True)
class StreamUpdate:
    """What is known once the frames up to `seconds` have been read."""

    seconds: float  # of the stream
    partial: str  # what CTC reads in the frames not yet settled
    text: str  # what most of the last hypotheses say of them
    settled: tuple[Segment, ...]  # what is settled by this update, and will not change
    latency: float  # seconds from the arrival of the newest frame to this update
    dropped: int  # frames of the whole stream that no hypothesis has seen


class Frame(NamedTuple):
    seconds: float  # of the stream
    picture: np.ndarray  # in the model's size
    arrived: float  # time.monotonic


class Source(Protocol):
    """Frames in order of time. `dropped` counts those that were thrown away before anybody took them."""

    dropped: int

    def take(self, until: float) -> tuple[list[Frame], float, bool]:
        """Waits until the stream has come to `until` seconds: the frames since the last call, where the stream is now, and whether it has ended."""
        ...

    def close(self) -> None: ...


class Recording:
    """Frames at a known rate, as fast as they are taken; none is dropped."""

    def __init__(self, frames: Iterable[np.ndarray], fps: float, fit: Callable[[np.ndarray], np.ndarray]):
        self.dropped = 0
        self._frames, self._fps, self._fit = iter(frames), fps, fit
        self._count = 0
        self._thin = _Thinner()

    def take(self, until: float) -> tuple[list[Frame], float, bool]:
        taken = []
        while self._count / self._fps < until:
            picture = next(self._frames, None)
            if picture is None:
                return taken, self._count / self._fps, True
            if self._thin(self._count / self._fps):
                taken.append(Frame(self._count / self._fps, self._fit(picture), time.monotonic()))
            self._count += 1
        return taken, self._count / self._fps, False

    def close(self) -> None:
        pass


class Live:
    """Frames timed by the clock as they come, collected by a thread into a box that holds `seconds` of them: beyond that the oldest are dropped."""

    def __init__(self, frames: Callable[[threading.Event], Iterator[np.ndarray]], fit: Callable[[np.ndarray], np.ndarray], seconds: float):
        self.dropped = 0
        self._open, self._fit = frames, fit
        self._box: collections.deque[Frame] = collections.deque(maxlen=max(round(seconds * MOST_FRAMES_A_SECOND), 1))
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._ended, self._error = False, None
        self._began: float | None = None  # when the first frame came
        self._thread: threading.Thread | None = None

    def take(self, until: float) -> tuple[list[Frame], float, bool]:
        if self._thread is None:
            self._thread = threading.Thread(target=self._collect, name="signvit_jax_frames", daemon=True)
            self._thread.start()
        with self._changed:
            while not self._ended and self._now() < until:
                self._changed.wait(None if self._began is None else until - self._now())
            if self._error is not None:
                raise self._error
            taken = list(self._box)
            self._box.clear()
            return taken, self._now(), self._ended

    def close(self) -> None:
        """The thread ends with the frame that it waits for."""
        self._stop.set()

    def _now(self) -> float:
        return 0.0 if self._began is None else time.monotonic() - self._began

    def _collect(self) -> None:
        thin = _Thinner()
        try:
            for picture in self._open(self._stop):
                arrived = time.monotonic()
                began = arrived if self._began is None else self._began
                if self._stop.is_set():
                    return
                fitted = self._fit(picture) if thin(arrived - began) else None
                with self._changed:
                    if self._began is None:
                        self._began = began
                        self._changed.notify()
                    if fitted is not None:
                        self.dropped += len(self._box) == self._box.maxlen
                        self._box.append(Frame(arrived - began, fitted, arrived))
        except Exception as error:
            self._error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify()


class LiveCaptions:
    """`read(pictures, rate)` gives the decoder's hypothesis about some frames and what CTC reads in them."""

    def __init__(
        self, read: Callable[[Sequence[np.ndarray], float], tuple[Hypothesis, str]], window_seconds: float, overlap: float, every: float, votes: int
    ):
        if not every > 0 or votes < 1:
            raise ConfigError(f"every is {every} and votes {votes}; allowed: seconds > 0 between hypotheses, and at least one vote")
        self._read, self._window, self._overlap, self._every = read, window_seconds, overlap, every
        self._votes: collections.deque[Hypothesis] = collections.deque(maxlen=votes)
        self._held: collections.deque[Frame] = collections.deque()
        self._begin = 0.0  # of what is not settled
        self._settled_until = 0.0
        self._last_words: tuple[Word, ...] = ()  # settled ones that the window may show again

    def follow(self, source: Source) -> Iterator[StreamUpdate]:
        """Ends with the source."""
        due, lost, ended = self._every, 0, False
        try:
            while not ended:
                frames, now, ended = source.take(due)
                lost += self._hold(frames, now)
                # Where reading took longer than `every`, the moments that have passed meanwhile are left out: the delay cannot add up.
                due += self._every * max(1, int((now - due) / self._every) + 1)
                if not self._held or not (frames or ended):
                    continue
                rate = (len(self._held) - 1) / max(self._held[-1].seconds - self._held[0].seconds, 1e-3) or 1.0
                hypothesis, partial = self._read([frame.picture for frame in self._held], rate)
                self._votes.append(hypothesis)
                newest = self._held[-1]
                text = self._elected().text
                settled = self._settle(newest.seconds, ended)
                yield StreamUpdate(now, partial, text, settled, time.monotonic() - newest.arrived, source.dropped + lost)
        finally:
            source.close()

    def _hold(self, frames: list[Frame], now: float) -> int:
        """Adds frames, lets go of those before the window, and says how many of these no hypothesis has seen."""
        self._begin = max(self._begin, now - self._window)
        self._held.extend(frames)
        fresh, lost = len(frames), 0
        while self._held and self._held[0].seconds < self._begin:
            self._held.popleft()
            lost += len(self._held) < fresh
        return lost

    def _elected(self) -> Hypothesis:
        """The newest hypothesis of the text that most votes are for; of texts with as many votes, the one said last."""
        counts = collections.Counter(vote.text for vote in self._votes)
        return max(reversed(self._votes), key=lambda vote: counts[vote.text])

    def _settle(self, end: float, ended: bool) -> tuple[Segment, ...]:
        elected = self._elected()
        span = end - self._held[0].seconds
        agree = len(self._votes) == self._votes.maxlen and all(vote.text == elected.text for vote in self._votes)
        full = span >= self._window - self._every
        if not (full or ended or (agree and elected.text and span >= self._window / 2)):
            return ()
        # Where all agree, a sentence is taken to be over; a full window may end in the middle of one.
        begin, is_over = self._held[0].seconds, bool(agree and elected.text)
        words = elected.words[shared_words(self._last_words, elected.words) :]
        self._votes.clear()
        self._last_words = () if is_over else elected.words
        self._begin = end if is_over else end - self._overlap * self._window
        if is_over:
            self._held.clear()
        if not words:
            return ()
        text = elected.text if len(words) == len(elected.words) else " ".join(word.text for word in words)
        confidence = sum(word.confidence for word in words) / len(words)
        start, self._settled_until = max(self._settled_until, begin), end
        return (Segment(start, end, text, elected.score, confidence, words),)


def open_source(
    frames: Iterable[np.ndarray] | int | str | os.PathLike,
    fps: float | None,
    fit: Callable[[np.ndarray], np.ndarray],
    short_side: int,
    seconds: float,
) -> Source:
    """The source of `Translator.stream`. `fit` brings a frame to the model's size, files are read with a `short_side` in pixels, and no more live
    frames are held than `seconds` have. Raises SourceError.
    """
    if isinstance(frames, int):
        return Live(_camera(frames), fit, seconds)
    if isinstance(frames, str | os.PathLike):
        return Live(lambda stop: _played(frames, short_side, stop), fit, seconds)
    if fps is None:
        return Live(lambda stop: iter(frames), fit, seconds)
    if not fps > 0:
        raise SourceError(f"fps is {fps}; allowed: frames a second > 0, or None for frames that come live")
    return Recording(frames, fps, fit)


def _camera(index: int) -> Callable[[threading.Event], Iterator[np.ndarray]]:
    try:
        import cv2
    except ImportError as error:
        raise SourceError(f"reading camera {index} needs OpenCV; install it with: pip install 'signvit-jax[camera]'") from error
    camera = cv2.VideoCapture(index)
    if not camera.isOpened():
        raise SourceError(f"camera {index} cannot be opened; is it connected, and free? Cameras are numbered from 0")

    def frames(stop: threading.Event) -> Iterator[np.ndarray]:
        try:
            while not stop.is_set():
                there, picture = camera.read()
                if not there:
                    raise SourceError(f"camera {index} gives no more pictures")
                yield np.ascontiguousarray(picture[..., ::-1])  # OpenCV's are BGR
        finally:
            camera.release()

    return frames


def _played(path: str | os.PathLike, short_side: int, stop: threading.Event) -> Iterator[np.ndarray]:
    """The pictures of a file, each at its time."""
    with open_video(path, Sampling(short_side, max_frame_rate=MOST_FRAMES_A_SECOND), _ENDLESS) as video:
        began, first = time.monotonic(), None
        for seconds, picture in video.frames:
            first = seconds if first is None else first
            if stop.wait(max(0.0, began + seconds - first - time.monotonic())):
                return
            yield picture


class _Thinner:
    """Says of each moment whether its frame is kept: at most `MOST_FRAMES_A_SECOND`, evenly."""

    def __init__(self):
        self._next = 0.0

    def __call__(self, seconds: float) -> bool:
        step = 1.0 / MOST_FRAMES_A_SECOND
        if seconds < self._next - 0.4 * step:  # cameras do not keep time to the millisecond
            return False
        self._next = max(self._next + step, seconds - step)
        return True
