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

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from signvit_jax.decoding.autoregressive import Hypotheses, Source, check, checked_sources, next_log_probs, normaliser, start
from signvit_jax.decoding.greedy import greedy
from signvit_jax.models.decoder import PAD

FORMULAS = ("power", "gnmt")


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
    return _beam_search(sources, bos_id, eos_id, beam_size, n_best, length_penalty, formula, max_len, no_repeat_ngram_size)


@partial(jax.jit, static_argnums=(1, 2, 3, 4, 6, 7, 8))
def _beam_search(sources, bos_id, eos_id, beam_size, n_best, length_penalty, formula, max_len, no_repeat_ngram_size):
    b, m, l = sources[0].memory.shape[0], beam_size, max_len
    width = min(m, sources[0].decoder.embedding.shape[0])  # offers that a hypothesis makes
    memories, caches = start(sources, m, l)
    slots = jnp.arange(m)

    def score(sums, lengths):
        return sums / normaliser(lengths, length_penalty, formula)

    def unsettled(state):
        position, _, _, sums, lengths, ended, _, _, _ = state
        nth_ended = jax.lax.top_k(jnp.where(ended, score(sums, lengths), -jnp.inf), n_best)[0][:, -1]
        # Further tokens only lower the sum, and the normaliser is largest at the length limit.
        within_reach = jnp.where(ended, -jnp.inf, score(sums, jnp.int32(l))).max(1)
        return (position < l - 1) & ((within_reach > -jnp.inf) & (within_reach >= nth_ended)).any()

    def step(state):
        position, tokens, token_log_probs, sums, lengths, ended, lineage, greedy_slot, caches = state
        lineage = lineage.at[:, :, position].set(slots)
        log_probs, caches = next_log_probs(sources, memories, caches, tokens, position, lineage, no_repeat_ngram_size)
        gains, offers = jax.lax.top_k(log_probs, width)
        # An ended hypothesis makes one offer, itself.
        gains = jnp.where(ended[:, :, None], jnp.where(jnp.arange(width) == 0, 0.0, -jnp.inf), gains)
        offers = jnp.where(ended[:, :, None], PAD, offers)
        offered_lengths = jnp.where(ended, lengths, position + 2)
        ranks = score(sums[:, :, None] + gains, offered_lengths[:, :, None]).reshape(b, m * width)
        chosen = jax.lax.top_k(ranks, m)[1]
        parent = chosen // width

        def of_parent(x):
            return jnp.take_along_axis(x, parent.reshape(b, m, *(1,) * (x.ndim - 2)), axis=1)

        token, gain = (jnp.take_along_axis(x.reshape(b, m * width), chosen, axis=1) for x in (offers, gains))
        tokens = of_parent(tokens).at[:, :, position + 1].set(token)
        token_log_probs = of_parent(token_log_probs).at[:, :, position + 1].set(gain)
        follows_greedy = (chosen == greedy_slot[:, None] * width) & (greedy_slot >= 0)[:, None]
        greedy_slot = jnp.where(follows_greedy.any(1), jnp.argmax(follows_greedy, axis=1), -1)
        ended = of_parent(ended) | (token == eos_id)
        return (position + 1, tokens, token_log_probs, of_parent(sums) + gain, of_parent(offered_lengths), ended, of_parent(lineage), greedy_slot, caches)

    state = (
        jnp.int32(0),
        jnp.full((b, m, l), PAD, jnp.int32).at[:, :, 0].set(bos_id),
        jnp.zeros((b, m, l), jnp.float32),
        jnp.broadcast_to(jnp.where(slots == 0, 0.0, -jnp.inf), (b, m)),  # the first slot holds BOS, the others nothing yet
        jnp.ones((b, m), jnp.int32),
        jnp.zeros((b, m), bool),
        jnp.zeros((b, m, l), jnp.int32),
        jnp.zeros((b,), jnp.int32),
        caches,
    )
    _, tokens, token_log_probs, sums, lengths, _, _, greedy_slot, _ = jax.lax.while_loop(unsettled, step, state)
    found = Hypotheses(tokens, lengths, score(sums, lengths), token_log_probs)

    def with_greedy():
        options = dict(max_len=l, no_repeat_ngram_size=no_repeat_ngram_size, length_penalty=length_penalty, formula=formula)
        return _joined(found, greedy(sources, bos_id=bos_id, eos_id=eos_id, **options), greedy_slot < 0)

    found = jax.lax.cond((greedy_slot < 0).any(), with_greedy, lambda: found)
    return Hypotheses(*(field[:, :n_best] for field in found))


def _joined(found: Hypotheses, other: Hypotheses, where: Bool[Array, "b"]) -> Hypotheses:
    """n-best lists (b, m) with one more hypothesis a clip put in by score, where asked for, and the last of the m + 1 left out."""
    scores = jnp.concatenate([found.scores, jnp.where(where, other.scores, -jnp.inf)[:, None]], axis=1)
    order = jax.lax.top_k(scores, found.scores.shape[1])[1]

    def pick(many, one):
        both = jnp.concatenate([many, one[:, None]], axis=1)
        return jnp.take_along_axis(both, order.reshape(*order.shape, *(1,) * (both.ndim - 2)), axis=1)

    return Hypotheses(*(pick(many, one) for many, one in zip(found._replace(scores=scores[:, :-1]), other)))
