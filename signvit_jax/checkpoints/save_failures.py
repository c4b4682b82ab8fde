"""Why a checkpoint could not be saved, and what to do about it."""

import os
from pathlib import Path

# Parts of the system's error messages, which TensorStore quotes in longer ones, in plain words.
_CAUSES = {
    "No space left on device": (
        "the disk is full; free some space, or lower training.keep_last_n_checkpoints"
    ),
    "Disk quota exceeded": (
        "your disk quota (of bytes or of files) is used up; free some, or lower "
        "training.keep_last_n_checkpoints"
    ),
    "File too large": "a file grew beyond the allowed size (ulimit -f)",
    "Read-only file system": "the disk is read-only",
    "Permission denied": "no permission to write there",
    "Stale file handle": "the network disk lost the folder (stale file handle)",
    "Input/output error": "the disk does not answer (input/output error)",
}


def save_failure(error: BaseException, folder: Path) -> str:
    """Return why a checkpoint could not be saved to `folder`, in plain words."""
    text = str(error)
    if not folder.is_dir():
        return "the folder is gone, renamed or deleted during the run"
    if "No space left on device" in text and _no_inodes(folder):
        return (
            "the disk takes no more files (no inode is free); delete files, or lower "
            "training.keep_last_n_checkpoints"
        )
    for system_text, words in _CAUSES.items():
        if system_text in text:
            return words
    first_line = text.strip().splitlines()[0] if text.strip() else "no message"
    return f"{type(error).__name__}: {first_line}"


def _no_inodes(folder: Path) -> bool:
    """Return True if the disk has bytes left but (almost) no inodes.

    Almost, because the failed save may have freed a few by now. Some file systems (btrfs) do not
    count inodes and report 0 of 0.
    """
    disk = os.statvfs(folder)
    return disk.f_files > 0 and disk.f_favail < 100 and disk.f_bavail * disk.f_frsize > 2**20
