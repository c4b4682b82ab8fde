"""The CTC head: logits of labels at every step of what the encoder returns."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, DTypeLike, Float, Key

from signvit_jax.config.schema import CTCConfig
from signvit_jax.layers.attention import dropout
from signvit_jax.layers.transformer import gelu, linear, linear_in_float32


class CTCHead(nnx.Module):
    """Linear -> GELU -> dropout -> Linear to logits, in float32; label 0 is the blank.

    `tied`: the last matrix is the decoder's embedding.
    """

    def __init__(
        self,
        config: CTCConfig,
        width: int,
        num_labels: int,
        *,
        tied: bool = False,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.hidden = linear(width, width, dtype=dtype, rngs=rngs)
        self.out = (
            TiedLinear(num_labels, dtype=dtype)
            if tied
            else linear_in_float32(width, num_labels, dtype=dtype, rngs=rngs)
        )
        self.dropout_rate = config.dropout

    def __call__(
        self,
        x: Float[Array, "b s d"],
        embedding: Float[Array, "v d"],
        rng: Key[Array, ""] | None = None,
    ) -> Float[Array, "b s l"]:
        x = dropout(gelu(self.hidden(x)), self.dropout_rate, rng)
        return self.out(x, embedding) if isinstance(self.out, TiedLinear) else self.out(x)


class TiedLinear(nnx.Module):
    """`linear_in_float32` with a transposed embedding as its matrix. The bias is a parameter."""

    def __init__(self, vocab_size: int, *, dtype: DTypeLike):
        self.bias = nnx.Param(jnp.zeros(vocab_size))
        self.dtype = dtype

    def __call__(
        self, x: Float[Array, "*shape d"], embedding: Float[Array, "v d"]
    ) -> Float[Array, "*shape v"]:
        matrix = embedding.astype(self.dtype).T
        return jnp.matmul(x, matrix, preferred_element_type=jnp.float32) + self.bias[...]
