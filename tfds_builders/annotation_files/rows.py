"""Rows of annotation tables as clips: names, texts, splits and times.

Every row becomes a clip or a `Problem` with file and line; nothing is dropped silently.
"""

import os
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from signvit_jax.data.schema import TEST, TRAIN, VALIDATION, WHOLE_FILE
from signvit_jax.media.video import EXTENSIONS
from tfds_builders.annotation_files.tables import (
    DELIMITERS,
    AnnotationError,
    Row,
    Table,
    read_table,
)
from tfds_builders.clips import Clip, ClipTable, Problem

REST = "<rest>"  # the text of a clip in which nobody signs; stored as the empty text
# Texts that programs write for missing values; they are kept, with a note.
PLACEHOLDERS = ("nan", "n/a", "#n/a", "na", "null", "none", "-")
MAX_SECONDS = 1e7  # limit of a time within a recording, about 115 days
_DECIMAL_COMMA = re.compile(r"\d+,\d+")
_CLOCK = re.compile(r"(?:(\d{1,3}):)?(\d{1,2}):(\d{1,2}(?:[.,]\d+)?)")
SPLIT_NAMES = {
    "train": TRAIN,
    "training": TRAIN,
    "val": VALIDATION,
    "valid": VALIDATION,
    "validation": VALIDATION,
    "dev": VALIDATION,
    "test": TEST,
    "testing": TEST,
}


class Media(Protocol):
    """A place to look up clips; see `tfds_builders.media`."""

    # Images per second of clips that are folders of images; None: there are none.
    image_rate: float | None

    @property
    def notes(self) -> Sequence[str]:
        """Sentences for the user."""
        ...

    def find(self, name: str) -> str:
        """Return a path. Raises LookupError with the reason."""
        ...


def collect(
    tables: Sequence[Table],
    name_of: Callable[[Row], str],
    clip_of: Callable[[Table, Row, str], Clip],
) -> ClipTable:
    """Return every row as a clip, or as a problem if its id is a duplicate or `clip_of` fails.

    Args:
        tables: the tables of a data set.
        name_of: returns the id of a row.
        clip_of: returns the clip of (table, row, id), or raises LookupError with the reason.

    Raises:
        AnnotationError: there is no row at all.
    """
    if not any(table.rows or table.problems for table in tables):
        raise AnnotationError(
            f"{tables[0].path}: there is no row below the header; one row per clip is needed"
        )
    clips, problems = [], []
    first_places: dict[str, tuple[Table, int]] = {}  # id -> the table and line that have it first
    for table in tables:
        problems_of_table = list(table.problems)
        for row in table.rows:
            name = name_of(row)
            try:
                if name in first_places:
                    first, line = first_places[name]
                    file = "" if first is table else f"{first.path}, "
                    raise LookupError(f"the id is there twice; first in {file}line {line}")
                first_places[name] = table, row.line
                clips.append(clip_of(table, row, name))
            except LookupError as error:
                reason = str(error.args[0])
                problems_of_table.append(Problem(name, reason, file=table.path, line=row.line))
        problems += sorted(problems_of_table, key=lambda problem: problem.line)
    return ClipTable(clips, problems)


# Columns of a table of clips in our own layout.
REQUIRED_COLUMNS = ("uid", "text")
OPTIONAL_COLUMNS = ("gloss", "signer", "video_id", "split", "start", "end")


def read_clip_table(
    path: str | os.PathLike,
    optional: Sequence[str] = OPTIONAL_COLUMNS,
    column_names: Mapping[str, str | None] | None = None,
    delimiters: str = DELIMITERS,
    encoding: str | None = None,
) -> Table:
    """Read a table of clips, a row each, for `clips_of`. Raises AnnotationError.

    `column_names`, `delimiters` and `encoding` are as in `read_table`.
    """
    if_empty = {"text": f"a clip in which nobody signs has the text {REST}"}
    return read_table(
        path,
        REQUIRED_COLUMNS,
        optional,
        delimiters,
        column_names=column_names or {},
        if_empty=if_empty,
        encoding=encoding,
    )


def clips_of(table: Table, media: Media) -> ClipTable:
    """Return the clips of a table with REQUIRED_COLUMNS and some of OPTIONAL_COLUMNS."""

    def name_of(row: Row) -> str:
        uid = _uid(row)
        return os.path.splitext(uid)[0] if uid.lower().endswith(EXTENSIONS) else uid

    clips = collect([table], name_of, lambda table, row, name: _clip(table.path, row, name, media))
    notes = [*media.notes, *placeholder_notes(clips.clips), *encoding_notes(clips.problems)]
    return ClipTable(clips.clips, clips.problems, notes)


