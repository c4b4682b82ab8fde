"""The child process that decodes untrusted media for `signvit_jax.media.video`.

It runs as a script (`python -P video_worker.py`) and the parent never imports it, so a codec that
crashes or hangs does no harm. Each line of stdin is a JSON request. Replies on stdout are `REPLY`
(kind, seconds, payload length) and the payload:

| kind | payload |
|---|---|
| `S` | JSON: height and width of every frame, and `fps`: the requested rate, else the nominal one |
| `K` | float32 (33, 3): the pose in the next frame, if asked for; `seconds`: what it took |
| `F` | one frame, RGB bytes or a JPEG; `seconds` is its time in the source |
| `E` | JSON: `fps` of the frames sent, and `notes` on the file; the request is done |
| `H` | JSON: the header, for a request with `parts`; the request is done |
| `X` | UTF-8: the reason why the file was refused; the request is done |

A request with `jpegs`, a list of lengths, is for a file of JPEGs one after another. The replies are
one `K` for each JPEG, and `E`; with an empty list, `E` or `X` tells whether the models can be
loaded. A request with `image`, a JPEG in base64, is answered with `S`, one `F` and `E`.

Only this file, `video.py` and `worker_process.py` know the protocol. This file imports nothing of
the package, so that it starts in a tenth of a second. It loads `pose_model.py` beside it only for
requests for poses.
"""

import array
import base64
import errno
import functools
import importlib.util
import io
import itertools
import json
import math
import os
import resource
import stat
import struct
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NotRequired, TypedDict

import av
import numpy as np
from av.container import InputContainer
from av.error import ArgumentError, FFmpegError, InvalidDataError
from av.stream import Disposition
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.reformatter import Colorspace, Interpolation, VideoReformatter
from av.video.stream import VideoStream

if TYPE_CHECKING:
    from av.rational import AVRational

    from signvit_jax.media.pose_model import PoseModel

REPLY = struct.Struct("<cdQ")
# The first bytes of the file choose the demuxer, which is then forced. Without probing, FFmpeg
# opens no playlist, no concat script and no subtitle file.
MP4, MATROSKA, AVI, GIF = "mp4", "matroska", "avi", "gif"
MP4_ATOMS = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")
NOMINAL_FPS = 25.0  # where the header has no believable rate
BELIEVABLE_FPS = (0.1, 1000.0)
# Share of a file that may be damaged, and share that may be missing at its end. In both cases two
# frames are always tolerated.
MISSING_TOLERATED = 0.1
VARIABLE_RATE = 1.1  # a stretch this much denser than the average is more than rounding and jitter
VARIABLE_RATE_GAPS = 1.02  # the same where a few gaps are long, which jitter never causes
LONG_GAP = 1.5  # times the median gap
STRETCH = 8  # gaps over which the rate is measured, so that one late frame changes little
MAX_PACKETS = 5_000_000  # packets whose times are read: half a week of video
# Frames of a recording for which reading all packets takes too long. The index is used instead,
# although its times can be late by a frame or two.
LONG_RECORDING = 20_000
# The values of `notes`. docs/data.md documents them; their sentences are in
# tfds_builders/media_notes.py.
NOTE_VARIABLE_RATE = "variable_rate"
NOTE_END_CUT = "end_cut"
NOTE_SIZE_CHANGE = "size_change"
NOTE_STREAMS = "several_streams"
# Dispositions of video streams that are not video.
NO_VIDEO = ("attached_pic", "timed_thumbnails", "still_image")
COLORSPACES = {
    1: Colorspace.ITU709,
    4: Colorspace.FCC,
    5: Colorspace.ITU601,
    6: Colorspace.ITU601,
    7: Colorspace.SMPTE240M,
    9: Colorspace.BT2020,
}


type TimedFrame = tuple[float, float, VideoFrame]  # seconds since the beginning, duration, frame
type Send = Callable[[bytes, float, bytes | memoryview], None]  # kind, seconds, payload


