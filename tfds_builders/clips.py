"""What a builder hands over for every clip, and how one clip becomes JPEG frames. Light to import: worker processes need no TFDS."""

import dataclasses
import functools
import hashlib
import io
import os
from collections.abc import Callable

import numpy as np
from jaxtyping import UInt8

from signvit_jax.data.schema import WHOLE_FILE, source_video_of
from signvit_jax.media.image_folder import read_picture_folder
from signvit_jax.media.video import Sampling, VideoDecodeError, VideoLimits, read_jpegs

DrawFrames = Callable[[], tuple[UInt8[np.ndarray, "t h w 3"], float]]


@dataclasses.dataclass(frozen=True)
class Clip:
    """One annotated clip. Its frames come from `path`, a video file or (with `picture_rate`) a folder of pictures, or from `frames`.

    `frames` is a picklable function that gives RGB frames and their fps.
    """

    id: str
    text: str
    path: str | None = None
    frames: DrawFrames | None = None
    gloss: str = ""
    signer: str = ""
    video_id: str = ""  # "" means: cut from the id, `<video>-<n>`
    split: str | None = None  # None means: by a stable hash of the source video
    start: float = WHOLE_FILE  # seconds in the file
    end: float = WHOLE_FILE
    file: str = ""  # the annotation and its line, for reports
    line: int = 0
    picture_rate: float | None = None  # frames a second of a folder of pictures

    def __post_init__(self):
        if (self.path is None) == (self.frames is None):
            raise ValueError(f"clip {self.id!r} needs either path or frames")

    @property
    def source_video(self) -> str:
        return self.video_id or source_video_of(self.id)


@dataclasses.dataclass(frozen=True)
class Problem:
    """A clip that is not in the data set, and why. `file` and `line` name the annotation, `path` the video."""

    id: str
    reason: str
    path: str = ""
    file: str = ""
    line: int = 0

    @classmethod
    def of(cls, clip: Clip, reason: str) -> "Problem":
        return cls(clip.id, reason, clip.path or "", clip.file, clip.line)

    def __str__(self) -> str:
        where = f"{self.file}, line {self.line}" if self.line else self.file
        return f"{self.id}: {self.reason}" + (f" ({where})" if where else "")


@dataclasses.dataclass(frozen=True)
class ClipTable:
    """What an annotation parser found: clips in the order of the file, and every row that is not a clip."""

    clips: list[Clip]
    problems: list[Problem] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)  # sentences for the user


@dataclasses.dataclass(frozen=True)
class Encoding:
    """How frames are stored."""

    short_side: int = 256  # pixels; larger frames are shrunk, smaller ones stay
    frame_rate: float | None = (
        None  # frames a second; None keeps the source's, but at most `MAX_FRAME_RATE`
    )
    jpeg_quality: int = 90


MAX_FRAME_RATE = 25.0


@dataclasses.dataclass(frozen=True)
class EncodedClip:
    jpegs: list[bytes]
    fps: float
    notes: tuple[str, ...] = ()  # as in `signvit_jax.media.video.JpegVideo`

    @property
    def num_bytes(self) -> int:
        return sum(map(len, self.jpegs))

    @functools.cached_property
    def digest(self) -> str:
        """Of all frames: the same source file with the same times and settings has the same."""
        digest = hashlib.sha256()
        for jpeg in self.jpegs:
            digest.update(len(jpeg).to_bytes(8))
            digest.update(jpeg)
        return digest.hexdigest()[:32]


def encode_clip(clip: Clip, encoding: Encoding) -> EncodedClip | Problem:
    """Decodes or draws a clip and encodes its frames. What raises VideoDecodeError is a Problem; another fault in a drawing function is raised."""
    try:
        if clip.frames is not None:
            return _encode_drawn(*clip.frames(), encoding)
        sampling = Sampling(
            short_side=encoding.short_side,
            frame_rate=encoding.frame_rate,
            max_frame_rate=MAX_FRAME_RATE if encoding.frame_rate is None else None,
            start=None if clip.start == WHOLE_FILE else clip.start,
            end=None if clip.end == WHOLE_FILE else clip.end,
        )
        if clip.picture_rate is None:
            video = read_jpegs(
                clip.path, sampling, quality=encoding.jpeg_quality, limits=VideoLimits()
            )
        else:
            video = read_picture_folder(
                clip.path,
                clip.picture_rate,
                sampling,
                quality=encoding.jpeg_quality,
                limits=VideoLimits(),
            )
    except VideoDecodeError as error:
        return Problem.of(
            clip,
            error.reason
            if error.path == clip.path or clip.path is None
            else f"{os.path.basename(error.path)}: {error.reason}",
        )
    return EncodedClip(video.frames, video.fps, video.notes)


def _encode_drawn(frames: np.ndarray, fps: float, encoding: Encoding) -> EncodedClip:
    rate = encoding.frame_rate or min(fps, MAX_FRAME_RATE)
    count = max(1, round(len(frames) * rate / fps))
    chosen = np.minimum((np.arange(count) * fps / rate + 1e-6).astype(int), len(frames) - 1)
    return EncodedClip([_jpeg(frames[i], encoding) for i in chosen], rate)


def _jpeg(frame: np.ndarray, encoding: Encoding) -> bytes:
    from PIL import Image

    picture = Image.fromarray(frame)
    shrink = encoding.short_side / min(picture.size)
    if shrink < 1:
        picture = picture.resize(
            (round(picture.width * shrink), round(picture.height * shrink)),
            Image.Resampling.BILINEAR,
        )
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=encoding.jpeg_quality)
    return buffer.getvalue()
