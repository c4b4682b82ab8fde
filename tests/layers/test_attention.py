"""Ways to compute one attention: the same numbers, and the right choice for a device."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from signvit_jax.layers.attention import attend, attend_at_even_length, fastest_attention
from signvit_jax.parallel.tracing import tracing_for

QUERY, KEY, VALUE = (jax.random.normal(jax.random.key(i), (2, 5, 3, 4)) for i in range(3))


def slow(query, key, value):
    """One head of one example at a time, in double precision."""
    out = np.zeros(query.shape)
    for b, n in np.ndindex(query.shape[0], query.shape[2]):
        q, k, v = (np.asarray(x[b, :, n], np.float64) for x in (query, key, value))
        weights = np.exp(q @ k.T / np.sqrt(q.shape[1]))
        out[b, :, n] = weights / weights.sum(-1, keepdims=True) @ v
    return out.reshape(*query.shape[:2], -1)


@pytest.mark.parametrize("implementation", ["auto", "xla", "recompute"])
def test_attention_is_that_of_one_head_at_a_time(implementation):
    np.testing.assert_allclose(
        attend(QUERY, KEY, VALUE, implementation=implementation), slow(QUERY, KEY, VALUE), atol=1e-5
    )


def test_recomputing_changes_no_gradient_and_draws_the_same_dropout_again():
    def loss(implementation, **dropped):
        return jax.jit(
            jax.value_and_grad(
                lambda q: (
                    attend(q, KEY, VALUE, implementation=implementation, **dropped) ** 2
                ).sum()
            )
        )(QUERY)

    for dropped in ({}, {"dropout_rate": 0.5, "dropout_key": jax.random.key(3)}):
        for kept, recomputed in zip(loss("xla", **dropped), loss("recompute", **dropped)):
            np.testing.assert_allclose(kept, recomputed, rtol=1e-5)


def test_recomputing_keeps_nothing_of_the_size_of_the_weights():
    long = jax.ShapeDtypeStruct((1, 64, 2, 8), jnp.float32)
    shapes = {
        name: {
            saved.shape
            for saved in jax.tree.leaves(
                jax.eval_shape(
                    lambda q, name=name: jax.vjp(lambda x: attend(x, x, x, implementation=name), q)[
                        1
                    ],
                    long,
                )
            )
        }
        for name in ("xla", "recompute")
    }
    assert (1, 2, 64, 64) in shapes["xla"] and (1, 2, 64, 64) not in shapes["recompute"]


@pytest.mark.parametrize(("queries", "keys"), [(197, 197), (5, 4), (4, 5), (6, 6)])
def test_attention_padded_to_an_even_length_equals_plain_attention_in_value_and_gradient(
    queries, keys
):
    shapes = [(2, queries, 3, 8), (2, keys, 3, 8), (2, keys, 3, 8)]
    inputs = [jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate(shapes)]

    def loss(run):
        return jax.value_and_grad(lambda inputs: (run(*inputs) ** 2).mean())(inputs)

    padded = loss(
        lambda q, k, v: attend_at_even_length(q, k, v, implementation="xla").reshape(2, queries, -1)
    )
    for ours, plain in zip(jax.tree.leaves(padded), jax.tree.leaves(loss(attend))):
        np.testing.assert_allclose(ours, plain, atol=1e-6)


@pytest.mark.parametrize("tokens", [196, 197, 198])
def test_the_fused_kernel_can_be_differentiated_at_any_length(monkeypatch, tokens):
    """JAX's own checks run while tracing, so no GPU is needed to see them refuse a length."""
    monkeypatch.setattr(
        "jax._src.cudnn.fused_attention_stablehlo.check_cudnn_version", lambda: 91300
    )
    x = jax.ShapeDtypeStruct((2, tokens, 4, 64), jnp.bfloat16)
    gradient = jax.grad(
        lambda q, k, v: attend(q, k, v, implementation="cudnn").astype(jnp.float32).sum(),
        argnums=(0, 1, 2),
    )
    assert [g.shape for g in jax.eval_shape(gradient, x, x, x)] == [x.shape] * 3


@pytest.mark.parametrize(
    "given",
    [{"mask": jnp.ones((1, 5, 5), bool)}, {"dropout_rate": 0.5, "dropout_key": jax.random.key(0)}],
    ids=["mask", "dropout"],
)
def test_the_fused_kernel_is_not_taken_for_what_it_cannot_do(given):
    with pytest.raises(ValueError, match="choose 'auto'"):
        attend(QUERY, KEY, VALUE, implementation="cudnn", **given)


@pytest.mark.parametrize(
    ("backend", "generation", "dtype", "head", "plain", "expected"),
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
def test_the_choice_follows_device_dtype_head_width_mask_and_dropout(
    monkeypatch, backend, generation, dtype, head, plain, expected
):
    monkeypatch.setattr(
        jax, "devices", lambda: [SimpleNamespace(platform=backend, compute_capability=generation)]
    )
    assert fastest_attention(dtype, head, plain=plain) == expected


def test_the_choice_follows_the_mesh_that_is_traced_for_and_not_this_process():
    h100 = SimpleNamespace(platform="cuda", compute_capability="9.0")
    with tracing_for(SimpleNamespace(devices=np.array([[[h100]]]))):
        assert fastest_attention(jnp.bfloat16, 64, plain=True) == "cudnn"
    assert fastest_attention(jnp.bfloat16, 64, plain=True) == "xla"
