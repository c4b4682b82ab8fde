"""The one video reader: untrusted local files in, RGB frames (or JPEGs) out, decoded in a child process with limits.

A codec that crashes, hangs or eats memory takes the child with it, not the caller: every failure is a `VideoDecodeError` that names the file and the
reason, and the next file is read by a fresh child. The child is kept between files (starting one takes a fifth of a second).

What is read: mp4/mov, webm/mkv, avi and gif, known by their content and not by their name; regular files only; never a playlist or a network address.
Colors follow the file's matrix and range (untagged: BT.709 from 1280 wide or above 576 lines on, else BT.601), tags for rotation and mirroring are
applied, pixels made square, transparency put on white. Where the size changes within a stream,
later frames are scaled into the first size, between black bars where the shape differs. Of several
video streams the one marked as default is read. Times are the file's own: a variable frame rate is
resampled by time stamps. A file of which more than a tenth (and two frames) is damaged, or missing
before its end or the `end` asked for, is an error; where it is less, what could be decoded is
returned.
"""

import contextlib
import dataclasses
import itertools
import json
import math
import os
import select
import signal
import struct
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from signvit_jax.errors.base import SignVitError

EXTENSIONS = (".mp4", ".webm", ".mov", ".avi", ".mkv", ".gif", ".m4v", ".3gp", ".3g2", ".qt")
APPLE_DOUBLE = "._"  # begins the names of files in which a Mac keeps attributes of others; no media

_REPLY = struct.Struct("<cdQ")  # kind, seconds, payload length: see video_worker.py
_PIPE_BYTES = 1 << 20
_WORKER = Path(__file__).with_name("video_worker.py")


class VideoDecodeError(SignVitError):
    """A video that cannot be read: `path` and `reason`."""

    def __init__(self, path: str | os.PathLike, reason: str):
        super().__init__(path, reason)  # both as args, so that it survives pickling
        self.path = os.fspath(path)
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@dataclasses.dataclass(frozen=True)
class VideoLimits:
    """What one file may cost. The defaults suit clips and sentences; a long recording wants larger ones."""

    max_bytes: int = 8 << 30  # of the file
    max_pixels: int = 1 << 25  # of a frame: a little above 8K
    max_seconds: float = 3600.0  # of video between `start` and `end`
    max_frames: int = 200_000  # sent
    max_output_bytes: int = 4 << 30  # of frames held at once by `read_video` and `read_jpegs`
    max_memory: int = 3 << 30  # address space of the child, bytes
    cpu_seconds: float = 300.0
    wall_seconds: float = 300.0  # spent waiting for the child


@dataclasses.dataclass(frozen=True)
class Video:
    frames: UInt8[np.ndarray, "t h w 3"]  # RGB, upright
    fps: float  # frames a second of `frames`


@dataclasses.dataclass(frozen=True)
class JpegVideo:
    frames: list[bytes]  # one JPEG per frame
    fps: float
    height: int
    width: int
    # "variable_rate": at the rate of its densest stretch; "end_cut": a little shorter than asked
    # for; "size_change": some frames were scaled into the size of the first; "several_streams"
    notes: tuple[str, ...] = ()


