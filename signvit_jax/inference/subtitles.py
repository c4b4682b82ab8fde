"""Subtitle files: segments of text as txt, json, tsv, srt or vtt."""

import csv
import dataclasses
import html
import io
import json
import math
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from signvit_jax.errors.base import SignVitError
from signvit_jax.text.words import Word
from signvit_jax.text.writing_systems import join_texts


class SubtitleError(SignVitError, ValueError):
    """Segments that cannot be written: an unknown format, or a time that is not a number."""


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
class _Cue:
    """A segment as it is written: integer milliseconds, one line of text."""

    start: int
    end: int
    text: str
    score: float | None
    confidence: float | None
    words: tuple[Word, ...]
    alternatives: tuple[Alternative, ...]


def write(segments: Iterable[Segment], format: str, duration: float | None = None) -> str:
    """Return the text of a subtitle file in one of `FORMATS`.

    `duration` is the video's length in seconds; no cue lasts beyond it. Cues are in order of time
    and do not overlap: each one ends where the next one begins, at the latest, and segments that
    begin in the same millisecond become one cue. No text is lost; a segment without text is left
    out. Times are rounded to milliseconds. Raises SubtitleError.
    """
    if format not in _WRITERS:
        raise SubtitleError(
            f"subtitle format is {format!r}; allowed: one of {', '.join(map(repr, FORMATS))}"
        )
    return _WRITERS[format](_cues(segments, duration))


def json_line(path: str, segments: Iterable[Segment], duration: float | None = None) -> str:
    """Return one line of a JSON Lines file: the json of `write` with the video's path."""
    return (
        json.dumps(
            {"path": path} | _document(_cues(segments, duration)),
            ensure_ascii=False,
            allow_nan=False,
        )
        + "\n"
    )


def tsv_rows(path: str, segments: Iterable[Segment], duration: float | None = None) -> str:
    """Return the rows of one video in a table of several, whose first line is `TSV_HEADER`."""
    return _tab_separated([path, *_row(cue)] for cue in _cues(segments, duration))


def _cues(segments: Iterable[Segment], duration: float | None) -> list[_Cue]:
    if duration is not None and not (math.isfinite(duration) and duration >= 0):
        raise SubtitleError(f"the video's duration is {duration} seconds; it must be a number >= 0")
    limit = math.inf if duration is None else float(math.floor(duration * 1000))
    cues_in_video = (
        [_cue(segment, limit) for segment in segments if _one_line(segment.text)]
        if limit >= 1
        else []
    )
    cues: list[_Cue] = []
    for cue in sorted(cues_in_video, key=lambda cue: (cue.start, cue.end)):
        if cues and cues[-1].start == cue.start:
            cues[-1] = _joined(cues[-1], cue)
        else:
            if cues:
                cues[-1] = dataclasses.replace(cues[-1], end=min(cues[-1].end, cue.start))
            cues.append(cue)
    return cues


def _cue(segment: Segment, limit: float) -> _Cue:
    """The segment moved into the video (up to `limit` ms), and at least a millisecond long."""
    if not (math.isfinite(segment.start) and math.isfinite(segment.end)):
        raise SubtitleError(
            f"a segment goes from {segment.start} to {segment.end} seconds; "
            f"both must be numbers (its text: {segment.text!r})"
        )
    start = int(min(max(round(segment.start * 1000), 0), limit - 1))
    end = int(max(min(round(segment.end * 1000), limit), start + 1))
    return _Cue(
        start,
        end,
        _one_line(segment.text),
        _finite(segment.score),
        _finite(segment.confidence),
        segment.words,
        segment.alternatives,
    )


def _joined(first: _Cue, second: _Cue) -> _Cue:
    """Two cues that begin together, with the lower score and confidence of the two."""
    scores = [x for x in (first.score, second.score) if x is not None]
    confidences = [x for x in (first.confidence, second.confidence) if x is not None]
    return _Cue(
        first.start,
        max(first.end, second.end),
        join_texts([first.text, second.text]),
        min(scores, default=None),
        min(confidences, default=None),
        first.words + second.words,
        (),
    )


def _one_line(text: str) -> str:
    """The text with single spaces for white space, without control characters and surrogates."""
    shown = (
        " " if c.isspace() else c
        for c in text
        if c.isspace() or unicodedata.category(c) not in ("Cc", "Cs")
    )
    return " ".join("".join(shown).split())


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def _times(cue: _Cue, separator: str) -> str:
    return f"{_clock(cue.start, separator)} --> {_clock(cue.end, separator)}"


def _clock(milliseconds: int, separator: str) -> str:
    seconds, milliseconds = divmod(milliseconds, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{seconds:02d}{separator}{milliseconds:03d}"


def _txt(cues: list[_Cue]) -> str:
    return "".join(f"{cue.text}\n" for cue in cues)


def _json(cues: list[_Cue]) -> str:
    return json.dumps(_document(cues), ensure_ascii=False, indent=2, allow_nan=False) + "\n"


def _document(cues: list[_Cue]) -> dict[str, object]:
    segments = [
        {
            "start": cue.start / 1000,
            "end": cue.end / 1000,
            "text": cue.text,
            "score": cue.score,
            "confidence": cue.confidence,
            "words": [
                {"text": _one_line(word.text), "confidence": _finite(word.confidence)}
                for word in cue.words
            ],
            "alternatives": [
                {
                    "text": _one_line(other.text),
                    "score": _finite(other.score),
                    "confidence": _finite(other.confidence),
                }
                for other in cue.alternatives
            ],
        }
        for cue in cues
    ]
    return {"text": join_texts(cue.text for cue in cues), "segments": segments}


def _tsv(cues: list[_Cue]) -> str:
    return _tab_separated([_COLUMNS, *map(_row, cues)])


def _row(cue: _Cue) -> list[object]:
    return [f"{cue.start / 1000:.3f}", f"{cue.end / 1000:.3f}", cue.text, cue.score, cue.confidence]


def _tab_separated(rows: Iterable[Sequence[object]]) -> str:
    file = io.StringIO()
    csv.writer(file, dialect="excel-tab", lineterminator="\n").writerows(rows)
    return file.getvalue()


def _srt(cues: list[_Cue]) -> str:
    # SubRip has no escapes, and some players take an arrow in the text for a line of times.
    return "\n".join(
        f"{number}\n{_times(cue, ',')}\n{re.sub('--+>', '->', cue.text)}\n"
        for number, cue in enumerate(cues, 1)
    )


def _vtt(cues: list[_Cue]) -> str:
    blocks = (f"{_times(cue, '.')}\n{html.escape(cue.text, quote=False)}\n" for cue in cues)
    return "\n".join(["WEBVTT\n", *blocks])


_COLUMNS = ("start", "end", "text", "score", "confidence")
TSV_HEADER = _tab_separated([("path", *_COLUMNS)])
_WRITERS = {"txt": _txt, "json": _json, "tsv": _tsv, "srt": _srt, "vtt": _vtt}
FORMATS = tuple(_WRITERS)
