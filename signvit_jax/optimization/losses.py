"""The losses of a step, as a list of terms: CTC on the encoder, cross-entropy on the decoder.

A term sums over the clips that it is given and divides by counts of the complete batch
(`LossCounts`). The terms of microbatches and of devices therefore add up to exactly the loss of the
complete batch.
"""

import dataclasses
import functools
import operator
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, PyTree

from signvit_jax.config.schema import TrainingConfig
from signvit_jax.layers.attention import length_mask
from signvit_jax.layers.random_streams import fold
from signvit_jax.models.ctc_loss import ctc_loss
from signvit_jax.models.decoder import PAD
from signvit_jax.models.hand_localizer import localization_loss
from signvit_jax.models.translator import Encoded, SignTranslator
from signvit_jax.optimization.flat_start import flat_alignment, flat_start_weight, signing_frames

Batch = Mapping[str, Array | np.ndarray]


class LossCounts(NamedTuple):
    """Denominators of the sums over a batch."""

    clips: Float[Array, ""]
    tokens: Float[Array, ""]
    sentence_tokens: Float[Array, ""] | None = None  # of the sentences; None: the batch has none


class Outputs(NamedTuple):
    """Outputs of the model for a batch, with teacher forcing."""

    encoded: Encoded
    logits: Float[Array, "b l v"]  # at position i: of token i + 1
    ctc_logits: Float[Array, "b s v"]
    ctc_steps: Int[Array, "b"]  # valid steps of each clip
    gloss_logits: Float[Array, "c l v"] | None = None  # of the texts of `texts_with_glosses`


class TermInputs(NamedTuple):
    """Everything that a loss term may read."""

    model: SignTranslator
    outputs: Outputs
    batch: Batch
    counts: LossCounts  # of the complete batch, which `batch` may be a microbatch of
    step: Int[Array, ""] | None = None  # None outside training
    aux: PyTree = None  # parameters trained with the model, by name


@runtime_checkable
class LossTerm(Protocol):
    """One summand of the loss. `metrics` names the metrics that it reports, unweighted."""

    @property
    def metrics(self) -> tuple[str, ...]: ...

    def __call__(self, inputs: TermInputs) -> tuple[Float[Array, ""], dict[str, Array]]:
        """Return (the weighted value, the metrics by name); both add up over microbatches."""
        ...


class LossParts(NamedTuple):
    """The loss, and the metrics of its terms by name; both add up over microbatches."""

    total: Float[Array, ""]
    metrics: dict[str, Float[Array, ""]]


def sum_terms(terms: Sequence[LossTerm], inputs: TermInputs) -> LossParts:
    """Add up the terms in their order, which fixes the last bit of the total."""
    values, metrics = zip(*(term(inputs) for term in terms), strict=True)
    total = functools.reduce(operator.add, values)
    return LossParts(total, functools.reduce(operator.or_, metrics))


def count_targets(batch: Batch) -> LossCounts:
    """Count the clips and the predicted tokens of `batch`; padding rows do not count."""
    predicted = (batch["tokens"][:, 1:] != PAD) * batch["weights"][:, None]
    of_sentences = None
    if "sentence_tokens" in batch:
        of_sentences = jnp.sum(batch["sentence_tokens"][..., 1:] != PAD).astype(jnp.float32)
    return LossCounts(batch["weights"].sum(), jnp.sum(predicted), of_sentences)


def loss_denominators(batch: Batch) -> LossCounts:
    """Return the counts of `batch`, at least 1 each, so that an empty batch divides by 1."""
    return jax.tree.map(lambda value: jnp.maximum(value, 1.0), count_targets(batch))


def forward(
    model: SignTranslator,
    batch: Batch,
    key: Key[Array, ""] | None = None,
    *,
    frozen_backbone: bool = False,
) -> Outputs:
    """Run the model on `batch`, with dropout and BatchNorm as in training if there is a key.

    With `frozen_backbone` BatchNorm normalizes by its running statistics.
    """
    encoded = model.encode(
        jnp.asarray(batch["video"]),
        jnp.asarray(batch["frame_lengths"]),
        fold(key, "step.encoder"),
        jnp.asarray(batch["weights"]),
        frozen_backbone,
    )
    tokens = jnp.asarray(batch["tokens"])
    logits = model.logits(encoded, tokens[:, :-1], fold(key, "step.decoder"))
    ctc_logits = model.ctc_logits(encoded, fold(key, "step.ctc_head"))
    gloss_logits = None
    if model.gloss_encoder is not None:
        texts = texts_with_glosses(batch)
        gloss_logits = model.gloss_logits(
            texts.glosses, texts.gloss_lengths, texts.tokens[:, :-1], fold(key, "step.glosses")
        )
    return Outputs(encoded, logits, *ctc_logits, gloss_logits)


