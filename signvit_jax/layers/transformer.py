"""Layers that several networks share: linear maps, norms, feed-forward, attention, the block."""

from collections.abc import Callable
from typing import cast

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, DTypeLike, Float, Key

from signvit_jax.layers.attention import (
    attend,
    attention_weights,
    drop_path,
    dropout,
    split_heads,
)
from signvit_jax.layers.half_precision import absorb_norm, gelu_in_float32, is_half, normalize
from signvit_jax.layers.kept_arrays import HIDDEN, NORMALIZED, PROJECTED, keep
from signvit_jax.layers.random_streams import fold
from signvit_jax.parallel.current_mesh import over_tensor, tensor_ways

LAYER_NORM_EPSILON = 1e-5

truncated_normal = jax.nn.initializers.truncated_normal(0.02)


def linear(
    inputs: int, outputs: int, *, dtype: DTypeLike, rngs: nnx.Rngs, bias: bool = True
) -> nnx.Linear:
    """Make a linear layer: Xavier-uniform kernel, zero bias, float32 parameters.

    It computes in `dtype`.
    """
    return nnx.Linear(
        inputs,
        outputs,
        use_bias=bias,
        kernel_init=nnx.initializers.xavier_uniform(),
        dtype=dtype,
        param_dtype=jnp.float32,
        rngs=rngs,
    )


def linear_in_float32(inputs: int, outputs: int, *, dtype: DTypeLike, rngs: nnx.Rngs) -> nnx.Linear:
    """Make a `linear` for logits: factors in `dtype`; sums, bias and outputs in float32.

    In bfloat16, logits near 16 are multiples of 1/8, which is too coarse for a loss over many
    words.
    """
    layer = linear(inputs, outputs, dtype=dtype, rngs=rngs)
    layer.promote_dtype = _promote_factors
    layer.preferred_element_type = jnp.float32
    return layer


def _promote_factors[Arrays: tuple](
    args: Arrays, /, *, dtype: DTypeLike = jnp.float32, inexact: bool = True
) -> Arrays:
    """Flax's `promote_dtype` of a linear layer, which leaves the bias in float32."""
    del inexact  # all are floats
    x, kernel, bias = args
    return cast(Arrays, (x.astype(dtype), kernel.astype(dtype), bias))


def layer_norm(
    width: int, *, dtype: DTypeLike, rngs: nnx.Rngs, epsilon: float = LAYER_NORM_EPSILON
) -> nnx.LayerNorm:
    """Make a LayerNorm with float32 parameters that returns `dtype`."""
    return nnx.LayerNorm(width, epsilon=epsilon, dtype=dtype, param_dtype=jnp.float32, rngs=rngs)


def gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The exact GELU: x P(X <= x) for a standard normal X.

    `jax.nn.gelu` is looked up at each call because the ONNX export replaces it by its own operator.
    """
    return jax.nn.gelu(x, approximate=False)


def fused_projection(
    linear: Callable[[Array], Array], x: Float[Array, "*shape d"], num_projections: int, heads: int
) -> tuple[Float[Array, "*shape n k"], ...]:
    """Apply several projections with one kernel (d, num_projections n k), and split their heads.

    A tensor axis shards the kernel in contiguous parts, which are not heads, so the product would
    have to be resharded. With such an axis the kernel, which is much smaller, is resharded by heads
    before the product.
    """
    if tensor_ways() == 1 or not isinstance(linear, nnx.Linear):
        outputs = jnp.split(linear(x), num_projections, axis=-1)
        return tuple(split_heads(output, heads) for output in outputs)
    assert linear.bias is not None
    kernel, bias = linear.kernel[...].astype(x.dtype), linear.bias[...].astype(x.dtype)
    return separate_projections(x, kernel, bias, num_projections, heads)


def separate_projections(
    x: Float[Array, "*shape d"],
    kernel: Float[Array, "d fused"],
    bias: Float[Array, "fused"],
    num_projections: int,
    heads: int,
) -> tuple[Float[Array, "*shape n k"], ...]:
    """Apply the parts of a fused kernel one by one, each with its own product.

    A tensor axis shards them by heads. By default XLA would shard the axis that is summed over, and
    sum three arrays of activations over the devices.
    """
    kernel = over_tensor(kernel.reshape(kernel.shape[0], num_projections, heads, -1), 2)
    bias = over_tensor(bias.reshape(kernel.shape[1:]), 1)
    return tuple(
        over_tensor(jnp.einsum("...d,dnk->...nk", x, kernel[:, i]) + bias[i], -2)
        for i in range(num_projections)
    )


class FeedForward(nnx.Module):
    """Linear -> GELU -> dropout -> Linear."""

    def __init__(
        self, width: int, hidden: int, *, dropout_rate: float, dtype: DTypeLike, rngs: nnx.Rngs
    ):
        self.expand = linear(width, hidden, dtype=dtype, rngs=rngs)
        self.contract = linear(hidden, width, dtype=dtype, rngs=rngs)
        self.dropout_rate = dropout_rate

    def __call__(
        self, x: Float[Array, "*shape d"], rng: Key[Array, ""] | None = None
    ) -> Float[Array, "*shape d"]:
        hidden = keep(self.expand(x), HIDDEN, rng)
        return self.contract(dropout(gelu(hidden), self.dropout_rate, rng))

    def of_norm(
        self, norm: nnx.LayerNorm, x: Float[Array, "*shape d"], rng: Key[Array, ""] | None
    ) -> Float[Array, "*shape d"]:
        """Return the output for `norm(x)`, computed as `half_precision` describes."""
        kernel, bias = absorb_norm(norm, self.expand, x.dtype)
        hidden = keep(normalize(x, norm.epsilon) @ kernel + bias, HIDDEN, rng)
        activated = gelu_in_float32(hidden)
        return self.contract(dropout(activated, self.dropout_rate, rng))


class SelfAttention(nnx.Module):
    """Multi-head self-attention with one fused, biased projection in the order query, key, value.

    `implementation` is that of `attend`.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        dropout_rate: float,
        implementation: str = "xla",
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.qkv = linear(width, 3 * width, dtype=dtype, rngs=rngs)
        self.out = linear(width, width, dtype=dtype, rngs=rngs)
        self.heads = heads
        self.dropout_rate = dropout_rate
        self.implementation = implementation

    def project(
        self, x: Float[Array, "*shape d"]
    ) -> tuple[Float[Array, "*shape n k"], Float[Array, "*shape n k"], Float[Array, "*shape n k"]]:
        """Return query, key and value."""
        query, key, value = fused_projection(self.qkv, x, 3, self.heads)
        return query, key, value

    def __call__(
        self,
        x: Float[Array, "b s d"],
        mask: Bool[Array, "#b #s s"] | None = None,
        rng: Key[Array, ""] | None = None,
        num_tokens: int | None = None,
    ) -> Float[Array, "b s d"]:
        """Positions from `num_tokens` on are padding (None: none are)."""
        return self._attend(self.project(x), mask, rng, num_tokens)

    def of_norm(
        self,
        norm: nnx.LayerNorm,
        x: Float[Array, "b s d"],
        mask: Bool[Array, "#b #s s"] | None,
        rng: Key[Array, ""] | None,
        num_tokens: int | None = None,
    ) -> Float[Array, "b s d"]:
        """Return the output for `norm(x)`, computed as `half_precision` describes.

        Positions from `num_tokens` on are padding (None: none are).
        """
        kernel, bias = absorb_norm(norm, self.qkv, x.dtype)
        query, key, value = separate_projections(
            normalize(x, norm.epsilon), kernel, bias, 3, self.heads
        )
        return self._attend((query, key, value), mask, rng, num_tokens)

    def _attend(
        self,
        projected: tuple[Array, Array, Array],
        mask: Bool[Array, "#b #s s"] | None,
        rng: Key[Array, ""] | None,
        num_tokens: int | None = None,
    ) -> Float[Array, "b s d"]:
        query, key, value = (keep(array, PROJECTED, rng) for array in projected)
        attended = attend(
            query,
            key,
            value,
            mask,
            dropout_rate=self.dropout_rate,
            dropout_rng=rng,
            implementation=self.implementation,
            num_tokens=num_tokens,
        )
        return self.out(attended)


