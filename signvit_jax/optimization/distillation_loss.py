"""What a teacher adds to the loss of a step (Hinton et al. 2015): arrays in, arrays out, and no reading of data or runs.

The teacher's outputs are part of the batch, under the names below; `distillation.py` puts them there.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from signvit_jax.config.schema import DistillationConfig
from signvit_jax.layers.attention import length_mask
from signvit_jax.models.decoder import PAD
from signvit_jax.models.translator import SignTranslator
from signvit_jax.optimization.losses import Batch, LossCounts, Outputs

LOGITS, CTC_LOGITS, FEATURES = (
    "teacher_logits",
    "teacher_ctc_logits",
    "teacher_features",
)  # the teacher's outputs in the batch
DISTILL_LOSSES = (
    "soft_ce",
    "soft_ctc",
    "features",
)  # the terms added to the loss, by their names in the log


def distillation_loss(
    model: SignTranslator,
    said: Outputs,
    batch: Batch,
    counts: LossCounts,
    config: DistillationConfig,
    projection: Mapping[str, Array] | None = None,
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """What is added to the student's own loss, and its parts by name, as shares of a whole whose size is `counts`.

    Decoder: Kullback-Leibler divergence from the teacher, in nats a token. CTC: the same, in nats a step. Both at `temperature` and times its square.
    Features (what the decoder reads): mean squared difference after each is brought to mean 0 and variance 1 over its width.
    """
    weights, temperature = batch["weights"], config.temperature
    per_token = divergence(said.logits, batch[LOGITS], temperature) * (
        batch["tokens"][:, 1:] != PAD
    )
    per_step = divergence(said.ctc_logits, batch[CTC_LOGITS], temperature)
    features, lengths = model.memory(said.encoded)
    if projection is not None:
        features = features @ projection["kernel"].astype(features.dtype) + projection[
            "bias"
        ].astype(features.dtype)
    per_place = jnp.square(standardized(features) - standardized(batch[FEATURES])).mean(axis=-1)
    soft_ce = jnp.sum(per_token * weights[:, None]) / counts.tokens
    soft_ctc = jnp.sum(_mean_over(per_step, said.ctc_steps) * weights) / counts.clips
    matched = jnp.sum(_mean_over(per_place, lengths) * weights) / counts.clips
    total = (
        config.decoder_weight * soft_ce
        + config.ctc_weight * soft_ctc
        + config.feature_weight * matched
    )
    return total, dict(zip(DISTILL_LOSSES, (soft_ce, soft_ctc, matched)))


def divergence(
    logits: Float[Array, "b s v"], teacher: Float[Array, "b s v"], temperature: float
) -> Float[Array, "b s"]:
    """temperature^2 * KL(teacher || student) of the distributions at that temperature, in nats."""
    ours = jax.nn.log_softmax(logits.astype(jnp.float32) / temperature)
    theirs = jax.nn.log_softmax(teacher.astype(jnp.float32) / temperature)
    return temperature**2 * jnp.sum(jnp.exp(theirs) * (theirs - ours), axis=-1)


def standardized(features: Float[Array, "b s d"]) -> Float[Array, "b s d"]:
    return jax.nn.standardize(features.astype(jnp.float32), axis=-1, epsilon=1e-5)


def _mean_over(values: Float[Array, "b s"], lengths: Any) -> Float[Array, "b"]:
    """Over the first `lengths` places of each row; over all of them where there are none given."""
    if lengths is None:
        return values.mean(axis=1)
    return jnp.sum(values * length_mask(lengths, values.shape[1]), axis=1) / jnp.maximum(lengths, 1)
