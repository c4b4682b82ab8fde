"""The timed texts of a video: segments, and cues, which are segments as caption files hold them."""

import dataclasses
import math
import unicodedata
from collections.abc import Iterable
from typing import NamedTuple

from signvit_jax.errors.base import SignVitError
from signvit_jax.text.words import Word
from signvit_jax.text.writing_systems import join_texts


class SubtitleError(SignVitError, ValueError):
    """Captions that cannot be written: an unknown format, a time that is no number, a layout."""


class Alternative(NamedTuple):
    """Another hypothesis for the same frames."""

    text: str
    score: float
    confidence: float


@dataclasses.dataclass(frozen=True)
class Segment:
    """The text of what was signed from `start` to `end`, in seconds from the video's beginning."""

    start: float
    end: float
    text: str
    score: float | None = None  # log-probability, as the decoder gives it
    confidence: float | None = None  # 0 to 1
    words: tuple[Word, ...] = ()
    alternatives: tuple[Alternative, ...] = ()  # the rest of an n-best list
    times: tuple[float, ...] = ()  # approximate seconds of each of `words`; () if not known


@dataclasses.dataclass(frozen=True)
class Cue:
    """A segment as it is written: integer milliseconds, and text without line breaks.

    If there is a layout, `lines` holds the text broken into lines.
    """

    start: int
    end: int
    text: str
    score: float | None
    confidence: float | None
    words: tuple[Word, ...]
    alternatives: tuple[Alternative, ...]
    lines: tuple[str, ...] = ()

    @property
    def shown(self) -> tuple[str, ...]:
        """The lines on the screen: one, where there is no layout."""
        return self.lines or (self.text,)


def in_order(segments: Iterable[Segment], duration: float | None) -> list[Cue]:
    """Return cues in order of time that do not overlap and end with the video.

    `duration`: the video's length in seconds, None if not known. Each cue ends where the next one
    begins, at the latest, and segments that begin in the same millisecond become one cue. Raises
    SubtitleError.
    """
    if duration is not None and not (math.isfinite(duration) and duration >= 0):
        raise SubtitleError(f"the video's duration is {duration} seconds; it must be a number >= 0")
    limit = math.inf if duration is None else float(math.floor(duration * 1000))
    cues_in_video: list[Cue] = []
    if limit >= 1:
        cues_in_video = [_cue(segment, limit) for segment in segments if one_line(segment.text)]
    cues: list[Cue] = []
    for cue in sorted(cues_in_video, key=lambda cue: (cue.start, cue.end)):
        if cues and cues[-1].start == cue.start:
            cues[-1] = _joined(cues[-1], cue)
        else:
            if cues:
                cues[-1] = dataclasses.replace(cues[-1], end=min(cues[-1].end, cue.start))
            cues.append(cue)
    return cues


def one_line(text: str) -> str:
    """The text with single spaces for white space, without control characters and surrogates."""
    shown = (
        " " if c.isspace() else c
        for c in text
        if c.isspace() or unicodedata.category(c) not in ("Cc", "Cs")
    )
    return " ".join("".join(shown).split())


def finite(value: float | None) -> float | None:
    """The value, or None for NaN and infinity."""
    return float(value) if value is not None and math.isfinite(value) else None


def _cue(segment: Segment, limit: float) -> Cue:
    """The segment moved into the video (up to `limit` ms), and at least a millisecond long."""
    if not (math.isfinite(segment.start) and math.isfinite(segment.end)):
        raise SubtitleError(
            f"a segment goes from {segment.start} to {segment.end} seconds; "
            f"both must be numbers (its text: {segment.text!r})"
        )
    start = int(min(max(round(segment.start * 1000), 0), limit - 1))
    end = int(max(min(round(segment.end * 1000), limit), start + 1))
    return Cue(
        start,
        end,
        one_line(segment.text),
        finite(segment.score),
        finite(segment.confidence),
        segment.words,
        segment.alternatives,
    )


def _joined(first: Cue, second: Cue) -> Cue:
    """Two cues that begin together, with the lower score and confidence of the two."""
    scores = [x for x in (first.score, second.score) if x is not None]
    confidences = [x for x in (first.confidence, second.confidence) if x is not None]
    return Cue(
        first.start,
        max(first.end, second.end),
        join_texts([first.text, second.text]),
        min(scores, default=None),
        min(confidences, default=None),
        first.words + second.words,
        (),
    )
