"""The video reader: untrusted local files in, RGB frames or JPEGs out.

Files are decoded in a child process with limits. A codec that crashes, hangs or takes too much
memory ends the child, not the caller: every failure is a `VideoDecodeError` with the file and the
reason, and the next file is read by a new child. The child is kept between files, because a start
takes a fifth of a second.

Formats: mp4/mov, webm/mkv, avi and gif, recognized by content and not by name; regular files only;
never a playlist or a network address.

Colors follow the matrix and range of the file (untagged: BT.709 if it is at least 1280 wide or has
more than 576 lines, else BT.601). Rotation and mirroring are applied, pixels are made square,
transparency becomes white. Where the size changes within a stream, later frames are scaled to the
first size, between black bars if their shape differs. Of several video streams the default one is
read.

Times are those of the file: a variable frame rate is resampled by time stamps. It is an error if
more than a tenth of a file (and more than two frames) is damaged or is missing before its end or
the requested `end`; otherwise the decodable frames are returned.
"""

import base64
import contextlib
import dataclasses
import itertools
import json
import math
import os
import tempfile
import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import NamedTuple, overload

import numpy as np
from jaxtyping import Float32, UInt8

from signvit_jax.errors.base import SignVitError
from signvit_jax.media.worker_process import WorkerEnded, WorkerProcess

EXTENSIONS = (".mp4", ".webm", ".mov", ".avi", ".mkv", ".gif", ".m4v", ".3gp", ".3g2", ".qt")
# Prefix of the files in which macOS keeps attributes of other files; they are not media.
APPLE_DOUBLE = "._"
POSE_SHAPE = (33, 3)  # of the points of `pose_model.PoseModel`
_POSE_SECONDS = 5.0  # that a pose may take at most; usually a hundredth of a second


class VideoDecodeError(SignVitError):
    """A video that cannot be read: `path` and `reason`."""

    def __init__(self, path: str | os.PathLike, reason: str):
        super().__init__(path, reason)  # both as args, so that pickling keeps them
        self.path = os.fspath(path)
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@dataclasses.dataclass(frozen=True)
class VideoLimits:
    """Limits for one file. The defaults suit clips and sentences, not long recordings."""

    max_bytes: int = 8 << 30  # of the file
    max_pixels: int = 1 << 25  # of a frame: a little above 8K
    max_seconds: float = 3600.0  # of video between `start` and `end`
    max_frames: int = 200_000  # returned
    max_output_bytes: int = 4 << 30  # of all frames that `read_jpegs` returns
    max_memory: int = 3 << 30  # address space of the child, bytes
    cpu_seconds: float = 300.0  # without those for finding poses
    wall_seconds: float = 300.0  # waiting for the child, without its time for finding poses


@dataclasses.dataclass(frozen=True)
class JpegVideo:
    """A video as JPEG frames.

    `notes` are remarks on the file: "variable_rate": at the rate of its densest stretch; "end_cut":
    a little shorter than requested; "size_change": some frames were scaled to the size of the first
    one; "several_streams": it has more than one video stream.
    """

    frames: list[bytes]  # one JPEG per frame
    fps: float  # frames per second
    height: int
    width: int
    notes: tuple[str, ...] = ()
    # The pose in each frame, if asked for, as `pose_model.PoseModel.points` returns it.
    poses: Float32[np.ndarray, "t 33 3"] | None = None


class VideoStream(NamedTuple):
    """Frames of a file, one by one."""

    fps: float  # frames per second: the requested rate, or that of the header for stored frames
    frames: Iterator[tuple[float, UInt8[np.ndarray, "h w 3"]]]  # (seconds in the file, RGB)


@dataclasses.dataclass(frozen=True)
class VideoHeader:
    """What the header of a file says; its frames may say otherwise."""

    seconds: float | None  # duration; None if it is not there
    fps: float  # frames per second
    # For each part that was asked for, why it cannot be read, or None.
    faults: tuple[str | None, ...]


@dataclasses.dataclass(frozen=True)
class Sampling:
    """The frames to read from a file, and their size.

    Times are in seconds from the beginning of the file, rates in frames per second. Raises
    ValueError for values out of range.
    """

    short_side: int | None = None  # shrink (never enlarge) the shorter side to this many pixels
    # Resample by time stamps to this rate; None: the stored frames.
    frame_rate: float | None = None
    # Resample by time stamps to the file's own rate, or to this one if that is lower. Where the
    # rate varies, the file's own rate is that of its densest stretch. Frames of slower stretches
    # are repeated, so frame k is always k / rate seconds after the first and no movement is lost.
    max_frame_rate: float | None = None
    start: float | None = None
    end: float | None = None
    # Folder of the pose models (`pose_model.MODEL_FILES`), to find the pose in each frame.
    pose_models: str | None = None

    def __post_init__(self):
        for name, least in (("short_side", 1), ("start", 0), ("end", 0)):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= least):
                raise ValueError(f"{name} is {value}; allowed: None or a number >= {least}")
        for name in ("frame_rate", "max_frame_rate"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} is {value}; allowed: None or a number > 0")
        start = self.start or 0.0
        if self.end is not None and self.end <= start:
            raise ValueError(
                f"end is {self.end} s, start {start} s; allowed: an end after the start"
            )