def translation_loss(
    model: SignTranslator,
    batch: Batch,
    counts: LossCounts,
    config: TrainingConfig,
    key: Key[Array, ""] | None = None,
    step: Int[Array, ""] | None = None,
) -> tuple[Float[Array, ""], LossParts]:
    """Run the model and return (the loss without a teacher, the same with its metrics)."""
    inputs = TermInputs(model, forward(model, batch, key), batch, counts, step)
    reads_glosses = inputs.outputs.gloss_logits is not None
    parts = sum_terms(translation_terms(config, reads_glosses=reads_glosses), inputs)
    return parts.total, parts


def translation_terms(config: TrainingConfig, *, reads_glosses: bool = False) -> list[LossTerm]:
    """Return the terms of every run without a teacher, in the order in which they are added.

    `reads_glosses`: the decoder has a gloss memory.
    """
    terms: list[LossTerm] = [CTCTerm(config), CrossEntropyTerm(config)]
    return [*terms, GlossCrossEntropyTerm(config)] if reads_glosses else terms


@dataclasses.dataclass(frozen=True)
class CrossEntropyTerm:
    """ce_weight * smoothed cross-entropy of token i + 1 given tokens <= i, the mean over tokens."""

    config: TrainingConfig
    metrics = ("ce",)

    def __call__(self, inputs: TermInputs) -> tuple[Float[Array, ""], dict[str, Array]]:
        targets = jnp.asarray(inputs.batch["tokens"])[:, 1:]
        smoothing = self.config.label_smoothing
        per_token = smoothed_cross_entropy(inputs.outputs.logits, targets, smoothing)
        per_token = per_token * (targets != PAD) * inputs.batch["weights"][:, None]
        ce = jnp.sum(per_token) / inputs.counts.tokens
        return self.config.ce_weight * ce, {"ce": ce}


@dataclasses.dataclass(frozen=True)
class GlossCrossEntropyTerm:
    """gloss_ce_weight * smoothed cross-entropy of texts given their glosses, the mean over tokens.

    The texts are those of `texts_with_glosses`.
    """

    config: TrainingConfig
    metrics = ("gloss_ce",)

    def __call__(self, inputs: TermInputs) -> tuple[Float[Array, ""], dict[str, Array]]:
        logits, texts = inputs.outputs.gloss_logits, texts_with_glosses(inputs.batch)
        assert logits is not None, "a model without a gloss memory has no such term"
        targets = texts.tokens[:, 1:]
        per_token = smoothed_cross_entropy(logits, targets, self.config.label_smoothing)
        per_token = per_token * (targets != PAD) * texts.weights[:, None]
        counts = inputs.counts
        tokens = counts.tokens if counts.sentence_tokens is None else counts.sentence_tokens
        ce = jnp.sum(per_token) / tokens
        return self.config.gloss_ce_weight * ce, {"gloss_ce": ce}


@dataclasses.dataclass(frozen=True)
class CTCTerm:
    """ctc_weight * CTC, the mean over clips of each clip's loss in nats per label.

    The labels are the text without BOS and EOS, or the glosses (`ctc_labels`). A clip without
    labels is divided by its number of steps instead: it has the blank to emit at every step, and so
    it weighs as much as one label. Where CTC spells glosses, a clip with a text and without a gloss
    adds nothing. `ctc_impossible` counts the clips whose labels do not fit their steps; they add
    nothing either.

    At a step below `ctc_flat_start_steps` the flat alignment takes a share of CTC's weight
    (`flat_start_weight`); the metric is CTC alone.
    """

    config: TrainingConfig
    metrics = ("ctc", "ctc_impossible")

    def __call__(self, inputs: TermInputs) -> tuple[Float[Array, ""], dict[str, Array]]:
        batch, logits, steps = inputs.batch, inputs.outputs.ctc_logits, inputs.outputs.ctc_steps
        weights, clips = batch["weights"], inputs.counts.clips
        labels, label_lengths = ctc_labels(batch)
        per_clip, feasible = ctc_loss(logits, steps, labels, label_lengths)
        # An empty text is annotated: nobody signs.
        annotated = (label_lengths > 0) | (batch["token_lengths"] <= 2)
        per_label = per_clip / jnp.where(label_lengths > 0, label_lengths, jnp.maximum(steps, 1))
        ctc = jnp.sum(per_label * weights * annotated) / clips

        aligned = ctc
        if inputs.step is not None and self.config.ctc_flat_start_steps:
            flat = alignment_loss(logits, self._flat_targets(inputs, labels, label_lengths), steps)
            share = flat_start_weight(
                jnp.where(feasible, per_label, jnp.inf),
                inputs.step,
                self.config.ctc_flat_start_steps,
            )
            mixed = (1.0 - share) * per_label + share * flat
            aligned = jnp.sum(mixed * weights * annotated) / clips
        impossible = jnp.sum(jnp.where(feasible, 0.0, weights))
        return self.config.ctc_weight * aligned, {"ctc": ctc, "ctc_impossible": impossible}

    def _flat_targets(
        self, inputs: TermInputs, labels: Int[Array, "b l"], label_lengths: Int[Array, "b"]
    ) -> Int[Array, "b s"]:
        steps = inputs.outputs.ctc_steps
        signing = None
        if self.config.ctc_flat_start_frames == "moving":
            signing = signing_frames(jnp.asarray(inputs.batch["video"]), steps)
        num_steps = inputs.outputs.ctc_logits.shape[1]
        return flat_alignment(steps, labels, label_lengths, signing, num_steps)


