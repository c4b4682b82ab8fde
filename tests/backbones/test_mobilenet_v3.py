import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from signvit_jax.backbones.mobilenet_v3 import MobileNetV3, depthwise, depthwise_by_shifts, large
from signvit_jax.layers.batch_norm import (
    BatchMoments,
    BatchNorm,
    update_running_stats,
    zero_moments,
)
from signvit_jax.models.translator import abstract_model, count_parameters
from tests.helpers import tiny_model

WIDTH = 4
RATE = 0.01  # what a batch moves the statistics by


def norm(seed=0) -> BatchNorm:
    layer, rng = (
        BatchNorm(WIDTH, epsilon=1e-3, dtype=jnp.float32, rngs=nnx.Rngs(0)),
        np.random.default_rng(seed),
    )
    layer.mean[...], layer.var[...] = (
        jnp.asarray(rng.normal(size=WIDTH)),
        jnp.asarray(rng.uniform(0.5, 2.0, WIDTH)),
    )
    layer.scale[...], layer.bias[...] = (
        jnp.asarray(rng.normal(size=WIDTH)),
        jnp.asarray(rng.normal(size=WIDTH)),
    )
    return layer


def pictures(n=6, seed=1):
    return jnp.asarray(np.random.default_rng(seed).normal(3.0, 2.0, (n, 5, 5, WIDTH)), jnp.float32)


def numbers(layer: BatchNorm) -> dict:
    return nnx.to_pure_dict(nnx.state(layer))


def test_batch_norm_is_flaxs_in_training_and_in_evaluation():
    layer, x = norm(), pictures()
    theirs = nnx.BatchNorm(WIDTH, momentum=1.0 - RATE, epsilon=1e-3, rngs=nnx.Rngs(0))
    for name in ("mean", "var", "scale", "bias"):
        getattr(theirs, name)[...] = getattr(layer, name)[...]
    np.testing.assert_allclose(layer(x)[0], theirs(x, use_running_average=True), atol=1e-5)
    y, moments = layer(x, jnp.ones(len(x)))
    np.testing.assert_allclose(y, theirs(x, use_running_average=False), atol=1e-5)
    new = update_running_stats(
        numbers(layer), numbers(layer), BatchMoments(jnp.asarray(6.0), moments), RATE
    )
    np.testing.assert_allclose(new["mean"], theirs.mean[...], atol=1e-6)
    np.testing.assert_allclose(new["var"], theirs.var[...], atol=1e-5)


def test_pictures_that_do_not_count_change_neither_the_statistics_nor_the_others():
    layer, x, counted = norm(), pictures(), jnp.array([1.0, 1, 0, 1, 0, 1])
    broken = jnp.where(counted[:, None, None, None] > 0, x, 1e4)
    (y, moments), (alone, expected) = layer(broken, counted), layer(x[counted == 1], jnp.ones(4))
    np.testing.assert_allclose(y[counted == 1], alone, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), moments, expected)


def test_statistics_of_parts_add_up_to_those_of_the_whole():
    layer, x, counted = norm(), pictures(), jnp.array([1.0, 1, 0, 1, 1, 1])
    before = {"inner": {"norm": numbers(layer)}, "conv": {"kernel": jnp.ones(2)}}
    total = zero_moments(before)
    for part in (slice(0, 1), slice(1, 4), slice(4, 6)):
        total = jax.tree.map(
            jnp.add,
            total,
            BatchMoments(
                counted[part].sum(), {"inner": {"norm": layer(x[part], counted[part])[1]}}
            ),
        )
    new = update_running_stats(before, before, total, RATE)["inner"]["norm"]
    seen = np.asarray(x[counted == 1]).reshape(-1, WIDTH)
    np.testing.assert_allclose(
        new["mean"], 0.99 * layer.mean[...] + 0.01 * seen.mean(axis=0), atol=1e-5
    )
    np.testing.assert_allclose(
        new["var"], 0.99 * layer.var[...] + 0.01 * seen.var(axis=0), atol=1e-5
    )


def test_a_batch_of_nothing_but_filler_leaves_the_statistics_and_makes_no_number_too_large():
    layer, x = norm(), 1e3 * pictures()
    y, moments = layer(x, jnp.zeros(6))
    np.testing.assert_allclose(y, layer(x)[0], rtol=1e-5)
    before = numbers(layer)
    after = update_running_stats(before, before, BatchMoments(jnp.zeros(()), moments), RATE)
    assert all(np.array_equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize(("side", "kernel", "stride"), [(7, 3, 1), (8, 3, 2), (7, 5, 2), (2, 5, 1)])
def test_the_two_ways_of_a_depthwise_convolution_are_one(side, kernel, stride):
    rng = np.random.default_rng(0)
    x, w = (
        jnp.asarray(rng.normal(size=shape), jnp.float32)
        for shape in ((2, side, side, 3), (kernel, kernel, 1, 3))
    )

    def both(convolve):
        return convolve(x, w, stride), jax.grad(
            lambda x, w: jnp.sin(convolve(x, w, stride)).sum(), argnums=(0, 1)
        )(x, w)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4),
        both(depthwise_by_shifts),
        both(depthwise),
    )


def test_full_size_features_have_the_published_number_of_parameters():
    model = nnx.eval_shape(lambda: MobileNetV3(large(), rngs=nnx.Rngs(0)))
    assert count_parameters(model) == 2_971_952
    assert large().features == 960 and [block.outputs for block in large().blocks][-1] == 160


def test_a_frozen_backbone_runs_by_its_running_statistics_and_gives_no_new_ones():
    tiny = tiny_model.config(**tiny_model.MOBILENET)
    model = abstract_model(tiny, tiny_model.VOCABULARY)
    batch = jax.tree.map(jnp.asarray, tiny_model.batch())

    def moments(key, frozen):
        return jax.eval_shape(
            lambda model: (
                model.encode(
                    batch["video"], batch["frame_lengths"], key, batch["weights"], frozen
                ).moments
            ),
            model,
        )

    key = jax.random.key(0)
    assert moments(None, False) is None and moments(key, True) is None
    assert moments(key, False).layers.keys() == {"stem", "blocks", "head"}
