"""Record takes of your own signs or sentences with a camera, for a data set of your own.

Counts down, records a take for --seconds, and begins again until there are --takes of each text. A
take is a video, OUTPUT/<text>_<number>.mp4, and a row of OUTPUT/clips.csv, which `signvit build
video_folder` reads. Begin and end each take with your hands down. Earlier takes are never replaced:
the same command adds more. Ctrl-C ends the recording, and finished takes stay.

Of ten takes of a text the fifth is for validation, the tenth for the test, and eight are trained
on. --split puts all into one split, such as takes of another day into the test. Nothing leaves this
machine.

Exit codes: 0 done, 1 a take could not be written, 2 wrong usage, a camera or a table that cannot be
used, 130 interrupted.
"""

import argparse
import shlex
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from signvit_jax.files.local_paths import local_path, local_path_string
from signvit_jax.runtime.command_line import integer, parser, positive
from signvit_jax.runtime.exit_codes import DONE, UsageError
from signvit_jax.runtime.standard_streams import clean

if TYPE_CHECKING:
    from signvit_jax.media.cameras import Image
    from signvit_jax.media.takes import TakeFolder

SPLITS = ("train", "validation", "test")  # as in `media.takes`
_MAX_SECONDS = 600.0  # of a take; in a longer recording each text needs its start and end
_MOTION_SIZE = 64  # pixels per side of the images in which motion is measured
_MAX_RATE = 120.0  # frames per second; a data set keeps 25
_MIN_IMAGES_PER_SECOND = 8.0  # with fewer, movements are lost


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _arguments(argv)
    texts = [_one_line("text", text) for text in arguments.text]
    values = {
        name: _one_line(name, getattr(arguments, name))
        for name in ("gloss", "signer")
        if getattr(arguments, name)
    }
    if "gloss" in values and len(texts) > 1:
        raise UsageError(
            f"--gloss is {values['gloss']!r}, but there are {len(texts)} texts; record them one by "
            "one, each with its gloss"
        )
    if arguments.seconds > _MAX_SECONDS:
        raise UsageError(
            f"--seconds is {arguments.seconds:g}; allowed: at most {_MAX_SECONDS:g}. Longer "
            "recordings need the times of their texts: docs/own_videos.md"
        )
    if arguments.rate > _MAX_RATE:
        raise UsageError(f"--rate is {arguments.rate:g}; allowed: at most {_MAX_RATE:g}")
    from signvit_jax.inference.frame_sources import open_live
    from signvit_jax.media.takes import TakeFolder

    columns = (*values, "split") if arguments.split else tuple(values)
    folder = TakeFolder(arguments.output, columns)
    camera = int(arguments.camera) if arguments.camera.isdecimal() else arguments.camera
    stop = threading.Event()
    session = _Session(folder, arguments, open_live(camera)(stop))
    try:
        for text in texts:
            for number in range(1, arguments.takes + 1):
                session.record(text, number, values)
    finally:
        stop.set()
        session.report()
    print(clean(_next_steps(arguments.output), keep="\n"))
    return DONE


