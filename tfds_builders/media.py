"""Media files by the names in annotations, below one folder and never outside it.

The names are untrusted.
"""

import functools
import os
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from signvit_jax.media import image_folder
from signvit_jax.media.video import APPLE_DOUBLE, EXTENSIONS
from tfds_builders.annotation_files.tables import AnnotationError

# Video files of unsupported formats, for hints.
UNSUPPORTED = (
    ".mpg",
    ".mpeg",
    ".ts",
    ".mts",
    ".m2ts",
    ".wmv",
    ".flv",
    ".vob",
    ".ogv",
    ".mxf",
    ".asf",
    ".m2v",
    ".dv",
)


class MediaFolder:
    """The video files under a folder, listed once and found by name.

    Names are with or without extension and in any Unicode normal form; with `by_name` they are file
    names alone, in any folder below the root. The case of an extension does not matter; that of the
    rest of a name does, because ids may differ in case alone. With `image_rate`, in images per
    second, folders of PNG or JPEG images are videos too, found by their names. Raises
    AnnotationError without a folder.
    """

    def __init__(
        self,
        root: str | os.PathLike,
        extensions: tuple[str, ...] = EXTENSIONS,
        by_name: bool = False,
        image_rate: float | None = None,
    ):
        self.root = _folder(root, "the folder that holds the videos")
        self.image_rate = image_rate
        self._extensions = extensions
        self._image_folders: dict[str, str] = {}
        self._files: dict[str, str] = {}
        self._ambiguous: dict[str, str] = {}  # key -> a second file
        self._unsupported: dict[str, str] = {}  # key without extension -> file
        self._num_attribute_files = 0
        for folder, _, names in os.walk(self.root):
            prefix = os.path.relpath(folder, self.root)
            if prefix != os.curdir and _has_image(names):
                self._image_folders[_key(os.path.basename(prefix) if by_name else prefix)] = prefix
            for name in names:
                stem, extension = os.path.splitext(name)
                relative = os.path.normpath(os.path.join(prefix, name))
                relative_stem = os.path.normpath(os.path.join(prefix, stem))
                if name.startswith(APPLE_DOUBLE):
                    self._num_attribute_files += extension.lower() in extensions
                elif extension.lower() in extensions:
                    for key in (name, stem) if by_name else (relative, relative_stem):
                        self._add(_key(key), relative)
                elif extension.lower() in (*UNSUPPORTED, *EXTENSIONS):
                    self._unsupported[_key(stem if by_name else relative_stem)] = relative

    @property
    def notes(self) -> list[str]:
        """Sentences on the folder for the user."""
        if not self._num_attribute_files:
            return []
        return [
            f"{self._num_attribute_files} files named {APPLE_DOUBLE}* in {self.root} are ignored: "
            "macOS keeps attributes in them, not video"
        ]

    def _add(self, key: str, relative: str) -> None:
        """Add a file under `key`.

        Of a.mp4 and a.webm in one folder, `a` is the one whose extension is first in the list; in
        two folders it is ambiguous.
        """
        known = self._files.get(key)
        if known is not None and os.path.dirname(known) != os.path.dirname(relative):
            self._ambiguous[key] = relative
        if known is None or self._rank(relative) < self._rank(known):
            self._files[key] = relative

    def _rank(self, relative: str) -> tuple[int, str]:
        return self._extensions.index(os.path.splitext(relative)[1].lower()), relative

    def __len__(self) -> int:
        return len(self.relative_paths())

    def relative_paths(self) -> list[str]:
        """Return all videos, relative to the folder, sorted."""
        folders = self._image_folders.values() if self.image_rate else ()
        return sorted({*self._files.values(), *folders})

    def others(self, used: Iterable[str]) -> list[str]:
        """Sentences on videos in the folder that are not among the paths `used`."""
        known = {os.path.relpath(path, self.root) for path in used}
        unused = [path for path in self.relative_paths() if path not in known]
        if not unused:
            return []
        return [
            f"{len(unused)} videos in {self.root} have no annotation, such as {unused[0]}: "
            "they are left out"
        ]

    def find(self, name: str) -> str:
        """Return the path of the video `name`. Raises LookupError with the reason."""
        _refuse_outside(name)
        key = _key(os.path.normpath(name))
        if key in self._ambiguous:
            raise LookupError(
                f"there are two videos of that name, {self._files[key]} and {self._ambiguous[key]}"
            )
        relative = (
            self._files.get(key)
            or self._through_link(name)
            or self._similar.by_lower_extension.get(_with_lower_extension(key))
            or (self._image_folders.get(key) if self.image_rate else None)
        )
        if relative is None:
            stem, extension = os.path.splitext(name)
            has_extension = extension.lower() in self._extensions
            pattern = name if has_extension else f"{name}{{{','.join(self._extensions)}}}"
            hint = self._hint(key, stem if has_extension else key)
            raise LookupError(f"no video {pattern} in {self.root}{hint}")
        return _inside(self.root, relative)

    @functools.cached_property
    def _similar(self) -> "_SimilarNames":
        similar = _SimilarNames({}, {}, {})
        for key, relative in self._files.items():
            if os.path.splitext(key)[1].lower() in self._extensions:
                similar.by_lower_extension.setdefault(_with_lower_extension(key), relative)
            similar.by_case_folded.setdefault(key.casefold(), relative)
            similar.by_last_part.setdefault(os.path.basename(key), relative)
        return similar

    def _hint(self, key: str, stem: str) -> str:
        other = self._similar.by_case_folded.get(key.casefold())
        if other is not None:
            return (
                f"; there is {other}, which differs in upper and lower case: "
                "write the name as the file has it"
            )
        other = self._similar.by_last_part.get(key)
        if other is not None:
            return f"; there is {other}: write the folder too"
        if not self.image_rate and key in self._image_folders:
            return (
                f"; there is {self._image_folders[key]}, a folder of images: where the builder has "
                "the option, --image_rate=25 reads it at 25 images per second"
            )
        other = self._unsupported.get(key) or self._unsupported.get(stem)
        if other is not None:
            return (
                f"; there is {other}, in a format that is not read: convert it, for example with "
                f"`ffmpeg -i {other} {os.path.splitext(other)[0]}.mp4`"
            )
        return ""

    def _through_link(self, name: str) -> str | None:
        """Find a file in a linked folder; these are not listed, because they may be cyclic."""
        for candidate in (name, *(name + extension for extension in self._extensions)):
            if candidate.endswith(self._extensions) and (self.root / candidate).is_file():
                return candidate
        return None


