"""Padding of the vocabulary, on the devices, to a multiple of the mesh's tensor axis.

The padding is zeros. It is sliced off before the model runs, so the model does not know of it and
it gets no gradient; with a sharded layout the slice moves no data. Checkpoints do not contain it,
so a run can resume on any other mesh.
"""

import re
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, PyTree

from signvit_jax.parallel.sharding import parameter_path

# The vocabulary's axis in a parameter, and in its moments and average, whose paths have a prefix.
_VOCABULARY_AXES = {
    r"decoder/embedding": -2,
    r"gloss_encoder/embedding": -2,
    r"ctc_head/out/kernel": -1,
    r"ctc_head/out/bias": -1,
}


def padded_shapes(tree: PyTree, mesh: Mesh) -> PyTree:
    """Return the shapes and dtypes of the tree with a padded vocabulary."""

    def padded(path: tuple, leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        shape, axis = list(leaf.shape), vocabulary_axis(parameter_path(path))
        if axis is not None and shape:
            shape[axis] += -shape[axis] % mesh.shape["tensor"]
        return jax.ShapeDtypeStruct(tuple(shape), leaf.dtype)

    return jax.tree_util.tree_map_with_path(padded, tree)


def resize_vocab_like(tree: PyTree, like: PyTree) -> PyTree:
    """Slice or zero-pad the vocabulary to its length in `like` (traceable)."""
    return _change_vocabulary(_resize, tree, like)


def reshard_like(tree: PyTree, like: PyTree) -> PyTree:
    """`resize_vocab_like` for arrays on devices; resized arrays get their sharding in `like`."""

    def resize_and_move(leaf: Array, target: jax.ShapeDtypeStruct) -> Array:
        return jax.jit(partial(_resize, target=target), out_shardings=target.sharding)(leaf)

    return _change_vocabulary(resize_and_move, tree, like)


def _change_vocabulary(
    change: Callable[[Array, jax.ShapeDtypeStruct], Array], tree: PyTree, like: PyTree
) -> PyTree:
    """Apply `change` where the length of the vocabulary differs."""

    def changed(path: tuple, leaf: Array, target: jax.ShapeDtypeStruct) -> Array:
        if leaf.shape == target.shape or vocabulary_axis(parameter_path(path)) is None:
            return leaf
        return change(leaf, target)

    return jax.tree_util.tree_map_with_path(changed, tree, like)


def _resize(leaf: Array, target: jax.ShapeDtypeStruct) -> Array:
    sliced = leaf[tuple(slice(size) for size in target.shape)]
    return jnp.pad(sliced, [(0, size - have) for size, have in zip(target.shape, sliced.shape)])


def vocabulary_axis(path: str) -> int | None:
    """Return the axis, from the last, of a parameter's vocabulary; None if it has none."""
    return next(
        (axis for pattern, axis in _VOCABULARY_AXES.items() if re.search(f"(^|/){pattern}$", path)),
        None,
    )
