"""One update as a pure function of (state, batch, seed): gradients in parts, clip, AdamW, averaging; a non-finite update is not made."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, PyTree

from signvit_jax.config.schema import TrainingConfig
from signvit_jax.layers.batch_norm import BatchMoments, update_running_stats, zero_moments
from signvit_jax.models.definition import ModelDefinition
from signvit_jax.optimization.distillation_loss import DISTILL_LOSSES, LOGITS, distillation_loss
from signvit_jax.optimization.losses import (
    Batch,
    LossCounts,
    LossParts,
    count,
    divisors,
    hybrid_loss,
    outputs,
    translation_loss,
)
from signvit_jax.optimization.optimizer import with_backbone
from signvit_jax.optimization.train_state import PROJECTION, TrainState
from signvit_jax.parallel.sharding import batch_sharding, gather_fsdp, replicated
from signvit_jax.parallel.tracing import tracing_for


class StepReport(NamedTuple):
    """What a step says of itself; the losses are those before the update."""

    loss: LossParts
    grad_norm: Float[Array, ""]
    finite: Float[Array, ""]  # 1 if the update was made
    nonfinite_in_row: Int[Array, ""]
    nonfinite_total: Int[Array, ""]
    taught: dict[str, Float[Array, ""]]  # what a teacher adds to the loss, by name
    thawed_at: Int[Array, ""] | None = None  # as in the state


class _Gradients(NamedTuple):
    """What parts of a batch add up to."""

    gradients: PyTree
    loss: LossParts
    taught: dict[str, Array]
    moments: BatchMoments | None


def make_train_step(
    definition: ModelDefinition,
    optimizer: optax.GradientTransformation,
    config: TrainingConfig,
    mesh: Mesh,
    shardings: PyTree,
    *,
    frozen_backbone: bool,
) -> Callable[[TrainState, Batch], tuple[TrainState, StepReport]]:
    """The jitted step; the state is donated. With `frozen_backbone` the backbone gets no gradient, decay, update or statistics: no backward pass."""
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
    key = jax.random.fold_in(jax.random.key(config.seed), state.step)
    gradients, loss, taught, moments = _gradients(
        state, batch, key, definition, config, mesh, frozen_backbone
    )
    grad_norm = optax.tree.norm(gradients)
    finite = jnp.isfinite(loss.total) & jnp.isfinite(grad_norm)

    late = (
        {} if state.thawed_at is None else {"thawed_at": state.thawed_at, "frozen": frozen_backbone}
    )
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.trained, **late)
    params = dict(optax.apply_updates(state.trained, updates))
    projection = params.pop(PROJECTION, None)
    before = state.params["encoder"]["backbone"]
    if frozen_backbone:
        params = with_backbone(params, before)
    elif moments is not None:
        momentum = definition.config.model.encoder.batch_norm_momentum
        params = with_backbone(
            params, update_running_stats(params["encoder"]["backbone"], before, moments, momentum)
        )
    ema = state.ema
    if ema is not None:
        # A short memory at first (Tensorflow's num_updates rule), so that the average does not carry the random start along.
        decay = jnp.minimum(config.ema_decay, (1.0 + state.step) / (10.0 + state.step))
        ema = jax.tree.map(lambda average, new: decay * average + (1.0 - decay) * new, ema, params)

    def keep(new: PyTree, old: PyTree) -> PyTree:
        return jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, old)

    in_row = jnp.where(finite, 0, state.nonfinite_in_row + 1)
    nonfinite_total = state.nonfinite_total + jnp.where(finite, 0, 1)
    thawed_at = state.thawed_at
    if thawed_at is not None and frozen_backbone:
        thawed_at = state.step + 1 - nonfinite_total  # Adam's count: the updates made
    new = TrainState(
        params=keep(params, state.params),
        opt_state=keep(opt_state, state.opt_state),
        ema=None if ema is None else keep(ema, state.ema),
        step=state.step + 1,
        nonfinite_in_row=in_row,
        nonfinite_total=nonfinite_total,
        projection=None if projection is None else keep(projection, state.projection),
        thawed_at=thawed_at,
    )
    return new, StepReport(
        loss, grad_norm, finite.astype(jnp.float32), in_row, nonfinite_total, taught, thawed_at
    )


def _gradients(
    state: TrainState,
    batch: Batch,
    key: Array,
    definition: ModelDefinition,
    config: TrainingConfig,
    mesh: Mesh,
    frozen_backbone: bool,
) -> _Gradients:
    """Gradients and loss of the whole batch, run in `gradient_accumulation` parts one after the other."""
    counts, parts = divisors(batch), config.gradient_accumulation

    def loss(params: PyTree, part: Batch, part_key: Array) -> tuple[Array, tuple]:
        projection = params.get(PROJECTION)
        params = {name: value for name, value in params.items() if name != PROJECTION}
        if frozen_backbone:
            params = with_backbone(params, jax.lax.stop_gradient(params["encoder"]["backbone"]))
        model = definition.bind(gather_fsdp(params, mesh))
        with tracing_for(mesh):
            said = outputs(model, part, part_key, frozen_backbone=frozen_backbone)
        total, shares = hybrid_loss(said, part, counts, config, state.step)
        taught: dict[str, Array] = {}
        if LOGITS in part:
            lesson, taught = distillation_loss(
                model, said, part, counts, config.distillation, projection
            )
            total = total + lesson
            shares = shares._replace(total=total)
        return total, (shares, taught, said.encoded.moments)

    def gradient(part: Batch, part_key: Array) -> _Gradients:
        gradients, sums = jax.grad(loss, has_aux=True)(state.trained, part, part_key)
        return _Gradients(gradients, *sums)

    if parts == 1:
        return gradient(batch, key)

    # Row i goes to part i % parts: each device keeps its own rows, whatever the mesh.
    split = jax.tree.map(
        lambda x: jnp.moveaxis(x.reshape(x.shape[0] // parts, parts, *x.shape[1:]), 1, 0), batch
    )

    def add(total: _Gradients, inputs: tuple[Batch, Array]) -> tuple[_Gradients, None]:
        part, number = inputs
        return jax.tree.map(jnp.add, total, gradient(part, jax.random.fold_in(key, number))), None

    nothing = _Gradients(
        jax.tree.map(jnp.zeros_like, state.trained),
        LossParts(*(jnp.zeros(()) for _ in LossParts._fields)),
        {name: jnp.zeros(()) for name in DISTILL_LOSSES} if LOGITS in batch else {},
        None if frozen_backbone else zero_moments(state.params["encoder"]["backbone"]),
    )
    return jax.lax.scan(add, nothing, (split, jnp.arange(parts)))[0]


def make_eval_step(
    definition: ModelDefinition, config: TrainingConfig, mesh: Mesh, shardings: PyTree
) -> Callable[[PyTree, Batch], dict[str, Array]]:
    """Jitted (params, batch) -> sums and counts of the losses without dropout, to be added up over batches."""

    def step(params: PyTree, batch: Batch) -> dict[str, Array]:
        one = jnp.ones(())
        with tracing_for(mesh):
            _, sums = translation_loss(
                definition.bind(gather_fsdp(params, mesh)), batch, LossCounts(one, one), config
            )
        counts = count(batch)
        return {
            "ce": sums.ce,
            "ctc": sums.ctc,
            "impossible": sums.impossible,
            "tokens": counts.tokens,
            "clips": counts.clips,
        }

    return jax.jit(
        step, in_shardings=(shardings, batch_sharding(mesh)), out_shardings=replicated(mesh)
    )
