"""Batch normalization (Ioffe & Szegedy 2015) as a pure function.

A layer reads its running statistics from the parameters. In training it also returns the sums from
which `update_running_stats` computes new ones. Like losses, the sums add up over devices and
microbatches, so the running statistics are those of the complete batch.

Images are normalized together with those on other devices, but each microbatch
(`gradient_accumulation`) is normalized by its own statistics.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, DTypeLike, Float, PyTree


class Moments(NamedTuple):
    """First and second moments of each channel about its running mean, summed over images.

    Moments about zero would lose precision where the mean is large.
    """

    first: Float[Array, "c"]
    second: Float[Array, "c"]


class BatchMoments(NamedTuple):
    """`Moments` of all layers, summed over `num_images` images.

    `layers` is a tree in which the layers have the same paths as in the parameters.
    """

    num_images: Float[Array, ""]
    layers: PyTree


class BatchNorm(nnx.Module):
    """Normalization of channels in float32.

    With `sample_mask` (training) it uses the statistics of the images where the mask is 1, without
    it (evaluation) the running ones.
    """

    def __init__(self, width: int, *, epsilon: float, dtype: DTypeLike, rngs: nnx.Rngs):
        del rngs  # no parameter is random
        self.scale = nnx.Param(jnp.ones(width))
        self.bias = nnx.Param(jnp.zeros(width))
        self.mean = nnx.BatchStat(jnp.zeros(width))
        self.var = nnx.BatchStat(jnp.ones(width))
        self.epsilon = epsilon
        self.dtype = dtype

    def __call__(
        self, x: Float[Array, "n h w c"], sample_mask: Float[Array, "n"] | None = None
    ) -> tuple[Float[Array, "n h w c"], Moments | None]:
        x = x.astype(jnp.float32)
        mean, var, moments = self.mean[...], self.var[...], None
        if sample_mask is not None:
            count = sample_mask.sum()
            shares = sample_mask / jnp.maximum(count, 1.0)
            batch_mean = shares @ x.mean(axis=(1, 2))
            batch_var = shares @ jnp.square(x - batch_mean).mean(axis=(1, 2))
            distance = batch_mean - mean
            moments = jax.lax.stop_gradient(
                Moments(count * distance, count * (batch_var + jnp.square(distance)))
            )
            # A microbatch may consist of padding rows alone. If it were normalized by their
            # statistics, which are zero, its activations would grow from layer to layer until they
            # overflow.
            mean, var = jnp.where(count > 0, batch_mean, mean), jnp.where(count > 0, batch_var, var)
        y = (x - mean) * (jax.lax.rsqrt(var + self.epsilon) * self.scale[...]) + self.bias[...]
        return y.astype(self.dtype), moments


def update_running_stats(
    params: Mapping[str, PyTree],
    before: Mapping[str, PyTree],
    moments: BatchMoments | None,
    momentum: float,
) -> dict[str, PyTree]:
    """Return `params` with new running statistics.

    They are the statistics of `before`, moved towards those of the batch by a share `momentum` (0
    to 1); unchanged if `moments` is None or no image was counted. `before` are the parameters that
    computed the batch. The statistics in `params` are ignored: the optimizer has changed them, by
    weight decay for example.

    The running statistics describe about the last 1 / `momentum` steps. In a run of a few hundred
    steps the other parameters change much in that time. With a momentum of 0.01 the statistics
    would then fit no model of the run, and evaluation would differ from training.
    """
    num_images = jnp.zeros(()) if moments is None else moments.num_images
    share = jnp.where(num_images > 0, momentum, 0.0)

    def updated(new: PyTree, old: PyTree, sums: PyTree) -> PyTree:
        if not isinstance(new, Mapping):
            return new
        if not is_batch_norm(new):
            return {
                name: updated(child, old[name], None if sums is None else sums.get(name))
                for name, child in new.items()
            }
        if sums is None:
            return dict(new) | {"mean": old["mean"], "var": old["var"]}
        first, second = (total / jnp.maximum(num_images, 1.0) for total in sums)
        batch_var = jnp.maximum(second - jnp.square(first), 0.0)
        return dict(new) | {
            "mean": old["mean"] + share * first,
            "var": old["var"] + share * (batch_var - old["var"]),
        }

    return updated(params, before, None if moments is None else moments.layers)


def zero_moments(params: Mapping[str, PyTree]) -> BatchMoments | None:
    """Return the sums of no images; None for parameters without BatchNorm."""

    def zeros(node: PyTree) -> PyTree:
        if not isinstance(node, Mapping):
            return None
        if is_batch_norm(node):
            return Moments(jnp.zeros_like(node["mean"]), jnp.zeros_like(node["var"]))
        children = {name: zeros(child) for name, child in node.items()}
        return {name: child for name, child in children.items() if child is not None} or None

    layers = zeros(params)
    return None if layers is None else BatchMoments(jnp.zeros(()), layers)


def is_batch_norm(node: Mapping[str, PyTree]) -> bool:
    """Return True if these are the parameters of one `BatchNorm`."""
    return {"mean", "var"} <= node.keys()
