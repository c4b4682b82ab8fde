"""The autoregressive text decoder, for whole sentences (training) and one token at a time with cached keys and values (decoding)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, DTypeLike, Float, Int, Key

from signvit_jax.config.schema import DecoderConfig
from signvit_jax.layers.attention import attend, dropout, key_for, length_mask
from signvit_jax.layers.positions import sinusoids
from signvit_jax.layers.transformer import CrossAttention, FeedForward, SelfAttention, layer_norm

PAD = 0


class Memory(NamedTuple):
    """Cross-attention's keys and values, one pair a layer, computed once a clip; `mask` is None when every position counts."""

    keys: tuple[Float[Array, "b s n k"], ...]
    values: tuple[Float[Array, "b s n k"], ...]
    mask: Bool[Array, "b s"] | None


class Cache(NamedTuple):
    """Self-attention's keys and values so far, one pair a layer, for m hypotheses of each clip."""

    keys: tuple[Float[Array, "b m l n k"], ...]
    values: tuple[Float[Array, "b m l n k"], ...]


class DecoderLayer(nnx.Module):
    """Pre-norm: self-attention, cross-attention, feed-forward, each added to its input after dropout."""

    def __init__(self, config: DecoderConfig, *, dtype: DTypeLike, rngs: nnx.Rngs):
        width, rate = config.hidden_dim, config.dropout
        self.self_norm = layer_norm(width, dtype=dtype, rngs=rngs)
        self.self_attention = SelfAttention(
            width, config.num_heads, dropout_rate=rate, dtype=dtype, rngs=rngs
        )
        self.cross_norm = layer_norm(width, dtype=dtype, rngs=rngs)
        self.cross_attention = CrossAttention(
            width, config.num_heads, dropout_rate=rate, dtype=dtype, rngs=rngs
        )
        self.feed_forward_norm = layer_norm(width, dtype=dtype, rngs=rngs)
        self.feed_forward = FeedForward(
            width, config.ff_dim, dropout_rate=rate, dtype=dtype, rngs=rngs
        )
        self.dropout_rate = rate

    def __call__(
        self,
        x: Float[Array, "b l d"],
        mask: Bool[Array, "b l l"],
        memory: Float[Array, "b s d"],
        memory_mask: Bool[Array, "b 1 s"] | None,
        key: Key[Array, ""] | None,
    ) -> Float[Array, "b l d"]:
        def drop(branch: Array, number: int) -> Array:
            return dropout(branch, self.dropout_rate, key_for(key, number))

        x = x + drop(self.self_attention(self.self_norm(x), mask, key_for(key, 0)), 1)
        x = x + drop(
            self.cross_attention(self.cross_norm(x), memory, memory_mask, key_for(key, 2)), 3
        )
        return x + drop(self.feed_forward(self.feed_forward_norm(x), key_for(key, 4)), 5)

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
        """One token of each hypothesis; hypotheses of a clip share its memory and read each other's cache as far as `visible` lets them."""
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
        return x + self.feed_forward(self.feed_forward_norm(x)), cached_keys, cached_values


