"""Translate videos to text: files, patterns such as 'clips/**/*.mp4', and folders with all videos
in them.

Prints one line per video on standard output: its path and text, with --format=json an object (JSON
Lines), or with --format=tsv rows of one table with a column for the path. With --output_dir it
writes one file per video and format there and prints their names; existing files are replaced only
with --overwrite. A video longer than --max_clip_seconds is split where nobody signs, each text with
its time; memory does not grow with the length of a video.
Exit codes: 0 done, 1 failed, 2 wrong usage, 3 some videos failed, 4 no video could be read. When
the reader of the output has gone (| head -1), translate ends with 0.
"""

import argparse
import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from signvit_jax.cli.caption_files import CaptionFiles
from signvit_jax.cli.inference_flags import (
    DECODER_NAMES,
    add_inference_flags,
    add_model_flags,
    inference_overrides,
)
from signvit_jax.cli.jax_setup import set_up_jax
from signvit_jax.cli.media_files import media_files
from signvit_jax.files.local_paths import local_path, local_path_string
from signvit_jax.inference.subtitles import FORMATS, TSV_HEADER, json_line, tsv_rows, write
from signvit_jax.runtime.command_line import parser, positive
from signvit_jax.runtime.exit_codes import DONE, NO_READABLE_MEDIA, SOME_INPUTS_FAILED, UsageError
from signvit_jax.runtime.standard_streams import clean, clean_json, reader_has_gone
from signvit_jax.runtime.terminal import FittingProgress, progress_bar

if TYPE_CHECKING:
    from signvit_jax.inference.translator import Translation

_ONE_VIDEO_PER_FILE = ("srt", "vtt", "all")  # formats


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _arguments(argv)
    clips = media_files(arguments.clips)
    formats = FORMATS if arguments.format == "all" else (arguments.format,)
    if arguments.output_dir is None:
        _check_printable(arguments.format, len(clips))
        files, show = None, _printer(arguments.format, clips)
    else:
        files = CaptionFiles(arguments.output_dir, clips, formats, arguments.overwrite)
        show = files.write
    set_up_jax()

    from signvit_jax.inference.translator import load_translator
    from signvit_jax.inference.windowing import RECORDING
    from signvit_jax.media.video import VideoDecodeError

    limits = RECORDING
    if arguments.time_limit is not None:
        limits = dataclasses.replace(limits, wall_seconds=arguments.time_limit)
    translator = load_translator(
        arguments.workdir, checkpoint=arguments.checkpoint, backend=arguments.backend, limits=limits
    )
    translations = translator.translate_each(
        clips, decode=arguments.decode, seed=arguments.seed, **inference_overrides(arguments)
    )
    failed = without_text = 0
    with _progress() as bar:
        task = bar.add_task("translating", total=len(clips))
        for place, translation in enumerate(translations):
            if isinstance(translation, VideoDecodeError):
                failed += 1
                print(f"error: {clean(str(translation))}", file=sys.stderr)
            else:
                show(place, translation)
                without_text += not translation.text
                for warning in translation.warnings:
                    print(f"warning: {clean(f'{clips[place]}: {warning}')}", file=sys.stderr)
            bar.advance(task)
            if files is None and reader_has_gone():
                break
    if files is not None:
        print(clean(f"{files.written:,} files written to {arguments.output_dir}"), file=sys.stderr)
    if without_text:
        print(
            f"note: no text in {without_text} of {len(clips)} videos: as far as the model sees, "
            "nobody signs in them; --rest_evidence=0 --min_confidence=0 keeps every text",
            file=sys.stderr,
        )
    if failed:
        print(f"error: {failed} of {len(clips)} clips could not be read", file=sys.stderr)
    if not failed:
        return DONE
    return NO_READABLE_MEDIA if failed == len(clips) else SOME_INPUTS_FAILED


def _check_printable(text_format: str, clips: int) -> None:
    """Raise UsageError where all texts on one standard output would not form a valid file."""
    if text_format == "all" or (text_format in _ONE_VIDEO_PER_FILE and clips > 1):
        what = "five formats" if text_format == "all" else f"{clips} clips as {text_format}"
        raise UsageError(
            f"{what} on standard output would not be a valid file; "
            "write one file each with --output_dir=FOLDER, or print --format=json"
        )


def _printer(text_format: str, clips: Sequence[Path]) -> "Callable[[int, Translation], None]":
    """A function that prints the translation of clip `place`; all outputs form one valid file.

    Names and texts come from strangers and are cleaned.
    """
    header = [TSV_HEADER] if text_format == "tsv" else []

    def show(place: int, translation: "Translation") -> None:
        path = str(clips[place])
        segments, seconds = translation.segments, translation.seconds
        if text_format == "txt":
            text = f"{clean(path)}\t{clean(translation.text)}\n"
        elif text_format == "json":
            line = json_line(path, segments, seconds)
            text = clean_json(line, sys.stdout.encoding or "utf-8")
        elif text_format == "tsv":
            rows = tsv_rows(clean(path), segments, seconds)
            text = "".join(header) + clean(rows, keep="\t\n")
            header.clear()
        else:
            text = clean(write(segments, text_format, seconds), keep="\n").rstrip() + "\n"
        print(text, end="", flush=True)

    return show


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    flags = parser(
        __doc__,
        "signvit translate --workdir=runs/quickstart clip.mp4 --decode=beam "
        "--format=srt --output_dir=captions",
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
        "--format",
        choices=(*FORMATS, "all"),
        default="txt",
        help="json also holds words, and alternatives with --n_best (txt)",
    )
    flags.add_argument(
        "--output_dir", type=local_path, help="write files here; without it the texts are printed"
    )
    flags.add_argument(
        "--overwrite", action="store_true", help="replace existing files in --output_dir"
    )
    flags.add_argument(
        "--time_limit",
        type=positive("seconds"),
        metavar="SECONDS",
        help="give up on a file after waiting this long for its decoder (7200)",
    )
    add_inference_flags(flags)
    return flags.parse_args(argv)


def _progress() -> FittingProgress:
    """A bar on standard error, where that is a terminal and the texts are not printed on one."""
    console = Console(stderr=True)
    return progress_bar(console, disable=not console.is_terminal or sys.stdout.isatty())
