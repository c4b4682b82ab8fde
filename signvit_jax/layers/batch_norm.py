"""Batch normalization (Ioffe & Szegedy 2015) without hidden state: statistics are read from the parameters and new ones are returned.

In training a layer gives out the sums that its statistics are made of. They add up over the parts of a batch, as losses do: of them
`update_running_stats` makes the statistics of the whole batch, however it was cut in time or over devices. On several devices pictures are normalized
by all of them together; of parts that are run one after the other (`gradient_accumulation`) each is normalized by itself.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, DTypeLike, Float, PyTree


class Moments(NamedTuple):
    """Sums over pictures of a channel's mean distance, and mean squared distance, from its running mean: far sums of squares would cancel."""

    first: Float[Array, "c"]
    second: Float[Array, "c"]


class BatchMoments(NamedTuple):
    """`layers` is a tree of `Moments` with the paths that the layers have among the parameters; `count` pictures were summed over."""

    count: Float[Array, ""]
    layers: PyTree


class BatchNorm(nnx.Module):
    """Normalizes channels, in float32. `counted` (training) weighs the pictures that make the statistics; without it the running ones are used."""

    def __init__(self, width: int, *, epsilon: float, dtype: DTypeLike, rngs: nnx.Rngs):
        del rngs  # nothing is drawn
        self.scale, self.bias = nnx.Param(jnp.ones(width)), nnx.Param(jnp.zeros(width))
        self.mean, self.var = nnx.BatchStat(jnp.zeros(width)), nnx.BatchStat(jnp.ones(width))
        self.epsilon, self.dtype = epsilon, dtype

    def __call__(
        self, x: Float[Array, "n h w c"], counted: Float[Array, "n"] | None = None
    ) -> tuple[Float[Array, "n h w c"], Moments | None]:
        x = x.astype(jnp.float32)
        mean, var, moments = self.mean[...], self.var[...], None
        if counted is not None:
            count = counted.sum()
            shares = counted / jnp.maximum(count, 1.0)
            batch_mean = shares @ x.mean(axis=(1, 2))
            batch_var = shares @ jnp.square(x - batch_mean).mean(axis=(1, 2))
            distance = batch_mean - mean
            moments = jax.lax.stop_gradient(
                Moments(count * distance, count * (batch_var + jnp.square(distance)))
            )
            # A part of a batch may hold nothing but filler: without this it would grow from layer to layer until it is no number.
            mean, var = jnp.where(count > 0, batch_mean, mean), jnp.where(count > 0, batch_var, var)
        y = (x - mean) * (jax.lax.rsqrt(var + self.epsilon) * self.scale[...]) + self.bias[...]
        return y.astype(self.dtype), moments


def update_running_stats(
    params: Mapping[str, Any],
    before: Mapping[str, Any],
    moments: BatchMoments | None,
    momentum: float,
) -> dict[str, Any]:
    """`params` with the running statistics of `before`, moved towards those of the batch by `momentum` (0 to 1); as they were if nothing was counted.

    The statistics are those of the last 1 / `momentum` steps. Where the other parameters move fast in that time, as in a run of a few hundred steps
    at a momentum of 0.01, they fit none of them, and evaluation sees another model than training did.

    `before` are the parameters that the batch was run with: what an optimizer made of their statistics (weight decay, if nothing else) is dropped.
    """
    share = jnp.zeros(()) if moments is None else jnp.where(moments.count > 0, momentum, 0.0)

    def moved(new: Any, old: Any, sums: Any) -> Any:
        if not isinstance(new, Mapping):
            return new
        if not is_batch_norm(new):
            return {
                name: moved(below, old[name], None if sums is None else sums.get(name))
                for name, below in new.items()
            }
        if sums is None:
            return dict(new) | {"mean": old["mean"], "var": old["var"]}
        first, second = (part / jnp.maximum(moments.count, 1.0) for part in sums)
        batch_var = jnp.maximum(second - jnp.square(first), 0.0)
        return dict(new) | {
            "mean": old["mean"] + share * first,
            "var": old["var"] + share * (batch_var - old["var"]),
        }

    return moved(params, before, None if moments is None else moments.layers)


def zero_moments(params: Mapping[str, Any]) -> BatchMoments | None:
    """What parts of a batch are added to; None for parameters without BatchNorm."""

    def zeros(node: Any) -> Any:
        if not isinstance(node, Mapping):
            return None
        if is_batch_norm(node):
            return Moments(jnp.zeros_like(node["mean"]), jnp.zeros_like(node["var"]))
        below = {name: zeros(child) for name, child in node.items()}
        return {name: child for name, child in below.items() if child is not None} or None

    layers = zeros(params)
    return None if layers is None else BatchMoments(jnp.zeros(()), layers)


def is_batch_norm(node: Mapping[str, Any]) -> bool:
    """Whether these are the parameters of one `BatchNorm`."""
    return {"mean", "var"} <= node.keys()
