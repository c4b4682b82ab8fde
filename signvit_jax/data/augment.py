"""Augmentation of a clip: one draw for all its frames, so that nothing jitters between frames.

Geometry (rotate, translate, scale, mirror) and the fit to the model's square are one bilinear
sampling of the decoded color planes. Color (brightness, contrast, saturation, hue) is a gain for
the luma plane and a 2x2 matrix for the two chroma planes. Both are applied before the conversion to
RGB, which halves the number of values, and sampling maps are computed once per clip.

Keypoints move with the pixels around them.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence

import av
import numpy as np
from av.video.plane import VideoPlane
from jaxtyping import Float16, Float32, Int, UInt8

from signvit_jax.config.schema import AugmentConfig
from signvit_jax.media.frames import (
    Box,
    FrameDecodeError,
    decode_jpeg,
    fit_box,
    fit_frame,
    rgb_pixels,
    scale,
)

# Color as JPEG stores it: a full-range luma plane and two chroma planes of half the width and
# height.
_PIXEL_FORMAT = "yuvj420p"
# Frames processed together, so that the reading threads hand over the GIL less often.
_GROUP_SIZE = 4
# Bilinear sampling resolves a sixteenth of a pixel: 16 * 16 * 255 fits 16 bits.
_STEP_BITS = 4
_STEPS = 1 << _STEP_BITS


@dataclasses.dataclass(frozen=True)
class ClipAugmentation:
    """The augmentation of every frame of one clip; the defaults change nothing."""

    angle: float = 0.0  # radians, counter-clockwise
    shift_x: float = 0.0  # shares of the image
    shift_y: float = 0.0
    zoom: float = 1.0  # factor
    mirror: bool = False
    brightness: float = 1.0  # factor, as contrast and saturation
    contrast: float = 1.0  # about mid-gray
    saturation: float = 1.0
    hue: float = 0.0  # turns of the color circle


NO_AUGMENTATION = ClipAugmentation()


def draw_augmentation(config: AugmentConfig, rng: np.random.Generator) -> ClipAugmentation:
    """Draw an augmentation, each strength uniformly from its range in `config`.

    It always consumes the same number of random numbers.
    """
    rotate, shift_x, shift_y, zoom, brightness, contrast, saturation, hue = rng.uniform(
        -1.0, 1.0, 8
    )
    flip = rng.uniform() < 0.5
    return ClipAugmentation(
        angle=math.radians(config.rotate * rotate),
        shift_x=config.translate * shift_x,
        shift_y=config.translate * shift_y,
        zoom=1.0 + config.scale * zoom,
        mirror=bool(config.mirror and flip),
        brightness=1.0 + config.brightness * brightness,
        contrast=1.0 + config.contrast * contrast,
        saturation=1.0 + config.saturation * saturation,
        hue=config.hue * hue,
    )


def decode_clip(
    jpegs: Sequence[bytes],
    size: int,
    fit: str,
    augmentation: ClipAugmentation = NO_AUGMENTATION,
    out: UInt8[np.ndarray, "t s s 3"] | None = None,
) -> UInt8[np.ndarray, "t s s 3"]:
    """Decode JPEG frames into RGB frames of `size` x `size`, in `out` if given.

    `fit` is as in `media.frames.fit_box`. Raises FrameDecodeError with the number of the frame.
    """
    out = np.empty((len(jpegs), size, size, 3), np.uint8) if out is None else out
    warp = None if augmentation == NO_AUGMENTATION else _ClipWarp(augmentation, size, fit)
    for start in range(0, len(jpegs), _GROUP_SIZE):
        frames = _decode_group(jpegs, start)
        targets = out[start : start + _GROUP_SIZE]
        if warp is None:
            for frame, target in zip(frames, targets, strict=True):
                fit_frame(frame, size, fit, target)
        else:
            warp.apply(frames, targets)
    return out


def augment_keypoints(
    keypoints: Float16[np.ndarray, "t k 3"],
    shape: tuple[int, int],
    size: int,
    fit: str,
    augmentation: ClipAugmentation,
    mirrored: Int[np.ndarray, " k"],
) -> Float32[np.ndarray, "t k 3"]:
    """Return keypoints moved as `decode_clip` moves the pixels, in shares of the output square.

    Points that are not known stay zeros; those that leave the square keep their confidence.

    Args:
        keypoints: as in `data.keypoints`, in shares of the stored frames.
        shape: width and height of the stored frames.
        size, fit, augmentation: as for `decode_clip`.
        mirrored: `KeypointLayout.mirrored`.
    """
    moved = keypoints.astype(np.float32)
    if augmentation.mirror:
        moved = moved[:, mirrored]
    box = fit_box(*shape, size, fit)
    # The inverse of `_source_positions`, which works on a square whose side is even.
    even = size if augmentation == NO_AUGMENTATION else size + size % 2
    x = (moved[..., 0] * box.width + box.x) / even - 0.5
    y = (moved[..., 1] * box.height + box.y) / even - 0.5
    x = -x if augmentation.mirror else x
    cos = augmentation.zoom * math.cos(augmentation.angle)
    sin = augmentation.zoom * math.sin(augmentation.angle)
    x, y = cos * x + sin * y + augmentation.shift_x, cos * y - sin * x + augmentation.shift_y
    placed = np.stack([x + 0.5, y + 0.5], axis=-1) * (even / size)
    moved[..., :2] = np.where(moved[..., 2:] > 0, placed, 0.0)
    return moved


def _decode_group(jpegs: Sequence[bytes], start: int) -> list[av.VideoFrame]:
    frames = []
    for number, data in enumerate(jpegs[start : start + _GROUP_SIZE], start):
        try:
            frames.append(decode_jpeg(data))
        except FrameDecodeError as error:
            raise FrameDecodeError(f"frame {number} of {len(jpegs)}: {error}") from error
    return frames


class _ClipWarp:
    """One augmentation, applied to groups of frames. Maps are kept for the last frame shape."""

    def __init__(self, augmentation: ClipAugmentation, size: int, fit: str):
        self._augmentation = augmentation
        self._size = size
        self._fit = fit
        self._even = size + size % 2  # half-size chroma planes need an even square
        self._canvas = av.VideoFrame(self._even, self._even, _PIXEL_FORMAT)
        self._canvas_planes = [_plane_bytes(plane) for plane in self._canvas.planes]
        self._shape: tuple[int, int, Box] | None = None

    def apply(self, frames: Sequence[av.VideoFrame], out: UInt8[np.ndarray, "k s s 3"]) -> None:
        """Write the augmented frames, at most _GROUP_SIZE, into `out`."""
        by_shape = itertools.groupby(
            zip(frames, out, strict=True), key=lambda pair: (pair[0].width, pair[0].height)
        )
        for (width, height), pairs in by_shape:
            box = fit_box(width, height, self._size, self._fit)
            scaled_width = _sampled_length(width, box.width)
            scaled_height = _sampled_length(height, box.height)
            run, targets = zip(*pairs, strict=True)
            scaled = [scale(frame, scaled_width, scaled_height, _PIXEL_FORMAT) for frame in run]
            self._apply(scaled, (width, height, box), targets)

    def _apply(
        self,
        frames: Sequence[av.VideoFrame],
        shape: tuple[int, int, Box],
        targets: Sequence[np.ndarray],
    ) -> None:
        """`shape`: width and height of the frames before scaling, and their box."""
        if shape != self._shape:
            luma_plane, chroma_plane = frames[0].planes[:2]
            self._luma_map = _PlaneMap(
                self._augmentation, shape[2], self._even, self._even, luma_plane, np.uint16
            )
            self._chroma_map = _PlaneMap(
                self._augmentation, shape[2], self._even, self._even // 2, chroma_plane, np.uint32
            )
            self._shape = shape
        planes = ([_plane_bytes(plane) for plane in frame.planes] for frame in frames)
        y, u, v = zip(*planes, strict=True)
        # The two chroma values are packed into one 32-bit number: one gather for both.
        packed = [a | (b.astype(np.uint32) << 16) for a, b in zip(u, v, strict=True)]
        chroma = self._chroma_map.sample(packed, black=128 | 128 << 16)
        luma = self._luma_map.sample(y, black=0)
        colored = self._color(luma, chroma & 255, chroma >> 16 & 255)
        for *planes, target in zip(*colored, targets, strict=True):
            for canvas, plane in zip(self._canvas_planes, planes, strict=True):
                canvas[:, : plane.shape[1]] = plane
            rgb = rgb_pixels(scale(self._canvas, self._even, self._even, "rgb24"))
            target[:] = rgb[: self._size, : self._size]

    def _color(
        self, y: np.ndarray, u: np.ndarray, v: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Apply a gain and an offset to luma, and to chroma a rotation times a gain, about 128."""
        augmentation = self._augmentation
        gain = augmentation.contrast * augmentation.brightness
        y = np.multiply(y, np.float32(gain), dtype=np.float32)
        y += np.float32(128 * (augmentation.brightness - gain))
        chroma_gain, turn = gain * augmentation.saturation, 2 * math.pi * augmentation.hue
        cos = np.float32(chroma_gain * math.cos(turn))
        sin = np.float32(chroma_gain * math.sin(turn))
        u, v = u.astype(np.float32) - 128, v.astype(np.float32) - 128
        return _bytes(y), _bytes(cos * u - sin * v + 128), _bytes(sin * u + cos * v + 128)


