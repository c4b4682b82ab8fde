"""Crop every clip to the square in which it moves, so that signers have one position and size.

Otherwise hands may be three pixels wide and in a different place in every clip, which a model
cannot learn from few clips. The square is computed from the clip itself, on the device. The change
of a pixel is its largest deviation from its mean over the clip. Its weight is its change minus the
average change of all pixels, or 0 if that is negative. The center of the square is the mean
position under these weights, and the square reaches DEVIATIONS standard deviations to each side. A
clip in which all or no pixels move is left unchanged.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

# The square reaches this many standard deviations of the motion to each side, but at least
# MIN_REACH, a share of the image's side.
DEVIATIONS = 2.2
MIN_REACH = 0.15
# Weight of a pixel that does not change. If all pixels have it, the square is the complete image.
BASE_WEIGHT = 1e-6


class Square(NamedTuple):
    """A square part of each image, as shares of the image's sides."""

    center: Float[Array, "b 2"]  # y, x
    reach: Float[Array, "b"]  # from the center to the edges


def inside_square(
    points: Float[Array, "b t k 2"], square: Square
) -> tuple[Float[Array, "b t k 2"], Bool[Array, "b t k"]]:
    """Return points of the images as shares of the square's sides, and whether they are inside."""
    edge = (square.center - square.reach[:, None])[:, None, None]
    shares = (points - edge) / (2.0 * square.reach)[:, None, None, None]
    return shares, jnp.all((shares >= 0.0) & (shares <= 1.0), axis=-1)


def whole_image(clips: int) -> Square:
    """Return the square that is the complete image, for each clip."""
    return Square(jnp.broadcast_to(0.5, (clips, 2)), jnp.broadcast_to(0.5, (clips,)))


def crop(
    video: Float[Array, "b t h w c"], square: Square, size: int
) -> Float[Array, "b t {size} {size} c"]:
    """Cut the square out of all frames of each clip, and scale it to `size` pixels, bilinearly.

    Outside the image the pixels of its edge are repeated. Where the result is smaller, each of its
    pixels is a weighted mean of the video's pixels around it, so that none is skipped.
    """
    height, width = video.shape[2:4]
    center, reach = square
    rows = _resampling(center[:, 0], reach, height, size)
    columns = _resampling(center[:, 1], reach, width, size)
    return _resample(video, rows, columns)


def crop_part(
    video: Float[Array, "b t h w c"], square: Square, size: int, share: float
) -> Float[Array, "b t {size} {size} c"]:
    """`crop` for squares whose side is at most `share` of the image's: only that part is read."""
    # Outer pixels of the result are means that include pixels beyond the square's edges.
    sides = [math.ceil(share * n) for n in video.shape[2:4]]
    margins = [max(2, math.ceil(side / size)) for side in sides]
    lengths = [min(n, a + b) for n, a, b in zip(video.shape[2:4], sides, margins)]
    old, part = jnp.asarray(video.shape[2:4]), jnp.asarray(lengths)
    first = jnp.round(square.center * old - part / 2).astype(jnp.int32)
    first = jnp.clip(first, 0, old - part)

    def read(clip: Float[Array, "t h w c"], first: Int[Array, "2"]) -> Float[Array, "t y x c"]:
        frames, channels = clip.shape[0], clip.shape[3]
        return jax.lax.dynamic_slice(clip, (0, first[0], first[1], 0), (frames, *lengths, channels))

    center = (square.center * old - first) / part
    reach = square.reach[:, None] * old / part
    rows = _resampling(center[:, 0], reach[:, 0], lengths[0], size)
    columns = _resampling(center[:, 1], reach[:, 1], lengths[1], size)
    return _resample(jax.vmap(read)(video, first), rows, columns)


def moving_square(video: Float[Array, "b t h w c"], mask: Bool[Array, "b t"]) -> Square:
    """Return the square in which each clip moves. It lies inside the image."""
    frames = mask.astype(jnp.float32)
    video = video.astype(jnp.float32)
    mean = mean_frame(video, frames)[:, None]
    # Color by color: XLA's CPU backend takes three times as long for a sum over the last axis.
    squares = [(video[..., c] - mean[..., c]) ** 2 for c in range(video.shape[-1])]
    square = sum(squares[1:], squares[0])
    change = jnp.sqrt((square * frames[:, :, None, None]).max(axis=1))
    weights = jax.nn.relu(change - change.mean(axis=(1, 2), keepdims=True)) + BASE_WEIGHT
    weights = weights / weights.sum(axis=(1, 2), keepdims=True)
    y, spread_y = _mean_and_deviation(weights.sum(axis=2))
    x, spread_x = _mean_and_deviation(weights.sum(axis=1))
    reach = jnp.clip(DEVIATIONS * jnp.maximum(spread_y, spread_x), MIN_REACH, 0.5)
    center = jnp.clip(jnp.stack([y, x], axis=1), reach[:, None], 1.0 - reach[:, None])
    return Square(center, reach)


def mean_frame(
    video: Float[Array, "b t h w c"], weights: Float[Array, "b t"]
) -> Float[Array, "b h w c"]:
    """Return the weighted mean of each clip's frames; all 0 if the weights are.

    A matrix product: XLA's CPU backend takes six times as long for a sum over the frames.
    """
    b, t, *image = video.shape
    pixels = video.reshape(b, t, math.prod(image))
    total = jnp.einsum("bt,btp->bp", weights, pixels, precision="highest")
    return (total / jnp.maximum(weights.sum(axis=1), 1.0)[:, None]).reshape(b, *image)


def _mean_and_deviation(shares: Float[Array, "b n"]) -> tuple[Float[Array, "b"], Float[Array, "b"]]:
    """Mean and standard deviation of a position from 0 to 1."""
    positions = (jnp.arange(shares.shape[1]) + 0.5) / shares.shape[1]
    mean = shares @ positions
    return mean, jnp.sqrt(jnp.sum(shares * (positions - mean[:, None]) ** 2, axis=1))


def _resample(
    video: Float[Array, "b t h w c"], rows: Float[Array, "b y h"], columns: Float[Array, "b x w"]
) -> Float[Array, "b t y x c"]:
    rows, columns = rows.astype(video.dtype), columns.astype(video.dtype)
    return jnp.einsum("bxw,btywc->btyxc", columns, jnp.einsum("byh,bthwc->btywc", rows, video))


def _resampling(
    center: Float[Array, "b"], reach: Float[Array, "b"], size: int, new_size: int
) -> Float[Array, "b new old"]:
    """The weights of the old pixels of a line in each of the new ones, which sum to 1.

    If the line is enlarged, two neighbors have weights; if it is shrunk, more have.
    """
    positions = (jnp.arange(new_size) + 0.5) / new_size * 2.0 - 1.0
    old = jnp.clip((center[:, None] + positions * reach[:, None]) * size - 0.5, 0.0, size - 1.0)
    distance = jnp.abs(old[:, :, None] - jnp.arange(size))
    if new_size == size:  # nothing is shrunk, and the weights sum to 1 already
        return jax.nn.relu(1.0 - distance)
    covered = jnp.maximum(2.0 * reach * size / new_size, 1.0)[:, None, None]
    weights = jax.nn.relu(1.0 - distance / covered)
    return weights / weights.sum(axis=2, keepdims=True)
