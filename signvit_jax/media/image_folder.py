"""A folder of pictures as a video: PNG or JPEG files in the order of their numbers, at a frame rate that the caller knows.

Pictures are untrusted: no decoder but Pillow's for PNG and JPEG is tried, only on regular files (never links), and the size in the header is checked
before a pixel is decoded. Transparency is put on white, 16-bit gray becomes 8-bit; all images get the size of
the first one shown, those of another shape between black bars.
"""

import io
import math
import os
import re
import stat
import time

import numpy as np
from PIL import Image

from signvit_jax.media.video import APPLE_DOUBLE, JpegVideo, Sampling, VideoDecodeError, VideoLimits

EXTENSIONS = (".png", ".jpg", ".jpeg")
MISSING_TOLERATED = 0.1  # share of a clip that may lie beyond the last image; as in video_worker.py


def list_pictures(folder: str | os.PathLike) -> list[str]:
    """Names of the pictures in `folder`, numbers counted as numbers: 9.png comes before 10.png. Raises OSError."""
    return sorted(
        (
            name
            for name in os.listdir(folder)
            if name.lower().endswith(EXTENSIONS) and not name.startswith(APPLE_DOUBLE)
        ),
        key=_natural,
    )


def _natural(name: str) -> tuple[list, str]:
    parts = re.split("([0-9]+)", name)
    parts[1::2] = map(int, parts[1::2])
    return parts, name


def read_picture_folder(
    folder: str | os.PathLike,
    fps: float,
    sampling: Sampling,
    *,
    quality: int = 90,
    limits: VideoLimits | None = None,
) -> JpegVideo:
    """The frames as JPEGs, like `read_jpegs`; picture k is shown from k / fps seconds on. Raises VideoDecodeError."""
    limits, began = limits or VideoLimits(), time.monotonic()
    try:
        names = list_pictures(folder)
    except OSError as error:
        raise VideoDecodeError(folder, error.strerror or str(error)) from error
    shown, rate = _shown(len(names), fps, sampling)
    if not shown:
        reason = (
            f"nothing to show from {sampling.start:g} s on: its pictures end at {len(names) / fps:.2f} s"
            if names
            else "no PNG or JPEG in it"
        )
        raise VideoDecodeError(folder, reason)
    if len(shown) > limits.max_frames:
        raise VideoDecodeError(
            folder, f"{len(shown)} frames; allowed: at most {limits.max_frames} (max_frames)"
        )
    beyond = _beyond_the_end(folder, len(names) / fps, fps, sampling)
    frames, size, held, read, last, changes_size = [], None, 0, 0, -1, False
    for number in shown:
        if number != last:
            path = os.path.join(folder, names[number])
            picture, num_bytes, has_bars = _read(path, size, sampling.short_side, limits)
            size, last, read, changes_size = (
                picture.size,
                number,
                read + num_bytes,
                changes_size or has_bars,
            )
            jpeg = _encode(picture, quality)
        held += len(jpeg)
        for value, name in (
            (read, "max_bytes"),
            (held, "max_output_bytes"),
            (time.monotonic() - began, "wall_seconds"),
        ):
            if value > getattr(limits, name):
                raise VideoDecodeError(
                    folder,
                    f"{value:.10g} after {len(frames)} frames; allowed: at most {getattr(limits, name):g} ({name})",
                )
        frames.append(jpeg)
    notes = ("end_cut",) * (beyond > 0.5 / fps) + ("size_change",) * changes_size
    return JpegVideo(frames, rate, size[1], size[0], notes)


def _beyond_the_end(
    folder: str | os.PathLike, seconds: float, fps: float, sampling: Sampling
) -> float:
    """Seconds of the clip after its last image. Raises VideoDecodeError where that is too much."""
    if sampling.end is None:
        return 0.0
    beyond = sampling.end - seconds
    if beyond > max(MISSING_TOLERATED * (sampling.end - (sampling.start or 0.0)), 2 / fps) + 1e-6:
        raise VideoDecodeError(
            folder,
            f"the clip is to end at {sampling.end:.2f} s, but its images end at {seconds:.2f} s: {beyond:.2f} s are missing; "
            "allowed: a tenth of the clip, or two frames",
        )
    return beyond


def _shown(count: int, fps: float, sampling: Sampling) -> tuple[list[int], float]:
    """Which picture each frame shows, and frames a second. Like the video reader, frame k shows what was there at (k + 1/4) / rate."""
    rate = sampling.frame_rate or fps
    rate = min(rate, sampling.max_frame_rate or rate)
    start = sampling.start or 0.0
    seconds = min(count / fps, math.inf if sampling.end is None else sampling.end) - start
    if seconds <= 0:
        return [], rate
    total = max(1, math.ceil(seconds * rate - 0.25))
    return [min(int((start + (k + 0.25) / rate) * fps), count - 1) for k in range(total)], rate


def _read(
    path: str, size: tuple[int, int] | None, short_side: int | None, limits: VideoLimits
) -> tuple[Image.Image, int, bool]:
    """The image in RGB, the file's bytes, and whether it has bars.

    Its size is `size` (width, height) or, if that is None, its own with at most `short_side` on
    the shorter side.
    """
    try:
        with os.fdopen(
            os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC), "rb"
        ) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise VideoDecodeError(path, "not a regular file")
            with Image.open(file, formats=("PNG", "JPEG")) as picture:
                width, height = picture.size
                if width * height > limits.max_pixels:
                    raise VideoDecodeError(
                        path,
                        f"{width}x{height} pixels; allowed: at most {limits.max_pixels} in all (max_pixels)",
                    )
                shrink = min(1.0, short_side / min(width, height)) if short_side else 1.0
                size = size or (max(1, round(width * shrink)), max(1, round(height * shrink)))
                fitted = _fitted(width, height, size)
                picture.draft("RGB", fitted)  # a JPEG to shrink by half or more is decoded so
                picture = _rgb(picture)
                picture = (
                    picture
                    if picture.size == fitted
                    else picture.resize(fitted, Image.Resampling.BILINEAR)
                )
                return _between_bars(picture, size), status.st_size, fitted != size
    except VideoDecodeError:
        raise
    except Exception as error:  # Pillow's decoders raise many kinds
        raise VideoDecodeError(
            path, f"not a whole PNG or JPEG picture: {getattr(error, 'strerror', None) or error}"
        ) from error


def _fitted(width: int, height: int, size: tuple[int, int]) -> tuple[int, int]:
    """The largest size within `size` that keeps the shape; `size` itself where that is rounding."""
    scale = min(size[0] / width, size[1] / height)
    fitted = max(1, round(width * scale)), max(1, round(height * scale))
    return size if all(abs(a - b) <= 1 for a, b in zip(fitted, size)) else fitted


def _between_bars(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    if picture.size == size:
        return picture
    canvas = Image.new("RGB", size)
    canvas.paste(picture, ((size[0] - picture.width) // 2, (size[1] - picture.height) // 2))
    return canvas


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I"):
        return Image.fromarray((np.asarray(picture) >> 8).clip(0, 255).astype(np.uint8)).convert(
            "RGB"
        )
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert(
            "RGB"
        )
    return picture.convert("RGB")


def _encode(picture: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()
