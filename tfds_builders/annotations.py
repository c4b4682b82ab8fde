"""Annotation tables, which are untrusted.

Every row becomes a clip or a `Problem` with file and line; nothing is dropped silently.
"""

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
# Texts that programs write for missing values; they are kept, with a note.
PLACEHOLDERS = ("nan", "n/a", "#n/a", "na", "null", "none", "-")
MAX_TEXT = 20_000  # characters; a longer "sentence" is a quotation mark that was never closed
MAX_NAME_WORDS = 5  # of a clip's name; a name with more words is a sentence
# A quoted text of at least LONG_TEXT lines, of which this share look like rows, has swallowed rows.
LONG_TEXT = 4
SWALLOWED_SHARE = 0.8
_LINE_BREAK = re.compile("\r\n|\r|\n")
# The first line by which a table tells Excel its delimiter.
_SEPARATOR_LINE = re.compile('"?sep=(.)"?[\r\n]*', re.IGNORECASE)
_DECIMAL_COMMA = re.compile(r"\d+,\d+")
_CLOCK = re.compile(r"(?:(\d{1,3}):)?(\d{1,2}):(\d{1,2}(?:[.,]\d+)?)")
# The first bytes of spreadsheets: .xlsx and .ods are zip files, .xls is OLE.
_SPREADSHEETS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")
_BYTE_ORDER_MARKS = {
    b"\xef\xbb\xbf": "utf-8-sig",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}
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
    """An annotation file or media folder that cannot be used at all.

    The message is complete and for the user.
    """


class Media(Protocol):
    """A place to look up clips; see `tfds_builders.media`."""

    @property
    def notes(self) -> Sequence[str]:
        """Sentences for the user."""
        ...

    def find(self, name: str) -> str:
        """Return a path. Raises LookupError with the reason."""
        ...


@dataclass(frozen=True)
class Row:
    """A row of a table."""

    line: int  # its first line in the file, counted from 1
    values: dict[str, str]  # column -> text without surrounding white space


@dataclass(frozen=True)
class Table:
    """The rows of a file, and the lines that are none."""

    path: str
    rows: list[Row]
    problems: list[Problem] = field(default_factory=list)
    encoding: str = "UTF-8"  # by which it was read


def text_encoding(head: bytes, given: str | None) -> str:
    """Return the codec of a text that begins with `head`: by its byte order mark, else `given`.

    Without either it is UTF-8. Raises AnnotationError for an unknown `given`.
    """
    for mark, encoding in _BYTE_ORDER_MARKS.items():
        if head.startswith(mark):
            return encoding
    try:
        "a".encode(given or "utf-8")  # fails for codecs that are not of texts, such as base64
    except LookupError as error:
        raise AnnotationError(
            f"--encoding is {given!r}; allowed: the name of a text encoding, "
            "such as utf-8, cp1252, latin-1, utf-16-le or gb18030"
        ) from error
    return given or "utf-8"


DELIMITERS = ",\t;|"


