"""Augmentation of a clip: one draw for all its frames, so that nothing in the picture jitters.

Geometry (rotate, translate, scale, mirror) and the fit to the model's square are one bilinear sampling of the decoded color planes; color
(brightness, contrast, saturation, hue) is a gain for the luma plane and a 2x2 matrix for the two chroma planes. Both work before the
conversion to RGB: half as many numbers, and the maps are computed once a clip.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence

import av
import numpy as np
from jaxtyping import UInt8

from signvit_jax.config.schema import AugmentConfig
from signvit_jax.media.frames import (
    Box,
    FrameDecodeError,
    decode_jpeg,
    fit_picture,
    picture_box,
    rgb_pixels,
    scale,
)

_PLANES = "yuvj420p"  # full-range luma and two chroma planes of half the width and height: how JPEG stores color
_GROUP = 4  # frames that are worked on at once: the threads of a reader hand each other Python's lock less often
_STEPS = 16  # 1 << 4; positions between two pixels that bilinear sampling tells apart; 16 * 16 * 255 fits 16 bits


@dataclasses.dataclass(frozen=True)
class ClipAugmentation:
    """What is done to every frame of one clip; the defaults do nothing.

    `angle` in radians, counter-clockwise; `shift_x`, `shift_y` in shares of the picture; `zoom`, `brightness`, `contrast` (about mid-gray) and
    `saturation` are factors; `hue` in turns of the color circle.
    """

    angle: float = 0.0
    shift_x: float = 0.0
    shift_y: float = 0.0
    zoom: float = 1.0
    mirror: bool = False
    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0


NONE = ClipAugmentation()


def draw_augmentation(config: AugmentConfig, rng: np.random.Generator) -> ClipAugmentation:
    """One draw, each strength uniform within what the config allows. Always takes the same number of random numbers."""
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
    augmentation: ClipAugmentation = NONE,
    out: UInt8[np.ndarray, "t s s 3"] | None = None,
) -> UInt8[np.ndarray, "t s s 3"]:
    """Stored JPEG frames as RGB frames of `size` x `size`, written into `out` if given. Raises FrameDecodeError with the frame's number."""
    out = np.empty((len(jpegs), size, size, 3), np.uint8) if out is None else out
    lens = None if augmentation == NONE else _Lens(augmentation, size, fit)
    for start in range(0, len(jpegs), _GROUP):
        frames, targets = _decode(jpegs, start), out[start : start + _GROUP]
        if lens is None:
            for frame, target in zip(frames, targets, strict=True):
                fit_picture(frame, size, fit, target)
        else:
            lens.apply(frames, targets)
    return out


def _decode(jpegs: Sequence[bytes], start: int) -> list[av.VideoFrame]:
    frames = []
    for number, data in enumerate(jpegs[start : start + _GROUP], start):
        try:
            frames.append(decode_jpeg(data))
        except FrameDecodeError as error:
            raise FrameDecodeError(f"frame {number} of {len(jpegs)}: {error}") from error
    return frames


