"""The places of a signer's hands and face in each image.

A small network learns from keypoints, if clips have them. Otherwise it learns the hands from
motion. A box around the pixels that move is not enough, because an arm moves as well, and a hand
may rest. But a network that sees a single image cannot tell what moves in it. So it learns what
usually moves in such images, and that is hands.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, DTypeLike, Float

from signvit_jax.layers.transformer import linear
from signvit_jax.models.images import MOTION_FLOOR
from signvit_jax.models.zoom import Square, inside_square

HANDS = 2  # the first two of the parts; the face is the third
INPUT_SIZE = 64  # side of the images, in pixels
GRID = 16  # side of the maps
# A map is raised to this power before a hand's place is read off. Its values far from the hand are
# small, but they are many, and would draw the mean place to the middle of the image.
_SHARPNESS = 2.0
# The parameter `prior` starts as -_CURVATURE * (column - start column)^2: the first hand begins
# left in the image, the second one right, the face in the middle. Columns are shares of the width,
# from the middle.
_CURVATURE = 9.0
_START_COLUMNS = (-0.25, 0.25, 0.0)
# Added to the logits of presence, so that they begin near it: a probability of 0.98. Without
# keypoints no loss trains them.
_PRESENCE = 4.0
# The largest weight of a frame in the loss by motion: its motion divided by the clip's mean.
_MAX_MOTION_WEIGHT = 2.0


class Places(NamedTuple):
    """Places of the parts, as shares of the image's sides."""

    center: Float[Array, "*n parts 2"]  # y, x; 0 to 1
    spread: Float[Array, "*n parts"]  # standard deviation of the sharpened map: small if certain


class PartMaps(NamedTuple):
    """The localizer's outputs for each image."""

    maps: Float[Array, "*n parts 16 16"]  # log-probabilities of the part's place
    presence: Float[Array, "*n parts"]  # logits: is the part in the image?


class Localization(NamedTuple):
    """The localizer's outputs for a batch of clips, and the other inputs of its loss."""

    parts: PartMaps  # (b, t, ...)
    motion: Float[Array, "b t 16 16"]  # mean squared change of the cells' pixels
    view: Square  # of each clip, the part of its images that the localizer saw


