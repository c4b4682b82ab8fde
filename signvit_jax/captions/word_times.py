"""When each word of a cue is signed.

Where CTC found the sign of a word, the word has the time of its sign. The other words ("the" has no
sign) share the time between their neighbors by their length.
"""

import bisect
import itertools
from collections.abc import Sequence
from typing import NamedTuple

from signvit_jax.captions.segments import Cue
from signvit_jax.text.words import TimedWord, Word
from signvit_jax.text.writing_systems import pieces

FROM_CTC, BY_LENGTH = "ctc", "length"


class WordSpan(NamedTuple):
    """The time of a word in a cue, in milliseconds of the video."""

    start: int
    end: int
    source: str  # FROM_CTC or BY_LENGTH


def word_spans(cue: Cue) -> list[WordSpan]:
    """Return the time of each of the cue's words.

    Times of signs are not sorted: signs need not be in the order of the words.
    """
    begins = unit_begins(cue, [(" " if word.space else "") + word.text for word in cue.words])
    ends = [*begins[1:], cue.end]
    return [
        WordSpan(begin, end, BY_LENGTH)
        if (times := _sign_times(word, cue)) is None
        else WordSpan(*times, FROM_CTC)
        for word, begin, end in zip(cue.words, begins, ends)
    ]


def unit_begins(cue: Cue, units: Sequence[str]) -> list[int]:
    """Return when each unit of a cue's text begins, in milliseconds; the values never decrease.

    `units` are the text's `pieces`. A unit begins when the sign of its word begins, as far as the
    signs are in the order of the text. The other units share the time between by their length.
    """
    anchors = [(0, cue.start)]
    if len(cue.words) == len(units):
        known = [
            (place, times[0])
            for place, word in enumerate(cue.words)
            if place and (times := _sign_times(word, cue)) is not None
        ]
        anchors += _longest_rising(known)
    anchors.append((len(units), cue.end))
    offsets = [0]  # characters in front of each unit
    for unit in units:
        offsets.append(offsets[-1] + len(unit))
    begins: list[int] = []
    for (place, begin), (next_place, end) in itertools.pairwise(anchors):
        length = max(offsets[next_place] - offsets[place], 1)
        begins += [
            begin + round((end - begin) * (offsets[unit] - offsets[place]) / length)
            for unit in range(place, next_place)
        ]
    return begins


def text_units(cue: Cue) -> list[str]:
    """The words of a cue, or characters of scripts without spaces, with spaces in front."""
    return pieces(cue.text)


def _sign_times(word: Word, cue: Cue) -> tuple[int, int] | None:
    """The times of the word's sign in milliseconds, moved into the cue; None if not known."""
    if not isinstance(word, TimedWord):
        return None
    start = min(max(round(word.start * 1000), cue.start), cue.end)
    return start, min(max(round(word.end * 1000), start), cue.end)


def _longest_rising(points: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The longest subsequence of points (place, time) whose times never decrease."""
    # tails[n]: among the subsequences of n + 1 points, the last point of the one that ends first.
    # times[n]: its time. before[i]: the point in front of point i in its subsequence, or -1.
    tails: list[int] = []
    times: list[int] = []
    before: list[int] = []
    for number, (_, time) in enumerate(points):
        length = bisect.bisect_right(times, time)
        before.append(tails[length - 1] if length else -1)
        tails[length : length + 1] = [number]
        times[length : length + 1] = [time]
    chosen: list[tuple[int, int]] = []
    number = tails[-1] if tails else -1
    while number >= 0:
        chosen.append(points[number])
        number = before[number]
    return chosen[::-1]
