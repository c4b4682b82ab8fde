"""What the overlapping windows of a long video say, joined into segments that follow one another and say each thing once."""

import dataclasses
import re
from collections.abc import Iterable, Sequence

from signvit_jax.decoding.subtitles import Segment
from signvit_jax.decoding.words import Word


def join_windows(windows: Iterable[Segment], longest: float) -> list[Segment]:
    """Segments in order of time, of windows in order of time; those without text are left out.

    Two windows that overlap and agree (one says nothing that the other does not, or one goes on where the other ends) become one segment of at most
    `longest` seconds. Else the earlier segment ends and the later one begins in the middle of the overlap, and words that both say are said once.
    """
    joined: list[Segment] = []
    for window in windows:
        if not window.text:
            continue
        if not joined or window.start >= joined[-1].end:
            joined.append(window)
            continue
        last = joined.pop()
        words = agreement(last.words, window.words)
        if words is not None and window.end - last.start <= longest:
            joined.append(_with_words(last, words, end=max(last.end, window.end), score=_lower(last.score, window.score)))
            continue
        middle = (window.start + last.end) / 2
        new = window.words[shared_words(last.words, window.words) :] or window.words
        joined += [dataclasses.replace(last, end=middle), _with_words(window, new, start=middle)]
    return joined


def agreement(before: Sequence[Word], after: Sequence[Word]) -> tuple[Word, ...] | None:
    """What two overlapping windows say together; None where they share nothing."""
    if _contains(before, after):
        return tuple(before)
    if _contains(after, before):
        return tuple(after)
    shared = shared_words(before, after)
    return (*before, *after[shared:]) if shared else None


def shared_words(before: Sequence[Word], after: Sequence[Word]) -> int:
    """How many words at the end of `before` are those at the beginning of `after`; letters count, case and punctuation do not."""
    ends, begins = _keys(before), _keys(after)
    return next((count for count in range(min(len(ends), len(begins)), 0, -1) if ends[-count:] == begins[:count]), 0)


def _contains(whole: Sequence[Word], part: Sequence[Word]) -> bool:
    outer, inner = _keys(whole), _keys(part)
    return any(outer[start : start + len(inner)] == inner for start in range(len(outer) - len(inner) + 1))


def _keys(words: Sequence[Word]) -> list[str]:
    return [re.sub(r"\W", "", word.text).casefold() or word.text for word in words]


def _with_words(segment: Segment, words: Sequence[Word], **changes: object) -> Segment:
    """The segment saying `words`; what other hypotheses there were holds for its own words alone."""
    if tuple(words) == segment.words:
        return dataclasses.replace(segment, **changes)
    confidence = sum(word.confidence for word in words) / len(words) if words else None
    text = " ".join(word.text for word in words)
    return dataclasses.replace(segment, text=text, words=tuple(words), confidence=confidence, alternatives=(), **changes)


def _lower(first: float | None, second: float | None) -> float | None:
    """The less certain one speaks for both."""
    return min((score for score in (first, second) if score is not None), default=None)
