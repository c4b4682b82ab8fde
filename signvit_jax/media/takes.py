"""A folder of recorded takes: each is a video <uid>.mp4 and a row of clips.csv.

A take is complete or absent, and never replaces another: its video is written under a temporary
name and gets its own name when it is finished; then the table is replaced by one with its row.
"""

import contextlib
import csv
import fcntl
import io
import os
import re
import unicodedata
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from jaxtyping import UInt8

from signvit_jax.errors.base import SignVitError
from signvit_jax.files.atomic import flush_to_disk, write_atomically
from signvit_jax.media.video import EXTENSIONS

COLUMNS = ("uid", "text", "gloss", "signer", "split")  # of a table that is created here
_DELIMITERS = ",\t;|"
_MAX_SLUG = 40  # characters of a name in front of its number
_CODECS = ("libx264", "mpeg4")  # the first that this build of FFmpeg has


# Last digit of a take's number -> its split; all other takes of a text are trained on.
_HELD_OUT = {5: "validation", 0: "test"}


def split_of(number: int) -> str:
    """Return the split of a text's take, numbered from 1."""
    return _HELD_OUT.get(number % 10, "train")


class TakeError(SignVitError, ValueError):
    """A folder or table that takes cannot be added to; the message says why."""


class TakeFolder:
    """Takes in a folder, which is created if it is missing.

    Raises TakeError if there is a clips.csv to which no take can be added. `columns` are the ones
    that it must have besides uid and text.
    """

    def __init__(self, folder: Path, columns: tuple[str, ...] = ()):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            raise TakeError(f"{folder} is a file; allowed: a folder, or a new name") from None
        self.folder = folder
        self.table = folder / "clips.csv"
        table = _read_table(self.table)
        for column in columns:
            if column not in table.columns:
                raise TakeError(
                    f"{self.table} has no column {column!r}; add it to its first line, or record "
                    "into another folder"
                )

    def counts(self) -> tuple[int, int]:
        """Return how many takes the table lists, and of how many texts."""
        rows = _read_table(self.table).rows
        return len(rows), len({row["text"] for row in rows})

    def add(self, text: str, temporary: Path, values: Mapping[str, str]) -> Path:
        """Give a finished video its name and its row; return its path.

        `values` are of the other columns; those that the table lacks are left out. Raises TakeError
        and OSError.
        """
        with self._lock():
            flush_to_disk(temporary)
            path = self._name(text, temporary)
            temporary.unlink(missing_ok=True)
            flush_to_disk(self.folder)
            table = _read_table(self.table)
            row = {**values, "uid": path.stem, "text": text}
            write_atomically(self.table, table.with_row(row))
        return path

    def number_of_next(self, text: str) -> int:
        """Return the number of the next take of a text, from 1."""
        slug = _slug(text)
        pattern = re.compile(re.escape(slug.casefold()) + r"_(\d+)")
        names = [path.stem for path in self.folder.iterdir() if path.suffix.lower() in EXTENSIONS]
        names += [os.path.splitext(row["uid"])[0] for row in _read_table(self.table).rows]
        matches = [pattern.fullmatch(name.casefold()) for name in names]
        return max((int(match[1]) for match in matches if match), default=0) + 1

    def temporary(self) -> Path:
        """Return the path under which a take is written until it is finished."""
        return self.folder / f".take.{os.getpid()}.tmp"

    def _name(self, text: str, temporary: Path) -> Path:
        """Link the video to the first name that is free, and return that."""
        number = self.number_of_next(text)
        while True:
            path = self.folder / f"{_slug(text)}_{number:02d}.mp4"
            try:
                _link(temporary, path)
                return path
            except FileExistsError:
                number += 1

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        """Keep another process, with another camera, from adding a take at the same time."""
        descriptor = os.open(self.folder, os.O_RDONLY)
        try:
            with contextlib.suppress(OSError):  # some network file systems have no locks
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


