"""The child process that decodes untrusted media; `signvit_jax.media.video` starts it, talks to it and outlives it.

Run as a script (`python -P video_worker.py`), never imported by the parent, so that a codec can crash or run away without harm.
One JSON request a line on stdin; replies on stdout, each `REPLY` (kind, seconds, payload length) and the payload:

| kind | payload |
|---|---|
| `S` | JSON: height and width in pixels of every frame that follows, and how many a second: the rate asked for, else the source's nominal one |
| `F` | one frame, RGB bytes or a JPEG; its `seconds` are the frame's time in the source |
| `E` | JSON: frames a second of the frames sent, and `notes`, what a user should know of the file; the request is done |
| `X` | the reason, UTF-8, why the file was refused; the request is done |

Only this file and `video.py` know the protocol. It must not import anything of the package: it starts in a tenth of a second.
"""

import array
import errno
import io
import itertools
import json
import math
import os
import resource
import stat
import struct
import sys
from collections.abc import Callable, Iterator
from typing import Any

import av
import numpy as np
from av.video.reformatter import Colorspace, Interpolation, VideoReformatter

REPLY = struct.Struct("<cdQ")
# The demuxer is chosen by the file's first bytes and then forced: no probing, hence no playlist, no concat script, no subtitle file.
MP4, MATROSKA, AVI, GIF = "mp4", "matroska", "avi", "gif"
MP4_ATOMS = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")
NOMINAL_FPS = 25.0  # where the header names no believable rate
BELIEVABLE_FPS = (0.1, 1000.0)
MISSING_TOLERATED = 0.1  # share that may be damaged, and share that may be missing at the end; two frames always may
VARIABLE_RATE = 1.1  # a stretch this much denser than the average is more than rounding and jitter
VARIABLE_RATE_GAPS = 1.02  # where some frames stay far longer than most, as jitter never does
LONG_GAP = 1.5  # times the median gap
STRETCH = 8  # gaps between frames over which the rate is measured: one late frame changes little
MOST_PACKETS = 5_000_000  # whose times are looked at: half a week of video
LONG_RECORDING = 20_000  # frames; beyond, the index has to do: its times lag by a frame or two
# What `E` may note. Documented for users in docs/data.md; worded in tfds_builders/base.py.
NOTE_VARIABLE_RATE, NOTE_END_CUT, NOTE_SIZE_CHANGE, NOTE_STREAMS = (
    "variable_rate",
    "end_cut",
    "size_change",
    "several_streams",
)
NO_VIDEO = ("attached_pic", "timed_thumbnails", "still_image")  # dispositions of video streams
COLORSPACES = {
    1: Colorspace.ITU709,
    4: Colorspace.FCC,
    5: Colorspace.ITU601,
    6: Colorspace.ITU601,
    7: Colorspace.SMPTE240M,
    9: Colorspace.BT2020,
}


class Refused(Exception):
    """The file cannot be used; the message is the reason."""


def container_format(head: bytes) -> str:
    """The demuxer for a file that begins with `head` (12 bytes). Raises Refused for anything that is not on the list."""
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
            "not a video: the attributes that a Mac keeps beside a file; the video has the name without '._'"
        )
    raise Refused(
        "the file is empty"
        if not head
        else "not a video: the content is none of mp4/mov, webm/mkv, avi, gif"
    )


