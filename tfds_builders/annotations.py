"""Reads annotation tables, which are untrusted: every row becomes a clip or a `Problem` with file and line. Nothing is dropped in silence."""

import csv
import difflib
import os
import sys
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from signvit_jax.data.schema import TEST, TRAIN, VALIDATION, WHOLE_FILE
from signvit_jax.data.video import EXTENSIONS
from tfds_builders.clips import Clip, ClipTable, Problem

MAX_TEXT = 20_000  # characters; a "sentence" longer than that is a quote that was never closed
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


class AnnotationError(ValueError):
    """An annotation file or media folder that cannot be used at all; the message is for the user and complete."""


class Media(Protocol):
    """Where clips are looked for; see `tfds_builders.media`."""

    def find(self, name: str) -> str:
        """A path. Raises LookupError with the reason."""


@dataclass(frozen=True)
class Row:
    line: int  # where it begins, counted from 1
    values: dict[str, str]  # column -> text without surrounding white space


@dataclass(frozen=True)
class Table:
    path: str
    rows: list[Row]
    problems: list[Problem] = field(default_factory=list)


def read_table(
    path: str | os.PathLike, required: Sequence[str], optional: Sequence[str] = (), delimiters: str = ",\t;|", quoted: bool = True
) -> Table:
    """Reads a table with a header line in UTF-8; the delimiter is the one that brings the required columns out of the header.

    `quoted=False` takes quotation marks as they stand, for tables that do not quote. Columns of other names are ignored. Raises AnnotationError.
    """
    try:
        with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            header = file.readline()
            if "\0" in header or header.startswith(("\udcff\udcfe", "\udcfe\udcff")):
                raise AnnotationError(f"{path}: not a UTF-8 text file (UTF-16, or not a table at all); save it as CSV in UTF-8")
            delimiter, columns = _columns(os.fspath(path), header, required, optional, delimiters)
            table = Table(os.fspath(path), [])
            csv.field_size_limit(sys.maxsize)
            reader = csv.reader(file, delimiter=delimiter, strict=True, quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE)
            for line, fields in _lines(table, reader):
                _take_row(table, line, fields, columns, required)
    except OSError as error:
        raise AnnotationError(
            f"{path}: cannot be read ({error.strerror}); give the path of a CSV or TSV file with the columns {', '.join(required)}"
        ) from error
    return table


def _columns(path: str, header: str, required: Sequence[str], optional: Sequence[str], delimiters: str) -> tuple[str, list[str | None]]:
    """The delimiter, and for every field of a row the name of its column, None for one that is not wanted."""
    best: tuple[int, str, list[str]] | None = None
    for delimiter in delimiters:
        try:
            names = [name.strip().casefold() for name in next(csv.reader([header], delimiter=delimiter), [])]
        except csv.Error:
            continue
        found = sum(name.casefold() in names for name in required)
        if best is None or found > best[0]:
            best = (found, delimiter, names)
    if not header.strip() or best is None:
        raise AnnotationError(f"{path}: the file is empty; its first line must name the columns {', '.join(required)}")
    _, delimiter, names = best
    wanted = {name.casefold(): name for name in (*required, *optional)}
    for name in required:
        if name.casefold() not in names:
            near = difflib.get_close_matches(name, names, n=1)
            shown = ", ".join(repr(n[:40]) for n in names[:20])
            raise AnnotationError(f"{path}: no column {name!r} in the first line; it has {shown}" + (f"; rename {near[0]!r}?" if near else ""))
    for name in wanted:
        if names.count(name) > 1:
            raise AnnotationError(f"{path}: the column {name!r} is there {names.count(name)} times in the first line; name each once")
    return delimiter, [wanted.get(name) for name in names]


def _lines(table: Table, reader) -> Iterator[tuple[int, list[str]]]:
    """(line where it begins, fields); what the csv module cannot parse becomes a problem, and reading goes on with the next line."""
    while True:
        line = reader.line_num + 2  # the header was read before
        try:
            fields = next(reader, None)
        except csv.Error as error:
            last = reader.line_num + 1
            lines = f"lines {line} to {last}" if last > line else f"line {line}"
            table.problems.append(
                Problem("", f"{lines} cannot be parsed ({error}): a quotation mark is not closed or not doubled", file=table.path, line=line)
            )
            continue
        if fields is None:
            return
        if any(text.strip() for text in fields):
            yield line, fields