class HandLocalizer(nnx.Module):
    """A small network from images (n, 64, 64, 3) to `PartMaps` of both hands, and of the face."""

    def __init__(self, parts: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        patch, narrow, wide = INPUT_SIZE // GRID, 16, 32
        self.parts = parts

        def conv(inputs: int, outputs: int, strides: int = 1) -> nnx.Conv:
            return nnx.Conv(
                inputs,
                outputs,
                (3, 3),
                strides=(strides, strides),
                padding=((1, 1), (1, 1)),
                dtype=dtype,
                param_dtype=jnp.float32,
                rngs=rngs,
            )

        self.patches = linear(patch * patch * 3, narrow, dtype=dtype, rngs=rngs)
        self.narrow = conv(narrow, wide, strides=2)
        self.wide = nnx.List([conv(wide, wide) for _ in range(2)])
        # Four cells of each map for each position of the last convolution.
        self.maps = linear(wide, 4 * parts, dtype=dtype, rngs=rngs)
        self.presence = linear(wide, parts, dtype=dtype, rngs=rngs)
        columns = (np.arange(GRID) + 0.5) / GRID - 0.5 - np.array(_START_COLUMNS[:parts])[:, None]
        start = np.broadcast_to(-_CURVATURE * columns[:, None, :] ** 2, (parts, GRID, GRID))
        # Trained like all other parameters; only its start values are a prior.
        self.prior = nnx.Param(jnp.asarray(start, jnp.float32))

    def __call__(self, images: Float[Array, "n 64 64 3"]) -> PartMaps:
        n, patch, half = images.shape[0], INPUT_SIZE // GRID, GRID // 2
        x = images.reshape(n, GRID, patch, GRID, patch, 3).transpose(0, 1, 3, 2, 4, 5)
        x = jax.nn.relu(self.patches(x.reshape(n, GRID, GRID, -1)))
        x = jax.nn.relu(self.narrow(x))
        for conv in self.wide:
            x = x + jax.nn.relu(conv(x))
        logits = self.maps(x).astype(jnp.float32).reshape(n, half, half, 2, 2, self.parts)
        logits = logits.transpose(0, 5, 1, 3, 2, 4).reshape(n, self.parts, GRID, GRID)
        logits = logits + self.prior[...]
        maps = jax.nn.log_softmax(logits.reshape(n, self.parts, -1)).reshape(logits.shape)
        presence = self.presence(x.mean(axis=(1, 2))).astype(jnp.float32) + _PRESENCE
        return PartMaps(maps, presence)


def places(maps: Float[Array, "*n parts 16 16"]) -> Places:
    """Read the parts' places off their maps of log-probabilities."""
    shares = jax.nn.softmax((_SHARPNESS * maps).reshape(*maps.shape[:-2], -1)).reshape(maps.shape)
    cells = (jnp.arange(GRID) + 0.5) / GRID
    rows, columns = shares.sum(axis=-1), shares.sum(axis=-2)
    # Sums of products, and not matrix products, which TPUs and GPUs round to fewer bits.
    y, x = jnp.sum(rows * cells, axis=-1), jnp.sum(columns * cells, axis=-1)
    variance = jnp.sum(rows * (cells - y[..., None]) ** 2, axis=-1)
    variance += jnp.sum(columns * (cells - x[..., None]) ** 2, axis=-1)
    return Places(jnp.stack([y, x], axis=-1), jnp.sqrt(variance))


def cell_motion(
    images: Float[Array, "b t 64 64 3"], mask: Bool[Array, "b t"]
) -> Float[Array, "b t 16 16"]:
    """The motion of each cell of each frame: its change from the frame before and to the next.

    `images` are normalized; `mask` is True at the frames of a clip. Between padding frames nothing
    moves.
    """
    b, t = mask.shape
    patch = INPUT_SIZE // GRID
    steps = jnp.sum((images[:, 1:] - images[:, :-1]) ** 2, axis=-1).astype(jnp.float32)
    steps = jnp.where((mask[:, 1:] & mask[:, :-1])[..., None, None], steps, 0.0)
    edge = jnp.zeros((b, 1, *steps.shape[2:]), jnp.float32)
    motion = jnp.concatenate([edge, steps], axis=1) + jnp.concatenate([steps, edge], axis=1)
    return motion.reshape(b, t, GRID, patch, GRID, patch).mean(axis=(3, 5))


def localization_loss(
    localization: Localization,
    mask: Bool[Array, "b t"],
    points: Float[Array, "b t parts 3"] | None = None,
) -> Float[Array, "b"]:
    """Return the localizer's loss for each clip, in nats.

    `points` are the places of the parts in the images, (y, x) as shares of their sides, and the
    confidence from 0 to 1. Clips with any confidence above 0 learn from the points (`_point_loss`),
    all others from motion (`_motion_loss`). `mask` is True at the frames of a clip.
    """
    maps, presence = localization.parts
    by_motion = _motion_loss(maps[:, :, :HANDS], localization.motion, mask)
    if points is None:
        return by_motion
    by_points = _point_loss(maps, presence, localization.view, points, mask)
    has_points = jnp.any((points[..., 2] > 0.0) & mask[..., None], axis=(1, 2))
    return jnp.where(has_points, by_points, by_motion)


def _motion_loss(
    maps: Float[Array, "b t hands 16 16"],
    motion: Float[Array, "b t 16 16"],
    mask: Bool[Array, "b t"],
) -> Float[Array, "b"]:
    """Cross-entropy of the mean of the hands' maps against the share of motion in each cell.

    A frame's weight is its motion compared with the mean of its clip, and the sum is divided by the
    number of frames. As the mean of the maps has to explain all motion, each map comes to explain a
    different part of it.
    """
    total = motion.sum(axis=(2, 3))
    count = jnp.maximum(mask.sum(axis=1), 1)
    floor = GRID * GRID * MOTION_FLOOR**2
    weights = jnp.minimum(total / (total.sum(axis=1) / count + floor)[:, None], _MAX_MOTION_WEIGHT)
    shares = motion / jnp.maximum(total, 1e-9)[..., None, None]
    log_mean_map = jax.nn.logsumexp(maps, axis=2) - jnp.log(HANDS)
    per_frame = -jnp.sum(shares * log_mean_map, axis=(2, 3))
    return jnp.sum(weights * per_frame, axis=1) / count


def _point_loss(
    maps: Float[Array, "b t parts 16 16"],
    presence: Float[Array, "b t parts"],
    view: Square,
    points: Float[Array, "b t parts 3"],
    mask: Bool[Array, "b t"],
) -> Float[Array, "b"]:
    """Cross-entropy of each part's map against its point, plus that of its presence.

    The point's confidence is the weight of the first and the target of the second. A point between
    the centers of cells is divided among its neighbors as in bilinear interpolation. A point
    outside the view is not present. The loss is a mean over frames and parts.
    """
    shares, inside = inside_square(points[..., :2], view)
    present = points[..., 2] * inside
    # A missing point may have any coordinates.
    cells = jnp.where(present[..., None] > 0.0, jnp.clip(shares * GRID - 0.5, 0.0, GRID - 1.0), 0.0)
    rows, columns = (
        jax.nn.relu(1.0 - jnp.abs(cells[..., axis, None] - jnp.arange(GRID))) for axis in (0, 1)
    )
    targets = rows[..., :, None] * columns[..., None, :]
    place_loss = -present * jnp.sum(targets * maps, axis=(-2, -1))
    presence_loss = jax.nn.softplus(presence) - present * presence
    frames = mask[..., None].astype(jnp.float32)
    return jnp.sum((place_loss + presence_loss) * frames, axis=(1, 2)) / (
        maps.shape[2] * jnp.maximum(mask.sum(axis=1), 1)
    )
