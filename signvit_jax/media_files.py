"""Which files the translate command reads, and what their outputs are called."""

import glob
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from signvit_jax.data.video import APPLE_DOUBLE, EXTENSIONS


def media_files(inputs: Sequence[str]) -> list[Path]:
    """Files as they are, the videos in folders (however deep) and what patterns such as `clips/**/*.mp4` match, each in order of name.

    A pattern that matches nothing and a folder without videos stay in the list, as what cannot be read.
    Files named `._*`, which a Mac keeps beside others, are left out of folders and patterns; how many
    is said on standard error.
    """
    found: list[Path] = []
    left_out = 0

    def videos(paths: Iterable[Path], any_ending: bool) -> list[Path]:
        nonlocal left_out
        kept = [path for path in paths if (any_ending or path.suffix.lower() in EXTENSIONS) and not path.is_dir()]
        sound = sorted(path for path in kept if not path.name.startswith(APPLE_DOUBLE))
        left_out += len(kept) - len(sound)
        return sound

    for given in inputs:
        path = Path(given)
        if path.is_dir():
            found += videos(path.rglob("*"), any_ending=False) or [path]
        elif glob.has_magic(given) and not path.exists():
            found += videos(map(Path, glob.glob(given, recursive=True)), any_ending=True) or [path]
        else:
            found.append(path)
    if left_out:
        print(f"note: {left_out} files named {APPLE_DOUBLE}* are left out: a Mac keeps attributes in them, no video", file=sys.stderr)
    return found


def output_names(clips: Sequence[Path]) -> list[Path]:
    """One relative path a clip, without its ending, no two the same: names that occur twice keep as much of their folders as tells them apart."""
    names = [Path(clip.stem) for clip in clips]
    if len(set(names)) < len(names):
        # Normalised, so that no `..` leads out of the output folder.
        absolute = [Path(os.path.abspath(clip)) for clip in clips]
        root = os.path.commonpath([path.parent for path in absolute])
        names = [path.relative_to(root).with_name(path.stem) for path in absolute]
    # a.mp4 and a.webm in one folder: the ending tells them apart; the same file twice: a number does.
    names = [name.with_name(name.name + clip.suffix.replace(".", "_")) if names.count(name) > 1 else name for clip, name in zip(clips, names)]
    taken: set[Path] = set()
    for place, name in enumerate(names):
        number = 1
        while names[place] in taken:
            names[place], number = name.with_name(f"{name.name}_{number}"), number + 1
        taken.add(names[place])
    return names