class TextDecoder(nnx.Module):
    """Token ids and memory to logits over the vocabulary; the output matrix is the embedding, transposed."""

    def __init__(self, config: DecoderConfig, vocab_size: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        table = nnx.initializers.normal(0.02)(rngs.params(), (vocab_size, config.hidden_dim))
        self.embedding = nnx.Param(table.at[PAD].set(0.0))
        self.layers = nnx.List(
            [DecoderLayer(config, dtype=dtype, rngs=rngs) for _ in range(config.num_layers)]
        )
        self.norm = (
            layer_norm(config.hidden_dim, dtype=dtype, rngs=rngs) if config.final_norm else None
        )
        self.heads, self.max_len, self.dropout_rate, self.dtype = (
            config.num_heads,
            config.max_len,
            config.dropout,
            dtype,
        )

    def __call__(
        self,
        tokens: Int[Array, "b l"],
        memory: Float[Array, "b s d"],
        memory_lengths: Int[Array, "b"] | None = None,
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "b l v"]:
        """Logits of the token after each position, in float32. PAD keys are masked. `memory_lengths` None: every position of the memory counts."""
        length = tokens.shape[1]
        visible = jnp.tril(jnp.ones((length, length), bool)) & (tokens != PAD)[:, None, :]
        memory_mask = (
            None
            if memory_lengths is None
            else length_mask(memory_lengths, memory.shape[1])[:, None, :]
        )
        x = dropout(
            self._embed(tokens, jnp.arange(length)),
            self.dropout_rate,
            key_for(key, len(self.layers)),
        )
        for number, layer in enumerate(self.layers):
            x = layer(x, visible, memory, memory_mask, key_for(key, number))
        return self._logits(x)

    def memory_weights(
        self,
        tokens: Int[Array, "b l"],
        memory: Float[Array, "b s d"],
        memory_lengths: Int[Array, "b"] | None = None,
    ) -> Float[Array, "b l s"]:
        """Where in the memory each position looks to say the next token, mean over heads and layers; for diagnostics."""
        length = tokens.shape[1]
        visible = jnp.tril(jnp.ones((length, length), bool)) & (tokens != PAD)[:, None, :]
        memory_mask = (
            None
            if memory_lengths is None
            else length_mask(memory_lengths, memory.shape[1])[:, None, :]
        )
        x, weights = self._embed(tokens, jnp.arange(length)), []
        for layer in self.layers:
            said = x + layer.self_attention(layer.self_norm(x), visible)
            weights.append(
                layer.cross_attention.weights(layer.cross_norm(said), memory, memory_mask)
            )
            x = layer(x, visible, memory, memory_mask, None)
        return sum(weights) / len(weights)

    def start(
        self,
        memory: Float[Array, "b s d"],
        memory_lengths: Int[Array, "b"] | None,
        hypotheses: int,
        length: int,
    ) -> tuple[Memory, Cache]:
        """What decoding needs before the first token: projected memory, and an empty cache for `length` tokens of `hypotheses` a clip."""
        pairs = [layer.cross_attention.project_memory(memory) for layer in self.layers]
        mask = None if memory_lengths is None else length_mask(memory_lengths, memory.shape[1])
        shape = (memory.shape[0], hypotheses, length, self.heads, memory.shape[-1] // self.heads)
        empty = tuple(jnp.zeros(shape, self.dtype) for _ in self.layers)
        return Memory(tuple(k for k, _ in pairs), tuple(v for _, v in pairs), mask), Cache(
            empty, empty
        )

    def step(
        self,
        tokens: Int[Array, "b m"],
        position: Int[Array, ""],
        cache: Cache,
        memory: Memory,
        lineage: Int[Array, "b m l"] | None = None,
    ) -> tuple[Float[Array, "b m v"], Cache]:
        """Logits after one more token of each hypothesis at `position` (0 = BOS), in float32, and the grown cache.

        A beam's hypotheses change places: `lineage[i, j, p]` is the slot in which hypothesis j of clip i cached its position p (up to `position`;
        there it is j). So the cache is never copied when beams are reordered. None: every hypothesis has kept its slot.
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
        # The PAD row takes no part: torch's padding_idx keeps it zero and gives it no gradient through the input side.
        embedded = jnp.where((tokens == PAD)[..., None], 0.0, embedded)
        return (embedded + jnp.asarray(sinusoids(self.max_len, width))[positions]).astype(
            self.dtype
        )

    def _logits(self, x: Float[Array, "b l d"]) -> Float[Array, "b l v"]:
        x = x if self.norm is None else self.norm(x)
        return jnp.einsum(
            "bld,vd->blv",
            x,
            self.embedding[...].astype(self.dtype),
            preferred_element_type=jnp.float32,
        )
