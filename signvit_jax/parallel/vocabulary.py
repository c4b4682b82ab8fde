"""A vocabulary that the tensor axis does not divide: entries of zeros behind it, on the devices only.

The model does not know of them: they are cut off before it runs, which on a padded layout moves no data, and get no gradient. Checkpoints do not hold
them, so that a run goes on on any other mesh.
"""

import re
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, PyTree

from signvit_jax.parallel.sharding import parameter_path

# Where the vocabulary lies in a parameter, or in its moments or average behind a prefix of their own.
_VOCABULARY_AXES = {r"decoder/embedding": -2, r"ctc_head/out/kernel": -1, r"ctc_head/out/bias": -1}


def padded_shapes(tree: PyTree, mesh: Mesh) -> PyTree:
    """The tree's shapes and dtypes, the vocabulary rounded up to a multiple of the mesh's tensor axis."""

    def padded(path: tuple, leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        shape, axis = list(leaf.shape), _vocabulary_axis(path)
        if axis is not None and shape:
            shape[axis] += -shape[axis] % mesh.shape["tensor"]
        return jax.ShapeDtypeStruct(tuple(shape), leaf.dtype)

    return jax.tree_util.tree_map_with_path(padded, tree)


def resize_vocab_like(tree: PyTree, like: PyTree) -> PyTree:
    """The tree with its vocabulary cut off at, or filled up with zeros to, the length it has in `like` (traceable); all else as it is."""
    return _where_the_vocabulary_differs(_resize, tree, like)


def reshard_like(tree: PyTree, like: PyTree) -> PyTree:
    """The same for arrays on devices; what changes comes to lie as the shapes of `like` say, which carry their shardings."""

    def resize_and_move(leaf: Array, wanted: jax.ShapeDtypeStruct) -> Array:
        return jax.jit(partial(_resize, wanted=wanted), out_shardings=wanted.sharding)(leaf)

    return _where_the_vocabulary_differs(resize_and_move, tree, like)


def _where_the_vocabulary_differs(
    change: Callable[[Array, jax.ShapeDtypeStruct], Array], tree: PyTree, like: PyTree
) -> PyTree:
    def changed(path: tuple, leaf: Array, wanted: jax.ShapeDtypeStruct) -> Array:
        return (
            leaf
            if leaf.shape == wanted.shape or _vocabulary_axis(path) is None
            else change(leaf, wanted)
        )

    return jax.tree_util.tree_map_with_path(changed, tree, like)


def _resize(leaf: Array, wanted: jax.ShapeDtypeStruct) -> Array:
    cut = leaf[tuple(slice(size) for size in wanted.shape)]
    return jnp.pad(cut, [(0, size - have) for size, have in zip(wanted.shape, cut.shape)])


def _vocabulary_axis(path: tuple) -> int | None:
    name = parameter_path(path)
    return next(
        (axis for pattern, axis in _VOCABULARY_AXES.items() if re.search(f"(^|/){pattern}$", name)),
        None,
    )
