"""Which axis of which parameter lies on which axis of the mesh: rules by parameter path, and nothing in the layers."""

import re

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import PyTree

# (path pattern, axes of the last dimensions). The first match counts; leading dimensions, such as a stacked layer axis, stay whole.
RULES: list[tuple[str, tuple[str | None, ...]]] = [
    (r".*/(qkv|query|key_value|expand)/kernel", ("fsdp", "tensor")),
    (
        r".*/(query|expand)/bias",
        ("tensor",),
    ),  # those of fused projections stay whole: contiguous parts are not heads
    (r".*/(attention|self_attention|cross_attention)/out/kernel", ("tensor", "fsdp")),
    (r".*/contract/kernel", ("tensor", "fsdp")),
    (r"decoder/embedding", ("tensor", "fsdp")),
    (r"ctc_head/out/kernel", ("fsdp", "tensor")),
    (r"ctc_head/out/bias", ("tensor",)),
    (r".*/kernel", ("fsdp", None)),
]


def parameter_path(path: tuple) -> str:
    """A pytree path as 'encoder/backbone/...'."""
    return "/".join(
        str(getattr(entry, "key", getattr(entry, "idx", getattr(entry, "name", entry))))
        for entry in path
    )


def partition_spec(path: str, shape: tuple[int, ...], mesh: Mesh) -> P:
    """The rule for one parameter; an axis that does not divide its dimension is left out (that dimension stays whole)."""
    for pattern, axes in RULES:
        # Optimizer state repeats the parameters' paths behind a prefix of its own, hence search and not match.
        if re.search(f"(^|/){pattern}$", path) and len(shape) >= len(axes):
            sizes = shape[len(shape) - len(axes) :]
            fitting = [
                axis if axis and size % mesh.shape[axis] == 0 else None
                for axis, size in zip(axes, sizes)
            ]
            return P(*[None] * (len(shape) - len(axes)), *fitting)
    return P()


def state_shardings(abstract: PyTree, mesh: Mesh) -> PyTree:
    """A NamedSharding for every leaf of a state (parameters, optimizer moments, averages: anything that carries parameter paths)."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: NamedSharding(
            mesh, partition_spec(parameter_path(path), leaf.shape, mesh)
        ),
        abstract,
    )


def gather_fsdp(params: PyTree, mesh: Mesh) -> PyTree:
    """The parameters as layers compute with them: whole along the fsdp axis, cut along the tensor axis. Gradients come back cut as they are.

    Left to itself XLA rather cuts the input of a layer as its kernel is cut, and then every device holds the activations of all clips.
    """
    if mesh.shape["fsdp"] == 1:
        return params
    stored = state_shardings(params, mesh)
    whole = jax.tree.map(
        lambda cut: NamedSharding(
            mesh, P(*(None if axis == "fsdp" else axis for axis in cut.spec))
        ),
        stored,
    )

    @jax.custom_vjp
    def gather(params: PyTree) -> PyTree:
        return jax.lax.with_sharding_constraint(params, whole)

    gather.defvjp(
        lambda params: (gather(params), None),
        lambda _, gradients: (jax.lax.with_sharding_constraint(gradients, stored),),
    )
    return gather(params)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Batches are cut along their first axis over the data and fsdp axes together."""
    return NamedSharding(mesh, P(("data", "fsdp")))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, P())


def to_device(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's rows of a global batch, as global arrays on the mesh."""
    sharding = batch_sharding(mesh)
    return {
        name: jax.make_array_from_process_local_data(sharding, value)
        for name, value in batch.items()
    }