def open_local_file(path: str, max_bytes: int) -> Any:
    """Opens a regular file as a Python file object: no name is ever parsed by FFmpeg, and a pipe or device cannot block."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    file = os.fdopen(descriptor, "rb", buffering=0)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise Refused("not a regular file")
    if status.st_size > max_bytes:
        raise Refused(f"{status.st_size} bytes; allowed: at most {max_bytes} (max_bytes)")
    return file


def believable(rate: Any) -> float | None:
    return float(rate) if rate and BELIEVABLE_FPS[0] <= rate <= BELIEVABLE_FPS[1] else None


def video_streams(container: Any) -> list[Any]:
    """Those that move, first the one that a player shows: the default one, else the first.

    Raises Refused where there is none.
    """
    streams = [
        s
        for s in container.streams.video
        if not any(av.stream.Disposition[name] & s.disposition for name in NO_VIDEO)
    ]
    if not streams:
        if not container.streams.video:
            raise Refused("there is no video stream in it")
        raise Refused(
            "there is no video in it, only a still image, such as the cover of a sound recording"
        )
    return sorted(streams, key=lambda s: not s.disposition & av.stream.Disposition.default)


def missing_index(file: Any) -> str | None:
    """The reason, where an mp4 or mov cannot be opened because its index is missing or cut."""
    file.seek(0, os.SEEK_END)
    size, position = file.tell(), 0
    for _ in range(10_000):  # top-level atoms: a handful, or two per fragment
        file.seek(position)
        head = file.read(16)
        if len(head) < 8:
            break
        length, kind = struct.unpack(">I4s", head[:8])
        length = (
            struct.unpack(">Q", head[8:])[0]
            if length == 1 and len(head) == 16
            else length or size - position
        )
        if length < 8:
            return None
        if kind == b"moov" and position + length <= size:
            return None
        position += length
    return (
        "cannot be decoded: its index (the moov atom) is missing, so the recording or the copy was broken off; "
        "copy it again, or repair it with a tool such as untrunc"
    )


def packet_seconds(container: Any, stream: Any, start: float, end: float) -> list[float]:
    """Rising times in seconds of the stream's packets from `start` to `end`; none is decoded."""
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
                if times[-1] > end + 1.0 or len(times) == MOST_PACKETS:
                    break
        except av.error.FFmpegError:
            pass  # damage is the decoder's to judge
    return sorted(seconds for seconds in times if start <= seconds < end)


def variable_rate(times: list[float], average: float, apart: float) -> float | None:
    """Frames a second where they come fastest; None where the rate is as good as constant.

    Measured over `STRETCH` gaps or, of few frames, half of them. Packets that are nearer than `apart`
    seconds count as one frame: some codecs store hidden ones.
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
    return (
        densest
        if densest > (VARIABLE_RATE_GAPS if has_long_gaps else VARIABLE_RATE) * average
        else None
    )


def timed_frames(
    container: Any, stream: Any, fps: float, start: float | None
) -> Iterator[tuple[float, float, Any]]:
    """(seconds since the video's beginning, seconds shown, frame), times never falling, from the last key frame before `start` on."""
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
        except av.error.InvalidDataError:
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
            f"damaged: {damaged_packets} packets beside {decoded_frames} frames cannot be decoded"
        )


def resample(
    frames: Iterator[tuple[float, float, Any]], rate: float, start: float | None, end: float
) -> Iterator[tuple[float, Any]]:
    """`rate` frames a second, chosen by time: output k was on screen at origin + (k + 1/4) / rate; origin is `start` or the first frame's time.

    The quarter keeps a constant-rate video as it is when its time stamps are rounded to milliseconds, as in Matroska.
    """
    origin, shown, until, k = start, None, 0.0, 0
    for seconds, duration, frame in frames:
        origin = seconds if origin is None else origin
        while shown is not None and origin + (k + 0.25) / rate < min(seconds, end):
            yield origin + k / rate, shown
            k += 1
        if seconds >= end:
            until = end
            break
        shown, until = frame, seconds + duration
    until = min(until, end)
    while shown is not None and until > origin and (k == 0 or origin + (k + 0.25) / rate < until):
        yield origin + k / rate, shown
        k += 1


def as_stored(
    frames: Iterator[tuple[float, float, Any]], start: float | None, end: float
) -> Iterator[tuple[float, Any]]:
    """Every frame that is on screen at or after `start` and before `end`."""
    for seconds, duration, frame in frames:
        if seconds >= end:
            return
        if start is None or seconds + duration > start + 1e-6:
            yield seconds, frame


