"""Distillation as a loss term (Hinton et al. 2015): pure functions of arrays.

The teacher's outputs are part of the batch, under the names below; `training/distillation.py` adds
them.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from signvit_jax.config.schema import DistillationConfig
from signvit_jax.layers.attention import length_mask
from signvit_jax.models.decoder import PAD
from signvit_jax.optimization.losses import TermInputs

# The teacher's outputs, by their names in a batch.
TEACHER_LOGITS = "teacher_logits"
TEACHER_CTC_LOGITS = "teacher_ctc_logits"
TEACHER_FEATURES = "teacher_features"

PROJECTION = "projection"  # the name of the trained map from student to teacher features
DISTILL_LOSSES = ("soft_ce", "soft_ctc", "features")  # the metrics, by their names in the log


@dataclasses.dataclass(frozen=True)
class DistillationTerm:
    """Divergence of the student from the teacher, weighted as `config` says.

    - soft_ce: KL divergence of the decoders, in nats per token.
    - soft_ctc: KL divergence of the CTC heads, in nats per step, the mean over clips. Both are at
      `temperature`, times its square.
    - features: mean squared difference of the features that the decoders attend to, each vector
      standardized over its width, the mean over clips.

    With `inputs.aux["projection"]` the student's features pass through that linear map first.
    """

    config: DistillationConfig
    metrics = DISTILL_LOSSES

    def __call__(self, inputs: TermInputs) -> tuple[Float[Array, ""], dict[str, Array]]:
        batch, outputs, counts, config = inputs.batch, inputs.outputs, inputs.counts, self.config
        weights, temperature = batch["weights"], config.temperature
        per_token = divergence(outputs.logits, jnp.asarray(batch[TEACHER_LOGITS]), temperature)
        per_token = per_token * (batch["tokens"][:, 1:] != PAD)
        teacher_ctc_logits = jnp.asarray(batch[TEACHER_CTC_LOGITS])
        per_step = divergence(outputs.ctc_logits, teacher_ctc_logits, temperature)
        features, lengths = inputs.model.memory(outputs.encoded)
        if projection := (inputs.aux or {}).get(PROJECTION):
            kernel, bias = (projection[name].astype(features.dtype) for name in ("kernel", "bias"))
            features = features @ kernel + bias
        difference = standardized(features) - standardized(jnp.asarray(batch[TEACHER_FEATURES]))
        per_position = jnp.square(difference).mean(axis=-1)

        soft_ce = jnp.sum(per_token * weights[:, None]) / counts.tokens
        soft_ctc = jnp.sum(_masked_mean(per_step, outputs.ctc_steps) * weights) / counts.clips
        matched = jnp.sum(_masked_mean(per_position, lengths) * weights) / counts.clips
        total = (
            config.decoder_weight * soft_ce
            + config.ctc_weight * soft_ctc
            + config.feature_weight * matched
        )
        return total, dict(zip(DISTILL_LOSSES, (soft_ce, soft_ctc, matched), strict=True))


def divergence(
    logits: Float[Array, "b s v"], teacher: Float[Array, "b s v"], temperature: float
) -> Float[Array, "b s"]:
    """temperature^2 * KL(teacher || student) of the distributions at `temperature`, in nats."""
    log_probs = jax.nn.log_softmax(logits.astype(jnp.float32) / temperature)
    targets = jax.nn.log_softmax(teacher.astype(jnp.float32) / temperature)
    return temperature**2 * jnp.sum(jnp.exp(targets) * (targets - log_probs), axis=-1)


def standardized(features: Float[Array, "b s d"]) -> Float[Array, "b s d"]:
    """Features with mean 0 and variance 1 over their width, in float32."""
    return jax.nn.standardize(features.astype(jnp.float32), axis=-1, epsilon=1e-5)


def _masked_mean(values: Float[Array, "b s"], lengths: Int[Array, "b"] | None) -> Float[Array, "b"]:
    """Mean over the first `lengths` positions of each row; over all positions if it is None."""
    if lengths is None:
        return values.mean(axis=1)
    return jnp.sum(values * length_mask(lengths, values.shape[1]), axis=1) / jnp.maximum(lengths, 1)
