"""Translate videos to text: files, patterns such as 'clips/**/*.mp4', and folders with all videos
in them.

Prints one line per video on standard output: its path and text, with --format=json an object (JSON
Lines), or with --format=tsv rows of one table with a column for the path. With --output_dir it
writes one file per video and format there and prints their names; existing files are replaced only
with --overwrite, and kept with --skip_existing. --burn_in and --soft_subtitles also write the
videos with captions. A video longer than --max_clip_seconds is split where nobody signs, each text
with its time; memory does not grow with the length of a video.
Exit codes: 0 done, 1 failed, 2 wrong usage, 3 some videos failed, 4 no video could be read. When
the reader of the output has gone (| head -1), translate ends with 0.
"""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from signvit_jax.captions.formats import TSV_HEADER, Captions
from signvit_jax.captions.layout import LayoutFaults
from signvit_jax.cli.caption_files import CaptionFiles, without_own_outputs
from signvit_jax.cli.caption_flags import CaptionSettings, add_caption_flags, caption_settings
from signvit_jax.cli.inference_flags import (
    DECODER_NAMES,
    add_inference_flags,
    add_model_flags,
    inference_overrides,
)
from signvit_jax.cli.jax_setup import set_up_jax
from signvit_jax.cli.media_files import media_files
from signvit_jax.files.local_paths import local_path, local_path_string
from signvit_jax.runtime.command_line import parser, positive
from signvit_jax.runtime.exit_codes import DONE, NO_READABLE_MEDIA, SOME_INPUTS_FAILED, UsageError
from signvit_jax.runtime.standard_streams import clean, clean_json, reader_has_gone
from signvit_jax.runtime.terminal import FittingProgress, progress_bar

if TYPE_CHECKING:
    from signvit_jax.inference.translator import Translation

_JOINABLE = ("txt", "json", "tsv")  # formats of which several videos form one valid output


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _arguments(argv)
    settings = caption_settings(arguments)
    clips = media_files(arguments.clips)
    files = None
    if arguments.output_dir is None:
        _check_printable(arguments, settings, len(clips))
        todo: Sequence[int] = range(len(clips))
    else:
        inputs = without_own_outputs(arguments.output_dir, clips, settings)
        if num_own := len(clips) - len(inputs):
            print(
                f"note: {num_own} videos are outputs of this command and were left out",
                file=sys.stderr,
            )
        clips = inputs
        files = CaptionFiles(
            arguments.output_dir,
            clips,
            settings,
            overwrite=arguments.overwrite,
            skip_existing=arguments.skip_existing,
            summary=arguments.summary,
        )
        todo = files.todo
    if files is not None and not todo:
        print(clean(files.sentence(0)), file=sys.stderr)
        return DONE
    set_up_jax()

    from signvit_jax.exporting.model_card import tag_of_texts
    from signvit_jax.inference.translator import load_translator
    from signvit_jax.inference.windowing import RECORDING
    from signvit_jax.media.video import VideoDecodeError

    limits = RECORDING
    if arguments.time_limit is not None:
        limits = dataclasses.replace(limits, wall_seconds=arguments.time_limit)
    translator = load_translator(
        arguments.workdir, checkpoint=arguments.checkpoint, backend=arguments.backend, limits=limits
    )
    language = settings.language or tag_of_texts(translator.model)
    translations = translator.translate_each(
        [clips[place] for place in todo],
        decode=arguments.decode,
        seed=arguments.seed,
        **inference_overrides(arguments),
    )
    printer = None if files is not None else _Printer(settings, clips, language)
    if files is not None:
        files.language = language
    failed = without_text = 0
    with _progress() as bar:
        task = bar.add_task("translating", total=len(todo))
        for place, translation in zip(todo, translations):
            if isinstance(translation, VideoDecodeError):
                failed += 1
                print(f"error: {clean(str(translation))}", file=sys.stderr)
                if files is not None:
                    files.fail(place, translation)
            else:
                lines = [f"warning: {clips[place]}: {text}" for text in translation.warnings]
                if files is not None:
                    lines += files.write(place, translation, limits)
                elif printer is not None:
                    printer.show(place, translation)
                without_text += not translation.text
                for line in lines:
                    print(clean(line), file=sys.stderr)
            bar.advance(task)
            if files is None and reader_has_gone():
                break
    if files is not None:
        print(clean(files.sentence(failed)), file=sys.stderr)
    output = files or printer
    faults = output.faults if output is not None else LayoutFaults()
    for sentence in faults.sentences():
        print(f"note: {sentence}", file=sys.stderr)
    if without_text:
        print(
            f"note: no text in {without_text} of {len(todo)} videos: as far as the model sees, "
            "nobody signs in them; --rest_evidence=0 --min_confidence=0 keeps every text",
            file=sys.stderr,
        )
    if failed:
        print(f"error: {failed} of {len(todo)} clips could not be read", file=sys.stderr)
    if failed == len(todo):
        return NO_READABLE_MEDIA
    return SOME_INPUTS_FAILED if failed or (files is not None and files.incomplete) else DONE


