"""Token merging at inference (ToMe, Bolya et al. 2023): after each block's attention the most alike tokens of a picture become one.

A merged token is the mean of those it stands for and carries how many they are; attention and the mean over the tokens count it so many times.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def merge_tokens(
    x: Float[Array, "b s d"], sizes: Float[Array, "b s"], metric: Float[Array, "b s k"], count: int
) -> tuple[Float[Array, "b r d"], Float[Array, "b r"]]:
    """`count` fewer tokens, and their sizes. The first (the class token) is left alone; at most half of the others can go.

    Tokens at even places look for the token at an odd place whose `metric` points most nearly the same way; the `count` best pairs are merged
    (bipartite soft matching). What stays comes first: the class token, unmerged even places, odd places.
    """
    count = min(count, (x.shape[1] - 1) // 2)
    if count <= 0:
        return x, sizes
    unit = metric.astype(jnp.float32)
    unit = unit / jnp.maximum(jnp.linalg.norm(unit, axis=-1, keepdims=True), 1e-6)
    # Places 2, 4, ... choose among 1, 3, ...: with the class token at 0, no more choose than can be chosen.
    likeness = jnp.einsum("iak,ick->iac", unit[:, 2::2], unit[:, 1::2])
    order = jnp.argsort(-likeness.max(axis=-1), axis=-1)
    going, staying = order[:, :count], order[:, count:]
    target = jnp.take_along_axis(likeness.argmax(axis=-1), going, axis=1)

    weighted = jnp.concatenate(
        [x.astype(jnp.float32) * sizes[..., None], sizes[..., None]], axis=-1
    )  # sums, their last entry the size
    even, odd = weighted[:, 2::2], weighted[:, 1::2]
    moved = jnp.take_along_axis(even, going[..., None], axis=1)
    odd = odd.at[jnp.arange(x.shape[0])[:, None], target].add(moved)
    kept = jnp.concatenate(
        [weighted[:, :1], jnp.take_along_axis(even, staying[..., None], axis=1), odd], axis=1
    )
    return (kept[..., :-1] / kept[..., -1:]).astype(x.dtype), kept[..., -1]


def proportional_attention(
    query: Float[Array, "b l n k"],
    key: Float[Array, "b s n k"],
    value: Float[Array, "b s n k"],
    sizes: Float[Array, "b s"],
) -> Float[Array, "b l width"]:
    """Attention in which a token counts as often as the tokens that it stands for: softmax(query key^T / sqrt(k) + log size) value."""
    scores = (
        jnp.einsum("blnk,bsnk->bnls", query, key, preferred_element_type=jnp.float32)
        * query.shape[-1] ** -0.5
    )
    weights = jax.nn.softmax(scores + jnp.log(sizes)[:, None, None, :])
    out = jnp.einsum("bnls,bsnk->blnk", weights.astype(value.dtype), value)
    return out.reshape(*out.shape[:2], -1)
