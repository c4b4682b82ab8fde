"""What the overlapping windows of a long video say, joined into segments that follow one another and say each thing once.

Two windows that overlap have read the same signs twice, each with errors of its own, and the words
that the edge of a window cuts are the worst of them.
So the words of the overlap are aligned by edit distance and by time, and the text goes over from the earlier window to the later one at the word,
said by both, that is nearest the middle of the overlap. Where a script has no spaces, a character is a word (`text_scripts.units`).
"""

import dataclasses
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from signvit_jax.inference.subtitles import Segment
from signvit_jax.text.words import Word, words_text

# Seconds that two windows may place one word apart. Words without times are taken to be spread evenly over their window, which is less sure.
TIMED, SPREAD = 0.6, 1.5
_SKIPPED, _REPLACED = (
    1.0,
    1.5,
)  # costs in an alignment; a word that both say costs what its two times differ by, in units of the above


class Switch(NamedTuple):
    """Where one window's text goes over into the next one's."""

    kept: int  # words of the earlier window that stay
    begun: int  # words of the later window that are left out
    at: float  # seconds in the video
    agreed: bool  # at a word that both say; False: in the middle of the overlap


class Joiner:
    """Joins windows as they come, in order of time; `add` and `finish` give the segments that are final.

    Windows that agree become one segment of at most `longest` seconds; with 0 every window gives a
    segment of what it alone says, as soon as that is known.
    """

    def __init__(self, longest: float):
        self._longest = longest
        self._open: _Stretch | None = None

    def add(self, window: Segment) -> list[Segment]:
        """Windows without text are left out."""
        if not window.text:
            return []
        new, old = _Stretch.of(window), self._open
        if old is None or new.start >= old.end:
            self._open = new
            return [old.segment()] if old and old.words else []
        switch = old.switch_to(new)
        nothing_new = switch.begun == len(new.words)
        if switch.agreed and (
            new.end - old.start <= self._longest or (nothing_new and not self._longest)
        ):
            self._open = old.joined(new, switch)
            return []
        begun = (
            0 if nothing_new else switch.begun
        )  # what is signed for longer than a segment may last is said in the next one too
        self._open = new.cut(new.words[begun:], start=switch.at)
        before = old.cut(old.words[: switch.kept], end=switch.at)
        return [before.segment()] if before.words else []

    def finish(self) -> list[Segment]:
        """What is left; the next window begins something new."""
        last, self._open = self._open, None
        return [last.segment()] if last and last.words else []


def join_windows(windows: Iterable[Segment], longest: float) -> list[Segment]:
    """Segments in order of time, of windows in order of time; those without text are left out.

    Two windows that overlap and agree (they say a word alike, at about the same time) become one segment of at most `longest` seconds. Else the
    earlier segment ends and the later one begins in the overlap, and what both say is said once.
    """
    joiner = Joiner(longest)
    return [segment for window in windows for segment in joiner.add(window)] + joiner.finish()


def echoed(before: Sequence[str], after: Sequence[Word]) -> int:
    """How many words at the beginning of `after` repeat the end of `before`; letters count, case and punctuation do not."""
    ends, begins = [_letters(text) for text in before], [_letters(word.text) for word in after]
    return next(
        (
            count
            for count in range(min(len(ends), len(begins)), 0, -1)
            if ends[-count:] == begins[:count]
        ),
        0,
    )


class _Placed(NamedTuple):
    word: Word
    key: str  # what makes two words one: letters count, case and punctuation do not
    at: float  # seconds in the video


