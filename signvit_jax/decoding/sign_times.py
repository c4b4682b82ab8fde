"""Times of words: those of the signs that CTC detected.

CTC tells when each sign is made. If it spells the text itself, its words are matched with those of
the decoder's text; if it spells glosses, the lexicon tells which word stands for which gloss.
"""

import difflib
from collections.abc import Sequence
from typing import NamedTuple

from signvit_jax.decoding.confidence import word_key
from signvit_jax.decoding.lexicon import Lexicon
from signvit_jax.text.words import TimedWord, Word

# A gloss explains a word if the lexicon's two probabilities have at least this geometric mean.
_LEAST_LINK = 0.1


class TimedUnit(NamedTuple):
    """A word or gloss of CTC's text, and when it is signed, in seconds of the video."""

    text: str
    start: float
    end: float


def with_times(
    words: Sequence[Word], units: Sequence[TimedUnit], lexicon: Lexicon | None
) -> tuple[Word, ...]:
    """Return the words with the times of the units that they stand for.

    `units` are in order of time. With a `lexicon` they are glosses, whose order need not be that of
    the words, and each word takes the time of the gloss that it translates best. Words that no unit
    explains keep no time.
    """
    keys = [word_key(word.text) for word in words]
    unit_keys = [word_key(unit.text) for unit in units]
    if lexicon is None:
        matcher = difflib.SequenceMatcher(None, unit_keys, keys, autojunk=False)
        matched = {  # place of a word -> number of its unit
            block.b + offset: block.a + offset
            for block in matcher.get_matching_blocks()
            for offset in range(block.size)
        }
    else:
        matched = {}
        for place, key in enumerate(keys):
            unit_number = _best_unit(key, place / len(keys), unit_keys, lexicon)
            if unit_number is not None:
                matched[place] = unit_number
    timed = list(words)
    for place, unit_number in matched.items():
        unit = units[unit_number]
        timed[place] = TimedWord(*words[place], start=unit.start, end=unit.end)
    return tuple(timed)


def _best_unit(key: str, place: float, units: Sequence[str], lexicon: Lexicon) -> int | None:
    """The number of the unit that a word translates best; None if it translates none.

    `place` is the word's relative place in the text, 0 to 1. Among equally good units, the one
    whose relative place is nearest is taken.
    """
    best: tuple[float, float, int] | None = None
    for number, unit in enumerate(units):
        by_word = lexicon.words[key].by.get(unit, 0.0) if key in lexicon.words else 0.0
        by_unit = lexicon.glosses[unit].by.get(key, 0.0) if unit in lexicon.glosses else 0.0
        strength = 1.0 if key == unit else (by_word * by_unit) ** 0.5
        if strength >= _LEAST_LINK:
            candidate = (strength, -abs(number / len(units) - place), number)
            best = candidate if best is None else max(best, candidate)
    return None if best is None else best[2]
