"""Translate ten packaged clips with the packaged model, and compare with what was signed.

The model is an INT8 export of a run of `--config=small`. It was trained on drawn signs, and knows
nothing else: it cannot read real signing. Nothing is downloaded and nothing is written, except
with --gif.

Exit codes: 0 done, 1 the GIF could not be written, 2 wrong usage.
"""

import argparse
import shlex
import sys
import time
from collections.abc import Sequence

from signvit_jax.cli.jax_setup import set_up_jax
from signvit_jax.demo.packaged import MODEL, demo_clips
from signvit_jax.files.local_paths import local_path
from signvit_jax.runtime.command_line import parser
from signvit_jax.runtime.exit_codes import DONE, FAILED
from signvit_jax.runtime.standard_streams import clean

DECODERS = ("greedy", "beam", "ctc")  # those of `eval` by default; the others need options
_CLIPS_IN_GIF = 3
_NEXT = """
next:
  signvit translate --workdir={model} VIDEO
  signvit build video_folder --help      make a data set of your own videos
  signvit train --config=small --workdir=runs/mine --config.data.name=video_folder
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Translate the clips; return the exit code."""
    arguments = _arguments(argv)
    if arguments.path:
        print(MODEL)
        return DONE
    begin = time.perf_counter()
    print("a model of drawn signs; it cannot read real signing", flush=True)
    set_up_jax()

    from signvit_jax.inference.translator import load_translator

    clips = demo_clips()
    translator = load_translator(MODEL)
    print("loaded; the first clip also compiles", flush=True)
    texts = []
    for number, clip in enumerate(clips, 1):
        translation = translator.translate(clip.video, decode=arguments.decode)
        texts.append(translation.text)
        if number == 1:
            print(f"first clip after {time.perf_counter() - begin:.1f} s\n", flush=True)
        mark = "right" if translation.text == clip.text else "wrong"
        print(clean(f"{clip.video.name}  {mark}, confidence {translation.confidence:.2f}"))
        print(
            clean(f"  signed:     {clip.text}\n  translated: {translation.text}", keep="\n"),
            flush=True,
        )
    right = sum(text == clip.text for text, clip in zip(texts, clips))
    print(
        f"\n{right} of {len(clips)} right, by {arguments.decode}, in "
        f"{time.perf_counter() - begin:.1f} s"
    )
    if arguments.gif:
        from signvit_jax.demo.subtitled_gif import write_gif

        shown = zip([clip.video for clip in clips[:_CLIPS_IN_GIF]], texts)
        try:
            write_gif(arguments.gif, list(shown))
        except OSError as error:
            print(f"error: {arguments.gif}: {error.strerror}", file=sys.stderr)
            return FAILED
        print(clean(f"GIF: {arguments.gif}"))
    print(_NEXT.format(model=shlex.quote(str(MODEL))), end="")
    return DONE


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    flags = parser(__doc__, "signvit demo --gif=demo.gif")
    flags.add_argument(
        "--decode", choices=DECODERS, default="beam", help="search for the text (beam)"
    )
    flags.add_argument(
        "--gif",
        type=local_path,
        help=f"also write the first {_CLIPS_IN_GIF} clips, with their translations, as a GIF",
    )
    flags.add_argument(
        "--path", action="store_true", help="only print the model's folder, an export"
    )
    return flags.parse_args(argv)
