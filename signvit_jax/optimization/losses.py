"""The hybrid loss: CTC on what the encoder sees, cross-entropy on what the decoder says.

Every part is a sum over the clips given, divided by counts of the whole batch (`LossCounts`): parts of a batch, on several devices or one after the
other, therefore add up to exactly the loss of the whole.
"""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from signvit_jax.config.schema import TrainingConfig
from signvit_jax.layers.attention import length_mask
from signvit_jax.layers.random_streams import fold
from signvit_jax.models.ctc_loss import BLANK, ctc_loss
from signvit_jax.models.decoder import PAD
from signvit_jax.models.translator import Encoded, SignTranslator

Batch = dict[str, Array | np.ndarray]


class LossCounts(NamedTuple):
    """What the sums of a batch are divided by."""

    clips: Float[Array, ""]
    tokens: Float[Array, ""]


class Outputs(NamedTuple):
    """What a model says of a batch, with teacher forcing."""

    encoded: Encoded
    logits: Float[Array, "b l v"]  # of token i + 1
    ctc_logits: Float[Array, "b s v"]
    ctc_steps: Int[Array, "b"]  # of each clip that count


class LossParts(NamedTuple):
    """Shares of the batch's loss that add up over its parts; `impossible` counts clips whose labels cannot align."""

    total: Float[Array, ""]
    ce: Float[Array, ""]
    ctc: Float[Array, ""]
    impossible: Float[Array, ""]


def count(batch: Batch) -> LossCounts:
    """Clips and predicted tokens of `batch`; rows that only fill it do not count."""
    return LossCounts(
        batch["weights"].sum(), jnp.sum((batch["tokens"][:, 1:] != PAD) * batch["weights"][:, None])
    )


def divisors(batch: Batch) -> LossCounts:
    """The counts of `batch`, at least 1 each so that an empty one divides by something."""
    return LossCounts(*(jnp.maximum(value, 1.0) for value in count(batch)))


def smoothed_cross_entropy(
    logits: Float[Array, "b l v"], targets: Int[Array, "b l"], smoothing: float
) -> Float[Array, "b l"]:
    """Cross-entropy in nats against 1 - s on the target and s / (v - 1) on each other entry.

    Written with the log-length_normalizer and the sum of the logits, so that no log-probabilities of shape (b, l, v) are kept.
    """
    logits = logits.astype(jnp.float32)
    rest = smoothing / (logits.shape[-1] - 1)
    target = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return (
        jax.nn.logsumexp(logits, axis=-1)
        - (1.0 - smoothing - rest) * target
        - rest * logits.sum(axis=-1)
    )


def flat_alignment_loss(
    logits: Float[Array, "b s v"],
    steps: Int[Array, "b"],
    labels: Int[Array, "b l"],
    label_lengths: Int[Array, "b"],
) -> Float[Array, "b"]:
    """Mean cross-entropy, in nats a step, against the labels spread evenly over the first `steps[i]` steps: the flat start of speech recognition.

    A rough alignment that any clip has; of a clip without labels it is the blank throughout. CTC alone begins by saying nothing but the blank, and
    long learns little of what it sees.
    """
    place = jnp.arange(logits.shape[1]) * label_lengths[:, None] // jnp.maximum(steps, 1)[:, None]
    targets = jnp.take_along_axis(labels, jnp.minimum(place, labels.shape[1] - 1), axis=1)
    targets = jnp.where(label_lengths[:, None] > 0, targets, BLANK)
    per_step = smoothed_cross_entropy(logits, targets, 0.0)
    return jnp.sum(per_step * length_mask(steps, logits.shape[1]), axis=1) / jnp.maximum(steps, 1)


def flat_start_weight(
    per_label: Float[Array, "b"], step: Int[Array, ""], last_step: int
) -> Float[Array, "b"]:
    """Each clip's share of the flat start, 0 to 1, falling linearly to nothing at `last_step`; sooner for a clip that CTC can spell by now.

    `per_label` is CTC's loss in nats a label: from 1.5, where it knows little more than which labels are frequent, to 0.5 the share goes.
    """
    fade = jnp.maximum(1.0 - step / last_step, 0.0)
    return fade * jnp.clip(jax.lax.stop_gradient(per_label) - 0.5, 0.0, 1.0)


