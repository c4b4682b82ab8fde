"""The layers that several networks share: linear maps and norms with the project's initialization and dtype, and the Transformer block."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, DTypeLike, Float, Int, Key

from signvit_jax.layers.attention import (
    attend,
    attention_weights,
    drop_path,
    dropout,
    key_for,
    split_heads,
)
from signvit_jax.parallel.tracing import tensor_ways

LAYER_NORM_EPSILON = 1e-5

truncated_normal = jax.nn.initializers.truncated_normal(0.02)


def linear(
    inputs: int, outputs: int, *, dtype: DTypeLike, rngs: nnx.Rngs, bias: bool = True
) -> nnx.Linear:
    """Xavier-uniform kernel, zero bias; parameters in float32, computed in `dtype`."""
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
    """`linear` for logits: factors in `dtype`, sums, bias and result in float32.

    In bfloat16 logits near 16 are 1/8 apart, and a loss over many words feels it.
    """
    layer = linear(inputs, outputs, dtype=dtype, rngs=rngs)
    layer.promote_dtype, layer.preferred_element_type = _factors_alone, jnp.float32
    return layer


def _factors_alone(
    arrays: tuple[Array, Array, Array], *, dtype: DTypeLike
) -> tuple[Array, Array, Array]:
    x, kernel, bias = arrays
    return x.astype(dtype), kernel.astype(dtype), bias


def layer_norm(
    width: int, *, dtype: DTypeLike, rngs: nnx.Rngs, epsilon: float = LAYER_NORM_EPSILON
) -> nnx.LayerNorm:
    return nnx.LayerNorm(width, epsilon=epsilon, dtype=dtype, param_dtype=jnp.float32, rngs=rngs)


def gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """x P(X <= x) for a standard normal X, exactly. Looked up in JAX at the call: ONNX export puts its own operator in that place."""
    return jax.nn.gelu(x, approximate=False)


def fused_projection(
    linear: nnx.Module, x: Float[Array, "*shape d"], parts: int, heads: int
) -> tuple[Float[Array, "*shape n k"], ...]:
    """Several projections kept as one kernel (d, parts n k), each as heads: query, key and value of self-attention.

    On a tensor axis the kernel is sharded in contiguous parts, which are not heads: its output would be sent from
    device to device. There the kernel, which is far smaller, is sharded by heads before the product.
    """
    if tensor_ways() == 1:
        return tuple(split_heads(part, heads) for part in jnp.split(linear(x), parts, axis=-1))
    kernel = linear.kernel[...].astype(x.dtype)
    kernel = kernel.reshape(kernel.shape[0], parts, heads, -1)
    bias = linear.bias[...].astype(x.dtype).reshape(kernel.shape[1:])
    return tuple(
        jnp.einsum("...d,dnk->...nk", x, kernel[:, part]) + bias[part] for part in range(parts)
    )


class FeedForward(nnx.Module):
    """Linear -> GELU (erf) -> dropout -> Linear."""

    def __init__(
        self, width: int, hidden: int, *, dropout_rate: float, dtype: DTypeLike, rngs: nnx.Rngs
    ):
        self.expand = linear(width, hidden, dtype=dtype, rngs=rngs)
        self.contract = linear(hidden, width, dtype=dtype, rngs=rngs)
        self.dropout_rate = dropout_rate

    def __call__(
        self, x: Float[Array, "*shape d"], key: Key[Array, ""] | None = None
    ) -> Float[Array, "*shape d"]:
        return self.contract(dropout(gelu(self.expand(x)), self.dropout_rate, key))


class SelfAttention(nnx.Module):
    """Multi-head self-attention with one fused, biased projection in the order query, key, value."""

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
        self.heads, self.dropout_rate, self.implementation = heads, dropout_rate, implementation

    def project(
        self, x: Float[Array, "*shape d"]
    ) -> tuple[Float[Array, "*shape n k"], Float[Array, "*shape n k"], Float[Array, "*shape n k"]]:
        query, key, value = fused_projection(self.qkv, x, 3, self.heads)
        return query, key, value

    def __call__(
        self,
        x: Float[Array, "b s d"],
        mask: Bool[Array, "#b #s s"] | None = None,
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "b s d"]:
        attended = attend(
            *self.project(x),
            mask,
            dropout_rate=self.dropout_rate,
            dropout_key=key,
            implementation=self.implementation,
        )
        return self.out(attended)


class CrossAttention(nnx.Module):
    """Multi-head attention from one sequence to another; keys and values come from one fused projection."""

    def __init__(
        self, width: int, heads: int, *, dropout_rate: float, dtype: DTypeLike, rngs: nnx.Rngs
    ):
        self.query = linear(width, width, dtype=dtype, rngs=rngs)
        self.key_value = linear(width, 2 * width, dtype=dtype, rngs=rngs)
        self.out = linear(width, width, dtype=dtype, rngs=rngs)
        self.heads, self.dropout_rate = heads, dropout_rate

    def project_memory(
        self, memory: Float[Array, "b s d"]
    ) -> tuple[Float[Array, "b s n k"], Float[Array, "b s n k"]]:
        key, value = fused_projection(self.key_value, memory, 2, self.heads)
        return key, value

    def attend_projected(
        self,
        x: Float[Array, "b l d"],
        key: Float[Array, "b s n k"],
        value: Float[Array, "b s n k"],
        mask: Bool[Array, "#b #l s"] | None = None,
        dropout_key: Key[Array, ""] | None = None,
    ) -> Float[Array, "b l d"]:
        query = split_heads(self.query(x), self.heads)
        return self.out(
            attend(query, key, value, mask, dropout_rate=self.dropout_rate, dropout_key=dropout_key)
        )

    def weights(
        self,
        x: Float[Array, "b l d"],
        memory: Float[Array, "b s d"],
        mask: Bool[Array, "#b #l s"] | None = None,
    ) -> Float[Array, "b l s"]:
        """Where each query looks, mean over the heads; for diagnostics."""
        key, _ = self.project_memory(memory)
        return attention_weights(split_heads(self.query(x), self.heads), key, mask).mean(axis=1)

    def __call__(
        self,
        x: Float[Array, "b l d"],
        memory: Float[Array, "b s d"],
        mask: Bool[Array, "#b #l s"] | None = None,
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "b l d"]:
        return self.attend_projected(x, *self.project_memory(memory), mask, key)


class TransformerBlock(nnx.Module):
    """Pre-norm: x + attention(norm(x)), then x + feed_forward(norm(x)); dropout after each branch."""

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
        key: Key[Array, ""] | None = None,
        drop_path_rate: Float[Array, ""] | float | None = None,
    ) -> Float[Array, "b s d"]:
        def residual(branch: Array, number: int) -> Array:
            branch = dropout(branch, self.dropout_rate, key_for(key, number))
            return (
                branch
                if drop_path_rate is None
                else drop_path(branch, drop_path_rate, key_for(key, number + 1))
            )

        x = x + residual(self.attention(self.attention_norm(x), mask, key_for(key, 0)), 1)
        return x + residual(self.feed_forward(self.feed_forward_norm(x), key_for(key, 3)), 4)


def stack(make_block, count: int, rngs: nnx.Rngs) -> nnx.Module:
    """`count` blocks as one whose parameters carry a leading layer axis; `make_block(rngs)` makes a single one."""
    return nnx.vmap(make_block)(rngs.fork(split=count))


def block_at(stacked: nnx.Module, layer: int | Int[Array, ""]) -> nnx.Module:
    """The block at one layer of what `stack` made."""
    graphdef, state = nnx.split(stacked)
    return nnx.merge(graphdef, jax.tree.map(lambda leaf: leaf[layer], state))