class CrossAttention(nnx.Module):
    """Multi-head attention from one sequence to another, its memory.

    Keys and values come from one fused projection.
    """

    def __init__(
        self, width: int, heads: int, *, dropout_rate: float, dtype: DTypeLike, rngs: nnx.Rngs
    ):
        self.query = linear(width, width, dtype=dtype, rngs=rngs)
        self.key_value = linear(width, 2 * width, dtype=dtype, rngs=rngs)
        self.out = linear(width, width, dtype=dtype, rngs=rngs)
        self.heads = heads
        self.dropout_rate = dropout_rate

    def project_memory(
        self, memory: Float[Array, "b s d"]
    ) -> tuple[Float[Array, "b s n k"], Float[Array, "b s n k"]]:
        """Return the keys and values of the memory."""
        key, value = fused_projection(self.key_value, memory, 2, self.heads)
        return key, value

    def attend_projected(
        self,
        x: Float[Array, "b l d"],
        key: Float[Array, "b s n k"],
        value: Float[Array, "b s n k"],
        mask: Bool[Array, "#b #l s"] | None = None,
        rng: Key[Array, ""] | None = None,
    ) -> Float[Array, "b l d"]:
        """Attend to the keys and values of `project_memory`."""
        query = split_heads(self.query(x), self.heads)
        return self.out(
            attend(query, key, value, mask, dropout_rate=self.dropout_rate, dropout_rng=rng)
        )

    def weights(
        self,
        x: Float[Array, "b l d"],
        memory: Float[Array, "b s d"],
        mask: Bool[Array, "#b #l s"] | None = None,
    ) -> Float[Array, "b l s"]:
        """Attention weights, averaged over the heads, for diagnostics."""
        key, _ = self.project_memory(memory)
        return attention_weights(split_heads(self.query(x), self.heads), key, mask).mean(axis=1)

    def __call__(
        self,
        x: Float[Array, "b l d"],
        memory: Float[Array, "b s d"],
        mask: Bool[Array, "#b #l s"] | None = None,
        rng: Key[Array, ""] | None = None,
    ) -> Float[Array, "b l d"]:
        return self.attend_projected(x, *self.project_memory(memory), mask, rng)


class TransformerBlock(nnx.Module):
    """Pre-norm block: x + attention(norm(x)), then x + feed_forward(norm(x)).

    Dropout follows each branch. `attention` is the implementation, as in `attend`.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        hidden: int,
        *,
        dropout_rate: float,
        attention_dropout: float,
        attention: str = "xla",
        norm_epsilon: float = LAYER_NORM_EPSILON,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.attention_norm = layer_norm(width, epsilon=norm_epsilon, dtype=dtype, rngs=rngs)
        self.attention = SelfAttention(
            width,
            heads,
            dropout_rate=attention_dropout,
            implementation=attention,
            dtype=dtype,
            rngs=rngs,
        )
        self.feed_forward_norm = layer_norm(width, epsilon=norm_epsilon, dtype=dtype, rngs=rngs)
        self.feed_forward = FeedForward(
            width, hidden, dropout_rate=dropout_rate, dtype=dtype, rngs=rngs
        )
        self.dropout_rate = dropout_rate

    def __call__(
        self,
        x: Float[Array, "b s d"],
        mask: Bool[Array, "#b #s s"] | None = None,
        rng: Key[Array, ""] | None = None,
        drop_path_rate: Float[Array, ""] | float | None = None,
        num_tokens: int | None = None,
    ) -> Float[Array, "b s d"]:
        """Return the block's output.

        `mask` is True where a position may attend. `rng` is the key of dropout and drop path, None
        outside training. Positions from `num_tokens` on are padding (None: none are).
        """

        def regularized(branch: Array, name: str) -> Array:
            branch = dropout(branch, self.dropout_rate, fold(rng, f"block.{name}_branch"))
            if drop_path_rate is None:
                return branch
            return drop_path(branch, drop_path_rate, fold(rng, f"block.{name}_drop_path"))

        absorbs_norms = rng is not None and is_half(x.dtype)  # see `half_precision`
        attention_rng = fold(rng, "block.attention_dropout")
        norm = self.attention_norm
        if absorbs_norms:
            attended = self.attention.of_norm(norm, x, mask, attention_rng, num_tokens)
        else:
            normalized = keep(norm(x), NORMALIZED, rng)
            attended = self.attention(normalized, mask, attention_rng, num_tokens)
        x = x + regularized(attended, "attention")
        feed_forward_rng = fold(rng, "block.feed_forward_dropout")
        norm = self.feed_forward_norm
        if absorbs_norms:
            transformed = self.feed_forward.of_norm(norm, x, feed_forward_rng)
        else:
            transformed = self.feed_forward(keep(norm(x), NORMALIZED, rng), feed_forward_rng)
        return x + regularized(transformed, "feed_forward")
