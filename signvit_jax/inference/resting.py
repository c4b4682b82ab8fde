"""Rest, that is time in which nobody signs: how it is detected, and where a video is split at it.

Two things show rest. CTC gives the time of each sign and how sure it is of it; between two
sentences it detects nothing for longer than between two signs of one sentence. And hands at rest do
not move. Where CTC gives no times (`model.ctc.source="queries"`), motion alone decides.
"""

import collections
import itertools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

# Seconds of movement around the frames in which CTC detects signs: the hands come up to the first
# sign of a sentence and go down after the last. In 160 test clips of synthetic_signs, 99 % begin
# less than 0.75 s before CTC's first sign and end less than 0.55 s after its last.
_LEAD, _TAIL = 0.8, 0.6
# Seconds of rest in a piece before and after its signs, as in clips that people cropped by hand.
_MARGIN = 0.2
# A second without motion counts as this many seconds of rest: it is the surer of the two
# indications.
_STILL_WEIGHT = 7.0
# Hands are still below this share of the median motion of signing. Signers of synthetic_signs at
# rest: 0.1, at most 0.3.
_STILL_SHARE = 0.25
# Motion is more than this multiple of the camera's noise, which is at most _MAX_NOISE gray levels.
_NOISE_FACTOR, _MAX_NOISE = 3.0, 3.0
_MIN_MOTION = 2.0  # gray levels: a smaller change from frame to frame is noise
_GRID = 16  # motion is measured on blocks, this many per side: averages hide noise but not hands
_HAND_BLOCKS = 8  # the number of blocks that move most
# A new shot: at least this share of all blocks changes by more than this many gray levels at once.
_SHOT_SHARE, _SHOT_LEVELS = 0.6, 12.0
_SIGN_FRAMES = 8  # frames of one sign, with the movements into it and out of it
_MAX_MOTIONS = 2000  # motions of signing whose median is kept
_STILL_SIGN = 0.8  # a detected sign with no motion in more than this share of its time is no sign


class CtcSign(NamedTuple):
    """A sign that CTC detected in a clip: the sampled frames from `start` to before `end`."""

    start: int
    end: int
    confidence: float  # mean probability over its frames
    peak: float  # its largest log-odds in one frame, against all other labels, in nats


class Sign(NamedTuple):
    """A time, in seconds of the video, in which something is signed."""

    start: float
    end: float

    @property
    def middle(self) -> float:
        return (self.start + self.end) / 2

    def is_mostly_in(self, other: "Sign") -> bool:
        common = min(self.end, other.end) - max(self.start, other.start)
        return common > 0.5 * (self.end - self.start)


class Piece(NamedTuple):
    """A part of a video, in seconds, that is read as one clip."""

    start: float
    end: float
    overlaps_next: bool = False  # the next piece begins before the end of this one


def evidence(signs: Sequence[CtcSign]) -> float:
    """Certainty that somebody signs: the signs' log-odds per frame, in nats; 0 without signs.

    The frames are those from the first sign to the last, and _SIGN_FRAMES more. A single movement
    of resting hands can look like a sign; in signing, one sure sign follows another.
    """
    if not signs:
        return 0.0
    return sum(sign.peak for sign in signs) / (signs[-1].end - signs[0].start + _SIGN_FRAMES)


