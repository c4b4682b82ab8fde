"""CTC prefix beam search (Graves 2006, Hannun et al. 2014).

It finds the most probable texts. The probability of a text is that of all its alignments, not of
one path.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from signvit_jax.layers.attention import length_mask
from signvit_jax.models.ctc_loss import NEG_INF

_EMPTY_SLOT = NEG_INF / 2  # a slot with a lower score holds no text


class PrefixBeams(NamedTuple):
    """The k most probable texts per clip, best first.

    Ids are 0 beyond their length. Where there are fewer texts than k, the score is -inf.
    """

    ids: Int[Array, "b k s"]
    lengths: Int[Array, "b k"]
    score: Float[Array, "b k"]  # log-probability of the text, nats


class _PrefixState(NamedTuple):
    """k different texts per clip, with log-probabilities of their alignments up to a step.

    The alignments are split by their last label: the blank, or the last id of the text.
    """

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
    """Return the best texts of the first `lengths[i]` steps of each clip; blank is id 0.

    Steps beyond the length have no influence. At each step a text may be extended with one of the
    step's `candidates` most probable labels. The default, twice the beam size, loses nothing: at
    most `beam_size` extensions of a text can stay in the beam, one more may repeat its last label,
    and the others may be texts that are in the beam already. Scores are sums over those alignments
    whose prefixes all stayed in the beam; they are exact if the beam holds every prefix.
    Raises ValueError for sizes below 1.
    """
    if beam_size < 1 or (candidates is not None and candidates < 1):
        raise ValueError(
            f"beam_size is {beam_size} and candidates {candidates}; both must be at least 1"
        )
    b, s, v = logits.shape
    n = min(candidates or 2 * beam_size, v - 1)
    log_denominator = jax.nn.logsumexp(logits.astype(jnp.float32), axis=-1, keepdims=True)
    top_logits, top_labels = jax.lax.top_k(logits[..., 1:], n)  # (b, s, n), without the blank

    def log_prob(logits: Array, log_denominator: Array) -> Array:
        # The maximum keeps masked labels, whose logit is -inf, finite.
        return jnp.maximum(logits.astype(jnp.float32) - log_denominator, NEG_INF)

    def step(state: _PrefixState, inputs: tuple[Array, ...]) -> tuple[_PrefixState, None]:
        valid, step_logits, log_denominator, labels, label_log_probs = inputs
        blank_log_prob = log_prob(step_logits[:, :1], log_denominator)
        last_log_prob = log_prob(
            jnp.take_along_axis(step_logits, state.last, axis=1), log_denominator
        )
        new_state = _advance(state, labels, label_log_probs, blank_log_prob, last_log_prob)
        return jax.tree.map(
            lambda new, old: jnp.where(valid.reshape(b, *(1,) * (new.ndim - 1)), new, old),
            new_state,
            state,
        ), None

    # At the start the first slot holds the empty text, and the others hold nothing.
    zeros = jnp.zeros((b, beam_size), jnp.int32)
    impossible = jnp.full((b, beam_size), NEG_INF)
    state = _PrefixState(
        ids=jnp.zeros((b, beam_size, s), jnp.int32),
        lengths=zeros,
        last=zeros,
        on_blank=impossible.at[:, 0].set(0.0),
        on_label=impossible,
    )
    inputs = (
        length_mask(lengths, s),
        logits,
        log_denominator,
        top_labels + 1,
        log_prob(top_logits, log_denominator),
    )
    state, _ = jax.lax.scan(step, state, jax.tree.map(lambda x: x.swapaxes(0, 1), inputs))

    score = jnp.logaddexp(state.on_blank, state.on_label)
    is_text = score > _EMPTY_SLOT
    return PrefixBeams(
        ids=jnp.where(is_text[..., None], state.ids, 0),
        lengths=jnp.where(is_text, state.lengths, 0),
        score=jnp.where(is_text, jnp.minimum(score, 0.0), -jnp.inf),
    )


def _advance(
    state: _PrefixState,
    labels: Int[Array, "b n"],
    label_log_probs: Float[Array, "b n"],
    blank_log_prob: Float[Array, "b 1"],
    last_log_prob: Float[Array, "b k"],
) -> _PrefixState:
    """Advance by one step and keep the k most probable texts.

    Every text either stays as it is, by a blank or by repeating its last label, or is extended with
    one of the `labels`. `last_log_prob` is the log-probability of each text's last label.
    """
    b, k, s = state.ids.shape
    n = labels.shape[1]
    is_parent = _parents(state)
    stay_on_blank, stay_on_label = _staying(state, is_parent, blank_log_prob, last_log_prob)
    extended = _extended(state, is_parent, labels, label_log_probs).reshape(b, k * n)

    stay = jnp.logaddexp(stay_on_blank, stay_on_label)
    _, chosen = jax.lax.top_k(jnp.concatenate([stay, extended], axis=1), k)  # (b, k)
    stays = chosen < k
    extension = jnp.maximum(chosen - k, 0)  # index into `extended`
    parent = jnp.where(stays, chosen, extension // n)
    label = jnp.take_along_axis(labels, extension % n, axis=1)

    def gather_parents(values: Array) -> Array:
        return jnp.take_along_axis(values, parent, axis=1)

    ids = jnp.take_along_axis(state.ids, parent[..., None], axis=1)
    lengths = gather_parents(state.lengths)
    is_new = ~stays[..., None] & (jnp.arange(s) == lengths[..., None])
    return _PrefixState(
        ids=jnp.where(is_new, label[..., None], ids),
        lengths=lengths + ~stays,
        last=jnp.where(stays, gather_parents(state.last), label),
        on_blank=jnp.where(stays, gather_parents(stay_on_blank), NEG_INF),
        on_label=jnp.where(
            stays,
            gather_parents(stay_on_label),
            jnp.take_along_axis(extended, extension, axis=1),
        ),
    )


def _parents(state: _PrefixState) -> Bool[Array, "b k k"]:
    """Return is_parent[:, i, j], which is True if text j is text i plus one label.

    A text has at most one parent, apart from unused slots: they look like the empty text, but are
    impossible.
    """
    positions = jnp.arange(state.ids.shape[-1])
    # Padding is 0 and no label is 0, so texts are equal where the arrays are equal.
    prefixes = jnp.where(positions == state.lengths[..., None] - 1, 0, state.ids)
    is_parent = (state.ids[:, :, None] == prefixes[:, None]).all(-1)
    return is_parent & (state.lengths > 0)[:, None]


def _staying(
    state: _PrefixState,
    is_parent: Bool[Array, "b k k"],
    blank_log_prob: Float[Array, "b 1"],
    last_log_prob: Float[Array, "b k"],
) -> tuple[Float[Array, "b k"], Float[Array, "b k"]]:
    """Return the scores of texts that stay: with a blank, and with their last label.

    A parent that is extended with a text's last label becomes that text, and is counted here.
    """
    total = jnp.logaddexp(state.on_blank, state.on_label)
    # Extending a text with its own last label needs a blank between the two.
    repeats = state.last[:, :, None] == state.last[:, None]
    from_parent = jnp.where(repeats, state.on_blank[..., None], total[..., None])
    merged_from_prefix = jnp.where(is_parent, from_parent, NEG_INF).max(axis=1)  # (b, k)
    # This stays impossible for the empty text, which has no label to repeat.
    on_label = jnp.logaddexp(state.on_label, merged_from_prefix) + last_log_prob
    return total + blank_log_prob, on_label


def _extended(
    state: _PrefixState,
    is_parent: Bool[Array, "b k k"],
    labels: Int[Array, "b n"],
    label_log_probs: Float[Array, "b n"],
) -> Float[Array, "b k n"]:
    """Return the scores of all texts extended with each of the labels.

    An extension that is a text of the beam is counted by `_staying`, not here. Impossible
    extensions get -inf and rank below every text that stays, even one that has become impossible
    itself: so the beam never holds a text twice.
    """
    total = jnp.logaddexp(state.on_blank, state.on_label)
    already_in_beam = is_parent[..., None] & (state.last[:, None, :, None] == labels[:, None, None])
    already_in_beam = already_in_beam.any(axis=2)  # (b, k, n)
    repeats = state.last[..., None] == labels[:, None]
    extended = jnp.where(repeats, state.on_blank[..., None], total[..., None])
    extended = extended + label_log_probs[:, None]
    return jnp.where(already_in_beam | (extended < _EMPTY_SLOT), -jnp.inf, extended)