@dataclasses.dataclass(frozen=True)
class _Stretch:
    """A segment whose words have places in time."""

    source: Segment
    start: float
    end: float
    words: tuple[_Placed, ...]
    timed: bool  # the places are the decoder's and not a guess

    @classmethod
    def of(cls, window: Segment) -> "_Stretch":
        gap = (window.end - window.start) / max(len(window.words), 1)
        places = window.times or [
            window.start + (number + 0.5) * gap for number in range(len(window.words))
        ]
        words = tuple(
            _Placed(word, _letters(word.text), at)
            for word, at in zip(window.words, places, strict=True)
        )
        return cls(window, window.start, window.end, words, bool(window.times))

    def switch_to(self, later: "_Stretch") -> Switch:
        timed = self.timed and later.timed
        tolerance = TIMED if timed else SPREAD
        begin, end = max(later.start, self.start), self.end
        middle = (begin + end) / 2
        # Only words that lie in the overlap, or may do so, can be the same.
        first = next(
            (n for n, word in enumerate(self.words) if word.at >= begin - tolerance),
            len(self.words),
        )
        last = next(
            (n for n, word in enumerate(later.words) if word.at > end + tolerance), len(later.words)
        )
        before, after = self.words[first:], later.words[:last]
        pairs = _agreeing(before, after, tolerance)
        if not timed and (exact := _exact(self.words, later.words)) and exact[1] >= len(pairs):
            return Switch(*exact, middle, True)
        if not timed and len(far := _overlap(self.words, later.words)) > max(len(pairs), 1):
            # Where a window holds rest, its words are not spread over it: their order alone tells.
            i, j = far[len(far) // 2]
            return Switch(i + 1, j + 1, middle, True)
        if pairs:
            i, j = min(
                pairs, key=lambda pair: abs((before[pair[0]].at + after[pair[1]].at) / 2 - middle)
            )
            at = (before[i].at + after[j].at) / 2 if timed else middle
            return Switch(first + i + 1, j + 1, min(max(at, begin), end), True)
        if not timed:  # nothing is said twice, and where the words are is not known well enough to leave any out
            return Switch(len(self.words), 0, middle, False)
        kept, begun = (
            sum(word.at <= middle for word in self.words),
            sum(word.at < middle for word in later.words),
        )
        return Switch(kept, begun, middle, False)

    def joined(self, later: "_Stretch", switch: Switch) -> "_Stretch":
        words = self.words[: switch.kept] + later.words[switch.begun :]
        score = _lower(self.source.score, later.source.score)
        source = dataclasses.replace(
            self.source if words == self.words else _saying(self.source, words), score=score
        )
        return _Stretch(
            source, self.start, max(self.end, later.end), words, self.timed and later.timed
        )

    def cut(
        self, words: tuple[_Placed, ...], start: float | None = None, end: float | None = None
    ) -> "_Stretch":
        source = self.source if words == self.words else _saying(self.source, words)
        return _Stretch(
            source,
            self.start if start is None else start,
            self.end if end is None else end,
            words,
            self.timed,
        )

    def segment(self) -> Segment:
        times = tuple(word.at for word in self.words) if self.timed else ()
        return dataclasses.replace(self.source, start=self.start, end=self.end, times=times)


def _agreeing(
    before: Sequence[_Placed], after: Sequence[_Placed], tolerance: float
) -> list[tuple[int, int]]:
    """The words that both say, by their numbers, in the cheapest alignment of the two (Levenshtein's, in which distance in time costs too)."""
    rows, columns = len(before) + 1, len(after) + 1
    costs = [[_SKIPPED * (row + column) for column in range(columns)] for row in range(rows)]

    def meeting(row: int, column: int) -> float:
        one, other = before[row - 1], after[column - 1]
        return (0.0 if one.key == other.key else _REPLACED) + abs(one.at - other.at) / tolerance

    for row in range(1, rows):
        for column in range(1, columns):
            skipped = _SKIPPED + min(costs[row - 1][column], costs[row][column - 1])
            costs[row][column] = min(skipped, costs[row - 1][column - 1] + meeting(row, column))
    pairs, row, column = [], rows - 1, columns - 1
    while row and column:
        if costs[row][column] == costs[row - 1][column - 1] + meeting(row, column):
            row, column = row - 1, column - 1
            if before[row].key == after[column].key:
                pairs.append((row, column))
        elif costs[row][column] == _SKIPPED + costs[row - 1][column]:
            row -= 1
        else:
            column -= 1
    return pairs[::-1]


def _overlap(before: Sequence[_Placed], after: Sequence[_Placed]) -> list[tuple[int, int]]:
    """The words that both say where an end of `before` and a beginning of `after` are most
    alike (1 a word alike, -1 a word not, at best more than 0).
    """
    rows, columns = len(before) + 1, len(after) + 1
    scores = [[0 if column == 0 else -column for column in range(columns)] for _ in range(rows)]
    for row in range(1, rows):
        for column in range(1, columns):
            alike = 1 if before[row - 1].key == after[column - 1].key else -1
            scores[row][column] = max(
                scores[row - 1][column - 1] + alike,
                scores[row - 1][column] - 1,
                scores[row][column - 1] - 1,
            )
    column = max(range(columns), key=lambda column: scores[-1][column])
    pairs, row = [], rows - 1
    while row and column:
        alike = before[row - 1].key == after[column - 1].key
        if scores[row][column] == scores[row - 1][column - 1] + (1 if alike else -1):
            row, column = row - 1, column - 1
            if alike:
                pairs.append((row, column))
        elif scores[row][column] == scores[row - 1][column] - 1:
            row -= 1
        else:
            column -= 1
    return pairs[::-1]


def _exact(before: Sequence[_Placed], after: Sequence[_Placed]) -> tuple[int, int] | None:
    """How many words of `before` stay and of `after` fall away where one goes on, letter by letter, where the other ends, or says nothing new."""
    ends, begins = [word.key for word in before], [word.key for word in after]
    if any(
        ends[start : start + len(begins)] == begins for start in range(len(ends) - len(begins) + 1)
    ):
        return len(ends), len(begins)
    count = echoed(ends, [placed.word for placed in after])
    return (len(ends), count) if count else None


def _letters(text: str) -> str:
    return re.sub(r"\W", "", text).casefold() or text


def _saying(segment: Segment, words: Sequence[_Placed]) -> Segment:
    """The segment saying `words`; what other hypotheses there were holds for its own words alone."""
    said = tuple(placed.word for placed in words)
    confidence = sum(word.confidence for word in said) / len(said) if said else None
    return dataclasses.replace(
        segment, text=words_text(said), words=said, times=(), confidence=confidence, alternatives=()
    )


def _lower(first: float | None, second: float | None) -> float | None:
    """The less certain one speaks for both."""
    return min((score for score in (first, second) if score is not None), default=None)
