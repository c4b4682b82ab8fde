"""Attention pooling: learned queries turn a clip of any length into a fixed number of tokens."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, DTypeLike, Float, Key

from signvit_jax.config.schema import TemporalConfig
from signvit_jax.layers.attention import dropout
from signvit_jax.layers.random_streams import fold
from signvit_jax.layers.transformer import CrossAttention, FeedForward, layer_norm


class AttentionPooling(nnx.Module):
    """x = norm(queries + attention); x = norm(x + feed_forward(x)); x = x + norm(refinement(x))."""

    def __init__(self, config: TemporalConfig, width: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        rate = config.dropout
        init = nnx.initializers.normal(0.02)
        self.queries = nnx.Param(init(rngs.params(), (config.num_queries, width)))
        self.attention = CrossAttention(
            width, config.num_heads, dropout_rate=rate, dtype=dtype, rngs=rngs
        )
        self.attention_norm = layer_norm(width, dtype=dtype, rngs=rngs)
        self.feed_forward = FeedForward(width, 4 * width, dropout_rate=rate, dtype=dtype, rngs=rngs)
        self.feed_forward_norm = layer_norm(width, dtype=dtype, rngs=rngs)
        self.refinement = FeedForward(width, 4 * width, dropout_rate=rate, dtype=dtype, rngs=rngs)
        self.refinement_norm = layer_norm(width, dtype=dtype, rngs=rngs)
        self.dropout_rate = rate
        self.dtype = dtype

    def __call__(
        self,
        frames: Float[Array, "b t d"],
        mask: Bool[Array, "b t"],
        rng: Key[Array, ""] | None = None,
    ) -> Float[Array, "b q d"]:
        """`mask` is True at the frames of a clip and False at padding."""
        queries = self._queries(frames)
        attention_rng = fold(rng, "pooling.attention_dropout")
        attended = self.attention(queries, frames, mask[:, None, :], attention_rng)
        attended = dropout(attended, self.dropout_rate, fold(rng, "pooling.attention_branch"))
        x = self.attention_norm(queries + attended)
        transformed = self.feed_forward(x, fold(rng, "pooling.feed_forward_dropout"))
        x = self.feed_forward_norm(x + transformed)
        refined = self.refinement(x, fold(rng, "pooling.refinement_dropout"))
        return x + self.refinement_norm(refined)

    def weights(
        self, frames: Float[Array, "b t d"], mask: Bool[Array, "b t"]
    ) -> Float[Array, "b q t"]:
        """Attention weights of each query, averaged over the heads, for diagnostics."""
        return self.attention.weights(self._queries(frames), frames, mask[:, None, :])

    def _queries(self, frames: Float[Array, "b t d"]) -> Float[Array, "b q d"]:
        queries = self.queries[...].astype(self.dtype)
        return jnp.broadcast_to(queries, (frames.shape[0], *queries.shape))
