"""CTC prefix beam search (Graves 2006, Hannun et al. 2014): the likeliest texts, each with the probability of all its alignments, not of one path."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from signvit_jax.layers.attention import length_mask

BLANK = 0
_IMPOSSIBLE = -1e30  # log 0 that can be added to itself without a NaN
_FILLER = _IMPOSSIBLE / 2  # a slot scored below this holds no text


class PrefixBeams(NamedTuple):
    """The k likeliest texts per clip, best first. Ids are 0 beyond their length; where there are fewer texts than k, the score is -inf."""

    ids: Int[Array, "b k s"]
    lengths: Int[Array, "b k"]
    score: Float[Array, "b k"]  # log-probability of the text, nats


class _Beams(NamedTuple):
    """Texts no two of which are the same, and the log-probabilities of their alignments so far by the kind of the last step."""

    ids: Int[Array, "b k s"]
    lengths: Int[Array, "b k"]
    last: Int[Array, "b k"]  # the last id, 0 for the empty text
    on_blank: Float[Array, "b k"]
    on_label: Float[Array, "b k"]


@functools.partial(jax.jit, static_argnames=("beam_size", "candidates"))
def ctc_prefix_beam_search(
    logits: Float[Array, "b s v"],
    lengths: Int[Array, "b"],
    *,
    beam_size: int = 8,
    candidates: int | None = None,
) -> PrefixBeams:
    """Searches the texts of the first `lengths[i]` steps of each clip; blank is id 0. Steps beyond the length have no influence.

    At each step a text may go on with one of the step's `candidates` likeliest words. The default, twice the beam, loses nothing: of a text's
    continuations at most `beam_size` can stay, one more may repeat its last word and the others be texts of the beam already. Scores are sums over
    the alignments whose prefixes all stayed in the beam; they are exact if the beam holds every prefix. Raises ValueError for sizes below 1.
    """
    if beam_size < 1 or (candidates is not None and candidates < 1):
        raise ValueError(
            f"beam_size is {beam_size} and candidates {candidates}; both must be at least 1"
        )
    b, s, v = logits.shape
    width = min(candidates or 2 * beam_size, v - 1)
    denominator = jax.nn.logsumexp(logits.astype(jnp.float32), axis=-1, keepdims=True)
    likeliest, words = jax.lax.top_k(logits[..., 1:], width)

    def log_prob(values: Array, denominator: Array) -> Array:
        return jnp.maximum(
            values.astype(jnp.float32) - denominator, _IMPOSSIBLE
        )  # a masked word's logit is -inf

    def step(beams: _Beams, inputs: tuple[Array, ...]) -> tuple[_Beams, None]:
        live, step_logits, denominator, words, on_word = inputs
        on_last = log_prob(jnp.take_along_axis(step_logits, beams.last, axis=1), denominator)
        grown = _grow(beams, words, on_word, log_prob(step_logits[:, :1], denominator), on_last)
        return jax.tree.map(
            lambda new, old: jnp.where(live.reshape(b, *(1,) * (new.ndim - 1)), new, old),
            grown,
            beams,
        ), None

    empty = jnp.zeros((b, beam_size), jnp.int32)
    nowhere = jnp.full((b, beam_size), _IMPOSSIBLE)
    beams = _Beams(
        jnp.zeros((b, beam_size, s), jnp.int32), empty, empty, nowhere.at[:, 0].set(0.0), nowhere
    )
    steps = (
        length_mask(lengths, s),
        logits,
        denominator,
        words + 1,
        log_prob(likeliest, denominator),
    )
    beams, _ = jax.lax.scan(step, beams, jax.tree.map(lambda x: x.swapaxes(0, 1), steps))

    score = jnp.logaddexp(beams.on_blank, beams.on_label)
    held = score > _FILLER
    return PrefixBeams(
        ids=jnp.where(held[..., None], beams.ids, 0),
        lengths=jnp.where(held, beams.lengths, 0),
        score=jnp.where(held, jnp.minimum(score, 0.0), -jnp.inf),
    )


def _grow(
    beams: _Beams,
    words: Int[Array, "b n"],
    on_word: Float[Array, "b n"],
    on_blank: Float[Array, "b 1"],
    on_last: Float[Array, "b k"],
) -> _Beams:
    """One step of time: every text stays (by a blank or by its last word held on) or goes on with a word, and the k likeliest are kept."""
    b, k, s = beams.ids.shape
    total = jnp.logaddexp(beams.on_blank, beams.on_label)
    positions = jnp.arange(s)

    # [i, j]: text j is text i and one word more. Padding is 0 and no word is, so texts are equal where the arrays are. A text has one parent at most,
    # beside the slots not yet used, which look like the empty text but are impossible.
    parents = jnp.where(positions == beams.lengths[..., None] - 1, 0, beams.ids)
    extends = (beams.ids[:, :, None] == parents[:, None]).all(-1) & (beams.lengths > 0)[:, None]
    repeats = beams.last[:, :, None] == beams.last[:, None]
    arriving = jnp.where(
        extends, jnp.where(repeats, beams.on_blank[..., None], total[..., None]), _IMPOSSIBLE
    ).max(axis=1)
    stay_on_blank = total + on_blank
    stay_on_label = (
        jnp.logaddexp(beams.on_label, arriving) + on_last
    )  # stays impossible for the empty text, which has no label to hold

    # Going on with a word that makes a text of the beam is counted above, not here. What is impossible ranks below every text that stays, even one
    # that has become impossible itself: so the beam never holds a text twice.
    there = (extends[..., None] & (beams.last[:, None, :, None] == words[:, None, None])).any(
        axis=2
    )
    onward = (
        jnp.where(
            beams.last[..., None] == words[:, None], beams.on_blank[..., None], total[..., None]
        )
        + on_word[:, None]
    )
    onward = jnp.where(there | (onward < _FILLER), -jnp.inf, onward).reshape(b, -1)

    _, chosen = jax.lax.top_k(
        jnp.concatenate([jnp.logaddexp(stay_on_blank, stay_on_label), onward], axis=1), k
    )
    stays = chosen < k
    number = jnp.maximum(chosen - k, 0)
    source = jnp.where(stays, chosen, number // words.shape[1])
    word = jnp.take_along_axis(words, number % words.shape[1], axis=1)

    def of_source(values: Array) -> Array:
        return jnp.take_along_axis(values, source, axis=1)

    ids = jnp.take_along_axis(beams.ids, source[..., None], axis=1)
    lengths = of_source(beams.lengths)
    return _Beams(
        ids=jnp.where(~stays[..., None] & (positions == lengths[..., None]), word[..., None], ids),
        lengths=lengths + ~stays,
        last=jnp.where(stays, of_source(beams.last), word),
        on_blank=jnp.where(stays, of_source(stay_on_blank), _IMPOSSIBLE),
        on_label=jnp.where(
            stays, of_source(stay_on_label), jnp.take_along_axis(onward, number, axis=1)
        ),
    )