@contextlib.contextmanager
def open_video(
    path: str | os.PathLike, sampling: Sampling, limits: VideoLimits | None = None
) -> Iterator[VideoStream]:
    """Open a file for reading frame by frame; only a few frames are in memory, however long it is.

    Raises VideoDecodeError, also between frames.
    """
    with (
        _free_reader() as reader,
        contextlib.closing(reader.iterate(path, sampling, limits or VideoLimits())) as frames,
    ):
        first = next(frames)
        yield VideoStream(reader.fps, itertools.chain([first], frames))


def read_jpegs(
    path: str | os.PathLike,
    sampling: Sampling,
    *,
    quality: int = 90,
    limits: VideoLimits | None = None,
) -> JpegVideo:
    """Read the frames as JPEGs, encoded in the child. Raises VideoDecodeError.

    `quality` is that of PIL, 1 to 95.
    """
    limits = limits or VideoLimits()
    frames = []
    total_bytes = 0
    with _free_reader() as reader:
        for _, frame in reader.iterate(path, sampling, limits, jpeg_quality=quality):
            total_bytes += len(frame)
            if total_bytes > limits.max_output_bytes:
                raise VideoDecodeError(
                    path,
                    f"its frames take more than {limits.max_output_bytes} bytes "
                    "(max_output_bytes); give short_side, frame_rate or start and end",
                )
            frames.append(frame)
        poses = np.array(reader.poses) if sampling.pose_models is not None else None
        return JpegVideo(frames, reader.fps, *reader.size, reader.notes, poses)


def read_header(
    path: str | os.PathLike,
    parts: Sequence[tuple[float | None, float | None]],
    limits: VideoLimits | None = None,
) -> VideoHeader:
    """Read the header of a file, and no frame. Raises VideoDecodeError.

    `parts` are the (start, end) that will be read later, in seconds as in `Sampling`.
    """
    with _free_reader() as reader:
        return reader.header(path, parts, limits or VideoLimits())


def poses_of_jpegs(
    jpegs: Sequence[bytes], models: str | os.PathLike, limits: VideoLimits | None = None
) -> Float32[np.ndarray, "t 33 3"]:
    """Return the poses in consecutive frames, found in the child. Raises VideoDecodeError.

    `models`: folder of the pose models. Without any JPEG the models are loaded and nothing else.
    """
    limits = limits or VideoLimits()
    with _free_reader() as reader, tempfile.NamedTemporaryFile(prefix="frames_") as file:
        file.writelines(jpegs)
        file.flush()
        reader.find_poses(file.name, [len(jpeg) for jpeg in jpegs], models, limits)
        return np.array(reader.poses, np.float32).reshape(-1, *POSE_SHAPE)


def decode_jpeg(
    content: bytes, short_side: int, limits: VideoLimits, name: str = "an image"
) -> UInt8[np.ndarray, "h w 3"]:
    """Decode a JPEG in the child. Raises VideoDecodeError.

    A larger image is halved while its shorter side stays `short_side` pixels at least. `name` is
    that of the image in errors.
    """
    with _free_reader() as reader:
        return reader.image(content, short_side, limits, name)


def start_decoder() -> None:
    """Start this thread's child and wait for it, so that the first file need not.

    A child that cannot run is an error of that file.
    """
    with _free_reader() as reader:
        reader.start()


