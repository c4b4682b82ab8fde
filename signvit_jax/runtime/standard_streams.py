"""Standard output and error of a command.

Texts and file names come from strangers: `clean` escapes characters that a terminal would obey.
`guard_streams` makes a process survive a name that the streams' encoding lacks, a reader that has
gone (`| head -1`), and streams that were closed from the start (`2>&-`); `exit_codes.run_command`
calls it for every command.
"""

import errno
import io
import logging
import os
import re
import select
import sys
from collections.abc import Buffer
from typing import TextIO

from signvit_jax.errors.base import SignVitError

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_NOT_ASCII = re.compile("[^\x20-\x7e]")
_GONE = (errno.EPIPE, errno.ECONNRESET)
_MODES = (os.O_RDONLY, os.O_WRONLY, os.O_WRONLY)  # of descriptors 0, 1 and 2


class OutputError(SignVitError):
    """Standard output or a caption file that cannot be written, as on a full disk."""

    exit_code = 1  # exit_codes.FAILED; that module imports this one


def clean(text: str, keep: str = "") -> str:
    """The text with escapes (`\\x1b`, `\\n`, `\\u202e`) for what a terminal would obey.

    Escaped are control characters, line separators, bidirectional overrides and bytes that are not
    UTF-8, except characters in `keep`. For all output that others have written.
    """
    return _CONTROL.sub(lambda match: match[0] if match[0] in keep else _escape(match[0]), text)


def clean_json(text: str, encoding: str = "utf-8") -> str:
    """`clean` for JSON, by JSON's own escapes, so that values stay what they were.

    Characters that `encoding` lacks are escaped too; line breaks between values stay.
    """
    try:
        text.encode(encoding, "surrogatepass")
        escaped = _CONTROL
    except (UnicodeEncodeError, LookupError):
        escaped = _NOT_ASCII
    return escaped.sub(lambda match: match[0] if match[0] == "\n" else _json_escape(match[0]), text)


def guard_streams() -> None:
    """Replace this process's standard output and error by streams whose errors never end it.

    Streams that a test or a notebook has put in their place are left alone. A second call changes
    nothing.
    """
    for number, mode in enumerate(_MODES):
        # Else the next file that is opened gets this number, and what libraries write to it.
        if not _is_open(number):
            _to_devnull(number, mode)
    sys.stdout = _guarded(sys.stdout, sys.__stdout__, 1)
    sys.stderr = _guarded(sys.stderr, sys.__stderr__, 2)
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(CleanFormatter("%(message)s"))


def reader_has_gone() -> bool:
    """Return True if output was written that nobody reads: a command that only prints can end."""
    return isinstance(sys.stdout, _Stream) and sys.stdout.raw.reader_has_gone


class CleanFormatter(logging.Formatter):
    """A formatter that cleans log messages, which contain texts and names that others wrote."""

    def format(self, record: logging.LogRecord) -> str:
        return clean(super().format(record), keep="\n")


class _Stream(io.TextIOWrapper):
    raw: "_Descriptor"


class _Descriptor(io.RawIOBase):
    """A stream to a descriptor, which is redirected to /dev/null once its reader has gone.

    The redirection holds for every thread and library that writes to it. Errors on standard error
    are dropped: messages that cannot be written never end a run.
    """

    def __init__(self, descriptor: int, old: io.TextIOWrapper):
        super().__init__()
        self.reader_has_gone = False
        self.name = old.name
        self._descriptor = descriptor
        # A terminal that has been closed answers with EIO.
        self._gone = (*_GONE, errno.EIO) if os.isatty(descriptor) else _GONE

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def write(self, data: Buffer, /) -> int:
        rest = memoryview(data)
        length = len(rest)
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except BlockingIOError:  # another program made the pipe non-blocking
                select.select([], [self._descriptor], [])
            except OSError as error:
                if error.errno in self._gone:
                    self.reader_has_gone = True
                    _to_devnull(self._descriptor, os.O_WRONLY)
                elif self._descriptor == 2:
                    return length
                else:
                    # The rest of the buffer would fail again when the process ends.
                    _to_devnull(self._descriptor, os.O_WRONLY)
                    raise OutputError(
                        f"standard output cannot be written: {error.strerror}"
                    ) from error
        return length


def _guarded(stream: TextIO | None, original: TextIO | None, descriptor: int) -> TextIO:
    """The stream in a form that survives errors; a replaced stream is returned as it is.

    `original` is the stream with which Python started.
    """
    if stream is None:  # closed from the start; print(file=None) would write to standard output
        return open(os.devnull, "w", encoding="utf-8")
    if (
        stream is not original
        or not isinstance(stream, io.TextIOWrapper)
        or stream.fileno() != descriptor
    ):
        return stream
    stream.flush()
    errors = "backslashreplace" if stream.errors in ("strict", "surrogateescape") else stream.errors
    raw = _Descriptor(descriptor, stream)
    buffer = raw if stream.write_through else io.BufferedWriter(raw)  # PYTHONUNBUFFERED
    guarded = _Stream(
        buffer,
        stream.encoding,
        errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
    guarded.raw = raw
    return guarded


def _escape(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8, as os.fsdecode gives it
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()


def _json_escape(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[start : start + 4]}" for start in range(0, len(units), 4))


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def _to_devnull(descriptor: int, mode: int) -> None:
    devnull = os.open(os.devnull, mode)
    if devnull != descriptor:
        os.dup2(devnull, descriptor)
        os.close(devnull)
