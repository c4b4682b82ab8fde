"""Check that the video reader reads short videos, which the check itself writes."""

import dataclasses
import tempfile
from fractions import Fraction
from pathlib import Path

from signvit_jax.doctor.findings import Finding, Request

_RATE = 25  # frames per second
_SECONDS = 3
FRAMES = _RATE * _SECONDS  # of each video
_HEIGHT, _WIDTH = 48, 64
# Kind of video -> file, encoder and pixel format.
_KINDS = {
    "h264": ("clip.mp4", "libx264", "yuv420p"),
    "vp9": ("clip.webm", "libvpx-vp9", "yuv420p"),
    "gif": ("clip.gif", "gif", "rgb8"),
}


@dataclasses.dataclass(frozen=True)
class CodecFacts:
    """The result of reading one video of each kind.

    `read`: kind -> number of frames read, of the FRAMES in the file. `errors`: kind -> why its
    video could not be read. `not_written`: kinds that this FFmpeg cannot write, so that reading
    could not be tried. `version`: of PyAV.
    """

    read: dict[str, int]
    errors: dict[str, str]
    not_written: tuple[str, ...]
    version: str


def probe_codecs(request: Request) -> CodecFacts:
    """Write videos, and read them as `translate` and `build` do: in a process with limits."""
    del request  # every check gets one; this check needs nothing of it
    import av
    from av.error import FFmpegError

    from signvit_jax.media.video import Sampling, VideoDecodeError, VideoLimits, VideoReader

    read: dict[str, int] = {}
    errors: dict[str, str] = {}
    not_written = []
    with tempfile.TemporaryDirectory(prefix="signvit-doctor-") as folder, VideoReader() as reader:
        for kind, (name, encoder, pixel_format) in _KINDS.items():
            path = Path(folder) / name
            try:
                _draw(path, encoder, pixel_format)
            except (FFmpegError, ValueError) as error:
                del error  # this FFmpeg has no such encoder, which reading does not need
                not_written.append(kind)
                continue
            try:
                frames = reader.iterate(path, Sampling(), VideoLimits(wall_seconds=10))
                read[kind] = sum(1 for _ in frames)  # count them without keeping them
            except VideoDecodeError as error:
                errors[kind] = error.reason
    return CodecFacts(read, errors, tuple(not_written), av.__version__)


def _draw(path: Path, encoder: str, pixel_format: str) -> None:
    """Write a video of a bar that moves over a background that grows brighter."""
    import av
    import numpy as np

    with av.open(str(path), "w") as container:
        stream = container.add_stream(encoder, rate=_RATE)
        assert isinstance(stream, av.VideoStream)  # all of _KINDS are encoders of video
        stream.width, stream.height, stream.pix_fmt = _WIDTH, _HEIGHT, pixel_format
        for number in range(FRAMES):
            image = np.full((_HEIGHT, _WIDTH, 3), 20 + 2 * number, np.uint8)
            image[:, number % _WIDTH] = 255
            frame = av.VideoFrame.from_ndarray(image, "rgb24")
            frame.pts, frame.time_base = number, Fraction(1, _RATE)
            container.mux(stream.encode(frame.reformat(format=pixel_format)))
        container.mux(stream.encode())  # the frames that the encoder still holds


def check_codecs(facts: CodecFacts) -> Finding:
    """Return "bad" if a video is not read completely, "note" if one could not be tried."""
    incomplete = {
        kind: f"{count} of {FRAMES} frames" for kind, count in facts.read.items() if count != FRAMES
    }
    if problems := incomplete | facts.errors:
        listed = "; ".join(f"{kind}: {text}" for kind, text in problems.items())
        return Finding(
            "codecs",
            "bad",
            f"drawn videos are not read as they were written (PyAV {facts.version}): {listed}",
            "pip install --force-reinstall -c constraints.txt av; PyAV must come from a wheel, "
            "which brings FFmpeg",
        )
    found = f"PyAV {facts.version} reads {', '.join(facts.read) or 'nothing that was tried'}"
    if facts.not_written:
        return Finding(
            "codecs",
            "note",
            f"{found}; not tried, because it cannot write them: {', '.join(facts.not_written)}",
            "nothing, if your videos are read: signvit check DATA",
        )
    return Finding("codecs", "ok", f"{found}: every frame of {_SECONDS} seconds each")
