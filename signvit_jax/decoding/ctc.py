"""Greedy CTC decoding, and forced alignment: the steps at which the tokens of a text occur."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from signvit_jax.layers.attention import length_mask
from signvit_jax.models.ctc_loss import BLANK


class CTCHypotheses(NamedTuple):
    """One hypothesis per clip; every field is 0 beyond `lengths`.

    A token's steps are those from `starts` to before `ends`.
    """

    ids: Int[Array, "b s"]
    lengths: Int[Array, "b"]
    score: Float[Array, "b"]  # log-probability of the best path, nats
    starts: Int[Array, "b s"]
    ends: Int[Array, "b s"]
    confidence: Float[Array, "b s"]  # mean probability over the token's steps, 0 to 1
    peak: Float[Array, "b s"]  # largest log-odds against all other labels in a step, nats; least 0


class Alignment(NamedTuple):
    """The most probable alignment of a text, per token.

    0 beyond the text, and everywhere if no alignment can spell it.
    """

    starts: Int[Array, "b l"]  # first step
    ends: Int[Array, "b l"]  # last step + 1
    confidence: Float[Array, "b l"]  # mean probability over the token's steps, 0 to 1


@jax.jit
def greedy_ctc(logits: Float[Array, "b s v"], lengths: Int[Array, "b"]) -> CTCHypotheses:
    """Return the text of the best path through the first `lengths[i]` steps of each clip.

    The best path has the most probable label at each step; repeats are merged, then blanks are
    dropped (`translate_ctc` of the reference system). Blank is id 0. Steps beyond the length have
    no influence. Of equal logits the lowest id is taken.
    """
    s = logits.shape[1]
    valid = length_mask(lengths, s)
    path = jnp.where(valid, jnp.argmax(logits, axis=-1), BLANK)  # (b, s)
    logits = logits.astype(jnp.float32)
    log_prob = jnp.where(valid, logits.max(-1) - jax.nn.logsumexp(logits, axis=-1), 0.0)

    previous = jnp.pad(path[:, :-1], ((0, 0), (1, 0)), constant_values=BLANK)
    on_token = path != BLANK
    begins = on_token & (path != previous)
    token = jnp.cumsum(begins, axis=1) - 1  # index of the token that a step belongs to
    other_logits = jnp.where(jnp.arange(logits.shape[2]) == path[..., None], -jnp.inf, logits)
    log_odds = logits.max(-1) - jax.nn.logsumexp(other_logits, axis=-1)
    clip, place = jnp.arange(path.shape[0])[:, None], jnp.where(on_token, token, s)
    peak = (
        jnp.zeros(path.shape).at[clip, place].max(jnp.where(on_token, log_odds, 0.0), mode="drop")
    )
    alignment = _alignment(log_prob, token, on_token, s)
    return CTCHypotheses(
        ids=_sum_by_token(path, token, begins, s),
        lengths=begins.sum(axis=1),
        score=log_prob.sum(axis=1),
        peak=peak,
        **alignment._asdict(),
    )


@jax.jit
def forced_align(
    logits: Float[Array, "b s v"],
    lengths: Int[Array, "b"],
    ids: Int[Array, "b l"],
    id_lengths: Int[Array, "b"],
) -> Alignment:
    """Align the first `id_lengths[i]` tokens with the first `lengths[i]` steps of each clip.

    This is the Viterbi algorithm over the CTC lattice; blank is id 0.
    """
    b, width = ids.shape
    # The states of the lattice alternate: blank, token, blank, ..., token, blank.
    states = jnp.arange(2 * width + 1)
    is_token = states % 2 == 1
    symbols = jnp.where(
        is_token,
        jnp.repeat(jnp.pad(ids, ((0, 0), (0, 1))), 2, axis=1)[:, : 2 * width + 1],
        BLANK,
    )  # (b, 2 width + 1)
    two_before = jnp.pad(symbols[:, :-2], ((0, 0), (2, 0)), constant_values=BLANK)
    may_skip_blank = is_token & (symbols != two_before)
    log_denominator = jax.nn.logsumexp(logits.astype(jnp.float32), axis=-1, keepdims=True)
    log_probs = (
        jnp.take_along_axis(logits, symbols[:, None], axis=-1).astype(jnp.float32) - log_denominator
    )  # (b, s, 2 width + 1)
    valid = length_mask(lengths, logits.shape[1])

    def forward(best, inputs):
        """`best`: log-probability of the best path into each state; also return the moves made."""
        log_prob, is_valid = inputs
        from_previous = jnp.pad(best[:, :-1], ((0, 0), (1, 0)), constant_values=-jnp.inf)
        from_two_before = jnp.pad(best[:, :-2], ((0, 0), (2, 0)), constant_values=-jnp.inf)
        from_two_before = jnp.where(may_skip_blank, from_two_before, -jnp.inf)
        origins = jnp.stack([best, from_previous, from_two_before])
        moves = jnp.where(is_valid[:, None], jnp.argmax(origins, axis=0), 0)
        return jnp.where(is_valid[:, None], origins.max(0) + log_prob, best), moves

    start = jnp.broadcast_to(jnp.where(states == 0, 0.0, -jnp.inf), (b, len(states)))
    best, moves = jax.lax.scan(forward, start, (log_probs.swapaxes(0, 1), valid.T))

    # A path ends on the last token or on the blank after it.
    last_blank = 2 * id_lengths
    last_token = jnp.maximum(2 * id_lengths - 1, 0)
    best_on_blank = jnp.take_along_axis(best, last_blank[:, None], axis=1)[:, 0]
    best_on_token = jnp.take_along_axis(best, last_token[:, None], axis=1)[:, 0]
    last_state = jnp.where(best_on_token > best_on_blank, last_token, last_blank)

    def backward(state, moves):
        return state - jnp.take_along_axis(moves, state[:, None], axis=1)[:, 0], state

    _, path = jax.lax.scan(backward, last_state, moves, reverse=True)
    path = path.T  # (b, s)
    possible = jnp.maximum(best_on_token, best_on_blank) > -jnp.inf
    on_token = valid & (path % 2 == 1) & possible[:, None]
    log_prob = jnp.take_along_axis(log_probs, path[..., None], axis=-1)[..., 0]
    return _alignment(log_prob, path // 2, on_token, width)


def _alignment(
    log_prob: Float[Array, "b s"],
    token: Int[Array, "b s"],
    on_token: Bool[Array, "b s"],
    width: int,
) -> Alignment:
    """Return the alignment of a path: `token` is the index of the token that a step belongs to."""
    previous = jnp.pad(jnp.where(on_token, token, -1)[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
    begins = on_token & (token != previous)
    steps = jnp.broadcast_to(jnp.arange(token.shape[1]), token.shape)
    starts = _sum_by_token(steps, token, begins, width)
    durations = _sum_by_token(on_token.astype(jnp.int32), token, on_token, width)
    probabilities = _sum_by_token(jnp.exp(log_prob), token, on_token, width)
    return Alignment(starts, starts + durations, probabilities / jnp.maximum(durations, 1))


def _sum_by_token(
    values: Array, token: Int[Array, "b s"], mask: Bool[Array, "b s"], width: int
) -> Array:
    """Sum the values of the masked steps by token, (b, width); the other steps are dropped."""
    b = token.shape[0]
    place = jnp.where(mask, token, width)
    sums = jnp.zeros((b, width), values.dtype)
    return sums.at[jnp.arange(b)[:, None], place].add(values, mode="drop")
