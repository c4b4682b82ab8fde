"""Joint CTC/attention scoring of n-best lists (Watanabe et al. 2017)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from signvit_jax.decoding.autoregressive import Hypotheses, length_normalizer
from signvit_jax.decoding.search_options import SearchOptions
from signvit_jax.models.ctc_loss import ctc_loss


def rescore(
    hypotheses: Hypotheses,
    ctc_logits: Float[Array, "b s v"],
    ctc_lengths: Int[Array, "b"],
    options: SearchOptions,
) -> Hypotheses:
    """Return the n-best lists (b, n, l) of beam search, rescored with CTC and sorted again.

    score = (1 - w) attention + w CTC with w = `options.ctc_weight`; both are log-probabilities
    divided by the same `length_normalizer`. `options` are those that made the list. The CTC head
    must spell the decoder's vocabulary (`ctc.target` "text"). A sentence that no alignment can
    spell gets -inf and moves to the end of its list. If that holds for the complete list (text
    longer than the CTC steps), the order and the scores of the attention decoder stay.
    """
    tokens, lengths, attention_scores, _ = hypotheses
    # CTC labels are the tokens without BOS and EOS.
    last = jnp.take_along_axis(tokens, lengths[..., None] - 1, axis=-1)[..., 0]  # (b, n)
    label_lengths = lengths - 1 - (last == options.eos_id)
    label_mask = jnp.arange(tokens.shape[-1] - 1) < label_lengths[..., None]
    labels = jnp.where(label_mask, tokens[..., 1:], 0)  # (b, n, l - 1)
    # vmap over n: the hypotheses of a clip share its logits, which are never copied.
    nll, feasible = jax.vmap(ctc_loss, in_axes=(None, None, 1, 1), out_axes=1)(
        ctc_logits, ctc_lengths, labels, label_lengths
    )
    weight = options.ctc_weight
    joint_scores = (1 - weight) * attention_scores - weight * nll / length_normalizer(
        lengths, options
    )
    possible = feasible & (attention_scores > -jnp.inf)
    joint_scores = jnp.where(possible, joint_scores, -jnp.inf)
    scores = jnp.where(possible.any(1, keepdims=True), joint_scores, attention_scores)
    order = jnp.argsort(-scores, axis=1, stable=True)

    def sort(x):
        return jnp.take_along_axis(x, order.reshape(*order.shape, *(1,) * (x.ndim - 2)), axis=1)

    return Hypotheses(*(sort(x) for x in hypotheses._replace(scores=scores)))
