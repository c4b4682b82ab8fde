"""Caption files: txt, json, tsv, srt, vtt, ass, ttml and eaf."""

import csv
import dataclasses
import html
import io
import json
import re
from collections.abc import Callable, Iterable, Sequence

from signvit_jax.captions.ass import as_ass
from signvit_jax.captions.eaf import as_eaf
from signvit_jax.captions.layout import CaptionLayout, LayoutFaults, lay_out
from signvit_jax.captions.line_breaking import reads_right_to_left, with_direction_marks
from signvit_jax.captions.segments import Cue, Segment, SubtitleError, finite, in_order, one_line
from signvit_jax.captions.ttml import as_ttml
from signvit_jax.captions.word_times import word_spans
from signvit_jax.text.writing_systems import join_texts


class Captions:
    """The captions of one video, to be written in several formats.

    The layout applies to the formats that players show (srt, vtt, ass and ttml) and to captions
    drawn into a video. The other formats hold the segments as they are. Without a layout, each
    segment is one cue of one line.

    Args:
        segments: The texts, in any order.
        duration: The video's length in seconds; no cue lasts beyond it.
        layout: Width of lines, times of cues; None or an empty layout for none.
        word_times: Whether json and eaf have the times of words.
        video: The video's name or relative path, for the formats that name it.
        language: Tag of the language of the texts, such as "de", for ttml; empty if not known.

    Raises SubtitleError.

    Attributes:
        cues: The segments in order of time, without overlap.
        shown: The cues as players show them.
        faults: How many of the `shown` cues exceed a limit of the layout.
    """

    def __init__(
        self,
        segments: Iterable[Segment],
        duration: float | None = None,
        *,
        layout: CaptionLayout | None = None,
        word_times: bool = False,
        video: str = "",
        language: str = "",
    ):
        self.cues = in_order(segments, duration)
        self.shown, self.faults = self.cues, LayoutFaults()
        if layout is not None and not layout.is_off:
            self.shown, self.faults = lay_out(self.cues, duration, layout)
            self.shown = [_with_direction(cue) for cue in self.shown]
        self._word_times = word_times
        self._video = video
        self._language = language

    def as_format(self, format: str) -> str:
        """Return the text of a file in one of `FORMATS`. Raises SubtitleError."""
        if format not in _WRITERS:
            raise SubtitleError(
                f"subtitle format is {format!r}; allowed: one of {', '.join(map(repr, FORMATS))}"
            )
        return _WRITERS[format](self)

    def json_line(self, path: str) -> str:
        """Return one line of a JSON Lines file: the json with the video's path."""
        document = {"path": path} | self._document()
        return json.dumps(document, ensure_ascii=False, allow_nan=False) + "\n"

    def tsv_rows(self, path: str) -> str:
        """Return the rows of this video in a table of several, whose head is `TSV_HEADER`."""
        return _tab_separated([path, *_row(cue)] for cue in self.cues)

    def _txt(self) -> str:
        return "".join(f"{cue.text}\n" for cue in self.cues)

    def _json(self) -> str:
        return json.dumps(self._document(), ensure_ascii=False, indent=2, allow_nan=False) + "\n"

    def _tsv(self) -> str:
        return _tab_separated([_COLUMNS, *map(_row, self.cues)])

    def _srt(self) -> str:
        # SubRip has no escapes, and some players take an arrow in the text for a line of times.
        return "\n".join(
            f"{number}\n{_times(cue, ',')}\n{re.sub('--+>', '->', _lines(cue))}\n"
            for number, cue in enumerate(self.shown, 1)
        )

    def _vtt(self) -> str:
        return "\n".join(["WEBVTT\n", *map(vtt_cue, self.shown)])

    def _ass(self) -> str:
        return as_ass(self.shown)

    def _ttml(self) -> str:
        return as_ttml(self.shown, self._language)

    def _eaf(self) -> str:
        return as_eaf(self.cues, self._video, self._word_times)

    def _document(self) -> dict[str, object]:
        segments = [
            {
                "start": cue.start / 1000,
                "end": cue.end / 1000,
                "text": cue.text,
                "score": cue.score,
                "confidence": cue.confidence,
                "words": self._words(cue),
                "alternatives": [
                    {
                        "text": one_line(other.text),
                        "score": finite(other.score),
                        "confidence": finite(other.confidence),
                    }
                    for other in cue.alternatives
                ],
            }
            for cue in self.cues
        ]
        return {"text": join_texts(cue.text for cue in self.cues), "segments": segments}

    def _words(self, cue: Cue) -> list[dict[str, object]]:
        words: list[dict[str, object]] = [
            {"text": one_line(word.text), "confidence": finite(word.confidence)}
            for word in cue.words
        ]
        if self._word_times:
            for word, span in zip(words, word_spans(cue)):
                word |= {
                    "start": span.start / 1000,
                    "end": span.end / 1000,
                    "timed_by": span.source,
                }
        return words


def write(segments: Iterable[Segment], format: str, duration: float | None = None) -> str:
    """Return the text of a caption file in one of `FORMATS`.

    `duration` is the video's length in seconds; no cue lasts beyond it. Cues are in order of time
    and do not overlap: each one ends where the next one begins, at the latest, and segments that
    begin in the same millisecond become one cue. No text is lost; a segment without text is left
    out. Times are rounded to milliseconds (ass: down to hundredths of a second). Raises
    SubtitleError.
    """
    return Captions(segments, duration).as_format(format)


def vtt_cue(cue: Cue) -> str:
    """A cue of a WebVTT file, without the empty line that separates it from others."""
    return f"{_times(cue, '.')}\n{html.escape(_lines(cue), quote=False)}\n"


def _with_direction(cue: Cue) -> Cue:
    if not reads_right_to_left(cue.text):
        return cue
    return dataclasses.replace(cue, lines=tuple(map(with_direction_marks, cue.shown)))


def _lines(cue: Cue) -> str:
    return "\n".join(cue.shown)


def _times(cue: Cue, separator: str) -> str:
    return f"{_clock(cue.start, separator)} --> {_clock(cue.end, separator)}"


def _clock(milliseconds: int, separator: str) -> str:
    seconds, milliseconds = divmod(milliseconds, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{seconds:02d}{separator}{milliseconds:03d}"


def _row(cue: Cue) -> list[object]:
    return [f"{cue.start / 1000:.3f}", f"{cue.end / 1000:.3f}", cue.text, cue.score, cue.confidence]


def _tab_separated(rows: Iterable[Sequence[object]]) -> str:
    file = io.StringIO()
    csv.writer(file, dialect="excel-tab", lineterminator="\n").writerows(rows)
    return file.getvalue()


_COLUMNS = ("start", "end", "text", "score", "confidence")
TSV_HEADER = _tab_separated([("path", *_COLUMNS)])
_WRITERS: dict[str, Callable[[Captions], str]] = {
    "txt": Captions._txt,
    "json": Captions._json,
    "tsv": Captions._tsv,
    "srt": Captions._srt,
    "vtt": Captions._vtt,
    "ass": Captions._ass,
    "ttml": Captions._ttml,
    "eaf": Captions._eaf,
}
FORMATS = tuple(_WRITERS)
USUAL_FORMATS = FORMATS[:5]  # those of `--format=all`
