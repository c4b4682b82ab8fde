"""Attention, dropout and masks as pure functions; the modules around them live beside the networks that use them."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key


def dropout(x: Float[Array, "..."], rate: float, key: Key[Array, ""] | None) -> Float[Array, "..."]:
    """Zeroes a share `rate` of the entries and scales the rest up; without a key it does nothing (evaluation)."""
    if key is None or rate == 0.0:
        return x
    kept = jax.random.bernoulli(key, 1.0 - rate, x.shape)
    return jnp.where(kept, x / (1.0 - rate), jnp.zeros_like(x))


def drop_path(x: Float[Array, "b ..."], rate: Float[Array, ""] | float, key: Key[Array, ""] | None) -> Float[Array, "b ..."]:
    """Stochastic depth (Huang et al. 2016): the whole residual branch of an example is dropped with probability `rate`."""
    if key is None:
        return x
    kept = jax.random.bernoulli(key, 1.0 - rate, (x.shape[0],) + (1,) * (x.ndim - 1))
    return jnp.where(kept, x / (1.0 - jnp.asarray(rate, x.dtype)), jnp.zeros_like(x))


def key_for(key: Key[Array, ""] | None, number: int | Int[Array, ""]) -> Key[Array, ""] | None:
    """The `number`-th key derived from `key`, so that each use of randomness in a module has one of its own."""
    return None if key is None else jax.random.fold_in(key, number)


def length_mask(lengths: Int[Array, "b"], size: int) -> Bool[Array, "b size"]:
    """True at the first `lengths[i]` of `size` positions."""
    return jnp.arange(size) < lengths[:, None]


def split_heads(x: Float[Array, "*shape width"], heads: int) -> Float[Array, "*shape heads head_width"]:
    return x.reshape(*x.shape[:-1], heads, x.shape[-1] // heads)


def attention_weights(
    query: Float[Array, "b l n k"], key: Float[Array, "b s n k"], mask: Bool[Array, "#b #l s"] | None = None
) -> Float[Array, "b n l s"]:
    """softmax(query key^T / sqrt(k)) in float32; `mask` is True where a query may look."""
    scores = jnp.einsum("blnk,bsnk->bnls", query, key, preferred_element_type=jnp.float32) * query.shape[-1] ** -0.5
    if mask is not None:
        scores = jnp.where(mask[:, None], scores, jnp.finfo(jnp.float32).min)
    return jax.nn.softmax(scores)


def attend(
    query: Float[Array, "b l n k"],
    key: Float[Array, "b s n k"],
    value: Float[Array, "b s n k"],
    mask: Bool[Array, "#b #l s"] | None = None,
    *,
    dropout_rate: float = 0.0,
    dropout_key: Key[Array, ""] | None = None,
) -> Float[Array, "b l width"]:
    """softmax(query key^T / sqrt(k)) value, heads side by side in the last axis (width = n k).

    `mask` is True where a query may look. The softmax is computed in float32. Dropout falls on the attention weights, as in the reference;
    without it the fused `jax.nn.dot_product_attention` is used.
    """
    if dropout_key is None or dropout_rate == 0.0:
        out = jax.nn.dot_product_attention(query, key, value, mask=None if mask is None else mask[:, None])
    else:
        weights = dropout(attention_weights(query, key, mask).astype(query.dtype), dropout_rate, dropout_key)
        out = jnp.einsum("bnls,bsnk->blnk", weights, value)
    return out.reshape(*out.shape[:2], -1)
