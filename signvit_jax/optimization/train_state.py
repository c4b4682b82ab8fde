"""The state that a run carries from step to step, and its shardings."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh
from jaxtyping import Array, Int, PyTree

from signvit_jax.models.definition import ModelDefinition
from signvit_jax.parallel.sharding import state_shardings
from signvit_jax.parallel.vocabulary_padding import padded_shapes, resize_vocab_like


@struct.dataclass
class TrainState:
    """Parameters, optimizer state and counters. Parameters are nested dicts of arrays."""

    params: PyTree
    opt_state: PyTree
    ema: PyTree | None  # averaged parameters; None if training.ema_decay is 0
    step: Int[Array, ""]  # updates tried
    nonfinite_in_row: Int[Array, ""]  # updates skipped since the last one that was applied
    nonfinite_total: Int[Array, ""]  # updates skipped in all
    # Parameters trained with the model, by name; a loss term reads them, the model does not.
    aux: dict[str, PyTree] = struct.field(default_factory=dict)
    # Updates applied before the first one of the backbone; None if it was never frozen.
    thawed_at: Int[Array, ""] | None = None

    @property
    def trainable(self) -> PyTree:
        """Everything that the optimizer updates, as one dict."""
        return self.params | self.aux

    def split_trainable(self, trainable: PyTree) -> tuple[PyTree, dict[str, PyTree]]:
        """Return (parameters of the model, `aux`) of a tree like `trainable`."""
        params = {name: value for name, value in trainable.items() if name not in self.aux}
        return params, {name: trainable[name] for name in self.aux}


def new_state(
    definition: ModelDefinition,
    optimizer: optax.GradientTransformation,
    seed: int | Int[Array, ""],
    mesh: Mesh | None = None,
    aux: dict[str, PyTree] | None = None,
    *,
    thaws: bool = False,
) -> TrainState:
    """Return the state before the first step (traceable; `jax.eval_shape` gives its shapes).

    With a mesh the vocabulary is padded to a multiple of the mesh's tensor axis; without, the state
    is as a checkpoint holds it. `thaws` as in `make_optimizer`.
    """
    params = definition.init(seed)
    if mesh is not None:
        params = resize_vocab_like(params, padded_shapes(params, mesh))
    zero = jnp.zeros((), jnp.int32)
    state = TrainState(
        params=params,
        opt_state=None,
        ema=jax.tree.map(jnp.copy, params) if definition.config.training.ema_decay else None,
        step=zero,
        nonfinite_in_row=zero,
        nonfinite_total=zero,
        aux=aux or {},
        thawed_at=zero if thaws else None,
    )
    return dataclasses.replace(state, opt_state=optimizer.init(state.trainable))


def replace_params(state: TrainState, values: PyTree) -> TrainState:
    """Return a fresh state with other values of some parameters, and averages equal to them.

    `values` is a part of the tree of parameters: nested dicts with the same names.
    """

    def replaced(tree: PyTree, new: PyTree) -> PyTree:
        if not isinstance(new, dict):
            return jax.device_put(new, tree.sharding)
        return tree | {name: replaced(tree[name], below) for name, below in new.items()}

    params = replaced(state.params, values)
    ema = None if state.ema is None else jax.tree.map(jnp.copy, params)
    return dataclasses.replace(state, params=params, ema=ema)


def abstract_on_mesh(make_state: Callable[[], PyTree], mesh: Mesh) -> tuple[PyTree, PyTree]:
    """Return (the state as ShapeDtypeStructs with shardings, the shardings alone)."""
    abstract = jax.eval_shape(make_state)
    shardings = state_shardings(abstract, mesh)
    on_mesh = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        abstract,
        shardings,
    )
    return on_mesh, shardings
