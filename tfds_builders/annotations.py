"""Reads annotation tables and finds their media files. Both are untrusted: every row becomes a clip or a `Problem` with file and line."""

import csv
import difflib
import os
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

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


class MediaFolder:
    """The video files under a folder, listed once and found by name with or without extension, in any Unicode normal form. Raises AnnotationError."""

    def __init__(self, root: str | os.PathLike, extensions: Sequence[str] = EXTENSIONS):
        self.root = Path(root)
        if not self.root.is_dir():
            raise AnnotationError(f"{root}: no such folder; give the folder that holds the videos")
        self._extensions = extensions
        self._real_root = os.path.realpath(self.root)
        self._files: dict[str, str] = {}
        for folder, _, names in os.walk(self.root):
            prefix = os.path.relpath(folder, self.root)
            for name in names:
                stem, extension = os.path.splitext(name)
                if extension.lower() in extensions:
                    relative = os.path.normpath(os.path.join(prefix, name))
                    self._files[_key(relative)] = relative
                    self._offer(_key(os.path.normpath(os.path.join(prefix, stem))), relative)

    def _offer(self, key: str, relative: str) -> None:
        """Of a.mp4 and a.webm, `a` is the one whose extension comes first in the list."""
        known = self._files.get(key)
        if known is None or self._rank(relative) < self._rank(known):
            self._files[key] = relative

    def _rank(self, relative: str) -> tuple[int, str]:
        return self._extensions.index(os.path.splitext(relative)[1].lower()), relative

    def __len__(self) -> int:
        return len(set(self._files.values()))

    def find(self, name: str) -> str:
        """The path of the video called `name`, relative to the folder. Raises LookupError with the reason."""
        if os.path.isabs(name) or ".." in Path(name).parts:
            raise LookupError("the uid is a path that leaves the folder of videos")
        relative = self._files.get(_key(os.path.normpath(name))) or self._through_link(name)
        if relative is None:
            raise LookupError(f"no video {name}{{{','.join(self._extensions)}}} in {self.root}")
        path = os.path.join(self.root, relative)
        if os.path.commonpath([self._real_root, os.path.realpath(path)]) != self._real_root:
            raise LookupError(f"{relative} is a symbolic link that leaves the folder of videos")
        return path

    def _through_link(self, name: str) -> str | None:
        """Folders that are symbolic links are not listed (they may go in circles), but may be named."""
        return next((c for c in (name, *(name + e for e in self._extensions)) if c.endswith(self._extensions) and (self.root / c).is_file()), None)


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def clips_of(table: Table, media: MediaFolder) -> ClipTable:
    """Clips of a table with the columns `uid,text` and, optionally, `gloss,signer,video_id,split,start,end` (seconds)."""
    if not table.rows and not table.problems:
        raise AnnotationError(f"{table.path}: there is no row below the header; one row a clip is needed")
    clips, problems, seen = [], list(table.problems), {}
    for row in table.rows:
        uid = _key(row.values["uid"])
        name = os.path.splitext(uid)[0] if uid.lower().endswith(EXTENSIONS) else uid
        try:
            if name in seen:
                raise LookupError(f"the uid is there twice; first in line {seen[name]}")
            seen[name] = row.line
            clips.append(_clip(table.path, row, uid, name, media))
        except LookupError as error:
            problems.append(Problem(name, str(error.args[0]), file=table.path, line=row.line))
    return ClipTable(clips, sorted(problems, key=lambda problem: problem.line))


def _clip(file: str, row: Row, uid: str, name: str, media: MediaFolder) -> Clip:
    get = row.values.get
    start, end = _seconds("start", get("start", "")), _seconds("end", get("end", ""))
    if end != WHOLE_FILE and end <= max(start, 0.0):
        raise LookupError(f"end is {end:g} s, start {max(start, 0.0):g} s; the end must come after the start")
    if end != WHOLE_FILE:
        start = max(start, 0.0)
    split = None
    if "split" in row.values:
        split = SPLIT_NAMES.get(get("split").casefold())
        if split is None:
            raise LookupError(f"split is {get('split')!r}; allowed: {', '.join(SPLIT_NAMES)}")
    try:
        path = media.find(uid)
    except LookupError:
        if start == WHOLE_FILE or not get("video_id"):
            raise
        path = media.find(get("video_id"))  # a clip that is cut from a longer video by its times
    return Clip(
        name, get("text"), path, None, " ".join(get("gloss", "").split()), get("signer", ""), get("video_id", ""), split, start, end, file, row.line
    )


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
