"""When nobody signs: what tells it, and where a recording is cut because of it.

Two things tell it. CTC says of every sign when it is made and how sure it is, and between sentences
it says nothing for longer than between the signs of
one. And hands that rest do not move. Where CTC does not know times (`model.ctc.source="queries"`), motion alone tells.
"""

import collections
import itertools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

# What a sign takes besides the frames in which CTC hears it, in seconds: the hands come up to a
# sentence's first one and go home from the last. Of 160
# test clips of synthetic_signs 99 % begin less than 0.75 s before CTC's first sign and end less than 0.55 s after its last.
LEAD, TAIL = 0.8, 0.6
AT_REST = 0.2  # seconds of rest that a piece shows before and after its signs: clips that people cut begin and end so
STILL_COUNTS = (
    7.0  # times: hands that do not move are a surer sign of rest than a CTC that hears nothing
)
STILL = 0.25  # of the motion of signing (its median): hands that move less rest. Resting signers of synthetic_signs: 0.1, at most 0.3
FROZEN = 2.0  # gray levels: a video that changes less from frame to frame shows no motion at all
_GRID = 16  # motion is seen in so many blocks to a side: noise is averaged out, hands are not
_HANDS = 8  # blocks that move most
_SHOT_LEVELS, _SHOT_SHARE = (
    12.0,
    0.6,
)  # of all blocks that many change by so much from one frame to the next: another shot
ALONE = 8  # frames: a sign takes about so many with the movements into it and out of it


class Heard(NamedTuple):
    """A sign that CTC heard in a clip: the sampled frames from `start` to before `end`."""

    start: int
    end: int
    confidence: float  # its mean probability in them
    peak: float  # its largest log-odds in one of them, against all that it might be else, nats


class Sign(NamedTuple):
    """Seconds of the video in which something is signed."""

    start: float
    end: float

    @property
    def middle(self) -> float:
        return (self.start + self.end) / 2

    def is_mostly_in(self, other: "Sign") -> bool:
        return min(self.end, other.end) - max(self.start, other.start) > 0.5 * (
            self.end - self.start
        )


class Piece(NamedTuple):
    """Seconds of a video that are read as one clip."""

    start: float
    end: float
    goes_on: bool = False  # the next piece sees the end of this one again


def evidence(heard: Sequence[Heard]) -> float:
    """How surely somebody signs: the log-odds of what CTC heard, a frame from the first sign to the last and ALONE more. 0 where it heard nothing.

    Hands that do something else, at rest or at the head, now and then look like a sign, too; but signs follow one another, each of them sure.
    """
    if not heard:
        return 0.0
    return sum(one.peak for one in heard) / (heard[-1].end - heard[0].start + ALONE)


