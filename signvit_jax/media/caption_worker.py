"""The child process that writes videos with captions, for `signvit_jax.media.captioned_video`.

It runs as a script (`python -P caption_worker.py`), because the video is untrusted: a codec that
crashes or hangs does no harm. The first line of stdin is a JSON `Request`; replies are JSON lines:

| line | meaning |
|---|---|
| `{"size": [width, height]}` | size in pixels of the frames that are written |
| `{"draw": number}` | draw this cue |
| `{"notes": [...]}` | the file is complete; `notes` say what it lacks |
| `{"refused": reason}` | the video cannot be used |
| `{"errno": number}` | the file cannot be written |

The parent answers `draw` with a line `{"x", "y", "width", "height"}` and RGBA bytes, straight
alpha. Only this file and `captioned_video.py` know the protocol. This file imports nothing of the
package but `video_worker.py` beside it, which opens the file as safely as for reading.
"""

import contextlib
import errno
import importlib.util
import json
import math
import os
import sys
from collections.abc import Iterator, Sequence
from fractions import Fraction
from types import ModuleType
from typing import TYPE_CHECKING, TypedDict

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.stream import Stream
from av.subtitles.codeccontext import SubtitleCodecContext
from av.video.reformatter import Colorspace
from av.video.stream import VideoStream

if TYPE_CHECKING:
    from signvit_jax.media import video_worker as reading
    from signvit_jax.media.video_worker import Limits

CLOCK = 90_000  # ticks per second in the file that is written
MILLISECOND = Fraction(1, 1000)
BT709, LIMITED_RANGE = 1, 1
# Audio and video that mp4 players know; others are left out, or refused, by name.
AUDIO = ("aac", "mp3", "ac3", "eac3", "opus", "flac", "alac", "mp2")
VIDEO = ("h264", "hevc", "av1", "vp9", "mpeg4", "mjpeg")
# The encoder of mov_text copies the style of its track from this.
TRACK_STYLE = b"""[Script Info]
ScriptType: v4.00+

[V4+ Styles]
Format: Name, Fontname, Fontsize, PrimaryColour, SecondaryColour, OutlineColour, BackColour, Bold, \
Italic, Underline, StrikeOut, ScaleX, ScaleY, Spacing, Angle, BorderStyle, Outline, Shadow, \
Alignment, MarginL, MarginR, MarginV, Encoding
Style: Default,Arial,16,&Hffffff,&Hffffff,&H0,&H0,0,0,0,0,100,100,0,0,1,1,0,2,10,10,10,0

[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
"""


class Request(TypedDict):
    """What to write."""

    path: str
    output: str
    burn_in: bool  # draw cues into the frames; False: a track of text, which players can hide
    cues: list[tuple[int, int, str]]  # start and end in milliseconds, text with line breaks
    language: str  # ISO 639-2 code of the track, such as "deu"; "und" if not known
    limits: "Limits"


class CannotWrite(Exception):
    """The output cannot be written; the argument is the error number."""


def video_worker() -> "ModuleType":
    """Load `video_worker.py`."""
    name = "video_worker"
    folder = os.path.dirname(os.path.abspath(__file__))
    spec = importlib.util.spec_from_file_location(name, os.path.join(folder, f"{name}.py"))
    assert spec is not None and spec.loader is not None  # of a file that is there
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if not TYPE_CHECKING:
    reading = video_worker()


class DrawnCue:
    """A cue as pixels, which is blended over a part of each frame."""

    def __init__(self, x: int, y: int, rgba: np.ndarray):
        self._rows = slice(y, y + rgba.shape[0])
        self._columns = slice(x, x + rgba.shape[1])
        self._alpha = rgba[..., 3:].astype(np.uint16)
        self._color = rgba[..., :3].astype(np.uint16) * self._alpha

    def blend(self, image: np.ndarray) -> np.ndarray:
        """Return a copy of the image (h, w, 3) with the cue on it."""
        image = image.copy()
        part = image[self._rows, self._columns].astype(np.uint16)
        blended = (self._color + part * (255 - self._alpha) + 127) // 255
        image[self._rows, self._columns] = blended
        return image


