"""Sharding of parameters over the mesh: rules on parameter paths, and nothing in the layers."""

import functools
import logging
import re
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, DTypeLike, PyTree

log = logging.getLogger(__name__)

# (path pattern, mesh axes of the last dimensions). The first match applies. Leading dimensions,
# such as the layer axis of stacked blocks, are not sharded.
RULES: list[tuple[str, tuple[str | None, ...]]] = [
    (r".*/(qkv|query|key_value|expand)/kernel", ("fsdp", "tensor")),
    # Biases of fused projections are replicated: contiguous parts of them are not heads.
    (r".*/(query|expand)/bias", ("tensor",)),
    (r".*/(attention|self_attention|cross_attention)/out/kernel", ("tensor", "fsdp")),
    (r".*/contract/kernel", ("tensor", "fsdp")),
    (r"(decoder|gloss_encoder)/embedding", ("tensor", "fsdp")),
    (r"ctc_head/out/kernel", ("fsdp", "tensor")),
    (r"ctc_head/out/bias", ("tensor",)),
    (r".*/kernel", ("fsdp", None)),
]


def parameter_path(path: tuple) -> str:
    """Return a pytree path as 'encoder/backbone/...'."""
    return "/".join(
        str(getattr(entry, "key", getattr(entry, "idx", getattr(entry, "name", entry))))
        for entry in path
    )


def partition_spec(path: str, shape: tuple[int, ...], mesh: Mesh) -> P:
    """Return the sharding of one parameter.

    A dimension that its mesh axis does not divide is not sharded.
    """
    axes = _axes(path, shape)
    fitting = [
        axis if axis and size % mesh.shape[axis] == 0 else None for axis, size in zip(axes, shape)
    ]
    return P(*fitting)


def state_shardings(abstract: PyTree, mesh: Mesh) -> PyTree:
    """Return the sharding of every leaf of a state, and log which rules could not be applied.

    A state is parameters, optimizer moments or averages: whatever has parameter paths.
    """
    not_divided = []

    def sharding(path: tuple, leaf: jax.ShapeDtypeStruct) -> NamedSharding:
        name = parameter_path(path)
        spec = partition_spec(name, leaf.shape, mesh)
        if tuple(spec) != _axes(name, leaf.shape):
            not_divided.append(f"{name} {leaf.shape}")
        return NamedSharding(mesh, spec)

    shardings = jax.tree_util.tree_map_with_path(sharding, abstract)
    if not_divided:
        _log_once(
            f"{len(not_divided)} arrays are sharded over fewer axes than their rules say, because "
            f"mesh {dict(mesh.shape)} does not divide their dimensions; first: {not_divided[0]}"
        )
    return shardings


def _axes(path: str, shape: tuple[int, ...]) -> tuple[str | None, ...]:
    """The mesh axes of all dimensions by the first rule that matches; () without a rule."""
    for pattern, axes in RULES:
        # Optimizer state has the parameters' paths behind a prefix, hence `search` and not `match`.
        if re.search(f"(^|/){pattern}$", path) and len(shape) >= len(axes):
            return (*[None] * (len(shape) - len(axes)), *axes)
    return ()


@functools.cache
def _log_once(message: str) -> None:
    log.info(message)


def gather_fsdp(params: PyTree, mesh: Mesh, dtype: DTypeLike = jnp.float32) -> PyTree:
    """All-gather parameters over the fsdp axis, for the layers that compute with them in `dtype`.

    They stay sharded over the tensor axis. Gradients are reduce-scattered to the sharding of the
    parameters. Kernels are cast first if `dtype` has two bytes, which halves what is sent: their
    layers would cast them anyway.

    Without this XLA may shard the input of a layer like its kernel, and every device then holds the
    activations of all clips.
    """
    if mesh.shape["fsdp"] == 1:
        return params
    if jnp.dtype(dtype).itemsize == 2:
        params = jax.tree.map_with_path(
            lambda path, leaf: _cast(leaf, dtype) if path[-1].key == "kernel" else leaf, params
        )
    sharded = state_shardings(params, mesh)

    def without_fsdp(sharding: NamedSharding) -> NamedSharding:
        return NamedSharding(mesh, P(*(None if axis == "fsdp" else axis for axis in sharding.spec)))

    gathered = jax.tree.map(without_fsdp, sharded)

    @jax.custom_vjp
    def gather(params: PyTree) -> PyTree:
        return jax.lax.with_sharding_constraint(params, gathered)

    gather.defvjp(
        lambda params: (gather(params), None),
        lambda _, gradients: (jax.lax.with_sharding_constraint(gradients, sharded),),
    )
    return gather(params)


def _cast(kernel: Array, dtype: DTypeLike) -> Array:
    """Cast before anything that follows: XLA for GPUs would move the cast behind the gather."""
    return jax.lax.optimization_barrier(kernel.astype(dtype))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Return the sharding of batches: the first axis over the data and fsdp axes together."""
    return NamedSharding(mesh, P(("data", "fsdp")))


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding of an array of which every device has a copy."""
    return NamedSharding(mesh, P())


def to_device(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Put this process's rows of a global batch on the mesh; return global arrays."""
    sharding = batch_sharding(mesh)
    return {
        name: jax.make_array_from_process_local_data(sharding, value)
        for name, value in batch.items()
    }
