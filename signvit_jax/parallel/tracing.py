"""The mesh that a program is being traced for: what layers may ask about devices without being given any.

A program may be compiled for devices that are not in this process, so `jax.devices()` is no answer.
"""

import contextlib
import math
from collections.abc import Iterator
from contextvars import ContextVar

import jax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Key

_MESH: ContextVar[Mesh | None] = ContextVar("mesh", default=None)
_BATCH_AXES = ("data", "fsdp")


@contextlib.contextmanager
def tracing_for(mesh: Mesh) -> Iterator[None]:
    """What is traced inside runs on `mesh`. For the body of a jitted function: what jit caches then depends on nothing outside it."""
    token = _MESH.set(mesh)
    try:
        yield
    finally:
        _MESH.reset(token)


def traced_device() -> jax.Device:
    """A device of the kind that the program being traced will run on; without `tracing_for` the process's first one."""
    mesh = _MESH.get()
    return jax.devices()[0] if mesh is None else mesh.devices.flat[0]


def tensor_ways() -> int:
    """Over how many devices a layer's width is sharded in the program being traced."""
    mesh = _MESH.get()
    return 1 if mesh is None else mesh.shape["tensor"]


def bernoulli_by_rows(
    key: Key[Array, ""], probability: float, shape: tuple[int, ...]
) -> Bool[Array, "..."]:
    """`jax.random.bernoulli` of which every device draws its own rows and no others.

    XLA does not partition the generator behind keys of the kind 'rbg': each device would draw the array of the whole
    batch. Where the batch axes of the mesh do not divide the first dimension, that is what happens.
    """
    mesh = _MESH.get()
    ways = 1 if mesh is None else math.prod(mesh.shape[axis] for axis in _BATCH_AXES)
    if ways == 1 or not shape or shape[0] % ways:
        return jax.random.bernoulli(key, probability, shape)

    def own_rows(key: Key[Array, ""]) -> Bool[Array, "..."]:
        own = jax.random.fold_in(key, jax.lax.axis_index(_BATCH_AXES))
        return jax.random.bernoulli(own, probability, (shape[0] // ways, *shape[1:]))

    return jax.shard_map(
        own_rows,
        mesh=mesh,
        in_specs=P(),
        out_specs=P(_BATCH_AXES),
        axis_names=set(_BATCH_AXES),
        check_vma=False,
    )(key)
