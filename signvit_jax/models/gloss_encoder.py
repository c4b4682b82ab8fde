"""The gloss encoder: glosses to a memory that the text decoder attends to as it does to frames."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, DTypeLike, Float, Int, Key

from signvit_jax.config.schema import DecoderConfig
from signvit_jax.layers.attention import dropout, length_mask
from signvit_jax.layers.positions import sinusoids
from signvit_jax.layers.random_streams import fold
from signvit_jax.layers.transformer import TransformerBlock, layer_norm

END = 0  # the blank's id, which no gloss has: it ends the glosses, and pads them


class GlossEncoder(nnx.Module):
    """Encoder of gloss ids: a memory with one position per gloss, and one for their end.

    The end makes the memory of no glosses one position long.
    """

    def __init__(
        self, config: DecoderConfig, num_glosses: int, *, dtype: DTypeLike, rngs: nnx.Rngs
    ):
        width, rate = config.hidden_dim, config.dropout
        init = nnx.initializers.normal(1.0)
        self.embedding = nnx.Param(init(rngs.params(), (num_glosses, width)))
        self.block = TransformerBlock(
            width,
            config.num_heads,
            config.ff_dim,
            dropout_rate=rate,
            attention_dropout=rate,
            dtype=dtype,
            rngs=rngs,
        )
        self.norm = layer_norm(width, dtype=dtype, rngs=rngs)
        self.corruption = config.gloss_corruption
        self.dropout_rate = rate
        self.dtype = dtype

    def __call__(
        self,
        glosses: Int[Array, "b g"],
        lengths: Int[Array, "b"],
        rng: Key[Array, ""] | None = None,
    ) -> tuple[Float[Array, "b s d"], Int[Array, "b"]]:
        """Return (the memory, its valid lengths) of the first `lengths[i]` glosses of each clip.

        With a key, as in training, there is dropout, and the glosses are corrupted (`corrupted`).
        """
        if rng is not None and self.corruption:
            num_glosses = self.embedding.shape[0]
            key = fold(rng, "gloss_encoder.corruption")
            glosses, lengths = corrupted(glosses, lengths, self.corruption, num_glosses, key)
        glosses = jnp.pad(glosses, ((0, 0), (0, 1)), constant_values=END)
        glosses = jnp.where(length_mask(lengths, glosses.shape[1]), glosses, END)
        mask = length_mask(lengths + 1, glosses.shape[1])
        embedded = jnp.take(self.embedding[...], glosses, axis=0)
        x = (embedded + jnp.asarray(sinusoids(*embedded.shape[1:]))).astype(self.dtype)
        x = dropout(x, self.dropout_rate, fold(rng, "gloss_encoder.dropout"))
        x = self.block(x, mask[:, None, :], fold(rng, "gloss_encoder.block"))
        return self.norm(x), lengths + 1


def corrupted(
    glosses: Int[Array, "b g"],
    lengths: Int[Array, "b"],
    rate: float,
    num_glosses: int,
    key: Key[Array, ""],
) -> tuple[Int[Array, "b 2*g"], Int[Array, "b"]]:
    """Return glosses with errors as a recognizer makes them, and their lengths.

    Each gloss has an error with probability `rate`. A third each: it is left out, it is replaced by
    a random one, or a random one follows it.
    """
    error_key, gloss_key = jax.random.split(key)
    b, g = glosses.shape
    error = jax.random.uniform(error_key, (b, g)) * 3.0 / rate
    drawn = jax.random.randint(gloss_key, (b, g), 1, num_glosses)
    valid = length_mask(lengths, g)
    # Two places for each gloss: its own, and that of one which follows it.
    kept = jnp.stack([valid & (error >= 1.0), valid & (error >= 2.0) & (error < 3.0)], axis=2)
    places = jnp.stack([jnp.where(error < 2.0, drawn, glosses), drawn], axis=2)
    kept, places = kept.reshape(b, 2 * g), places.reshape(b, 2 * g)
    target = jnp.where(kept, jnp.cumsum(kept, axis=1) - 1, 2 * g)
    empty = jnp.full((b, 2 * g), END, glosses.dtype)
    found = empty.at[jnp.arange(b)[:, None], target].set(places, mode="drop")
    return found, kept.sum(axis=1)
