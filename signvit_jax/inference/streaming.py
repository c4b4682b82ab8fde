"""Live captions: where frames come from, and how hypotheses about a sliding window become text that stays.

A hypothesis about the frames not yet settled is made every half second, and what most of the last three say is the text. What is settled, and will
not change, is cut where recordings are cut: where nobody signs. It is then read once more, from its
first frame to its last. Where CTC does not know times,
a text is settled when all of the last hypotheses agree on a window at least half full, or when the
window is full. No frame is let go that a later sign may
need: after such an agreement the window begins with the first of the votes that agreed, and a full one is seen again in part by the next.
"""

import collections
import dataclasses
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from signvit_jax.config.errors import ConfigError
from signvit_jax.data.schema import STORED_FRAME_RATE
from signvit_jax.errors.base import SignVitError
from signvit_jax.inference.joining import Joiner, echoed
from signvit_jax.inference.predictor import Hypothesis
from signvit_jax.inference.resting import Cutter, Piece, Sign, blocks, is_other_shot, motion
from signvit_jax.inference.subtitles import Segment
from signvit_jax.media.video import Sampling, VideoLimits, open_video
from signvit_jax.text.words import Word, words_text

_UNHEARD = 0.4  # seconds: CTC hears a sign that is under way only when so much of it, or more, has been seen
_PATIENCE = 1.5  # seconds beyond a window for which frames are held, so that a rest after long signing is seen
_ENDLESS = VideoLimits(
    max_seconds=86_400.0, max_frames=10_000_000, cpu_seconds=86_400.0, wall_seconds=3600.0
)


class SourceError(SignVitError, ValueError):
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

    def __init__(
        self, frames: Iterable[np.ndarray], fps: float, fit: Callable[[np.ndarray], np.ndarray]
    ):
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

    def __init__(
        self,
        frames: Callable[[threading.Event], Iterator[np.ndarray]],
        fit: Callable[[np.ndarray], np.ndarray],
        seconds: float,
    ):
        self.dropped = 0
        self._open, self._fit = frames, fit
        self._box: collections.deque[Frame] = collections.deque(
            maxlen=max(round(seconds * STORED_FRAME_RATE), 1)
        )
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._ended, self._error = False, None
        self._began: float | None = None  # when the first frame came
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


class Reading(NamedTuple):
    """What is read in some frames."""

    hypothesis: Hypothesis  # the decoder's
    partial: str  # CTC's
    signs: tuple[Sign, ...] | None = (
        None  # when CTC hears a sign, in seconds after the first frame; None where it knows no times
    )


Read = Callable[
    [Sequence[np.ndarray], float], Reading | tuple[Hypothesis, str]
]  # of pictures at so many a second


