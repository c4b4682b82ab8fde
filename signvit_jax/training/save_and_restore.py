"""Save and restore a run: its state, the data position, and the best validation so far."""

import dataclasses
import logging
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jaxtyping import PyTree

from signvit_jax.checkpoints.best import BestSoFar
from signvit_jax.checkpoints.reader import Meta
from signvit_jax.checkpoints.store import CheckpointStore
from signvit_jax.data.pipeline import BatchIterator
from signvit_jax.optimization.optimizer import backbone_of
from signvit_jax.optimization.train_state import TrainState, replace_params
from signvit_jax.parallel.sharding import parameter_path, replicated
from signvit_jax.parallel.vocabulary_padding import reshard_like
from signvit_jax.runtime.consensus import StopConsensus
from signvit_jax.telemetry.goodput import Goodput
from signvit_jax.training.resolve_config import ResolvedConfig
from signvit_jax.training.run_data import RunData
from signvit_jax.training.step_programs import StepPrograms
from signvit_jax.weights.pretrained import PretrainedBackbone
from signvit_jax.weights.transfer import Rows, SourceModel, plan_transfer

log = logging.getLogger(__name__)

_THAWED_AT = "thawed_at"  # in a checkpoint's meta data
_COUNTERS = ("step", "nonfinite_in_row", "nonfinite_total")  # saved with the optimizer's state


class RunCheckpoints:
    """The checkpoints of one run.

    `best` is the best validation so far; it is part of every checkpoint. `saved_step` is the step
    of the newest checkpoint that this start has written or restored.
    """

    def __init__(
        self,
        store: CheckpointStore,
        resolved: ResolvedConfig,
        programs: StepPrograms,
        batches: BatchIterator,
        goodput: Goodput,
        consensus: StopConsensus,
        recreate_workdir: Callable[[], None],
    ):
        """`recreate_workdir` is called before each save: the workdir may have been deleted."""
        training = resolved.config.training
        self.store = store
        self.best = BestSoFar(training.best_metric)
        self.saved_step: int | None = None
        self._frozen_epochs = frozen_epochs_so_far(resolved)
        self._programs = programs
        self._batches = batches
        self._goodput = goodput
        self._consensus = consensus
        self._recreate_workdir = recreate_workdir
        self._save_every_seconds = 60 * training.save_every_n_minutes
        self._last_save = time.monotonic()

    def restore(self) -> tuple[TrainState, bool]:
        """Return (the state of the newest undamaged checkpoint, whether it has been validated).

        The batches move to its data position. Raises CheckpointDamaged and CheckpointMismatch.
        """
        target = self._programs.saved_state
        restored = self.store.restore(
            target.params, _optimizer_items(target), target.ema, self._batches
        )
        if restored.meta["best"]["metric"] == self.best.metric:
            self.best = BestSoFar(**restored.meta["best"])
        self.saved_step = restored.step
        log.info("resumed from the checkpoint of step %d", restored.step)
        items = dict(restored.opt_state)
        state = TrainState(
            params=restored.params,
            ema=restored.ema,
            aux={name: items.pop(name) for name in target.aux},
            thawed_at=self._restored_thawed_at(
                restored.meta, restored.step, int(items["nonfinite_total"])
            ),
            **items,
        )
        validated = bool(restored.meta["validation"])
        return reshard_like(state, self._programs.abstract_state), validated

    def save(
        self,
        state: TrainState,
        validation: dict[str, float] | None = None,
        *,
        wait: bool = False,
    ) -> None:
        """Start a save of the state and of the data position, which agree between two steps.

        `validation`: the metrics of this state, if it was evaluated. With `wait` the checkpoint is
        final on return. Raises CheckpointError.
        """
        step = int(state.step)
        meta = {
            "step": step,
            "epoch": step / self._programs.steps_per_epoch,
            "best": dataclasses.asdict(self.best),
            "validation": validation or {},
            _THAWED_AT: 0 if state.thawed_at is None else int(state.thawed_at),
        }
        self._goodput.mark_save(step)
        with self._goodput.time_as("save"):
            self._recreate_workdir()
            state = reshard_like(state, self._programs.saved_state)
            self.store.save(
                step,
                state.params,
                _optimizer_items(state),
                meta,
                self._batches,
                state.ema,
                validation,
                wait=wait,
            )
        self._consensus.mark_saved()
        self.saved_step = step
        self._last_save = time.monotonic()

    def save_is_due(self) -> bool:
        """Return True if `training.save_every_n_minutes` have passed since the last save."""
        waited = time.monotonic() - self._last_save
        return self._save_every_seconds > 0 and waited >= self._save_every_seconds

    def _restored_thawed_at(self, meta: Meta, step: int, nonfinite: int) -> jax.Array | None:
        """Return `TrainState.thawed_at` of a checkpoint, also of a release that did not save it."""
        if self._programs.abstract_state.thawed_at is None:
            return None
        updates = meta.get(_THAWED_AT)
        if updates is None:
            frozen_steps = min(step, self._frozen_epochs * self._programs.steps_per_epoch)
            updates = max(frozen_steps - nonfinite, 0)
        return jax.device_put(np.int32(updates), replicated(self._programs.mesh))


