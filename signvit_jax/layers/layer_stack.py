"""Blocks with the same structure, stacked: parameters with a leading layer axis, run in turn."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.extend.core import Primitive
from jaxtyping import Array, Float, Int, PyTree, Shaped

from signvit_jax.layers.compute_policy import ComputePolicy
from signvit_jax.layers.kept_arrays import KEPT

_has_kept_name = jax.checkpoint_policies.save_only_these_names(*KEPT)


def _is_kept(primitive: Primitive, *args: object, **params: object) -> bool:
    """Return True for a name in `KEPT` and for fused attention, whose result cannot be named."""
    fused_attention = primitive.name.startswith("dot_product_attention_fwd")
    return fused_attention or bool(_has_kept_name(primitive, *args, **params))


# What the backward pass may keep: products with weights, arrays by name, or nothing.
REMAT_POLICIES = {
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "names": _is_kept,
    "full": jax.checkpoint_policies.nothing_saveable,
}


def stack[Block: nnx.Module](
    make_block: Callable[[nnx.Rngs], Block], num_layers: int, rngs: nnx.Rngs
) -> Block:
    """Make `num_layers` blocks as one module whose parameters have a leading layer axis."""
    return nnx.split_rngs(splits=num_layers)(nnx.vmap(make_block))(rngs)


def block_at[Block: nnx.Module](blocks: Block, layer: int | Int[Array, ""]) -> Block:
    """Return one block of a `stack`."""
    graphdef, state = nnx.split(blocks)
    return nnx.merge(graphdef, jax.tree.map(lambda leaf: leaf[layer], state))


def run_stack(
    blocks: nnx.Module,
    x: Float[Array, "n s d"],
    call: Callable[..., Float[Array, "n s d"]],
    *per_layer: Shaped[np.ndarray, "layers ..."],
    policy: ComputePolicy,
) -> Float[Array, "n s d"]:
    """Run the blocks of a `stack` in turn: x = call(block, x, layer, *values), starting with `x`.

    `values` are the entries of that layer in the arrays `per_layer`. With `policy.scan_layers` the
    blocks are one `jax.lax.scan`, which compiles one block; without it they are unrolled. With
    `policy.remat` the backward pass recomputes what `REMAT_POLICIES` does not keep.
    """
    graphdef, state = nnx.split(blocks)
    num_layers = jax.tree.leaves(state)[0].shape[0]

    def run(x: Array, block_state: nnx.State, layer: Array | int, *values: Array) -> Array:
        return call(nnx.merge(graphdef, block_state), x, layer, *values)

    if policy.remat != "none":
        keep = REMAT_POLICIES[policy.remat]
        run = jax.checkpoint(run, policy=keep, prevent_cse=not policy.scan_layers)
    if policy.scan_layers:
        layers = (state, jnp.arange(num_layers), *map(jnp.asarray, per_layer))
        x, _ = jax.lax.scan(lambda x, inputs: (run(x, *inputs), None), x, layers)
        return x
    for layer in range(num_layers):
        block_state = nnx.state(block_at(blocks, layer))
        x = run(x, block_state, layer, *(jnp.asarray(values[layer]) for values in per_layer))
    return x


def rematerialized(module: nnx.Module, remat: str) -> Callable[..., PyTree]:
    """`module` as a function whose backward pass recomputes what `remat` does not keep.

    `remat` is a key of `REMAT_POLICIES`, or 'none' for the module itself.
    """
    if remat == "none":
        return module
    graphdef, state = nnx.split(module)

    def run(state: nnx.State, *inputs: Array | None) -> PyTree:
        return nnx.merge(graphdef, state)(*inputs)

    return partial(jax.checkpoint(run, policy=REMAT_POLICIES[remat]), state)