class Picture:
    """Turns decoded frames into upright RGB images (h, w, 3) of one size, that of the first frame.

    A later frame of another shape keeps its own, between black bars.
    """

    def __init__(self, short_side: int | None, max_pixels: int):
        self.short_side = short_side
        self.max_pixels = max_pixels
        self.size: tuple[int, int] | None = None  # (width, height) before turning upright
        self.first_shape: tuple | None = None
        self.changes_size = False
        self.last: tuple[Any, np.ndarray] | None = None
        self.reformatter = (
            VideoReformatter()
        )  # keeps its scaling tables from frame to frame, which `frame.reformat` does not

    def __call__(self, frame: Any) -> np.ndarray:
        if self.last is not None and self.last[0] is frame:
            return self.last[1]
        if frame.width * frame.height > self.max_pixels:
            raise Refused(
                f"{frame.width}x{frame.height} pixels; allowed: at most {self.max_pixels} in all (max_pixels)"
            )
        if self.size is None:
            self.size = self._output_size(frame)
        picture = np.ascontiguousarray(upright(self._rgb(frame), display_matrix(frame)))
        self.last = (frame, picture)
        return picture

    def _output_size(self, frame: Any) -> tuple[int, int]:
        """Square pixels, short side at most `short_side`, never enlarged by it."""
        width, height = square_size(frame)
        shrink = min(1.0, self.short_side / min(width, height)) if self.short_side else 1.0
        return max(1, round(width * shrink)), max(1, round(height * shrink))

    def _fitted_size(self, frame: Any) -> tuple[int, int]:
        """The size within `self.size` that keeps the shape; `self.size` where that is rounding."""
        width, height = square_size(frame)
        scale = min(self.size[0] / width, self.size[1] / height)
        fitted = max(1, round(width * scale)), max(1, round(height * scale))
        return self.size if all(abs(a - b) <= 1 for a, b in zip(fitted, self.size)) else fitted

    def _rgb(self, frame: Any) -> np.ndarray:
        shape = (frame.width, frame.height, getattr(frame, "sample_aspect_ratio", None))
        self.first_shape = shape if self.first_shape is None else self.first_shape
        if shape == self.first_shape:
            return self._scaled(frame, self.size)
        self.changes_size = True
        fitted = self._fitted_size(frame)
        target = self._scaled(frame, fitted)
        if fitted == self.size:
            return target
        bars = np.zeros((self.size[1], self.size[0], 3), np.uint8)
        left, top = (self.size[0] - fitted[0]) // 2, (self.size[1] - fitted[1]) // 2
        bars[top : top + fitted[1], left : left + fitted[0]] = target
        return bars

    def _scaled(self, frame: Any, size: tuple[int, int]) -> np.ndarray:
        width, height = size
        transparent = any(component.is_alpha for component in frame.format.components)
        # Without a tag, high definition means BT.709 and the rest BT.601, as video players take it.
        guess = (
            Colorspace.ITU709 if frame.height > 576 or frame.width >= 1280 else Colorspace.ITU601
        )
        target = self.reformatter.reformat(
            frame,
            width=width,
            height=height,
            format="rgba" if transparent else "rgb24",
            src_colorspace=COLORSPACES.get(int(frame.colorspace), guess),
            interpolation=Interpolation.AREA if width < frame.width else Interpolation.BICUBIC,
            threads=1,
        ).to_ndarray()
        if not transparent:
            return target
        alpha = target[..., 3:].astype(np.uint16)
        return ((target[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(
            np.uint8
        )  # on white, as a browser shows it


def square_size(frame: Any) -> tuple[float, float]:
    """Width and height in square pixels; a pixel shape beyond 4:1 is not believed."""
    aspect = float(getattr(frame, "sample_aspect_ratio", None) or 1)
    return frame.width * (aspect if 0.25 <= aspect <= 4 else 1.0), float(frame.height)


def display_matrix(frame: Any) -> tuple[int, int, int, int]:
    """(a, b, c, d) with x' = a x + c y and y' = b x + d y, as far as signs go: how the picture is to be turned or mirrored for display."""
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return 1, 0, 0, 1
    a, b, _, c, d = np.frombuffer(bytes(data)[:20], "<i4").tolist()
    return a, b, c, d


def upright(picture: np.ndarray, matrix: tuple[int, int, int, int]) -> np.ndarray:
    a, b, c, d = matrix
    if max(abs(a), abs(d)) < max(abs(b), abs(c)):
        picture, a, d = picture.transpose(1, 0, 2), c, b
    return picture[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


def announced_seconds(container: Any, stream: Any) -> float | None:
    """How long the header says that the pictures last, where it says so of the pictures alone."""
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    alone = all(other.type == "video" for other in container.streams)
    return (
        container.duration / av.time_base
        if container.duration and container.duration > 0 and alone
        else None
    )


def decode(request: dict[str, Any], send: Callable[[bytes, float, Any], None]) -> None:
    limits, start, end = request["limits"], request["start"], request["end"]
    with open_local_file(request["path"], limits["max_bytes"]) as file:
        form = container_format(file.read(12))
        with open_container(file, form, limits) as container:
            stream, *others = video_streams(container)
            codec = stream.codec_context
            if codec is None:
                raise Refused("the codec of its video stream is not known")
            if codec.width * codec.height > limits["max_pixels"]:
                raise Refused(
                    f"{codec.width}x{codec.height} pixels; allowed: at most {limits['max_pixels']} in all (max_pixels)"
                )
            codec.thread_count = 1  # several files are decoded at a time, each on its own core
            announced = announced_seconds(container, stream)
            if (
                announced
                and (min(announced, end or math.inf) - (start or 0.0)) > limits["max_seconds"]
            ):
                raise Refused(
                    f"{announced:.1f} s long; allowed: at most {limits['max_seconds']:g} s (max_seconds)"
                )
            source_fps = (
                believable(stream.average_rate) or believable(stream.guessed_rate) or NOMINAL_FPS
            )
            notes = [NOTE_STREAMS] if others else []
            if request["frame_rate"] is None and source_fps < (request["max_frame_rate"] or 0.0):
                densest = rate_of_motion(request, form, stream.index, source_fps)
                if densest is not None:
                    source_fps = densest
                    notes.append(NOTE_VARIABLE_RATE)
            send_frames(request, container, stream, source_fps, announced, notes, send)


def open_container(file: Any, form: str, limits: dict[str, Any]) -> Any:
    file.seek(0)
    try:
        return av.open(
            file,
            format=form,
            options={"max_pixels": str(limits["max_pixels"])},
            container_options={"protocol_whitelist": "file"},
        )
    except av.error.InvalidDataError:
        if form == MP4 and (reason := missing_index(file)):
            raise Refused(reason) from None
        raise


def rate_of_motion(request: dict[str, Any], form: str, index: int, average: float) -> float | None:
    """`variable_rate` between `start` and `end`; its own container, so that none is moved on."""
    with (
        open_local_file(request["path"], request["limits"]["max_bytes"]) as file,
        open_container(file, form, request["limits"]) as container,
    ):
        end = math.inf if request["end"] is None else request["end"]
        times = packet_seconds(container, container.streams[index], request["start"] or 0.0, end)
    return variable_rate(times, average, apart=0.25 / request["max_frame_rate"])


def send_frames(
    request: dict[str, Any],
    container: Any,
    stream: Any,
    source_fps: float,
    announced: float | None,
    notes: list[str],
    send: Callable,
) -> None:
    limits, start = request["limits"], request["start"]
    end = math.inf if request["end"] is None else request["end"]
    rate = request["frame_rate"]
    if request["max_frame_rate"] is not None:
        rate = min(rate or source_fps, request["max_frame_rate"])
    reached = 0.0

    def observed() -> Iterator[tuple[float, float, Any]]:
        nonlocal reached
        for seconds, duration, frame in timed_frames(container, stream, source_fps, start):
            reached = seconds + duration
            if min(seconds, end) - (start or 0.0) > limits["max_seconds"]:
                raise Refused(f"longer than {limits['max_seconds']:g} s (max_seconds)")
            yield seconds, duration, frame

    picture = Picture(request["short_side"], limits["max_pixels"])
    count, first, last = 0, 0.0, 0.0
    for seconds, frame in (
        resample(observed(), rate, start, end) if rate else as_stored(observed(), start, end)
    ):
        if count == limits["max_frames"]:
            raise Refused(f"more than {count} frames (max_frames)")
        rgb = picture(frame)
        if count == 0:
            first = seconds
            send(
                b"S",
                seconds,
                json.dumps(
                    {"height": rgb.shape[0], "width": rgb.shape[1], "fps": rate or source_fps}
                ).encode(),
            )
        send(
            b"F",
            seconds,
            jpeg(rgb, request["jpeg_quality"]) if request["jpeg_quality"] else rgb.data,
        )
        count, last = count + 1, seconds
    if count == 0:
        raise Refused(
            f"nothing to show from {start:g} s on: its pictures end at {reached:.2f} s"
            if start
            else "no frame in it could be decoded"
        )
    two_frames = 2 / source_fps + 1e-6
    wanted = min(announced or 0.0, end)
    if wanted - reached > max(MISSING_TOLERATED * wanted, two_frames):
        raise Refused(f"cut or damaged: the pictures stop after {reached:.2f} of {wanted:.2f} s")
    beyond = end - reached if request["end"] is not None else 0.0
    if beyond > max(MISSING_TOLERATED * (end - (start or 0.0)), two_frames):
        raise Refused(
            f"the clip is to end at {end:.2f} s, but the video ends at {reached:.2f} s: {beyond:.2f} s are missing; "
            "allowed: a tenth of the clip, or two frames"
        )
    notes += [NOTE_END_CUT] * (beyond > 0.5 / source_fps) + [
        NOTE_SIZE_CHANGE
    ] * picture.changes_size
    measured = (count - 1) / (last - first) if last > first else source_fps
    send(b"E", last, json.dumps({"fps": rate or measured, "notes": notes}).encode())


def jpeg(picture: np.ndarray, quality: int) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def limit_resources(limits: dict[str, Any]) -> None:
    """Memory for good, processor time for this request: past it the kernel ends the process with SIGXCPU."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(
        resource.RLIMIT_CPU,
        (math.ceil(used.ru_utime + used.ru_stime + limits["cpu_seconds"]), hard),
    )
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(
        resource.RLIMIT_AS,
        (
            limits["max_memory"]
            if hard == resource.RLIM_INFINITY
            else min(hard, limits["max_memory"]),
            hard,
        ),
    )
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


def reason_of(error: Exception, limits: dict[str, Any]) -> str:
    if isinstance(error, Refused):
        return str(error)
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return f"decoding needs more than {limits['max_memory']} bytes of memory (max_memory)"
    if isinstance(
        error, av.error.ArgumentError
    ):  # what a codec answers to a picture size that it is not to open
        return f"cannot be decoded: a damaged header, or a picture of more than {limits['max_pixels']} pixels (max_pixels)"
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return f"cannot be decoded: {text}" if isinstance(error, av.error.FFmpegError) else text


def main() -> None:
    replies = os.dup(1)
    os.dup2(2, 1)  # whatever a codec prints must not land between the replies

    def send(kind: bytes, seconds: float, payload: Any) -> None:
        for part in (
            REPLY.pack(
                kind, seconds, len(payload) if isinstance(payload, bytes) else payload.nbytes
            ),
            payload,
        ):
            rest = memoryview(part).cast("B")
            while rest:
                rest = rest[os.write(replies, rest) :]

    for line in sys.stdin.buffer:
        request = json.loads(line)
        limit_resources(request["limits"])
        try:
            decode(request, send)
        except BrokenPipeError:
            return  # the parent is gone
        except Exception as error:
            send(b"X", 0.0, reason_of(error, request["limits"]).encode("utf-8", "replace"))


if __name__ == "__main__":
    main()