def read_table(
    path: str | os.PathLike,
    required: Sequence[str],
    optional: Sequence[str] = (),
    delimiters: str = DELIMITERS,
    quoted: bool = True,
    called: Mapping[str, str | None] | None = None,
    if_empty: Mapping[str, str] | None = None,
    encoding: str | None = None,
) -> Table:
    """Read a table with a header line, which a line `sep=;` may precede.

    Args:
        path: the file.
        required, optional: columns; others are ignored.
        delimiters: possible delimiters; the one that finds most columns in the header is used.
        quoted: False takes quotation marks literally, for tables that do not quote.
        called: the table's name of each column, or None for the same name. It is given where the
            user can set it with the option --<name>_column.
        if_empty: advice for a row in which a required column is empty.
        encoding: of a file without a byte order mark; without it UTF-8.

    Raises:
        AnnotationError: the file cannot be used, or an unclosed quotation mark swallows rows.
    """
    try:
        with open(path, "rb") as binary:
            head = binary.read(4)
        if head in _SPREADSHEETS:
            raise AnnotationError(
                f"{path}: a spreadsheet, not a text file; in Excel or LibreOffice save the sheet "
                "as 'CSV UTF-8' and give that file"
            )
        codec = text_encoding(head, encoding)
        with open(path, encoding=codec, errors="surrogateescape", newline="") as file:
            header, above = file.readline(), 1
            if separator := _SEPARATOR_LINE.fullmatch(header):
                header, above, delimiters = file.readline(), 2, separator[1]
            if "\0" in header:
                raise AnnotationError(
                    f"{path}: not a UTF-8 text file (UTF-16 without a byte order mark, or not a "
                    "table at all); save it as CSV in UTF-8"
                )
            delimiter, columns = _columns(
                os.fspath(path), header, required, optional, delimiters, called
            )
            table = Table(
                os.fspath(path), [], encoding="UTF-8" if codec.startswith("utf-8") else codec
            )
            csv.field_size_limit(sys.maxsize)
            lines = _lines(table, file, above, delimiter, quoted, columns, required)
            for line, fields in lines:
                _take_row(table, line, fields, columns, required, if_empty or {})
    except UnicodeError as error:
        raise AnnotationError(
            f"{path}: the file is damaged, or in another encoding than its first bytes or "
            "--encoding say; save it as CSV in UTF-8"
        ) from error
    except OSError as error:
        raise AnnotationError(
            f"{path}: cannot be read ({error.strerror}); "
            f"give the path of a CSV or TSV file with the columns {', '.join(required)}"
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
    """Return the delimiter, and for each field of a row its columns, which may be none."""
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
        expected = ", ".join(heads[name] for name in required)
        raise AnnotationError(
            f"{path}: the file is empty; its first line must name the columns {expected}"
        )
    _, delimiter, names = best
    folded = [name.casefold() for name in names]
    for name in dict.fromkeys((*required, *given)):
        if heads[name].strip().casefold() not in folded:
            message = _no_column(name, heads[name], names, name in given, called is not None)
            raise AnnotationError(f"{path}: {message}")
    claimed = {column.strip().casefold() for column in given.values()}
    columns: list[list[str]] = [[] for _ in names]
    for name, head in heads.items():
        head = head.strip().casefold()
        if name not in given and name not in required and head in claimed:
            continue  # the user gave this column another meaning
        if folded.count(head) > 1:
            raise AnnotationError(
                f"{path}: the column {head!r} is {folded.count(head)} times in the first line; "
                "name each once"
            )
        if head in folded:
            columns[folded.index(head)].append(name)
    return delimiter, columns


def _no_column(name: str, head: str, names: Sequence[str], is_given: bool, has_flag: bool) -> str:
    """The message for a missing column, with the nearest one and the option that sets it."""
    by_folded = {known.casefold(): known for known in reversed(names)}
    near = difflib.get_close_matches(head.casefold(), list(by_folded), n=1, cutoff=0.5)
    nearest = by_folded[near[0]] if near else None
    listed = ", ".join(repr(known[:40]) for known in names[:20])
    if len(names) > 20:
        listed += f" and {len(names) - 20} more"
    message = f"no column {head!r} in the first line; it has {listed}"
    if is_given:
        hint = f"did you mean {nearest!r}?" if nearest else "allowed: one of those"
        return f"{message}. --{name}_column is {head!r}; {hint}"
    if has_flag:
        hint = f"; is it {nearest!r}?" if nearest else ""
        return f"{message}. --{name}_column=NAME says which of them is the {name}{hint}"
    return message + (f"; rename {nearest!r}?" if nearest else "")


def _lines(
    table: Table,
    file: Iterable[str],
    above: int,
    delimiter: str,
    quoted: bool,
    columns: Sequence[Sequence[str]],
    required: Sequence[str],
) -> Iterator[tuple[int, list[str]]]:
    """Yield (first line, fields) of each row; a row that cannot be parsed becomes a problem.

    `above`: the lines that have been read of the file, which end with the header.

    Raises AnnotationError for a quotation mark that swallows rows: which mark is missing cannot be
    known, and the texts on either side would be wrong.
    """
    raw: list[str] = []  # lines of the current row

    def record_lines() -> Iterator[str]:
        for line in file:
            raw.append(line)
            yield line

    reader = csv.reader(
        record_lines(),
        delimiter=delimiter,
        strict=True,
        quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
    )
    rows = _Rows(delimiter, columns, required)
    while True:
        line = reader.line_num + above + 1
        raw.clear()
        try:
            fields = next(reader, None)
        except csv.Error as error:
            last = reader.line_num + above
            if swallowed := rows.count(raw[1:]):
                unclosed = "unexpected end" in str(error)
                closed = "is never closed" if unclosed else "is not closed there"
                message = _swallowed(table.path, line, last, closed, swallowed)
                raise AnnotationError(message) from None
            lines = f"lines {line} to {last}" if last > line else f"line {line}"
            reason = (
                f"{lines} cannot be parsed ({error}): a quotation mark is not closed or not doubled"
            )
            table.problems.append(Problem("", reason, file=table.path, line=line))
            continue
        if fields is None:
            return
        if len(raw) > 1 and (swallowed := rows.swallowed_by(fields)):
            last = reader.line_num + above
            raise AnnotationError(
                _swallowed(table.path, line, last, f"is closed in line {last} only", swallowed)
            )
        if any(text.strip() for text in fields):
            yield line, fields


def _swallowed(path: str, first: int, last: int, closed: str, count: int) -> str:
    return (
        f"{path}, lines {first} to {last}: the quotation mark that opens in line {first} {closed}, "
        f"so that {count} rows after it would be part of one text. Close it in line {first}, or "
        'write it twice ("") where it belongs to a text in quotation marks; a text whose own lines '
        "look like rows of the table must be written on one line"
    )


class _Rows:
    """The rows of a table, distinguished from the lines of a quoted text.

    A row has all fields, no empty required one, no space after a delimiter, and a name of a few
    words. Prose has spaces after its commas and semicolons, and a varying number of them. Prose
    without spaces is usually in another script than the names of the clips.
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
        """Return the number of lines that are rows."""
        return sum(self._is_row(self._fields(line)) for line in lines)

    def swallowed_by(self, fields: Sequence[str]) -> int:
        """Return the number of rows that a quoted field has swallowed, 0 if it is a text."""
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
        """`like`: the name of a clip, for its script."""
        least = max(self._required) + 1 if may_be_short else self._width
        if not least <= len(fields) <= self._width:
            return False
        if not all(fields[i].strip() for i in self._required):
            return False
        name = fields[self._name]
        if len(name.split()) > MAX_NAME_WORDS:
            return False
        if like is not None and like.isascii() and not name.isascii():
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
    while len(fields) > len(columns) and not fields[-1].strip():
        fields.pop()  # spreadsheets write empty cells at the end of a row
    values = {name: text.strip() for names, text in zip(columns, fields) for name in names}
    fault = _fault(fields, values, columns, required, if_empty, table.encoding)
    if fault:
        name = values.get(required[0], "")[:200].encode("utf-8", "replace").decode()
        table.problems.append(Problem(name, fault, file=table.path, line=line))
    else:
        table.rows.append(Row(line, values))


def _fault(
    fields: list[str],
    values: dict[str, str],
    columns: Sequence[Sequence[str]],
    required: Sequence[str],
    if_empty: Mapping[str, str],
    encoding: str,
) -> str | None:
    if len(fields) > len(columns):
        return (
            f"{len(fields)} fields where the header has {len(columns)}; "
            "text that contains the delimiter must be in quotation marks"
        )
    for name in required:
        if not values.get(name):
            return f"no {name}" + (f"; {if_empty[name]}" if name in if_empty else "")
    return text_fault(values, encoding)


def text_fault(values: Mapping[str, str], encoding: str = "UTF-8") -> str | None:
    """Return why one of the named texts cannot be stored, or None.

    `encoding`: that of the file, whose undecodable bytes are surrogates.
    """
    for name, text in values.items():
        if "\0" in text:
            return f"a NUL character in {name}"
        if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
            return f"{name} is not {encoding}"
        if len(text) > MAX_TEXT:
            return f"{name} has {len(text)} characters; allowed: at most {MAX_TEXT}"
    return None


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
    clips, problems, seen = [], [], {}
    for table in tables:
        found = list(table.problems)
        for row in table.rows:
            name = name_of(row)
            try:
                if name in seen:
                    first, line = seen[name]
                    file = "" if first is table else f"{first.path}, "
                    raise LookupError(f"the id is there twice; first in {file}line {line}")
                seen[name] = table, row.line
                clips.append(clip_of(table, row, name))
            except LookupError as error:
                found.append(Problem(name, str(error.args[0]), file=table.path, line=row.line))
        problems += sorted(found, key=lambda problem: problem.line)
    return ClipTable(clips, problems)


# Columns of a user's own table.
OWN_REQUIRED = ("uid", "text")
OWN_OPTIONAL = ("gloss", "signer", "video_id", "split", "start", "end")


def read_own_table(
    path: str | os.PathLike,
    optional: Sequence[str] = OWN_OPTIONAL,
    called: Mapping[str, str | None] | None = None,
    delimiters: str = DELIMITERS,
    encoding: str | None = None,
) -> Table:
    """Read a table for `clips_of`. Raises AnnotationError.

    `called`, `delimiters` and `encoding` are as in `read_table`.
    """
    if_empty = {"text": f"a clip in which nobody signs has the text {REST}"}
    return read_table(
        path,
        OWN_REQUIRED,
        optional,
        delimiters,
        called=called or {},
        if_empty=if_empty,
        encoding=encoding,
    )


def clips_of(table: Table, media: Media) -> ClipTable:
    """Return the clips of a table with the columns OWN_REQUIRED and, optionally, OWN_OPTIONAL."""

    def name_of(row: Row) -> str:
        uid = _uid(row)
        return os.path.splitext(uid)[0] if uid.lower().endswith(EXTENSIONS) else uid

    found = collect([table], name_of, lambda table, row, name: _clip(table.path, row, name, media))
    notes = [*media.notes, *placeholder_notes(found.clips), *encoding_notes(found.problems)]
    return ClipTable(found.clips, found.problems, notes)


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
    if not 0.0 <= value < 1e7:
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
