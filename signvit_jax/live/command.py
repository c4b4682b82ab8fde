"""Live captions of a camera or a video file, in the terminal.

Text in gray may still change; text in white is final. If standard output is not a terminal, each
final caption is one line: start and end in seconds, and the text, separated by tabs.

--output also writes a caption file; the extension of its name selects the format. The file is
written again after each final caption, and is complete at all times. Ctrl-C ends the session: the
rest of the text becomes final and is written. The default source is camera 0. A file is played at
its own speed. No frame leaves this machine, and none is stored.

Exit codes: 0 done, 1 the file could not be written, 2 wrong usage, or a camera that cannot be used,
4 the file is not a video, 130 interrupted.
"""

import argparse
from collections.abc import Sequence

from signvit_jax.cli.caption_flags import (
    add_layout_flags,
    add_text_flags,
    caption_layout,
    check_text_flags,
)
from signvit_jax.cli.inference_flags import (
    DECODER_NAMES,
    add_inference_flags,
    add_model_flags,
    inference_overrides,
)
from signvit_jax.cli.jax_setup import set_up_jax
from signvit_jax.files.local_paths import local_path, local_path_string
from signvit_jax.live.terminal_captions import CaptionFile, TerminalCaptions, say
from signvit_jax.runtime.command_line import integer, parser, positive
from signvit_jax.runtime.exit_codes import DONE, NO_READABLE_MEDIA, UsageError
from signvit_jax.runtime.signals import StopRequest
from signvit_jax.runtime.standard_streams import reader_has_gone


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _arguments(argv)
    layout = caption_layout(arguments)
    if not layout.is_off and arguments.output is None:
        raise UsageError("a layout changes nothing without --output=FILE; add that")
    if arguments.output is None and (arguments.word_times or arguments.language is not None):
        flag = "--word_times" if arguments.word_times else "--language"
        raise UsageError(f"{flag} changes nothing without --output=FILE; add that")
    source = int(arguments.source) if arguments.source.isdecimal() else arguments.source
    file = None
    if arguments.output is not None:
        check_text_flags(arguments, [arguments.output.suffix[1:].lower()])
        file = CaptionFile(
            arguments.output,
            layout,
            overwrite=arguments.overwrite,
            word_times=arguments.word_times,
        )
    with StopRequest() as request:
        with request.exit_immediately_on_signal():
            set_up_jax()

            from signvit_jax.exporting.model_card import tag_of_texts
            from signvit_jax.inference.frame_sources import open_live
            from signvit_jax.inference.translator import load_translator
            from signvit_jax.live.session import updates_of
            from signvit_jax.media.video import VideoDecodeError

            open_frames = open_live(source)
            translator = load_translator(
                arguments.workdir, checkpoint=arguments.checkpoint, backend=arguments.backend
            )
            if file is not None:
                file.language = arguments.language or tag_of_texts(translator.model)
            options = inference_overrides(arguments)
            say("compiling, unless cached ...")
            translator.warm_up(arguments.decode, live=True, **options)
            session = translator.live(
                decode=arguments.decode, every=arguments.every, votes=arguments.votes, **options
            )
        say(f"reading {_named(source)}; Ctrl-C ends the session")
        dropped = 0
        code = DONE
        with TerminalCaptions() as shown:
            try:
                for update in updates_of(session, open_frames, request, reader_has_gone):
                    if file is not None:
                        file.add(update.final)
                    shown.show(update)
                    dropped = update.dropped
            except VideoDecodeError as error:
                say(f"error: {error}")
                code = NO_READABLE_MEDIA
        captions = "1 caption" if shown.num_final == 1 else f"{shown.num_final:,} captions"
        where = f" in {arguments.output}" if file is not None else ""
        say(f"{captions}{where}" + (f"; {dropped:,} frames were dropped" if dropped else ""))
        if file is not None:
            for sentence in file.faults.sentences():
                say(f"note: {sentence}")
        return code or request.exit_code


def _named(source: int | str) -> str:
    return f"camera {source}" if isinstance(source, int) else source


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    flags = parser(
        __doc__,
        "signvit live --workdir=runs/mine --output=captions.vtt\n"
        "  signvit live talk.mp4 --workdir=runs/mine | cut -f3",
    )
    flags.add_argument(
        "source",
        nargs="?",
        default="0",
        type=local_path_string,
        metavar="CAMERA|FILE",
        help="number of a camera, its device such as /dev/video0, or a video file (0)",
    )
    add_model_flags(flags)
    flags.add_argument(
        "--decode", choices=DECODER_NAMES, default="greedy", help="search for the text (greedy)"
    )
    flags.add_argument(
        "--every", type=positive("seconds"), default=0.5, help="seconds between updates (0.5)"
    )
    flags.add_argument(
        "--votes",
        type=integer(1),
        default=3,
        help="show the most frequent text of this many recent hypotheses (3)",
    )
    flags.add_argument(
        "--output", type=local_path, metavar="FILE", help="a caption file, such as captions.vtt"
    )
    flags.add_argument(
        "--overwrite", action="store_true", help="replace the file of --output if it exists"
    )
    about = "of the file of --output; without these flags a text is one line"
    add_text_flags(add_layout_flags(flags, about))
    add_inference_flags(flags)
    return flags.parse_args(argv)