class _Session:
    """The takes of one call, from one camera."""

    def __init__(self, folder: "TakeFolder", flags: argparse.Namespace, images: "Iterator[Image]"):
        self._folder = folder
        self._flags = flags
        self._images = images
        self._recorded: list[Path] = []
        self._next_image()  # the camera has started when the first countdown begins

    def record(self, text: str, number: int, values: dict[str, str]) -> None:
        """Count down and record a take. Raises UsageError if the camera gives no more images."""
        title = f"take {number} of {self._flags.takes}, {text!r}"
        self._count_down(title)
        _say(f"{title}: sign now")
        path, rate, is_still = self._write(text, values)
        self._recorded.append(path)
        _say(f"{title}: done, {path.name}")
        if rate < _MIN_IMAGES_PER_SECOND:
            _say(
                f"warning: {path.name}: only {rate:.1f} images a second arrived, so fast movements "
                "are lost; more light, or a smaller image of the camera, gives more"
            )
        if is_still:
            _say(f"warning: {path.name}: nothing moves in it; is the camera covered, or turned?")

    def report(self) -> None:
        """Say where the finished takes are."""
        if not self._recorded:
            print("no take was recorded")
            return
        takes, texts = self._folder.counts()
        first, last = self._recorded[0].name, self._recorded[-1].name
        names = first if len(self._recorded) == 1 else f"{first} to {last}"
        print(
            clean(
                f"{_count(len(self._recorded), 'take')} recorded in {self._folder.folder}: "
                f"{names}\n"
                f"{self._folder.table} lists {_count(takes, 'take')} of {_count(texts, 'text')}",
                keep="\n",
            ),
            flush=True,
        )

    def _count_down(self, title: str) -> None:
        """Count down, and discard the camera's images meanwhile: a take must hold no old ones."""
        for seconds_left in range(self._flags.countdown, 0, -1):
            _say(f"{title} in {seconds_left}")
            for _ in self._until(time.monotonic() + 1.0):
                pass

    def _write(self, text: str, values: dict[str, str]) -> tuple[Path, float, bool]:
        """Record a take; return its path, images per second, and whether nothing moved in it."""
        from signvit_jax.inference.resting import block_means, is_still
        from signvit_jax.media.frames import fit_frames
        from signvit_jax.media.takes import TakeWriter, split_of

        temporary, seconds = self._folder.temporary(), self._flags.seconds
        writer = TakeWriter(temporary, self._flags.rate)
        blocks = []
        try:
            began = time.monotonic()
            for image in self._until(began + seconds):
                writer.add(image, min(time.monotonic() - began, seconds))
                blocks.append(block_means(fit_frames([image], _MOTION_SIZE, "crop")[0]))
            writer.finish(seconds)
            split = self._flags.split or split_of(self._folder.number_of_next(text))
            path = self._folder.add(text, temporary, {**values, "split": split})
        except BaseException:
            writer.abandon()
            temporary.unlink(missing_ok=True)
            raise
        return path, writer.num_images / seconds, is_still(blocks)

    def _until(self, deadline: float) -> "Iterator[Image]":
        """Yield images until `deadline`, of time.monotonic. Raises UsageError if they end first."""
        while time.monotonic() < deadline:
            yield self._next_image()

    def _next_image(self) -> "Image":
        image = next(self._images, None)
        if image is None:
            raise UsageError(
                f"{self._flags.camera} ended before all takes were recorded, and a take that had "
                "begun is not kept; a file must be as long as all takes and countdowns together"
            )
        return image


def _one_line(name: str, value: str) -> str:
    """Return a value without superfluous spaces. Raises UsageError if nothing is left."""
    line = " ".join(value.split())
    if not line:
        raise UsageError(f"--{name} is empty; allowed: what is signed, such as --text='thank you'")
    return line


def _count(number: int, name: str) -> str:
    return f"{number} {name}" if number == 1 else f"{number} {name}s"


def _say(line: str) -> None:
    print(clean(line), file=sys.stderr, flush=True)


def _next_steps(folder: Path) -> str:
    output, table = shlex.quote(str(folder)), shlex.quote(str(folder / "clips.csv"))
    return f"""
next:
  signvit record --output={output} --text='ANOTHER SIGN'
  signvit check {output}
  signvit build video_folder --data_dir=data --csv={table} --videos={output} --short_side=128
  signvit train --config=signer --workdir=runs/my_signs --config.data.data_dir=data"""


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    flags = parser(__doc__, "signvit record --output=my_signs --text='thank you' --text=please")
    flags.add_argument(
        "--output", required=True, type=local_path, metavar="FOLDER", help="folder of the takes"
    )
    flags.add_argument(
        "--text",
        required=True,
        action="append",
        help="what is signed: a sign or a sentence; given several times, one after the other; "
        "<rest> for takes in which nobody signs",
    )
    flags.add_argument("--takes", type=integer(1), default=10, help="takes of each text (10)")
    flags.add_argument(
        "--seconds", type=positive("seconds"), default=3.0, help="length of a take (3)"
    )
    flags.add_argument(
        "--countdown", type=integer(0), default=3, help="seconds before each take (3)"
    )
    flags.add_argument(
        "--camera",
        type=local_path_string,
        default="0",
        help="number of a camera, a device such as /dev/video2, or a video file, which is played "
        "(0)",
    )
    flags.add_argument(
        "--rate", type=positive("frames per second"), default=25.0, help="frames per second (25)"
    )
    flags.add_argument("--gloss", help="glosses of the text, separated by spaces")
    flags.add_argument("--signer", help="who signs")
    flags.add_argument("--split", choices=SPLITS, help="split of all takes (see above)")
    return flags.parse_args(argv)
