"""Untrusted tables with any delimiter and encoding, saved by any spreadsheet program.

Every line becomes a `Row` or a `Problem` with file and line; nothing is dropped silently.
"""

import csv
import difflib
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from signvit_jax.errors.base import SignVitError
from tfds_builders.clips import Problem

MAX_TEXT = 20_000  # characters; a longer text is the result of a quotation mark never closed
MAX_NAME_WORDS = 5  # of a clip's name; a name with more words is a sentence
# A quoted text of at least LONG_TEXT lines has swallowed rows if this share of its lines look like
# rows.
LONG_TEXT = 4
SWALLOWED_SHARE = 0.8
_LINE_BREAK = re.compile("\r\n|\r|\n")
# The first line by which a table tells Excel its delimiter.
_SEPARATOR_LINE = re.compile('"?sep=(.)"?[\r\n]*', re.IGNORECASE)
# The first bytes of spreadsheets: .xlsx and .ods are zip files, .xls is OLE.
_SPREADSHEETS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")
_BYTE_ORDER_MARKS = {
    b"\xef\xbb\xbf": "utf-8-sig",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}


class AnnotationError(SignVitError, ValueError):
    """An annotation file or media folder that cannot be used at all.

    The message is complete and for the user.
    """


@dataclass(frozen=True)
class Row:
    """A row of a table."""

    line: int  # its first line in the file, counted from 1
    values: dict[str, str]  # column -> text without surrounding white space


@dataclass(frozen=True)
class Table:
    """The rows of a file, and the lines that could not be read as rows."""

    path: str
    rows: list[Row]
    problems: list[Problem] = field(default_factory=list)
    encoding: str = "UTF-8"  # of the file


def text_encoding(head: bytes, encoding: str | None) -> str:
    """Return the codec of a text that begins with `head`.

    It is that of a byte order mark, or else `encoding`, or else UTF-8. Raises AnnotationError for
    an unknown `encoding`.
    """
    for mark, encoding_of_mark in _BYTE_ORDER_MARKS.items():
        if head.startswith(mark):
            return encoding_of_mark
    try:
        "a".encode(encoding or "utf-8")  # fails for codecs that are not of texts, such as base64
    except LookupError as error:
        raise AnnotationError(
            f"--encoding is {encoding!r}; allowed: the name of a text encoding, "
            "such as utf-8, cp1252, latin-1, utf-16-le or gb18030"
        ) from error
    return encoding or "utf-8"


DELIMITERS = ",\t;|"


def read_table(
    path: str | os.PathLike,
    required: Sequence[str],
    optional: Sequence[str] = (),
    delimiters: str = DELIMITERS,
    quoted: bool = True,
    column_names: Mapping[str, str | None] | None = None,
    if_empty: Mapping[str, str] | None = None,
    encoding: str | None = None,
) -> Table:
    """Read a table with a header line, which a line `sep=;` may precede.

    Args:
        path: the file.
        required, optional: columns; others are ignored.
        delimiters: possible delimiters; the one that finds most columns in the header is used.
        quoted: False takes quotation marks literally, for tables that do not quote.
        column_names: the table's name of each column, or None for the same name. It is given where
            the user can set it with the option --<name>_column.
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
            header, num_lines_above = file.readline(), 1
            if separator := _SEPARATOR_LINE.fullmatch(header):
                header, num_lines_above, delimiters = file.readline(), 2, separator[1]
            if "\0" in header:
                raise AnnotationError(
                    f"{path}: not a UTF-8 text file (UTF-16 without a byte order mark, or not a "
                    "table at all); save it as CSV in UTF-8"
                )
            delimiter, columns = _columns(
                os.fspath(path), header, required, optional, delimiters, column_names
            )
            table = Table(
                os.fspath(path), [], encoding="UTF-8" if codec.startswith("utf-8") else codec
            )
            csv.field_size_limit(sys.maxsize)
            lines = _lines(table, file, num_lines_above, delimiter, quoted, columns, required)
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
    column_names: Mapping[str, str | None] | None,
) -> tuple[str, list[list[str]]]:
    """Return the delimiter, and for each field of a row the columns that it fills (often none)."""
    chosen = {name: _folded(column) for name, column in (column_names or {}).items() if column}
    # Our name of a column -> the table's name of it, folded.
    heads = {name: chosen.get(name, _folded(name)) for name in (*required, *optional)}
    must_exist = list(dict.fromkeys((*required, *chosen)))
    split = _best_delimiter(header, {heads[name] for name in must_exist}, delimiters)
    if split is None:
        expected = ", ".join((column_names or {}).get(name) or name for name in required)
        raise AnnotationError(
            f"{path}: the file is empty; its first line must name the columns {expected}"
        )
    delimiter, names = split
    folded = [_folded(name) for name in names]
    for name in must_exist:
        if heads[name] not in folded:
            head = (column_names or {}).get(name) or name
            message = _no_column(name, head, names, name in chosen, column_names is not None)
            raise AnnotationError(f"{path}: {message}")
    columns: list[list[str]] = [[] for _ in names]
    for name, head in heads.items():
        if name not in must_exist and head in chosen.values():
            continue  # the user gave this column another meaning
        if folded.count(head) > 1:
            raise AnnotationError(
                f"{path}: the column {head!r} is {folded.count(head)} times in the first line; "
                "name each once"
            )
        if head in folded:
            columns[folded.index(head)].append(name)
    return delimiter, columns


def _folded(name: str) -> str:
    """Return a column's name as it is compared: without spaces around it, in lower case."""
    return name.strip().casefold()