class _Lens:
    """One augmentation, ready to be applied to group after group of frames; maps are kept for the frame shape seen last."""

    def __init__(self, augmentation: ClipAugmentation, size: int, fit: str):
        self._augmentation, self._size, self._fit = augmentation, size, fit
        self._even = size + size % 2  # half-size chroma planes need an even square
        self._canvas = av.VideoFrame(self._even, self._even, _PLANES)
        self._canvas_planes = [_pixels(plane) for plane in self._canvas.planes]
        self._shape = None

    def apply(self, frames: Sequence[av.VideoFrame], out: UInt8[np.ndarray, "k s s 3"]) -> None:
        """At most _GROUP frames."""
        by_shape = itertools.groupby(
            zip(frames, out, strict=True), key=lambda pair: (pair[0].width, pair[0].height)
        )
        for (width, height), pairs in by_shape:
            box = picture_box(width, height, self._size, self._fit)
            run, targets = zip(*pairs, strict=True)
            self._apply(
                [
                    scale(frame, _near(width, box.width), _near(height, box.height), _PLANES)
                    for frame in run
                ],
                (width, height, box),
                targets,
            )

    def _apply(
        self,
        frames: Sequence[av.VideoFrame],
        shape: tuple[int, int, Box],
        targets: Sequence[np.ndarray],
    ) -> None:
        if shape != self._shape:
            luma, chroma = frames[0].planes[:2]
            self._luma_map = _PlaneMap(
                self._augmentation, shape[2], self._even, self._even, luma, np.uint16
            )
            self._chroma_map = _PlaneMap(
                self._augmentation, shape[2], self._even, self._even // 2, chroma, np.uint32
            )
            self._shape = shape
        y, u, v = zip(
            *([_pixels(plane) for plane in frame.planes] for frame in frames), strict=True
        )
        # Both chroma values travel in one 32-bit number, 16 bits each: one gathering for the two.
        both = self._chroma_map.sample(
            [
                u_plane | (v_plane.astype(np.uint32) << 16)
                for u_plane, v_plane in zip(u, v, strict=True)
            ],
            black=128 | 128 << 16,
        )
        colored = self._color(self._luma_map.sample(y, black=0), both & 255, both >> 16 & 255)
        for *planes, target in zip(*colored, targets, strict=True):
            for canvas, plane in zip(self._canvas_planes, planes, strict=True):
                canvas[:, : plane.shape[1]] = plane
            target[:] = rgb_pixels(scale(self._canvas, self._even, self._even, "rgb24"))[
                : self._size, : self._size
            ]

    def _color(
        self, y: np.ndarray, u: np.ndarray, v: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """A gain and an offset for luma; a rotation times a gain, about 128, for chroma."""
        look = self._augmentation
        gain = look.contrast * look.brightness
        y = np.multiply(y, np.float32(gain), dtype=np.float32)
        y += np.float32(128 * (look.brightness - gain))
        cos, sin = (
            np.float32(gain * look.saturation * f(2 * math.pi * look.hue))
            for f in (math.cos, math.sin)
        )
        u, v = u.astype(np.float32) - 128, v.astype(np.float32) - 128
        return _bytes(y), _bytes(cos * u - sin * v + 128), _bytes(sin * u + cos * v + 128)


class _PlaneMap:
    """Bilinear sampling of a color plane: for each output pixel the top left of its four neighbors, and their weights."""

    def __init__(
        self,
        augmentation: ClipAugmentation,
        box: Box,
        square: int,
        side: int,
        plane: av.video.plane.VideoPlane,
        dtype: type,
    ):
        height, width, stride = plane.height, plane.width, plane.line_size
        x, y = _source_positions(augmentation, box, square, side)
        outside = (x < 0) | (x > 1) | (y < 0) | (y > 1)
        left, weight_x = _neighbor(x * width - 0.5, width)
        top, weight_y = _neighbor(y * height - 0.5, height)
        self._length = height * stride
        # Pixels outside the picture read the black that is appended to it for all four neighbors.
        self._source = np.empty((_GROUP, self._length + stride + 2), dtype)
        first = np.where(outside, self._length, top * stride + left).astype(np.intp)
        self._index = first + np.arange(0, self._source.size, self._source.shape[1])[:, None, None]
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
        self._sum, self._part = np.empty((2, _GROUP, side, side), dtype)

    def sample(self, planes: Sequence[np.ndarray], black: int) -> np.ndarray:
        """(k, side, side) numbers whose low byte is the value (and, of two 16-bit numbers in one, that of each); valid until the next call."""
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
        return np.right_shift(total, 8, out=total)


def _pixels(plane: av.video.plane.VideoPlane) -> UInt8[np.ndarray, "h stride"]:
    """The memory of a plane, the bytes that pad its rows included."""
    return np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)


def _bytes(values: np.ndarray) -> UInt8[np.ndarray, "k h w"]:
    """Rounds in place."""
    values += np.float32(0.5)
    return np.clip(values, 0, 255, out=values).astype(np.uint8)


def _source_positions(
    augmentation: ClipAugmentation, box: Box, square: int, side: int
) -> tuple[np.ndarray, np.ndarray]:
    """Where in the picture (0 to 1 along each side) the pixel centers of a `side` x `side` output plane come from."""
    center = (np.arange(side, dtype=np.float32) + np.float32(0.5)) / side - np.float32(0.5)
    x, y = center[None, :] - augmentation.shift_x, center[:, None] - augmentation.shift_y
    cos, sin = (
        math.cos(augmentation.angle) / augmentation.zoom,
        math.sin(augmentation.angle) / augmentation.zoom,
    )
    x, y = cos * x - sin * y, sin * x + cos * y
    x = -x if augmentation.mirror else x
    return ((x + 0.5) * square - box.x) / box.width, ((y + 0.5) * square - box.y) / box.height


def _neighbor(position: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """The pixel before each position and the weight, in sixteenths, of the one after it."""
    sixteenths = np.rint(np.clip(position, 0, length - 1) * np.float32(_STEPS)).astype(np.int32)
    before = np.minimum(sixteenths >> 4, max(length - 2, 0))
    return before, sixteenths - (before << 4)


def _near(length: int, target: int) -> int:
    """Four neighbors are too few for a picture that shrinks much: it is first averaged down to the target."""
    return target if length > 1.5 * target else length
