"""Paths on this machine, told apart from addresses such as gs://bucket/run and https://host/clip.mp4.

A `Path` made of an address is a relative one: without the check it would be made as a folder.
"""

import argparse
import os
import re
from pathlib import Path

# Of two letters or more, which leaves Windows' drives out. A `Path` keeps one of the two slashes.
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
ALLOWED = (
    "a path on this machine (mount the storage and give its folder, or copy the files; "
    "a folder whose name ends in a colon is ./NAME:/... or an absolute path)"
)


def is_address(path: str | os.PathLike) -> bool:
    """Whether a path, or one of several with commas between them, begins with scheme://."""
    return any(_ADDRESS.match(part.strip()) for part in os.fspath(path).split(","))


def local_text(text: str) -> str:
    """A command's argument that names a path. Raises ArgumentTypeError for an address."""
    if is_address(text):
        raise argparse.ArgumentTypeError(f"{text!r} is an address; allowed: {ALLOWED}")
    return text


def local_path(text: str) -> Path:
    """The same as a path."""
    return Path(local_text(text))
