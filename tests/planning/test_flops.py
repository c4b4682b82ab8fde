"""Operation counts of the model against formulas and XLA's own analysis."""

import dataclasses
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from signvit_jax.config.files import load_config
from signvit_jax.models.definition import ModelDefinition
from signvit_jax.optimization.optimizer import backbone_of, with_backbone
from signvit_jax.planning.flops import clip_flops, peak_flops, traced_flops
from tests.helpers import tiny_model

REFERENCE = Path(__file__).parents[2] / "configs" / "reference.py"


def test_the_full_model_takes_123_gflop_per_frame():
    config = load_config(str(REFERENCE))
    flops = clip_flops(ModelDefinition(config, 30_522), frames=2, text_length=100)
    tokens, width, hidden, layers = 197, 1024, 4096, 24
    block = 2 * tokens * (4 * width**2 + 2 * width * hidden) + 4 * tokens**2 * width
    assert flops.backbone / 2 == layers * block + 2 * 196 * 768 * width
    # The published number is 61.6 billion multiply-adds.
    assert flops.backbone / 2 == pytest.approx(123.2e9, rel=1e-3)
    length, narrow = 99, 512
    layer = (
        2 * length * (6 * narrow**2 + 2 * narrow * 1024)
        + 2 * 32 * 2 * narrow**2
        + 4 * length * narrow * (length + 32)
    )
    assert flops.decoder == 4 * layer + 2 * length * narrow * 30_522
    assert flops.ctc_head == 2 * 32 * (narrow**2 + narrow * 30_522)
    assert flops.forward == flops.backbone + flops.temporal + flops.decoder + flops.ctc_head
    # There is no gradient of the images, nor of the features of a frozen backbone.
    assert flops.training == 3 * flops.forward - 2 * 2 * 196 * 768 * width
    temporal_input = 2 * 2 * width * narrow
    assert flops.training_frozen == 3 * flops.forward - 2 * flops.backbone - temporal_input


def without_dropout(**options):
    """Return a config without dropout and loops, for which XLA counts every matrix product."""
    return tiny_model.config(
        model__encoder__output_dim=256,
        model__encoder__vit_hidden_dim=256,
        model__encoder__vit_num_heads=2,
        model__encoder__vit_mlp_dim=1024,
        model__encoder__dropout=0.0,
        model__encoder__attention_dropout=0.0,
        model__temporal__dropout=0.0,
        model__decoder__dropout=0.0,
        training__scan_layers=False,  # XLA counts the body of a loop only once
        **options,
    )


@pytest.mark.parametrize("stem", ["patch", "conv"])
def test_forward_flops_match_xlas_count_without_elementwise_operations(stem):
    config = without_dropout(model__encoder__stem=stem)
    definition = ModelDefinition(config, 17)

    def encode(params, video, lengths):
        return definition.bind(params).encode(video, lengths).pooled

    video = jax.ShapeDtypeStruct((1, 6, 16, 16, 3), jnp.uint8)
    lengths = jax.ShapeDtypeStruct((1,), jnp.int32)
    lowered = jax.jit(encode).lower(definition.abstract_params(), video, lengths)
    flops_of_xla = lowered.cost_analysis()["flops"]
    flops = clip_flops(definition, 6, 12)
    counted = flops.backbone + flops.temporal
    assert counted < flops_of_xla < 1.1 * counted


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"model__encoder__zoom": "motion", "model__encoder__motion": "magnitude"},
        {"model__encoder__stem": "conv"},
        {"model__encoder__frames_per_chunk": 2, "training__remat": "full"},
        pytest.param(
            {
                "model__encoder__crops": "hands",
                "model__encoder__crop_size": 16,
                "model__encoder__crop_width": 64,
                "model__encoder__view_size": 16,
                "data__image_size": 32,
            },
            marks=pytest.mark.long,
        ),
    ],
    ids=["patch", "zoom", "conv", "recomputed", "crops"],
)
def test_training_flops_match_xlas_count_of_the_gradient(options):
    config = without_dropout(**options)
    definition = ModelDefinition(config, 17)
    flops = clip_flops(definition, 6, 12)
    plain = dataclasses.replace(
        definition.policy, attention="xla", remat="none", frames_per_chunk=0
    )
    definition = ModelDefinition(config, 17, policy=plain)

    def total(params, video, lengths, tokens, backbone=None):
        model = definition.bind(params if backbone is None else with_backbone(params, backbone))
        encoded = model.encode(video, lengths, jax.random.key(0))
        total = model.logits(encoded, tokens).sum() + model.ctc_logits(encoded)[0].sum()
        localization = encoded.localization
        return total if localization is None else total + sum(x.sum() for x in localization.parts)

    def frozen(params, backbone, *inputs):
        return total(params, *inputs, backbone=backbone)

    params = definition.abstract_params()
    size = config.data.image_size
    inputs = (
        jax.ShapeDtypeStruct((1, 6, size, size, 3), jnp.uint8),
        jax.ShapeDtypeStruct((1,), jnp.int32),
        jax.ShapeDtypeStruct((1, 11), jnp.int32),
    )
    flops_of_xla = jax.jit(jax.grad(total)).lower(params, *inputs).cost_analysis()["flops"]
    assert flops.training < flops_of_xla < 1.1 * flops.training
    gradient = jax.jit(jax.grad(frozen)).lower(params, backbone_of(params), *inputs)
    flops_of_xla = gradient.cost_analysis()["flops"]
    assert flops.training_frozen < flops_of_xla < 1.15 * flops.training_frozen


