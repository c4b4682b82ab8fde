"""Attention, dropout and masks as pure functions."""

from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, DTypeLike, Float, Int, Key

from signvit_jax.layers.hashed_bits import draws_hashes
from signvit_jax.layers.kept_arrays import ATTENDED, keep
from signvit_jax.parallel.current_mesh import GPU_PLATFORMS, bernoulli_by_rows, traced_device

DimSize = int | Any  # an integer, or a symbol while a program for clips of any length is exported


def dropout(x: Float[Array, "..."], rate: float, rng: Key[Array, ""] | None) -> Float[Array, "..."]:
    """Set a share `rate` of the entries to zero and scale the others by 1 / (1 - rate).

    Returns `x` unchanged without a key (evaluation).
    """
    if rng is None or rate == 0.0:
        return x
    if draws_hashes(rng):
        kept = jax.random.bits(rng, x.shape) >= jnp.uint32(round(rate * 2**32))
    elif jax.random.key_impl(rng) == "rbg":
        # XLA partitions other generators like any computation, but not the device's own.
        kept = bernoulli_by_rows(rng, 1.0 - rate, x.shape)
    else:
        kept = jax.random.bernoulli(rng, 1.0 - rate, x.shape)
    return jnp.where(kept, x / (1.0 - rate), jnp.zeros_like(x))


def drop_path(
    x: Float[Array, "b ..."], rate: Float[Array, ""] | float, rng: Key[Array, ""] | None
) -> Float[Array, "b ..."]:
    """Stochastic depth (Huang et al. 2016): drop the residual branch of an example.

    That happens with probability `rate`; the branches that stay are scaled by 1 / (1 - rate).
    """
    if rng is None:
        return x
    kept = jax.random.bernoulli(rng, 1.0 - rate, (x.shape[0],) + (1,) * (x.ndim - 1))
    return jnp.where(kept, x / (1.0 - jnp.asarray(rate, x.dtype)), jnp.zeros_like(x))


def length_mask(lengths: Int[Array, "b"], size: DimSize) -> Bool[Array, "b size"]:
    """True at the first `lengths[i]` of `size` positions."""
    return jax.lax.iota(jnp.int32, size) < lengths[:, None]


def split_heads(
    x: Float[Array, "*shape width"], heads: int
) -> Float[Array, "*shape heads head_width"]:
    """Split the last axis into heads."""
    return x.reshape(*x.shape[:-1], heads, x.shape[-1] // heads)


def attention_scores(
    query: Float[Array, "b l n k"], key: Float[Array, "b s n k"]
) -> Float[Array, "b n l s"]:
    """query key^T / sqrt(k) in float32."""
    products = jnp.einsum("blnk,bsnk->bnls", query, key, preferred_element_type=jnp.float32)
    return products * query.shape[-1] ** -0.5


def attention_weights(
    query: Float[Array, "b l n k"],
    key: Float[Array, "b s n k"],
    mask: Bool[Array, "#b #l s"] | None = None,
) -> Float[Array, "b n l s"]:
    """softmax(query key^T / sqrt(k)) in float32; `mask` is True where a query may attend."""
    scores = attention_scores(query, key)
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
    dropout_rng: Key[Array, ""] | None = None,
    implementation: str = "xla",
    num_tokens: int | None = None,
) -> Float[Array, "b l width"]:
    """softmax(query key^T / sqrt(k)) value, with the heads concatenated (width = n k).

    `mask` is True where a query may attend. In self-attention the positions from `num_tokens` on
    are padding (None: none are), to which nothing attends; their own outputs mean nothing. The
    softmax is in float32. Dropout acts on the attention weights, as in the reference system.

    All implementations agree up to rounding:

    - 'xla': products and softmax as XLA compiles them.
    - 'recompute': the same, but the backward pass recomputes everything of shape (b, n, l, s).
    - 'cudnn': the fused kernel for NVIDIA GPUs. Raises ValueError with a mask or dropout.
    - 'auto': the choice of `fastest_attention`.
    """
    drops = dropout_rng is not None and dropout_rate > 0.0
    if implementation == "auto":
        plain = mask is None and not drops
        implementation = fastest_attention(query.dtype, query.shape[-1], plain=plain)
    if implementation == "cudnn":
        if mask is not None or drops:
            raise ValueError(
                "cudnn attention supports neither a mask nor dropout; "
                "choose 'auto', 'xla' or 'recompute' for a network that has them"
            )
        out = attend_at_even_length(
            query, key, value, implementation="cudnn", num_tokens=num_tokens
        )
    else:
        if num_tokens is not None:
            is_token = (jnp.arange(key.shape[1]) < num_tokens)[None, None]
            mask = is_token if mask is None else mask & is_token
        run = partial(_attend, dropout_rate=dropout_rate if drops else 0.0)
        if implementation == "recompute":
            run = jax.checkpoint(run)
        out = keep(run(query, key, value, mask, dropout_rng), ATTENDED, dropout_rng)
    return out.reshape(*out.shape[:2], -1)


