"""Live captions: how hypotheses about a sliding window become final text.

Every half second (`every`) a hypothesis is made about the frames whose text is not final yet. The
text shown is the most frequent one among the last three hypotheses (`votes`). Text becomes final,
and does not change any more, at the places where recordings are split: where nobody signs. Each
piece is then read once more, from its first frame to its last.

Where CTC has learned too little to give times, as from a few takes of single signs, motion alone
shows the rests (`by_motion`).

Where CTC cannot give times, because it does not read frames, a text becomes final when all of the
last hypotheses agree on a window that is at least half full, or when the window is full. No frame
that a later sign may need is dropped: after such an agreement the window begins at the newest frame
of one of the hypotheses that agreed (`_next_begin`), and the end of a full window is read again by
the next one.
"""

import collections
import dataclasses
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np

from signvit_jax.captions.segments import Segment
from signvit_jax.inference.frame_sources import Frame, FrameSource, PushedFrames, TakenFrames
from signvit_jax.inference.joining import Joiner, count_repeated
from signvit_jax.inference.predictor import Hypothesis
from signvit_jax.inference.resting import (
    Cutter,
    MotionSigns,
    Piece,
    Sign,
    block_means,
    is_new_shot,
    is_still,
    motion,
)
from signvit_jax.text.words import Word, later, words_text

# CTC detects the sign that is being made only when it has seen at least this many seconds of it.
_CTC_DELAY = 0.4
# Seconds for which frames are kept after they leave the window, to find a rest after long signing.
_PATIENCE = 1.5
# Where motion alone shows rests, this share of `rest_seconds` without motion is one.
_MOTION_REST = 0.6
# Where nothing at all has moved for this many seconds, signing is over. CTC may still detect a sign
# there, if the hands came to rest in its pose.
_STANDSTILL = 1.5


@dataclasses.dataclass(frozen=True)
class StreamUpdate:
    """The state of the captions after the frames up to `seconds` have been read."""

    seconds: float  # of the stream
    partial: str  # CTC's text of the frames whose text is not final yet
    text: str  # the text of those frames in most of the last hypotheses
    final: tuple[Segment, ...]  # segments that became final with this update, and will not change
    latency: float  # seconds from the arrival of the newest frame to this update
    dropped: int  # frames of the stream so far that are in no hypothesis


class Reading(NamedTuple):
    """The texts of some frames."""

    hypothesis: Hypothesis  # of the decoder
    partial: str  # of CTC
    # The signs that CTC detects, in seconds after the first frame; None where it gives no times.
    signs: tuple[Sign, ...] | None = None


# Functions that read images, given the frames per second at which they were taken. The times of
# words are in seconds after the first image.
Read = Callable[[Sequence[np.ndarray], float], Reading]
ReadFinal = Callable[[Sequence[np.ndarray], float], Hypothesis]


