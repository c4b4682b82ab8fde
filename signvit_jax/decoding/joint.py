"""Joint CTC/attention scoring (Watanabe et al. 2017): an n-best list in a new order, by what both heads of the model say of each sentence."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from signvit_jax.decoding.autoregressive import Hypotheses, check, length_normalizer
from signvit_jax.models.ctc_loss import ctc_loss


def rescore(
    hypotheses: Hypotheses,
    ctc_logits: Float[Array, "b s v"],
    ctc_lengths: Int[Array, "b"],
    *,
    eos_id: int,
    weight: float,
    length_penalty: float = 1.0,
    formula: str = "power",
) -> Hypotheses:
    """The n-best lists (b, n, l) of beam search by (1 - weight) attention + weight CTC, both log-probabilities divided by the same length_normalizer.

    The CTC head must spell the decoder's vocabulary (`ctc.target` 'text'). A sentence that no alignment can spell scores -inf and goes to the end of
    its list; where that holds for the whole list (text longer than the CTC steps) the attention's order and scores stay.
    `length_penalty` and `formula` are those the list was made with. Raises DecodingError unless 0 <= weight <= 1.
    """
    check("weight", weight, 0 <= weight <= 1, "a number from 0 to 1")
    tokens, lengths, attention, _ = hypotheses
    last = jnp.take_along_axis(tokens, lengths[..., None] - 1, axis=-1)[..., 0]
    label_lengths = lengths - 1 - (last == eos_id)
    labels = jnp.where(
        jnp.arange(tokens.shape[-1] - 1) < label_lengths[..., None], tokens[..., 1:], 0
    )
    # One clip's hypotheses share its logits, which are never repeated.
    nll, feasible = jax.vmap(ctc_loss, in_axes=(None, None, 1, 1), out_axes=1)(
        ctc_logits, ctc_lengths, labels, label_lengths
    )
    joint = (1 - weight) * attention - weight * nll / length_normalizer(
        lengths, length_penalty, formula
    )
    possible = feasible & (attention > -jnp.inf)
    scores = jnp.where(
        possible.any(1, keepdims=True), jnp.where(possible, joint, -jnp.inf), attention
    )
    order = jnp.argsort(-scores, axis=1, stable=True)

    def sort(x):
        return jnp.take_along_axis(x, order.reshape(*order.shape, *(1,) * (x.ndim - 2)), axis=1)

    return Hypotheses(*(sort(x) for x in hypotheses._replace(scores=scores)))