def test_loops_count_every_iteration_and_branches_once():
    x = jax.ShapeDtypeStruct((4, 8, 8), jnp.float32)
    once = 2 * 4 * 8 * 8 * 8

    def loop(x):
        return jax.lax.scan(lambda carry, _: (carry @ carry, None), x, length=5)[0]

    def branch(x):
        return jax.lax.cond(x[0, 0, 0] > 0, lambda x: x @ x @ x, lambda x: x @ x, x)

    assert traced_flops(lambda x: x @ x, x) == once
    assert traced_flops(loop, x) == 5 * once
    assert traced_flops(branch, x) == 2 * once  # the longer branch
    assert traced_flops(jax.jit(jax.checkpoint(lambda x: x @ x)), x) == once


def test_a_convolution_counts_its_kernel_for_every_output():
    image = jax.ShapeDtypeStruct((1, 3, 9, 9), jnp.float32)
    kernel = jax.ShapeDtypeStruct((5, 3, 2, 2), jnp.float32)
    flops = traced_flops(lambda a, b: jax.lax.conv(a, b, (1, 1), "VALID"), image, kernel)
    assert flops == 2 * math.prod((5, 8, 8)) * math.prod((3, 2, 2))


@pytest.mark.parametrize("strides", [(1, 1), (2, 3)])
@pytest.mark.parametrize("padding", ["SAME", "VALID", ((2, 0), (1, 4))])
def test_products_with_padding_are_not_counted(strides, padding):
    image = jax.ShapeDtypeStruct((2, 7, 9, 3), jnp.float32)
    kernel = jax.ShapeDtypeStruct((3, 2, 3, 5), jnp.float32)

    def convolve(a, b):
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(a, b, strides, padding, dimension_numbers=numbers)

    def total(a, b):
        return convolve(a, b).sum()

    flops = traced_flops(convolve, image, kernel)
    assert flops == jax.jit(convolve).lower(image, kernel).cost_analysis()["flops"]
    assert traced_flops(jax.grad(total, argnums=(0, 1)), image, kernel) == 3 * flops


def test_the_gradient_of_a_convolution_with_strides_counts_no_zeros_between_inputs():
    image = jax.ShapeDtypeStruct((1, 3, 8, 8), jnp.float32)
    kernel = jax.ShapeDtypeStruct((5, 3, 2, 2), jnp.float32)

    def total(a, b):
        return jax.lax.conv(a, b, (2, 2), "VALID").sum()

    forward = traced_flops(total, image, kernel)
    assert traced_flops(jax.grad(total, argnums=(0, 1)), image, kernel) == 3 * forward


@pytest.mark.parametrize(
    ("kind", "peak"),
    [
        ("NVIDIA A100-SXM4-40GB", 312e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A10G", 70e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L4", 121e12),
        ("TPU v5 lite", 197e12),
        ("TPU v5p", 459e12),
        ("cpu", None),
        ("Something else", None),
    ],
)
def test_the_peak_is_that_of_the_device_or_none(kind, peak):
    assert peak_flops(kind) == peak
