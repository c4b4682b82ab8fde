"""What greedy search, sampling and beam search share: one or more decoders asked for the next token, the repetition guard, the score, and the loop.

A source is a decoder with what it attends to, `(model.decoder, *model.memory(encoded))`. Several sources are an ensemble: their probabilities are
averaged at every step. Everything here is traced inside one jitted call with fixed shapes; weights never leave the device.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from signvit_jax.errors.base import SignVitError
from signvit_jax.models.decoder import PAD, Cache, Memory, TextDecoder


class DecodingError(SignVitError, ValueError):
    """A decoding option or ensemble that cannot work; the message names the value and what is allowed. The commands end with exit code 2."""

    exit_code = 2


class Source(NamedTuple):
    """A decoder and the memory it reads; `memory_lengths` None: every position counts."""

    decoder: TextDecoder
    memory: Float[Array, "b s d"]
    memory_lengths: Int[Array, "b"] | None = None


class Hypotheses(NamedTuple):
    """Decoded sentences, one a clip or, from beam search, (b, n) of them, best first."""

    tokens: Int[
        Array, "*clips l"
    ]  # BOS ... EOS PAD...; without EOS where the length limit cut the sentence off
    lengths: Int[Array, "*clips"]  # BOS and EOS counted
    scores: Float[
        Array, "*clips"
    ]  # sum of log-probabilities / length_normalizer; -inf where a beam found fewer hypotheses than it was asked for
    token_log_probs: Float[
        Array, "*clips l"
    ]  # the model's own (before temperature and cuts), in nats; 0 at BOS and PAD


def best(hypotheses: Hypotheses) -> Hypotheses:
    """The first hypothesis of every clip's n-best list."""
    return Hypotheses(*(field[:, 0] for field in hypotheses))


def length_normalizer(
    lengths: Int[Array, "..."], length_penalty: Float[Array, ""] | float, formula: str
) -> Float[Array, "..."]:
    """What a sum of log-probabilities is divided by: n^p ('power', as in the reference) or ((5 + n) / 6)^p ('gnmt', Wu et al. 2016)."""
    n = lengths.astype(jnp.float32)
    return ((5.0 + n) / 6.0 if formula == "gnmt" else n) ** length_penalty


def checked_sources(
    sources: Source | Sequence[Source], max_len: int | None
) -> tuple[tuple[Source, ...], int]:
    """The ensemble as a tuple, and the length limit (None: the decoders' own). Raises DecodingError."""
    sources = (sources,) if isinstance(sources, Source) else tuple(sources)
    if not sources:
        raise DecodingError("no model to decode with: give at least one source")
    sizes = [source.decoder.embedding.shape[0] for source in sources]
    if len(set(sizes)) > 1:
        raise DecodingError(
            f"the models of an ensemble have vocabularies of {sizes} tokens; allowed: models trained with one and the same tokenizer"
        )
    clips = [source.memory.shape[0] for source in sources]
    if len(set(clips)) > 1:
        raise DecodingError(
            f"the models of an ensemble were given {clips} clips; give each the same clips in the same order"
        )
    limit = min(source.decoder.max_len for source in sources)
    max_len = limit if max_len is None else max_len
    check(
        "max_len",
        max_len,
        2 <= max_len <= limit,
        f"2 to {limit}, the decoder's model.decoder.max_len",
    )
    return sources, max_len


def check(option: str, value: object, allowed: bool, wanted: str) -> None:
    """Raises DecodingError unless `allowed`."""
    if not allowed:
        raise DecodingError(f"{option} is {value!r}; allowed: {wanted}")


def start(
    sources: tuple[Source, ...], hypotheses: int, length: int
) -> tuple[tuple[Memory, ...], tuple[Cache, ...]]:
    """Each decoder's projected memory and empty cache."""
    started = [
        source.decoder.start(source.memory, source.memory_lengths, hypotheses, length)
        for source in sources
    ]
    return tuple(memory for memory, _ in started), tuple(cache for _, cache in started)


