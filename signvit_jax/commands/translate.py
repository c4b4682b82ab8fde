"""Translates videos to text: files, patterns such as 'clips/**/*.mp4', and folders with all that is in them.

Prints one line a video on standard output: its path and text, or with --format=json an object (JSON Lines), or with --format=tsv rows of one table
with a column for the path. With --output_dir one file a video and format is written there and named; files that are there already are replaced with
--overwrite alone. A video longer than --max_clip_seconds is cut where nobody signs, each text with its time; its length costs no memory.
Exit codes: 0 done, 1 failed, 2 wrong usage, 3 some videos failed, 4 no video could be read. A reader that has enough (| head -1) ends it with 0.
"""

import argparse
import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from signvit_jax.cli.caption_files import CaptionFiles
from signvit_jax.cli.common import parser, set_up_jax
from signvit_jax.cli.inference_flags import (
    add_backend_flag,
    add_inference_flags,
    given_inference,
    positive_seconds,
)
from signvit_jax.cli.media_files import media_files
from signvit_jax.files.local_paths import local_path, local_text
from signvit_jax.inference.subtitles import FORMATS, TSV_HEADER, json_line, tsv_rows, write
from signvit_jax.runtime.exit_codes import DONE, NO_READABLE_MEDIA, SOME_INPUTS_FAILED, UsageError
from signvit_jax.runtime.streams import clean, clean_json, reader_has_gone
from signvit_jax.runtime.terminal import FittingProgress, counted

if TYPE_CHECKING:
    from signvit_jax.inference.translator import Translation

_ONE_VIDEO_A_FILE = ("srt", "vtt", "all")


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
        clips, decode=arguments.decode, seed=arguments.seed, **given_inference(arguments)
    )
    failed = 0
    with _progress() as bar:
        task = bar.add_task("translating", total=len(clips))
        for place, translation in enumerate(translations):
            if isinstance(translation, VideoDecodeError):
                failed += 1
                print(f"error: {clean(str(translation))}", file=sys.stderr)
            else:
                show(place, translation)
                for warning in translation.warnings:
                    print(f"warning: {clean(f'{clips[place]}: {warning}')}", file=sys.stderr)
            bar.advance(task)
            if files is None and reader_has_gone():
                break
    if files is not None:
        print(clean(f"{files.written:,} files written to {arguments.output_dir}"), file=sys.stderr)
    if failed:
        print(f"error: {failed} of {len(clips)} clips could not be read", file=sys.stderr)
    return DONE if not failed else NO_READABLE_MEDIA if failed == len(clips) else SOME_INPUTS_FAILED


def _check_printable(text_format: str, clips: int) -> None:
    """Raises UsageError where the texts of all clips, one after the other, would be no valid file."""
    if text_format == "all" or (text_format in _ONE_VIDEO_A_FILE and clips > 1):
        what = "five formats" if text_format == "all" else f"{clips} clips as {text_format}"
        raise UsageError(
            f"{what} on standard output would be no valid file; write one file each with --output_dir=FOLDER, or print --format=json"
        )


def _printer(text_format: str, clips: Sequence[Path]) -> "Callable[[int, Translation], None]":
    """Prints what was said in the clip at that place so that all are one valid file. Names and texts are strangers': cleaned."""
    header = [TSV_HEADER] if text_format == "tsv" else []

    def show(place: int, translation: "Translation") -> None:
        path = str(clips[place])
        said = translation.segments, translation.seconds
        if text_format == "txt":
            text = f"{clean(path)}\t{clean(translation.text)}\n"
        elif text_format == "json":
            text = clean_json(json_line(path, *said), sys.stdout.encoding or "utf-8")
        elif text_format == "tsv":
            text = "".join(header) + clean(tsv_rows(clean(path), *said), keep="\t\n")
            header.clear()
        else:
            text = clean(write(said[0], text_format, said[1]), keep="\n").rstrip() + "\n"
        print(text, end="", flush=True)

    return show


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    flags = parser(
        __doc__,
        "python -m signvit_jax.translate --workdir=runs/quickstart clip.mp4 --decode=beam --format=srt --output_dir=captions",
    )
    flags.add_argument(
        "clips", nargs="+", type=local_text, metavar="CLIP", help="video files, patterns or folders"
    )
    flags.add_argument(
        "--workdir",
        required=True,
        type=local_text,
        help="folder of a training run or an export; several runs with commas between are an ensemble",
    )
    flags.add_argument("--checkpoint", choices=("best", "last"), default="best")
    add_backend_flag(flags)
    flags.add_argument(
        "--decode", choices=("greedy", "beam", "ctc", "ctc_beam", "sample"), default="greedy"
    )
    flags.add_argument(
        "--seed", type=int, default=0, help="of --decode=sample, from 0 to 4294967295 (0)"
    )
    flags.add_argument(
        "--format",
        choices=(*FORMATS, "all"),
        default="txt",
        help="json also holds words, and alternatives with --n_best (txt)",
    )
    flags.add_argument(
        "--output_dir", type=local_path, help="write files here; without it the text is printed"
    )
    flags.add_argument(
        "--overwrite", action="store_true", help="replace files that are in --output_dir already"
    )
    flags.add_argument(
        "--time_limit",
        type=positive_seconds,
        metavar="SECONDS",
        help="give a file up when its decoder has been waited for so long (7200)",
    )
    add_inference_flags(flags)
    return flags.parse_args(argv)


def _progress() -> FittingProgress:
    """On standard error, where that is a terminal; not where the texts themselves appear on one."""
    console = Console(stderr=True)
    return counted(console, disable=not console.is_terminal or sys.stdout.isatty())
