"""Sizes and SHA-256 digests of a checkpoint's files.

They show a truncated, zeroed, changed or lost file before it is used.
"""

import hashlib
import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from signvit_jax.files.atomic import flush_to_disk, write_atomically
from signvit_jax.files.parsed_json import UNREADABLE_JSON

MANIFEST = "manifest.json"
# Not listed: the manifest, and what Orbax writes after it (times and a marker, which restoring does
# not need).
_NOT_LISTED = ("_CHECKPOINT_METADATA", "commit_success.txt", MANIFEST)


class ManifestMissing(Exception):
    """A checkpoint without a manifest: its files cannot be checked."""


def write_manifest(folder: Path) -> None:
    """Flush the files under `folder` to the disk and list them in a manifest.

    The manifest appears complete or not at all. Raises OSError.
    """
    names = sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )
    files = {
        name: [(folder / name).stat().st_size, _flushed_digest(folder / name)]
        for name in names
        if name not in _NOT_LISTED
    }
    for path in folder.rglob("*"):
        if path.is_dir():
            flush_to_disk(path)  # a folder's list of names is data too
    content = {"algorithm": "sha256", "files": files, "digest": _digest_of_listing(files)}
    write_atomically(folder / MANIFEST, json.dumps(content, indent=1) + "\n")


def find_damage(
    folder: Path, items: Iterable[str] | None = None, *, sizes_only: bool = False
) -> list[str]:
    """Return one line for each listed file that differs from what was written; [] if none does.

    With `items`, only files in these subfolders and directly in `folder` are checked. `sizes_only`
    compares sizes alone: no file is read, and changed content is not found. Files that are not
    listed are ignored: they do not belong to the checkpoint. Raises ManifestMissing.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        files = manifest["files"]
        if manifest["digest"] != _digest_of_listing(files):
            return [f"{MANIFEST}: changed"]
        listed = {
            name: (int(size), str(digest))
            for name, (size, digest) in files.items()
            if items is None or "/" not in name or name.split("/")[0] in items
        }
    except FileNotFoundError as error:
        raise ManifestMissing(folder) from error
    except UNREADABLE_JSON as error:
        return [f"{MANIFEST}: unreadable ({type(error).__name__})"]

    def damage_of(name: str) -> str | None:
        size, digest = listed[name]
        return _damage_of(folder, name, size, "" if sizes_only else digest)

    with ThreadPoolExecutor(max_workers=4) as pool:  # hashing releases the GIL
        return [line for line in pool.map(damage_of, listed) if line]


def _flushed_digest(path: Path) -> str:
    flush_to_disk(path)
    return _digest(path)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _damage_of(folder: Path, name: str, size: int, digest: str) -> str | None:
    """`digest`: "" = compare the sizes alone."""
    path = folder / name
    try:
        found_size = path.stat().st_size
        if found_size != size:
            return f"{name}: {found_size} bytes instead of {size}"
        same = not digest or _digest(path) == digest
        return None if same else f"{name}: content changed"
    except FileNotFoundError:
        return f"{name}: missing"
    except OSError as error:
        return f"{name}: unreadable ({error.strerror})"


def _digest_of_listing(files: dict[str, list[int | str]]) -> str:
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
