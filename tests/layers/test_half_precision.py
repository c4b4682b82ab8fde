"""Layers in half precision: the same functions as in float32, with smaller arrays in memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from signvit_jax.layers.half_precision import absorb_norm, gelu_in_float32, normalize
from signvit_jax.layers.transformer import TransformerBlock

WIDTH = 16


def normal(seed, *shape, dtype=jnp.float32):
    return jax.random.normal(jax.random.key(seed), shape).astype(dtype)


def make_block(dtype, **options):
    options = {"dropout_rate": 0.0, "attention_dropout": 0.0, "dtype": dtype} | options
    block = TransformerBlock(WIDTH, 2, 32, **options, rngs=nnx.Rngs(0))
    # Let the scales and offsets of norms differ from 1 and 0.
    graphdef, state = nnx.split(block)
    keys = iter(jax.random.split(jax.random.key(9), 20))
    state = jax.tree.map(lambda leaf: leaf + 0.3 * jax.random.normal(next(keys), leaf.shape), state)
    return nnx.merge(graphdef, state)


def relative_difference(found, expected):
    found, expected = (np.asarray(x, np.float64) for x in (found, expected))
    return np.abs(found - expected).max() / np.abs(expected).max()


def value_and_gradients(call, block, x, weight):
    """Return [output, gradients of the parameters, gradient of the input], for a weighted sum."""

    def loss(block, x):
        out = call(block, x)
        return jnp.sum(out.astype(jnp.float32) * weight), out

    (_, out), gradients = nnx.value_and_grad(loss, argnums=(0, 1), has_aux=True)(block, x)
    return [out, *jax.tree.leaves(gradients)]


def test_normalize_has_the_value_and_gradient_of_layer_norm():
    x = 3.0 + normal(0, 4, 7, WIDTH)
    weight = normal(1, 4, 7, WIDTH)
    norm = nnx.LayerNorm(WIDTH, epsilon=1e-5, use_scale=False, use_bias=False, rngs=nnx.Rngs(0))

    def both(run):
        return jax.value_and_grad(lambda x: jnp.sum(run(x) * weight))(x)

    for ours, flax in zip(both(lambda x: normalize(x, 1e-5)), both(norm)):
        np.testing.assert_allclose(ours, flax, rtol=1e-4, atol=1e-5)


def test_a_kernel_that_absorbs_the_norm_gives_the_same_product():
    block = make_block(jnp.float32)
    norm = block.attention_norm
    linear = block.attention.qkv
    x = normal(0, 5, WIDTH)
    kernel, bias = absorb_norm(norm, linear, jnp.float32)
    np.testing.assert_allclose(
        normalize(x, norm.epsilon) @ kernel + bias, linear(norm(x)), rtol=1e-4, atol=1e-5
    )


def test_gelu_in_float32_is_the_exact_gelu():
    x = jnp.linspace(-6.0, 6.0, 1001)
    np.testing.assert_allclose(gelu_in_float32(x), jax.nn.gelu(x, approximate=False), atol=1e-6)


@pytest.mark.parametrize("part", ["attention", "feed_forward"])
def test_branches_of_a_norm_have_the_gradients_of_float32(part):
    """Here `of_norm`, which is used in half precision, runs in float32: only rounding differs."""
    block = make_block(jnp.float32)
    x = normal(0, 2, 6, WIDTH)
    weight = normal(1, 2, 6, WIDTH)
    rng = jax.random.key(5)

    def plain(block, x):
        norm = getattr(block, f"{part}_norm")
        inputs = (None, rng) if part == "attention" else (rng,)
        return getattr(block, part)(norm(x), *inputs)

    def with_absorbed_norm(block, x):
        norm = getattr(block, f"{part}_norm")
        inputs = (None, rng) if part == "attention" else (rng,)
        return getattr(block, part).of_norm(norm, x, *inputs)

    found = value_and_gradients(with_absorbed_norm, block, x, weight)
    expected = value_and_gradients(plain, block, x, weight)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=2e-5)


def test_a_block_in_bfloat16_has_the_gradients_of_float32():
    x, weight = normal(0, 2, 6, WIDTH, dtype=jnp.bfloat16), normal(1, 2, 6, WIDTH)
    rng = jax.random.key(5)
    half, single = (
        value_and_gradients(
            lambda block, x: block(x, rng=rng), make_block(dtype), x.astype(dtype), weight
        )
        for dtype in (jnp.bfloat16, jnp.float32)
    )
    for ours, expected in zip(half, single, strict=True):
        assert relative_difference(ours, expected) < 0.05


def test_a_block_in_bfloat16_keeps_no_float32_activation():
    """Only the norms keep float32, one number for each row; all other arrays are bfloat16."""
    block = make_block(jnp.bfloat16)
    x = normal(0, 2, 6, WIDTH, dtype=jnp.bfloat16)
    policy = jax.checkpoint_policies.save_only_these_names("normalized", "projected", "hidden")
    run = jax.checkpoint(lambda x: block(x, rng=jax.random.key(5)), policy=policy)
    kept = jax.tree.leaves(jax.eval_shape(lambda x: jax.vjp(run, x)[1], x))
    activations = [leaf for leaf in kept if leaf.shape[:2] == (2, 6)]
    wide = [leaf.shape for leaf in activations if leaf.dtype == jnp.float32]
    assert wide == [(2, 6, 1)] * 2
    assert (2, 6, 32) in [leaf.shape for leaf in activations]


def test_padding_beyond_num_tokens_changes_nothing():
    """Neither the outputs and gradients of other tokens nor the gradients of parameters change."""
    block = make_block(jnp.bfloat16)
    x = normal(0, 2, 5, WIDTH, dtype=jnp.bfloat16)
    weight = normal(1, 2, 5, WIDTH)
    rng = jax.random.key(5)

    def padded(block, x):
        x = jnp.pad(x, ((0, 0), (0, 3), (0, 0)), constant_values=7.0)
        return block(x, rng=rng, num_tokens=5)[:, :5]

    def plain(block, x):
        return block(x, rng=rng)

    found = value_and_gradients(padded, block, x, weight)
    expected = value_and_gradients(plain, block, x, weight)
    for ours, theirs in zip(found, expected, strict=True):
        assert relative_difference(ours, theirs) < 0.01
