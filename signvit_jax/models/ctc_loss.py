"""Connectionist temporal classification (Graves et al. 2006) without a one-hot vocabulary.

Only the log-probabilities of the blank and of a row's own labels are gathered. So no array but the
logits has the size of the vocabulary in the forward pass, and only the gradient in the backward
pass.

The lattice has two lanes, which hold log-probabilities of all paths so far: `blank[n]`, n labels
spelled and the last step blank, and `label[n]`, the last step on label n. All of it is in float32,
for logits of any dtype.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from signvit_jax.layers.attention import length_mask

BLANK = 0
NEG_INF = -1e30  # log 0 that can be added to itself and subtracted without a NaN


def ctc_loss(
    logits: Float[Array, "b s v"],
    logit_lengths: Int[Array, "b"],
    labels: Int[Array, "b l"],
    label_lengths: Int[Array, "b"],
) -> tuple[Float[Array, "b"], Bool[Array, "b"]]:
    """Return the CTC loss of each row, in nats, >= 0, and which rows are feasible.

    The loss is -log of the probability that the first `logit_lengths[i]` steps spell the first
    `label_lengths[i]` labels. Blank is id 0. A row that no alignment can spell (labels + adjacent
    repeats > steps, or a label outside 1..v-1) is not feasible: its loss and gradient are 0. Logits
    and labels beyond the lengths have no influence.

    The gradient (reverse mode, first order) is softmax - occupancy, in the dtype of the logits.
    Occupancy is the probability, given the labels, that an alignment has that word at that step.
    """
    feasible = _feasible(logits.shape[-1], logit_lengths, labels, label_lengths)
    loss = _negative_log_likelihood(logits, logit_lengths, labels, label_lengths, feasible)
    return loss, feasible


def _feasible(
    vocabulary: int,
    logit_lengths: Int[Array, "b"],
    labels: Int[Array, "b l"],
    label_lengths: Int[Array, "b"],
) -> Bool[Array, "b"]:
    valid = length_mask(label_lengths, labels.shape[1])
    repeats = (~_distinct(labels) & valid).sum(1)  # a blank must separate two equal labels
    spellable = ((labels > BLANK) & (labels < vocabulary)) | ~valid
    return (label_lengths + repeats <= logit_lengths) & spellable.all(1)


def _distinct(labels: Int[Array, "b l"]) -> Bool[Array, "b l"]:
    """True where a label differs from the previous one: no blank is needed between them."""
    first = jnp.ones_like(labels[:, :1], bool)
    return jnp.concatenate([first, labels[:, 1:] != labels[:, :-1]], axis=1)


def _gathered(
    logits: Float[Array, "b s v"], labels: Int[Array, "b l"]
) -> tuple[Float[Array, "b s 1"], Float[Array, "b s 1"], Float[Array, "b s l"]]:
    """Log of the softmax's denominator, and the log-probabilities of the blank and the labels."""
    denominator = jax.nn.logsumexp(logits.astype(jnp.float32), axis=-1, keepdims=True)
    on_blank = logits[..., :1].astype(jnp.float32)
    on_label = jnp.take_along_axis(logits, labels[:, None, :], axis=-1, mode="clip")
    on_label = on_label.astype(jnp.float32)
    # Rounding can make a confident row's log-probability positive; a masked word's is -inf.
    log_blank = jnp.clip(on_blank - denominator, NEG_INF, 0.0)
    log_label = jnp.clip(on_label - denominator, NEG_INF, 0.0)
    return denominator, log_blank, log_label


def _after(lane: Float[Array, "b n"]) -> Float[Array, "b n+1"]:
    """Shift a lane up by one label."""
    return jnp.pad(lane, ((0, 0), (1, 0)), constant_values=NEG_INF)


def _before(lane: Float[Array, "b n"]) -> Float[Array, "b n+1"]:
    """Append an entry to a lane, so that the caller can shift it down by one label."""
    return jnp.pad(lane, ((0, 0), (0, 1)), constant_values=NEG_INF)


def _log_sum(*terms: Float[Array, "..."]) -> Float[Array, "..."]:
    return jax.nn.logsumexp(jnp.stack(terms), axis=0)


def _time_major(valid: Bool[Array, "b s"], *lanes: Float[Array, "b s _"]) -> tuple[Array, ...]:
    return valid.T[..., None], *(lane.swapaxes(0, 1) for lane in lanes)


def _forward(
    logits: Array, logit_lengths: Array, labels: Array, label_lengths: Array, feasible: Array
) -> tuple[Float[Array, "b"], tuple[PyTree, ...]]:
    denominator, log_blank, log_label = _gathered(logits, labels)
    valid = length_mask(logit_lengths, logits.shape[1])
    distinct = _distinct(labels)

    def step(lanes, inputs):
        blank, label = lanes
        is_valid, on_blank, on_label = inputs
        previous = _after(label)
        new_blank = _log_sum(blank, previous) + on_blank
        skipped_blank = jnp.where(distinct, previous[:, :-1], NEG_INF)
        new_label = _log_sum(label, blank[:, :-1], skipped_blank) + on_label
        lanes = jnp.where(is_valid, new_blank, blank), jnp.where(is_valid, new_label, label)
        return lanes, lanes

    b, width = labels.shape
    start = jnp.full((b, width + 1), NEG_INF).at[:, 0].set(0.0), jnp.full((b, width), NEG_INF)
    (blank, label), prefixes = jax.lax.scan(step, start, _time_major(valid, log_blank, log_label))
    log_likelihood = jnp.take_along_axis(
        _log_sum(blank, _after(label)), label_lengths[:, None], axis=1, mode="clip"
    )[:, 0]
    loss = jnp.where(feasible, jnp.maximum(-log_likelihood, 0.0), 0.0)
    inputs = logits, logit_lengths, labels, label_lengths, feasible
    return loss, (inputs, denominator, log_blank, log_label, prefixes)


