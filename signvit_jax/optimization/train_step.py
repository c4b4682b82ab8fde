"""One update as a pure function of (state, batch): gradients, update, apply, average.

An update with a loss or a gradient that is not finite is skipped: the state keeps its values.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from signvit_jax.config.schema import TrainingConfig
from signvit_jax.layers.batch_norm import BatchMoments, update_running_stats, zero_moments
from signvit_jax.models.definition import ModelDefinition, bind_gathered
from signvit_jax.optimization.compiling_ahead import JittedStep
from signvit_jax.optimization.distillation_loss import TEACHER_LOGITS, DistillationTerm
from signvit_jax.optimization.keypoint_loss import KeypointTerm
from signvit_jax.optimization.losses import (
    Batch,
    LocalizationTerm,
    LossCounts,
    LossParts,
    LossTerm,
    TermInputs,
    count_targets,
    forward,
    loss_denominators,
    sum_terms,
    translation_loss,
    translation_terms,
)
from signvit_jax.optimization.optimizer import backbone_of, with_backbone
from signvit_jax.optimization.train_state import TrainState
from signvit_jax.parallel.current_mesh import tracing_for
from signvit_jax.parallel.sharding import batch_sharding, replicated


class StepReport(NamedTuple):
    """Scalars of one step; the losses are those before the update."""

    loss: LossParts
    grad_norm: Float[Array, ""]
    finite: Float[Array, ""]  # 1 if the update was applied, 0 if it was skipped
    nonfinite_in_row: Int[Array, ""]
    nonfinite_total: Int[Array, ""]
    thawed_at: Int[Array, ""] | None = None  # as in the state


class BatchGradients(NamedTuple):
    """Sums over the microbatches of a batch."""

    gradients: PyTree  # of the state's `trainable`
    loss: LossParts
    moments: BatchMoments | None  # of BatchNorm; None if the backbone has none or is frozen


def make_train_step(
    definition: ModelDefinition,
    optimizer: optax.GradientTransformation,
    config: TrainingConfig,
    mesh: Mesh,
    shardings: PyTree,
    *,
    frozen_backbone: bool,
) -> JittedStep[TrainState, tuple[TrainState, StepReport]]:
    """Return the jitted `train_step`, which donates the state.

    `shardings`: of the state. With `frozen_backbone` the backbone has no backward pass, and its
    parameters and statistics stay as they are, without weight decay.
    """
    step = partial(
        train_step,
        definition=definition,
        optimizer=optimizer,
        config=config,
        mesh=mesh,
        frozen_backbone=frozen_backbone,
    )
    return jax.jit(
        step,
        in_shardings=(shardings, batch_sharding(mesh)),
        out_shardings=(shardings, replicated(mesh)),
        donate_argnums=0,
    )


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    definition: ModelDefinition,
    optimizer: optax.GradientTransformation,
    config: TrainingConfig,
    mesh: Mesh,
    frozen_backbone: bool,
) -> tuple[TrainState, StepReport]:
    """Return (the next state, the report) of one update on a global batch."""
    key = jax.random.fold_in(jax.random.key(config.seed), state.step)
    with jax.named_scope("gradients"):
        gradients, loss, moments = batch_gradients(
            state,
            batch,
            key,
            definition=definition,
            config=config,
            mesh=mesh,
            frozen_backbone=frozen_backbone,
        )
        grad_norm = optax.tree.norm(gradients)
        finite = jnp.isfinite(loss.total) & jnp.isfinite(grad_norm)

    with jax.named_scope("update"):
        thaw = {}
        if state.thawed_at is not None:
            thaw = {"thawed_at": state.thawed_at, "frozen": frozen_backbone}
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.trainable, **thaw)

    with jax.named_scope("apply"):
        trainable = optax.apply_updates(state.trainable, updates)
        params, aux = state.split_trainable(trainable)
        if frozen_backbone:
            params = with_backbone(params, backbone_of(state.params))
        elif moments is not None:
            params = _with_running_stats(params, state.params, moments, definition)

    ema = state.ema
    if ema is not None:
        with jax.named_scope("average"):
            ema = averaged(ema, params, state.step, config.ema_decay)

    skipped = state.nonfinite_total + jnp.where(finite, 0, 1)
    in_row = jnp.where(finite, 0, state.nonfinite_in_row + 1)
    thawed_at = state.thawed_at
    if thawed_at is not None and frozen_backbone:
        thawed_at = state.step + 1 - skipped  # the updates applied, which is Adam's count
    new = dataclasses.replace(
        state,
        params=_where(finite, params, state.params),
        opt_state=_where(finite, opt_state, state.opt_state),
        ema=_where(finite, ema, state.ema),
        step=state.step + 1,
        nonfinite_in_row=in_row,
        nonfinite_total=skipped,
        aux=_where(finite, aux, state.aux),
        thawed_at=thawed_at,
    )
    applied = finite.astype(jnp.float32)
    return new, StepReport(loss, grad_norm, applied, in_row, skipped, thawed_at)


def loss_terms(
    config: TrainingConfig,
    batch: Batch,
    *,
    finds_hands: bool = False,
    reads_glosses: bool = False,
) -> list[LossTerm]:
    """Return the terms of the loss, in the order in which they are added.

    `reads_glosses` is as in `translation_terms`. Localization is one of them if the model finds
    hands, keypoints if they have a weight, and distillation if the batch carries a teacher's
    outputs.
    """
    terms = translation_terms(config, reads_glosses=reads_glosses)
    if finds_hands:
        terms.append(LocalizationTerm())
    if config.keypoint_weight and "keypoints" in batch:
        terms.append(KeypointTerm(config))
    if TEACHER_LOGITS in batch:
        terms.append(DistillationTerm(config.distillation))
    return terms


def batch_gradients(
    state: TrainState,
    batch: Batch,
    key: Key[Array, ""],
    *,
    definition: ModelDefinition,
    config: TrainingConfig,
    mesh: Mesh,
    frozen_backbone: bool,
) -> BatchGradients:
    """Return gradients and loss of a batch, in `gradient_accumulation` microbatches in sequence."""
    counts = loss_denominators(batch)
    model_config = definition.config.model
    terms = loss_terms(
        config,
        batch,
        finds_hands=model_config.encoder.crops != "none",
        reads_glosses=model_config.decoder.gloss_memory,
    )
    microbatches = config.gradient_accumulation

    def loss(trainable: PyTree, part: Batch, part_key: Key[Array, ""]) -> tuple[Array, tuple]:
        params, aux = state.split_trainable(trainable)
        if frozen_backbone:
            params = with_backbone(params, jax.lax.stop_gradient(backbone_of(params)))
        model = bind_gathered(definition, params, mesh)
        with tracing_for(mesh):
            outputs = forward(model, part, part_key, frozen_backbone=frozen_backbone)
        sums = sum_terms(terms, TermInputs(model, outputs, part, counts, state.step, aux))
        return sums.total, (sums, outputs.encoded.moments)

    def gradients(part: Batch, part_key: Key[Array, ""]) -> BatchGradients:
        of_part, (sums, moments) = jax.grad(loss, has_aux=True)(state.trainable, part, part_key)
        return BatchGradients(of_part, sums, moments)

    if microbatches == 1:
        return gradients(batch, key)

    def split(x: Array) -> Array:
        """Give row i to microbatch i % microbatches: each device keeps its rows on any mesh."""
        rows = x.shape[0] // microbatches
        return jnp.moveaxis(x.reshape(rows, microbatches, *x.shape[1:]), 1, 0)

    def add(total: BatchGradients, inputs: tuple[Batch, Array]) -> tuple[BatchGradients, None]:
        part, number = inputs
        return jax.tree.map(jnp.add, total, gradients(part, jax.random.fold_in(key, number))), None

    names = [name for term in terms for name in term.metrics]
    zeros = BatchGradients(
        gradients=jax.tree.map(jnp.zeros_like, state.trainable),
        loss=LossParts(jnp.zeros(()), {name: jnp.zeros(()) for name in names}),
        moments=None if frozen_backbone else zero_moments(backbone_of(state.params)),
    )
    parts = jax.tree.map(split, batch), jnp.arange(microbatches)
    return jax.lax.scan(add, zeros, parts)[0]


def averaged(ema: PyTree, params: PyTree, step: Int[Array, ""], decay: float) -> PyTree:
    """Return the exponential moving average of the parameters after an update.

    The decay is at most (1 + step) / (10 + step), TensorFlow's `num_updates` rule: a short memory
    at first forgets the random start.
    """
    share = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda average, new: share * average + (1.0 - share) * new, ema, params)


def _with_running_stats(
    new: PyTree, old: PyTree, moments: BatchMoments, definition: ModelDefinition
) -> PyTree:
    """Return the parameters `new` with BatchNorm's statistics moved from those of `old`."""
    momentum = definition.config.model.encoder.batch_norm_momentum
    return with_backbone(
        new, update_running_stats(backbone_of(new), backbone_of(old), moments, momentum)
    )


def _where(finite: Bool[Array, ""], new: PyTree, old: PyTree) -> PyTree:
    """Return `new`, or `old` for a skipped update."""
    return jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, old)


def make_eval_step(
    definition: ModelDefinition, config: TrainingConfig, mesh: Mesh, shardings: PyTree
) -> Callable[[PyTree, Batch], dict[str, Array]]:
    """Return the jitted (parameters, batch) -> sums of the losses and their counts, no dropout.

    The keys are the metrics of `translation_terms`, "tokens" and "clips"; all of them add up over
    batches. `shardings`: of the parameters.
    """

    def step(params: PyTree, batch: Batch) -> dict[str, Array]:
        one = jnp.ones(())
        with tracing_for(mesh):
            model = bind_gathered(definition, params, mesh)
            _, sums = translation_loss(model, batch, LossCounts(one, one), config)
        counts = count_targets(batch)
        return sums.metrics | {"clips": counts.clips, "tokens": counts.tokens}

    return jax.jit(
        step, in_shardings=(shardings, batch_sharding(mesh)), out_shardings=replicated(mesh)
    )
