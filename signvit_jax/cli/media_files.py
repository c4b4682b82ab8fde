"""The files that `translate` reads, and the names of its outputs."""

import collections
import glob
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from signvit_jax.media.video import APPLE_DOUBLE, EXTENSIONS


def media_files(inputs: Sequence[str]) -> list[Path]:
    """The video files of `inputs`: files, folders and patterns, each expanded in order of name.

    Folders are searched recursively; a pattern looks like `clips/**/*.mp4`. A pattern without a
    match, a folder without videos and an unreadable folder stay in the list, so that they are
    reported as unreadable. Files named `._*`, which macOS keeps beside others, are skipped in
    folders and patterns; their number is printed on standard error.
    """
    videos: list[Path] = []
    skipped = 0

    def without_apple_double(paths: Iterable[Path]) -> list[Path]:
        nonlocal skipped
        paths = list(paths)
        remaining = sorted(path for path in paths if not path.name.startswith(APPLE_DOUBLE))
        skipped += len(paths) - len(remaining)
        return remaining

    for text in inputs:
        path = Path(text)
        if path.is_dir():
            videos += without_apple_double(_videos_under(path)) or [path]
        elif glob.has_magic(text) and not path.exists():
            matches = map(Path, glob.glob(text, recursive=True))
            files = (match for match in matches if not match.is_dir())
            videos += without_apple_double(files) or [path]
        else:
            videos.append(path)
    if skipped:
        print(
            f"note: skipped {skipped} files named {APPLE_DOUBLE}*: "
            "macOS keeps attributes in them, not video",
            file=sys.stderr,
        )
    return videos


def _videos_under(folder: Path) -> list[Path]:
    unreadable: list[OSError] = []
    videos = [
        Path(parent, name)
        for parent, _, files in os.walk(folder, onerror=unreadable.append)
        for name in files
        if os.path.splitext(name)[1].lower() in EXTENSIONS
    ]
    return sorted([*videos, *(Path(error.filename) for error in unreadable)])


def output_names(clips: Sequence[Path]) -> list[Path]:
    """One relative path per clip, without extension, all different.

    Clips that share a name keep as much of their folders as tells them apart.
    """
    names = [Path(clip.stem) for clip in clips]
    if len(set(names)) < len(names):
        # Normalized, so that no `..` leads out of the output folder.
        absolute = [os.path.abspath(clip) for clip in clips]
        root = os.path.commonpath({os.path.dirname(path) for path in absolute})
        relative = [Path(path[len(root) :].lstrip(os.sep)) for path in absolute]
        names = [path.with_name(path.stem) for path in relative]
    # Extensions tell a.mp4 and a.webm of one folder apart, a number a file that is given twice.
    counts = collections.Counter(names)
    names = [
        name.with_name(name.name + clip.suffix.replace(".", "_")) if counts[name] > 1 else name
        for clip, name in zip(clips, names)
    ]
    used: set[Path] = set()
    next_number: dict[Path, int] = {}
    for place, name in enumerate(names):
        number = next_number.get(name, 1)
        while names[place] in used:
            names[place] = name.with_name(f"{name.name}_{number}")
            number += 1
        used.add(names[place])
        next_number[name] = number
    return names