def block_means(frame: UInt8[np.ndarray, "s s 3"]) -> Float[np.ndarray, "g g 3"]:
    """Mean gray levels of the frame's blocks; motion is measured on them."""
    side = frame.shape[0]
    width = max(side // _GRID, 1)
    grid = side // width
    return (
        frame[: grid * width, : grid * width]
        .reshape(grid, width, grid, width, 3)
        .mean(axis=(1, 3), dtype=np.float32)
    )


def motion(before: Float[np.ndarray, "g g 3"], after: Float[np.ndarray, "g g 3"]) -> float:
    """Mean change, in gray levels, of the blocks that change most."""
    change = np.abs(after - before).max(axis=-1).ravel()
    count = min(_HAND_BLOCKS, change.size)
    return float(np.partition(change, change.size - count)[-count:].mean())


def is_new_shot(before: Float[np.ndarray, "g g 3"], after: Float[np.ndarray, "g g 3"]) -> bool:
    """Return True if most of the image changes at once, more than a moving person changes it."""
    return float((np.abs(after - before).max(axis=-1) > _SHOT_LEVELS).mean()) >= _SHOT_SHARE


def is_frozen(frames: UInt8[np.ndarray, "t s s 3"] | Sequence[UInt8[np.ndarray, "s s 3"]]) -> bool:
    """Return True if three or more frames show no motion at all."""
    return is_still([block_means(frame) for frame in frames])


def is_still(blocks: Sequence[Float[np.ndarray, "g g 3"]]) -> bool:
    """Return True if three or more frames, as their `block_means`, show no motion at all."""
    if len(blocks) < 3:
        return False
    first, *others = blocks
    return all(motion(first, other) < _MIN_MOTION for other in others)


def moving_times(motions: Sequence[tuple[float, float]], reference: float) -> list[Sign]:
    """Return the times in which something moves.

    `motions` has (seconds, motion since the frame before) in order; `reference` is the motion of
    somebody who signs.
    """
    level = max(_STILL_SHARE * reference, _MIN_MOTION)
    found: list[Sign] = []
    for (before, _), (at, moved) in itertools.pairwise(motions):
        if moved >= level:
            if found and found[-1].end >= before - 1e-6:
                found[-1] = Sign(found[-1].start, at)
            else:
                found.append(Sign(before, at))
    return found


class MotionSigns:
    """Times of movement, which stand for signs where CTC gives no times.

    Somebody signs while the motion reaches two levels: a share of the usual motion of signing (the
    90th percentile of the newest motions), and a multiple of the camera's noise (their 10th
    percentile).
    """

    def __init__(self) -> None:
        # The last three frames: (seconds, motion since the frame before).
        self._newest: collections.deque[tuple[float, float]] = collections.deque(maxlen=3)
        # The same, smoothed, of the frames since the last call of `take`.
        self._motions: list[tuple[float, float]] = []
        self._levels: collections.deque[float] = collections.deque(maxlen=_MAX_MOTIONS)

    def add(self, seconds: float, moved: float) -> None:
        """Add a frame's time, and its motion since the frame before.

        The median of three frames counts: a video's key frames differ from their neighbors.
        """
        self._newest.append((seconds, moved))
        if len(self._newest) == 3:
            self._motions.append((self._newest[1][0], sorted(m for _, m in self._newest)[1]))

    def take(self) -> list[Sign]:
        """Return the times of movement in the frames since the last call."""
        self._levels.extend(moved for _, moved in self._motions)
        noise, signing = np.quantile(self._levels, (0.1, 0.9)) if self._levels else (0.0, 0.0)
        least = _NOISE_FACTOR * min(float(noise), _MAX_NOISE)
        reference = max(float(signing), least / _STILL_SHARE)
        signs = moving_times(self._motions, reference)
        self._motions = self._motions[-1:]
        return signs

    def restart(self) -> None:
        """Begin a new shot; the motion of signing stays known."""
        self._newest.clear()
        self._motions = []


class MotionHistory:
    """The motion of a video's frames, and the motion that signing usually has in it."""

    def __init__(self) -> None:
        # (seconds, motion since the frame before)
        self._motions: collections.deque[tuple[float, float]] = collections.deque()
        # Motions while somebody signed.
        self._signing: collections.deque[float] = collections.deque(maxlen=_MAX_MOTIONS)

    def add(self, seconds: float, moved: float) -> None:
        """Add a frame's time, and its motion since the frame before."""
        self._motions.append((seconds, moved))

    def add_signing(self, signs: Sequence[Sign], since: float, until: float) -> None:
        """Learn the motion of signing from `signs`, which are complete between the two times."""
        self._signing.extend(
            moved
            for at, moved in self._motions
            if since < at <= until and any(sign.start <= at <= sign.end for sign in signs)
        )

    def forget_before(self, seconds: float) -> None:
        while self._motions and self._motions[0][0] < seconds:
            self._motions.popleft()

    def forget_frames(self) -> None:
        """Forget the frames of a shot that is over, but not the motion of signing."""
        self._motions.clear()

    def first_motion(self, after: float) -> float | None:
        """Return when something first moves after a time, in seconds."""
        level = self._still_level()
        return next((at for at, moved in self._motions if at > after and moved >= level), None)

    def still_seconds(self, start: float, end: float) -> float:
        """Seconds between two times in which nothing moves."""
        return sum(last - first for first, last in self.still_times(start, end))

    def still_times(self, start: float, end: float) -> list[tuple[float, float]]:
        """Return the times between `start` and `end` in which nothing moves, in order.

        The list is empty before anybody has signed: only the motion of signing tells what is still.
        """
        if not self._signing or end <= start:
            return []
        level = self._still_level()
        runs: list[tuple[float, float]] = []
        for (before, _), (at, moved) in itertools.pairwise(self._motions):
            if at > start and before < end and moved < level:
                first, last = max(before, start), min(at, end)
                if runs and runs[-1][1] >= first - 1e-6:
                    runs[-1] = (runs[-1][0], last)
                else:
                    runs.append((first, last))
        return runs

    def _still_level(self) -> float:
        """The motion below which hands are still; 0 before anybody has signed."""
        return _STILL_SHARE * float(np.median(self._signing)) if self._signing else 0.0


class Cutter:
    """Splitting of a video at rests while it arrives, from its motion and the signs of CTC.

    A rest lasts at least `rest_seconds`; seconds in which nothing moves count `still_weight` times.
    A piece lasts at most `max_seconds`. Longer signing is split at its longest pause or, without a
    pause, into windows of `max_seconds`, each of which repeats the share `overlap` of the one
    before. Signing counts as longer only once it has lasted `patience` seconds more.
    """

    def __init__(
        self,
        max_seconds: float,
        overlap: float,
        rest_seconds: float,
        patience: float = 0.0,
        still_weight: float = _STILL_WEIGHT,
    ):
        self._max_seconds = max_seconds
        self._overlap = overlap
        self._rest = rest_seconds
        self._patience = patience
        self._still_weight = still_weight
        self._signs: list[Sign] = []  # in no piece yet, or repeated by the next window
        self._begin = 0.0  # seconds before which no later piece begins
        self._overlapping = False  # the last piece was a window that the next one overlaps
        self._until = 0.0  # seconds up to which the signs are complete
        self._history = MotionHistory()

    @property
    def begin(self) -> float:
        """Seconds before which no later piece begins."""
        return self._begin

    @property
    def moving_since(self) -> float:
        """Seconds at which the next piece begins or may begin, after the rest before it."""
        moved = self._history.first_motion(self._begin)
        if self._overlapping or moved is None:
            return self._begin
        return max(self._begin, moved - _MARGIN)

    def restart(self, seconds: float) -> None:
        """Begin a new shot; no piece continues from the one before it."""
        self._signs = []
        self._begin = seconds
        self._until = seconds
        self._overlapping = False
        self._history.forget_frames()

    def add_motion(self, seconds: float, moved: float) -> None:
        """Add a frame's time, and its motion since the frame before."""
        self._history.add(seconds, moved)

    def add_signs(self, signs: Iterable[Sign], since: float, until: float) -> None:
        """Replace the signs from `since` on; up to `until` they are complete."""
        kept = [sign for sign in self._signs if sign.middle < since]
        # Two windows give one sign slightly different times. A sign near `since` must be counted
        # exactly once.
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
        self._history.add_signing(self._signs, self._until, until)
        # CTC detects signs in resting hands too, mostly in a pose that training did not show.
        self._signs = [sign for sign in self._signs if not self._is_still(sign)]
        self._until = max(self._until, until)
        if not self._signs:  # forget old frames, however long nobody signs
            self._begin = max(self._begin, self._until - self._max_seconds)
        self._history.forget_before(min(self._begin, self._until - self._max_seconds))

    def pieces(self, ended: bool = False) -> list[Piece]:
        """Return the pieces that are final by now, in order of time.

        All are final if the video, or the shot, has `ended`.
        """
        found: list[Piece] = []
        while (piece := self._take_piece(ended)) is not None:
            found.append(piece)
        return found

    def _take_piece(self, ended: bool) -> Piece | None:
        """Take the signs of the first piece, if it is final, and return it."""
        if not self._signs:
            return None
        start = self._start()
        count = self._count_until_rest()
        last = self._signs[count - 1]
        is_followed = count < len(self._signs)
        following = self._signs[count].start if is_followed else self._until
        is_over = ended or is_followed or self._is_rest(last.end, self._until)
        end = self._boundary(last.end, following, is_followed) if is_over else self._until
        if is_over and end - start <= self._max_seconds:
            self._remove(end, count)
            return Piece(start, end)
        if end - start > self._max_seconds + (0.0 if is_over else self._patience):
            return self._split_long(start, count)
        return None  # it may still go on

    def _start(self) -> float:
        """Seconds at which the first piece begins: a little before its first movement."""
        if self._overlapping:
            return self._begin
        first = self._signs[0].start
        earliest = max(self._begin, first - _LEAD)
        still = self._history.still_times(earliest, first)
        return max(earliest, still[-1][1] - _MARGIN) if still else earliest

    def _remove(self, end: float, count: int) -> None:
        """Remove the first `count` signs, which are in a piece that ends at `end`."""
        self._signs = self._signs[count:]
        self._begin = end
        self._overlapping = False

    def _count_until_rest(self) -> int:
        """Number of signs, from the first on, that follow one another without a rest."""
        for number, (one, other) in enumerate(zip(self._signs, self._signs[1:]), 1):
            if self._is_rest(one.end, other.start):
                return number
        return len(self._signs)

    def _split_long(self, start: float, count: int) -> Piece:
        """The first piece of too long signing: up to its longest pause, or a window."""
        pauses = []
        for number in range(1, count):
            before, after = self._signs[number - 1].end, self._signs[number].start
            at = self._boundary(before, after, is_followed=True)
            if start + self._max_seconds / 3 <= at <= start + self._max_seconds:
                pauses.append((self._rest_between(before, after), at, number))
        longest, at, number = max(pauses, default=(0.0, 0.0, 0))
        if longest >= self._rest / 2:
            self._remove(at, number)
            return Piece(start, at)
        end = start + self._max_seconds
        self._begin = end - self._overlap * self._max_seconds
        self._overlapping = self._overlap > 0
        self._signs = [sign for sign in self._signs if sign.end > self._begin]
        return Piece(start, end, self._overlapping)

    def _is_rest(self, start: float, end: float) -> bool:
        return self._rest_between(start, end) >= self._rest

    def _rest_between(self, start: float, end: float) -> float:
        """Seconds without a sign; those in which nothing moves count `still_weight` times."""
        still = self._history.still_seconds(start, end)
        return max(end - start, 0.0) + (self._still_weight - 1.0) * still

    def _is_still(self, sign: Sign) -> bool:
        return self._history.still_seconds(*sign) > _STILL_SIGN * (sign.end - sign.start)

    def _boundary(self, end: float, start: float, is_followed: bool) -> float:
        """The end of a piece whose last sign ends at `end`.

        `start`: where the next sign begins, if the sign `is_followed` by one; otherwise the end of
        what is known.
        """
        still = self._history.still_times(end, min(start, end + _LEAD + _TAIL))
        if still:
            first, last = max(still, key=lambda run: run[1] - run[0])
            return min((first + last) / 2, first + _MARGIN)
        if is_followed and start - end < _LEAD + _TAIL:
            return end + (start - end) * _TAIL / (_LEAD + _TAIL)
        return min(end + _TAIL, max(start, end))
