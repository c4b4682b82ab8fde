"""Join the texts of overlapping windows of a long video into segments without repeated words.

Two overlapping windows read the same signs twice, each with different errors. The words at a
window's edge have the most errors, because the edge can lie within a sign.

The words of the overlap are aligned by edit distance and by time. The joined text switches from the
earlier window to the later one at a word that both contain, the one nearest to the middle of the
overlap. In a script without spaces, a character counts as a word (`writing_systems.units`).
"""

import dataclasses
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Self

from signvit_jax.captions.segments import Segment
from signvit_jax.text.words import Word, words_text

# Largest difference, in seconds, of the times that two windows give the same word: where the
# decoder gives the words' times, and where words are assumed to be evenly spread over the window.
_TIMED_TOLERANCE, _SPREAD_TOLERANCE = 0.6, 1.5
# Costs in an alignment. A match costs the difference of its two times, in units of the tolerance.
_GAP_COST, _MISMATCH_COST = 1.0, 1.5


class Switch(NamedTuple):
    """The place where the text of one window continues in the next one's."""

    kept: int  # words of the earlier window that stay
    skipped: int  # words at the beginning of the later window that are left out
    at: float  # seconds in the video
    agreed: bool  # at a word that both contain; False: in the middle of the overlap


class Joiner:
    """Joining of windows that arrive in order of time; `add` and `finish` return final segments.

    Windows that agree become one segment of at most `max_seconds`. With 0 each window gives a
    segment of the words that no earlier one has, as soon as they are known.
    """

    def __init__(self, max_seconds: float):
        self._max_seconds = max_seconds
        self._open: _PlacedSegment | None = None

    def add(self, window: Segment) -> list[Segment]:
        """Add the next window; one without text is ignored."""
        if not window.text:
            return []
        new, old = _PlacedSegment.of(window), self._open
        if old is None or new.start >= old.end:
            self._open = new
            return [old.segment()] if old and old.words else []
        switch = old.switch_to(new)
        nothing_new = switch.skipped == len(new.words)
        fits = new.end - old.start <= self._max_seconds
        if switch.agreed and (fits or (nothing_new and not self._max_seconds)):
            self._open = old.joined(new, switch)
            return []
        # If all words of the window are repetitions, they are written again: without them the next
        # segment would have no text although the signing goes on.
        skipped = 0 if nothing_new else switch.skipped
        self._open = new.part(new.words[skipped:], start=switch.at)
        before = old.part(old.words[: switch.kept], end=switch.at)
        return [before.segment()] if before.words else []

    def finish(self) -> list[Segment]:
        """Return what is left; the next window begins a new segment."""
        last, self._open = self._open, None
        return [last.segment()] if last and last.words else []


def join_windows(windows: Iterable[Segment], max_seconds: float) -> list[Segment]:
    """Join windows into segments, both in order of time. Windows without text are left out.

    Two overlapping windows that agree (both contain a word, at about the same time) become one
    segment of at most `max_seconds`. Otherwise the earlier segment ends and the later one begins
    within the overlap, and words that both contain are written once.
    """
    joiner = Joiner(max_seconds)
    return [segment for window in windows for segment in joiner.add(window)] + joiner.finish()


def count_repeated(before: Sequence[str], after: Sequence[Word]) -> int:
    """Number of words at the beginning of `after` that repeat the end of `before`.

    Only letters are compared, without case or punctuation.
    """
    ends = [_letters(text) for text in before]
    begins = [_letters(word.text) for word in after]
    for count in range(min(len(ends), len(begins)), 0, -1):
        if ends[-count:] == begins[:count]:
            return count
    return 0


class _PlacedWord(NamedTuple):
    word: Word
    key: str  # two words with one key are the same word: letters without case or punctuation
    at: float  # seconds in the video