class _PlaneMap:
    """Bilinear sampling of a color plane (luma, or both chroma planes packed).

    For each output pixel it holds the top left one of its four neighbors, and their weights. The
    output plane is `side` x `side` pixels and shows the output square of `square` x `square`.
    """

    def __init__(
        self,
        augmentation: ClipAugmentation,
        box: Box,
        square: int,
        side: int,
        plane: VideoPlane,
        dtype: type,
    ):
        height, width, stride = plane.height, plane.width, plane.line_size
        x, y = _source_positions(augmentation, box, square, side)
        outside = (x < 0) | (x > 1) | (y < 0) | (y > 1)
        left, weight_x = _neighbor(x * width - 0.5, width)
        top, weight_y = _neighbor(y * height - 0.5, height)
        self._length = height * stride
        # Behind each plane, enough black pixels are appended for the four neighbors of a pixel
        # outside of the image.
        self._source = np.empty((_GROUP_SIZE, self._length + stride + 2), dtype)
        top_left = np.where(outside, self._length, top * stride + left).astype(np.intp)
        frame_starts = np.arange(0, self._source.size, self._source.shape[1])
        self._index = top_left + frame_starts[:, None, None]
        self._neighbors = [
            (self._source.reshape(-1)[step:], weight.astype(dtype))
            for step, weight in (
                (0, (_STEPS - weight_x) * (_STEPS - weight_y)),
                (1, weight_x * (_STEPS - weight_y)),
                (stride, (_STEPS - weight_x) * weight_y),
                (stride + 1, weight_x * weight_y),
            )
        ]
        half = _STEPS**2 // 2
        self._half = half if dtype is np.uint16 else half | half << 16
        self._sum, self._part = np.empty((2, _GROUP_SIZE, side, side), dtype)

    def sample(self, planes: Sequence[np.ndarray], black: int) -> np.ndarray:
        """Return (k, side, side) numbers whose low byte is the sampled value.

        If they pack two 16-bit numbers, the low byte of each is a value. The array is overwritten
        by the next call.
        """
        k = len(planes)
        for source, plane in zip(self._source, planes, strict=False):
            source[: self._length] = plane.reshape(-1)
        self._source[:k, self._length :] = black
        total, part = self._sum[:k], self._part[:k]
        total[:] = self._half  # rounds to the nearest
        for neighbor, weight in self._neighbors:
            neighbor.take(self._index[:k], out=part, mode="clip")
            part *= weight
            total += part
        return np.right_shift(total, 2 * _STEP_BITS, out=total)