class LiveCaptions:
    """Captions of a stream.

    Args:
        read: Returns the `Reading` of images that were taken at a frame rate.
        window_seconds: Length of the longest window, > 0.
        overlap: Share of a full window that the next one reads again, from 0 to below 1.
        every: Seconds between hypotheses, > 0.
        votes: Number of hypotheses whose most frequent text is shown, >= 1.
        rest_seconds: As in `config.inference`.
        read_final: Reads a piece whose text becomes final, if not as `read` does.
        by_motion: Where CTC gives no times of signs, text becomes final at the rests in which
            nothing moves, and not when hypotheses agree.

    `clip_arguments.check_pace` has checked `every` and `votes`.
    """

    def __init__(
        self,
        read: Read,
        window_seconds: float,
        overlap: float,
        every: float,
        votes: int,
        rest_seconds: float = 2.0,
        read_final: ReadFinal | None = None,
        by_motion: bool = False,
    ):
        self._read = read
        self._read_final = read_final or (lambda images, rate: read(images, rate).hypothesis)
        self._window = window_seconds
        self._overlap = overlap
        self._every = every
        self.due = every  # the time of the stream at which it is read next
        self._unread = 0  # frames that were taken, and dropped before they were read
        # The last hypotheses, each with the time of its newest frame.
        self._votes: collections.deque[tuple[float, Hypothesis]] = collections.deque(maxlen=votes)
        self._held: collections.deque[Frame] = collections.deque()
        if by_motion:
            # Nothing moves between movements, even if a sign is held there, so that its time must
            # not count more than once.
            self._cutter = Cutter(
                window_seconds, overlap, _MOTION_REST * rest_seconds, _PATIENCE, still_weight=1.0
            )
        else:
            self._cutter = Cutter(window_seconds, overlap, rest_seconds, _PATIENCE)
        self._moving = MotionSigns() if by_motion else None
        self._moving_until = 0.0  # seconds up to which the cutter has the times of movement
        # Whether text becomes final at rests: CTC gives the times of signs, or motion does.
        self._finds_rests = by_motion
        self._joiner = Joiner(0.0)
        # Words of final segments whose frames are in the window again, at its beginning.
        self._repeated: tuple[str, ...] = ()
        self._begin = 0.0  # seconds from which on text is not final
        self._last: np.ndarray | None = None  # blocks of the newest frame
        # Time and blocks of the frame since which nothing has moved.
        self._still: tuple[float, np.ndarray] | None = None

    def follow(self, source: FrameSource) -> Iterator[StreamUpdate]:
        """Yield updates until the source ends."""
        try:
            has_ended = False
            while not has_ended:
                taken = source.take(self.due)
                has_ended = taken.has_ended
                yield from self.advance(taken, source.dropped)
        finally:
            source.close()

    def advance(self, taken: TakenFrames, dropped: int) -> Iterator[StreamUpdate]:
        """Read frames that a source gave for the time `due`; yield nothing without a new frame.

        If many frames have waited while something else was read, they are read in parts that fit
        one window, with an update for each part. `dropped` is the source's number of dropped
        frames.
        """
        # If reading took longer than `every`, the updates that were due meanwhile are skipped, so
        # that delays do not add up.
        now = taken.seconds
        self.due += self._every * max(1, int((now - self.due) / self._every) + 1)
        frames = taken.frames
        if self._last is None and frames and frames[0].seconds > 0:  # it began at another time
            self._restart(frames[0].seconds)
        while True:
            limit = self._part_end(frames)
            count = sum(frame.seconds <= limit for frame in frames)
            part, frames = frames[:count], frames[count:]
            if not frames:
                part = TakenFrames(part, now, taken.has_ended)
            else:
                part = TakenFrames(part, part[-1].seconds, False)
            update = self._advance(part, dropped)
            if update is not None:
                yield update
            if not frames:
                return

    def _part_end(self, frames: Sequence[Frame]) -> float:
        """The end, in seconds, of the first part of the waiting frames.

        A part is half a window: CTC detects its signs better from a window that has frames before
        or after them too. Where the votes make text final, a part ends with the window, so that no
        frame leaves the window before its text is final.
        """
        if not frames:
            return 0.0
        if self._held and not self._finds_rests:
            end = max(self._begin, self._held[0].seconds) + self._window
        else:
            newest = self._held[-1].seconds if self._held else frames[0].seconds
            end = newest + self._window / 2
        return max(end, frames[0].seconds)

    def _advance(self, taken: TakenFrames, dropped: int) -> StreamUpdate | None:
        """Read frames that are not longer than a window; return None if there is no new frame."""
        frames, now, ended = taken
        final: list[Segment] = []
        for shot, is_new in self._shots(frames):
            if is_new:
                final += self._finish_shot()
                self._restart(shot[0].seconds)
            self._unread += self._hold(shot, now)
        if not self._held or not (frames or ended):
            return None
        newest = self._held[-1]
        reading = self._read_window(ended)
        self._votes.append((newest.seconds, reading.hypothesis))
        text = self._majority().text
        if self._finds_rests:
            final += self._final_pieces(ended or self._stands_still(newest.seconds))
        else:
            final += self._final_votes(newest.seconds, ended)
        if ended:
            final += self._joiner.finish()
        return StreamUpdate(
            seconds=now,
            partial=reading.partial,
            text=text,
            final=tuple(final),
            latency=time.monotonic() - newest.arrived,
            dropped=dropped + self._unread,
        )

    def _shots(self, frames: list[Frame]) -> Iterator[tuple[list[Frame], bool]]:
        """Split the frames where a new shot begins; yield (frames, True if a new shot begins).

        Without frames it yields one empty, continued shot, so that `_hold` still drops old frames.
        """
        shot, is_new = [], False
        for frame in frames:
            blocks = block_means(frame.image)
            if self._finds_rests and self._last is not None:
                if is_new_shot(self._last, blocks):
                    if shot:
                        yield shot, is_new
                    shot, is_new = [], True
                else:
                    moved = motion(self._last, blocks)
                    self._cutter.add_motion(frame.seconds, moved)
                    if self._moving is not None:
                        self._moving.add(frame.seconds, moved)
            self._last = blocks
            if self._still is None or not is_still([self._still[1], blocks, blocks]):
                self._still = frame.seconds, blocks
            shot.append(frame)
        if shot or not frames:
            yield shot, is_new

    def _hold(self, frames: list[Frame], now: float) -> int:
        """Add frames and drop those before the window; return how many were never read."""
        # Text becomes final at a rest only some time after the rest began: frames are kept longer.
        step = now - self._held[-1].seconds if self._held else 0.0
        late = 2 * max(self._every, min(step, self._window / 2))
        patience = _PATIENCE + _CTC_DELAY + late if self._finds_rests else 0.0
        self._begin = max(self._begin, now - self._window - patience)
        self._held.extend(frames)
        return self._drop_old(len(frames))

    def _drop_old(self, new: int = 0) -> int:
        """Drop frames before the window; return how many of them were among the `new` newest."""
        unread = 0
        while self._held and self._held[0].seconds < self._begin:
            self._held.popleft()
            unread += len(self._held) < new
        return unread

    def _read_window(self, ended: bool = False) -> Reading:
        """Read the last window of the held frames, and give the cutter the signs in it."""
        now = self._held[-1].seconds
        begin = max(self._begin, self._cutter.moving_since)
        since = min(max(begin, now - self._window), now)  # the newest frame alone if nobody moves
        window = [frame for frame in self._held if frame.seconds >= since]
        reading = self._read_frames(window)
        if self._moving is not None:
            self._cutter.add_signs(self._moving.take(), self._moving_until, now)
            self._moving_until = now
            return reading
        self._finds_rests = reading.signs is not None
        if reading.signs is not None:
            start = window[0].seconds
            # If signing began before the window, an earlier window had more frames around the
            # first seconds of this one, so the signs of that one stay.
            trusted = start + (self._window / 4 if since > begin else 0.0)
            self._cutter.add_signs(
                [Sign(start + sign.start, start + sign.end) for sign in reading.signs],
                trusted,
                now if ended else now - _CTC_DELAY,
            )
        return reading

    def _read_frames(self, frames: Sequence[Frame]) -> Reading:
        return self._read(*_images(frames))

    def _majority(self) -> Hypothesis:
        """Return the newest hypothesis with the most frequent text.

        If several texts tie, that is the newest hypothesis with one of them.
        """
        votes = [vote for _, vote in self._votes]
        counts = collections.Counter(vote.text for vote in votes)
        return max(reversed(votes), key=lambda vote: counts[vote.text])

    def _finish_shot(self) -> list[Segment]:
        """The final segments of a shot that has ended."""
        if not self._held:
            return []
        self._read_window(ended=True)
        return self._final_pieces(ended=True) + self._joiner.finish()

    def _stands_still(self, now: float) -> bool:
        """Return True if nothing has moved for a while."""
        return self._still is not None and now - self._still[0] >= _STANDSTILL

    def _restart(self, seconds: float) -> None:
        self._votes.clear()
        self._held.clear()
        self._cutter.restart(seconds)
        if self._moving is not None:
            self._moving.restart()
        self._moving_until = seconds
        self._begin = seconds

    def _final_pieces(self, ended: bool) -> list[Segment]:
        """The segments of the pieces that are final, each read from its first frame to its last."""
        final = []
        for piece in self._cutter.pieces(ended):
            segment = self._read_piece(piece)
            final += self._joiner.add(segment) if segment else []
            if not piece.overlaps_next:
                final += self._joiner.finish()
            self._votes.clear()
        self._begin = max(self._begin, self._cutter.begin)
        self._drop_old()
        return final

    def _read_piece(self, piece: Piece) -> Segment | None:
        frames = [frame for frame in self._held if piece.start <= frame.seconds < piece.end]
        if not frames:
            return None
        read = self._read_final(*_images(frames))
        words = tuple(later(word, frames[0].seconds) for word in read.words)
        return Segment(piece.start, piece.end, read.text, read.score, read.confidence, words)

    def _final_votes(self, end: float, ended: bool) -> list[Segment]:
        """The segments that the votes make final, of the window that ends at `end` seconds."""
        majority = self._majority()
        begin = self._held[0].seconds
        is_full = end - begin >= self._window - self._every
        agree = len(self._votes) == self._votes.maxlen and all(
            vote.text == majority.text for _, vote in self._votes
        )
        is_long = is_full or ended or end - begin >= self._window / 2
        is_over = bool(agree and majority.text) and is_long
        if not (is_full or ended or is_over):
            return []
        # Without agreement: the last hypothesis, which has read all of the frames.
        chosen = majority if is_over else self._votes[-1][1]
        words = chosen.words[count_repeated(self._repeated, chosen.words) :]
        confidence = sum(word.confidence for word in words) / max(len(words), 1)
        segment = Segment(begin, end, words_text(words), chosen.score, confidence, words)
        final = self._joiner.add(segment)
        if is_over:
            final += self._joiner.finish()
            texts = (*self._repeated, *(word.text for word in words))
            self._begin, self._repeated = self._next_begin(texts)
        else:
            self._begin, self._repeated = end - self._overlap * self._window, ()
        self._votes.clear()
        return final

    def _next_begin(self, final: Sequence[str]) -> tuple[float, tuple[str, ...]]:
        """Return where the window begins after all votes agreed, and the words repeated in it.

        The sentence is assumed to be over, but the next one may have begun since the first vote. So
        the window begins at the newest frame of the earliest vote after which the frames contain no
        words. If there is no such vote, it begins at the first one, and final words that its frames
        show again are skipped.
        """
        for seconds, _ in self._votes:
            if not any(frame.seconds >= seconds for frame in self._held):
                return seconds, ()
            if not self._words_since(seconds):
                return seconds, ()
        first = self._votes[0][0]
        again = self._words_since(first)
        count = count_repeated(final, again)
        return first, tuple(word.text for word in again[:count])

    def _words_since(self, seconds: float) -> tuple[Word, ...]:
        frames = [frame for frame in self._held if frame.seconds >= seconds]
        return self._read_frames(frames).hypothesis.words


