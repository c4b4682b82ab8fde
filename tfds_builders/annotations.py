"""Reads annotation tables, which are untrusted: every row becomes a clip or a `Problem` with file and line. Nothing is dropped in silence."""

import csv
import difflib
import os
import re
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from signvit_jax.data.schema import TEST, TRAIN, VALIDATION, WHOLE_FILE
from signvit_jax.errors.base import SignVitError
from signvit_jax.media.video import EXTENSIONS
from tfds_builders.clips import Clip, ClipTable, Problem

REST = "<rest>"  # the text of a clip in which nobody signs; stored as the empty text
PLACEHOLDERS = ("nan", "n/a", "#n/a", "na", "null", "none", "-")  # kept, and said
MAX_TEXT = 20_000  # characters; a "sentence" longer than that is a quote that was never closed
MOST_NAME_WORDS = 5  # of a clip's name; more are a sentence
LONG_TEXT, SWALLOWED_SHARE = 4, 0.8  # lines, and the share of them that are rows
_LINE_BREAK = re.compile("\r\n|\r|\n")
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


class AnnotationError(SignVitError, ValueError):
    """An annotation file or media folder that cannot be used at all; the message is for the user and complete."""


class Media(Protocol):
    """Where clips are looked for; see `tfds_builders.media`."""

    notes: Sequence[str]  # what a user should know of the folder

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
    path: str | os.PathLike,
    required: Sequence[str],
    optional: Sequence[str] = (),
    delimiters: str = ",\t;|",
    quoted: bool = True,
    called: Mapping[str, str | None] | None = None,
    if_empty: Mapping[str, str] | None = None,
) -> Table:
    """Reads a table with a header line in UTF-8; the delimiter is the one that brings the required columns out of the header.

    `quoted=False` takes quotation marks as they stand, for tables that do not quote. Columns of other
    names are ignored. `called`: what the table calls a column, by the name that it has here; given
    (with None for "the same") where the user can say so with the option --<name>_column. `if_empty`:
    what to do about a row in which a required column is empty. Raises AnnotationError, also where a
    quotation mark that is not closed swallows whole rows.
    """
    try:
        with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            header = file.readline()
            if "\0" in header or header.startswith(("\udcff\udcfe", "\udcfe\udcff")):
                raise AnnotationError(
                    f"{path}: not a UTF-8 text file (UTF-16, or not a table at all); save it as CSV in UTF-8"
                )
            delimiter, columns = _columns(
                os.fspath(path), header, required, optional, delimiters, called
            )
            table = Table(os.fspath(path), [])
            csv.field_size_limit(sys.maxsize)
            for line, fields in _lines(table, file, delimiter, quoted, columns, required):
                _take_row(table, line, fields, columns, required, if_empty or {})
    except OSError as error:
        raise AnnotationError(
            f"{path}: cannot be read ({error.strerror}); give the path of a CSV or TSV file with the columns {', '.join(required)}"
        ) from error
    return table


def _columns(
    path: str,
    header: str,
    required: Sequence[str],
    optional: Sequence[str],
    delimiters: str,
    called: Mapping[str, str | None] | None,
) -> tuple[str, list[list[str]]]:
    """The delimiter, and for every field of a row the columns that it fills, perhaps none."""
    given = {name: column for name, column in (called or {}).items() if column}
    heads = {name: given.get(name, name) for name in (*required, *optional)}
    best: tuple[int, str, list[str]] | None = None
    for delimiter in delimiters:
        try:
            names = [name.strip() for name in next(csv.reader([header], delimiter=delimiter), [])]
        except csv.Error:
            continue
        folded = {name.casefold() for name in names}
        found = sum(heads[name].strip().casefold() in folded for name in (*required, *given))
        if best is None or found > best[0]:
            best = (found, delimiter, names)
    if not header.strip() or best is None:
        raise AnnotationError(
            f"{path}: the file is empty; its first line must name the columns {', '.join(heads[name] for name in required)}"
        )
    _, delimiter, names = best
    folded = [name.casefold() for name in names]
    for name in dict.fromkeys((*required, *given)):
        if heads[name].strip().casefold() not in folded:
            raise AnnotationError(
                f"{path}: {_no_column(name, heads[name], names, name in given, called is not None)}"
            )
    claimed = {column.strip().casefold() for column in given.values()}
    columns: list[list[str]] = [[] for _ in names]
    for name, head in heads.items():
        head = head.strip().casefold()
        if name not in given and name not in required and head in claimed:
            continue  # said to be something else
        if folded.count(head) > 1:
            raise AnnotationError(
                f"{path}: the column {head!r} is there {folded.count(head)} times in the first line; name each once"
            )
        if head in folded:
            columns[folded.index(head)].append(name)
    return delimiter, columns


