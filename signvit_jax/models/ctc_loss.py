"""Connectionist temporal classification (Graves et al. 2006) without a one-hot over the vocabulary.

Only the log-probabilities of the blank and of the row's own labels are gathered, so that beside the logits nothing of the vocabulary's size is made
in the forward pass, and in the backward pass only the gradient itself. The lattice has two lanes: `blank[n]`, n labels spelt and the last frame
blank, and `label[n]`, the last frame on label n. Everything is in float32 log space, whatever the logits are in.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from signvit_jax.layers.attention import length_mask

BLANK = 0
NEG_INF = -1e30  # log 0 that can be added to itself and subtracted without a NaN


def ctc_loss(
    logits: Float[Array, "b s v"],
    logit_lengths: Int[Array, "b"],
    labels: Int[Array, "b l"],
    label_lengths: Int[Array, "b"],
) -> tuple[Float[Array, "b"], Bool[Array, "b"]]:
    """-log of the probability that the first `logit_lengths[i]` steps spell the first `label_lengths[i]` labels, in nats, >= 0, and which rows can.

    Blank is id 0. A row that no alignment can spell (labels + adjacent repeats > steps, or a label outside 1..v-1) has `feasible` False, loss 0 and
    gradient 0. What lies beyond the lengths, in the logits or in the labels, has no influence. The gradient (reverse mode, first order) is
    softmax - occupancy, the probability that an alignment is at that word at that step, in the dtype of the logits.
    """
    feasible = _feasible(logits.shape[-1], logit_lengths, labels, label_lengths)
    return _negative_log_likelihood(
        logits, logit_lengths, labels, label_lengths, feasible
    ), feasible


def _feasible(
    vocabulary: int,
    logit_lengths: Int[Array, "b"],
    labels: Int[Array, "b l"],
    label_lengths: Int[Array, "b"],
) -> Bool[Array, "b"]:
    given = length_mask(label_lengths, labels.shape[1])
    repeats = (~_distinct(labels) & given).sum(1)  # a blank must stand between two equal labels
    spellable = ((labels > BLANK) & (labels < vocabulary)) | ~given
    return (label_lengths + repeats <= logit_lengths) & spellable.all(1)


def _distinct(labels: Int[Array, "b l"]) -> Bool[Array, "b l"]:
    """True where a label differs from the one before it: only then may the blank between them be left out."""
    return jnp.concatenate(
        [jnp.ones_like(labels[:, :1], bool), labels[:, 1:] != labels[:, :-1]], axis=1
    )


def _gathered(
    logits: Float[Array, "b s v"], labels: Int[Array, "b l"]
) -> tuple[Float[Array, "b s 1"], Float[Array, "b s 1"], Float[Array, "b s l"]]:
    """Log of the softmax's denominator, and the log-probabilities of blank and labels."""
    denominator = jax.nn.logsumexp(logits.astype(jnp.float32), axis=-1, keepdims=True)
    chosen = jnp.take_along_axis(logits, labels[:, None, :], axis=-1, mode="clip").astype(
        jnp.float32
    )
    # A confident row's log-probability can round to just above 0, a masked word's is -inf.
    return denominator, *(
        jnp.clip(x - denominator, NEG_INF, 0.0)
        for x in (logits[..., :1].astype(jnp.float32), chosen)
    )


def _after(lane: Float[Array, "b n"]) -> Float[Array, "b n+1"]:
    """Shifts a lane up by one label."""
    return jnp.pad(lane, ((0, 0), (1, 0)), constant_values=NEG_INF)


def _before(lane: Float[Array, "b n"]) -> Float[Array, "b n+1"]:
    """Shifts a lane down by one label, with room for the shift at its end."""
    return jnp.pad(lane, ((0, 0), (0, 1)), constant_values=NEG_INF)


def _log_sum(*terms: Float[Array, "..."]) -> Float[Array, "..."]:
    return jax.nn.logsumexp(jnp.stack(terms), axis=0)


def _time_major(live: Bool[Array, "b s"], *lanes: Float[Array, "b s _"]) -> tuple[Array, ...]:
    return live.T[..., None], *(x.swapaxes(0, 1) for x in lanes)