def _take_row(table: Table, line: int, fields: list[str], columns: list[str | None], required: Sequence[str]) -> None:
    values = {name: text.strip() for name, text in zip(columns, fields) if name is not None}
    fault = _fault(fields, values, columns, required)
    if fault:
        table.problems.append(Problem(values.get(required[0], "")[:200].encode("utf-8", "replace").decode(), fault, file=table.path, line=line))
    else:
        table.rows.append(Row(line, values))


def _fault(fields: list[str], values: dict[str, str], columns: list[str | None], required: Sequence[str]) -> str | None:
    if len(fields) > len(columns):
        return f"{len(fields)} fields where the header has {len(columns)}; text that contains the delimiter must stand in quotation marks"
    for name in required:
        if not values.get(name):
            return f"no {name}"
    for name, text in values.items():
        if "\0" in text:
            return f"a NUL character in {name}"
        if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
            return f"{name} is not UTF-8"
        if len(text) > MAX_TEXT:
            return f"{name} has {len(text)} characters; allowed: at most {MAX_TEXT}"
    return None


def collect(tables: Sequence[Table], name_of: Callable[[Row], str], clip_of: Callable[[Table, Row, str], Clip]) -> ClipTable:
    """Every row of the tables as a clip under the id that `name_of` gives it, or as a problem: an id that was there before, or what `clip_of` raises.

    `clip_of(table, row, id)` raises LookupError with the reason. Raises AnnotationError if there is no row at all.
    """
    if not any(table.rows or table.problems for table in tables):
        raise AnnotationError(f"{tables[0].path}: there is no row below the header; one row a clip is needed")
    clips, problems, seen = [], [], {}
    for table in tables:
        found = list(table.problems)
        for row in table.rows:
            name = name_of(row)
            try:
                if name in seen:
                    first, line = seen[name]
                    raise LookupError(f"the id is there twice; first in {'' if first is table else f'{first.path}, '}line {line}")
                seen[name] = table, row.line
                clips.append(clip_of(table, row, name))
            except LookupError as error:
                found.append(Problem(name, str(error.args[0]), file=table.path, line=row.line))
        problems += sorted(found, key=lambda problem: problem.line)
    return ClipTable(clips, problems)


def clips_of(table: Table, media: Media) -> ClipTable:
    """Clips of a table with the columns `uid,text` and, optionally, `gloss,signer,video_id,split,start,end` (seconds)."""

    def name_of(row: Row) -> str:
        uid = _uid(row)
        return os.path.splitext(uid)[0] if uid.lower().endswith(EXTENSIONS) else uid

    return collect([table], name_of, lambda table, row, name: _clip(table.path, row, name, media))


def _uid(row: Row) -> str:
    return unicodedata.normalize("NFC", row.values["uid"])


def _clip(file: str, row: Row, name: str, media: Media) -> Clip:
    get = row.values.get
    start, end = times(get("start", ""), get("end", ""))
    split = None
    if "split" in row.values:
        split = split_named(get("split"))
    try:
        path = media.find(_uid(row))
    except LookupError:
        if start == WHOLE_FILE or not get("video_id"):
            raise
        path = media.find(get("video_id"))  # a clip that is cut from a longer video by its times
    return Clip(
        name, get("text"), path, None, " ".join(get("gloss", "").split()), get("signer", ""), get("video_id", ""), split, start, end, file, row.line
    )


def split_named(name: str) -> str:
    """The split that a table calls `name`, such as "dev". Raises LookupError."""
    split = SPLIT_NAMES.get(name.casefold())
    if split is None:
        raise LookupError(f"split is {name!r}; allowed: {', '.join(SPLIT_NAMES)}")
    return split


def times(start: str, end: str) -> tuple[float, float]:
    """Start and end in seconds; nothing in both means the whole file. Raises LookupError."""
    first, last = _seconds("start", start), _seconds("end", end)
    if last == WHOLE_FILE:
        return first, last
    if last <= max(first, 0.0):
        raise LookupError(f"end is {last:g} s, start {max(first, 0.0):g} s; the end must come after the start")
    return max(first, 0.0), last


def _seconds(name: str, text: str) -> float:
    if not text:
        return WHOLE_FILE
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value < 1e7:
        raise LookupError(f"{name} is {text[:40]!r}; allowed: seconds >= 0, or nothing")
    return value