class _SimilarNames(NamedTuple):
    """Files by inexact forms of their names, for `MediaFolder.find` and its hints."""

    by_lower_extension: dict[str, str]  # the name with its extension in lower case
    by_case_folded: dict[str, str]
    by_last_part: dict[str, str]  # the name without its folders


class ImageFolders:
    """Clips that are folders of PNG or JPEG images below a root.

    Raises AnnotationError without a root.
    """

    def __init__(self, root: str | os.PathLike):
        self.root = _folder(root, "the folder that holds a folder of images for every clip")
        self.notes: list[str] = []

    def find(self, *names: str) -> str:
        """Return the path of the first of `names`, relative to the root, that holds an image.

        Raises LookupError with the reason.
        """
        for name in names:
            _refuse_outside(name)
            for form in dict.fromkeys(
                (name, unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name))
            ):
                try:
                    entries = os.scandir(self.root / form)
                except (OSError, ValueError):
                    continue
                with entries:
                    if _has_image(entry.name for entry in entries):
                        return _inside(self.root, form)
        raise LookupError(f"no folder of PNG or JPEG images {' or '.join(names)} in {self.root}")


def _has_image(names: Iterable[str]) -> bool:
    return any(
        name.lower().endswith(image_folder.EXTENSIONS) and not name.startswith(APPLE_DOUBLE)
        for name in names
    )


def _folder(root: str | os.PathLike, what: str) -> Path:
    if not Path(root).is_dir():
        raise AnnotationError(f"{root}: no such folder; give {what}")
    return Path(root)


def _refuse_outside(name: str) -> None:
    if os.path.isabs(name) or ".." in Path(name).parts:
        raise LookupError(f"{name[:200]!r} is a path that leaves the folder of videos")


def _inside(root: Path, relative: str) -> str:
    path, real_root = os.path.join(root, relative), os.path.realpath(root)
    if os.path.commonpath([real_root, os.path.realpath(path)]) != real_root:
        raise LookupError(f"{relative} is a symbolic link that leaves the folder of videos")
    return path


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _with_lower_extension(name: str) -> str:
    stem, extension = os.path.splitext(name)
    return stem + extension.lower()