def with_flat_start(config: TrainingConfig, schedule_steps: int) -> TrainingConfig:
    """The config whose `ctc_flat_start_steps` are those of a run whose rates have a cycle of
    `schedule_steps`: at least `ctc_flat_start_ratio` of it, unless there is no flat start at all.

    A flat start that is over before the rates have risen does nothing.
    """
    if not config.ctc_flat_start_steps:
        return config
    least = math.ceil(config.ctc_flat_start_ratio * schedule_steps)
    steps = max(config.ctc_flat_start_steps, least)
    return dataclasses.replace(config, ctc_flat_start_steps=steps)


def translation_loss(
    model: SignTranslator,
    batch: Batch,
    counts: LossCounts,
    config: TrainingConfig,
    key: Key[Array, ""] | None = None,
    step: Int[Array, ""] | None = None,
) -> tuple[Float[Array, ""], LossParts]:
    """`hybrid_loss` of what the model says of `batch`; dropout only with a key."""
    return hybrid_loss(outputs(model, batch, key), batch, counts, config, step)


def outputs(
    model: SignTranslator,
    batch: Batch,
    key: Key[Array, ""] | None = None,
    *,
    frozen_backbone: bool = False,
) -> Outputs:
    """Runs the model; with a key as in training, where a frozen backbone keeps BatchNorm's statistics out of it."""
    encoded = model.encode(
        batch["video"],
        batch["frame_lengths"],
        fold(key, "step.encoder"),
        batch["weights"],
        frozen_backbone,
    )
    logits = model.logits(encoded, batch["tokens"][:, :-1], fold(key, "step.decoder"))
    return Outputs(encoded, logits, *model.ctc_logits(encoded, fold(key, "step.ctc_head")))


def hybrid_loss(
    said: Outputs,
    batch: Batch,
    counts: LossCounts,
    config: TrainingConfig,
    step: Int[Array, ""] | None = None,
) -> tuple[Float[Array, ""], LossParts]:
    """ctc_weight * CTC + ce_weight * CE of `batch`, as shares of a whole whose size is `counts`.

    CE: token i + 1 from tokens <= i, mean over non-PAD positions. CTC: labels without BOS and EOS
    (or glosses), each clip's loss divided by its number of labels, or without any by its number of
    steps, mean over clips; an impossible alignment counts as zero loss, and so does a clip that has
    text and no gloss where CTC spells glosses. With a `step` below `ctc_flat_start_steps` the flat
    alignment takes a share of CTC's weight (`flat_start_weight`).
    """
    weights, targets = batch["weights"], batch["tokens"][:, 1:]
    per_token = smoothed_cross_entropy(said.logits, targets, config.label_smoothing)
    ce = jnp.sum(per_token * (targets != PAD) * weights[:, None]) / counts.tokens

    labels, label_lengths = ctc_labels(batch)
    per_clip, feasible = ctc_loss(said.ctc_logits, said.ctc_steps, labels, label_lengths)
    annotated = (label_lengths > 0) | (
        batch["token_lengths"] <= 2
    )  # an empty text is annotated: nobody signs
    # A clip of rest has the blank to say at every step: by the number of its steps it weighs what a label does.
    per_label = per_clip / jnp.where(
        label_lengths > 0, label_lengths, jnp.maximum(said.ctc_steps, 1)
    )
    ctc = jnp.sum(per_label * weights * annotated) / counts.clips

    aligned = ctc
    if step is not None and config.ctc_flat_start_steps:
        start = flat_alignment_loss(said.ctc_logits, said.ctc_steps, labels, label_lengths)
        share = flat_start_weight(
            jnp.where(feasible, per_label, jnp.inf), step, config.ctc_flat_start_steps
        )
        aligned = (
            jnp.sum(((1.0 - share) * per_label + share * start) * weights * annotated)
            / counts.clips
        )
    total = config.ctc_weight * aligned + config.ce_weight * ce
    return total, LossParts(total, ce, ctc, jnp.sum(jnp.where(feasible, 0.0, weights)))


def ctc_labels(batch: Batch) -> tuple[Int[Array, "b l"], Int[Array, "b"]]:
    """Labels that CTC spells, and how many: the glosses where the batch carries them, else the text without BOS and EOS."""
    if "gloss_tokens" in batch:
        return jnp.asarray(batch["gloss_tokens"]), jnp.asarray(batch["gloss_lengths"])
    return jnp.asarray(batch["tokens"])[:, 1:], jnp.maximum(batch["token_lengths"] - 2, 0)
