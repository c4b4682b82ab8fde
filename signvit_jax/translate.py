"""Translates video files to text.

Prints each file's text on standard output (in another --format: to that format), or writes one file a clip and format to --output_dir.
Exit codes: 0 done, 2 wrong usage, 3 some clips failed, 4 no clip could be read.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from signvit_jax.command_line import parser, set_up_jax
from signvit_jax.decoding.subtitles import FORMATS, Segment, write
from signvit_jax.exit_codes import DONE, NO_READABLE_MEDIA, SOME_INPUTS_FAILED, run_command

INFERENCE_FLAGS = {"beam_size": int, "length_penalty": float, "temperature": float, "top_k": int, "top_p": float}


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _arguments(argv)
    set_up_jax()

    from signvit_jax.api import Translation, load_translator
    from signvit_jax.data.video import VideoDecodeError

    translator = load_translator(arguments.workdir, checkpoint=arguments.checkpoint)
    inference = {name: value for name in INFERENCE_FLAGS if (value := getattr(arguments, name)) is not None}
    outputs = _output_names(arguments.clips)

    def translate(clip: Path) -> Translation | None:
        try:
            return translator.translate(clip, decode=arguments.decode, **inference)
        except VideoDecodeError as error:
            print(f"error: {error}", file=sys.stderr)
            return None

    failed = 0
    for clip, name in zip(arguments.clips, outputs):
        translation = translate(clip)
        if translation is None:
            failed += 1
            continue
        segment = Segment(0.0, translation.seconds, translation.text, translation.score, translation.confidence)
        for text_format in FORMATS if arguments.format == "all" else (arguments.format,):
            text = write([segment], text_format, translation.seconds)
            if arguments.output_dir is None:
                print(f"{clip}\t{text.rstrip()}" if text_format == "txt" else text.rstrip())
            else:
                path = arguments.output_dir / f"{name}.{text_format}"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
    if failed:
        print(f"error: {failed} of {len(arguments.clips)} clips could not be read", file=sys.stderr)
    return DONE if not failed else NO_READABLE_MEDIA if failed == len(arguments.clips) else SOME_INPUTS_FAILED


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    flags = parser(__doc__, "python -m signvit_jax.translate --workdir=runs/quickstart clip.mp4 --decode=beam --format=srt --output_dir=captions")
    flags.add_argument("clips", nargs="+", type=Path, metavar="CLIP", help="video files")
    flags.add_argument("--workdir", required=True, type=Path, help="folder of a training run")
    flags.add_argument("--checkpoint", choices=("best", "last"), default="best")
    flags.add_argument("--decode", choices=("greedy", "beam", "ctc", "sample"), default="greedy")
    flags.add_argument("--format", choices=(*FORMATS, "all"), default="txt")
    flags.add_argument("--output_dir", type=Path, help="write files here; without it the text is printed")
    for name, kind in INFERENCE_FLAGS.items():
        flags.add_argument(f"--{name}", type=kind, help="default: the run's config.inference." + name)
    return flags.parse_args(argv)


def _output_names(clips: Sequence[Path]) -> list[Path]:
    """One name a clip without its ending; clips of one name in different folders keep as much of their folders as tells them apart."""
    names = [Path(clip.stem) for clip in clips]
    if len(set(names)) == len(names):
        return names
    absolute = [clip.absolute().with_suffix("") for clip in clips]
    root = Path(*_shared_parts([path.parent.parts for path in absolute]))
    names = [path.relative_to(root) for path in absolute]
    # a.mp4 and a.webm in one folder: the ending tells them apart; the same file twice: a number does.
    unique = [name.with_name(name.name + clip.suffix.replace(".", "_")) if names.count(name) > 1 else name for clip, name in zip(clips, names)]
    return [name if unique.index(name) == i else name.with_name(f"{name.name}_{i}") for i, name in enumerate(unique)]


def _shared_parts(paths: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    shared = []
    for parts in zip(*paths):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return tuple(shared)


if __name__ == "__main__":
    sys.exit(run_command(main))