def _forward(logits, logit_lengths, labels, label_lengths, feasible):
    denominator, log_blank, log_label = _gathered(logits, labels)
    live = length_mask(logit_lengths, logits.shape[1])
    distinct = _distinct(labels)

    def step(lanes, inputs):
        blank, label = lanes
        is_live, on_blank, on_label = inputs
        before = _after(label)
        new_blank = _log_sum(blank, before) + on_blank
        new_label = (
            _log_sum(label, blank[:, :-1], jnp.where(distinct, before[:, :-1], NEG_INF)) + on_label
        )
        lanes = jnp.where(is_live, new_blank, blank), jnp.where(is_live, new_label, label)
        return lanes, lanes

    b, width = labels.shape
    start = (
        jnp.full((b, width + 1), NEG_INF).at[:, 0].set(0.0),
        jnp.full((b, width), NEG_INF),
    )
    (blank, label), prefixes = jax.lax.scan(step, start, _time_major(live, log_blank, log_label))
    log_likelihood = jnp.take_along_axis(
        _log_sum(blank, _after(label)), label_lengths[:, None], axis=1, mode="clip"
    )[:, 0]
    loss = jnp.where(feasible, jnp.maximum(-log_likelihood, 0.0), 0.0)
    return loss, (
        logits,
        logit_lengths,
        labels,
        label_lengths,
        feasible,
        denominator,
        log_blank,
        log_label,
        prefixes,
    )


def _backward(saved, cotangent):
    (
        logits,
        logit_lengths,
        labels,
        label_lengths,
        feasible,
        denominator,
        log_blank,
        log_label,
        prefixes,
    ) = saved
    (b, width), v = labels.shape, logits.shape[-1]
    live = length_mask(logit_lengths, logits.shape[1])
    distinct = _distinct(labels)

    def step(lanes, inputs):
        is_live, on_blank, on_label = inputs
        blank, label = lanes[0] + on_blank, lanes[1] + on_label
        new_blank = _log_sum(blank, _before(label))
        new_label = _log_sum(
            label, blank[:, 1:], _before(jnp.where(distinct, label, NEG_INF))[:, 1:]
        )
        return (
            jnp.where(is_live, new_blank, lanes[0]),
            jnp.where(is_live, new_label, lanes[1]),
        ), lanes

    ends = jnp.where(
        jnp.arange(width + 1) == label_lengths[:, None], 0.0, NEG_INF
    )  # on the last blank or, one lane over, on the last label
    _, suffixes = jax.lax.scan(
        step, (ends, ends[:, 1:]), _time_major(live, log_blank, log_label), reverse=True
    )
    paths = jnp.concatenate([a + z for a, z in zip(prefixes, suffixes)], axis=-1).swapaxes(0, 1)
    occupancy = jax.nn.softmax(
        paths
    )  # each step's shares of the likelihood: they sum to 1 whatever has been rounded

    # A label that stands twice in a row's text is one word of the vocabulary: its occupancies meet at its first place and the rest is dropped, so
    # that every entry is written once, from float32, and the result does not depend on the order of writing.
    given = length_mask(label_lengths, width)
    same = (labels[:, :, None] == labels[:, None, :]) & given[:, :, None] & given[:, None, :]
    first = given & ~jnp.triu(same, k=1).any(axis=1)
    on_label = jnp.einsum(
        "bsn,bnm->bsm", occupancy[..., width + 1 :], same.astype(jnp.float32), precision="highest"
    )
    on_blank = occupancy[..., : width + 1].sum(-1, keepdims=True)
    words = jnp.concatenate(
        [jnp.full((b, 1), BLANK), jnp.where(first, labels, v + jnp.arange(width))], axis=1
    )

    scale = jnp.where(live & feasible[:, None], cotangent[:, None], 0.0)[..., None]
    spelt = (
        jnp.exp(jnp.concatenate([log_blank, log_label], -1))
        - jnp.concatenate([on_blank, on_label], -1)
    ) * scale
    unspelt = jnp.exp(logits.astype(jnp.float32) - denominator) * scale
    rows, steps = jnp.arange(b)[:, None, None], jnp.arange(logits.shape[1])[None, :, None]
    gradient = (
        unspelt.astype(logits.dtype)
        .at[rows, steps, words[:, None, :]]
        .set(spelt.astype(logits.dtype), mode="drop", unique_indices=True)
    )
    return gradient, None, None, None, None


@jax.custom_vjp
def _negative_log_likelihood(logits, logit_lengths, labels, label_lengths, feasible):
    return _forward(logits, logit_lengths, labels, label_lengths, feasible)[0]


_negative_log_likelihood.defvjp(_forward, _backward)
