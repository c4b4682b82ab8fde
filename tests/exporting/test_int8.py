"""Tests of INT8 layers: their results equal those of the same computation in float64 and int64."""

from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import qwix
from flax import nnx

from signvit_jax.exporting.int8 import int8_tensors
from signvit_jax.exporting.int8_input_ranges import input_ranges
from signvit_jax.models.definition import ModelDefinition
from signvit_jax.serving.int8_linear import (
    Int8Linear,
    _quantize_rows,
    input_quantization,
    int8_kernel,
    served_tensors,
    use_int8_layers,
)
from signvit_jax.serving.modified_definition import ModifiedDefinition
from signvit_jax.serving.param_paths import nested
from signvit_jax.serving.programs import EXPORT_POLICY
from tests.helpers import tiny_model


def int8_of(linear: nnx.Linear, input_range=None) -> Int8Linear:
    """Return the layer with an INT8 kernel.

    With `input_range`, the (lowest, highest) input, the inputs are INT8 too.
    """
    layer = Int8Linear(linear, int8_input=input_range is not None)
    values, scales = int8_kernel(np.asarray(linear.kernel[...]))
    layer.kernel = nnx.Param(jnp.asarray(values))
    layer.kernel_scale = nnx.Param(jnp.asarray(scales))
    if input_range is not None:
        scale, zero = input_quantization(np.asarray(input_range, np.float32))
        layer.input_scale = nnx.Param(jnp.asarray(scale))
        layer.input_zero = nnx.Param(jnp.asarray(zero))
    return layer


def float64(param: nnx.Param) -> np.ndarray:
    return np.asarray(param[...], np.float64)


@pytest.fixture
def linear():
    layer = nnx.Linear(24, 10, rngs=nnx.Rngs(0))
    layer.bias[...] = jnp.linspace(-1, 1, 10)
    return layer


def test_the_error_of_an_int8_kernel_is_at_most_half_a_level(linear):
    kernel = np.asarray(linear.kernel[...], np.float64)
    kernel[:, 3] *= 100  # large values in one channel must not make the other channels less precise
    values, scales = int8_kernel(np.asarray(kernel, np.float32))
    assert values.dtype == np.int8
    assert scales.shape == (1, 10)  # one per output channel
    assert np.abs(values.astype(int)).max() in (127, 128)  # the whole range of INT8 is used
    error = np.abs(values * scales.astype(np.float64) - kernel)
    assert np.all(error <= 0.5 * scales * (1 + 1e-4))  # 1e-4: rounding of the float32 scales


def test_a_layer_with_float_inputs_multiplies_by_the_rounded_kernel(linear):
    layer = int8_of(linear)
    x = jax.random.normal(jax.random.key(1), (2, 5, 24))
    rounded_kernel = float64(layer.kernel) * float64(layer.kernel_scale)
    expected = np.asarray(x, np.float64) @ rounded_kernel + float64(linear.bias)
    np.testing.assert_allclose(layer(x), expected, atol=1e-5)


INPUT_RANGES = [(-2.0, 3.0), (0.5, 4.0), (-1.0, -0.25), (0.0, 0.0)]


@pytest.mark.parametrize(("low", "high"), INPUT_RANGES)
def test_a_layer_with_int8_inputs_sums_products_of_integers(linear, low, high):
    layer = int8_of(linear, (low, high))
    x = np.random.default_rng(0).uniform(low, high, (7, 24)).astype(np.float32)
    scale = float(layer.input_scale[...])
    zero = int(layer.input_zero[...])
    levels = np.clip(np.round(x / scale) + zero, -128, 127).astype(np.int64)
    integers = (levels - zero) @ np.asarray(layer.kernel[...], np.int64)
    expected = integers * scale * float64(layer.kernel_scale) + float64(linear.bias)
    np.testing.assert_allclose(layer(jnp.asarray(x)), expected, atol=2e-5)
    # No value in the range is clipped: the error is at most half a level, besides float32 rounding.
    assert np.abs((levels - zero) * scale - x).max() <= 0.5 * scale * (1 + 1e-5)


