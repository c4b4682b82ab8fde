"""Reading of tables (CSV, TSV) that users give: any delimiter, any encoding, possibly damaged.

Each row becomes a `Row`, or a `Problem` that names file and line. None is dropped silently.
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

# Characters of a text. A longer one comes from a quotation mark that is never closed.
MAX_TEXT = 20_000
MAX_NAME_WORDS = 5  # of a clip's name; more words are a sentence
# A quotation mark that is closed too late makes one text of several rows: it "swallows" them. A
# quoted text of at least LONG_TEXT more lines has swallowed rows if this share of the lines look
# like rows.
LONG_TEXT = 4
SWALLOWED_SHARE = 0.8
_LINE_BREAK = re.compile("\r\n|\r|\n")
# The line `sep=;`, with which a table may begin to tell Excel its delimiter.
_SEPARATOR_LINE = re.compile('"?sep=(.)"?[\r\n]*', re.IGNORECASE)
# The first bytes of spreadsheets: .xlsx and .ods are zip files, .xls is OLE.
_SPREADSHEETS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")
_BYTE_ORDER_MARKS = {
    b"\xef\xbb\xbf": "utf-8-sig",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}


class AnnotationError(SignVitError, ValueError):
    """An annotation file or media folder that cannot be used at all; the message says why."""


@dataclass(frozen=True)
class Row:
    """A row of a table."""

    line: int  # number of its first line in the file, from 1
    values: dict[str, str]  # column -> text without surrounding white space


@dataclass(frozen=True)
class Table:
    """The rows of a file, and the lines that could not be read as rows."""

    path: str
    rows: list[Row]
    problems: list[Problem] = field(default_factory=list)
    encoding: str = "UTF-8"  # of the file


def text_encoding(head: bytes, encoding: str | None) -> str:
    """Return the encoding of a file that begins with the bytes `head`.

    A byte order mark decides; without one it is `encoding`, and without that UTF-8. Raises
    AnnotationError for an unknown `encoding`.
    """
    for mark, encoding_of_mark in _BYTE_ORDER_MARKS.items():
        if head.startswith(mark):
            return encoding_of_mark
    try:
        "a".encode(encoding or "utf-8")  # fails also for codecs of bytes, such as base64
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
        required, optional: our names of columns; other columns of the table are ignored.
        delimiters: possible delimiters; the one with which the header has most of the columns is
            used.
        quoted: False takes quotation marks literally, for tables that do not quote.
        column_names: our name of a column -> the table's name; None if it is the same. Callers that
            have options --<name>_column give it, and messages then name these options.
        if_empty: required column -> advice in the message about a row where it is empty.
        encoding: of a file without a byte order mark; None for UTF-8.

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
    """Return the delimiter and, for each field of a row, our names of its column (often none)."""
    chosen = {name: _folded(column) for name, column in (column_names or {}).items() if column}
    # Our name of a column -> the table's name, folded.
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
            continue  # the user has chosen this column of the table for another name
        if folded.count(head) > 1:
            raise AnnotationError(
                f"{path}: the column {head!r} is {folded.count(head)} times in the first line; "
                "name each once"
            )
        if head in folded:
            columns[folded.index(head)].append(name)
    return delimiter, columns


def _folded(name: str) -> str:
    """Return a column's name as names are compared: in lower case, without spaces around it."""
    return name.strip().casefold()


def _best_delimiter(header: str, heads: set[str], delimiters: str) -> tuple[str, list[str]] | None:
    """Return the delimiter that finds most of the folded `heads`, and the header's columns.

    None if the header is empty, or if no delimiter can split it.
    """
    candidates: list[tuple[str, list[str]]] = []
    if not header.strip():
        return None
    for delimiter in delimiters:
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
    """Return the message about a missing column, with a similar one and the option to choose it.

    `name`: ours. `head`: the name that the table should have, which is the user's if `is_given`.
    `names`: the columns of the table. `has_flag`: there is an option --<name>_column.
    """
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
    """Yield (number of the first line, fields) of each row, and add problems to `table`.

    A row that cannot be parsed becomes a problem. `num_lines_above`: the number of lines that were
    read from `file` before, the header included.

    Raises AnnotationError if a quotation mark that is not closed swallows rows. Then the whole file
    is refused: which mark is missing is unknown, so rows before and after it may be wrong.
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
            if swallowed := rows.count(raw[1:]):  # the lines after the first
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
    """Return the message about `count` rows in one quoted text; `closed` says where it ends."""
    return (
        f"{path}, lines {first} to {last}: the quotation mark that opens in line {first} {closed}, "
        f"so that {count} rows after it would be part of one text. Close it in line {first}, or "
        'write it twice ("") where it belongs to a text in quotation marks; a text whose own lines '
        "look like rows of the table must be written on one line"
    )


class _Rows:
    """Recognition of lines that are rows of the table, not lines of a quoted text.

    A row has all fields, a value in each required one, no space after a delimiter, and a name of
    few words. A text differs: it has spaces after its commas and semicolons, and not the same
    number of them in each line. A text without spaces is usually in another script than the clips'
    names.
    """

    def __init__(self, delimiter: str, columns: Sequence[Sequence[str]], required: Sequence[str]):
        self._delimiter, self._width = delimiter, len(columns)
        self._required = [
            i for i, names in enumerate(columns) if any(name in required for name in names)
        ]
        # The first required column has the names of the clips.
        self._name = next(
            (i for i, names in enumerate(columns) if required and required[0] in names), 0
        )

    def count(self, lines: Sequence[str]) -> int:
        """Return the number of lines that are rows."""
        return sum(self._is_row(self._fields(line)) for line in lines)

    def swallowed_by(self, fields: Sequence[str]) -> int:
        """Return the number of rows that a field of this row has swallowed; 0 if none has."""
        clip_name = fields[self._name] if self._name < len(fields) else ""
        for position, text in enumerate(fields):
            first, *others = _LINE_BREAK.split(text)
            others = [line for line in others if line.strip()]
            if not others:
                continue
            name = clip_name if position != self._name else first
            # If the field has swallowed rows, each of its lines after the first is a row. The last
            # of these rows continues with the fields after this field.
            rows = [self._fields(line) for line in others]
            rows[-1] = [*rows[-1], *fields[position + 1 :]]
            is_long = len(rows) >= LONG_TEXT
            width_with_first_line = position + max(len(self._fields(first)), 1)
            if not is_long and width_with_first_line != self._width:
                continue  # its first line does not complete a row, so the field is a text
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

        `may_be_short`: fields after the last required one may be missing. `like`: the name of
        another clip; if it is ASCII, the name in this row must be ASCII too.
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
    """Add a row to the table: to its rows, or to its problems if something is wrong with it."""
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
    """Return what is wrong with a row, or None."""
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
    """Return why one of the texts (name -> text) cannot be stored, or None.

    `encoding`: that of the file. Bytes that are not in this encoding were decoded as surrogates.
    """
    for name, text in values.items():
        if "\0" in text:
            return f"a NUL character in {name}"
        if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
            return f"{name} is not {encoding}"
        if len(text) > MAX_TEXT:
            return f"{name} has {len(text)} characters; allowed: at most {MAX_TEXT}"
    return None
