"""One update as a pure function of (state, batch, seed): gradients in parts, clip, AdamW, averaging; a non-finite update is not made."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, PyTree

from signvit_jax.config import TrainingConfig
from signvit_jax.parallel.sharding import batch_sharding, put_together, replicated
from signvit_jax.training.losses import Batch, LossCounts, LossParts, count, divisors, translation_loss
from signvit_jax.training.train_state import ModelDefinition, TrainState


class StepReport(NamedTuple):
    """What a step says of itself; the losses are those before the update."""

    loss: LossParts
    grad_norm: Float[Array, ""]
    finite: Float[Array, ""]  # 1 if the update was made
    nonfinite_in_row: Int[Array, ""]
    nonfinite_total: Int[Array, ""]


def make_train_step(
    definition: ModelDefinition,
    optimizer: optax.GradientTransformation,
    config: TrainingConfig,
    mesh: Mesh,
    shardings: PyTree,
    *,
    frozen_backbone: bool,
) -> Callable[[TrainState, Batch], tuple[TrainState, StepReport]]:
    """The jitted step; the state is donated. With `frozen_backbone` the backbone gets no gradient, decay or update, and no backward pass is run."""
    step = partial(train_step, definition=definition, optimizer=optimizer, config=config, mesh=mesh, frozen_backbone=frozen_backbone)
    return jax.jit(step, in_shardings=(shardings, batch_sharding(mesh)), out_shardings=(shardings, replicated(mesh)), donate_argnums=0)


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
    gradients, loss = _gradients(state, batch, key, definition, config, mesh, frozen_backbone)
    grad_norm = optax.tree.norm(gradients)
    finite = jnp.isfinite(loss.total) & jnp.isfinite(grad_norm)

    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    if frozen_backbone:
        params = _with_backbone_of(params, state.params)
    ema = state.ema
    if ema is not None:
        # A short memory at first (Tensorflow's num_updates rule), so that the average does not carry the random start along.
        decay = jnp.minimum(config.ema_decay, (1.0 + state.step) / (10.0 + state.step))
        ema = jax.tree.map(lambda average, new: decay * average + (1.0 - decay) * new, ema, params)

    def keep(new: PyTree, old: PyTree) -> PyTree:
        return jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, old)

    in_row = jnp.where(finite, 0, state.nonfinite_in_row + 1)
    new = TrainState(
        params=keep(params, state.params),
        opt_state=keep(opt_state, state.opt_state),
        ema=None if ema is None else keep(ema, state.ema),
        step=state.step + 1,
        nonfinite_in_row=in_row,
        nonfinite_total=state.nonfinite_total + jnp.where(finite, 0, 1),
    )
    return new, StepReport(loss, grad_norm, finite.astype(jnp.float32), new.nonfinite_in_row, new.nonfinite_total)


def _gradients(
    state: TrainState, batch: Batch, key: Array, definition: ModelDefinition, config: TrainingConfig, mesh: Mesh, frozen_backbone: bool
) -> tuple[PyTree, LossParts]:
    """Gradients and loss of the whole batch, run in `gradient_accumulation` parts one after the other."""
    counts, parts = divisors(batch), config.gradient_accumulation

    def loss(params: PyTree, part: Batch, part_key: Array) -> tuple[Array, LossParts]:
        if frozen_backbone:
            params = _with_backbone_of(params, jax.lax.stop_gradient(params))
        return translation_loss(definition.bind(put_together(params, mesh)), part, counts, config, part_key, state.step)

    gradient = jax.grad(loss, has_aux=True)
    if parts == 1:
        return gradient(state.params, batch, key)

    # Row i goes to part i % parts: each device keeps its own rows, whatever the mesh.
    split = jax.tree.map(lambda x: jnp.moveaxis(x.reshape(x.shape[0] // parts, parts, *x.shape[1:]), 1, 0), batch)

    def add(total: tuple[PyTree, LossParts], inputs: tuple[Batch, Array]) -> tuple[tuple[PyTree, LossParts], None]:
        part, number = inputs
        return jax.tree.map(jnp.add, total, gradient(state.params, part, jax.random.fold_in(key, number))), None

    zeros = (jax.tree.map(jnp.zeros_like, state.params), LossParts(*(jnp.zeros(()) for _ in LossParts._fields)))
    return jax.lax.scan(add, zeros, (split, jnp.arange(parts)))[0]


def _with_backbone_of(params: PyTree, donor: PyTree) -> PyTree:
    return params | {"encoder": params["encoder"] | {"backbone": donor["encoder"]["backbone"]}}


def make_eval_step(definition: ModelDefinition, config: TrainingConfig, mesh: Mesh, shardings: PyTree) -> Callable[[PyTree, Batch], dict[str, Array]]:
    """Jitted (params, batch) -> sums and counts of the losses without dropout, to be added up over batches."""

    def step(params: PyTree, batch: Batch) -> dict[str, Array]:
        one = jnp.ones(())
        _, sums = translation_loss(definition.bind(put_together(params, mesh)), batch, LossCounts(one, one), config)
        counts = count(batch)
        return {"ce": sums.ce, "ctc": sums.ctc, "impossible": sums.impossible, "tokens": counts.tokens, "clips": counts.clips}

    return jax.jit(step, in_shardings=(shardings, batch_sharding(mesh)), out_shardings=replicated(mesh))
