"""MobileNetV3 and its layers: BatchNorm, depthwise convolutions, and outputs of the stages."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from signvit_jax.backbones.mobilenet_v3 import (
    MobileNetV3,
    depthwise,
    depthwise_by_shifts,
    mobilenet_v3_large_spec,
)
from signvit_jax.layers.batch_norm import (
    BatchMoments,
    BatchNorm,
    update_running_stats,
    zero_moments,
)
from signvit_jax.layers.compute_policy import ComputePolicy
from signvit_jax.models.translator import abstract_model, count_parameters
from tests.helpers import tiny_model

WIDTH = 4
MOMENTUM = 0.01


def batch_norm(seed=0) -> BatchNorm:
    layer = BatchNorm(WIDTH, epsilon=1e-3, dtype=jnp.float32, rngs=nnx.Rngs(0))
    rng = np.random.default_rng(seed)
    layer.mean[...] = jnp.asarray(rng.normal(size=WIDTH))
    layer.var[...] = jnp.asarray(rng.uniform(0.5, 2.0, WIDTH))
    layer.scale[...] = jnp.asarray(rng.normal(size=WIDTH))
    layer.bias[...] = jnp.asarray(rng.normal(size=WIDTH))
    return layer


def images(n=6, seed=1):
    return jnp.asarray(np.random.default_rng(seed).normal(3.0, 2.0, (n, 5, 5, WIDTH)), jnp.float32)


def parameters(layer: BatchNorm) -> dict:
    return nnx.to_pure_dict(nnx.state(layer))


@pytest.fixture
def flax_batch_norm():
    """Flax's layer with the parameters of `batch_norm()`."""
    layer = nnx.BatchNorm(WIDTH, momentum=1.0 - MOMENTUM, epsilon=1e-3, rngs=nnx.Rngs(0))
    for name in ("mean", "var", "scale", "bias"):
        getattr(layer, name)[...] = getattr(batch_norm(), name)[...]
    return layer


def test_batch_norm_in_evaluation_equals_flax(flax_batch_norm):
    expected = flax_batch_norm(images(), use_running_average=True)
    np.testing.assert_allclose(batch_norm()(images())[0], expected, atol=1e-5)


def test_batch_norm_in_training_equals_flax(flax_batch_norm):
    layer = batch_norm()
    x = images()
    y, moments = layer(x, jnp.ones(len(x)))
    np.testing.assert_allclose(y, flax_batch_norm(x, use_running_average=False), atol=1e-5)
    params = parameters(layer)
    new = update_running_stats(params, params, BatchMoments(jnp.asarray(6.0), moments), MOMENTUM)
    np.testing.assert_allclose(new["mean"], flax_batch_norm.mean[...], atol=1e-6)
    np.testing.assert_allclose(new["var"], flax_batch_norm.var[...], atol=1e-5)


def test_masked_images_do_not_change_outputs_or_statistics():
    layer = batch_norm()
    x = images()
    mask = jnp.array([1.0, 1, 0, 1, 0, 1])
    broken = jnp.where(mask[:, None, None, None] > 0, x, 1e4)
    y, moments = layer(broken, mask)
    expected_y, expected_moments = layer(x[mask == 1], jnp.ones(4))
    np.testing.assert_allclose(y[mask == 1], expected_y, atol=1e-5)
    for found, expected in zip(moments, expected_moments, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_statistics_of_microbatches_add_up():
    layer = batch_norm()
    x = images()
    mask = jnp.array([1.0, 1, 0, 1, 1, 1])
    before = {"inner": {"norm": parameters(layer)}, "conv": {"kernel": jnp.ones(2)}}
    total = zero_moments(before)
    for rows in (slice(0, 1), slice(1, 4), slice(4, 6)):
        _, moments = layer(x[rows], mask[rows])
        moments = BatchMoments(mask[rows].sum(), {"inner": {"norm": moments}})
        total = jax.tree.map(jnp.add, total, moments)
    new = update_running_stats(before, before, total, MOMENTUM)["inner"]["norm"]
    counted = np.asarray(x[mask == 1]).reshape(-1, WIDTH)
    mean = 0.99 * layer.mean[...] + 0.01 * counted.mean(axis=0)
    var = 0.99 * layer.var[...] + 0.01 * counted.var(axis=0)
    np.testing.assert_allclose(new["mean"], mean, atol=1e-5)
    np.testing.assert_allclose(new["var"], var, atol=1e-5)


def test_a_batch_of_padding_rows_uses_the_running_statistics():
    layer = batch_norm()
    x = 1e3 * images()
    np.testing.assert_allclose(layer(x, jnp.zeros(6))[0], layer(x)[0], rtol=1e-5)


def test_a_batch_of_padding_rows_keeps_the_statistics():
    layer = batch_norm()
    _, moments = layer(1e3 * images(), jnp.zeros(6))
    before = parameters(layer)
    after = update_running_stats(before, before, BatchMoments(jnp.zeros(()), moments), MOMENTUM)
    assert all(np.array_equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize(("side", "kernel", "stride"), [(7, 3, 1), (8, 3, 2), (7, 5, 2), (2, 5, 1)])
def test_depthwise_by_shifts_equals_depthwise(side, kernel, stride):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, side, side, 3)), jnp.float32)
    w = jnp.asarray(rng.normal(size=(kernel, kernel, 1, 3)), jnp.float32)

    def value_and_gradients(convolve):
        def loss(x, w):
            return jnp.sin(convolve(x, w, stride)).sum()

        return convolve(x, w, stride), jax.grad(loss, argnums=(0, 1))(x, w)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4),
        value_and_gradients(depthwise_by_shifts),
        value_and_gradients(depthwise),
    )


def test_full_size_has_the_published_number_of_parameters():
    spec = mobilenet_v3_large_spec()
    model = nnx.eval_shape(lambda: MobileNetV3(spec, policy=ComputePolicy(), rngs=nnx.Rngs(0)))
    assert count_parameters(model) == 2_971_952
    assert spec.features == 960
    assert spec.blocks[-1].outputs == 160


def test_intermediates_are_the_outputs_of_the_stages():
    model = abstract_model(tiny_model.config(**tiny_model.MOBILENET), tiny_model.VOCABULARY)
    found = jax.eval_shape(
        lambda backbone: backbone.intermediates(jnp.zeros((2, 16, 16, 3))), model.encoder.backbone
    )
    assert found.keys() == {"stem", "head", *(f"blocks/{number}" for number in range(15))}
    assert found["stem"].shape == (2, 8, 8, 8)
    assert found["head"].shape == (2, 1, 1, 96)


def test_a_frozen_backbone_returns_no_new_statistics():
    model = abstract_model(tiny_model.config(**tiny_model.MOBILENET), tiny_model.VOCABULARY)
    batch = jax.tree.map(jnp.asarray, tiny_model.batch())

    def moments(rng, frozen):
        def run(model):
            video, lengths, clip_mask = (
                batch[name] for name in ("video", "frame_lengths", "weights")
            )
            return model.encode(video, lengths, rng, clip_mask, frozen).moments

        return jax.eval_shape(run, model)

    rng = jax.random.key(0)
    assert moments(None, False) is None
    assert moments(rng, True) is None
    assert moments(rng, False).layers.keys() == {"stem", "blocks", "head"}