def _no_column(name: str, head: str, names: Sequence[str], is_given: bool, has_flag: bool) -> str:
    near = difflib.get_close_matches(
        head.casefold(), [known.casefold() for known in names], n=1, cutoff=0.5
    )
    nearest = next((known for known in names if near and known.casefold() == near[0]), None)
    shown = ", ".join(repr(known[:40]) for known in names[:20]) + (
        f" and {len(names) - 20} more" if len(names) > 20 else ""
    )
    said = f"no column {head!r} in the first line; it has {shown}"
    if is_given:
        return f"{said}. --{name}_column is {head!r}" + (
            f"; did you mean {nearest!r}?" if nearest else "; allowed: one of those"
        )
    if has_flag:
        return f"{said}. --{name}_column=NAME says which of them is the {name}" + (
            f"; is it {nearest!r}?" if nearest else ""
        )
    return said + (f"; rename {nearest!r}?" if nearest else "")


def _lines(
    table: Table,
    file: Iterable[str],
    delimiter: str,
    quoted: bool,
    columns: Sequence[Sequence[str]],
    required: Sequence[str],
) -> Iterator[tuple[int, list[str]]]:
    """(line where it begins, fields); what cannot be parsed is a problem, and the rest is read.

    Raises AnnotationError for a quotation mark that swallows whole rows: which of the marks was
    forgotten cannot be known, and the texts on either side would be wrong.
    """
    raw: list[str] = []  # lines of the row that is being read

    def remembered() -> Iterator[str]:
        for line in file:
            raw.append(line)
            yield line

    reader = csv.reader(
        remembered(),
        delimiter=delimiter,
        strict=True,
        quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
    )
    rows = _Rows(delimiter, columns, required)
    while True:
        line = reader.line_num + 2  # the header was read before
        raw.clear()
        try:
            fields = next(reader, None)
        except csv.Error as error:
            last = reader.line_num + 1
            if swallowed := rows.count(raw[1:]):
                closed = (
                    "is never closed" if "unexpected end" in str(error) else "is not closed there"
                )
                raise AnnotationError(
                    _swallowed(table.path, line, last, closed, swallowed)
                ) from None
            lines = f"lines {line} to {last}" if last > line else f"line {line}"
            table.problems.append(
                Problem(
                    "",
                    f"{lines} cannot be parsed ({error}): a quotation mark is not closed or not doubled",
                    file=table.path,
                    line=line,
                )
            )
            continue
        if fields is None:
            return
        if len(raw) > 1 and (swallowed := rows.swallowed_by(fields)):
            last = reader.line_num + 1
            raise AnnotationError(
                _swallowed(table.path, line, last, f"is closed in line {last} only", swallowed)
            )
        if any(text.strip() for text in fields):
            yield line, fields


def _swallowed(path: str, first: int, last: int, closed: str, count: int) -> str:
    return (
        f"{path}, lines {first} to {last}: the quotation mark that opens in line {first} {closed}, so that {count} rows after it would be part of "
        f'one text. Close it in line {first}, or write it twice ("") where it belongs to a text in quotation marks; a text whose own lines look '
        "like rows of the table must be written on one line"
    )


class _Rows:
    """Tells rows of the table from the lines of a quoted text.

    A row has all fields, none empty that is required, no space after a delimiter, and a name of a few
    words. Prose has spaces after its commas and semicolons, and other numbers of them; where it has no
    spaces, it is in another script than the names of the clips are, as a rule.
    """

    def __init__(self, delimiter: str, columns: Sequence[Sequence[str]], required: Sequence[str]):
        self._delimiter, self._width = delimiter, len(columns)
        self._required = [
            i for i, names in enumerate(columns) if any(name in required for name in names)
        ]
        self._name = next(
            (i for i, names in enumerate(columns) if required and required[0] in names), 0
        )

    def count(self, lines: Sequence[str]) -> int:
        """How many of the lines are rows."""
        return sum(self._is_row(self._fields(line)) for line in lines)

    def swallowed_by(self, fields: Sequence[str]) -> int:
        """How many rows a quoted field has swallowed; 0 where its lines are those of a text."""
        own = fields[self._name] if self._name < len(fields) else ""
        for place, text in enumerate(fields):
            first, *others = _LINE_BREAK.split(text)
            others = [line for line in others if line.strip()]
            if not others:
                continue
            name = own if place != self._name else first
            rows = [
                *map(self._fields, others[:-1]),
                [*self._fields(others[-1]), *fields[place + 1 :]],
            ]
            is_long = len(rows) >= LONG_TEXT
            if not is_long and place + max(len(self._fields(first)), 1) != self._width:
                continue  # its first line does not end a row
            swallowed = sum(self._is_row(row, may_be_short=is_long, like=name) for row in rows)
            if swallowed >= (SWALLOWED_SHARE * len(rows) if is_long else len(rows)):
                return swallowed
        return 0

    def _fields(self, line: str) -> list[str]:
        try:
            return next(csv.reader([line], delimiter=self._delimiter), [])
        except csv.Error:
            return []

    def _is_row(
        self, fields: Sequence[str], may_be_short: bool = False, like: str | None = None
    ) -> bool:
        least = max(self._required) + 1 if may_be_short else self._width
        if not least <= len(fields) <= self._width or not all(
            fields[i].strip() for i in self._required
        ):
            return False
        name = fields[self._name]
        if len(name.split()) > MOST_NAME_WORDS or (
            like is not None and like.isascii() and not name.isascii()
        ):
            return False
        return not any(text.startswith(" ") for text in fields[1:])


