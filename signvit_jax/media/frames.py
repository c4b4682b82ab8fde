"""JPEG frames or decoded images to square uint8 frames of the model's size.

PyAV's JPEG decoder and scaler work on the planes in which JPEG stores color, and release the GIL.
They are about twice as fast per core as Pillow, with the same result (mean difference below one
gray level). Decoders are kept per thread.
"""

import dataclasses
import io
import threading
from collections.abc import Sequence

import av
import numpy as np
from av.error import FFmpegError
from av.video.reformatter import Interpolation, VideoReformatter
from jaxtyping import UInt8
from PIL import Image

from signvit_jax.errors.base import SignVitError

_MAX_PIXELS = 2**25  # far above any stored frame; a damaged header must not allocate gigabytes
_threads = threading.local()


class FrameDecodeError(SignVitError, ValueError):
    """Bytes that are not a complete JPEG image."""


@dataclasses.dataclass(frozen=True)
class Box:
    """The place of the complete image in the output square, in output pixels.

    With "crop" it extends beyond the square.
    """

    x: int
    y: int
    width: int
    height: int


def fit_box(width: int, height: int, size: int, fit: str) -> Box:
    """Return the place of an image in a square of `size` x `size`.

    `fit`: "squash" stretches the image, "pad" adds black bars, "crop" trims both ends of the longer
    side equally.
    """
    if fit == "squash":
        return Box(0, 0, size, size)
    scale = size / (max(width, height) if fit == "pad" else min(width, height))
    scaled_width = max(round(width * scale), 1)
    scaled_height = max(round(height * scale), 1)
    return Box((size - scaled_width) // 2, (size - scaled_height) // 2, scaled_width, scaled_height)


def decode_jpeg(data: bytes) -> av.VideoFrame:
    """Decode an image into the color planes of the JPEG. Raises FrameDecodeError."""
    try:
        frames = _decoder().decode(av.Packet(data)) if data else []
    except (FFmpegError, MemoryError) as error:
        del _threads.decoder  # its state after an error is unknown
        raise FrameDecodeError(
            f"not a complete JPEG image ({len(data)} bytes): "
            f"{getattr(error, 'strerror', None) or error}"
        ) from error
    if len(frames) != 1:
        raise FrameDecodeError(f"not a JPEG image ({len(data)} bytes)")
    return frames[0]


def jpeg_shape(data: bytes) -> tuple[int, int]:
    """Return width and height of an image, from its header. Raises FrameDecodeError."""
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
            return image.size
    except Exception as error:  # Pillow raises many types
        raise FrameDecodeError(f"not a JPEG image ({len(data)} bytes): {error}") from error


def fit_frame(frame: av.VideoFrame, size: int, fit: str, out: UInt8[np.ndarray, "h w 3"]) -> None:
    """Write the frame, scaled as `fit_box` describes, into `out` as RGB.

    A frame that has the right size is only converted.
    """
    box = fit_box(frame.width, frame.height, size, fit)
    rgb = rgb_pixels(scale(frame, box.width, box.height, "rgb24"))
    if box == Box(0, 0, size, size):
        out[:] = rgb
        return
    out[:] = 0
    top, left = max(box.y, 0), max(box.x, 0)
    first_row, first_column = max(-box.y, 0), max(-box.x, 0)
    rgb = rgb[first_row : first_row + size, first_column : first_column + size]
    out[top : top + rgb.shape[0], left : left + rgb.shape[1]] = rgb


def fit_frames(
    frames: UInt8[np.ndarray, "t h w 3"] | Sequence[UInt8[np.ndarray, "h w 3"]], size: int, fit: str
) -> UInt8[np.ndarray, "t s s 3"]:
    """Return decoded RGB frames as square frames, by the scaler of training and evaluation."""
    out = np.empty((len(frames), size, size, 3), np.uint8)
    for rgb, target in zip(frames, out, strict=True):
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
        fit_frame(frame, size, fit, target)
    return out


def scale(frame: av.VideoFrame, width: int, height: int, pixel_format: str) -> av.VideoFrame:
    """Scale and convert a frame; return `frame` itself if there is nothing to do.

    Shrinking averages areas, so that nothing aliases.
    """
    shrinks = width <= frame.width and height <= frame.height
    method = Interpolation.AREA if shrinks else Interpolation.BILINEAR
    if (width, height) != (frame.width, frame.height) and not frame.format.is_rgb:
        # Scaling first and converting afterwards uses the library's fast code for both: a third of
        # the time of one combined step.
        frame = _reformatter("scaler").reformat(
            frame, width, height, frame.format.name, interpolation=method, threads=1
        )
    return _reformatter("converter").reformat(
        frame, width, height, pixel_format, interpolation=method, threads=1
    )


def rgb_pixels(frame: av.VideoFrame) -> UInt8[np.ndarray, "h w 3"]:
    """Return a view of the pixels of an "rgb24" frame, valid as long as the frame."""
    plane = frame.planes[0]
    rows = np.frombuffer(plane, np.uint8).reshape(frame.height, plane.line_size)
    return rows[:, : 3 * frame.width].reshape(frame.height, frame.width, 3)


def _decoder() -> av.VideoCodecContext:
    if not hasattr(_threads, "decoder"):
        _threads.decoder = av.CodecContext.create("mjpeg", "r")
        _threads.decoder.thread_count = 1
        _threads.decoder.options = {"err_detect": "explode", "max_pixels": str(_MAX_PIXELS)}
    return _threads.decoder


def _reformatter(purpose: str) -> VideoReformatter:
    """One per thread and purpose: it keeps tables for the last sizes and formats."""
    if not hasattr(_threads, purpose):
        setattr(_threads, purpose, VideoReformatter())
    return getattr(_threads, purpose)
