"""The files that the translate command writes: checked before anything is computed, and written whole or not at all."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from signvit_jax.cli.media_files import output_names
from signvit_jax.files.atomic import write_atomically
from signvit_jax.inference.subtitles import write
from signvit_jax.runtime.exit_codes import UsageError
from signvit_jax.runtime.streams import OutputError, clean

if TYPE_CHECKING:
    from signvit_jax.inference.translator import Translation

_NAMED = 3  # files that a refusal names


class CaptionFiles:
    """One file a clip and format under `folder`. Raises UsageError for a folder that cannot be written, and, unless
    `overwrite`, for files that are there: they may have been corrected by hand.
    """

    def __init__(
        self, folder: Path, clips: Sequence[Path], formats: Sequence[str], overwrite: bool
    ):
        self.written = 0
        self._clips, self._formats = clips, formats
        self._paths = [
            [folder / f"{name}.{text_format}" for text_format in formats]
            for name in output_names(clips)
        ]
        there = (
            []
            if overwrite
            else [path for paths in self._paths for path in paths if os.path.lexists(path)]
        )
        if there:
            more = f" and {len(there) - _NAMED:,} more" if len(there) > _NAMED else ""
            raise UsageError(
                f"{', '.join(map(str, there[:_NAMED]))}{more} {'is' if len(there) == 1 else 'are'} there already; "
                "--overwrite replaces such files, another --output_dir keeps both"
            )
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise UsageError(
                f"--output_dir={folder} cannot be written: {error.strerror}"
            ) from error

    def write(self, place: int, translation: "Translation") -> None:
        """Writes what was said in the clip at that place of the list, and prints which file holds it. Raises OutputError."""
        for path, text_format in zip(self._paths[place], self._formats):
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(
                    path, write(translation.segments, text_format, translation.seconds)
                )
            except OSError as error:
                raise OutputError(
                    f"{path} cannot be written: {error.strerror}; {self.written:,} files were"
                ) from error
            self.written += 1
            print(f"{clean(str(self._clips[place]))}\t{clean(str(path))}", flush=True)
