"""Beam search over all clips and hypotheses in one loop.

The state machine: each clip has `beam_size` slots with one hypothesis each, which is either
- live: at every step it proposes its `beam_size` most probable continuations as candidates; or
- finished (it ends with EOS): its only candidate is itself, unchanged.
The best candidates of a clip by score, live and finished ones together, take its slots. The loop
ends when no clip has a live hypothesis left, or at the length limit, where live ones compete as
they are.

This is the procedure of the reference system, batched, with two additions. Only the second one can
change a result:
- A clip has converged as soon as no live hypothesis can overtake its `n_best`-th finished one, even
  if all further tokens had probability 1. The loop ends when all clips have converged.
- Pruning can lose the greedy path and then finish with lower scores. Clips in which the greedy path
  was lost are decoded greedily as well and the result joins their list, so that the best score is
  never below that of greedy search.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from signvit_jax.decoding.autoregressive import (
    Caches,
    Hypotheses,
    Source,
    checked_sources,
    init_decode_state,
    length_normalizer,
    next_log_probs,
)
from signvit_jax.decoding.greedy import greedy
from signvit_jax.decoding.search_options import SearchOptions, require_option
from signvit_jax.models.decoder import PAD


class _BeamState(NamedTuple):
    """The state of the search: m slots per clip, best first."""

    position: Int[Array, ""]  # of the last token
    tokens: Int[Array, "b m l"]
    token_log_probs: Float[Array, "b m l"]
    log_probs: Float[Array, "b m"]  # sums of the above
    lengths: Int[Array, "b m"]
    finished: Bool[Array, "b m"]
    lineage: Int[Array, "b m l"]  # slot whose cache holds a position, see `TextDecoder.step`
    greedy_slot: Int[Array, "b"]  # of the greedy path; -1 once it has been pruned
    caches: Caches  # never reordered


@partial(jax.jit, static_argnames="options")
def beam_search(sources: Source | Sequence[Source], options: SearchOptions) -> Hypotheses:
    """Return the `n_best` hypotheses of every clip, best first: tokens (b, n_best, max_len).

    A score is the sum of log-probabilities / `length_normalizer`. A tiny vocabulary may have fewer
    than `n_best` sentences: the other entries have score -inf. Raises DecodingError for models that
    cannot be an ensemble, a `max_len` out of range and `n_best` > `beam_size`.
    """
    sources, max_len = checked_sources(sources, options)
    n_best, beam_size = options.n_best, options.beam_size
    require_option("n_best", n_best, n_best <= beam_size, f"1 to {beam_size}, the beam_size")
    state = _search(sources, options, max_len)
    hypotheses = Hypotheses(
        state.tokens,
        state.lengths,
        _score(state.log_probs, state.lengths, options),
        state.token_log_probs,
    )
    hypotheses = _with_greedy_fallback(hypotheses, state.greedy_slot < 0, sources, options)
    return Hypotheses(*(field[:, :n_best] for field in hypotheses))


def _search(sources: tuple[Source, ...], options: SearchOptions, max_len: int) -> _BeamState:
    """Run the loop and return its last state."""
    b, m = sources[0].memory.shape[0], options.beam_size
    k = min(m, sources[0].decoder.embedding.shape[0])  # candidates per hypothesis
    slots = jnp.arange(m)
    memories, caches = init_decode_state(sources, options, m, max_len)

    def not_converged(state: _BeamState) -> Array:
        can_improve = _can_improve(state, options, max_len)
        return (state.position < max_len - 1) & can_improve.any()

    def step(state: _BeamState) -> _BeamState:
        position, finished = state.position, state.finished
        lineage = state.lineage.at[:, :, position].set(slots)
        log_probs, caches = next_log_probs(
            sources, memories, state.caches, state.tokens, position, lineage, options
        )  # (b, m, v)

        # Candidates of each hypothesis: (b, m, k). A finished one has a single candidate, itself.
        token_log_probs, candidates = jax.lax.top_k(log_probs, k)
        unchanged = jnp.where(jnp.arange(k) == 0, 0.0, -jnp.inf)
        token_log_probs = jnp.where(finished[:, :, None], unchanged, token_log_probs)
        candidates = jnp.where(finished[:, :, None], PAD, candidates)

        # The best m of a clip's m * k candidates; `parent` is the slot that each one extends.
        lengths = jnp.where(finished, state.lengths, position + 2)
        scores = _score(state.log_probs[:, :, None] + token_log_probs, lengths[:, :, None], options)
        chosen = jax.lax.top_k(scores.reshape(b, m * k), m)[1]  # (b, m)
        parent = chosen // k

        def gather_parents(x):  # (b, m, ...)
            return jnp.take_along_axis(x, parent.reshape(b, m, *(1,) * (x.ndim - 2)), axis=1)

        def gather_chosen(x):  # (b, m, k) -> (b, m)
            return jnp.take_along_axis(x.reshape(b, m * k), chosen, axis=1)

        token, token_log_prob = gather_chosen(candidates), gather_chosen(token_log_probs)
        # The greedy path continues with the first candidate of its slot.
        was_tracked = (state.greedy_slot >= 0)[:, None]
        is_greedy = (chosen == state.greedy_slot[:, None] * k) & was_tracked  # (b, m)
        return _BeamState(
            position=position + 1,
            tokens=gather_parents(state.tokens).at[:, :, position + 1].set(token),
            token_log_probs=gather_parents(state.token_log_probs)
            .at[:, :, position + 1]
            .set(token_log_prob),
            log_probs=gather_parents(state.log_probs) + token_log_prob,
            lengths=gather_parents(lengths),
            finished=gather_parents(finished) | (token == options.eos_id),
            lineage=gather_parents(lineage),
            greedy_slot=jnp.where(is_greedy.any(1), jnp.argmax(is_greedy, axis=1), -1),
            caches=caches,
        )

    # At the start the first slot holds BOS, and the others hold nothing.
    state = _BeamState(
        position=jnp.int32(0),
        tokens=jnp.full((b, m, max_len), PAD, jnp.int32).at[:, :, 0].set(options.bos_id),
        token_log_probs=jnp.zeros((b, m, max_len), jnp.float32),
        log_probs=jnp.broadcast_to(jnp.where(slots == 0, 0.0, -jnp.inf), (b, m)),
        lengths=jnp.ones((b, m), jnp.int32),
        finished=jnp.zeros((b, m), bool),
        lineage=jnp.zeros((b, m, max_len), jnp.int32),
        greedy_slot=jnp.zeros((b,), jnp.int32),
        caches=caches,
    )
    return jax.lax.while_loop(not_converged, step, state)


def _can_improve(state: _BeamState, options: SearchOptions, max_len: int) -> Bool[Array, "b"]:
    """Return whether a live hypothesis of a clip can overtake its `n_best`-th finished one."""
    finished_scores = jnp.where(
        state.finished, _score(state.log_probs, state.lengths, options), -jnp.inf
    )  # (b, m)
    nth_finished = jax.lax.top_k(finished_scores, options.n_best)[0][:, -1]  # (b,)
    # Bound of a live score: more tokens only lower the sum of log-probabilities, and the length
    # normalizer is largest at the length limit.
    live_bounds = jnp.where(
        state.finished, -jnp.inf, _score(state.log_probs, jnp.int32(max_len), options)
    ).max(1)  # (b,)
    return (live_bounds > -jnp.inf) & (live_bounds >= nth_finished)


def _score(
    log_probs: Float[Array, "..."], lengths: Int[Array, "..."], options: SearchOptions
) -> Float[Array, "..."]:
    return log_probs / length_normalizer(lengths, options)


def _with_greedy_fallback(
    hypotheses: Hypotheses,
    greedy_lost: Bool[Array, "b"],
    sources: tuple[Source, ...],
    options: SearchOptions,
) -> Hypotheses:
    """Insert the greedy hypothesis into the list of each clip whose greedy path was lost."""
    return jax.lax.cond(
        greedy_lost.any(),
        lambda: _insert(hypotheses, greedy(sources, options), greedy_lost),
        lambda: hypotheses,
    )


def _insert(hypotheses: Hypotheses, extra: Hypotheses, where: Bool[Array, "b"]) -> Hypotheses:
    """Insert one more hypothesis per clip by score and drop the last of the m + 1; (b, m) lists.

    Clips for which `where` is False keep their list.
    """
    extra_scores = jnp.where(where, extra.scores, -jnp.inf)[:, None]
    scores = jnp.concatenate([hypotheses.scores, extra_scores], axis=1)  # (b, m + 1)
    order = jax.lax.top_k(scores, hypotheses.scores.shape[1])[1]  # (b, m)

    def pick(many, one):
        both = jnp.concatenate([many, one[:, None]], axis=1)
        index = order.reshape(*order.shape, *(1,) * (both.ndim - 2))
        return jnp.take_along_axis(both, index, axis=1)

    return Hypotheses(*(pick(many, one) for many, one in zip(hypotheses, extra)))