def _plane_bytes(plane: VideoPlane) -> UInt8[np.ndarray, "h stride"]:
    """The memory of a plane, with the padding of its rows."""
    return np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)


def _bytes(values: np.ndarray) -> UInt8[np.ndarray, "k h w"]:
    """Round to bytes; overwrites `values`."""
    values += np.float32(0.5)
    return np.clip(values, 0, 255, out=values).astype(np.uint8)


def _source_positions(
    augmentation: ClipAugmentation, box: Box, square: int, side: int
) -> tuple[np.ndarray, np.ndarray]:
    """Positions in the image, 0 to 1 along each side, of the pixel centers of an output plane.

    The plane has `side` x `side` pixels.
    """
    center = (np.arange(side, dtype=np.float32) + np.float32(0.5)) / side - np.float32(0.5)
    x = center[None, :] - augmentation.shift_x
    y = center[:, None] - augmentation.shift_y
    cos = math.cos(augmentation.angle) / augmentation.zoom
    sin = math.sin(augmentation.angle) / augmentation.zoom
    x, y = cos * x - sin * y, sin * x + cos * y
    x = -x if augmentation.mirror else x
    return ((x + 0.5) * square - box.x) / box.width, ((y + 0.5) * square - box.y) / box.height


def _neighbor(position: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """The pixel before each position and the weight, in sixteenths, of the one after it."""
    sixteenths = np.rint(np.clip(position, 0, length - 1) * np.float32(_STEPS)).astype(np.int32)
    before = np.minimum(sixteenths >> _STEP_BITS, max(length - 2, 0))
    return before, sixteenths - (before << _STEP_BITS)


def _sampled_length(length: int, target: int) -> int:
    """The length to scale a side to before sampling.

    An image that shrinks a lot is first averaged down to the target size, because the four
    neighbors of bilinear sampling would skip pixels.
    """
    return target if length > 1.5 * target else length