class LiveCaptions:
    """`read(pictures, rate)` gives the `Reading` of some frames. The window is at most `window_seconds` long; `rest_seconds` are the config's."""

    def __init__(
        self,
        read: Read,
        window_seconds: float,
        overlap: float,
        every: float,
        votes: int,
        rest_seconds: float = 2.0,
    ):
        if not every > 0 or votes < 1:
            raise ConfigError(
                f"every is {every} and votes {votes}; allowed: seconds > 0 between hypotheses, and at least one vote"
            )
        self._read, self._window, self._overlap, self._every = read, window_seconds, overlap, every
        self._votes: collections.deque[tuple[float, Hypothesis]] = collections.deque(
            maxlen=votes
        )  # with the time of the newest frame
        self._held: collections.deque[Frame] = collections.deque()
        self._cutter = Cutter(window_seconds, overlap, rest_seconds, patience=_PATIENCE)
        self._cuts = False  # whether CTC tells when signs are made
        self._joiner = Joiner(0.0)
        self._echo: tuple[
            str, ...
        ] = ()  # settled words that the window shows again at its beginning
        self._begin = 0.0  # of what is not settled
        self._seen: np.ndarray | None = None  # the newest frame in blocks

    def follow(self, source: Source) -> Iterator[StreamUpdate]:
        """Ends with the source."""
        due, lost, ended = self._every, 0, False
        try:
            while not ended:
                frames, now, ended = source.take(due)
                settled: list[Segment] = []
                for part, is_shot in self._shots(frames):
                    if is_shot:
                        settled += self._finish()
                        self._restart(part[0].seconds)
                    lost += self._hold(part, now)
                # Where reading took longer than `every`, the moments that have passed meanwhile are left out: the delay cannot add up.
                due += self._every * max(1, int((now - due) / self._every) + 1)
                if not self._held or not (frames or ended):
                    continue
                newest = self._held[-1]
                reading = self._hear(ended)
                self._votes.append((newest.seconds, reading.hypothesis))
                text = self._elected().text
                settled += (
                    self._cut(ended) if self._cuts else self._settle(newest.seconds, ended)
                ) + (self._joiner.finish() if ended else [])
                yield StreamUpdate(
                    now,
                    reading.partial,
                    text,
                    tuple(settled),
                    time.monotonic() - newest.arrived,
                    source.dropped + lost,
                )
        finally:
            source.close()

    def _shots(self, frames: list[Frame]) -> Iterator[tuple[list[Frame], bool]]:
        """The frames, parted where another shot begins (True)."""
        part, is_shot = [], False
        for frame in frames:
            coarse = blocks(frame.picture)
            if self._cuts and self._seen is not None:
                if is_other_shot(self._seen, coarse):
                    if part:
                        yield part, is_shot
                    part, is_shot = [], True
                else:
                    self._cutter.see(frame.seconds, motion(self._seen, coarse))
            self._seen = coarse
            part.append(frame)
        if part or not frames:
            yield part, is_shot

    def _hold(self, frames: list[Frame], now: float) -> int:
        """Adds frames, lets go of those before the window, and says how many of these no hypothesis has seen."""
        patience = _PATIENCE + _UNHEARD + 2 * self._every if self._cuts else 0.0
        self._begin = max(self._begin, now - self._window - patience)
        self._held.extend(frames)
        return self._let_go(len(frames))

    def _let_go(self, fresh: int = 0) -> int:
        lost = 0
        while self._held and self._held[0].seconds < self._begin:
            self._held.popleft()
            lost += len(self._held) < fresh
        return lost

    def _hear(self, ended: bool = False) -> Reading:
        """Reads the end of what is held, as much as a window has, and tells the cutter."""
        now = self._held[-1].seconds
        begin = max(self._begin, self._cutter.moving_since)
        since = min(
            max(begin, now - self._window), now
        )  # while nobody moves, the newest frame alone
        window = [frame for frame in self._held if frame.seconds >= since]
        reading = self._read_frames(window)
        self._cuts = reading.signs is not None
        if reading.signs is not None:
            start = window[0].seconds
            # Where the window does not reach back to where signing began, its first seconds were heard better before.
            trusted = start + (self._window / 4 if since > begin else 0.0)
            self._cutter.hear(
                [Sign(start + sign.start, start + sign.end) for sign in reading.signs],
                trusted,
                now if ended else now - _UNHEARD,
            )
        return reading

    def _read_frames(self, frames: Sequence[Frame]) -> Reading:
        rate = (len(frames) - 1) / max(frames[-1].seconds - frames[0].seconds, 1e-3) or 1.0
        return Reading(*self._read([frame.picture for frame in frames], rate))

    def _elected(self) -> Hypothesis:
        """The newest hypothesis of the text that most votes are for; of texts with as many votes, the one said last."""
        votes = [vote for _, vote in self._votes]
        counts = collections.Counter(vote.text for vote in votes)
        return max(reversed(votes), key=lambda vote: counts[vote.text])

    def _finish(self) -> list[Segment]:
        """What is held is all there is of its shot."""
        if not self._held:
            return []
        self._hear(ended=True)
        return self._cut(ended=True) + self._joiner.finish()

    def _restart(self, seconds: float) -> None:
        self._votes.clear()
        self._held.clear()
        self._cutter.restart(seconds)
        self._begin = seconds

    def _cut(self, ended: bool) -> list[Segment]:
        """The segments of the pieces that are certain, each read from its first frame to its last."""
        settled = []
        for piece in self._cutter.pieces(ended):
            said = self._read_piece(piece)
            settled += self._joiner.add(said) if said else []
            if not piece.goes_on:
                settled += self._joiner.finish()
            self._votes.clear()
        self._begin = max(self._begin, self._cutter.begin)
        self._let_go()
        return settled

    def _read_piece(self, piece: Piece) -> Segment | None:
        frames = [frame for frame in self._held if piece.start <= frame.seconds < piece.end]
        if not frames:
            return None
        said = self._read_frames(frames).hypothesis
        return Segment(piece.start, piece.end, said.text, said.score, said.confidence, said.words)

    def _settle(self, end: float, ended: bool) -> list[Segment]:
        """The votes decide: what is settled of the window that ends at `end`."""
        elected = self._elected()
        begin, full = (
            self._held[0].seconds,
            end - self._held[0].seconds >= self._window - self._every,
        )
        agree = len(self._votes) == self._votes.maxlen and all(
            vote.text == elected.text for _, vote in self._votes
        )
        is_over = bool(agree and elected.text) and (
            full or ended or end - begin >= self._window / 2
        )
        if not (full or ended or is_over):
            return []
        chosen = (
            elected if is_over else self._votes[-1][1]
        )  # without agreement: what has seen all of the frames
        words = chosen.words[echoed(self._echo, chosen.words) :]
        confidence = sum(word.confidence for word in words) / max(len(words), 1)
        said = Segment(begin, end, words_text(words), chosen.score, confidence, words)
        settled = self._joiner.add(said)
        if is_over:
            settled += self._joiner.finish()
            self._begin, self._echo = self._next_begin(
                (*self._echo, *(word.text for word in words))
            )
        else:
            self._begin, self._echo = end - self._overlap * self._window, ()
        self._votes.clear()
        return settled

    def _next_begin(self, said: Sequence[str]) -> tuple[float, tuple[str, ...]]:
        """Where the window begins once all votes agree: a sentence is taken to be over, but the next may have begun since the first of them.

        Signs that have begun since have changed no vote yet, so what is read in the frames since then is the rest of the last sign: those are left
        out as far as a later vote, and words that come again all the same are not said twice.
        """
        for seconds, _ in self._votes:
            if not any(frame.seconds >= seconds for frame in self._held) or not self._words_since(
                seconds
            ):
                return seconds, ()
        first = self._votes[0][0]
        again = self._words_since(first)
        return first, tuple(word.text for word in again[: echoed(said, again)])

    def _words_since(self, seconds: float) -> tuple[Word, ...]:
        return self._read_frames(
            [frame for frame in self._held if frame.seconds >= seconds]
        ).hypothesis.words


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
        raise SourceError(
            f"fps is {fps}; allowed: frames a second > 0, or None for frames that come live"
        )
    return Recording(frames, fps, fit)