class VideoStream(NamedTuple):
    fps: float  # frames a second: the rate asked for; where the frames come as stored, what the header says
    frames: Iterator[tuple[float, UInt8[np.ndarray, "h w 3"]]]  # seconds in the file, picture


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Which frames of a file, and how large. Times in seconds from the beginning of the file, rates in frames a second."""

    short_side: int | None = None  # shrinks (never enlarges) the shorter side to this many pixels
    frame_rate: float | None = (
        None  # resample by time stamps to this rate; None: the frames as stored
    )
    # Resample by time stamps to the file's own rate, or to this one if that is lower. Where the
    # rate varies, the file's own is that of its densest stretch: frames of slow stretches are
    # repeated, so that frame k is always k / rate seconds after the first and no movement is lost.
    max_frame_rate: float | None = None
    start: float | None = None
    end: float | None = None

    def __post_init__(self):
        for name, value, least in (
            ("short_side", self.short_side, 1),
            ("start", self.start, 0),
            ("end", self.end, 0),
        ):
            if value is not None and not (math.isfinite(value) and value >= least):
                raise ValueError(f"{name} is {value}; allowed: None or a number >= {least}")
        for name, value in (
            ("frame_rate", self.frame_rate),
            ("max_frame_rate", self.max_frame_rate),
        ):
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} is {value}; allowed: None or a number > 0")
        if self.end is not None and self.end <= (self.start or 0.0):
            raise ValueError(
                f"end is {self.end} s, start {self.start or 0.0} s; allowed: an end after the start"
            )


def read_video(
    path: str | os.PathLike,
    *,
    short_side: int | None = None,
    frame_rate: float | None = None,
    max_frame_rate: float | None = None,
    start: float | None = None,
    end: float | None = None,
    limits: VideoLimits | None = None,
) -> Video:
    """All frames between `start` and `end`; the arguments are those of `Sampling`. Raises VideoDecodeError."""
    sampling = Sampling(short_side, frame_rate, max_frame_rate, start, end)
    reader, limits = _thread_reader(), limits or VideoLimits()
    frames, held = [], 0
    for _, frame in reader.iterate(path, sampling, limits):
        held = _count(path, held, frame.nbytes, limits)
        frames.append(frame)
    return Video(np.stack(frames), reader.fps)


def iterate_frames(
    path: str | os.PathLike,
    *,
    short_side: int | None = None,
    frame_rate: float | None = None,
    max_frame_rate: float | None = None,
    start: float | None = None,
    end: float | None = None,
    limits: VideoLimits | None = None,
) -> Iterator[tuple[float, UInt8[np.ndarray, "h w 3"]]]:
    """(seconds in the file, frame) one by one, a few frames in memory at a time. Raises VideoDecodeError, also after the first frames."""
    with open_video(path, Sampling(short_side, frame_rate, max_frame_rate, start, end), limits) as (
        _,
        frames,
    ):
        yield from frames


@contextlib.contextmanager
def open_video(
    path: str | os.PathLike, sampling: Sampling, limits: VideoLimits | None = None
) -> Iterator[VideoStream]:
    """A file whose frames come one by one, a few in memory at a time, however long it is. Raises VideoDecodeError, also between frames."""
    with contextlib.ExitStack() as stack:
        reader = _thread_reader()
        if reader.busy:  # the caller is in the middle of another file
            reader = stack.enter_context(VideoReader())
        frames = reader.iterate(path, sampling, limits or VideoLimits())
        stack.callback(frames.close)
        first = next(frames)
        yield VideoStream(reader.fps, itertools.chain([first], frames))


def read_jpegs(
    path: str | os.PathLike,
    sampling: Sampling,
    *,
    quality: int = 90,
    limits: VideoLimits | None = None,
) -> JpegVideo:
    """The frames as JPEGs, encoded in the child. `quality` from 1 to 95 as PIL means it. Raises VideoDecodeError."""
    reader, limits = _thread_reader(), limits or VideoLimits()
    frames, held = [], 0
    for _, frame in reader.iterate(path, sampling, limits, jpeg_quality=quality):
        held = _count(path, held, len(frame), limits)
        frames.append(frame)
    return JpegVideo(frames, reader.fps, *reader.size, reader.notes)


def _count(path: str | os.PathLike, held: int, more: int, limits: VideoLimits) -> int:
    if held + more > limits.max_output_bytes:
        raise VideoDecodeError(
            path,
            f"its frames take more than {limits.max_output_bytes} bytes (max_output_bytes); give short_side, frame_rate or start and end",
        )
    return held + more


class VideoReader:
    """Owns one decoding child, started when first needed and again after it died. For one thread at a time."""

    def __init__(self):
        self.fps = 0.0  # of the frames sent: at first the nominal rate, measured once a file has been read to its end
        self.busy = False  # in the middle of a file
        self.size = (0, 0)  # height and width of the last file's frames
        self.notes: tuple[str, ...] = ()  # of the last file read to its end; see `JpegVideo`
        self._child: _Child | None = None

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        if self._child is not None:
            self._child.end()
            self._child = None

    @property
    def pid(self) -> int | None:
        """Process id of the child, if one is running."""
        return self._child.process.pid if self._child is not None else None

    def iterate(
        self,
        path: str | os.PathLike,
        sampling: Sampling,
        limits: VideoLimits,
        jpeg_quality: int = 0,
    ) -> Iterator[tuple[float, np.ndarray | bytes]]:
        """(seconds, frame u8 (h, w, 3)) or, with a `jpeg_quality`, (seconds, JPEG). Raises VideoDecodeError."""
        name = os.fsdecode(path)
        if "\0" in name:
            raise VideoDecodeError(name, "a file name cannot contain a NUL character")
        request = dataclasses.asdict(sampling) | {
            "path": os.path.abspath(name),
            "jpeg_quality": jpeg_quality,
            "limits": dataclasses.asdict(limits),
        }
        if self._child is None or not self._child.usable():
            self.close()
            self._child = _Child()
        child, finished = self._child, False
        self.busy = True
        try:
            child.waited = 0.0
            child.ask(request)
            while True:
                kind, seconds, payload = child.reply(limits.wall_seconds)
                if kind == b"F":
                    yield (
                        seconds,
                        payload.tobytes() if jpeg_quality else payload.reshape(*self.size, 3),
                    )
                elif kind == b"S":
                    header = json.loads(payload.tobytes())
                    self.size, self.fps = (header["height"], header["width"]), header["fps"]
                elif kind == b"E":
                    trailer = json.loads(payload.tobytes())
                    self.fps, self.notes, finished = trailer["fps"], tuple(trailer["notes"]), True
                    return
                else:
                    finished = True
                    raise VideoDecodeError(name, payload.tobytes().decode())
        except _ChildEnded as ended:
            raise VideoDecodeError(name, ended.reason(limits)) from None
        finally:
            self.busy = False
            if not finished:  # crashed, timed out, or the caller had enough: what the child still sends belongs to this file
                self.close()


class _ChildEnded(Exception):
    """The child died (`returncode`), or was killed because `wall_seconds` had passed (None)."""

    def __init__(self, returncode: int | None):
        self.returncode = returncode

    def reason(self, limits: VideoLimits) -> str:
        if self.returncode is None:
            return f"decoding took longer than {limits.wall_seconds:g} s (wall_seconds)"
        if self.returncode == -signal.SIGXCPU:
            return (
                f"decoding took more than {limits.cpu_seconds:g} s of processor time (cpu_seconds)"
            )
        if self.returncode < 0:
            return f"the decoder crashed ({signal.Signals(-self.returncode).name})"
        return f"the decoder ended with exit code {self.returncode}; `python {_WORKER} < /dev/null` shows why"


class _Child:
    """The running worker and its two pipes."""

    def __init__(self):
        # -P: the folder of the script stays off sys.path; a session of its own: Ctrl-C reaches the parent alone, which then ends the child.
        self.process = subprocess.Popen(
            [sys.executable, "-P", os.fspath(_WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,
        )
        self.owner = os.getpid()
        self.waited = 0.0
        self.replies = self.process.stdout.fileno()
        os.set_blocking(self.replies, False)
        self.end = weakref.finalize(self, _end, self.process, self.owner)
        try:
            import fcntl

            fcntl.fcntl(self.replies, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        except (ImportError, AttributeError, OSError):
            pass  # a smaller pipe is slower and no more

    def usable(self) -> bool:
        """Not after a fork: two processes cannot share one pipe."""
        return self.owner == os.getpid() and self.process.poll() is None

    def ask(self, request: dict) -> None:
        try:
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
        except BrokenPipeError:
            raise _ChildEnded(self.process.wait()) from None

    def reply(self, wall_seconds: float) -> tuple[bytes, float, np.ndarray]:
        kind, seconds, length = _REPLY.unpack(self._read(_REPLY.size, wall_seconds))
        return kind, seconds, self._read(length, wall_seconds)

    def _read(self, length: int, wall_seconds: float) -> np.ndarray:
        buffer = np.empty(length, np.uint8)  # a bytearray would be filled with zeros first
        rest = memoryview(buffer)
        while rest:
            try:
                got = os.readv(self.replies, [rest])
            except BlockingIOError:
                self._wait(wall_seconds)
                continue
            if got == 0:
                raise _ChildEnded(self.process.wait())
            rest = rest[got:]
        return buffer

    def _wait(self, wall_seconds: float) -> None:
        """Until something can be read. Only waiting counts: a caller may take its time between frames."""
        began = time.monotonic()
        ready = select.select([self.replies], [], [], max(0.0, wall_seconds - self.waited))[0]
        self.waited += time.monotonic() - began
        if not ready:
            raise _ChildEnded(None)


def _end(process: subprocess.Popen, owner: int) -> None:
    if os.getpid() == owner:
        process.kill()
        process.wait()
    for pipe in (process.stdin, process.stdout):
        pipe.close()


_readers = threading.local()


def _thread_reader() -> VideoReader:
    if not hasattr(_readers, "reader"):
        _readers.reader = VideoReader()  # its child ends with the thread, or with this process
    return _readers.reader