class Limits(TypedDict):
    """The fields of `video.VideoLimits` that concern the child."""

    max_bytes: int
    max_seconds: float
    max_frames: int
    max_pixels: int
    max_memory: int
    cpu_seconds: float


class Request(TypedDict):
    """A file to decode: the fields of `video.Sampling`, and what else the parent asks for."""

    path: str
    short_side: int | None
    frame_rate: float | None
    max_frame_rate: float | None
    start: float | None
    end: float | None
    jpeg_quality: int  # 0: send RGB
    limits: Limits
    pose_models: str | None  # their folder; None: send no poses
    # In place of decoding: which of these parts (start, end) cannot be read, by the header alone.
    parts: NotRequired[list[tuple[float | None, float | None]]]
    # In place of decoding a video: the poses in the JPEGs of a file, by their lengths in bytes.
    jpegs: NotRequired[list[int]]
    # In place of a file: one JPEG, in base64, of which only `limits` and `short_side` are used.
    image: NotRequired[str]


class Refused(Exception):
    """The file cannot be used; the message is the reason."""


def container_format(head: bytes) -> str:
    """Return the demuxer for a file that begins with `head` (12 bytes). Raises Refused."""
    if head[4:8] in MP4_ATOMS:
        return MP4
    if head[:4] == b"\x1a\x45\xdf\xa3":
        return MATROSKA
    if head[:4] == b"RIFF" and head[8:12] in (b"AVI ", b"AVIX"):
        return AVI
    if head[:6] in (b"GIF87a", b"GIF89a"):
        return GIF
    if head[:4] == b"\x00\x05\x16\x07":
        raise Refused(
            "not a video: macOS keeps attributes of another file in it; "
            "the video has the name without '._'"
        )
    if not head:
        raise Refused("the file is empty")
    raise Refused("not a video: the content is none of mp4/mov, webm/mkv, avi, gif")