def _take_row(
    table: Table,
    line: int,
    fields: list[str],
    columns: Sequence[Sequence[str]],
    required: Sequence[str],
    if_empty: Mapping[str, str],
) -> None:
    values = {name: text.strip() for names, text in zip(columns, fields) for name in names}
    fault = _fault(fields, values, columns, required, if_empty)
    if fault:
        table.problems.append(
            Problem(
                values.get(required[0], "")[:200].encode("utf-8", "replace").decode(),
                fault,
                file=table.path,
                line=line,
            )
        )
    else:
        table.rows.append(Row(line, values))


def _fault(
    fields: list[str],
    values: dict[str, str],
    columns: Sequence[Sequence[str]],
    required: Sequence[str],
    if_empty: Mapping[str, str],
) -> str | None:
    if len(fields) > len(columns):
        return f"{len(fields)} fields where the header has {len(columns)}; text that contains the delimiter must stand in quotation marks"
    for name in required:
        if not values.get(name):
            return f"no {name}" + (f"; {if_empty[name]}" if name in if_empty else "")
    for name, text in values.items():
        if "\0" in text:
            return f"a NUL character in {name}"
        if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
            return f"{name} is not UTF-8"
        if len(text) > MAX_TEXT:
            return f"{name} has {len(text)} characters; allowed: at most {MAX_TEXT}"
    return None


def collect(
    tables: Sequence[Table],
    name_of: Callable[[Row], str],
    clip_of: Callable[[Table, Row, str], Clip],
) -> ClipTable:
    """Every row of the tables as a clip under the id that `name_of` gives it, or as a problem: an id that was there before, or what `clip_of` raises.

    `clip_of(table, row, id)` raises LookupError with the reason. Raises AnnotationError if there is no row at all.
    """
    if not any(table.rows or table.problems for table in tables):
        raise AnnotationError(
            f"{tables[0].path}: there is no row below the header; one row a clip is needed"
        )
    clips, problems, seen = [], [], {}
    for table in tables:
        found = list(table.problems)
        for row in table.rows:
            name = name_of(row)
            try:
                if name in seen:
                    first, line = seen[name]
                    raise LookupError(
                        f"the id is there twice; first in {'' if first is table else f'{first.path}, '}line {line}"
                    )
                seen[name] = table, row.line
                clips.append(clip_of(table, row, name))
            except LookupError as error:
                found.append(Problem(name, str(error.args[0]), file=table.path, line=row.line))
        problems += sorted(found, key=lambda problem: problem.line)
    return ClipTable(clips, problems)


OWN_REQUIRED, OWN_OPTIONAL = (
    ("uid", "text"),
    ("gloss", "signer", "video_id", "split", "start", "end"),
)


def read_own_table(
    path: str | os.PathLike,
    optional: Sequence[str] = OWN_OPTIONAL,
    called: Mapping[str, str | None] | None = None,
    **kind,
) -> Table:
    """A table for `clips_of`; `called` and `kind` as in `read_table`. Raises AnnotationError."""
    if_empty = {"text": f"a clip in which nobody signs has the text {REST}"}
    return read_table(path, OWN_REQUIRED, optional, called=called or {}, if_empty=if_empty, **kind)


def clips_of(table: Table, media: Media) -> ClipTable:
    """Clips of a table with the columns `uid,text` and, optionally, `gloss,signer,video_id,split,start,end` (seconds)."""

    def name_of(row: Row) -> str:
        uid = _uid(row)
        return os.path.splitext(uid)[0] if uid.lower().endswith(EXTENSIONS) else uid

    found = collect([table], name_of, lambda table, row, name: _clip(table.path, row, name, media))
    return ClipTable(found.clips, found.problems, [*media.notes, *_placeholder_notes(found.clips)])


def _placeholder_notes(clips: Sequence[Clip]) -> list[str]:
    odd = [clip for clip in clips if clip.text.casefold() in PLACEHOLDERS]
    if not odd:
        return []
    return [
        f"{len(odd)} clips have a text that programs write for 'nothing', such as {odd[0].text!r} in line {odd[0].line}: kept as their text; "
        f"a clip in which nobody signs has the text {REST}"
    ]


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
    text, gloss = (
        "" if value.casefold() == REST else value
        for value in (get("text"), " ".join(get("gloss", "").split()))
    )
    return Clip(
        name,
        text,
        path,
        None,
        gloss,
        get("signer", ""),
        get("video_id", ""),
        split,
        start,
        end,
        file,
        row.line,
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
        raise LookupError(
            f"end is {last:g} s, start {max(first, 0.0):g} s; the end must come after the start"
        )
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
