"""Clips as builders describe them, and their encoding as JPEG frames.

The module is fast to import: worker processes do not need TFDS.
"""

import dataclasses
import functools
import hashlib
import io
import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from signvit_jax.data.keypoints import MEDIAPIPE_POSE, known_share, stored_keypoints
from signvit_jax.data.schema import STORED_FRAME_RATE, WHOLE_FILE, source_video_of
from signvit_jax.media.image_folder import read_image_folder
from signvit_jax.media.video import (
    JpegVideo,
    Sampling,
    VideoDecodeError,
    VideoLimits,
    read_jpegs,
)
from tfds_builders.keypoints import (
    EXACT,
    ClipKeypoints,
    KeypointSource,
    file_keypoints,
    find_keypoints,
)

DrawFrames = Callable[[], tuple[UInt8[np.ndarray, "t h w 3"], float]]
DrawKeypoints = Callable[[], Float[np.ndarray, "t k 3"]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clip:
    """One annotated clip.

    Its frames come from `path`, a video file or (with `image_rate`) a folder of images, or from
    `frames`, a picklable function that returns RGB frames and their fps. Raises ValueError unless
    exactly one of the two is given. `keypoints`, also picklable, returns the exact keypoints of the
    frames of `frames`.
    """

    id: str
    text: str
    path: str | None = None
    frames: DrawFrames | None = None
    keypoints: DrawKeypoints | None = None
    gloss: str = ""
    signer: str = ""
    video_id: str = ""  # "": taken from the id, `<video>-<n>`
    split: str | None = None  # None: by a stable hash of `split_group`
    start: float = WHOLE_FILE  # seconds in the file
    end: float = WHOLE_FILE
    file: str = ""  # the annotation and its line, for reports
    line: int = 0
    image_rate: float | None = None  # images per second of a folder
    grouped_by: str = ""  # clips of one value are in one split; "": the source video

    def __post_init__(self):
        if (self.path is None) == (self.frames is None):
            raise ValueError(f"clip {self.id!r} needs either path or frames")

    @property
    def source_video(self) -> str:
        return self.video_id or source_video_of(self.id)

    @property
    def part(self) -> tuple[float | None, float | None]:
        """Start and end in the file, None where it begins or ends, as in `Sampling`."""
        start, end = (None if time == WHOLE_FILE else time for time in (self.start, self.end))
        return start, end

    @property
    def split_group(self) -> str:
        """Clips with the same value are in one split."""
        return self.grouped_by or self.source_video


class Segment(NamedTuple):
    """A stretch of a recording with its text, as annotation programs and subtitles have it.

    Times are in milliseconds of the annotation file.
    """

    start: float
    end: float
    text: str
    gloss: str = ""
    signer: str = ""
    line: int = 0  # in the file


@dataclasses.dataclass(frozen=True)
class Problem:
    """A clip that is not in the data set, and the reason."""

    id: str
    reason: str
    path: str = ""  # of the video
    file: str = ""  # the annotation and its line
    line: int = 0

    @classmethod
    def of(cls, clip: Clip, reason: str) -> "Problem":
        return cls(clip.id, reason, clip.path or "", clip.file, clip.line)

    def __str__(self) -> str:
        where = f"{self.file}, line {self.line}" if self.line else self.file
        return f"{self.id}: {self.reason}" + (f" ({where})" if where else "")


@dataclasses.dataclass(frozen=True)
class ClipTable:
    """The result of an annotation parser."""

    clips: list[Clip]  # in the order of the file
    problems: list[Problem] = dataclasses.field(default_factory=list)  # rows that are not a clip
    notes: list[str] = dataclasses.field(default_factory=list)  # sentences for the user


@dataclasses.dataclass(frozen=True)
class Encoding:
    """The format of stored frames, and the keypoints beside them."""

    short_side: int = 256  # pixels; larger frames are shrunk, smaller ones keep their size
    # Frames per second; None: the rate of the source, at most STORED_FRAME_RATE.
    frame_rate: float | None = None
    jpeg_quality: int = 90
    keypoints: KeypointSource | None = None


@dataclasses.dataclass(frozen=True)
class EncodedClip:
    """The stored frames of a clip."""

    jpegs: list[bytes]
    fps: float
    notes: tuple[str, ...] = ()  # as in `signvit_jax.media.video.JpegVideo`
    keypoints: ClipKeypoints | None = None  # of the stored frames

    @property
    def num_bytes(self) -> int:
        points = 0 if self.keypoints is None else self.keypoints.points.nbytes
        return sum(map(len, self.jpegs)) + points

    @property
    def known_keypoints(self) -> float | None:
        """The share of frames with a known point, as in the index."""
        return None if self.keypoints is None else known_share(self.keypoints.points)

    @functools.cached_property
    def digest(self) -> str:
        """Digest of all frames: equal for the same source file, times and encoding."""
        digest = hashlib.sha256()
        for jpeg in self.jpegs:
            digest.update(len(jpeg).to_bytes(8))
            digest.update(jpeg)
        return digest.hexdigest()[:32]


def encode_clip(clip: Clip, encoding: Encoding) -> EncodedClip | Problem:
    """Decode or draw a clip and encode its frames.

    A VideoDecodeError becomes a Problem; other errors of a drawing function are raised.
    """
    try:
        if clip.frames is not None:
            return _encode_drawn(clip, *clip.frames(), encoding)
        start, end = clip.part
        assert clip.path is not None  # or `frames`, by `Clip.__post_init__`
        sampling = Sampling(
            short_side=encoding.short_side,
            frame_rate=encoding.frame_rate,
            max_frame_rate=STORED_FRAME_RATE if encoding.frame_rate is None else None,
            start=start,
            end=end,
        )
        quality = encoding.jpeg_quality
        if clip.image_rate is None:
            video, keypoints = _read_video(clip.path, sampling, encoding)
        else:
            video = read_image_folder(
                clip.path, clip.image_rate, sampling, quality=quality, limits=VideoLimits()
            )
            keypoints = None
    except VideoDecodeError as error:
        reason = error.reason
        if clip.path is not None and error.path != clip.path:  # an image of the folder
            reason = f"{os.path.basename(error.path)}: {reason}"
        return Problem.of(clip, reason)
    keypoints = keypoints or keypoints_of(clip, video.frames, video.fps, encoding.keypoints)
    return EncodedClip(video.frames, video.fps, video.notes, keypoints)


def _read_video(
    path: str, sampling: Sampling, encoding: Encoding
) -> tuple[JpegVideo, ClipKeypoints | None]:
    """Read a video and, if they are asked for, the poses in it. Raises VideoDecodeError.

    Where the poses fail, the video is read without them.
    """
    quality = encoding.jpeg_quality
    models = encoding.keypoints.pose_models if encoding.keypoints is not None else None
    if models is None:
        return read_jpegs(path, sampling, quality=quality, limits=VideoLimits()), None
    try:
        with_poses = dataclasses.replace(sampling, pose_models=models)
        video = read_jpegs(path, with_poses, quality=quality, limits=VideoLimits())
        assert video.poses is not None  # they were asked for
        return video, ClipKeypoints(stored_keypoints(video.poses))
    except VideoDecodeError as error:
        video = read_jpegs(path, sampling, quality=quality, limits=VideoLimits())
        fault = error.reason
        return video, ClipKeypoints.unknown(len(video.frames), MEDIAPIPE_POSE, fault)


def keypoints_of(
    clip: Clip, jpegs: Sequence[bytes], fps: float, source: KeypointSource | None
) -> ClipKeypoints | None:
    """Return the keypoints of a clip's stored frames, by the pose models or from a keypoint file.

    None without a `source`.
    """
    if source is None:
        return None
    if source.pose_models is not None:
        return find_keypoints(jpegs, source.pose_models)
    return file_keypoints(clip, source, len(jpegs), fps)


def _encode_drawn(
    clip: Clip, frames: UInt8[np.ndarray, "t h w 3"], fps: float, encoding: Encoding
) -> EncodedClip:
    rate = encoding.frame_rate or min(fps, STORED_FRAME_RATE)
    count = max(1, round(len(frames) * rate / fps))
    chosen = np.minimum((np.arange(count) * fps / rate + 1e-6).astype(int), len(frames) - 1)
    jpegs = [_jpeg(frames[i], encoding) for i in chosen]
    source = encoding.keypoints
    if source is not None and source.kind == EXACT:
        assert clip.keypoints is not None  # checked by the builder
        keypoints = ClipKeypoints(stored_keypoints(clip.keypoints()[chosen]))
    else:
        keypoints = keypoints_of(clip, jpegs, rate, source)
    return EncodedClip(jpegs, rate, keypoints=keypoints)


def _jpeg(frame: UInt8[np.ndarray, "h w 3"], encoding: Encoding) -> bytes:
    from PIL import Image

    image = Image.fromarray(frame)
    shrink = encoding.short_side / min(image.size)
    if shrink < 1:
        size = round(image.width * shrink), round(image.height * shrink)
        image = image.resize(size, Image.Resampling.BILINEAR)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=encoding.jpeg_quality)
    return buffer.getvalue()
