"""A stack of blocks, compared with a plain loop over the blocks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from signvit_jax.layers.compute_policy import ComputePolicy
from signvit_jax.layers.layer_stack import block_at, rematerialized, run_stack, stack
from signvit_jax.layers.transformer import FeedForward, TransformerBlock

LAYERS = 3
SCALES = np.array([1.0, 2.0, 3.0], np.float32)


def make_block(rngs):
    return FeedForward(4, 8, dropout_rate=0.0, dtype=jnp.float32, rngs=rngs)


@pytest.fixture(scope="module")
def blocks():
    return stack(make_block, LAYERS, nnx.Rngs(0))


def call(block, x, layer, scale):
    return x + scale * block(x) + layer


def x():
    return jax.random.normal(jax.random.key(1), (2, 5, 4))


def test_blocks_of_a_stack_have_separate_parameters(blocks):
    assert blocks.expand.kernel.shape == (LAYERS, 4, 8)
    first, last = (np.asarray(block_at(blocks, layer).expand.kernel[...]) for layer in (0, 2))
    assert np.abs(first - last).max() > 1e-2


@pytest.mark.parametrize("scan", [True, False], ids=["scan", "unroll"])
@pytest.mark.parametrize("remat", ["none", "dots", "names", "full"])
def test_a_stack_equals_a_loop_over_its_blocks(blocks, scan, remat):
    policy = ComputePolicy(scan_layers=scan, remat=remat)

    def by_stack(blocks, x):
        return run_stack(blocks, x, call, SCALES, policy=policy)

    def by_loop(blocks, x):
        for layer in range(LAYERS):
            x = call(block_at(blocks, layer), x, layer, SCALES[layer])
        return x

    found, expected = (
        jax.jit(jax.value_and_grad(lambda blocks, f=f: (f(blocks, x()) ** 2).sum()))(blocks)
        for f in (by_stack, by_loop)
    )
    for ours, plain in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, plain, rtol=1e-4)


def test_a_scanned_stack_compiles_one_block(blocks):
    def program(scan):
        policy = ComputePolicy(scan_layers=scan)
        run = jax.jit(lambda blocks: run_stack(blocks, x(), call, SCALES, policy=policy))
        return str(run.trace(blocks).jaxpr)

    assert program(True).count("erf") < program(False).count("erf")


def test_remat_keeps_less_for_the_backward_pass():
    block = make_block(nnx.Rngs(0))

    def kept_shapes(remat):
        def backward(x):
            return jax.vjp(rematerialized(block, remat), x)[1]

        return {leaf.shape for leaf in jax.tree.leaves(jax.eval_shape(backward, x()))}

    assert (2, 5, 8) in kept_shapes("none")
    assert (2, 5, 8) not in kept_shapes("full")


@pytest.mark.parametrize(("remat", "recomputed"), [("none", 0), ("names", 1), ("full", 7)])
def test_remat_by_names_recomputes_only_the_scores_of_attention(remat, recomputed):
    """A block in half precision has eight matrix products.

    They are query, key, value, scores, attended values, output, and two of the feed-forward layer.
    Each has two more for its gradients.
    """
    block = TransformerBlock(
        8, 2, 16, dropout_rate=0.5, attention_dropout=0.0, dtype=jnp.bfloat16, rngs=nnx.Rngs(0)
    )

    def loss(block, x):
        return rematerialized(block, remat)(x, None, jax.random.key(0)).astype(jnp.float32).sum()

    x = jax.random.normal(jax.random.key(1), (2, 5, 8), jnp.bfloat16)
    gradient = jax.make_jaxpr(jax.grad(loss, argnums=(0, 1)))(block, x)
    assert str(gradient).count("dot_general[") == 3 * 8 + recomputed
