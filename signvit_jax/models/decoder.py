"""The autoregressive text decoder.

It runs on complete texts (training) or on one token at a time with cached keys and values
(decoding).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, DTypeLike, Float, Int, Key

from signvit_jax.config.schema import DecoderConfig
from signvit_jax.layers.attention import attend, dropout, length_mask
from signvit_jax.layers.positions import sinusoids
from signvit_jax.layers.random_streams import fold
from signvit_jax.layers.transformer import CrossAttention, FeedForward, SelfAttention, layer_norm

PAD = 0


class Memory(NamedTuple):
    """Keys and values of cross-attention, one pair per layer, computed once per clip.

    `mask` is True at valid positions; None if all are valid.
    """

    keys: tuple[Float[Array, "b s n k"], ...]
    values: tuple[Float[Array, "b s n k"], ...]
    mask: Bool[Array, "b s"] | None


class Cache(NamedTuple):
    """Keys and values of self-attention, one pair per layer, for m hypotheses of each clip."""

    keys: tuple[Float[Array, "b m l n k"], ...]
    values: tuple[Float[Array, "b m l n k"], ...]


class TextDecoder(nnx.Module):
    """The decoder: token ids and memory to logits over the vocabulary.

    The output matrix is the transposed embedding.
    """

    def __init__(self, config: DecoderConfig, vocab_size: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        width = config.hidden_dim
        table = nnx.initializers.normal(0.02)(rngs.params(), (vocab_size, width))
        self.embedding = nnx.Param(table.at[PAD].set(0.0))
        self.layers = nnx.List(
            [DecoderLayer(config, dtype=dtype, rngs=rngs) for _ in range(config.num_layers)]
        )
        self.norm = layer_norm(width, dtype=dtype, rngs=rngs) if config.final_norm else None
        self.heads = config.num_heads
        self.max_len = config.max_len
        self.dropout_rate = config.dropout
        self.dtype = dtype

    def __call__(
        self,
        tokens: Int[Array, "b l"],
        memory: Float[Array, "b s d"],
        memory_lengths: Int[Array, "b"] | None = None,
        rng: Key[Array, ""] | None = None,
    ) -> Float[Array, "b l v"]:
        """Return the logits of the token after each position, in float32.

        PAD tokens are masked. `memory_lengths` None: all positions of the memory are valid.
        """
        text_mask, memory_mask = _text_mask(tokens), _memory_mask(memory, memory_lengths)
        embedded = self._embed(tokens, jnp.arange(tokens.shape[1]))
        embedding_rng = fold(rng, "decoder.embedding_dropout", len(self.layers))
        x = dropout(embedded, self.dropout_rate, embedding_rng)
        for number, layer in enumerate(self.layers):
            x = layer(x, text_mask, memory, memory_mask, fold(rng, "decoder.layer", number))
        return self._logits(x)

    def memory_weights(
        self,
        tokens: Int[Array, "b l"],
        memory: Float[Array, "b s d"],
        memory_lengths: Int[Array, "b"] | None = None,
    ) -> Float[Array, "b l s"]:
        """Return the cross-attention weights of each position, for diagnostics.

        They are averaged over heads and layers.
        """
        text_mask, memory_mask = _text_mask(tokens), _memory_mask(memory, memory_lengths)
        x, weights = self._embed(tokens, jnp.arange(tokens.shape[1])), []
        for layer in self.layers:
            x = layer.attend_to_text(x, text_mask)
            weights.append(layer.cross_attention.weights(layer.cross_norm(x), memory, memory_mask))
            x = layer.transform(layer.attend_to_memory(x, memory, memory_mask))
        return jnp.asarray(sum(weights)) / len(weights)

    def start(
        self,
        memory: Float[Array, "b s d"],
        memory_lengths: Int[Array, "b"] | None,
        hypotheses: int,
        length: int,
    ) -> tuple[Memory, Cache]:
        """Project the memory, and make an empty cache for `length` tokens of each hypothesis."""
        pairs = [layer.cross_attention.project_memory(memory) for layer in self.layers]
        mask = None if memory_lengths is None else length_mask(memory_lengths, memory.shape[1])
        shape = (memory.shape[0], hypotheses, length, self.heads, memory.shape[-1] // self.heads)
        empty = tuple(jnp.zeros(shape, self.dtype) for _ in self.layers)
        keys, values = tuple(key for key, _ in pairs), tuple(value for _, value in pairs)
        return Memory(keys, values, mask), Cache(empty, empty)

    def step(
        self,
        tokens: Int[Array, "b m"],
        position: Int[Array, ""],
        cache: Cache,
        memory: Memory,
        lineage: Int[Array, "b m l"] | None = None,
    ) -> tuple[Float[Array, "b m v"], Cache]:
        """Append one token to each hypothesis, at `position` (0 = BOS).

        Returns the logits of the next token, in float32, and the new cache.

        Beam search reorders hypotheses, but never the cache: `lineage[i, j, p]` is the slot of the
        cache that holds position p of hypothesis j of clip i, for p up to `position`. At `position`
        it is j. None: every hypothesis has kept its slot.
        """
        m, length = cache.keys[0].shape[1:3]
        slots = jax.lax.iota(jnp.int32, m)
        lineage = jnp.broadcast_to(slots[:, None], (1, m, length)) if lineage is None else lineage
        visible = (lineage[:, :, None, :] == slots[:, None]) & (jnp.arange(length) <= position)
        visible = visible.reshape(-1, m, m * length)
        x = self._embed(tokens, position)
        keys, values = [], []
        for number, layer in enumerate(self.layers):
            x, key, value = layer.step(
                x,
                position,
                visible,
                cache.keys[number],
                cache.values[number],
                memory.keys[number],
                memory.values[number],
                memory.mask,
            )
            keys.append(key)
            values.append(value)
        return self._logits(x), Cache(tuple(keys), tuple(values))

    def _embed(
        self, tokens: Int[Array, "b l"], positions: Int[Array, "..."]
    ) -> Float[Array, "b l d"]:
        width = self.embedding.shape[-1]
        embedded = jnp.take(self.embedding[...], tokens, axis=0) * jnp.sqrt(jnp.float32(width))
        # As with torch's padding_idx, the input side sees PAD as zero and gives it no gradient.
        embedded = jnp.where((tokens == PAD)[..., None], 0.0, embedded)
        table = jnp.asarray(sinusoids(self.max_len, width))
        return (embedded + table[positions]).astype(self.dtype)

    def _logits(self, x: Float[Array, "b l d"]) -> Float[Array, "b l v"]:
        x = x if self.norm is None else self.norm(x)
        embedding = self.embedding[...].astype(self.dtype)
        return jnp.einsum("bld,vd->blv", x, embedding, preferred_element_type=jnp.float32)


class DecoderLayer(nnx.Module):
    """Pre-norm: self-attention, cross-attention, feed-forward; each is added after dropout."""

    def __init__(self, config: DecoderConfig, *, dtype: DTypeLike, rngs: nnx.Rngs):
        width, heads, rate = config.hidden_dim, config.num_heads, config.dropout
        self.self_norm = layer_norm(width, dtype=dtype, rngs=rngs)
        self.self_attention = SelfAttention(width, heads, dropout_rate=rate, dtype=dtype, rngs=rngs)
        self.cross_norm = layer_norm(width, dtype=dtype, rngs=rngs)
        self.cross_attention = CrossAttention(
            width, heads, dropout_rate=rate, dtype=dtype, rngs=rngs
        )
        self.feed_forward_norm = layer_norm(width, dtype=dtype, rngs=rngs)
        self.feed_forward = FeedForward(
            width, config.ff_dim, dropout_rate=rate, dtype=dtype, rngs=rngs
        )
        self.dropout_rate = rate

    def __call__(
        self,
        x: Float[Array, "b l d"],
        text_mask: Bool[Array, "b l l"],
        memory: Float[Array, "b s d"],
        memory_mask: Bool[Array, "b 1 s"] | None,
        rng: Key[Array, ""] | None = None,
    ) -> Float[Array, "b l d"]:
        x = self.attend_to_text(x, text_mask, rng)
        x = self.attend_to_memory(x, memory, memory_mask, rng)
        return self.transform(x, rng)

    def attend_to_text(
        self,
        x: Float[Array, "b l d"],
        text_mask: Bool[Array, "b l l"],
        rng: Key[Array, ""] | None = None,
    ) -> Float[Array, "b l d"]:
        """Add self-attention."""
        attention_rng = fold(rng, "decoder_layer.self_attention_dropout")
        attended = self.self_attention(self.self_norm(x), text_mask, attention_rng)
        branch_rng = fold(rng, "decoder_layer.self_attention_branch")
        return x + dropout(attended, self.dropout_rate, branch_rng)

    def attend_to_memory(
        self,
        x: Float[Array, "b l d"],
        memory: Float[Array, "b s d"],
        memory_mask: Bool[Array, "b 1 s"] | None,
        rng: Key[Array, ""] | None = None,
    ) -> Float[Array, "b l d"]:
        """Add cross-attention."""
        attention_rng = fold(rng, "decoder_layer.cross_attention_dropout")
        attended = self.cross_attention(self.cross_norm(x), memory, memory_mask, attention_rng)
        branch_rng = fold(rng, "decoder_layer.cross_attention_branch")
        return x + dropout(attended, self.dropout_rate, branch_rng)

    def transform(
        self, x: Float[Array, "b l d"], rng: Key[Array, ""] | None = None
    ) -> Float[Array, "b l d"]:
        """Add the feed-forward network."""
        hidden_rng = fold(rng, "decoder_layer.feed_forward_dropout")
        transformed = self.feed_forward(self.feed_forward_norm(x), hidden_rng)
        branch_rng = fold(rng, "decoder_layer.feed_forward_branch")
        return x + dropout(transformed, self.dropout_rate, branch_rng)

    def step(
        self,
        x: Float[Array, "b m d"],
        position: Int[Array, ""],
        visible: Bool[Array, "#b m _"],
        cached_keys: Float[Array, "b m l n k"],
        cached_values: Float[Array, "b m l n k"],
        memory_keys: Float[Array, "b s n k"],
        memory_values: Float[Array, "b s n k"],
        memory_mask: Bool[Array, "b s"] | None,
    ) -> tuple[Float[Array, "b m d"], Float[Array, "b m l n k"], Float[Array, "b m l n k"]]:
        """Process one token of each hypothesis; return its output, and the new cache.

        The hypotheses of a clip share its memory. They attend to those positions of each other's
        cache that `visible` allows.
        """
        b, m, length, n, k = cached_keys.shape
        query, key, value = self.self_attention.project(self.self_norm(x))
        cached_keys = cached_keys.at[:, :, position].set(key)
        cached_values = cached_values.at[:, :, position].set(value)
        attended = attend(
            query,
            cached_keys.reshape(b, m * length, n, k),
            cached_values.reshape(b, m * length, n, k),
            visible,
        )
        x = x + self.self_attention.out(attended)
        mask = None if memory_mask is None else memory_mask[:, None]
        x = x + self.cross_attention.attend_projected(
            self.cross_norm(x), memory_keys, memory_values, mask
        )
        return self.transform(x), cached_keys, cached_values


def _text_mask(tokens: Int[Array, "b l"]) -> Bool[Array, "b l l"]:
    """True where a position may attend: to itself and earlier ones, but not to PAD."""
    length = tokens.shape[1]
    return jnp.tril(jnp.ones((length, length), bool)) & (tokens != PAD)[:, None, :]


def _memory_mask(
    memory: Float[Array, "b s d"], lengths: Int[Array, "b"] | None
) -> Bool[Array, "b 1 s"] | None:
    return None if lengths is None else length_mask(lengths, memory.shape[1])[:, None, :]