def open_local_file(path: str, max_bytes: int) -> io.FileIO:
    """Open a regular file as a Python file object. Raises OSError and Refused.

    So FFmpeg never parses a name, and a pipe or device cannot block.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    file = os.fdopen(descriptor, "rb", buffering=0)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise Refused("not a regular file")
    if status.st_size > max_bytes:
        raise Refused(f"{status.st_size} bytes; allowed: at most {max_bytes} (max_bytes)")
    return file


def believable(rate: "AVRational | None") -> float | None:
    """Return the rate as a number, or None if it is missing or out of range."""
    return float(rate) if rate and BELIEVABLE_FPS[0] <= rate <= BELIEVABLE_FPS[1] else None


def video_streams(container: InputContainer) -> list[VideoStream]:
    """Return the moving streams, first the one that players show: the default or the first one.

    Raises Refused if there is none.
    """
    streams = [
        s
        for s in container.streams.video
        if not any(Disposition[name] & s.disposition for name in NO_VIDEO)
    ]
    if not streams:
        if not container.streams.video:
            raise Refused("there is no video stream in it")
        raise Refused(
            "there is no video in it, only a still image, such as the cover of a sound recording"
        )
    return sorted(streams, key=lambda s: not s.disposition & Disposition.default)


def missing_index(file: io.FileIO) -> str | None:
    """Return the reason if an mp4 or mov cannot be opened because its index is incomplete."""
    file.seek(0, os.SEEK_END)
    size, position = file.tell(), 0
    for _ in range(10_000):  # top-level atoms: a handful, or two per fragment
        file.seek(position)
        head = file.read(16)
        if len(head) < 8:
            break
        length, kind = struct.unpack(">I4s", head[:8])
        if length == 1 and len(head) == 16:
            length = struct.unpack(">Q", head[8:])[0]
        elif length == 0:  # to the end of the file
            length = size - position
        if length < 8:
            return None
        if kind == b"moov" and position + length <= size:
            return None
        position += length
    return (
        "cannot be decoded: its index (the moov atom) is missing, so the recording or the copy was "
        "interrupted; copy it again, or repair it with a tool such as untrunc"
    )


def packet_seconds(
    container: InputContainer, stream: VideoStream, start: float, end: float
) -> list[float]:
    """Return the increasing times of the packets from `start` to `end`; none is decoded."""
    time_base = float(stream.time_base or 0)
    first = container.start_time / av.time_base if container.start_time is not None else 0.0
    times = array.array("d")
    entries = stream.index_entries
    if stream.frames > LONG_RECORDING and len(entries) == stream.frames:  # mp4, avi: every frame
        times.extend(entry.timestamp * time_base - first for entry in entries)
    else:
        try:
            if start:
                container.seek(max(0, int((start + first) * av.time_base)), backward=True)
            for packet in container.demux(stream):
                stamp = packet.dts if packet.pts is None else packet.pts
                if stamp is None:
                    continue
                times.append(stamp * time_base - first)
                if times[-1] > end + 1.0 or len(times) == MAX_PACKETS:
                    break
        except FFmpegError:
            pass  # the decoder reports damage
    return sorted(seconds for seconds in times if start <= seconds < end)


def variable_rate(times: list[float], average: float, apart: float) -> float | None:
    """Return the rate of the densest stretch in frames per second, or None if it is constant.

    It is measured over `STRETCH` gaps, or half of all gaps if there are few. Packets closer than
    `apart` seconds count as one frame: some codecs store hidden frames.
    """
    kept: list[float] = []
    for seconds in times:
        if not kept or seconds - kept[-1] >= apart:
            kept.append(seconds)
    gaps = sorted(late - early for early, late in itertools.pairwise(kept))
    if not gaps:
        return None
    stretch = min(STRETCH, max(1, len(gaps) // 2))
    densest = stretch / min(late - early for early, late in zip(kept, kept[stretch:]))
    has_long_gaps = gaps[-1] > LONG_GAP * gaps[len(gaps) // 2]
    threshold = (VARIABLE_RATE_GAPS if has_long_gaps else VARIABLE_RATE) * average
    return densest if densest > threshold else None


def timed_frames(
    container: InputContainer, stream: VideoStream, fps: float, start: float | None
) -> Iterator[TimedFrame]:
    """Yield the frames from the key frame before `start` on.

    The times never decrease. Raises Refused if too much is damaged.
    """
    time_base = float(stream.time_base or 0) or 1 / fps
    first = container.start_time / av.time_base if container.start_time is not None else 0.0
    if start:
        container.seek(max(0, int((start + first) * av.time_base)), backward=True)
    previous, clock = -math.inf, start or 0.0
    packets, decoded_frames, damaged_packets = container.demux(stream), 0, 0
    while True:
        try:
            packet = next(packets, None)
            if packet is None:
                break
            decoded = packet.decode()
        except InvalidDataError:
            damaged_packets += 1
            continue
        for frame in decoded:
            seconds = frame.pts * time_base - first if frame.pts is not None else clock
            seconds = max(previous, seconds)
            duration = frame.duration * time_base if frame.duration else 1 / fps
            yield seconds, duration, frame
            previous, clock = seconds, seconds + duration
            decoded_frames += 1
    if damaged_packets > max(MISSING_TOLERATED * decoded_frames, 2):
        raise Refused(
            f"damaged: {damaged_packets} packets cannot be decoded, {decoded_frames} frames can"
        )


def resample(
    frames: Iterator[TimedFrame], rate: float, start: float | None, end: float
) -> Iterator[tuple[float, VideoFrame]]:
    """Yield `rate` frames per second: frame k is the one on screen at origin + (k + 1/4) / rate.

    The origin is `start` or the time of the first frame. The quarter keeps a constant-rate video
    unchanged when its time stamps are rounded to milliseconds, as in Matroska. A video with any
    frame after the origin gives at least one.
    """
    origin, k = start, 0
    on_screen, until = None, 0.0  # the newest frame, and the time at which it disappears
    for seconds, duration, frame in frames:
        if origin is None:
            origin = seconds
        while on_screen is not None and origin + (k + 0.25) / rate < min(seconds, end):
            yield origin + k / rate, on_screen
            k += 1
        if seconds >= end:
            until = end
            break
        on_screen, until = frame, seconds + duration
    until = min(until, end)
    if origin is None or on_screen is None or until <= origin:  # there is no frame
        return
    while k == 0 or origin + (k + 0.25) / rate < until:
        yield origin + k / rate, on_screen
        k += 1


def as_stored(
    frames: Iterator[TimedFrame], start: float | None, end: float
) -> Iterator[tuple[float, VideoFrame]]:
    """Yield every frame that is on screen at or after `start` and before `end`."""
    for seconds, duration, frame in frames:
        if seconds >= end:
            return
        if start is None or seconds + duration > start + 1e-6:
            yield seconds, frame


class FrameConverter:
    """Decoded frames to upright RGB images (h, w, 3) of one size, that of the first frame.

    A later frame of another shape keeps its shape, between black bars.
    """

    def __init__(self, short_side: int | None, max_pixels: int):
        self.short_side = short_side
        self.max_pixels = max_pixels
        self.size: tuple[int, int] | None = None  # (width, height) before turning upright
        self.first_shape: tuple | None = None
        self.changes_size = False
        self.last: tuple[VideoFrame, np.ndarray] | None = None
        # Unlike `frame.reformat`, it keeps its scaling tables from frame to frame.
        self.reformatter = VideoReformatter()

    def __call__(self, frame: VideoFrame) -> np.ndarray:
        if self.last is not None and self.last[0] is frame:
            return self.last[1]
        check_pixels(frame, self.max_pixels)
        if self.size is None:
            self.size = self._output_size(frame)
        image = np.ascontiguousarray(upright(self._rgb(frame, self.size), display_matrix(frame)))
        self.last = (frame, image)
        return image

    def _output_size(self, frame: VideoFrame) -> tuple[int, int]:
        """The size in square pixels, with the shorter side reduced to `short_side`."""
        width, height = square_size(frame)
        shrink = min(1.0, self.short_side / min(width, height)) if self.short_side else 1.0
        return max(1, round(width * shrink)), max(1, round(height * shrink))

    def _fitted_size(self, frame: VideoFrame, size: tuple[int, int]) -> tuple[int, int]:
        """The largest size of the frame's shape within `size`; `size` if they differ by a pixel."""
        width, height = square_size(frame)
        scale = min(size[0] / width, size[1] / height)
        fitted = max(1, round(width * scale)), max(1, round(height * scale))
        return size if all(abs(a - b) <= 1 for a, b in zip(fitted, size)) else fitted

    def _rgb(self, frame: VideoFrame, size: tuple[int, int]) -> np.ndarray:
        shape = (frame.width, frame.height, getattr(frame, "sample_aspect_ratio", None))
        self.first_shape = shape if self.first_shape is None else self.first_shape
        if shape == self.first_shape:
            return self._scaled(frame, size)
        self.changes_size = True
        width, height = fitted = self._fitted_size(frame, size)
        image = self._scaled(frame, fitted)
        if fitted == size:
            return image
        canvas = np.zeros((size[1], size[0], 3), np.uint8)
        left, top = (size[0] - width) // 2, (size[1] - height) // 2
        canvas[top : top + height, left : left + width] = image
        return canvas

    def _scaled(self, frame: VideoFrame, size: tuple[int, int]) -> np.ndarray:
        width, height = size
        transparent = any(component.is_alpha for component in frame.format.components)
        # Without a tag, high definition means BT.709 and the rest BT.601, as in video players.
        is_hd = frame.height > 576 or frame.width >= 1280
        guess = Colorspace.ITU709 if is_hd else Colorspace.ITU601
        image = self.reformatter.reformat(
            frame,
            width=width,
            height=height,
            format="rgba" if transparent else "rgb24",
            src_colorspace=COLORSPACES.get(int(frame.colorspace), guess),
            interpolation=Interpolation.AREA if width < frame.width else Interpolation.BICUBIC,
            threads=1,
        ).to_ndarray()
        if not transparent:
            return image
        # On white, as in a browser.
        alpha = image[..., 3:].astype(np.uint16)
        return ((image[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def square_size(frame: VideoFrame) -> tuple[float, float]:
    """Return width and height in square pixels; a pixel shape beyond 4:1 is ignored."""
    aspect = float(getattr(frame, "sample_aspect_ratio", None) or 1)
    return frame.width * (aspect if 0.25 <= aspect <= 4 else 1.0), float(frame.height)


def display_matrix(frame: VideoFrame) -> tuple[int, int, int, int]:
    """Return (a, b, c, d): x' = a x + c y and y' = b x + d y turn or mirror the frame for display.

    Only signs and relative sizes are meaningful.
    """
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return 1, 0, 0, 1
    a, b, _, c, d = np.frombuffer(bytes(data)[:20], "<i4").tolist()
    return a, b, c, d


def upright(image: np.ndarray, matrix: tuple[int, int, int, int]) -> np.ndarray:
    """Return the image turned and mirrored by a display matrix."""
    a, b, c, d = matrix
    if max(abs(a), abs(d)) < max(abs(b), abs(c)):
        image = image.transpose(1, 0, 2)
        a, d = c, b
    return image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


def announced_seconds(container: InputContainer, stream: VideoStream) -> float | None:
    """Return the duration of the video stream by the header; None if the header lacks it."""
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    only_video = all(other.type == "video" for other in container.streams)
    if container.duration and container.duration > 0 and only_video:
        return container.duration / av.time_base
    return None


def check_pixels(frame: VideoFrame | VideoCodecContext, max_pixels: int) -> None:
    """Raise Refused for a frame, or a codec of frames, with too many pixels."""
    if frame.width * frame.height > max_pixels:
        raise Refused(
            f"{frame.width}x{frame.height} pixels; "
            f"allowed: at most {max_pixels} in all (max_pixels)"
        )


def length_fault(
    announced: float | None, start: float | None, end: float, max_seconds: float
) -> str | None:
    """Return why a file of `announced` seconds is too long to be read from `start` to `end`."""
    if min(announced or 0.0, end) - (start or 0.0) <= max_seconds:
        return None
    return f"{announced:.1f} s long; allowed: at most {max_seconds:g} s (max_seconds)"


def truncation_fault(announced: float | None, end: float, reached: float, fps: float) -> str | None:
    """Return why frames up to `reached` are too few for the header's length, or None."""
    expected = min(announced or 0.0, end)
    if expected - reached <= max(MISSING_TOLERATED * expected, 2 / fps + 1e-6):
        return None
    return f"truncated or damaged: its frames end at {reached:.2f} of {expected:.2f} s"


def end_fault(start: float | None, end: float | None, reached: float, fps: float) -> str | None:
    """Return why frames up to `reached` are too few for the times of a clip, or None."""
    if end is None:
        return None
    missing = end - reached
    if missing <= max(MISSING_TOLERATED * (end - (start or 0.0)), 2 / fps + 1e-6):
        return None
    return (
        f"the clip should end at {end:.2f} s, but the video ends at {reached:.2f} s: "
        f"{missing:.2f} s are missing; allowed: a tenth of the clip, or two frames"
    )


def part_fault(
    part: tuple[float | None, float | None],
    announced: float | None,
    fps: float,
    limits: Limits,
) -> str | None:
    """Return why, by the header alone, the part (start, end) of a file cannot be read, or None."""
    start, end = part
    fault = length_fault(announced, start, math.inf if end is None else end, limits["max_seconds"])
    if fault is not None or announced is None:
        return fault
    if start and start >= announced:
        return no_frame(start, announced)
    return end_fault(start, end, announced, fps)


def no_frame(start: float | None, reached: float) -> str:
    """The reason for a clip without a frame."""
    if start:
        return f"no frame from {start:g} s on: its frames end at {reached:.2f} s"
    return "no frame in it could be decoded"


def decode(request: Request, send: Send) -> None:
    """Answer a request with its `S`, `F` and `E` replies, or with `H`."""
    limits = request["limits"]
    with open_local_file(request["path"], limits["max_bytes"]) as file:
        demuxer = container_format(file.read(12))
        with open_container(file, demuxer, limits) as container:
            stream, *others = video_streams(container)
            codec = stream.codec_context
            if codec is None:
                raise Refused("the codec of its video stream is not known")
            check_pixels(codec, limits["max_pixels"])
            codec.thread_count = 1  # several files are decoded at once, each on its own core
            announced = announced_seconds(container, stream)
            source_fps = (
                believable(stream.average_rate) or believable(stream.guessed_rate) or NOMINAL_FPS
            )
            if "parts" in request:
                parts = request["parts"]
                faults = [part_fault(part, announced, source_fps, limits) for part in parts]
                header = {"seconds": announced, "fps": source_fps, "faults": faults}
                send(b"H", 0.0, json.dumps(header).encode())
                return
            start, end = request["start"], request["end"]
            fault = length_fault(announced, start, end or math.inf, limits["max_seconds"])
            if fault is not None:
                raise Refused(fault)
            notes = [NOTE_STREAMS] if others else []
            highest = request["max_frame_rate"] or 0.0
            if request["frame_rate"] is None and source_fps < highest:
                densest = densest_rate(request, demuxer, stream.index, source_fps, highest)
                if densest is not None:
                    source_fps = densest
                    notes.append(NOTE_VARIABLE_RATE)
            send_frames(request, container, stream, source_fps, announced, notes, send)


def open_container(file: io.FileIO, demuxer: str, limits: Limits) -> InputContainer:
    """Open a file with a demuxer. Raises FFmpegError, and Refused without an index."""
    file.seek(0)
    try:
        return av.open(
            file,
            mode="r",
            format=demuxer,
            options={"max_pixels": str(limits["max_pixels"])},
            container_options={"protocol_whitelist": "file"},
        )
    except InvalidDataError:
        if demuxer == MP4 and (reason := missing_index(file)):
            raise Refused(reason) from None
        raise


def densest_rate(
    request: Request, demuxer: str, index: int, average: float, highest: float
) -> float | None:
    """Return `variable_rate` between `start` and `end`.

    Opens the file a second time, so that the position of the first container does not change.
    """
    with (
        open_local_file(request["path"], request["limits"]["max_bytes"]) as file,
        open_container(file, demuxer, request["limits"]) as container,
    ):
        end = math.inf if request["end"] is None else request["end"]
        stream = container.streams[index]
        assert isinstance(stream, VideoStream)  # as in the container that gave the index
        times = packet_seconds(container, stream, request["start"] or 0.0, end)
    return variable_rate(times, average, apart=0.25 / highest)


def send_frames(
    request: Request,
    container: InputContainer,
    stream: VideoStream,
    source_fps: float,
    announced: float | None,
    notes: list[str],
    send: Send,
) -> None:
    """Send the frames between `start` and `end`, and the end. Raises Refused."""
    limits, start = request["limits"], request["start"]
    end = math.inf if request["end"] is None else request["end"]
    rate = request["frame_rate"]
    if request["max_frame_rate"] is not None:
        rate = min(rate or source_fps, request["max_frame_rate"])
    reached = 0.0

    def observed() -> Iterator[TimedFrame]:
        nonlocal reached
        for seconds, duration, frame in timed_frames(container, stream, source_fps, start):
            reached = seconds + duration
            if min(seconds, end) - (start or 0.0) > limits["max_seconds"]:
                raise Refused(f"longer than {limits['max_seconds']:g} s (max_seconds)")
            yield seconds, duration, frame

    convert = FrameConverter(request["short_side"], limits["max_pixels"])
    poses = PoseSender(request["pose_models"], send) if request["pose_models"] else None
    sample = resample(observed(), rate, start, end) if rate else as_stored(observed(), start, end)
    quality = request["jpeg_quality"]
    count, first, last = 0, 0.0, 0.0
    for seconds, frame in sample:
        if count == limits["max_frames"]:
            raise Refused(f"more than {count} frames (max_frames)")
        rgb = convert(frame)
        if count == 0:
            first = seconds
            header = {"height": rgb.shape[0], "width": rgb.shape[1], "fps": rate or source_fps}
            send(b"S", seconds, json.dumps(header).encode())
        if poses is not None:
            poses(rgb)
        send(b"F", seconds, jpeg(rgb, quality) if quality else rgb.data)
        count += 1
        last = seconds
    if count == 0:
        raise Refused(no_frame(start, reached))
    fault = truncation_fault(announced, end, reached, source_fps) or end_fault(
        start, request["end"], reached, source_fps
    )
    if fault is not None:
        raise Refused(fault)
    if request["end"] is not None and end - reached > 0.5 / source_fps:
        notes.append(NOTE_END_CUT)
    if convert.changes_size:
        notes.append(NOTE_SIZE_CHANGE)
    measured = (count - 1) / (last - first) if last > first else source_fps
    send(b"E", last, json.dumps({"fps": rate or measured, "notes": notes}).encode())


class PoseSender:
    """Sender of the pose in each frame of a clip.

    The processor time for it is granted in addition to `cpu_seconds`, which are for decoding.
    """

    def __init__(self, models: str, send: Send):
        """`models`: their folder. Raises Refused."""
        self._model = pose_model(models)
        self._model.start_clip()
        self._send = send
        self._soft_limit, self._hard_limit = resource.getrlimit(resource.RLIMIT_CPU)
        self._spent = 0.0
        self._last: tuple[np.ndarray, bytes] | None = None

    def __call__(self, image: np.ndarray) -> None:
        # A frame that is on screen for longer is repeated: it is the same array.
        if self._last is not None and self._last[0] is image:
            self._send(b"K", 0.0, self._last[1])
            return
        begin, used = time.monotonic(), time.process_time()
        points = self._model.points(image).tobytes()
        self._spent += time.process_time() - used
        limit = self._soft_limit + math.ceil(self._spent)
        if self._hard_limit != resource.RLIM_INFINITY:
            limit = min(limit, self._hard_limit)
        resource.setrlimit(resource.RLIMIT_CPU, (limit, self._hard_limit))
        self._last = image, points
        self._send(b"K", time.monotonic() - begin, points)


@functools.cache
def pose_model(folder: str) -> "PoseModel":
    """Load `pose_model.py` and the models in `folder`. Raises Refused."""
    name = "pose_model"
    spec = importlib.util.spec_from_file_location(
        name, os.path.join(os.path.dirname(os.path.abspath(__file__)), f"{name}.py")
    )
    assert spec is not None and spec.loader is not None  # of a file that is there
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    try:
        return module.PoseModel(folder)
    except module.PoseModelError as error:
        raise Refused(str(error)) from None


def send_poses(request: Request, lengths: list[int], send: Send) -> None:
    """Send the poses in JPEGs, and the end."""
    from PIL import Image

    assert request["pose_models"] is not None  # `find_poses` gives the folder
    poses = PoseSender(request["pose_models"], send)
    max_pixels = request["limits"]["max_pixels"]
    with open_local_file(request["path"], request["limits"]["max_bytes"]) as file:
        for length in lengths:
            with Image.open(io.BytesIO(file.read(length)), formats=("JPEG",)) as image:
                if image.width * image.height > max_pixels:
                    raise Refused(f"{image.width}x{image.height} pixels; allowed: {max_pixels}")
                rgb = np.asarray(image.convert("RGB"))
            poses(rgb)
    send(b"E", 0.0, json.dumps({"fps": 0.0, "notes": []}).encode())


def send_image(request: Request, image: str, send: Send) -> None:
    """Send a JPEG as one frame, halved while its shorter side stays `short_side` at least.

    Raises Refused.
    """
    from PIL import Image, UnidentifiedImageError

    max_pixels, short_side = request["limits"]["max_pixels"], request["short_side"]
    content = base64.b64decode(image)
    if len(content) > request["limits"]["max_bytes"]:
        raise Refused(
            f"{len(content)} bytes; allowed: at most {request['limits']['max_bytes']} (max_bytes)"
        )
    try:
        with Image.open(io.BytesIO(content), formats=("JPEG",)) as opened:
            if opened.width * opened.height > max_pixels:
                raise Refused(
                    f"{opened.width}x{opened.height} pixels; "
                    f"allowed: at most {max_pixels} in all (max_pixels)"
                )
            if short_side:  # the decoder halves the size as often as it can, before it allocates
                opened.draft("RGB", (short_side, short_side))
            rgb = np.asarray(opened.convert("RGB"))
    except UnidentifiedImageError:
        raise Refused("not a JPEG") from None
    except (OSError, ValueError, SyntaxError) as error:
        raise Refused(f"a damaged JPEG: {error}") from None
    header = {"height": rgb.shape[0], "width": rgb.shape[1], "fps": 0.0}
    send(b"S", 0.0, json.dumps(header).encode())
    send(b"F", 0.0, np.ascontiguousarray(rgb).data)
    send(b"E", 0.0, json.dumps({"fps": 0.0, "notes": []}).encode())


def jpeg(image: np.ndarray, quality: int) -> bytes:
    """Encode an RGB image (h, w, 3)."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def limit_resources(limits: Limits) -> None:
    """Limit memory, and processor time for this request; the kernel sends SIGXCPU after it."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    seconds = math.ceil(used.ru_utime + used.ru_stime + limits["cpu_seconds"])
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, hard))
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    memory = limits["max_memory"]
    if hard != resource.RLIM_INFINITY:
        memory = min(hard, memory)
    resource.setrlimit(resource.RLIMIT_AS, (memory, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


def describe(error: Exception, limits: Limits) -> str:
    """Return the reason that `X` gives for an exception."""
    if isinstance(error, Refused):
        return str(error)
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return f"decoding needs more than {limits['max_memory']} bytes of memory (max_memory)"
    # Codecs raise this for a frame size that they are not allowed to open.
    if isinstance(error, ArgumentError):
        return (
            "cannot be decoded: a damaged header, "
            f"or a frame of more than {limits['max_pixels']} pixels (max_pixels)"
        )
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return f"cannot be decoded: {text}" if isinstance(error, FFmpegError) else text


def main() -> None:
    """Answer requests until stdin ends or the parent is gone."""
    replies = os.dup(1)
    os.dup2(2, 1)  # output of a codec must not get between the replies

    def send(kind: bytes, seconds: float, payload: bytes | memoryview) -> None:
        length = len(payload) if isinstance(payload, bytes) else payload.nbytes
        for part in (REPLY.pack(kind, seconds, length), payload):
            rest = memoryview(part).cast("B")
            while rest:
                rest = rest[os.write(replies, rest) :]

    for line in sys.stdin.buffer:
        request = json.loads(line)
        limit_resources(request["limits"])
        try:
            if "image" in request:
                send_image(request, request["image"], send)
            elif "jpegs" in request:
                send_poses(request, request["jpegs"], send)
            else:
                decode(request, send)
        except BrokenPipeError:
            return  # the parent is gone
        except Exception as error:
            reason = describe(error, request["limits"])
            send(b"X", 0.0, reason.encode("utf-8", "replace"))


if __name__ == "__main__":
    main()
