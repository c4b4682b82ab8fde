"""Which files the translate command reads, and what their outputs are called."""

import collections
import glob
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from signvit_jax.media.video import APPLE_DOUBLE, EXTENSIONS


def media_files(inputs: Sequence[str]) -> list[Path]:
    """Files as they are, the videos in folders (however deep) and what patterns such as `clips/**/*.mp4` match, each in order of name.

    A pattern that matches nothing, a folder without videos and one that may not be read stay in the list, as what cannot be read.
    Files named `._*`, which a Mac keeps beside others, are left out of folders and patterns; how many
    is said on standard error.
    """
    found: list[Path] = []
    left_out = 0

    def sound(paths: Iterable[Path]) -> list[Path]:
        nonlocal left_out
        paths = list(paths)
        kept = sorted(path for path in paths if not path.name.startswith(APPLE_DOUBLE))
        left_out += len(paths) - len(kept)
        return kept

    for given in inputs:
        path = Path(given)
        if path.is_dir():
            found += sound(_videos_under(path)) or [path]
        elif glob.has_magic(given) and not path.exists():
            matches = map(Path, glob.glob(given, recursive=True))
            found += sound(match for match in matches if not match.is_dir()) or [path]
        else:
            found.append(path)
    if left_out:
        print(
            f"note: {left_out} files named {APPLE_DOUBLE}* are left out: a Mac keeps attributes in them, no video",
            file=sys.stderr,
        )
    return found


def _videos_under(folder: Path) -> list[Path]:
    unreadable: list[OSError] = []
    walk = os.walk(folder, onerror=unreadable.append)
    videos = [
        Path(where, name)
        for where, _, files in walk
        for name in files
        if os.path.splitext(name)[1].lower() in EXTENSIONS
    ]
    return sorted([*videos, *(Path(error.filename) for error in unreadable)])


def output_names(clips: Sequence[Path]) -> list[Path]:
    """One relative path a clip, without its ending, no two the same: names that occur twice keep as much of their folders as tells them apart."""
    names = [Path(clip.stem) for clip in clips]
    if len(set(names)) < len(names):
        # Normalized, so that no `..` leads out of the output folder.
        absolute = [os.path.abspath(clip) for clip in clips]
        root = os.path.commonpath({os.path.dirname(path) for path in absolute})
        within = [Path(path[len(root) :].lstrip(os.sep)) for path in absolute]
        names = [path.with_name(path.stem) for path in within]
    # a.mp4 and a.webm in one folder: the ending tells them apart; the same file twice: a number does.
    counts = collections.Counter(names)
    names = [
        name.with_name(name.name + clip.suffix.replace(".", "_")) if counts[name] > 1 else name
        for clip, name in zip(clips, names)
    ]
    taken: set[Path] = set()
    next_number: dict[Path, int] = {}
    for place, name in enumerate(names):
        number = next_number.get(name, 1)
        while names[place] in taken:
            names[place], number = name.with_name(f"{name.name}_{number}"), number + 1
        taken.add(names[place])
        next_number[name] = number
    return names
