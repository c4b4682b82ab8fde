"""From stored JPEG frames (or decoded pictures) to square uint8 frames of the model's size.

PyAV does both steps: its JPEG decoder and scaler work on the planes in which JPEG stores color and release the GIL, about twice as fast per
core as Pillow with the same picture (mean difference below one gray level). Decoders are kept per thread.
"""

import dataclasses
import threading
from collections.abc import Sequence

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from jaxtyping import UInt8

from signvit_jax.errors.base import SignVitError

_MAX_PIXELS = 2**25  # far above any stored frame; a damaged header must not ask for gigabytes
_threads = threading.local()


class FrameDecodeError(SignVitError, ValueError):
    """Bytes that are not a whole JPEG picture."""


@dataclasses.dataclass(frozen=True)
class Box:
    """Where the whole picture lies in the output square, in output pixels; beyond the square for `crop`."""

    x: int
    y: int
    width: int
    height: int


def picture_box(width: int, height: int, size: int, fit: str) -> Box:
    """Where a picture goes in a `size` x `size` square: "squash" stretches it, "pad" leaves black bars, "crop" cuts the longer side evenly."""
    if fit == "squash":
        return Box(0, 0, size, size)
    scale = size / (max(width, height) if fit == "pad" else min(width, height))
    scaled_width, scaled_height = max(round(width * scale), 1), max(round(height * scale), 1)
    return Box((size - scaled_width) // 2, (size - scaled_height) // 2, scaled_width, scaled_height)


def decode_jpeg(data: bytes) -> av.VideoFrame:
    """The picture in the color planes of the JPEG. Raises FrameDecodeError."""
    try:
        frames = _decoder().decode(av.Packet(data)) if data else []
    except (av.error.FFmpegError, MemoryError) as error:
        del _threads.decoder  # its state after an error is unknown
        raise FrameDecodeError(
            f"not a whole JPEG picture ({len(data)} bytes): {getattr(error, 'strerror', None) or error}"
        ) from error
    if len(frames) != 1:
        raise FrameDecodeError(f"not a JPEG picture ({len(data)} bytes)")
    return frames[0]


def fit_picture(frame: av.VideoFrame, size: int, fit: str, out: UInt8[np.ndarray, "h w 3"]) -> None:
    """Writes the picture, scaled as `fit` says, into `out`; a picture that has that size already is only converted to RGB."""
    box = picture_box(frame.width, frame.height, size, fit)
    picture = rgb_pixels(scale(frame, box.width, box.height, "rgb24"))
    if (box.x, box.y, box.width, box.height) == (0, 0, size, size):
        out[:] = picture
        return
    out[:] = 0
    to_y, from_y, to_x, from_x = max(box.y, 0), max(-box.y, 0), max(box.x, 0), max(-box.x, 0)
    picture = picture[from_y : from_y + size, from_x : from_x + size]
    out[to_y : to_y + picture.shape[0], to_x : to_x + picture.shape[1]] = picture


def fit_frames(
    frames: UInt8[np.ndarray, "t h w 3"] | Sequence[UInt8[np.ndarray, "h w 3"]], size: int, fit: str
) -> UInt8[np.ndarray, "t s s 3"]:
    """Decoded RGB pictures as square frames, by the same scaler that training and evaluation use."""
    out = np.empty((len(frames), size, size, 3), np.uint8)
    for picture, target in zip(frames, out, strict=True):
        fit_picture(
            av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24"),
            size,
            fit,
            target,
        )
    return out


def scale(frame: av.VideoFrame, width: int, height: int, pixel_format: str) -> av.VideoFrame:
    """Scales (averaging areas when it shrinks, so nothing aliases) and converts; returns `frame` itself where there is nothing to do."""
    shrinks = width <= frame.width and height <= frame.height
    method = Interpolation.AREA if shrinks else Interpolation.BILINEAR
    if (width, height) != (frame.width, frame.height) and not frame.format.is_rgb:
        # First scaled, then converted: each then runs in the library's fast code, a third of the time of both at once.
        frame = _reformatter("scaler").reformat(
            frame, width, height, frame.format.name, interpolation=method, threads=1
        )
    return _reformatter("converter").reformat(
        frame, width, height, pixel_format, interpolation=method, threads=1
    )


def rgb_pixels(frame: av.VideoFrame) -> UInt8[np.ndarray, "h w 3"]:
    """The pixels of an "rgb24" frame where they lie: a view, good as long as the frame."""
    plane = frame.planes[0]
    return (
        np.frombuffer(plane, np.uint8)
        .reshape(frame.height, plane.line_size)[:, : 3 * frame.width]
        .reshape(frame.height, frame.width, 3)
    )


def _decoder() -> av.CodecContext:
    if not hasattr(_threads, "decoder"):
        _threads.decoder = av.CodecContext.create("mjpeg", "r")
        _threads.decoder.thread_count = 1
        _threads.decoder.options = {"err_detect": "explode", "max_pixels": str(_MAX_PIXELS)}
    return _threads.decoder


def _reformatter(purpose: str) -> VideoReformatter:
    """One a thread and purpose: it keeps the tables of the last sizes and formats it was given."""
    if not hasattr(_threads, purpose):
        setattr(_threads, purpose, VideoReformatter())
    return getattr(_threads, purpose)