def next_log_probs(
    sources: tuple[Source, ...],
    memories: tuple[Memory, ...],
    caches: tuple[Cache, ...],
    tokens: Int[Array, "b m l"],
    position: Int[Array, ""],
    lineage: Int[Array, "b m l"] | None,
    no_repeat_ngram_size: int,
) -> tuple[Float[Array, "b m v"], tuple[Cache, ...]]:
    """Log-probabilities of the token after `position`, averaged over the ensemble as probabilities; -inf for PAD and for forbidden repetitions.

    They are not renormalized over what is left: scores stay the model's. BOS is not forbidden, since the reference does not.
    """
    current = jax.lax.dynamic_index_in_dim(tokens, position, axis=2, keepdims=False)
    voices, grown = [], []
    for source, memory, cache in zip(sources, memories, caches):
        logits, cache = source.decoder.step(current, position, cache, memory, lineage)
        voices.append(logits - jax.nn.logsumexp(logits, axis=-1, keepdims=True))
        grown.append(cache)
    log_probs = (
        voices[0]
        if len(voices) == 1
        else jax.nn.logsumexp(jnp.stack(voices), axis=0) - jnp.log(len(voices))
    )
    forbidden = jnp.arange(log_probs.shape[-1]) == PAD
    if no_repeat_ngram_size:
        forbidden = forbidden | repetitions(
            tokens, position, no_repeat_ngram_size, log_probs.shape[-1]
        )
    return jnp.where(forbidden, -jnp.inf, log_probs), tuple(grown)


def repetitions(
    tokens: Int[Array, "b m l"], position: Int[Array, ""], size: int, vocab_size: int
) -> Bool[Array, "b m v"]:
    """True for tokens that, put after `position`, would complete a run of `size` tokens that the sentence (BOS included) already has."""
    b, m, length = tokens.shape
    if size > length:
        return jnp.zeros((b, m, vocab_size), bool)
    starts = length - size + 1
    recent = [
        jnp.take(tokens, position - (size - 2) + j, axis=2, mode="clip")[:, :, None]
        for j in range(size - 1)
    ]
    seen = jnp.broadcast_to(jnp.arange(starts) + size - 1 <= position, (b, m, starts))
    for j, token in enumerate(recent):
        seen = seen & (tokens[:, :, j : j + starts] == token)
    rows, columns = jnp.arange(b)[:, None, None], jnp.arange(m)[None, :, None]
    return jnp.zeros((b, m, vocab_size), bool).at[rows, columns, tokens[:, :, size - 1 :]].max(seen)


def generate(
    sources: tuple[Source, ...],
    pick: Callable[[Float[Array, "b v"], Int[Array, ""]], Int[Array, "b"]],
    *,
    bos_id: int,
    eos_id: int,
    max_len: int,
    no_repeat_ngram_size: int,
    length_penalty: Float[Array, ""] | float,
    formula: str,
) -> Hypotheses:
    """One hypothesis a clip, grown token by token with `pick(log_probs, position)` until all have ended or have `max_len` tokens, BOS included."""
    b = sources[0].memory.shape[0]
    memories, caches = start(sources, 1, max_len)
    tokens = jnp.full((b, max_len), PAD, jnp.int32).at[:, 0].set(bos_id)

    def unfinished(state):
        position, _, _, ended, _ = state
        return (position < max_len - 1) & ~ended.all()

    def step(state):
        position, tokens, token_log_probs, ended, caches = state
        log_probs, caches = next_log_probs(
            sources, memories, caches, tokens[:, None], position, None, no_repeat_ngram_size
        )
        log_probs = log_probs[:, 0]
        token = pick(log_probs, position).astype(jnp.int32)
        gained = jnp.take_along_axis(log_probs, token[:, None], axis=1)[:, 0]
        tokens = tokens.at[:, position + 1].set(jnp.where(ended, PAD, token))
        token_log_probs = token_log_probs.at[:, position + 1].set(jnp.where(ended, 0.0, gained))
        return position + 1, tokens, token_log_probs, ended | (token == eos_id), caches

    state = (
        jnp.int32(0),
        tokens,
        jnp.zeros((b, max_len), jnp.float32),
        jnp.zeros((b,), bool),
        caches,
    )
    _, tokens, token_log_probs, _, _ = jax.lax.while_loop(unfinished, step, state)
    lengths = (tokens != PAD).sum(1)
    return Hypotheses(
        tokens,
        lengths,
        token_log_probs.sum(1) / length_normalizer(lengths, length_penalty, formula),
        token_log_probs,
    )