def _images(frames: Sequence[Frame]) -> tuple[list[np.ndarray], float]:
    """Images and frames per second of some frames."""
    rate = (len(frames) - 1) / max(frames[-1].seconds - frames[0].seconds, 1e-3) or 1.0
    return [frame.image for frame in frames], rate


class LiveSession:
    """Live captions of frames that are pushed: `Translator.live` makes it.

    Frames may be pushed by one thread while another one reads the updates, or both by one. Leaving
    the `with` block ends the session: the rest of the text becomes final with the updates that are
    read after it. Leaving it by an exception cancels the session.
    """

    def __init__(self, captions: LiveCaptions, frames: PushedFrames):
        self._captions = captions
        self._frames = frames
        self._reading = threading.Lock()
        self._is_cancelled = False
        self._updates: Iterator[StreamUpdate] = iter(())  # of the frames that were taken last
        self._has_taken_all = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.end()
        else:
            self.cancel()

    @property
    def has_ended(self) -> bool:
        """True once further frames are refused."""
        return self._frames.has_ended

    def push(self, frame: np.ndarray, seconds: float | None = None) -> bool:
        """Add a frame, uint8 RGB (h, w, 3), that was taken at `seconds` of the stream.

        Without `seconds` its time is that of the clock since the first frame. Frames beyond 25 per
        second are skipped. At most the frames of two windows wait to be read; beyond that the
        oldest are dropped, and `StreamUpdate.dropped` counts them. After the end, ignores the frame
        and returns False. Raises ClipError for another array, and SourceError for a time before the
        last one.
        """
        return self._frames.push(frame, seconds)

    def updates(self, *, wait: bool = False) -> Iterator[StreamUpdate]:
        """Yield the updates that are due; their frames are read in this thread.

        One update is due every `every` seconds of the stream, and a last one, with the rest of the
        text, after the end. If reading falls behind, there are fewer updates, about longer parts.
        With `wait`, wait for frames of another thread, until the session has ended or is cancelled.
        """
        while True:
            with self._reading:
                update = self._next_update(wait)
            if update is None:
                return
            yield update

    def end(self) -> None:
        """Say that no frame will follow; what has not been read yet becomes final."""
        self._frames.end()

    def cancel(self) -> None:
        """End at once, from any thread: `updates` yields nothing more."""
        self._is_cancelled = True
        self._frames.close()

    def _next_update(self, wait: bool) -> StreamUpdate | None:
        """Return the next update; None if it is not due yet, or there is no more."""
        while not self._is_cancelled:
            update = next(self._updates, None)
            if update is not None:
                return None if self._is_cancelled else update
            if self._has_taken_all:
                return None
            take = self._frames.take if wait else self._frames.take_if_due
            taken = take(self._captions.due)
            if taken is None:
                return None
            self._has_taken_all = taken.has_ended
            self._updates = self._captions.advance(taken, self._frames.dropped)
        return None