@dataclasses.dataclass(frozen=True)
class _PlacedSegment:
    """A segment whose words have places in time."""

    source: Segment
    start: float
    end: float
    words: tuple[_PlacedWord, ...]
    timed: bool  # the places come from the decoder; False: they are assumed to be evenly spread

    @classmethod
    def of(cls, window: Segment) -> Self:
        gap = (window.end - window.start) / max(len(window.words), 1)
        evenly = [window.start + (number + 0.5) * gap for number in range(len(window.words))]
        words = tuple(
            _PlacedWord(word, _letters(word.text), at)
            for word, at in zip(window.words, window.times or evenly, strict=True)
        )
        return cls(window, window.start, window.end, words, bool(window.times))

    def switch_to(self, later: "_PlacedSegment") -> Switch:
        """Return where the joined text switches from this segment to a later, overlapping one."""
        timed = self.timed and later.timed
        tolerance = _TIMED_TOLERANCE if timed else _SPREAD_TOLERANCE
        begin, end = max(later.start, self.start), self.end
        middle = (begin + end) / 2
        # Only words that may lie in the overlap can be the same.
        first = next(
            (n for n, word in enumerate(self.words) if word.at >= begin - tolerance),
            len(self.words),
        )
        last = next(
            (n for n, word in enumerate(later.words) if word.at > end + tolerance), len(later.words)
        )
        before, after = self.words[first:], later.words[:last]
        pairs = _align_by_time(before, after, tolerance)
        if not timed:
            exact = _exact_switch(self.words, later.words)
            if exact and exact[1] >= len(pairs):
                return Switch(*exact, middle, True)
            # A window with rest in it does not spread its words evenly: their order decides.
            ordered = _align_by_order(self.words, later.words)
            if len(ordered) > max(len(pairs), 1):
                i, j = ordered[len(ordered) // 2]
                return Switch(i + 1, j + 1, middle, True)

        def place(pair: tuple[int, int]) -> float:
            return (before[pair[0]].at + after[pair[1]].at) / 2

        if pairs:
            i, j = nearest = min(pairs, key=lambda pair: abs(place(pair) - middle))
            at = place(nearest) if timed else middle
            return Switch(first + i + 1, j + 1, min(max(at, begin), end), True)
        if not timed:  # no word is repeated, and places are too uncertain to leave any word out
            return Switch(len(self.words), 0, middle, False)
        kept = sum(word.at <= middle for word in self.words)
        skipped = sum(word.at < middle for word in later.words)
        return Switch(kept, skipped, middle, False)

    def joined(self, later: "_PlacedSegment", switch: Switch) -> "_PlacedSegment":
        """One segment out of this one and a later one, without the words that both contain."""
        words = self.words[: switch.kept] + later.words[switch.skipped :]
        score = _lower(self.source.score, later.source.score)
        source = self.source if words == self.words else _with_words(self.source, words)
        return _PlacedSegment(
            dataclasses.replace(source, score=score),
            self.start,
            max(self.end, later.end),
            words,
            self.timed and later.timed,
        )

    def part(
        self,
        words: tuple[_PlacedWord, ...],
        start: float | None = None,
        end: float | None = None,
    ) -> "_PlacedSegment":
        """The segment with some of its words, beginning or ending at another time."""
        return _PlacedSegment(
            self.source if words == self.words else _with_words(self.source, words),
            self.start if start is None else start,
            self.end if end is None else end,
            words,
            self.timed,
        )

    def segment(self) -> Segment:
        times = tuple(word.at for word in self.words) if self.timed else ()
        return dataclasses.replace(self.source, start=self.start, end=self.end, times=times)


def _align_by_time(
    before: Sequence[_PlacedWord], after: Sequence[_PlacedWord], tolerance: float
) -> list[tuple[int, int]]:
    """Index pairs of equal words in the cheapest alignment.

    Its cost is Levenshtein's, plus the words' distance in time.
    """
    rows, columns = len(before) + 1, len(after) + 1
    costs = [[_GAP_COST * (row + column) for column in range(columns)] for row in range(rows)]

    def pair_cost(row: int, column: int) -> float:
        one, other = before[row - 1], after[column - 1]
        word_cost = 0.0 if one.key == other.key else _MISMATCH_COST
        return word_cost + abs(one.at - other.at) / tolerance

    for row in range(1, rows):
        for column in range(1, columns):
            gap = _GAP_COST + min(costs[row - 1][column], costs[row][column - 1])
            costs[row][column] = min(gap, costs[row - 1][column - 1] + pair_cost(row, column))
    pairs, row, column = [], rows - 1, columns - 1
    while row and column:
        if costs[row][column] == costs[row - 1][column - 1] + pair_cost(row, column):
            row, column = row - 1, column - 1
            if before[row].key == after[column].key:
                pairs.append((row, column))
        elif costs[row][column] == _GAP_COST + costs[row - 1][column]:
            row -= 1
        else:
            column -= 1
    return pairs[::-1]


def _align_by_order(
    before: Sequence[_PlacedWord], after: Sequence[_PlacedWord]
) -> list[tuple[int, int]]:
    """Index pairs of equal words in the best alignment of `before`'s end with `after`'s start.

    A match scores 1, a mismatch and a gap -1 each. Empty if no alignment scores more than 0.
    """
    rows, columns = len(before) + 1, len(after) + 1
    scores = [[0 if column == 0 else -column for column in range(columns)] for _ in range(rows)]
    for row in range(1, rows):
        for column in range(1, columns):
            match = 1 if before[row - 1].key == after[column - 1].key else -1
            scores[row][column] = max(
                scores[row - 1][column - 1] + match,
                scores[row - 1][column] - 1,
                scores[row][column - 1] - 1,
            )
    column = max(range(columns), key=lambda column: scores[-1][column])
    pairs, row = [], rows - 1
    while row and column:
        is_match = before[row - 1].key == after[column - 1].key
        if scores[row][column] == scores[row - 1][column - 1] + (1 if is_match else -1):
            row, column = row - 1, column - 1
            if is_match:
                pairs.append((row, column))
        elif scores[row][column] == scores[row - 1][column] - 1:
            row -= 1
        else:
            column -= 1
    return pairs[::-1]


def _exact_switch(
    before: Sequence[_PlacedWord], after: Sequence[_PlacedWord]
) -> tuple[int, int] | None:
    """(words of `before` kept, words of `after` skipped) for an exact repetition, else None.

    That is: `before` contains all of `after`, or ends with words that `after` begins with.
    """
    ends, begins = [word.key for word in before], [word.key for word in after]
    starts = range(len(ends) - len(begins) + 1)
    if any(ends[start : start + len(begins)] == begins for start in starts):
        return len(ends), len(begins)
    count = count_repeated(ends, [placed.word for placed in after])
    return (len(ends), count) if count else None


def _letters(text: str) -> str:
    return re.sub(r"\W", "", text).casefold() or text


def _with_words(segment: Segment, placed: Sequence[_PlacedWord]) -> Segment:
    """The segment with other words, and without alternatives, which hold for its own words only."""
    words = tuple(one.word for one in placed)
    confidence = sum(word.confidence for word in words) / len(words) if words else None
    return dataclasses.replace(
        segment,
        text=words_text(words),
        words=words,
        times=(),
        confidence=confidence,
        alternatives=(),
    )


def _lower(first: float | None, second: float | None) -> float | None:
    return min((score for score in (first, second) if score is not None), default=None)
