"""Paths on this machine, and addresses such as gs://bucket/run and https://host/clip.mp4.

Addresses are refused: `Path("gs://bucket")` is a relative path, which would be created as a folder.
"""

import argparse
import os
import re
from pathlib import Path

# Schemes of two letters or more, which excludes Windows' drives. A `Path` keeps one of the slashes.
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
ALLOWED = (
    "a path on this machine (mount the storage and give its folder, or copy the files; "
    "write a folder whose name ends in a colon as ./NAME:/... or as an absolute path)"
)


_HUB = re.compile(r"hf:/")


def is_hub_address(path: str | os.PathLike) -> bool:
    """Return True for hf://organization/name, an export on a model hub (serving/hub.py)."""
    return _HUB.match(os.fspath(path)) is not None


def is_address(path: str | os.PathLike) -> bool:
    """Return True if a path, or one of several separated by commas, begins with scheme://."""
    return any(_ADDRESS.match(part.strip()) for part in os.fspath(path).split(","))


def local_path_string(text: str) -> str:
    """The type of a flag that takes a path as text. Raises ArgumentTypeError for an address."""
    if is_address(text):
        raise argparse.ArgumentTypeError(f"{text!r} is an address; allowed: {ALLOWED}")
    return text


def model_path_or_address(text: str) -> str:
    """The type of a flag that takes a model: a path, several with commas between, or one hf://...

    Raises ArgumentTypeError for another address, and for an hf:// address among several models.
    """
    parts = [part.strip() for part in text.split(",")]
    if len(parts) > 1 and any(map(is_hub_address, parts)):
        raise argparse.ArgumentTypeError(
            f"{text!r} has an address on a model hub among several models; allowed: such an "
            "address alone, or folders; copy the model first: signvit pull ADDRESS DIR"
        )
    return text if is_hub_address(text) else local_path_string(text)


def local_path(text: str) -> Path:
    """The type of a flag that takes a path. Raises ArgumentTypeError for an address."""
    return Path(local_path_string(text))