def _camera(index: int) -> Callable[[threading.Event], Iterator[np.ndarray]]:
    try:
        import cv2
    except ImportError as error:
        raise SourceError(
            f"reading camera {index} needs OpenCV; install it with: pip install 'signvit-jax[camera]'"
        ) from error
    camera = cv2.VideoCapture(index)
    if not camera.isOpened():
        raise SourceError(
            f"camera {index} cannot be opened; is it connected, and free? Cameras are numbered from 0"
        )

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


def _played(
    path: str | os.PathLike, short_side: int, stop: threading.Event
) -> Iterator[np.ndarray]:
    """The pictures of a file, each at its time."""
    with open_video(
        path, Sampling(short_side, max_frame_rate=STORED_FRAME_RATE), _ENDLESS
    ) as video:
        began, first = time.monotonic(), None
        for seconds, picture in video.frames:
            first = seconds if first is None else first
            if stop.wait(max(0.0, began + seconds - first - time.monotonic())):
                return
            yield picture


class _Thinner:
    """Says of each moment whether its frame is kept: at most `STORED_FRAME_RATE`, evenly."""

    def __init__(self):
        self._next = 0.0

    def __call__(self, seconds: float) -> bool:
        step = 1.0 / STORED_FRAME_RATE
        if seconds < self._next - 0.4 * step:  # cameras do not keep time to the millisecond
            return False
        self._next = max(self._next + step, seconds - step)
        return True