class VideoReader:
    """A decoding child, started when needed. For one thread at a time; a context manager.

    Attributes:
        fps: Frames per second of the current file: at first the nominal rate, after its end
            measured.
        busy: Whether a file is being read.
        size: Height and width of the current file's frames.
        notes: `JpegVideo.notes` of the last file that was read to its end.
        poses: Those in the current file's frames so far, if asked for: each frame's is there when
            the frame is.
    """

    def __init__(self):
        self.fps = 0.0
        self.busy = False
        self.size = (0, 0)
        self.notes: tuple[str, ...] = ()
        self.poses: list[Float32[np.ndarray, "33 3"]] = []
        self._worker: WorkerProcess | None = None

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the child."""
        if self._worker is not None:
            self._worker.end()
            self._worker = None

    @property
    def pid(self) -> int | None:
        """Process id of the child, if it is running."""
        return self._worker.process.pid if self._worker is not None else None

    @overload
    def iterate(
        self, path: str | os.PathLike, sampling: Sampling, limits: VideoLimits
    ) -> Generator[tuple[float, UInt8[np.ndarray, "h w 3"]]]: ...

    @overload
    def iterate(
        self,
        path: str | os.PathLike,
        sampling: Sampling,
        limits: VideoLimits,
        jpeg_quality: int,
    ) -> Generator[tuple[float, bytes]]: ...

    def iterate(
        self,
        path: str | os.PathLike,
        sampling: Sampling,
        limits: VideoLimits,
        jpeg_quality: int = 0,
    ) -> Generator[tuple[float, UInt8[np.ndarray, "h w 3"] | bytes]]:
        """Yield (seconds, frame): u8 (h, w, 3), or a JPEG as bytes if `jpeg_quality` is not 0.

        Raises VideoDecodeError.
        """
        options = dataclasses.asdict(sampling) | {"jpeg_quality": jpeg_quality}
        self.poses = []
        with contextlib.closing(self._replies(path, options, limits)) as replies:
            for kind, seconds, payload in replies:
                if kind == b"F":
                    frame = payload.tobytes() if jpeg_quality else payload.reshape(*self.size, 3)
                    yield seconds, frame
                elif kind == b"K":
                    self.poses.append(_pose(payload))
                elif kind == b"S":
                    header = json.loads(payload.tobytes())
                    self.size = (header["height"], header["width"])
                    self.fps = header["fps"]
                else:
                    trailer = json.loads(payload.tobytes())
                    self.fps = trailer["fps"]
                    self.notes = tuple(trailer["notes"])

    def start(self) -> None:
        """As `start_decoder`."""
        with contextlib.suppress(VideoDecodeError):  # the answer that an empty image is none
            self.image(b"", 1, VideoLimits(), "an empty image")

    def header(
        self,
        path: str | os.PathLike,
        parts: Sequence[tuple[float | None, float | None]],
        limits: VideoLimits,
    ) -> VideoHeader:
        """As `read_header`."""
        with contextlib.closing(self._replies(path, {"parts": list(parts)}, limits)) as replies:
            ((_, _, payload),) = replies
        header = json.loads(payload.tobytes())
        return VideoHeader(header["seconds"], header["fps"], tuple(header["faults"]))

    def find_poses(
        self,
        path: str | os.PathLike,
        lengths: Sequence[int],
        models: str | os.PathLike,
        limits: VideoLimits,
    ) -> None:
        """Find the `poses` in a file of JPEGs of these lengths, as `poses_of_jpegs`."""
        options = {"jpegs": list(lengths), "pose_models": os.path.abspath(models)}
        self.poses = []
        with contextlib.closing(self._replies(path, options, limits)) as replies:
            self.poses += [_pose(payload) for kind, _, payload in replies if kind == b"K"]

    def image(
        self, content: bytes, short_side: int, limits: VideoLimits, name: str
    ) -> UInt8[np.ndarray, "h w 3"]:
        """As `decode_jpeg`."""
        encoded = base64.b64encode(content).decode()
        options = {"image": encoded, "short_side": short_side}
        with contextlib.closing(self._replies(name, options, limits)) as replies:
            payloads = {kind: payload for kind, _, payload in replies}
        header = json.loads(payloads[b"S"].tobytes())
        return payloads[b"F"].reshape(header["height"], header["width"], 3)

    def _replies(
        self, path: str | os.PathLike, options: Mapping[str, object], limits: VideoLimits
    ) -> Generator[tuple[bytes, float, UInt8[np.ndarray, " n"]]]:
        """Yield (kind, seconds, payload) of each reply to a request. Raises VideoDecodeError."""
        name = os.fsdecode(path)
        if "\0" in name:
            raise VideoDecodeError(name, "a file name cannot contain a NUL character")
        request = {
            **options,
            "path": os.path.abspath(name),
            "limits": dataclasses.asdict(limits),
        }
        if self._worker is None or not self._worker.usable():
            self.close()
            self._worker = WorkerProcess()
        worker = self._worker
        finished = False
        self.busy = True
        try:
            worker.ask(request, limits.wall_seconds)
            while not finished:
                kind, seconds, payload = worker.reply()
                if kind == b"K":
                    worker.allow(min(seconds, _POSE_SECONDS))
                finished = kind in (b"E", b"H", b"X")
                if kind == b"X":
                    raise VideoDecodeError(name, payload.tobytes().decode())
                yield kind, seconds, payload
        except WorkerEnded as ended:
            reason = ended.reason(limits.cpu_seconds, limits.wall_seconds)
            raise VideoDecodeError(name, reason) from None
        finally:
            self.busy = False
            # The child crashed, timed out, or the caller stopped early. What the child still sends
            # belongs to this file, so the next file gets a new child.
            if not finished:
                self.close()


def _pose(payload: UInt8[np.ndarray, " n"]) -> Float32[np.ndarray, "33 3"]:
    return payload.view(np.float32).reshape(POSE_SHAPE)


_readers = threading.local()


@contextlib.contextmanager
def _free_reader() -> Iterator[VideoReader]:
    """Yield the reader of this thread, or another one while that one is in the middle of a file.

    The child of a thread's reader ends with the thread or the process.
    """
    if not hasattr(_readers, "reader"):
        _readers.reader = VideoReader()
    if not _readers.reader.busy:
        yield _readers.reader
        return
    with VideoReader() as reader:
        yield reader
