"""Output files of `translate`, checked before the model is loaded and written atomically."""

import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from signvit_jax.captions.formats import Captions
from signvit_jax.captions.language_tags import three_letter_code
from signvit_jax.captions.layout import LayoutFaults
from signvit_jax.captions.segments import SubtitleError
from signvit_jax.cli.caption_flags import BURNED_IN, SOFT, CaptionSettings
from signvit_jax.cli.media_files import output_names
from signvit_jax.files.atomic import write_atomically
from signvit_jax.media.captioned_video import DrawnCaption, TimedText, write_captioned
from signvit_jax.media.video import VideoDecodeError, VideoLimits
from signvit_jax.runtime.exit_codes import UsageError
from signvit_jax.runtime.standard_streams import OutputError, clean

if TYPE_CHECKING:
    from signvit_jax.inference.translator import Translation

_MOST_LISTED = 3  # files listed by an error message


def without_own_outputs(
    folder: Path, clips: Sequence[Path], settings: CaptionSettings
) -> list[Path]:
    """Leave out the clips that this call would write: captioned videos of an earlier call."""
    endings = [ending for ending in settings.endings if ending in (BURNED_IN, SOFT)]
    outputs = {
        os.path.abspath(folder / f"{name}{ending}")
        for name in output_names(clips)
        for ending in endings
    }
    return [clip for clip in clips if os.path.abspath(clip) not in outputs]


class CaptionFiles:
    """One file per clip and format under `folder`, and videos with captions.

    Files that exist already may have been corrected by hand. `overwrite` replaces them;
    `skip_existing` keeps them and writes the other files. Raises UsageError if files exist and
    neither is set, and for a folder or summary that cannot be written.

    Attributes:
        todo: The clips that lack a file, by their place in the list.
        written: Number of files written.
        incomplete: Number of clips of which a video with captions could not be written.
        faults: How many of the cues exceed a limit of the layout.
        language: Tag of the language of the texts; set it where only the model tells.
    """

    def __init__(
        self,
        folder: Path,
        clips: Sequence[Path],
        settings: CaptionSettings,
        *,
        overwrite: bool = False,
        skip_existing: bool = False,
        summary: Path | None = None,
    ):
        self.written = self.incomplete = 0
        self.faults = LayoutFaults()
        self.folder = folder
        self.language = settings.language or ""
        self._clips = clips
        self._settings = settings
        self._summary = summary
        self._paths = [
            {ending: folder / f"{name}{ending}" for ending in settings.endings}
            for name in output_names(clips)
        ]
        self._existing = {
            path for paths in self._paths for path in paths.values() if os.path.lexists(path)
        }
        if overwrite:
            self._existing = set()
        elif self._existing and not skip_existing:
            self._refuse_existing()
        self.todo = [
            place
            for place, paths in enumerate(self._paths)
            if not self._existing.issuperset(paths.values())
        ]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise UsageError(
                f"--output_dir={folder} cannot be written: {error.strerror}"
            ) from error
        self._check_summary()
        for place in range(len(clips)):
            if place not in self.todo:
                self._summarize(place, "skipped", files=[])

    def write(self, place: int, translation: "Translation", limits: VideoLimits) -> list[str]:
        """Write the files of clip `place` and print their names; return warnings and errors.

        If a video with captions cannot be written, the text files are written all the same. Raises
        OutputError.
        """
        paths = {
            ending: path
            for ending, path in self._paths[place].items()
            if path not in self._existing
        }
        clip = self._clips[place]
        captions = Captions(
            translation.segments,
            translation.seconds,
            layout=self._settings.layout,
            word_times=self._settings.word_times,
            video=os.path.relpath(clip, next(iter(paths.values())).parent),
            language=self.language,
        )
        self.faults += captions.faults
        files: list[str] = []
        problems: list[str] = []
        notes: list[str] = []
        for ending, path in paths.items():
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                if ending in (BURNED_IN, SOFT):
                    notes += self._write_video(clip, path, captions, ending == BURNED_IN, limits)
                else:
                    write_atomically(path, captions.as_format(ending[1:]))
            except (VideoDecodeError, SubtitleError) as error:
                problems.append(f"{path} was not written: {error}")
                continue
            except OSError as error:
                self._summarize(place, "failed", files=files, errors=[str(error)])
                raise OutputError(
                    f"{path} cannot be written: {error.strerror}; "
                    f"{self.written:,} files were written before it"
                ) from error
            self.written += 1
            files.append(str(path))
            print(f"{clean(str(clip))}\t{clean(str(path))}", flush=True)
        self.incomplete += bool(problems)
        self._summarize(
            place,
            "failed" if problems else "written",
            files=files,
            errors=problems,
            notes=[*translation.warnings, *notes, *captions.faults.sentences()],
        )
        return [
            *(f"error: {problem}" for problem in problems),
            *(f"warning: {clip}: {note}" for note in notes),
        ]

    def fail(self, place: int, error: Exception) -> None:
        """Note in the summary that clip `place` could not be read."""
        self._summarize(place, "failed", files=[], errors=[str(error)])

    def sentence(self, unreadable: int) -> str:
        """What was written, skipped and failed, as one sentence."""
        parts = [f"{self.written:,} files written to {self.folder}"]
        if skipped := len(self._clips) - len(self.todo):
            parts.append(f"{skipped:,} of {len(self._clips):,} videos skipped: their files exist")
        if failed := unreadable + self.incomplete:
            parts.append(f"{failed:,} of {len(self._clips):,} videos failed")
        return "; ".join(parts)

    def _write_video(
        self, clip: Path, path: Path, captions: Captions, burn_in: bool, limits: VideoLimits
    ) -> list[str]:
        cues = captions.shown
        timed = [TimedText(cue.start, cue.end, "\n".join(cue.shown)) for cue in cues]
        if not burn_in:
            code = three_letter_code(self.language)
            return write_captioned(clip, path, timed, language=code, limits=limits)
        from signvit_jax.captions.drawing import draw_caption, font_for

        font = font_for([text for *_, text in timed], self._settings.font)

        def draw(number: int, size: tuple[int, int]) -> DrawnCaption:
            return draw_caption(cues[number], size, font)

        return write_captioned(clip, path, timed, draw=draw, limits=limits)

    def _summarize(
        self,
        place: int,
        status: str,
        *,
        files: Sequence[str],
        errors: Sequence[str] = (),
        notes: Sequence[str] = (),
    ) -> None:
        if self._summary is None:
            return
        entry = {
            "path": str(self._clips[place]),
            "status": status,
            "files": files,
            "errors": errors,
            "notes": notes,
        }
        line = json.dumps(entry, ensure_ascii=False) + "\n"
        try:
            with self._summary.open("a", encoding="utf-8", errors="surrogateescape") as file:
                file.write(line)
        except OSError as error:
            raise OutputError(f"{self._summary} cannot be written: {error.strerror}") from error

    def _check_summary(self) -> None:
        if self._summary is None:
            return
        try:
            self._summary.open("a").close()
        except OSError as error:
            raise UsageError(
                f"--summary={self._summary} cannot be written: {error.strerror}"
            ) from error

    def _refuse_existing(self) -> None:
        existing = sorted(self._existing)
        listed = ", ".join(map(str, existing[:_MOST_LISTED]))
        if len(existing) > _MOST_LISTED:
            listed += f" and {len(existing) - _MOST_LISTED:,} more"
        raise UsageError(
            f"{listed} already {'exists' if len(existing) == 1 else 'exist'}; use --overwrite to "
            "replace such files, --skip_existing to keep them, or give another --output_dir"
        )
