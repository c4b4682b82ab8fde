"""Brings the signer to one place and size: all pictures of a clip are cut to the square in which the clip moves.

A model that learns from few clips does not find hands of three pixels that are elsewhere in every clip. The square is taken from the clip alone, on
the device. A pixel weighs as much as it ever differs from its mean over the clip, less what pixels do on average. The square lies about the center
of these weights, REACH standard deviations to each side. What moves all over, or not at all, is left as it is.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

REACH = 2.2
SMALLEST = 0.15  # of the picture's side, from the center of the square to its edge
EVENLY = (
    1e-6  # weight of a pixel that does not change: with no other the square is the whole picture
)


def zoom_to_motion(
    video: Float[Array, "b t h w c"], mask: Bool[Array, "b t"]
) -> Float[Array, "b t h w c"]:
    """Normalized pictures, cut and enlarged bilinearly to the size that they had; `mask` tells a clip's frames from padding."""
    center, reach = moving_square(video, mask)
    rows, columns = (
        _enlarging(center[:, axis], reach, video.shape[2 + axis]).astype(video.dtype)
        for axis in (0, 1)
    )
    return jnp.einsum("bxw,btywc->btyxc", columns, jnp.einsum("byh,bthwc->btywc", rows, video))


def moving_square(
    video: Float[Array, "b t h w c"], mask: Bool[Array, "b t"]
) -> tuple[Float[Array, "b 2"], Float[Array, "b"]]:
    """Centre (y, x) of the square and from there to its edge, as shares of the picture's sides; it never leaves the picture."""
    frames = mask.astype(jnp.float32)[:, :, None, None, None]
    count = jnp.maximum(frames.sum(axis=1), 1.0)
    video = video.astype(jnp.float32)
    mean = (video * frames).sum(axis=1) / count
    change = jnp.sqrt(jnp.sum((video - mean[:, None]) ** 2 * frames, axis=-1).max(axis=1))
    weights = jax.nn.relu(change - change.mean(axis=(1, 2), keepdims=True)) + EVENLY
    weights = weights / weights.sum(axis=(1, 2), keepdims=True)
    (y, spread_y), (x, spread_x) = _moments(weights.sum(axis=2)), _moments(weights.sum(axis=1))
    reach = jnp.clip(REACH * jnp.maximum(spread_y, spread_x), SMALLEST, 0.5)
    return jnp.clip(jnp.stack([y, x], axis=1), reach[:, None], 1.0 - reach[:, None]), reach


def _moments(shares: Float[Array, "b n"]) -> tuple[Float[Array, "b"], Float[Array, "b"]]:
    """Mean and standard deviation of a place in 0..1."""
    places = (jnp.arange(shares.shape[1]) + 0.5) / shares.shape[1]
    mean = shares @ places
    return mean, jnp.sqrt(jnp.sum(shares * (places - mean[:, None]) ** 2, axis=1))


def _enlarging(
    center: Float[Array, "b"], reach: Float[Array, "b"], size: int
) -> Float[Array, "b n n"]:
    """What each pixel of the old line counts for each of the new one: two neighbors, bilinear."""
    places = (jnp.arange(size) + 0.5) / size * 2.0 - 1.0
    old = jnp.clip((center[:, None] + places * reach[:, None]) * size - 0.5, 0.0, size - 1.0)
    return jax.nn.relu(1.0 - jnp.abs(old[:, :, None] - jnp.arange(size)))
