"""A folder of images as a video: PNG or JPEG files in numeric order, at a known frame rate.

Images are untrusted. Only Pillow's decoders for PNG and JPEG are tried, only on regular files
(never links), and the size in the header is checked before decoding. Transparency becomes white,
16-bit gray becomes 8-bit. All images get the size of the first one, between black bars if their
shape differs.
"""

import io
import math
import os
import re
import stat
import time
from typing import NamedTuple

import numpy as np
from PIL import Image

from signvit_jax.media.video import (
    APPLE_DOUBLE,
    JpegVideo,
    Sampling,
    VideoDecodeError,
    VideoLimits,
    poses_of_jpegs,
)

EXTENSIONS = (".png", ".jpg", ".jpeg")
MISSING_TOLERATED = 0.1  # share of a clip that may be after the last image; as in video_worker.py


def list_images(folder: str | os.PathLike) -> list[str]:
    """Return the names of the images in `folder` in numeric order: 9.png is before 10.png.

    Raises OSError.
    """
    names = [
        name
        for name in os.listdir(folder)
        if name.lower().endswith(EXTENSIONS) and not name.startswith(APPLE_DOUBLE)
    ]
    return sorted(names, key=_numeric_order)


def _numeric_order(name: str) -> tuple[list, str]:
    parts = re.split("([0-9]+)", name)
    parts[1::2] = map(int, parts[1::2])
    return parts, name


def read_image_folder(
    folder: str | os.PathLike,
    fps: float,
    sampling: Sampling,
    *,
    quality: int = 90,
    limits: VideoLimits | None = None,
) -> JpegVideo:
    """Read the frames as JPEGs, like `media.video.read_jpegs`. Raises VideoDecodeError.

    Image k is on screen from k / fps seconds on. `max_seconds`, `max_memory` and `cpu_seconds` of
    the limits do not apply.
    """
    limits = limits or VideoLimits()
    start = time.monotonic()
    try:
        names = list_images(folder)
    except OSError as error:
        raise VideoDecodeError(folder, error.strerror or str(error)) from error
    seconds = len(names) / fps
    shown, rate = _sample(len(names), fps, sampling)
    if not names:
        raise VideoDecodeError(folder, "no PNG or JPEG in it")
    if not shown:
        raise VideoDecodeError(
            folder, f"no frame from {sampling.start:g} s on: its images end at {seconds:.2f} s"
        )
    if len(shown) > limits.max_frames:
        raise VideoDecodeError(
            folder, f"{len(shown)} frames; allowed: at most {limits.max_frames} (max_frames)"
        )
    missing = _missing_seconds(folder, seconds, fps, sampling)
    frames: list[bytes] = []
    size: tuple[int, int] | None = None
    bytes_read = bytes_returned = 0
    changes_size = False
    previous, jpeg = -1, b""
    for number in shown:
        if number != previous:
            path = os.path.join(folder, names[number])
            image_file = _read(path, size, sampling.short_side, limits)
            size = image_file.image.size
            bytes_read += image_file.file_bytes
            changes_size |= image_file.has_bars
            previous = number
            jpeg = _encode(image_file.image, quality)
        bytes_returned += len(jpeg)
        for name, value in (
            ("max_bytes", bytes_read),
            ("max_output_bytes", bytes_returned),
            ("wall_seconds", time.monotonic() - start),
        ):
            limit = getattr(limits, name)
            if value > limit:
                raise VideoDecodeError(
                    folder,
                    f"{value:.10g} after {len(frames)} frames; allowed: at most {limit:.10g} "
                    f"({name})",
                )
        frames.append(jpeg)
    assert size is not None  # of the first one shown
    notes = []
    if missing > 0.5 / fps:
        notes.append("end_cut")
    if changes_size:
        notes.append("size_change")
    models = sampling.pose_models
    poses = None if models is None else poses_of_jpegs(frames, models, limits)
    return JpegVideo(frames, rate, size[1], size[0], tuple(notes), poses)


def _missing_seconds(
    folder: str | os.PathLike, seconds: float, fps: float, sampling: Sampling
) -> float:
    """Seconds of the clip after its last image. Raises VideoDecodeError if they are too many."""
    if sampling.end is None:
        return 0.0
    missing = sampling.end - seconds
    tolerated = MISSING_TOLERATED * (sampling.end - (sampling.start or 0.0))
    if missing > max(tolerated, 2 / fps) + 1e-6:
        raise VideoDecodeError(
            folder,
            f"the clip should end at {sampling.end:.2f} s, but its images end at {seconds:.2f} s: "
            f"{missing:.2f} s are missing; allowed: a tenth of the clip, or two frames",
        )
    return missing


def _sample(count: int, fps: float, sampling: Sampling) -> tuple[list[int], float]:
    """The image of each frame, and frames per second.

    As in the video reader, frame k is the image on screen (k + 1/4) / rate seconds after the start.
    """
    rate = sampling.frame_rate or fps
    rate = min(rate, sampling.max_frame_rate or rate)
    start = sampling.start or 0.0
    end = math.inf if sampling.end is None else sampling.end
    seconds = min(count / fps, end) - start
    if seconds <= 0:
        return [], rate
    total = max(1, math.ceil(seconds * rate - 0.25))
    return [min(int((start + (k + 0.25) / rate) * fps), count - 1) for k in range(total)], rate


class _ImageFile(NamedTuple):
    image: Image.Image  # RGB
    file_bytes: int
    has_bars: bool


def _read(
    path: str, size: tuple[int, int] | None, short_side: int | None, limits: VideoLimits
) -> _ImageFile:
    """Read an image in the given `size` (width, height).

    Without `size` it keeps its own, shrunk to `short_side` on the shorter side. Raises
    VideoDecodeError.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(path, flags), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise VideoDecodeError(path, "not a regular file")
            with Image.open(file, formats=("PNG", "JPEG")) as image:
                width, height = image.size
                if width * height > limits.max_pixels:
                    raise VideoDecodeError(
                        path,
                        f"{width}x{height} pixels; "
                        f"allowed: at most {limits.max_pixels} in all (max_pixels)",
                    )
                shrink = min(1.0, short_side / min(width, height)) if short_side else 1.0
                size = size or (max(1, round(width * shrink)), max(1, round(height * shrink)))
                fitted = _fitted_size(width, height, size)
                image.draft("RGB", fitted)  # decodes a JPEG at half size or less if that suffices
                rgb = _to_rgb(image)
                if rgb.size != fitted:
                    rgb = rgb.resize(fitted, Image.Resampling.BILINEAR)
                return _ImageFile(_add_bars(rgb, size), status.st_size, fitted != size)
    except VideoDecodeError:
        raise
    except Exception as error:  # Pillow's decoders raise many types
        raise VideoDecodeError(
            path, f"not a complete PNG or JPEG image: {getattr(error, 'strerror', None) or error}"
        ) from error


def _fitted_size(width: int, height: int, size: tuple[int, int]) -> tuple[int, int]:
    """The largest size of that shape within `size`; `size` itself if it differs by one pixel."""
    scale = min(size[0] / width, size[1] / height)
    fitted = max(1, round(width * scale)), max(1, round(height * scale))
    return size if all(abs(a - b) <= 1 for a, b in zip(fitted, size)) else fitted


def _add_bars(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    if image.size == size:
        return image
    canvas = Image.new("RGB", size)
    canvas.paste(image, ((size[0] - image.width) // 2, (size[1] - image.height) // 2))
    return canvas


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        gray = (np.asarray(image) >> 8).clip(0, 255).astype(np.uint8)
        return Image.fromarray(gray).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _encode(image: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()