def _check_printable(
    arguments: argparse.Namespace, settings: CaptionSettings, num_clips: int
) -> None:
    """Raise UsageError for what standard output cannot hold as one valid file."""
    flags = ("burn_in", "soft_subtitles", "skip_existing", "summary")
    if file_flags := [name for name in flags if getattr(arguments, name)]:
        raise UsageError(f"--{file_flags[0]} writes files; say where with --output_dir=FOLDER")
    formats = settings.formats
    if len(formats) > 1 or (formats[0] not in _JOINABLE and num_clips > 1):
        several = f"{'five' if len(formats) == 5 else len(formats)} formats"
        what = several if len(formats) > 1 else f"{num_clips} clips as {formats[0]}"
        raise UsageError(
            f"{what} on standard output would not be a valid file; "
            "write one file each with --output_dir=FOLDER, or print --format=json"
        )


class _Printer:
    """Prints translations; all outputs form one valid file.

    Names and texts come from strangers and are cleaned.
    """

    def __init__(self, settings: CaptionSettings, clips: Sequence[Path], language: str):
        self.faults = LayoutFaults()
        self._language = language
        self._settings = settings
        self._clips = clips
        self._needs_header = True

    def show(self, place: int, translation: "Translation") -> None:
        """Print the translation of clip `place`."""
        path = str(self._clips[place])
        (text_format,) = self._settings.formats
        captions = Captions(
            translation.segments,
            translation.seconds,
            layout=self._settings.layout,
            word_times=self._settings.word_times,
            video=path,
            language=self._language,
        )
        self.faults += captions.faults
        if text_format == "txt":
            text = f"{clean(path)}\t{clean(translation.text)}\n"
        elif text_format == "json":
            text = clean_json(captions.json_line(path), sys.stdout.encoding or "utf-8")
        elif text_format == "tsv":
            header = TSV_HEADER if self._needs_header else ""
            text = header + clean(captions.tsv_rows(clean(path)), keep="\t\n")
            self._needs_header = False
        else:
            text = clean(captions.as_format(text_format), keep="\n").rstrip() + "\n"
        print(text, end="", flush=True)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    flags = parser(
        __doc__,
        "signvit translate --workdir=runs/quickstart clip.mp4 --decode=beam "
        "--format=srt --output_dir=captions\n"
        "  signvit translate --workdir=runs/quickstart videos --output_dir=captions "
        "--skip_existing \\\n"
        "    --format=vtt,ttml --max_line_width=42 --max_line_count=2 --max_reading_speed=17",
    )
    flags.add_argument(
        "clips",
        nargs="+",
        type=local_path_string,
        metavar="CLIP",
        help="video files, patterns or folders",
    )
    add_model_flags(flags)
    flags.add_argument(
        "--decode", choices=DECODER_NAMES, default="greedy", help="search for the text (greedy)"
    )
    flags.add_argument(
        "--seed", type=int, default=0, help="seed of --decode=sample, from 0 to 4294967295 (0)"
    )
    flags.add_argument(
        "--output_dir", type=local_path, help="write files here; without it the texts are printed"
    )
    existing = flags.add_mutually_exclusive_group()
    existing.add_argument(
        "--overwrite", action="store_true", help="replace existing files in --output_dir"
    )
    existing.add_argument(
        "--skip_existing",
        action="store_true",
        help="keep existing files in --output_dir; videos that have all of theirs are not read",
    )
    flags.add_argument(
        "--summary",
        type=local_path,
        metavar="FILE",
        help="append a JSON line per video here: its path, status (written, skipped, failed), "
        "files, errors and notes",
    )
    flags.add_argument(
        "--time_limit",
        type=positive("seconds"),
        metavar="SECONDS",
        help="give up on a file after waiting this long for its decoder (7200)",
    )
    add_caption_flags(flags)
    add_inference_flags(flags)
    return flags.parse_args(argv)


def _progress() -> FittingProgress:
    """A bar on standard error, where that is a terminal and the texts are not printed on one."""
    console = Console(stderr=True)
    return progress_bar(console, disable=not console.is_terminal or sys.stdout.isatty())
