"""Parts shared by greedy search, sampling and beam search.

A `Source` is a decoder with the memory that it attends to. That of a model is
`Source(model.decoder, *model.memory(encoded))`. It may have a second memory, of the clip's glosses:
the same decoder attends to each of them by itself, and the log-probabilities are averaged with
`gloss_weight`. Several sources are an ensemble: their probabilities are averaged at every step. All
of this is traced inside one jitted call with fixed shapes, so parameters and caches never leave the
device.
"""

import functools
import operator
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from signvit_jax.decoding.search_options import DecodingError, SearchOptions, require_option
from signvit_jax.models.decoder import PAD, Cache, Memory, TextDecoder


class Source(NamedTuple):
    """A decoder and its memory; with `memory_lengths` None every memory position is valid.

    `glosses`: the gloss memory, of which the first `gloss_lengths[i]` positions are valid.
    """

    decoder: TextDecoder
    memory: Float[Array, "b s d"]
    memory_lengths: Int[Array, "b"] | None = None
    glosses: Float[Array, "b g d"] | None = None
    gloss_lengths: Int[Array, "b"] | None = None

    def memories(self, options: SearchOptions) -> list["WeightedMemory"]:
        """Return the memories with a weight above 0; the weights sum to 1."""
        video = WeightedMemory(1.0, self.memory, self.memory_lengths)
        if self.glosses is None:
            return [video]
        share = options.gloss_weight
        glosses = WeightedMemory(share, self.glosses, self.gloss_lengths)
        both = [video._replace(weight=1.0 - share), glosses]
        return [memory for memory in both if memory.weight]


class WeightedMemory(NamedTuple):
    """A memory of a decoder, and its share of the log-probabilities."""

    weight: float
    memory: Float[Array, "b s d"]
    lengths: Int[Array, "b"] | None


# Of each source, one of each memory.
Memories = tuple[tuple[Memory, ...], ...]
Caches = tuple[tuple[Cache, ...], ...]


class Hypotheses(NamedTuple):
    """Decoded sentences: one per clip, (b,), or n-best lists of beam search, (b, n), best first.

    tokens: BOS ... EOS PAD ...; without EOS where the length limit truncated the sentence.
    lengths: number of tokens, BOS and EOS included.
    scores: sum of log-probabilities / `length_normalizer`; -inf where the list has fewer entries.
    token_log_probs: the model's own, before temperature, top-k and top-p, in nats; 0 at BOS, PAD.
    """

    tokens: Int[Array, "*clips l"]
    lengths: Int[Array, "*clips"]
    scores: Float[Array, "*clips"]
    token_log_probs: Float[Array, "*clips l"]


def best(hypotheses: Hypotheses) -> Hypotheses:
    """Return the first hypothesis of every clip's n-best list."""
    return Hypotheses(*(field[:, 0] for field in hypotheses))


def length_normalizer(lengths: Int[Array, "..."], options: SearchOptions) -> Float[Array, "..."]:
    """Return the divisor of a sum of log-probabilities over n tokens, BOS and EOS included.

    With penalty p it is n^p ("power", as in the reference system) or ((5 + n) / 6)^p ("gnmt",
    Wu et al. 2016).
    """
    n = lengths.astype(jnp.float32)
    return ((5.0 + n) / 6.0 if options.length_formula == "gnmt" else n) ** options.length_penalty


def checked_sources(
    sources: Source | Sequence[Source], options: SearchOptions
) -> tuple[tuple[Source, ...], int]:
    """Return the ensemble as a tuple, and the length limit in tokens.

    Raises DecodingError for an empty ensemble, vocabularies or numbers of clips that differ, and
    a `max_len` that the decoders cannot hold.
    """
    sources = (sources,) if isinstance(sources, Source) else tuple(sources)
    if not sources:
        raise DecodingError("no model to decode with: give at least one source")
    vocab_sizes = [source.decoder.embedding.shape[0] for source in sources]
    if len(set(vocab_sizes)) > 1:
        raise DecodingError(
            f"the models of an ensemble have vocabularies of {vocab_sizes} tokens; "
            "allowed: models trained with the same tokenizer"
        )
    clips = [source.memory.shape[0] for source in sources]
    if len(set(clips)) > 1:
        raise DecodingError(
            f"the models of an ensemble were given {clips} clips; "
            "give each the same clips in the same order"
        )
    limit = min(source.decoder.max_len for source in sources)
    max_len = limit if options.max_len is None else options.max_len
    require_option(
        "max_len",
        max_len,
        2 <= max_len <= limit,
        f"2 to {limit}, the decoder's model.decoder.max_len",
    )
    return sources, max_len


def init_decode_state(
    sources: tuple[Source, ...], options: SearchOptions, hypotheses: int, max_len: int
) -> tuple[Memories, Caches]:
    """Return each decoder's projected memories, and empty caches for `hypotheses` per clip."""
    pairs = [
        [
            source.decoder.start(found.memory, found.lengths, hypotheses, max_len)
            for found in source.memories(options)
        ]
        for source in sources
    ]
    return (
        tuple(tuple(memory for memory, _ in found) for found in pairs),
        tuple(tuple(cache for _, cache in found) for found in pairs),
    )


