"""Greedy CTC decoding: the likeliest word at each step, repeats collapsed, blanks dropped; and where in time each token stands."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from signvit_jax.models.attention import length_mask

BLANK = 0


class CTCHypotheses(NamedTuple):
    """One hypothesis per clip. What lies beyond `lengths` is 0 in every field."""

    ids: Int[Array, "b s"]
    lengths: Int[Array, "b"]
    score: Float[Array, "b"]  # log-probability of the best path, nats
    starts: Int[Array, "b s"]  # the token's first step
    ends: Int[Array, "b s"]  # one past its last step
    confidence: Float[Array, "b s"]  # mean probability over the token's steps, 0 to 1


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

    def gathered(values: Array, where: Array) -> Array:
        """Sums the chosen steps' values into their tokens; the other steps fall off the end."""
        place = jnp.where(where, token, logits.shape[1])
        return jnp.zeros(best.shape, values.dtype).at[jnp.arange(best.shape[0])[:, None], place].add(values, mode="drop")

    starts = gathered(jnp.broadcast_to(jnp.arange(best.shape[1]), best.shape), begins)
    steps = gathered(spoken.astype(jnp.int32), spoken)
    return CTCHypotheses(
        ids=gathered(best, begins),
        lengths=begins.sum(axis=1),
        score=log_prob.sum(axis=1),
        starts=starts,
        ends=starts + steps,
        confidence=gathered(jnp.exp(log_prob), spoken) / jnp.maximum(steps, 1),
    )
