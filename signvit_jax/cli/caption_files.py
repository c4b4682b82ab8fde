"""Output files of `translate`, checked before the model is loaded and written atomically."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from signvit_jax.cli.media_files import output_names
from signvit_jax.files.atomic import write_atomically
from signvit_jax.inference.subtitles import write
from signvit_jax.runtime.exit_codes import UsageError
from signvit_jax.runtime.standard_streams import OutputError, clean

if TYPE_CHECKING:
    from signvit_jax.inference.translator import Translation

_MOST_LISTED = 3  # files listed by an error message


class CaptionFiles:
    """One file per clip and format under `folder`.

    Raises UsageError for a folder that cannot be written, and, unless `overwrite`, for files that
    exist already: they may have been corrected by hand.
    """

    def __init__(
        self, folder: Path, clips: Sequence[Path], formats: Sequence[str], overwrite: bool
    ):
        self.written = 0
        self._clips = clips
        self._formats = formats
        self._paths = [
            [folder / f"{name}.{text_format}" for text_format in formats]
            for name in output_names(clips)
        ]
        if not overwrite:
            self._refuse_existing()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise UsageError(
                f"--output_dir={folder} cannot be written: {error.strerror}"
            ) from error

    def write(self, place: int, translation: "Translation") -> None:
        """Write the files of clip `place` and print their names. Raises OutputError."""
        for path, text_format in zip(self._paths[place], self._formats):
            text = write(translation.segments, text_format, translation.seconds)
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(path, text)
            except OSError as error:
                raise OutputError(
                    f"{path} cannot be written: {error.strerror}; "
                    f"{self.written:,} files were written before it"
                ) from error
            self.written += 1
            print(f"{clean(str(self._clips[place]))}\t{clean(str(path))}", flush=True)

    def _refuse_existing(self) -> None:
        existing = [path for paths in self._paths for path in paths if os.path.lexists(path)]
        if not existing:
            return
        listed = ", ".join(map(str, existing[:_MOST_LISTED]))
        if len(existing) > _MOST_LISTED:
            listed += f" and {len(existing) - _MOST_LISTED:,} more"
        raise UsageError(
            f"{listed} already {'exists' if len(existing) == 1 else 'exist'}; "
            "use --overwrite to replace such files, or give another --output_dir"
        )