def send_message(message: dict[str, object]) -> None:
    """Send a line to the parent."""
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def request_cue(number: int) -> DrawnCue:
    """Request a drawn cue from the parent."""
    send_message({"draw": number})
    answer = json.loads(sys.stdin.buffer.readline())
    width, height = answer["width"], answer["height"]
    raw = sys.stdin.buffer.read(width * height * 4)
    return DrawnCue(
        answer["x"], answer["y"], np.frombuffer(raw, np.uint8).reshape(height, width, 4)
    )


class Copies:
    """Packets of some streams, which are copied as they are, in step with the frames."""

    def __init__(
        self, container: InputContainer, streams: Sequence[Stream], output: OutputContainer
    ):
        self._output = output
        self._container = container
        self._output_streams = {
            stream.index: output.add_stream_from_template(stream) for stream in streams
        }
        self._packets: Iterator[Packet] = container.demux(list(streams)) if streams else iter(())
        self._next: Packet | None = None
        self._first = (container.start_time or 0) / av.time_base

    def up_to(self, seconds: float, max_seconds: float) -> None:
        """Copy the packets that begin before `seconds`.

        Raises Refused for a packet that begins after `max_seconds`.
        """
        while True:
            packet = self._next or next(self._packets, None)
            self._next = None
            if packet is None:
                return
            if packet.dts is None or packet.time_base is None:
                continue
            base = packet.time_base
            begin = float(packet.dts * base) - self._first
            if begin >= seconds:
                self._next = packet
                return
            if begin > max_seconds:
                raise reading.Refused(f"longer than {max_seconds:g} s (max_seconds)")
            shift = round(self._first / float(base))
            packet.dts -= shift
            packet.pts = None if packet.pts is None else packet.pts - shift
            packet.stream = self._output_streams[packet.stream.index]
            mux(self._output, packet)


def mux(output: OutputContainer, packet: Packet | list[Packet]) -> None:
    """Write packets. Raises CannotWrite."""
    try:
        output.mux(packet)
    except FFmpegError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG):
            raise CannotWrite(error.errno) from error
        raise


@contextlib.contextmanager
def open_output(path: str) -> Iterator[OutputContainer]:
    """Open an mp4 file, which is complete after the context. Raises CannotWrite."""
    try:
        output = av.open(path, "w", format="mp4", options={"movflags": "faststart"})
    except OSError as error:
        raise CannotWrite(error.errno) from error
    try:
        yield output
    except BaseException:
        with contextlib.suppress(Exception):  # the first error is the reason
            output.close()
        raise
    try:
        output.close()
    except FFmpegError as error:
        raise CannotWrite(error.errno) from error


def copyable_audio(container: InputContainer, notes: list[str]) -> list[AudioStream]:
    """The audio streams that mp4 can hold; the others are noted."""
    kept = []
    for stream in container.streams.audio:
        name = stream.codec_context.name if stream.codec_context is not None else "unknown"
        if name in AUDIO:
            kept.append(stream)
        else:
            notes.append(f"its sound of codec {name} cannot be in mp4 and was left out")
    return kept


def text_packet(text: str) -> bytes:
    """A sample of a text track (3GPP TS 26.245): its length in bytes, and the text in UTF-8."""
    encoded = text.encode()[: (1 << 16) - 1]
    encoded = encoded.decode(errors="ignore").encode()  # drops a character that was cut in half
    return len(encoded).to_bytes(2, "big") + encoded


def write_track(
    request: Request, container: InputContainer, output: OutputContainer, notes: list[str]
) -> None:
    """Copy video and sound, and add the cues as a track of text."""
    video = reading.video_streams(container)[0]
    codec = video.codec_context
    name = codec.name if codec is not None else "unknown"
    if name not in VIDEO:
        raise reading.Refused(
            f"its video of codec {name} cannot be in mp4; allowed: {', '.join(VIDEO)}; "
            "--burn_in encodes it anew"
        )
    copies = Copies(container, [video, *copyable_audio(container, notes)], output)
    track = output.add_stream("mov_text")
    context = track.codec_context
    assert isinstance(context, SubtitleCodecContext)  # of this encoder
    context.subtitle_header = TRACK_STYLE
    context.time_base = track.time_base = MILLISECOND
    track.metadata["language"] = request["language"]
    output.start_encoding()
    max_seconds = request["limits"]["max_seconds"]
    for start, end, text in request["cues"]:
        copies.up_to(start / 1000, max_seconds)
        packet = Packet(text_packet(text))
        packet.stream = track
        packet.time_base = MILLISECOND
        packet.pts = packet.dts = start
        packet.duration = end - start
        mux(output, packet)
    copies.up_to(math.inf, max_seconds)