def encoding_notes(problems: Sequence[Problem]) -> list[str]:
    """A sentence on texts in another encoding."""
    count = sum(problem.reason.endswith(" is not UTF-8") for problem in problems)
    if not count:
        return []
    return [
        f"{count} texts are not UTF-8: save the file as 'CSV UTF-8' (or a subtitle file as UTF-8), "
        "or name its encoding; --encoding=cp1252 is that of Excel for Windows in western Europe"
    ]


def placeholder_notes(clips: Sequence[Clip]) -> list[str]:
    """A sentence on texts that are probably missing values."""
    odd = [clip for clip in clips if clip.text.casefold() in PLACEHOLDERS]
    if not odd:
        return []
    return [
        f"{len(odd)} clips have a text that programs write for missing values, such as "
        f"{odd[0].text!r} in line {odd[0].line}: kept as their text; "
        f"a clip in which nobody signs has the text {REST}"
    ]


def _uid(row: Row) -> str:
    return unicodedata.normalize("NFC", row.values["uid"])


def _clip(file: str, row: Row, name: str, media: Media) -> Clip:
    get = row.values.get
    start, end = times(get("start", ""), get("end", ""))
    split = split_named(row.values["split"]) if "split" in row.values else None
    try:
        path = media.find(_uid(row))
    except LookupError:
        video_id = get("video_id")
        if start == WHOLE_FILE or not video_id:
            raise
        path = media.find(video_id)  # the clip is a part of a longer video, by its times
    return Clip(
        id=name,
        text=without_rest(row.values["text"]),
        path=path,
        gloss=without_rest(" ".join(get("gloss", "").split())),
        signer=get("signer", ""),
        video_id=get("video_id", ""),
        split=split,
        start=start,
        end=end,
        file=file,
        line=row.line,
        image_rate=media.image_rate if media.image_rate and os.path.isdir(path) else None,
    )


def without_rest(text: str) -> str:
    """Return the text to store: that of a clip of rest is empty."""
    return "" if text.casefold() == REST else text


def split_named(name: str) -> str:
    """Return the split for its name in a table, such as "dev". Raises LookupError."""
    split = SPLIT_NAMES.get(name.casefold())
    if split is None:
        raise LookupError(f"split is {name!r}; allowed: {', '.join(SPLIT_NAMES)}")
    return split


def times(start: str, end: str) -> tuple[float, float]:
    """Return start and end in seconds; both empty means the complete file. Raises LookupError.

    A time is a number of seconds or h:m:s, with a decimal point or comma.
    """
    first, last = _seconds("start", start), _seconds("end", end)
    if last == WHOLE_FILE:
        return first, last
    require_order(max(first, 0.0), last)
    return max(first, 0.0), last


def require_order(start: float, end: float) -> None:
    """Raise LookupError unless the end comes after the start; both in seconds."""
    if end <= start:
        raise LookupError(f"end is {end:g} s, start {start:g} s; the end must come after the start")


def _seconds(name: str, text: str) -> float:
    if not text:
        return WHOLE_FILE
    try:
        value = _clock_seconds(text) if ":" in text else float(_with_decimal_point(text))
    except ValueError:
        value = -1.0
    if value >= MAX_SECONDS:
        raise LookupError(f"{name} is {text[:40]!r}; allowed: less than {MAX_SECONDS:,.0f} seconds")
    if not value >= 0.0:
        raise LookupError(f"{name} is {text[:40]!r}; allowed: seconds >= 0, or nothing")
    return value


def _with_decimal_point(text: str) -> str:
    return text.replace(",", ".") if _DECIMAL_COMMA.fullmatch(text) else text


def _clock_seconds(text: str) -> float:
    """Seconds of a time such as 1:02:03.5 or 02:03,5. Raises ValueError."""
    clock = _CLOCK.fullmatch(text)
    if clock is None:
        raise ValueError(text)
    hours, minutes, seconds = int(clock[1] or 0), int(clock[2]), float(clock[3].replace(",", "."))
    if seconds >= 60 or (clock[1] and minutes >= 60):
        raise ValueError(text)
    return 3600 * hours + 60 * minutes + seconds
