"""Attention, dropout and masks as pure functions; the modules around them live beside the networks that use them."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, DTypeLike, Float, Int, Key

from signvit_jax.parallel.tracing import bernoulli_by_rows, traced_device

DimSize = int | Any  # or a symbol, where a program is exported for clips of any length


def dropout(x: Float[Array, "..."], rate: float, key: Key[Array, ""] | None) -> Float[Array, "..."]:
    """Zeroes a share `rate` of the entries and scales the rest up; without a key it does nothing (evaluation)."""
    if key is None or rate == 0.0:
        return x
    # The counter of threefry is partitioned by XLA like any other array; the device's own generator is not.
    draw = bernoulli_by_rows if jax.random.key_impl(key) == "rbg" else jax.random.bernoulli
    kept = draw(key, 1.0 - rate, x.shape)
    return jnp.where(kept, x / (1.0 - rate), jnp.zeros_like(x))


def drop_path(
    x: Float[Array, "b ..."], rate: Float[Array, ""] | float, key: Key[Array, ""] | None
) -> Float[Array, "b ..."]:
    """Stochastic depth (Huang et al. 2016): the whole residual branch of an example is dropped with probability `rate`."""
    if key is None:
        return x
    kept = jax.random.bernoulli(key, 1.0 - rate, (x.shape[0],) + (1,) * (x.ndim - 1))
    return jnp.where(kept, x / (1.0 - jnp.asarray(rate, x.dtype)), jnp.zeros_like(x))


def key_for(key: Key[Array, ""] | None, number: int | Int[Array, ""]) -> Key[Array, ""] | None:
    """The `number`-th key derived from `key`, so that each use of randomness in a module has one of its own."""
    return None if key is None else jax.random.fold_in(key, number)


def length_mask(lengths: Int[Array, "b"], size: DimSize) -> Bool[Array, "b size"]:
    """True at the first `lengths[i]` of `size` positions."""
    return jax.lax.iota(jnp.int32, size) < lengths[:, None]


def split_heads(
    x: Float[Array, "*shape width"], heads: int
) -> Float[Array, "*shape heads head_width"]:
    return x.reshape(*x.shape[:-1], heads, x.shape[-1] // heads)


def attention_weights(
    query: Float[Array, "b l n k"],
    key: Float[Array, "b s n k"],
    mask: Bool[Array, "#b #l s"] | None = None,
) -> Float[Array, "b n l s"]:
    """softmax(query key^T / sqrt(k)) in float32; `mask` is True where a query may look."""
    scores = (
        jnp.einsum("blnk,bsnk->bnls", query, key, preferred_element_type=jnp.float32)
        * query.shape[-1] ** -0.5
    )
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
    implementation: str = "xla",
) -> Float[Array, "b l width"]:
    """softmax(query key^T / sqrt(k)) value, heads side by side in the last axis (width = n k).

    `mask` is True where a query may look. The softmax is computed in float32. Dropout falls on the attention weights, as in the reference.

    `implementation` is 'xla', 'recompute', 'cudnn' or 'auto'; all give the same numbers up to rounding. 'recompute' is 'xla' without anything of
    shape (b, n, l, s) kept for the backward pass, which computes it again. 'cudnn' is the fused kernel of NVIDIA's GPUs and takes neither a mask
    nor dropout: raises ValueError for them. 'auto' is `fastest_attention`'s choice.
    """
    drops = dropout_key is not None and dropout_rate > 0.0
    if implementation == "auto":
        implementation = fastest_attention(
            query.dtype, query.shape[-1], plain=mask is None and not drops
        )
    if implementation == "cudnn":
        if mask is not None or drops:
            raise ValueError(
                "cudnn attention is offered without mask and dropout; choose 'auto', 'xla' or 'recompute' for a network that has them"
            )
        out = attend_at_even_length(query, key, value, implementation="cudnn")
    else:
        run = partial(_attend, dropout_rate=dropout_rate if drops else 0.0)
        out = (jax.checkpoint(run) if implementation == "recompute" else run)(
            query, key, value, mask, dropout_key
        )
    return out.reshape(*out.shape[:2], -1)


def attend_at_even_length(
    query: Float[Array, "b l n k"],
    key: Float[Array, "b s n k"],
    value: Float[Array, "b s n k"],
    *,
    implementation: str,
) -> Float[Array, "b l n k"]:
    """`jax.nn.dot_product_attention` with an odd length padded by one token, which nothing attends to.

    JAX 0.11 and 0.12 refuse to differentiate cuDNN's attention at an odd length, as they ask of one with
    a bias: they take their own placeholder for a bias. A ViT has an odd length: patches and a class token.
    """
    queries, keys = query.shape[1], key.shape[1]
    if queries % 2 == 0 and keys % 2 == 0:
        return jax.nn.dot_product_attention(query, key, value, implementation=implementation)
    query, key, value = (
        jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, 0), (0, 0))) for x in (query, key, value)
    )
    lengths = {
        "query_seq_lengths": jnp.full(query.shape[0], queries, jnp.int32),
        "key_value_seq_lengths": jnp.full(query.shape[0], keys, jnp.int32),
    }
    return jax.nn.dot_product_attention(
        query, key, value, implementation=implementation, **lengths
    )[:, :queries]


def fastest_attention(dtype: DTypeLike, head_width: int, *, plain: bool) -> str:
    """What 'auto' stands for on the devices that the program is traced for: 'cudnn' where it can be had
    (NVIDIA since Ampere, half precision, heads of 8, 16 ... 128, and `plain`: no mask, no dropout), on another
    GPU or input 'recompute', which keeps as little as a fused kernel does, and 'xla' on everything else.
    """
    device = traced_device()
    if device.platform not in ("gpu", "cuda", "rocm"):
        return "xla"
    generation = str(getattr(device, "compute_capability", "")).partition(".")[
        0
    ]  # AMD's names are no numbers
    ampere = generation.isdecimal() and int(generation) >= 8
    half = jnp.dtype(dtype) in (jnp.bfloat16, jnp.float16)
    return (
        "cudnn"
        if ampere and half and plain and head_width % 8 == 0 and head_width <= 128
        else "recompute"
    )


def _attend(
    query: Float[Array, "b l n k"],
    key: Float[Array, "b s n k"],
    value: Float[Array, "b s n k"],
    mask: Bool[Array, "#b #l s"] | None,
    dropout_key: Key[Array, ""] | None,
    *,
    dropout_rate: float,
) -> Float[Array, "b l n k"]:
    if dropout_rate > 0.0:
        weights = dropout(
            attention_weights(query, key, mask).astype(query.dtype), dropout_rate, dropout_key
        )
        return jnp.einsum("bnls,bsnk->blnk", weights, value)
    if mask is not None:
        return jax.nn.dot_product_attention(query, key, value, mask=mask[:, None])
    # Heads moved before the sequence by hand: XLA on a CPU takes twice as long for the same products over strided heads.
    query, key, value = (x.swapaxes(1, 2) for x in (query, key, value))
    scores = (
        jnp.einsum("bnlk,bnsk->bnls", query, key, preferred_element_type=jnp.float32)
        * query.shape[-1] ** -0.5
    )
    return jnp.einsum(
        "bnls,bnsk->bnlk", jax.nn.softmax(scores).astype(value.dtype), value
    ).swapaxes(1, 2)
