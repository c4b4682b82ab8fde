"""The mesh of the program that is being traced, for layers whose code depends on the devices.

A program may be compiled for devices of another machine, so `jax.devices()` is not the answer.
"""

import contextlib
import math
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Protocol

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Key, Shaped


class Device(Protocol):
    """A `jax.Device`, whose class type checkers cannot see."""

    platform: str


GPU_PLATFORMS = ("gpu", "cuda", "rocm")

_MESH: ContextVar[Mesh | None] = ContextVar("mesh", default=None)
_BATCH_AXES = ("data", "fsdp")


@contextlib.contextmanager
def tracing_for(mesh: Mesh) -> Iterator[None]:
    """Trace the code inside for `mesh`.

    Use it inside the jitted function: then what jit caches depends on nothing outside of it.
    """
    token = _MESH.set(mesh)
    try:
        yield
    finally:
        _MESH.reset(token)


def traced_device() -> Device:
    """Return a device of the mesh that is traced for; without one, of this process."""
    mesh = _MESH.get()
    return jax.devices()[0] if mesh is None else mesh.devices.flat[0]


def traces_for_gpu() -> bool:
    """Return True if the code that is being traced is for GPUs."""
    return traced_device().platform in GPU_PLATFORMS


def tensor_ways() -> int:
    """Return the size of the tensor axis of the mesh that is traced for; without one, 1."""
    mesh = _MESH.get()
    return 1 if mesh is None else mesh.shape["tensor"]


def over_tensor(x: Shaped[Array, "*shape"], axis: int) -> Shaped[Array, "*shape"]:
    """Shard an axis over the tensor axis of the mesh that is traced for, where it divides it.

    How the other axes are sharded is left to XLA.
    """
    mesh = _MESH.get()
    if mesh is None or mesh.shape["tensor"] == 1 or x.shape[axis] % mesh.shape["tensor"]:
        return x
    spec: list[str | object] = [P.UNCONSTRAINED] * x.ndim
    spec[axis] = "tensor"
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, P(*spec)))


def bernoulli_by_rows(
    key: Key[Array, ""], probability: float, shape: tuple[int, ...]
) -> Bool[Array, "..."]:
    """`jax.random.bernoulli`, but each device generates only its own rows.

    XLA does not partition the generator behind 'rbg' keys: each device would generate the complete
    array. Where the batch axes of the mesh do not divide the first dimension, it still does.
    """
    mesh = _MESH.get()
    ways = 1 if mesh is None else math.prod(mesh.shape[axis] for axis in _BATCH_AXES)
    if ways == 1 or not shape or shape[0] % ways:
        return jax.random.bernoulli(key, probability, shape)

    def own_rows(key: Key[Array, ""]) -> Bool[Array, "..."]:
        own_key = jax.random.fold_in(key, jax.lax.axis_index(_BATCH_AXES))
        return jax.random.bernoulli(own_key, probability, (shape[0] // ways, *shape[1:]))

    return jax.shard_map(
        own_rows,
        mesh=mesh,
        in_specs=P(),
        out_specs=P(_BATCH_AXES),
        axis_names=set(_BATCH_AXES),
        check_vma=False,
    )(key)