@dataclasses.dataclass(frozen=True)
class LocalizationTerm:
    """The loss of the localizer of hands (`models.hand_localizer`), the mean over clips, in nats.

    Only the localizer's own parameters get a gradient from it, and Adam's updates of them are as
    large for any factor. A small one keeps this gradient from deciding how all others are clipped.
    """

    metrics = ("localization",)
    factor = 0.01

    def __call__(self, inputs: TermInputs) -> tuple[Float[Array, ""], dict[str, Array]]:
        encoded = inputs.outputs.encoded
        assert encoded.localization is not None, "a model without a localizer has no such term"
        mask = length_mask(encoded.frame_lengths, encoded.frames.shape[1])
        points = inputs.batch.get("part_points")
        if points is not None:
            points = jnp.asarray(points)[:, :, : encoded.localization.parts.maps.shape[2]]
        per_clip = localization_loss(encoded.localization, mask, points)
        mean = jnp.sum(per_clip * inputs.batch["weights"]) / inputs.counts.clips
        return self.factor * mean, {"localization": mean}


def smoothed_cross_entropy(
    logits: Float[Array, "b l v"], targets: Int[Array, "b l"], smoothing: float
) -> Float[Array, "b l"]:
    """Cross-entropy in nats against 1 - s on the target and s / (v - 1) on each other entry.

    It is computed from the log of the normalizer and the sum of the logits, so that no array of
    log-probabilities (b, l, v) is kept for the backward pass.
    """
    logits = logits.astype(jnp.float32)
    rest = smoothing / (logits.shape[-1] - 1)
    target = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return (
        jax.nn.logsumexp(logits, axis=-1)
        - (1.0 - smoothing - rest) * target
        - rest * logits.sum(axis=-1)
    )


def alignment_loss(
    logits: Float[Array, "b s v"], targets: Int[Array, "b s"], steps: Int[Array, "b"]
) -> Float[Array, "b"]:
    """Mean cross-entropy of the valid steps of each clip, in nats per step."""
    per_step = smoothed_cross_entropy(logits, targets, 0.0)
    return jnp.sum(per_step * length_mask(steps, logits.shape[1]), axis=1) / jnp.maximum(steps, 1)


class TextsWithGlosses(NamedTuple):
    """Texts, and the glosses that the decoder translates to them."""

    tokens: Int[Array, "c l"]
    glosses: Int[Array, "c g"]
    gloss_lengths: Int[Array, "c"]
    weights: Float[Array, "c"]


def texts_with_glosses(batch: Batch) -> TextsWithGlosses:
    """Return the sentences of the batch or, in evaluation, the texts of its clips.

    A clip without a gloss has weight 0, unless its text is empty: then nobody signs.
    """
    if "sentence_tokens" in batch:
        names = ("sentence_tokens", "sentence_glosses", "sentence_gloss_lengths")
        tokens, glosses, lengths = (jnp.asarray(batch[name]) for name in names)
        b, n = lengths.shape
        return TextsWithGlosses(
            tokens.reshape(b * n, -1),
            glosses.reshape(b * n, -1),
            lengths.reshape(b * n),
            jnp.ones(b * n),
        )
    lengths = jnp.asarray(batch["gloss_lengths"])
    annotated = (lengths > 0) | (batch["token_lengths"] <= 2)
    return TextsWithGlosses(
        jnp.asarray(batch["tokens"]),
        jnp.asarray(batch["gloss_tokens"]),
        lengths,
        jnp.asarray(batch["weights"] * annotated),
    )


def ctc_labels(batch: Batch) -> tuple[Int[Array, "b l"], Int[Array, "b"]]:
    """Return the labels of CTC and their lengths: glosses if the batch has them, else the text."""
    if "gloss_tokens" in batch:
        return jnp.asarray(batch["gloss_tokens"]), jnp.asarray(batch["gloss_lengths"])
    return jnp.asarray(batch["tokens"])[:, 1:], jnp.maximum(batch["token_lengths"] - 2, 0)