@pytest.mark.parametrize(("low", "high"), INPUT_RANGES)
def test_an_input_of_zero_stays_exactly_zero(low, high):
    """Zeros are padding, which must add nothing to a sum."""
    scale, zero_point = input_quantization(np.array([low, high], np.float32))
    zeros = _quantize_rows(jnp.zeros((1, 24)), jnp.asarray(scale), jnp.asarray(zero_point))
    assert zeros.qvalue.dtype == jnp.int8
    np.testing.assert_array_equal(zeros.qvalue, np.full((1, 24), zero_point))
    np.testing.assert_array_equal(qwix.dequantize(zeros), np.zeros((1, 24)))


def test_inputs_beyond_the_range_are_clipped(linear):
    layer = int8_of(linear, (-1.0, 1.0))
    far, near = jnp.full((1, 24), 1e6), jnp.full((1, 24), 1.1)  # both above the range
    np.testing.assert_array_equal(layer(far), layer(near))


def test_an_int8_export_reads_glosses(monkeypatch):
    """Its kernels and the embedding of its glosses are INT8 in the file."""
    monkeypatch.setattr("signvit_jax.exporting.int8._SMALL", 100)
    config = tiny_model.config(**tiny_model.READS_GLOSSES)
    sizes = tiny_model.vocabulary_sizes(config)

    def define(policy):
        return ModelDefinition(config, *sizes, policy)

    params = define(EXPORT_POLICY).init(0)
    model = SimpleNamespace(config=config, params=params, define=define)
    file = int8_tensors(model)
    assert file["gloss_encoder/embedding"].dtype == np.int8
    assert file["gloss_encoder/block/attention/out/kernel"].dtype == np.int8
    served = ModifiedDefinition(config, *sizes, use_int8_layers(False), EXPORT_POLICY)
    weights = nested(served_tensors(file), served.abstract_params(), Path("weights"))
    glosses, lengths = jnp.array([[3, 5], [7, 0]]), jnp.array([2, 1])
    expected, found = (
        bound.gloss_encoder(glosses, lengths)[0]
        for bound in (define(EXPORT_POLICY).bind(params), served.bind(weights))
    )
    assert 0 < np.abs(found - expected).max() < 0.05 * np.abs(expected).max()


@pytest.mark.long
def test_input_ranges_have_the_shapes_that_an_export_loads():
    """Ranges are stacked like the layers that they belong to, in stacks of different depths.

    The crops of the hands have an encoder of their own with one layer; the backbone has more.
    """
    config = tiny_model.config(
        model__encoder__crops="hands",
        model__encoder__crop_size=16,
        model__encoder__crop_width=8,
        model__encoder__view_size=16,
        data__image_size=32,
    )

    def define(policy):
        return ModelDefinition(config, tiny_model.VOCABULARY, 0, policy)

    params = define(EXPORT_POLICY).init(0)
    model = SimpleNamespace(config=config, params=params, define=define)
    video = np.random.default_rng(0).integers(0, 256, (2, 6, 32, 32, 3), np.uint8)
    batch = {"video": video, "frame_lengths": np.array([6, 5], np.int32)}
    tensors = served_tensors(int8_tensors(model, input_ranges(model, [batch])))
    served = ModifiedDefinition(
        config, tiny_model.VOCABULARY, 0, use_int8_layers(int8_inputs=True), EXPORT_POLICY
    )
    loaded = served.bind(nested(tensors, served.abstract_params(), Path("weights")))
    clips = (jnp.asarray(video), jnp.asarray(batch["frame_lengths"]))
    expected = define(EXPORT_POLICY).bind(params).encode(*clips).pooled
    found = loaded.encode(*clips).pooled
    assert np.abs(found - expected).max() < 0.1 * np.abs(expected).max()