def _backward(
    saved: tuple[PyTree, ...], cotangent: Float[Array, "b"]
) -> tuple[Float[Array, "b s v"], None, None, None, None]:
    inputs, denominator, log_blank, log_label, prefixes = saved
    logits, logit_lengths, labels, label_lengths, feasible = inputs
    valid = length_mask(logit_lengths, logits.shape[1])
    suffixes = _suffixes(valid, log_blank, log_label, labels, label_lengths)
    paths = jnp.concatenate(
        [prefix + suffix for prefix, suffix in zip(prefixes, suffixes)], axis=-1
    ).swapaxes(0, 1)
    # Shares of the likelihood at each step. The softmax makes their sum 1 in spite of rounding.
    occupancy = jax.nn.softmax(paths)
    words, occupancy = _by_word(occupancy, labels, label_lengths, logits.shape[-1])

    scale = jnp.where(valid & feasible[:, None], cotangent[:, None], 0.0)[..., None]
    probabilities = jnp.exp(jnp.concatenate([log_blank, log_label], -1))
    in_row = (probabilities - occupancy) * scale
    elsewhere = jnp.exp(logits.astype(jnp.float32) - denominator) * scale
    rows = jnp.arange(len(labels))[:, None, None]
    steps = jnp.arange(logits.shape[1])[None, :, None]
    gradient = (
        elsewhere.astype(logits.dtype)
        .at[rows, steps, words[:, None, :]]
        .set(in_row.astype(logits.dtype), mode="drop", unique_indices=True)
    )
    return gradient, None, None, None, None


def _suffixes(
    valid: Bool[Array, "b s"],
    log_blank: Float[Array, "b s 1"],
    log_label: Float[Array, "b s l"],
    labels: Int[Array, "b l"],
    label_lengths: Int[Array, "b"],
) -> tuple[Float[Array, "s b l+1"], Float[Array, "s b l"]]:
    """Return the two lanes of the paths after each step, as `_forward` has those up to it."""
    distinct = _distinct(labels)

    def step(lanes, inputs):
        is_valid, on_blank, on_label = inputs
        blank, label = lanes[0] + on_blank, lanes[1] + on_label
        new_blank = _log_sum(blank, _before(label))
        skipping = _before(jnp.where(distinct, label, NEG_INF))
        new_label = _log_sum(label, blank[:, 1:], skipping[:, 1:])
        new_lanes = (
            jnp.where(is_valid, new_blank, lanes[0]),
            jnp.where(is_valid, new_label, lanes[1]),
        )
        return new_lanes, lanes

    # A path ends on the last blank or, one entry lower in the other lane, on the last label.
    ends = jnp.where(jnp.arange(labels.shape[1] + 1) == label_lengths[:, None], 0.0, NEG_INF)
    _, suffixes = jax.lax.scan(
        step, (ends, ends[:, 1:]), _time_major(valid, log_blank, log_label), reverse=True
    )
    return suffixes


def _by_word(
    occupancy: Float[Array, "b s lanes"],
    labels: Int[Array, "b l"],
    label_lengths: Int[Array, "b"],
    vocabulary: int,
) -> tuple[Int[Array, "b l+1"], Float[Array, "b s l+1"]]:
    """Return the words of each row, the blank and its labels, and the occupancy of each word.

    A label that is twice in a row's text is one word. Its occupancies are added at its first
    position, and the others get words outside the vocabulary. So every entry of the gradient is
    written once, from float32, and the order of the writes does not matter.
    """
    b, width = labels.shape
    in_text = length_mask(label_lengths, width)
    same = (labels[:, :, None] == labels[:, None, :]) & in_text[:, :, None] & in_text[:, None, :]
    first = in_text & ~jnp.triu(same, k=1).any(axis=1)
    on_label = jnp.einsum(
        "bsn,bnm->bsm", occupancy[..., width + 1 :], same.astype(jnp.float32), precision="highest"
    )
    on_blank = occupancy[..., : width + 1].sum(-1, keepdims=True)
    words = jnp.concatenate(
        [jnp.full((b, 1), BLANK), jnp.where(first, labels, vocabulary + jnp.arange(width))], axis=1
    )
    return words, jnp.concatenate([on_blank, on_label], -1)


@jax.custom_vjp
def _negative_log_likelihood(
    logits: Array, logit_lengths: Array, labels: Array, label_lengths: Array, feasible: Array
) -> Float[Array, "b"]:
    return _forward(logits, logit_lengths, labels, label_lengths, feasible)[0]


_negative_log_likelihood.defvjp(_forward, _backward)