def blocks(frame: UInt8[np.ndarray, "s s 3"]) -> Float[np.ndarray, "g g 3"]:
    """The frame in coarse blocks, in gray levels: what motion is measured on."""
    side = frame.shape[0]
    width = max(side // _GRID, 1)
    grid = side // width
    return (
        frame[: grid * width, : grid * width]
        .reshape(grid, width, grid, width, 3)
        .mean(axis=(1, 3), dtype=np.float32)
    )


def motion(before: Float[np.ndarray, "g g 3"], after: Float[np.ndarray, "g g 3"]) -> float:
    """What the blocks that change most change by, in gray levels."""
    change = np.abs(after - before).max(axis=-1).ravel()
    few = min(_HANDS, change.size)
    return float(np.partition(change, change.size - few)[-few:].mean())


def is_other_shot(before: Float[np.ndarray, "g g 3"], after: Float[np.ndarray, "g g 3"]) -> bool:
    """Whether nearly all of the image changes at once: a cut of the film, which no person in it can make."""
    return float((np.abs(after - before).max(axis=-1) > _SHOT_LEVELS).mean()) >= _SHOT_SHARE


def is_frozen(frames: UInt8[np.ndarray, "t s s 3"] | Sequence[UInt8[np.ndarray, "s s 3"]]) -> bool:
    """Whether at least three frames show no motion at all."""
    if len(frames) < 3:
        return False
    seen = [blocks(frame) for frame in frames]
    return all(motion(seen[0], other) < FROZEN for other in seen[1:])


def moving(motions: Sequence[tuple[float, float]], reference: float) -> list[Sign]:
    """The times in which something moves, of (seconds, motion since the frame before) in
    order; `reference` is what motion is while somebody signs.
    """
    level, found = max(STILL * reference, FROZEN), []
    for (before, _), (at, moved) in itertools.pairwise(motions):
        if moved >= level:
            if found and found[-1].end >= before - 1e-6:
                found[-1] = Sign(found[-1].start, at)
            else:
                found.append(Sign(before, at))
    return found


class Cutter:
    """Cuts a video where nobody signs, as it comes: told what moves (`see`) and what CTC heard (`hear`), it gives the pieces that are certain.

    A rest is `rest_seconds` long or longer, seconds in which nothing moves counted STILL_COUNTS
    times. A piece is at most `longest` seconds long. Longer signing is
    cut where it pauses most or, where it does not pause, into windows of that length of which each sees again the share `overlap` of the one
    before; it is known as longer once it has lasted `patience` seconds more.
    """

    def __init__(self, longest: float, overlap: float, rest_seconds: float, patience: float = 0.0):
        self._longest, self._overlap, self._rest, self._patience = (
            longest,
            overlap,
            rest_seconds,
            patience,
        )
        self._signs: list[Sign] = []  # not yet in a piece, or to be seen again by the next window
        self._begin = 0.0  # nothing before is part of another piece
        self._overlapping = False  # the last piece was a window that the next one overlaps
        self._until = 0.0  # what is heard up to here is final
        self._motions: collections.deque[tuple[float, float]] = (
            collections.deque()
        )  # seconds, motion since the frame before
        self._signing: collections.deque[float] = collections.deque(
            maxlen=2000
        )  # motion while somebody signed

    @property
    def begin(self) -> float:
        """Seconds: no later piece begins earlier."""
        return self._begin

    @property
    def moving_since(self) -> float:
        """Seconds at which the piece that is not certain yet begins, or could begin: the rest before it is left out."""
        level = STILL * float(np.median(self._signing)) if self._signing else 0.0
        moved = next(
            (at for at, moved in self._motions if at > self._begin and moved >= level), self._begin
        )
        return self._begin if self._overlapping else max(self._begin, moved - AT_REST)

    def restart(self, seconds: float) -> None:
        """Another shot begins: what comes is no part of what was."""
        self._signs, self._begin, self._until, self._overlapping = [], seconds, seconds, False
        self._motions.clear()

    def see(self, seconds: float, moved: float) -> None:
        self._motions.append((seconds, moved))

    def hear(self, signs: Iterable[Sign], since: float, until: float) -> None:
        """What is signed from `since` on, in place of what was heard there before; up to `until` all is heard."""
        kept = [sign for sign in self._signs if sign.middle < since]
        # Two windows hear a sign at not quite the same time; at `since` it is to be there once, and not twice or never.
        new = [
            sign
            for sign in signs
            if sign.middle >= max(since - 0.5, self._begin)
            and not (kept and sign.is_mostly_in(kept[-1]))
        ]
        self._signs = kept + [
            sign
            for sign in new
            if sign.middle >= since or not kept or sign.start >= kept[-1].middle
        ]
        self._signing.extend(
            moved
            for at, moved in self._motions
            if self._until < at <= until and any(s.start <= at <= s.end for s in self._signs)
        )
        # CTC hears things in hands that rest, too, above all in another pose than training showed.
        self._signs = [sign for sign in self._signs if not self._is_still(sign)]
        self._until = max(self._until, until)
        if not self._signs:  # what is older is not waited for, however long nobody signs
            self._begin = max(self._begin, self._until - self._longest)
        while self._motions and self._motions[0][0] < min(self._begin, self._until - self._longest):
            self._motions.popleft()

    def settle(self, start: float, end: float) -> None:
        """Somebody else has cut: what is before `end` is said."""
        self._leave(end)

    def pieces(self, ended: bool = False) -> list[Piece]:
        """The pieces that are certain by now, in order of time; all of them where the video, or the shot, has `ended`."""
        found: list[Piece] = []
        while self._signs:
            start = self._start()
            count = self._group()
            last = self._signs[count - 1]
            following = self._signs[count].start if count < len(self._signs) else self._until
            is_over = ended or count < len(self._signs) or self._is_rest(last.end, self._until)
            end = (
                self._boundary(last.end, following, bounded=count < len(self._signs))
                if is_over
                else self._until
            )
            if is_over and end - start <= self._longest:
                found.append(Piece(start, end))
                self._leave(end, count)
            elif end - start > self._longest + (0.0 if is_over else self._patience):
                found.append(self._part(start, count))
            else:
                break
        return found

    def _start(self) -> float:
        first = self._signs[0].start
        earliest = self._begin if self._overlapping else max(self._begin, first - LEAD)
        still = [] if self._overlapping else self._stillness(earliest, first)
        return max(earliest, still[-1][1] - AT_REST) if still else earliest

    def _leave(self, end: float, signs: int | None = None) -> None:
        """What ends at `end` is a piece; with `signs` that many of them are in it, else those that end before."""
        count = sum(sign.end <= end for sign in self._signs) if signs is None else signs
        self._signs, self._begin, self._overlapping = self._signs[count:], end, False

    def _group(self) -> int:
        """How many signs follow one another without a rest, from the first on."""
        for number, (one, other) in enumerate(zip(self._signs, self._signs[1:]), 1):
            if self._is_rest(one.end, other.start):
                return number
        return len(self._signs)

    def _part(self, start: float, count: int) -> Piece:
        """The first piece of signing that is too long for one."""
        pauses = []
        for number in range(1, count):
            before, after = self._signs[number - 1].end, self._signs[number].start
            at = self._boundary(before, after, bounded=True)
            if start + self._longest / 3 <= at <= start + self._longest:
                pauses.append((self._rested(before, after), at, number))
        most = max(pauses, default=(0.0, 0.0, 0))
        if most[0] >= self._rest / 2:
            self._leave(most[1], most[2])
            return Piece(start, most[1])
        end = start + self._longest
        self._begin, self._overlapping = end - self._overlap * self._longest, self._overlap > 0
        self._signs = [sign for sign in self._signs if sign.end > self._begin]
        return Piece(start, end, self._overlapping)

    def _is_rest(self, start: float, end: float) -> bool:
        return self._rested(start, end) >= self._rest

    def _rested(self, start: float, end: float) -> float:
        """Seconds without a sign, those in which nothing moves counted STILL_COUNTS times."""
        return max(end - start, 0.0) + (STILL_COUNTS - 1.0) * sum(
            b - a for a, b in self._stillness(start, end)
        )

    def _is_still(self, sign: Sign) -> bool:
        return sum(b - a for a, b in self._stillness(*sign)) > 0.8 * (sign.end - sign.start)

    def _stillness(self, start: float, end: float) -> list[tuple[float, float]]:
        """The times within in which nothing moves."""
        if not self._signing or end <= start:
            return []
        level, runs, before = STILL * float(np.median(self._signing)), [], None
        for at, moved in self._motions:
            if before is not None and at > start and before < end and moved < level:
                first, last = max(before, start), min(at, end)
                if runs and runs[-1][1] >= first - 1e-6:
                    runs[-1] = (runs[-1][0], last)
                else:
                    runs.append((first, last))
            before = at
        return runs

    def _boundary(self, end: float, start: float, bounded: bool) -> float:
        """Where a piece ends whose last sign ends at `end`; the next sign, if it is `bounded` by one, begins at `start`."""
        still = self._stillness(end, min(start, end + LEAD + TAIL))
        if still:
            first, last = max(still, key=lambda run: run[1] - run[0])
            return min((first + last) / 2, first + AT_REST)
        if bounded and start - end < LEAD + TAIL:
            return end + (start - end) * TAIL / (LEAD + TAIL)
        return min(end + TAIL, max(start, end))
