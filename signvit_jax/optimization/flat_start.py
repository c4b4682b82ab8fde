"""The flat start of CTC: at first, labels are spread evenly over the frames of a clip.

This is the flat start of speech recognition: a rough alignment that every clip has. Without it CTC
at first emits the blank alone, and learns little from the images for a long time.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from signvit_jax.config.schema import TrainingConfig
from signvit_jax.layers.attention import length_mask
from signvit_jax.models.ctc_loss import BLANK

# Something moves between two frames if their difference exceeds a threshold: this share of the way
# from the clip's smallest difference of neighbors, which is the camera's noise, to the mean one.
_MOTION_THRESHOLD = 0.5


def flat_alignment(
    steps: Int[Array, "b"],
    labels: Int[Array, "b l"],
    label_lengths: Int[Array, "b"],
    signing: Bool[Array, "b s"] | None,
    num_steps: int,
) -> Int[Array, "b {num_steps}"]:
    """Return the label of each step: the clip's labels, spread evenly over the steps of `signing`.

    All other steps have the blank. Where no step is one of `signing`, and where that is None, the
    labels are spread over all valid steps.
    """
    if signing is None:
        step = jnp.arange(num_steps)
        place = step * label_lengths[:, None] // jnp.maximum(steps, 1)[:, None]
        targets = jnp.take_along_axis(labels, jnp.minimum(place, labels.shape[1] - 1), axis=1)
        return jnp.where(label_lengths[:, None] > 0, targets, BLANK)
    valid = length_mask(steps, num_steps)
    signing = jnp.where(jnp.any(signing & valid, axis=1, keepdims=True), signing & valid, valid)
    count = jnp.maximum(signing.sum(axis=1, keepdims=True), 1)
    place = (jnp.cumsum(signing, axis=1) - 1) * label_lengths[:, None] // count
    targets = jnp.take_along_axis(labels, jnp.clip(place, 0, labels.shape[1] - 1), axis=1)
    return jnp.where(signing & (label_lengths[:, None] > 0), targets, BLANK)


def signing_frames(
    video: Shaped[Array, "b t h w c"], frame_lengths: Int[Array, "b"]
) -> Bool[Array, "b t"]:
    """True from the first frame of each clip that moves to the last one.

    In recordings of single signs the hands rest before and after.
    """
    mask = length_mask(frame_lengths, video.shape[1])
    images = video.astype(jnp.float32)
    change = jnp.abs(images[:, 1:] - images[:, :-1]).mean(axis=(2, 3, 4))
    known = mask[:, 1:]
    least = jnp.min(jnp.where(known, change, jnp.inf), axis=1, keepdims=True)
    total = jnp.sum(jnp.where(known, change, 0.0), axis=1, keepdims=True)
    mean = total / jnp.maximum(known.sum(axis=1, keepdims=True), 1)
    moves = known & (change > least + _MOTION_THRESHOLD * (mean - least))
    moves = jnp.pad(moves, ((0, 0), (0, 1))) | jnp.pad(moves, ((0, 0), (1, 0)))
    begun = jnp.cumsum(moves, axis=1) > 0
    not_over = jnp.cumsum(moves[:, ::-1], axis=1)[:, ::-1] > 0
    return begun & not_over & mask


def flat_start_weight(
    per_label: Float[Array, "b"], step: Int[Array, ""], last_step: int
) -> Float[Array, "b"]:
    """Each clip's share of the flat start, 0 to 1, falling linearly to 0 at `last_step`.

    `per_label` is CTC's loss in nats per label. As it falls from 1.5, where CTC knows little more
    than the frequencies of the labels, to 0.5, the share of the clip falls to 0 as well.
    """
    fade = jnp.maximum(1.0 - step / last_step, 0.0)
    return fade * jnp.clip(jax.lax.stop_gradient(per_label) - 0.5, 0.0, 1.0)


def with_flat_start(config: TrainingConfig, schedule_steps: int) -> TrainingConfig:
    """Return the config with the number of flat-start steps of a run.

    A run whose learning-rate schedule has `schedule_steps` steps gets at least
    `ctc_flat_start_ratio` of them, unless the flat start is off: a flat start that is over before
    the rates have risen does nothing.
    """
    if not config.ctc_flat_start_steps:
        return config
    least = math.ceil(config.ctc_flat_start_ratio * schedule_steps)
    steps = max(config.ctc_flat_start_steps, least)
    return dataclasses.replace(config, ctc_flat_start_steps=steps)