def next_log_probs(
    sources: tuple[Source, ...],
    memories: Memories,
    caches: Caches,
    tokens: Int[Array, "b m l"],
    position: Int[Array, ""],
    lineage: Int[Array, "b m l"] | None,
    options: SearchOptions,
) -> tuple[Float[Array, "b m v"], Caches]:
    """Return log-probabilities of the token after `position`, and the caches with `position` added.

    The memories of a source are averaged as log-probabilities, so that a text's score is the
    average of its scores; then the ensemble is averaged as probabilities. PAD and forbidden
    repetitions have -inf; the rest is not renormalized, so scores stay those of the model. BOS is
    allowed, as in the reference system. `lineage` is explained at `TextDecoder.step`.
    """
    current = jax.lax.dynamic_index_in_dim(tokens, position, axis=2, keepdims=False)  # (b, m)
    member_log_probs, new_caches = [], []
    for source, source_memories, source_caches in zip(sources, memories, caches):
        log_probs, updated = [], []
        for memory, cache in zip(source_memories, source_caches):
            logits, cache = source.decoder.step(current, position, cache, memory, lineage)
            log_probs.append(logits - jax.nn.logsumexp(logits, axis=-1, keepdims=True))
            updated.append(cache)
        if len(log_probs) > 1:
            weights = [memory.weight for memory in source.memories(options)]
            weighted = [weight * found for weight, found in zip(weights, log_probs)]
            log_probs = [functools.reduce(operator.add, weighted)]
        member_log_probs += log_probs
        new_caches.append(tuple(updated))
    if len(member_log_probs) == 1:
        log_probs = member_log_probs[0]
    else:
        log_probs = jax.nn.logsumexp(jnp.stack(member_log_probs), axis=0)
        log_probs = log_probs - jnp.log(len(member_log_probs))
    vocab_size = log_probs.shape[-1]
    forbidden = jnp.arange(vocab_size) == PAD
    if options.no_repeat_ngram_size:
        forbidden = forbidden | repeated_ngrams(
            tokens, position, options.no_repeat_ngram_size, vocab_size
        )
    return jnp.where(forbidden, -jnp.inf, log_probs), tuple(new_caches)


def repeated_ngrams(
    tokens: Int[Array, "b m l"], position: Int[Array, ""], size: int, vocab_size: int
) -> Bool[Array, "b m v"]:
    """Return True for each token that would complete an n-gram which the sentence already contains.

    The token would stand at `position + 1`; n is `size`, and BOS is part of the sentence.
    """
    b, m, length = tokens.shape
    if size > length:
        return jnp.zeros((b, m, vocab_size), bool)
    starts = length - size + 1
    recent = [  # the last n - 1 tokens, each (b, m, 1)
        jnp.take(tokens, position - (size - 2) + j, axis=2, mode="clip")[:, :, None]
        for j in range(size - 1)
    ]
    # True where an n-gram of the sentence starts whose first n - 1 tokens are the recent ones.
    matches = jnp.broadcast_to(jnp.arange(starts) + size - 1 <= position, (b, m, starts))
    for j, token in enumerate(recent):
        matches = matches & (tokens[:, :, j : j + starts] == token)
    last_tokens = tokens[:, :, size - 1 :]  # (b, m, starts)
    clip, hypothesis = jnp.arange(b)[:, None, None], jnp.arange(m)[None, :, None]
    forbidden = jnp.zeros((b, m, vocab_size), bool)
    return forbidden.at[clip, hypothesis, last_tokens].max(matches)


def generate(
    sources: tuple[Source, ...],
    choose_token: Callable[[Float[Array, "b v"], Int[Array, ""]], Int[Array, "b"]],
    options: SearchOptions,
    max_len: int,
) -> Hypotheses:
    """Return one hypothesis per clip, one token of `choose_token(log_probs, position)` at a time.

    The loop ends when every sentence has EOS or `max_len` tokens, BOS included.
    """
    b = sources[0].memory.shape[0]
    memories, caches = init_decode_state(sources, options, 1, max_len)

    def not_finished(state):
        position, _, _, finished, _ = state
        return (position < max_len - 1) & ~finished.all()

    def step(state):
        position, tokens, token_log_probs, finished, caches = state
        log_probs, caches = next_log_probs(
            sources, memories, caches, tokens[:, None], position, None, options
        )
        log_probs = log_probs[:, 0]  # (b, v)
        token = choose_token(log_probs, position).astype(jnp.int32)  # (b,)
        token_log_prob = jnp.take_along_axis(log_probs, token[:, None], axis=1)[:, 0]
        tokens = tokens.at[:, position + 1].set(jnp.where(finished, PAD, token))
        token_log_probs = token_log_probs.at[:, position + 1].set(
            jnp.where(finished, 0.0, token_log_prob)
        )
        finished = finished | (token == options.eos_id)
        return position + 1, tokens, token_log_probs, finished, caches

    state = (
        jnp.int32(0),
        jnp.full((b, max_len), PAD, jnp.int32).at[:, 0].set(options.bos_id),
        jnp.zeros((b, max_len), jnp.float32),
        jnp.zeros((b,), bool),
        caches,
    )
    _, tokens, token_log_probs, _, _ = jax.lax.while_loop(not_finished, step, state)
    lengths = (tokens != PAD).sum(1)
    scores = token_log_probs.sum(1) / length_normalizer(lengths, options)
    return Hypotheses(tokens, lengths, scores, token_log_probs)