def attend_at_even_length(
    query: Float[Array, "b l n k"],
    key: Float[Array, "b s n k"],
    value: Float[Array, "b s n k"],
    *,
    implementation: Literal["xla", "cudnn"],
    num_tokens: int | None = None,
) -> Float[Array, "b l n k"]:
    """`jax.nn.dot_product_attention`, with odd lengths padded by one position that is masked.

    JAX 0.11 and 0.12 refuse to differentiate cuDNN's attention at an odd length: they mistake the
    placeholder of a missing bias for a bias, which needs even lengths. The length of a ViT is odd:
    patches and a class token.

    Positions from `num_tokens` on are padding already. Their outputs and gradients are zero.
    """
    queries, keys = query.shape[1], key.shape[1]
    if queries % 2 == 0 and keys % 2 == 0 and num_tokens is None:
        return jax.nn.dot_product_attention(query, key, value, implementation=implementation)
    query, key, value = (
        jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, 0), (0, 0))) for x in (query, key, value)
    )
    out = jax.nn.dot_product_attention(
        query,
        key,
        value,
        query_seq_lengths=jnp.full(query.shape[0], num_tokens or queries, jnp.int32),
        key_value_seq_lengths=jnp.full(query.shape[0], num_tokens or keys, jnp.int32),
        implementation=implementation,
    )
    return out[:, :queries]


def needs_even_length(
    implementation: str, dtype: DTypeLike, head_width: int, *, plain: bool
) -> bool:
    """Return True if `attend`, in training, would pad queries, keys and values of an odd length.

    A network that pads its tokens once, and passes `num_tokens`, avoids three copies per layer.
    """
    if implementation == "auto":
        implementation = fastest_attention(dtype, head_width, plain=plain)
    return implementation == "cudnn"


def fastest_attention(dtype: DTypeLike, head_width: int, *, plain: bool) -> str:
    """Choose the implementation for 'auto' on the devices that the program is traced for.

    - 'cudnn' where it is supported: NVIDIA GPUs since Ampere, half precision, a head width of
      8, 16, ..., 128, and `plain` (neither mask nor dropout).
    - 'recompute' on other GPUs and for other inputs: it keeps as few arrays as a fused kernel.
    - 'xla' on all other devices.
    """
    device = traced_device()
    if device.platform not in GPU_PLATFORMS:
        return "xla"
    # "9.0" on NVIDIA; AMD's names, such as "gfx90a", are not numbers.
    generation = str(getattr(device, "compute_capability", "")).partition(".")[0]
    since_ampere = generation.isdecimal() and int(generation) >= 8
    half = jnp.dtype(dtype) in (jnp.bfloat16, jnp.float16)
    width_fits = head_width % 8 == 0 and head_width <= 128
    return "cudnn" if since_ampere and half and plain and width_fits else "recompute"


def _attend(
    query: Float[Array, "b l n k"],
    key: Float[Array, "b s n k"],
    value: Float[Array, "b s n k"],
    mask: Bool[Array, "#b #l s"] | None,
    dropout_rng: Key[Array, ""] | None,
    *,
    dropout_rate: float,
) -> Float[Array, "b l n k"]:
    if dropout_rate > 0.0:
        weights = attention_weights(query, key, mask).astype(query.dtype)
        weights = dropout(weights, dropout_rate, dropout_rng)
        return jnp.einsum("bnls,bsnk->blnk", weights, value)
    if mask is not None:
        return jax.nn.dot_product_attention(query, key, value, mask=mask[:, None])
    # Heads before positions: on a CPU the same products over strided heads take XLA twice as long.
    query, key, value = (x.swapaxes(1, 2) for x in (query, key, value))
    scores = (
        jnp.einsum("bnlk,bnsk->bnls", query, key, preferred_element_type=jnp.float32)
        * query.shape[-1] ** -0.5
    )
    weights = jax.nn.softmax(scores).astype(value.dtype)
    return jnp.einsum("bnls,bnsk->bnlk", weights, value).swapaxes(1, 2)