def fresh_state(programs: StepPrograms) -> TrainState:
    """Return a random state on the mesh.

    The seed is an argument of the program. If it were a constant, XLA would draw the random numbers
    while it compiles, in an interpreter, and warn how slow that is.
    """
    seed = np.uint32(programs.config.training.seed % 2**32).astype(np.int32)  # the bits of a key
    return jax.jit(programs.initial_state, out_shardings=programs.shardings)(seed)


def with_converted_weights(
    state: TrainState, store: CheckpointStore, programs: StepPrograms
) -> TrainState:
    """Return a fresh state with the parameters of the newest checkpoint, a converted model."""
    model = store.restore_params("last", programs.saved_state.params).params
    log.info("starting from the converted weights in %s", store.folder)
    return replace_params(state, reshard_like(model, programs.abstract_state.params))


def with_source_model(
    state: TrainState, source: SourceModel, data: RunData, programs: StepPrograms
) -> TrainState:
    """Return a fresh state with the parameters of another model that fit, and log which they are.

    Raises ConfigError for a model of another kind.
    """
    transfer = plan_transfer(
        source,
        programs.config,
        data.vocabularies,
        {
            parameter_path(path): tuple(leaf.shape)
            for path, leaf in jax.tree_util.tree_leaves_with_path(programs.saved_state.params)
        },
    )
    log.info("starting from %s, %s: %s", source.path, source.kind, "; ".join(transfer.taken))
    for note in transfer.left:
        log.warning("not taken from %s: %s", source.path, note)
    fresh = {
        parameter_path(path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(state.params)
    }
    rows = {path: _with_rows(fresh[path], part) for path, part in transfer.rows.items()}
    values: dict[str, np.ndarray | jax.Array] = {**transfer.whole, **rows}
    return replace_params(state, traverse_util.unflatten_dict(values, sep="/"))


def _with_rows(fresh: jax.Array, part: Rows) -> jax.Array:
    """Return a fresh parameter, its vocabulary padded or not, with the rows that are taken."""
    rows = np.full(fresh.shape[part.axis], -1, np.int32)
    rows[: len(part.rows)] = part.rows

    def replaced(fresh: jax.Array, values: jax.Array, rows: jax.Array) -> jax.Array:
        is_known = jnp.expand_dims(rows >= 0, tuple(range(1, -part.axis)))
        return jnp.where(is_known, jnp.take(values, jnp.maximum(rows, 0), part.axis), fresh)

    return jax.jit(replaced, out_shardings=fresh.sharding)(fresh, part.values, rows)


def with_pretrained_backbone(
    state: TrainState, pretrained: PretrainedBackbone, programs: StepPrograms
) -> TrainState:
    """Return a fresh state with a pretrained backbone. Raises WeightsError if it does not fit."""
    shapes = {
        parameter_path(path): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(backbone_of(state.params))
    }
    backbone = pretrained.parameters(programs.config.model.encoder, shapes)
    log.info(
        "the backbone starts from %s: %s, %d tensors",
        pretrained.path,
        pretrained.kind,
        len(pretrained.tensors),
    )
    tree = traverse_util.unflatten_dict(backbone, sep="/")
    return replace_params(state, {"encoder": {"backbone": tree}})


def was_ever_frozen(resolved: ResolvedConfig, store: CheckpointStore) -> bool:
    """Return True if the backbone is frozen at first, or was before the settings changed."""
    if frozen_epochs_so_far(resolved) or resolved.config.model.encoder.freeze_epochs:
        return True
    latest = store.latest_step()
    return latest is not None and bool(store.meta_value(latest, _THAWED_AT))


def frozen_epochs_so_far(resolved: ResolvedConfig) -> int:
    """Return the `freeze_epochs` that the steps before this start ran with."""
    return (resolved.earlier or resolved.config).model.encoder.freeze_epochs


def _optimizer_items(state: TrainState) -> dict[str, PyTree]:
    """Return everything that training needs besides the parameters and evaluation does not."""
    counters = {name: getattr(state, name) for name in _COUNTERS}
    return {"opt_state": state.opt_state} | counters | state.aux
