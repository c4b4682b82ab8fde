"""Sizes and SHA-256 digests of a checkpoint's files, so that a file that was cut short, zeroed, changed or lost is found before it is used."""

import hashlib
import json
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from signvit_jax.files.atomic import write_atomically

MANIFEST = "manifest.json"
# Not listed: what Orbax writes after the manifest (times and a note, which restoring does not need), and the manifest.
_NOT_LISTED = ("_CHECKPOINT_METADATA", "commit_success.txt", MANIFEST)


class ManifestMissing(Exception):
    """There is nothing to hold the files against."""


def write_manifest(folder: Path) -> None:
    """Lists the files under `folder`, each flushed to the disk first; the manifest itself appears whole or not at all. Raises OSError."""
    names = sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )
    files = {
        name: [(folder / name).stat().st_size, _flushed_digest(folder / name)]
        for name in names
        if name not in _NOT_LISTED
    }
    write_atomically(
        folder / MANIFEST,
        json.dumps({"algorithm": "sha256", "files": files, "digest": _digest_of(files)}, indent=1)
        + "\n",
    )


def find_damage(folder: Path, items: Iterable[str] | None = None) -> list[str]:
    """One line for every listed file that is not as it was written, [] if all are.

    With `items`, only files in these subfolders and beside them are read. Files that are not listed are somebody else's and do not matter.
    Raises ManifestMissing.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        files = manifest["files"]
        if manifest["digest"] != _digest_of(files):
            return [f"{MANIFEST}: changed"]
        wanted = {
            name: (int(size), str(digest))
            for name, (size, digest) in files.items()
            if items is None or "/" not in name or name.split("/")[0] in items
        }
    except FileNotFoundError as error:
        raise ManifestMissing(folder) from error
    except (ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError) as error:
        return [f"{MANIFEST}: unreadable ({type(error).__name__})"]
    with ThreadPoolExecutor(max_workers=4) as pool:  # hashing releases the interpreter's lock
        return [
            line
            for line in pool.map(
                lambda entry: _damage_of(folder, entry[0], *entry[1]), wanted.items()
            )
            if line
        ]


def _flushed_digest(path: Path) -> str:
    with path.open("rb") as file:
        os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()


def _damage_of(folder: Path, name: str, size: int, digest: str) -> str | None:
    path = folder / name
    try:
        found = path.stat().st_size
        if found != size:
            return f"{name}: {found} bytes instead of {size}"
        with path.open("rb") as file:
            return (
                None
                if hashlib.file_digest(file, "sha256").hexdigest() == digest
                else f"{name}: content changed"
            )
    except FileNotFoundError:
        return f"{name}: missing"
    except OSError as error:
        return f"{name}: unreadable ({error.strerror})"


def _digest_of(files: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
