"""Translates videos to text: files, patterns such as 'clips/**/*.mp4', and folders with all that is in them.

Prints each video's text on standard output (in another --format: that format), or writes one file a video and format to --output_dir. A video longer
than --max_clip_seconds is cut where nobody signs, each text with its time; its length costs no memory. Exit codes: 0 done, 2 wrong usage, 3 some videos
failed, 4 no video could be read.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from signvit_jax.command_line import parser, set_up_jax
from signvit_jax.decoding.subtitles import FORMATS, write
from signvit_jax.exit_codes import DONE, NO_READABLE_MEDIA, SOME_INPUTS_FAILED, run_command
from signvit_jax.inference_flags import add_backend_flag, add_inference_flags, given_inference
from signvit_jax.media_files import media_files, output_names


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _arguments(argv)
    set_up_jax()

    from signvit_jax.api import Translation, load_translator
    from signvit_jax.data.video import VideoDecodeError
    from signvit_jax.training.atomic_write import write_atomically

    translator = load_translator(arguments.workdir, checkpoint=arguments.checkpoint, backend=arguments.backend)
    clips = media_files(arguments.clips)
    formats = FORMATS if arguments.format == "all" else (arguments.format,)

    def show(clip: Path, translation: Translation) -> None:
        for text_format in formats:
            text = write(translation.segments, text_format, translation.seconds).rstrip()
            print(f"{clip}\t{translation.text}" if text_format == "txt" else text, flush=True)

    def save(name: Path, translation: Translation) -> None:
        for text_format in formats:
            path = arguments.output_dir / f"{name}.{text_format}"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, write(translation.segments, text_format, translation.seconds))

    failed = 0
    translations = translator.translate_each(clips, decode=arguments.decode, seed=arguments.seed, **given_inference(arguments))
    with _progress(prints=arguments.output_dir is None) as bar:
        task = bar.add_task("translating", total=len(clips))
        for clip, name, translation in zip(clips, output_names(clips), translations):
            if isinstance(translation, VideoDecodeError):
                failed += 1
                print(f"error: {translation}", file=sys.stderr)
            elif arguments.output_dir is None:
                show(clip, translation)
            else:
                save(name, translation)
            for warning in getattr(translation, "warnings", ()):
                print(f"warning: {clip}: {warning}", file=sys.stderr)
            bar.advance(task)
    if failed:
        print(f"error: {failed} of {len(clips)} clips could not be read", file=sys.stderr)
    return DONE if not failed else NO_READABLE_MEDIA if failed == len(clips) else SOME_INPUTS_FAILED


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    flags = parser(__doc__, "python -m signvit_jax.translate --workdir=runs/quickstart clip.mp4 --decode=beam --format=srt --output_dir=captions")
    flags.add_argument("clips", nargs="+", metavar="CLIP", help="video files, patterns or folders")
    flags.add_argument("--workdir", required=True, help="folder of a training run or an export; several runs with commas between are an ensemble")
    flags.add_argument("--checkpoint", choices=("best", "last"), default="best")
    add_backend_flag(flags)
    flags.add_argument("--decode", choices=("greedy", "beam", "ctc", "ctc_beam", "sample"), default="greedy")
    flags.add_argument("--seed", type=int, default=0, help="of --decode=sample (0)")
    flags.add_argument("--format", choices=(*FORMATS, "all"), default="txt", help="json also holds words, and alternatives with --n_best (txt)")
    flags.add_argument("--output_dir", type=Path, help="write files here; without it the text is printed")
    add_inference_flags(flags)
    return flags.parse_args(argv)


def _progress(prints: bool) -> Progress:
    """On standard error, where that is a terminal; not where the texts themselves appear on one."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    hidden = not console.is_terminal or (prints and sys.stdout.isatty())
    return Progress(*columns, console=console, transient=True, redirect_stdout=False, disable=hidden)


if __name__ == "__main__":
    sys.exit(run_command(main))