def write_frames(
    request: Request,
    container: InputContainer,
    sound: InputContainer,
    output: OutputContainer,
    notes: list[str],
) -> None:
    """Draw the cues into the frames, which are encoded as H.264; the sound is copied."""
    limits, cues = request["limits"], request["cues"]
    source = reading.video_streams(container)[0]
    if source.codec_context is None:
        raise reading.Refused("the codec of its video stream is not known")
    reading.check_pixels(source.codec_context, limits["max_pixels"])
    fps = (
        reading.believable(source.average_rate)
        or reading.believable(source.guessed_rate)
        or reading.NOMINAL_FPS
    )
    convert = reading.FrameConverter(None, limits["max_pixels"])
    stream: VideoStream | None = None
    copies: Copies | None = None
    number, drawn = 0, None
    last_pts = -1
    frames = reading.timed_frames(container, source, fps, None)
    for count, (seconds, _, frame) in enumerate(frames):
        if seconds > limits["max_seconds"]:
            raise reading.Refused(f"longer than {limits['max_seconds']:g} s (max_seconds)")
        if count == limits["max_frames"]:
            raise reading.Refused(f"more than {count} frames (max_frames)")
        image = convert(frame)
        # H.264 stores color for squares of 2 x 2 pixels.
        image = image[: image.shape[0] // 2 * 2, : image.shape[1] // 2 * 2]
        height, width = image.shape[:2]
        if not height or not width:
            raise reading.Refused(f"{width}x{height} pixels; allowed: at least 2x2")
        if stream is None or copies is None:
            send_message({"size": [width, height]})
            stream = video_stream(output, width, height, fps)
            copies = Copies(sound, copyable_audio(sound, notes), output)
        now = round(seconds * 1000)
        while number < len(cues) and cues[number][1] <= now:
            number, drawn = number + 1, None
        if number < len(cues) and cues[number][0] <= now:
            drawn = drawn or request_cue(number)
            image = drawn.blend(image)
        output_frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), "rgb24").reformat(
            format="yuv420p", dst_colorspace=Colorspace.ITU709
        )
        # Two frames at one time, as damaged files have them, would stop the encoder.
        last_pts = max(round(seconds * CLOCK), last_pts + 1)
        output_frame.pts, output_frame.time_base = last_pts, Fraction(1, CLOCK)
        copies.up_to(seconds, limits["max_seconds"])
        mux(output, stream.encode(output_frame))
    if stream is None or copies is None:
        raise reading.Refused("no frame in it could be decoded")
    mux(output, stream.encode())
    copies.up_to(math.inf, limits["max_seconds"])


def video_stream(output: OutputContainer, width: int, height: int, fps: float) -> VideoStream:
    """Add the video stream, of a quality that the eye cannot tell from the original."""
    stream = output.add_stream(
        "libx264", rate=Fraction(fps).limit_denominator(1001), options={"crf": "18"}
    )
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    context = stream.codec_context
    context.time_base = Fraction(1, CLOCK)
    context.colorspace = context.color_primaries = context.color_trc = BT709
    context.color_range = LIMITED_RANGE
    return stream


def write(request: Request) -> list[str]:
    """Write the file and return notes on it. Raises Refused, CannotWrite, FFmpegError, OSError."""
    notes: list[str] = []
    limits = request["limits"]
    with reading.open_local_file(request["path"], limits["max_bytes"]) as file:
        demuxer = reading.container_format(file.read(12))
        with (
            reading.open_container(file, demuxer, limits) as container,
            open_output(request["output"]) as output,
        ):
            if not request["burn_in"]:
                write_track(request, container, output, notes)
                return notes
            with (
                reading.open_local_file(request["path"], limits["max_bytes"]) as again,
                reading.open_container(again, demuxer, limits) as sound,
            ):
                write_frames(request, container, sound, output, notes)
    return notes


def main() -> None:
    """Answer one request."""
    request: Request = json.loads(sys.stdin.buffer.readline())
    reading.limit_resources(request["limits"])
    try:
        send_message({"notes": write(request)})
    except CannotWrite as error:
        send_message({"errno": error.args[0]})
    except Exception as error:
        send_message({"refused": reading.describe(error, request["limits"])})


if __name__ == "__main__":
    main()
