"""Greedy CTC decoding: the likeliest word at each step, repeats collapsed, blanks dropped; and where in time the tokens of any text stand."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from signvit_jax.layers.attention import length_mask

BLANK = 0


class CTCHypotheses(NamedTuple):
    """One hypothesis per clip. What lies beyond `lengths` is 0 in every field."""

    ids: Int[Array, "b s"]
    lengths: Int[Array, "b"]
    score: Float[Array, "b"]  # log-probability of the best path, nats
    starts: Int[Array, "b s"]  # the token's first step
    ends: Int[Array, "b s"]  # one past its last step
    confidence: Float[Array, "b s"]  # mean probability over the token's steps, 0 to 1
    peak: Float[
        Array, "b s"
    ]  # the largest log-odds of the token against all other labels in one of its steps, nats


class Alignment(NamedTuple):
    """Where each token of a text stands on the likeliest of its alignments; 0 beyond the text and where no alignment can spell it."""

    starts: Int[Array, "b l"]  # the token's first step
    ends: Int[Array, "b l"]  # one past its last step
    confidence: Float[Array, "b l"]  # mean probability over the token's steps, 0 to 1


@jax.jit
def greedy_ctc(logits: Float[Array, "b s v"], lengths: Int[Array, "b"]) -> CTCHypotheses:
    """The text of the best path through the first `lengths[i]` steps of each clip (SPEC 3, `translate_ctc`); blank is id 0.

    Steps beyond the length have no influence. Among equal logits the lowest id is taken.
    """
    live = length_mask(lengths, logits.shape[1])
    best = jnp.where(live, jnp.argmax(logits, axis=-1), BLANK)
    logits = logits.astype(jnp.float32)
    log_prob = jnp.where(live, logits.max(-1) - jax.nn.logsumexp(logits, axis=-1), 0.0)

    before = jnp.pad(best[:, :-1], ((0, 0), (1, 0)), constant_values=BLANK)
    spoken = best != BLANK
    begins = spoken & (best != before)
    token = jnp.cumsum(begins, axis=1) - 1  # which token of the text a spoken step belongs to
    others = jnp.where(jnp.arange(logits.shape[2]) == best[..., None], -jnp.inf, logits)
    odds = logits.max(-1) - jax.nn.logsumexp(others, axis=-1)
    rows, place = jnp.arange(best.shape[0])[:, None], jnp.where(spoken, token, best.shape[1])
    return CTCHypotheses(
        ids=_gathered(best, token, begins, logits.shape[1]),
        lengths=begins.sum(axis=1),
        score=log_prob.sum(axis=1),
        peak=jnp.zeros(best.shape).at[rows, place].max(jnp.where(spoken, odds, 0.0), mode="drop"),
        **_placed(log_prob, token, spoken, logits.shape[1])._asdict(),
    )


@jax.jit
def align(
    logits: Float[Array, "b s v"],
    lengths: Int[Array, "b"],
    ids: Int[Array, "b l"],
    id_lengths: Int[Array, "b"],
) -> Alignment:
    """The likeliest alignment of the first `id_lengths[i]` tokens with the first `lengths[i]` steps (Viterbi over the CTC lattice); blank is id 0."""
    b, width = ids.shape
    # States take turns: blank, token, blank, ..., token, blank.
    states = jnp.arange(2 * width + 1)
    symbols = jnp.where(
        states % 2 == 1,
        jnp.repeat(jnp.pad(ids, ((0, 0), (0, 1))), 2, axis=1)[:, : 2 * width + 1],
        BLANK,
    )
    two_before = jnp.pad(symbols[:, :-2], ((0, 0), (2, 0)), constant_values=BLANK)
    may_skip_blank = (states % 2 == 1) & (symbols != two_before)
    length_normalizer = jax.nn.logsumexp(logits.astype(jnp.float32), axis=-1, keepdims=True)
    log_probs = (
        jnp.take_along_axis(logits, symbols[:, None], axis=-1).astype(jnp.float32)
        - length_normalizer
    )
    live = length_mask(lengths, logits.shape[1])

    def forward(reached, inputs):
        log_prob, is_live = inputs
        from_last = jnp.pad(reached[:, :-1], ((0, 0), (1, 0)), constant_values=-jnp.inf)
        from_two_before = jnp.pad(reached[:, :-2], ((0, 0), (2, 0)), constant_values=-jnp.inf)
        ways = jnp.stack([reached, from_last, jnp.where(may_skip_blank, from_two_before, -jnp.inf)])
        moved = jnp.where(is_live[:, None], jnp.argmax(ways, axis=0), 0)
        return jnp.where(is_live[:, None], ways.max(0) + log_prob, reached), moved

    start = jnp.broadcast_to(jnp.where(states == 0, 0.0, -jnp.inf), (b, len(states)))
    reached, moves = jax.lax.scan(forward, start, (log_probs.swapaxes(0, 1), live.T))

    on_blank, on_token = (
        jnp.take_along_axis(reached, end[:, None], axis=1)[:, 0]
        for end in (2 * id_lengths, jnp.maximum(2 * id_lengths - 1, 0))
    )
    last = jnp.where(on_token > on_blank, jnp.maximum(2 * id_lengths - 1, 0), 2 * id_lengths)

    def backward(state, moved):
        return state - jnp.take_along_axis(moved, state[:, None], axis=1)[:, 0], state

    _, path = jax.lax.scan(backward, last, moves, reverse=True)
    path = path.T
    possible = jnp.maximum(on_token, on_blank) > -jnp.inf
    spoken = live & (path % 2 == 1) & possible[:, None]
    log_prob = jnp.take_along_axis(log_probs, path[..., None], axis=-1)[..., 0]
    return _placed(log_prob, path // 2, spoken, width)


def _placed(
    log_prob: Float[Array, "b s"], token: Int[Array, "b s"], spoken: Bool[Array, "b s"], width: int
) -> Alignment:
    """First step, end and mean probability of each token, of the steps that are `spoken`; `token` says which token a step belongs to."""
    begins = spoken & (
        token != jnp.pad(jnp.where(spoken, token, -1)[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
    )
    starts = _gathered(
        jnp.broadcast_to(jnp.arange(token.shape[1]), token.shape), token, begins, width
    )
    steps = _gathered(spoken.astype(jnp.int32), token, spoken, width)
    return Alignment(
        starts,
        starts + steps,
        _gathered(jnp.exp(log_prob), token, spoken, width) / jnp.maximum(steps, 1),
    )


def _gathered(
    values: Array, token: Int[Array, "b s"], where: Bool[Array, "b s"], width: int
) -> Array:
    """Sums the chosen steps' values into their tokens; the other steps fall off the end."""
    place = jnp.where(where, token, width)
    return (
        jnp.zeros((token.shape[0], width), values.dtype)
        .at[jnp.arange(token.shape[0])[:, None], place]
        .add(values, mode="drop")
    )
