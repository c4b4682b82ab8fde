"""Atomic file writes: a path holds either its old content or all of the new one, never a part."""

import os
from collections.abc import Callable
from pathlib import Path

Content = str | bytes | Callable[[Path], None]


def write_atomically(path: Path, content: Content) -> None:
    """Replace `path` by a file with `content`, which then also survives a power cut.

    Text is encoded as UTF-8 and its line endings are kept; characters that UTF-8 cannot hold (lone
    surrogates) raise UnicodeEncodeError. A function as content gets the path of the temporary file,
    which it must write. After any error (OSError, or what that function raises) the old content
    stays, unless only the flush of the folder failed, after the replacement.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        if callable(content):
            content(temporary)
        else:
            data = content.encode() if isinstance(content, str) else content
            with temporary.open("wb") as file:
                file.write(data)
        flush_to_disk(temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    flush_to_disk(path.parent)


def flush_to_disk(path: Path) -> None:
    """Make a file's content, or the renames in a folder, survive a power cut. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
