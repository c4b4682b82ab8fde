"""Writers of small videos with known frames and times."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def encode(
    path: Path,
    images: Sequence[np.ndarray],
    *,
    fps: int = 10,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    pts: Sequence[int] | None = None,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    source_format: str = "rgb24",
    colorspace: int | None = None,
    color_range: int | None = None,
    file_format: str | None = None,
) -> Path:
    """Write a video of `images`, which are in `source_format`; return its path.

    `fps`: frames per second. `pts`: the times of the frames in milliseconds, for a variable rate.
    """
    with av.open(
        str(path), "w", format=file_format, container_options=container_options or {}
    ) as container:
        stream = container.add_stream(codec, rate=fps)
        first = av.VideoFrame.from_ndarray(images[0], source_format)
        stream.width = first.width
        stream.height = first.height
        stream.pix_fmt = pix_fmt
        stream.options = options or {}
        if pts is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        if colorspace is not None:
            stream.codec_context.colorspace = colorspace
        if color_range is not None:
            stream.codec_context.color_range = color_range
        for i, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, source_format)
            if colorspace is not None:
                frame.colorspace = colorspace
            if color_range is not None:
                frame.color_range = color_range
            if pts is not None:
                frame.pts = pts[i]
                frame.time_base = Fraction(1, 1000)
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def shades(count: int, height: int = 48, width: int = 64) -> list[np.ndarray]:
    """Return uniform gray images, uint8 (h, w, 3), each 10 levels lighter; they repeat after 23."""
    return [np.full((height, width, 3), 20 + 10 * (i % 23), np.uint8) for i in range(count)]


def shade_numbers(frames: np.ndarray) -> list[int]:
    """Return the number in `shades` of each of the frames, uint8 (t, h, w, 3)."""
    return [round((float(frame.mean()) - 20) / 10) for frame in frames]
