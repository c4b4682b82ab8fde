"""Beam search over all clips and beams in one loop.

The reference's procedure, batched: each clip has `beam_size` slots. At every step a live hypothesis offers its `beam_size` best continuations and an
ended one itself; the best offers by score, ended and live compared as they stand, take the slots. It ends when nothing live is left, or at the length
limit, where the unfinished compete too. Two things are added; only the second changes a result:

- A clip is settled as soon as no live hypothesis can overtake its `n_best`-th ended one, even at probability 1 for all that is to come.
- Pruning can lose the greedy path, and then end below it. Clips in which that happened are decoded greedily as well and the result joins their list,
  so that the best score is never below greedy's.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from signvit_jax.decoding.autoregressive import (
    Hypotheses,
    Source,
    check,
    checked_sources,
    length_normalizer,
    next_log_probs,
    start,
)
from signvit_jax.decoding.greedy import greedy
from signvit_jax.models.decoder import PAD, Cache

FORMULAS = ("power", "gnmt")


class _Beams(NamedTuple):
    """The state of the search: m slots a clip, best first."""

    position: Int[Array, ""]  # of the last token
    tokens: Int[Array, "b m l"]
    token_log_probs: Float[Array, "b m l"]
    sums: Float[Array, "b m"]
    lengths: Int[Array, "b m"]
    ended: Bool[Array, "b m"]
    lineage: Int[Array, "b m l"]  # see TextDecoder.step
    greedy_slot: Int[Array, "b"]  # where the greedy path is, -1 once it has been pruned
    caches: tuple[Cache, ...]


def beam_search(
    sources: Source | Sequence[Source],
    *,
    bos_id: int,
    eos_id: int,
    beam_size: int = 4,
    n_best: int = 1,
    length_penalty: float = 1.0,
    formula: str = "power",
    max_len: int | None = None,
    no_repeat_ngram_size: int = 0,
) -> Hypotheses:
    """The `n_best` hypotheses of every clip, best first: tokens (b, n_best, max_len).

    Score = sum of log-probabilities / n^length_penalty, n counting BOS and EOS; formula 'gnmt' divides by ((5 + n) / 6)^length_penalty instead.
    `max_len` counts BOS and EOS; None is the decoder's own. A tiny vocabulary may not hold `n_best` hypotheses: the rest have score -inf.
    Raises DecodingError for models that cannot be an ensemble and for values out of range.
    """
    sources, max_len = checked_sources(sources, max_len)
    check("beam_size", beam_size, beam_size >= 1, "a whole number >= 1")
    check("n_best", n_best, 1 <= n_best <= beam_size, f"1 to {beam_size}, the beam_size")
    check("length_penalty", length_penalty, length_penalty >= 0, "a number >= 0")
    check("formula", formula, formula in FORMULAS, "'power' or 'gnmt'")
    return _beam_search(
        sources,
        bos_id,
        eos_id,
        beam_size,
        n_best,
        length_penalty,
        formula,
        max_len,
        no_repeat_ngram_size,
    )


@partial(jax.jit, static_argnums=(1, 2, 3, 4, 6, 7, 8))
def _beam_search(
    sources,
    bos_id,
    eos_id,
    beam_size,
    n_best,
    length_penalty,
    formula,
    max_len,
    no_repeat_ngram_size,
):
    b, m = sources[0].memory.shape[0], beam_size
    width = min(m, sources[0].decoder.embedding.shape[0])  # offers that a hypothesis makes
    memories, caches = start(sources, m, max_len)
    slots = jnp.arange(m)

    def score(sums, lengths):
        return sums / length_normalizer(lengths, length_penalty, formula)

    def unsettled(beams):
        nth_ended = jax.lax.top_k(
            jnp.where(beams.ended, score(beams.sums, beams.lengths), -jnp.inf), n_best
        )[0][:, -1]
        # Further tokens only lower the sum, and the length_normalizer is largest at the length limit.
        within_reach = jnp.where(beams.ended, -jnp.inf, score(beams.sums, jnp.int32(max_len))).max(
            1
        )
        return (beams.position < max_len - 1) & (
            (within_reach > -jnp.inf) & (within_reach >= nth_ended)
        ).any()

    def step(beams):
        position, ended = beams.position, beams.ended
        lineage = beams.lineage.at[:, :, position].set(slots)
        log_probs, caches = next_log_probs(
            sources, memories, beams.caches, beams.tokens, position, lineage, no_repeat_ngram_size
        )
        gains, offers = jax.lax.top_k(log_probs, width)
        # An ended hypothesis makes one offer, itself.
        gains = jnp.where(
            ended[:, :, None], jnp.where(jnp.arange(width) == 0, 0.0, -jnp.inf), gains
        )
        offers = jnp.where(ended[:, :, None], PAD, offers)
        lengths = jnp.where(ended, beams.lengths, position + 2)
        ranks = score(beams.sums[:, :, None] + gains, lengths[:, :, None]).reshape(b, m * width)
        chosen = jax.lax.top_k(ranks, m)[1]
        parent = chosen // width

        def of_parent(x):
            return jnp.take_along_axis(x, parent.reshape(b, m, *(1,) * (x.ndim - 2)), axis=1)

        token, gain = (
            jnp.take_along_axis(x.reshape(b, m * width), chosen, axis=1) for x in (offers, gains)
        )
        follows_greedy = (chosen == beams.greedy_slot[:, None] * width) & (beams.greedy_slot >= 0)[
            :, None
        ]
        return _Beams(
            position=position + 1,
            tokens=of_parent(beams.tokens).at[:, :, position + 1].set(token),
            token_log_probs=of_parent(beams.token_log_probs).at[:, :, position + 1].set(gain),
            sums=of_parent(beams.sums) + gain,
            lengths=of_parent(lengths),
            ended=of_parent(ended) | (token == eos_id),
            lineage=of_parent(lineage),
            greedy_slot=jnp.where(follows_greedy.any(1), jnp.argmax(follows_greedy, axis=1), -1),
            caches=caches,
        )

    beams = _Beams(
        position=jnp.int32(0),
        tokens=jnp.full((b, m, max_len), PAD, jnp.int32).at[:, :, 0].set(bos_id),
        token_log_probs=jnp.zeros((b, m, max_len), jnp.float32),
        sums=jnp.broadcast_to(
            jnp.where(slots == 0, 0.0, -jnp.inf), (b, m)
        ),  # the first slot holds BOS, the others nothing yet
        lengths=jnp.ones((b, m), jnp.int32),
        ended=jnp.zeros((b, m), bool),
        lineage=jnp.zeros((b, m, max_len), jnp.int32),
        greedy_slot=jnp.zeros((b,), jnp.int32),
        caches=caches,
    )
    beams = jax.lax.while_loop(unsettled, step, beams)
    found = Hypotheses(
        beams.tokens, beams.lengths, score(beams.sums, beams.lengths), beams.token_log_probs
    )
    lost = beams.greedy_slot < 0

    def with_greedy():
        options = {
            "max_len": max_len,
            "no_repeat_ngram_size": no_repeat_ngram_size,
            "length_penalty": length_penalty,
            "formula": formula,
        }
        return _joined(found, greedy(sources, bos_id=bos_id, eos_id=eos_id, **options), lost)

    found = jax.lax.cond(lost.any(), with_greedy, lambda: found)
    return Hypotheses(*(field[:, :n_best] for field in found))


def _joined(found: Hypotheses, other: Hypotheses, where: Bool[Array, "b"]) -> Hypotheses:
    """n-best lists (b, m) with one more hypothesis a clip put in by score, where asked for, and the last of the m + 1 left out."""
    scores = jnp.concatenate(
        [found.scores, jnp.where(where, other.scores, -jnp.inf)[:, None]], axis=1
    )
    order = jax.lax.top_k(scores, found.scores.shape[1])[1]

    def pick(many, one):
        both = jnp.concatenate([many, one[:, None]], axis=1)
        return jnp.take_along_axis(
            both, order.reshape(*order.shape, *(1,) * (both.ndim - 2)), axis=1
        )

    return Hypotheses(
        *(pick(many, one) for many, one in zip(found._replace(scores=scores[:, :-1]), other))
    )
