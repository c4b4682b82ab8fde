"""Videos with captions, drawn into the frames or as a track of text: written by a child process."""

import contextlib
import dataclasses
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from signvit_jax.files.atomic import write_atomically
from signvit_jax.media.video import VideoDecodeError, VideoLimits
from signvit_jax.media.worker_process import WorkerEnded

_WORKER = Path(__file__).with_name("caption_worker.py")


class TimedText(NamedTuple):
    """A caption: milliseconds of the video, and text with line breaks."""

    start: int
    end: int
    text: str


class DrawnCaption(NamedTuple):
    """A caption as pixels, and where its upper left corner is in the frame."""

    x: int
    y: int
    image: UInt8[np.ndarray, "h w 4"]  # RGBA, straight alpha


# Draws caption `number` for frames of (width, height).
Draw = Callable[[int, tuple[int, int]], DrawnCaption]


def write_captioned(
    video: str | os.PathLike,
    output: Path,
    captions: Sequence[TimedText],
    *,
    draw: Draw | None = None,
    language: str = "und",
    limits: VideoLimits | None = None,
) -> list[str]:
    """Write `output`, an mp4 file, atomically; return notes on what it lacks.

    With `draw` captions are drawn into the frames, which are encoded again (H.264, upright, square
    pixels). Without it the video is copied, and captions are a track of text, which players show
    when asked. Sound is copied. Captions are in order of time and do not overlap. `language` is
    that of the track, an ISO 639-2 code.

    Raises VideoDecodeError for a video that cannot be read, or not be copied, and OSError.
    """
    limits = limits or VideoLimits()
    notes: list[str] = []

    def write(path: Path) -> None:
        # The encoder uses all cores, and the processor time of each counts.
        fields = dataclasses.asdict(limits)
        fields["cpu_seconds"] = limits.wall_seconds * (os.cpu_count() or 1)
        request = {
            "path": os.path.abspath(os.fsdecode(video)),
            "output": os.path.abspath(path),
            "burn_in": draw is not None,
            "cues": captions,
            "language": language,
            "limits": fields,
        }
        notes.extend(_ask(os.fsdecode(video), request, draw, limits))

    write_atomically(output, write)
    return notes


def _ask(
    name: str, request: dict[str, object], draw: Draw | None, limits: VideoLimits
) -> list[str]:
    if "\0" in name:
        raise VideoDecodeError(name, "a file name cannot contain a NUL character")
    process = subprocess.Popen(
        [sys.executable, "-P", os.fspath(_WORKER)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        return _Conversation(process, name, draw, limits).run(request)
    except (WorkerEnded, BrokenPipeError) as ended:
        code = ended.returncode if isinstance(ended, WorkerEnded) else process.wait()
        reason = WorkerEnded(code).reason(limits.cpu_seconds, limits.wall_seconds)
        raise VideoDecodeError(name, reason) from None
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None  # opened as PIPE
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


class _Conversation:
    """The exchange with a child about one file."""

    def __init__(
        self, process: subprocess.Popen, name: str, draw: Draw | None, limits: VideoLimits
    ):
        stdin, stdout = process.stdin, process.stdout
        assert stdin is not None and stdout is not None  # opened as PIPE
        self._requests, self._replies = stdin, stdout.fileno()
        self._process = process
        self._name = name
        self._draw = draw
        self._seconds_left = limits.wall_seconds
        self._read = b""

    def run(self, request: dict[str, object]) -> list[str]:
        self._requests.write(json.dumps(request).encode() + b"\n")
        self._requests.flush()
        size = (0, 0)
        while True:
            reply = json.loads(self._line())
            if "refused" in reply:
                raise VideoDecodeError(self._name, str(reply["refused"]))
            if "errno" in reply:
                number = int(reply["errno"])
                raise OSError(number, os.strerror(number))
            if "notes" in reply:
                return [str(note) for note in reply["notes"]]
            if "size" in reply:
                size = (int(reply["size"][0]), int(reply["size"][1]))
            elif self._draw is not None:
                self._send(self._draw(int(reply["draw"]), size))

    def _send(self, drawn: DrawnCaption) -> None:
        height, width = drawn.image.shape[:2]
        head = {"x": drawn.x, "y": drawn.y, "width": width, "height": height}
        self._requests.write(json.dumps(head).encode() + b"\n" + drawn.image.tobytes())
        self._requests.flush()

    def _line(self) -> bytes:
        """The next line of the child. Raises WorkerEnded."""
        while b"\n" not in self._read:
            begin = time.monotonic()
            ready = select.select([self._replies], [], [], max(self._seconds_left, 0.0))[0]
            self._seconds_left -= time.monotonic() - begin
            if not ready:
                raise WorkerEnded(None)
            part = os.read(self._replies, 1 << 16)
            if not part:
                raise WorkerEnded(self._process.wait())
            self._read += part
        line, _, self._read = self._read.partition(b"\n")
        return line
