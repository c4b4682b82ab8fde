"""Where the two hands of a signer are in each image, learned from what moves.

Boxes around what moves miss hands: an arm moves as well, and a hand may rest. A small network that
sees one image, and not its neighbors, cannot tell what moves in it; it learns what mostly moves in
such images, which is hands. No keypoints are needed.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, DTypeLike, Float

from signvit_jax.layers.transformer import linear
from signvit_jax.models.images import MOTION_FLOOR

HANDS = 2
INPUT_SIZE = 64  # side of the images, in pixels
GRID = 16  # side of the maps
# A map is raised to this power before a hand's place is read off. Its values far from the hand are
# small, but they are many, and would draw the mean place to the middle of the image.
_SHARPNESS = 2.0
# The parameter `prior` starts as -_CURVATURE * (column - start column)^2: the first hand begins
# left in the image, the second one right. Columns are shares of the width, from the middle.
_CURVATURE = 9.0
_START_COLUMNS = (-0.25, 0.25)
# A frame counts at most as much as this many average ones of its clip.
_MOST_MOTION = 2.0


class Places(NamedTuple):
    """Places of the hands, as shares of the image's sides."""

    center: Float[Array, "*n hands 2"]  # y, x; 0 to 1
    spread: Float[Array, "*n hands"]  # standard deviation of the sharpened map: small if certain


class HandLocalizer(nnx.Module):
    """A map for each hand: images (n, 64, 64, 3) to log-probabilities (n, hands, 16, 16)."""

    def __init__(self, *, dtype: DTypeLike, rngs: nnx.Rngs):
        patch, narrow, wide = INPUT_SIZE // GRID, 16, 32

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
        self.maps = linear(wide, 4 * HANDS, dtype=dtype, rngs=rngs)
        columns = (np.arange(GRID) + 0.5) / GRID - 0.5 - np.array(_START_COLUMNS)[:, None]
        start = np.broadcast_to(-_CURVATURE * columns[:, None, :] ** 2, (HANDS, GRID, GRID))
        # Trained like all else; only its start values are a prior.
        self.prior = nnx.Param(jnp.asarray(start, jnp.float32))

    def __call__(self, images: Float[Array, "n 64 64 3"]) -> Float[Array, "n hands 16 16"]:
        n, patch, half = images.shape[0], INPUT_SIZE // GRID, GRID // 2
        x = images.reshape(n, GRID, patch, GRID, patch, 3).transpose(0, 1, 3, 2, 4, 5)
        x = jax.nn.relu(self.patches(x.reshape(n, GRID, GRID, -1)))
        x = jax.nn.relu(self.narrow(x))
        for conv in self.wide:
            x = x + jax.nn.relu(conv(x))
        logits = self.maps(x).astype(jnp.float32).reshape(n, half, half, 2, 2, HANDS)
        logits = logits.transpose(0, 5, 1, 3, 2, 4).reshape(n, HANDS, GRID, GRID)
        logits = logits + self.prior[...]
        return jax.nn.log_softmax(logits.reshape(n, HANDS, -1)).reshape(logits.shape)


def places(maps: Float[Array, "*n hands 16 16"]) -> Places:
    """Read the hands' places off their maps of log-probabilities."""
    shares = jax.nn.softmax((_SHARPNESS * maps).reshape(*maps.shape[:-2], -1)).reshape(maps.shape)
    cells = (jnp.arange(GRID) + 0.5) / GRID
    rows, columns = shares.sum(axis=-1), shares.sum(axis=-2)
    # Sums of products, and not matrix products, which TPUs and GPUs round to fewer bits.
    y, x = jnp.sum(rows * cells, axis=-1), jnp.sum(columns * cells, axis=-1)
    variance = jnp.sum(rows * (cells - y[..., None]) ** 2, axis=-1)
    variance += jnp.sum(columns * (cells - x[..., None]) ** 2, axis=-1)
    return Places(jnp.stack([y, x], axis=-1), jnp.sqrt(variance))


def localization_loss(
    maps: Float[Array, "b t hands 16 16"],
    images: Float[Array, "b t 64 64 3"],
    mask: Bool[Array, "b t"],
) -> Float[Array, "b"]:
    """Cross-entropy of the mean of the hands' maps against where each frame moves, in nats.

    Each frame is weighted by how much moves in it compared with the mean of its clip, and the sum
    is divided by the number of frames. As the mean of the maps has to explain all motion, each map
    takes a part of its own. `images` are normalized; `mask` is True at the frames of a clip.
    """
    b, t = mask.shape
    patch = INPUT_SIZE // GRID
    steps = jnp.sum((images[:, 1:] - images[:, :-1]) ** 2, axis=-1).astype(jnp.float32)
    steps = jnp.where((mask[:, 1:] & mask[:, :-1])[..., None, None], steps, 0.0)
    edge = jnp.zeros((b, 1, *steps.shape[2:]), jnp.float32)
    motion = jnp.concatenate([edge, steps], axis=1) + jnp.concatenate([steps, edge], axis=1)
    motion = motion.reshape(b, t, GRID, patch, GRID, patch).mean(axis=(3, 5))
    total = motion.sum(axis=(2, 3))
    count = jnp.maximum(mask.sum(axis=1), 1)
    floor = GRID * GRID * MOTION_FLOOR**2
    weights = jnp.minimum(total / (total.sum(axis=1) / count + floor)[:, None], _MOST_MOTION)
    shares = motion / jnp.maximum(total, 1e-9)[..., None, None]
    either = jax.nn.logsumexp(maps, axis=2) - jnp.log(HANDS)
    per_frame = -jnp.sum(shares * either, axis=(2, 3))
    return jnp.sum(weights * per_frame, axis=1) / count
