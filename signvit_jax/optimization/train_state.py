"""What a run carries from step to step, and how it comes to lie on the mesh."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh
from jaxtyping import Array, Int, PyTree

from signvit_jax.models.definition import ModelDefinition
from signvit_jax.parallel.sharding import state_shardings
from signvit_jax.parallel.vocabulary import padded_shapes, resize_vocab_like


@struct.dataclass
class TrainState:
    """Parameters are nested dicts; `ema` is None unless training.ema_decay > 0."""

    params: PyTree
    opt_state: PyTree
    ema: PyTree | None
    step: Int[Array, ""]  # updates tried
    nonfinite_in_row: Int[Array, ""]  # updates skipped since the last one that was made
    nonfinite_total: Int[Array, ""]
    projection: PyTree | None = (
        None  # with a teacher of another width: trained, and no part of the model
    )
    # Updates made before the backbone's first; None where it was never frozen. Saved among the notes.
    thawed_at: Int[Array, ""] | None = None

    @property
    def trained(self) -> PyTree:
        """What the optimizer sees."""
        return (
            self.params if self.projection is None else self.params | {PROJECTION: self.projection}
        )


PROJECTION = "projection"


def new_state(
    definition: ModelDefinition,
    optimizer: optax.GradientTransformation,
    seed: int,
    mesh: Mesh | None = None,
    projection: PyTree | None = None,
    *,
    thaws: bool = False,
) -> TrainState:
    """The state before the first step (traceable; `jax.eval_shape` of it gives the abstract state).

    With a mesh the vocabulary is padded to what its tensor axis divides; a checkpoint holds the state without that.
    `thaws` as for `make_optimizer`.
    """
    params = definition.init(seed)
    if mesh is not None:
        params = resize_vocab_like(params, padded_shapes(params, mesh))
    ema = jax.tree.map(jnp.copy, params) if definition.config.training.ema_decay else None
    zero = jnp.zeros((), jnp.int32)
    state = TrainState(params, None, ema, zero, zero, zero, projection, zero if thaws else None)
    return state.replace(opt_state=optimizer.init(state.trained))


def replace_params(state: TrainState, values: PyTree) -> TrainState:
    """A fresh state with other numbers in place of some parameters, and averages of those; `values` has their paths."""

    def replaced(tree: PyTree, new: PyTree) -> PyTree:
        if not isinstance(new, dict):
            return jax.device_put(new, tree.sharding)
        return tree | {name: replaced(tree[name], below) for name, below in new.items()}

    params = replaced(state.params, values)
    return state.replace(
        params=params, ema=None if state.ema is None else jax.tree.map(jnp.copy, params)
    )


def abstract_on_mesh(make_state: Any, mesh: Mesh) -> tuple[PyTree, PyTree]:
    """(state of ShapeDtypeStructs that carry their shardings, the shardings alone) for a function that makes a state."""
    abstract = jax.eval_shape(make_state)
    shardings = state_shardings(abstract, mesh)
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        abstract,
        shardings,
    ), shardings
