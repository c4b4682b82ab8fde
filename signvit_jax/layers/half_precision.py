"""LayerNorm and the linear map after it, for training in half precision on accelerators.

There the speed of memory limits a step of a large ViT: a block writes arrays for its backward pass
and reads them in it, which takes longer than its matrix products. These functions compute the same
as `nnx.LayerNorm` and `nnx.Linear` up to rounding, and read and write fewer bytes.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.experimental.layout import Layout, with_layout_constraint
from jaxtyping import Array, DTypeLike, Float

from signvit_jax.layers.kept_arrays import NORMALIZED
from signvit_jax.parallel.current_mesh import traces_for_gpu


def is_half(dtype: DTypeLike) -> bool:
    """Return True if arrays of `dtype` have two bytes per number."""
    return jnp.dtype(dtype).itemsize == 2


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def normalize(x: Float[Array, "*shape d"], epsilon: float) -> Float[Array, "*shape d"]:
    """Subtract the mean of the last axis and divide by its standard deviation, in float32.

    For the backward pass it keeps the result, in the dtype of `x`, and one float32 per row; JAX's
    own derivative keeps three arrays of the size of `x` in float32.
    """
    return _normalize(x, epsilon)[0]


def _normalize(x: Array, epsilon: float) -> tuple[Array, Array]:
    wide = x.astype(jnp.float32)
    mean = wide.mean(axis=-1, keepdims=True)
    # One pass over `x`, as in nnx.LayerNorm; rounding may take the difference below zero.
    variance = jnp.maximum(jnp.square(wide).mean(axis=-1, keepdims=True) - jnp.square(mean), 0.0)
    inverse = jax.lax.rsqrt(variance + epsilon)
    return ((wide - mean) * inverse).astype(x.dtype), inverse


def _normalize_forward(x: Array, epsilon: float) -> tuple[Array, tuple[Array, Array]]:
    normalized, inverse = (checkpoint_name(value, NORMALIZED) for value in _normalize(x, epsilon))
    return normalized, (normalized, inverse)


def _normalize_backward(epsilon: float, kept: tuple[Array, Array], gradient: Array) -> tuple[Array]:
    del epsilon  # the kept inverse of the standard deviation contains it
    normalized, inverse = kept
    wide, gradient_wide = normalized.astype(jnp.float32), gradient.astype(jnp.float32)
    mean = gradient_wide.mean(axis=-1, keepdims=True)
    along = (gradient_wide * wide).mean(axis=-1, keepdims=True)
    return ((inverse * (gradient_wide - mean - wide * along)).astype(gradient.dtype),)


normalize.defvjp(_normalize_forward, _normalize_backward)


def absorb_norm(
    norm: nnx.LayerNorm, linear: nnx.Linear, dtype: DTypeLike
) -> tuple[Float[Array, "d k"], Float[Array, "k"]]:
    """Return the (kernel, bias) in `dtype` with which `normalize` replaces `norm` before `linear`.

    Scale and offset of the norm become part of the kernel and the bias. So the backward pass needs
    only the normalized array, and the gradients of scale and offset come from the gradient of the
    kernel, not from sums over all positions.
    """
    assert linear.bias is not None and norm.scale is not None and norm.bias is not None
    kernel = linear.kernel[...].astype(jnp.float32)
    bias = linear.bias[...] + jnp.sum(norm.bias[...][:, None] * kernel, axis=0)
    return (norm.scale[...][:, None] * kernel).astype(dtype), bias.astype(dtype)


def gelu_in_float32(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The exact GELU, rounded once.

    XLA computes erf again wherever it is needed. The erfc in `jax.nn.gelu` takes many more
    operations, so XLA stores its result in float32, for the value and the derivative.
    """
    wide = x.astype(jnp.float32)
    return (0.5 * wide * (1.0 + jax.lax.erf(wide * jnp.float32(0.5**0.5)))).astype(x.dtype)


def in_row_major(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Make a program for GPUs store `x` row by row.

    By default XLA gives the tokens of all layers the layout that suits the patch embedding or the
    mean over the tokens, and every product of every layer has to transpose its input.
    """
    if not traces_for_gpu():
        return x
    return with_layout_constraint(x, Layout(tuple(range(x.ndim))))
