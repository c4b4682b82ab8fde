"""Attention pooling: learned queries read a clip of any length into a fixed number of tokens."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, DTypeLike, Float, Key

from signvit_jax.config.schema import TemporalConfig
from signvit_jax.layers.attention import dropout, key_for
from signvit_jax.layers.transformer import CrossAttention, FeedForward, layer_norm


class AttentionPooling(nnx.Module):
    """x = norm(queries + attention); x = norm(x + feed_forward(x)); x = x + norm(refinement(x))."""

    def __init__(self, config: TemporalConfig, width: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        def feed_forward() -> FeedForward:
            return FeedForward(
                width, 4 * width, dropout_rate=config.dropout, dtype=dtype, rngs=rngs
            )

        self.queries = nnx.Param(
            nnx.initializers.normal(0.02)(rngs.params(), (config.num_queries, width))
        )
        self.attention = CrossAttention(
            width, config.num_heads, dropout_rate=config.dropout, dtype=dtype, rngs=rngs
        )
        self.attention_norm = layer_norm(width, dtype=dtype, rngs=rngs)
        self.feed_forward = feed_forward()
        self.feed_forward_norm = layer_norm(width, dtype=dtype, rngs=rngs)
        self.refinement = feed_forward()
        self.refinement_norm = layer_norm(width, dtype=dtype, rngs=rngs)
        self.dropout_rate, self.dtype = config.dropout, dtype

    def weights(
        self, frames: Float[Array, "b t d"], mask: Bool[Array, "b t"]
    ) -> Float[Array, "b q t"]:
        """Which frames each query reads, mean over the heads; for diagnostics."""
        queries = jnp.broadcast_to(
            self.queries[...].astype(self.dtype), (frames.shape[0], *self.queries.shape)
        )
        return self.attention.weights(queries, frames, mask[:, None, :])

    def __call__(
        self,
        frames: Float[Array, "b t d"],
        mask: Bool[Array, "b t"],
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "b q d"]:
        queries = jnp.broadcast_to(
            self.queries[...].astype(self.dtype), (frames.shape[0], *self.queries.shape)
        )
        attended = self.attention(queries, frames, mask[:, None, :], key_for(key, 0))
        x = self.attention_norm(queries + dropout(attended, self.dropout_rate, key_for(key, 1)))
        x = self.feed_forward_norm(x + self.feed_forward(x, key_for(key, 2)))
        return x + self.refinement_norm(self.refinement(x, key_for(key, 3)))
