"""Implementations of attention: equal numbers, and the right choice for each device."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from signvit_jax.layers.attention import (
    attend,
    attend_at_even_length,
    attention_weights,
    fastest_attention,
)
from signvit_jax.parallel.current_mesh import tracing_for

QUERY, KEY, VALUE = (jax.random.normal(jax.random.key(i), (2, 5, 3, 4)) for i in range(3))


def attention_by_loops(query, key, value):
    """Return attention (b, l, n k) from a loop over examples and heads, in float64."""
    out = np.zeros(query.shape)
    for b, n in np.ndindex(query.shape[0], query.shape[2]):
        q, k, v = (np.asarray(x[b, :, n], np.float64) for x in (query, key, value))
        weights = np.exp(q @ k.T / np.sqrt(q.shape[1]))
        out[b, :, n] = weights / weights.sum(-1, keepdims=True) @ v
    return out.reshape(*query.shape[:2], -1)


@pytest.mark.parametrize("implementation", ["auto", "xla", "recompute"])
def test_attention_equals_a_loop_over_heads(implementation):
    found = attend(QUERY, KEY, VALUE, implementation=implementation)
    np.testing.assert_allclose(found, attention_by_loops(QUERY, KEY, VALUE), atol=1e-5)


def test_attention_equals_its_weights_times_the_values():
    mask = jnp.tril(jnp.ones((1, 5, 5), bool))
    weights = attention_weights(QUERY, KEY, mask)
    expected = jnp.einsum("bnls,bsnk->blnk", weights, VALUE).reshape(2, 5, 12)
    np.testing.assert_allclose(attend(QUERY, KEY, VALUE, mask), expected, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [{}, {"dropout_rate": 0.5, "dropout_rng": jax.random.key(3)}],
    ids=["plain", "dropout"],
)
def test_recomputed_attention_has_the_same_gradient(options):
    def value_and_gradient(implementation):
        def loss(query):
            return (attend(query, KEY, VALUE, implementation=implementation, **options) ** 2).sum()

        return jax.jit(jax.value_and_grad(loss))(QUERY)

    for kept, recomputed in zip(value_and_gradient("xla"), value_and_gradient("recompute")):
        np.testing.assert_allclose(kept, recomputed, rtol=1e-5)


def test_recomputing_does_not_keep_the_attention_weights():
    def kept_shapes(implementation):
        def backward(x):
            return jax.vjp(lambda x: attend(x, x, x, implementation=implementation), x)[1]

        kept = jax.eval_shape(backward, jax.ShapeDtypeStruct((1, 64, 2, 8), jnp.float32))
        return {leaf.shape for leaf in jax.tree.leaves(kept)}

    assert (1, 2, 64, 64) in kept_shapes("xla")
    assert (1, 2, 64, 64) not in kept_shapes("recompute")


@pytest.mark.parametrize(("queries", "keys"), [(197, 197), (5, 4), (4, 5), (6, 6)])
def test_padding_to_an_even_length_changes_no_gradient(queries, keys):
    shapes = [(2, queries, 3, 8), (2, keys, 3, 8), (2, keys, 3, 8)]
    inputs = [jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate(shapes)]

    def value_and_gradients(run):
        return jax.value_and_grad(lambda inputs: (run(*inputs) ** 2).mean())(inputs)

    def padded(query, key, value):
        out = attend_at_even_length(query, key, value, implementation="xla")
        return out.reshape(2, queries, -1)

    found, expected = value_and_gradients(padded), value_and_gradients(attend)
    for ours, plain in zip(jax.tree.leaves(found), jax.tree.leaves(expected)):
        np.testing.assert_allclose(ours, plain, atol=1e-6)


@pytest.mark.parametrize("tokens", [196, 197, 198])
def test_the_fused_kernel_has_a_gradient_at_every_length(monkeypatch, tokens):
    """JAX checks lengths while it traces, so this test needs no GPU."""
    monkeypatch.setattr(
        "jax._src.cudnn.fused_attention_stablehlo.check_cudnn_version", lambda: 91300
    )
    x = jax.ShapeDtypeStruct((2, tokens, 4, 64), jnp.bfloat16)
    gradient = jax.grad(
        lambda q, k, v: attend(q, k, v, implementation="cudnn").astype(jnp.float32).sum(),
        argnums=(0, 1, 2),
    )
    shapes = [leaf.shape for leaf in jax.eval_shape(gradient, x, x, x)]
    assert shapes == [x.shape] * 3


@pytest.mark.parametrize(
    "options",
    [{"mask": jnp.ones((1, 5, 5), bool)}, {"dropout_rate": 0.5, "dropout_rng": jax.random.key(0)}],
    ids=["mask", "dropout"],
)
def test_the_fused_kernel_refuses_masks_and_dropout(options):
    with pytest.raises(ValueError, match="choose 'auto'"):
        attend(QUERY, KEY, VALUE, implementation="cudnn", **options)


@pytest.mark.parametrize(
    ("platform", "compute_capability", "dtype", "head_width", "plain", "expected"),
    [
        ("gpu", "9.0", jnp.bfloat16, 64, True, "cudnn"),
        ("gpu", "8.0", jnp.float16, 128, True, "cudnn"),
        ("gpu", "9.0", jnp.bfloat16, 64, False, "recompute"),
        ("gpu", "9.0", jnp.float32, 64, True, "recompute"),
        ("gpu", "9.0", jnp.bfloat16, 160, True, "recompute"),
        ("gpu", "9.0", jnp.bfloat16, 12, True, "recompute"),
        ("gpu", "7.5", jnp.bfloat16, 64, True, "recompute"),
        ("gpu", "gfx90a", jnp.bfloat16, 64, True, "recompute"),
        ("cpu", None, jnp.bfloat16, 64, True, "xla"),
        ("tpu", None, jnp.bfloat16, 64, True, "xla"),
    ],
)
def test_auto_follows_device_dtype_head_width_and_options(
    monkeypatch, platform, compute_capability, dtype, head_width, plain, expected
):
    device = SimpleNamespace(platform=platform, compute_capability=compute_capability)
    monkeypatch.setattr(jax, "devices", lambda: [device])
    assert fastest_attention(dtype, head_width, plain=plain) == expected


def test_auto_follows_the_traced_mesh_not_this_process(monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda: [SimpleNamespace(platform="cpu")])
    # The platform of a device is "cuda" in a described topology, and "gpu" in this machine.
    h100 = SimpleNamespace(platform="cuda", compute_capability="9.0")
    with tracing_for(SimpleNamespace(devices=np.array([[[h100]]]))):
        assert fastest_attention(jnp.bfloat16, 64, plain=True) == "cudnn"
    assert fastest_attention(jnp.bfloat16, 64, plain=True) == "xla"
