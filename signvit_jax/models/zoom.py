"""Crop every clip to the square in which it moves, so that signers have one position and size.

Otherwise hands may be three pixels wide and elsewhere in every clip, which a model cannot learn
from few clips. The square is computed from the clip itself, on the device: a pixel has as weight
its largest deviation from its mean over the clip, minus the average of that over all pixels. The
center of the square is the mean position under these weights, and it reaches REACH standard
deviations to each side. A clip in which all or no pixels move is left unchanged.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

REACH = 2.2
MIN_REACH = 0.15  # of the image's side, from the center of the square to its edge
# Weight of a pixel that does not change. If all pixels have it, the square is the complete image.
BASE_WEIGHT = 1e-6


def zoom_to_motion(
    video: Float[Array, "b t h w c"], mask: Bool[Array, "b t"]
) -> Float[Array, "b t h w c"]:
    """Crop normalized video to `moving_square` and scale it back to its size, bilinearly.

    `mask` is True at the frames of a clip and False at padding.
    """
    center, reach = moving_square(video, mask)
    height, width = video.shape[2:4]
    rows = _resampling(center[:, 0], reach, height).astype(video.dtype)
    columns = _resampling(center[:, 1], reach, width).astype(video.dtype)
    return jnp.einsum("bxw,btywc->btyxc", columns, jnp.einsum("byh,bthwc->btywc", rows, video))


def moving_square(
    video: Float[Array, "b t h w c"], mask: Bool[Array, "b t"]
) -> tuple[Float[Array, "b 2"], Float[Array, "b"]]:
    """Return the center (y, x) of the square and the distance from there to its edges.

    Both are shares of the image's sides. The square lies inside the image.
    """
    frames = mask.astype(jnp.float32)[:, :, None, None, None]
    count = jnp.maximum(frames.sum(axis=1), 1.0)
    video = video.astype(jnp.float32)
    mean = (video * frames).sum(axis=1) / count
    change = jnp.sqrt(jnp.sum((video - mean[:, None]) ** 2 * frames, axis=-1).max(axis=1))
    weights = jax.nn.relu(change - change.mean(axis=(1, 2), keepdims=True)) + BASE_WEIGHT
    weights = weights / weights.sum(axis=(1, 2), keepdims=True)
    y, spread_y = _mean_and_deviation(weights.sum(axis=2))
    x, spread_x = _mean_and_deviation(weights.sum(axis=1))
    reach = jnp.clip(REACH * jnp.maximum(spread_y, spread_x), MIN_REACH, 0.5)
    return jnp.clip(jnp.stack([y, x], axis=1), reach[:, None], 1.0 - reach[:, None]), reach


def _mean_and_deviation(shares: Float[Array, "b n"]) -> tuple[Float[Array, "b"], Float[Array, "b"]]:
    """Mean and standard deviation of a position from 0 to 1."""
    positions = (jnp.arange(shares.shape[1]) + 0.5) / shares.shape[1]
    mean = shares @ positions
    return mean, jnp.sqrt(jnp.sum(shares * (positions - mean[:, None]) ** 2, axis=1))


def _resampling(
    center: Float[Array, "b"], reach: Float[Array, "b"], size: int
) -> Float[Array, "b n n"]:
    """The weight of each old pixel of a line (last axis) in each new one: two neighbors each."""
    positions = (jnp.arange(size) + 0.5) / size * 2.0 - 1.0
    old = jnp.clip((center[:, None] + positions * reach[:, None]) * size - 0.5, 0.0, size - 1.0)
    return jax.nn.relu(1.0 - jnp.abs(old[:, :, None] - jnp.arange(size)))
