"""All frames of a video at once, for tests; the package itself reads frame by frame."""

import os
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from signvit_jax.media.video import Sampling, VideoLimits, VideoReader, open_video

_reader = VideoReader()  # its child process decodes all files of a test run


class Video(NamedTuple):
    frames: UInt8[np.ndarray, "t h w 3"]
    fps: float  # as measured by the reader


def read_video(
    path: str | os.PathLike, *, limits: VideoLimits | None = None, **sampling: float
) -> Video:
    """Read all frames; `sampling`: fields of `Sampling`. Raises VideoDecodeError."""
    frames = _reader.iterate(path, Sampling(**sampling), limits or VideoLimits())
    return Video(np.stack([frame for _, frame in frames]), _reader.fps)


def iterate_frames(
    path: str | os.PathLike, **sampling: float
) -> Iterator[tuple[float, UInt8[np.ndarray, "h w 3"]]]:
    """Yield (seconds in the file, frame)."""
    with open_video(path, Sampling(**sampling)) as video:
        yield from video.frames