class TakeWriter:
    """An mp4 file of constant frame rate, of images that arrive at any times.

    Each frame is the image that was the newest at its time. Images of odd size lose a row or a
    column, which H.264 cannot store. Raises OSError.
    """

    def __init__(self, path: Path, rate: float):
        self.num_images = 0
        self._rate = Fraction(rate).limit_denominator(1000)
        self._container = av.open(str(path), "w", format="mp4")
        self._stream: av.VideoStream | None = None
        self._newest: UInt8[np.ndarray, "h w 3"] | None = None
        self._written = 0

    def add(self, image: UInt8[np.ndarray, "h w 3"], seconds: float) -> None:
        """Take an image that arrived `seconds` after the first frame's time."""
        self._fill(seconds)
        self._newest = image
        self.num_images += 1

    def finish(self, seconds: float) -> None:
        """End the file after `seconds`."""
        self._fill(seconds)
        if self._stream is not None:
            self._container.mux(self._stream.encode())
        self._container.close()

    def abandon(self) -> None:
        """Close the unfinished file, which no player can read."""
        with contextlib.suppress(OSError, ValueError):
            self._container.close()

    def _fill(self, seconds: float) -> None:
        """Write the frames whose time has passed, with the newest image."""
        image = self._newest
        if image is None:
            return
        due = round(seconds * float(self._rate))
        while self._written < due:
            self._encode(image)

    def _encode(self, image: UInt8[np.ndarray, "h w 3"]) -> None:
        height, width = (length - length % 2 for length in image.shape[:2])
        if self._stream is None:
            self._stream = self._add_stream(height, width)
        pixels = np.ascontiguousarray(image[:height, :width])
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        self._container.mux(self._stream.encode(frame))
        self._written += 1

    def _add_stream(self, height: int, width: int) -> av.VideoStream:
        codec = next(name for name in _CODECS if name in av.codecs_available)
        options = {"preset": "veryfast", "crf": "20"} if codec == "libx264" else {}
        stream = self._container.add_stream(codec, rate=self._rate, options=options)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        return stream


class _Table:
    """The content of a table, and the format in which the next row is written."""

    def __init__(self, text: str, delimiter: str, columns: list[str], rows: list[dict[str, str]]):
        self.columns = columns
        self.rows = rows
        self._text = text
        self._delimiter = delimiter

    def with_row(self, values: Mapping[str, str]) -> str:
        """Return the text of the table with one more row."""
        line_break = "\r\n" if "\r\n" in self._text else "\n"
        line = io.StringIO()
        fields = [values.get(column, "") for column in self.columns]
        csv.writer(line, delimiter=self._delimiter, lineterminator=line_break).writerow(fields)
        end = "" if self._text.endswith("\n") else line_break
        return self._text + end + line.getvalue()


def _read_table(path: Path) -> _Table:
    """Read a table. Raises TakeError if takes cannot be added, with what to change."""
    try:
        text = path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        return _Table(",".join(COLUMNS) + "\n", ",", list(COLUMNS), [])
    except UnicodeDecodeError:
        raise TakeError(
            f"{path} is not in UTF-8; save it as 'CSV UTF-8', or record into another folder"
        ) from None
    for delimiter in _DELIMITERS:
        lines = csv.reader(io.StringIO(text.removeprefix("\ufeff")), delimiter=delimiter)
        columns = [name.strip().casefold() for name in next(lines, [])]
        if {"uid", "text"} <= set(columns):
            rows = [
                dict(zip(columns, (*fields, *[""] * len(columns)))) for fields in lines if fields
            ]
            return _Table(text, delimiter, columns, rows)
    raise TakeError(
        f"{path}: its first line does not name the columns uid and text, so no take can be added; "
        "name them, or record into another folder"
    )


def _slug(text: str) -> str:
    """Return a text as the beginning of a file name: 'Thank you!' as 'thank-you'."""
    words = re.findall(r"\w+", unicodedata.normalize("NFC", text).casefold().replace("_", " "))
    return "-".join(words)[:_MAX_SLUG].strip("-") or "take"


def _link(temporary: Path, path: Path) -> None:
    """Give a file the name `path`; its temporary name may stay.

    Raises FileExistsError if the name is taken.
    """
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without links, such as that of a memory card
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        os.replace(temporary, path)