def _best_delimiter(header: str, heads: set[str], delimiters: str) -> tuple[str, list[str]] | None:
    """Return the delimiter that finds most of the folded `heads`, and the header's columns.

    None if the header is empty, or if no delimiter can split it.
    """
    candidates: list[tuple[str, list[str]]] = []
    for delimiter in delimiters if header.strip() else "":
        try:
            names = next(csv.reader([header], delimiter=delimiter), [])
        except csv.Error:
            continue
        candidates.append((delimiter, [name.strip() for name in names]))
    return max(
        candidates,
        key=lambda candidate: len(heads.intersection(map(_folded, candidate[1]))),
        default=None,
    )


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
    num_lines_above: int,
    delimiter: str,
    quoted: bool,
    columns: Sequence[Sequence[str]],
    required: Sequence[str],
) -> Iterator[tuple[int, list[str]]]:
    """Yield (first line, fields) of each row; a row that cannot be parsed becomes a problem.

    `num_lines_above`: the number of lines that were read before, the header included.

    Raises AnnotationError for a quotation mark that swallows rows. It is unknown which mark is
    missing, so the texts on either side could be wrong.
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
        line = reader.line_num + num_lines_above + 1
        raw.clear()
        try:
            fields = next(reader, None)
        except csv.Error as error:
            last = reader.line_num + num_lines_above
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
            last = reader.line_num + num_lines_above
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
        clip_name = fields[self._name] if self._name < len(fields) else ""
        for place, text in enumerate(fields):
            first, *others = _LINE_BREAK.split(text)
            others = [line for line in others if line.strip()]
            if not others:
                continue
            name = clip_name if place != self._name else first
            # If the field swallowed rows, each line after the first is a row; the last of them
            # continues with the fields behind this one.
            rows = [self._fields(line) for line in others]
            rows[-1] = [*rows[-1], *fields[place + 1 :]]
            is_long = len(rows) >= LONG_TEXT
            if not is_long and place + max(len(self._fields(first)), 1) != self._width:
                continue  # its first line does not complete a row, so this is a text
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
        """Return True if these can be the fields of a row.

        If `like`, the name of another clip, is ASCII, the name of this one must be too.
        """
        min_width = max(self._required) + 1 if may_be_short else self._width
        if not min_width <= len(fields) <= self._width:
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

    `encoding`: of the file; bytes that it could not decode have become surrogates.
    """
    for name, text in values.items():
        if "\0" in text:
            return f"a NUL character in {name}"
        if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
            return f"{name} is not {encoding}"
        if len(text) > MAX_TEXT:
            return f"{name} has {len(text)} characters; allowed: at most {MAX_TEXT}"
    return None
