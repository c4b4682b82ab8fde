"""Model FLOPs and peak device FLOP/s, for MFU.

Matrix products and convolutions are counted in the traced program itself, so every option of the
model is included. Elementwise operations are not counted. Neither are operations that
rematerialization repeats: MFU (Chowdhery et al. 2022) measures the work of the model, not that of
its implementation.
"""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Jaxpr
from jaxtyping import PyTree

from signvit_jax.models.definition import ModelDefinition
from signvit_jax.models.translator import SignTranslator
from signvit_jax.optimization.losses import Batch, forward
from signvit_jax.optimization.optimizer import backbone_of, with_backbone

# Dense bfloat16 operations per second, from the vendors' data sheets. The first name that is part
# of a device's kind counts.
_PEAKS = {
    "B200": 2250e12,
    "GH200": 989e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "A100": 312e12,
    "A40": 149.7e12,
    "A30": 165e12,
    "A10G": 70e12,
    "A10": 125e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "RTX A6000": 154.8e12,
    "RTX 4090": 165.2e12,
    "RTX 3090": 71e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
}


def peak_flops(device_kind: str) -> float | None:
    """Return one device's dense bf16 operations per second, by JAX's name of its kind.

    None for a CPU and for a device that is not in the table.
    """
    return next((peak for name, peak in _PEAKS.items() if name in device_kind), None)


@dataclasses.dataclass(frozen=True)
class ClipFlops:
    """Operations of one clip.

    `backbone`, `temporal` (with the pooling), `decoder` (with its passes over glosses, if it has a
    gloss memory), `ctc_head`: of the forward pass in training. `training`: of the forward and the
    backward pass; `training_frozen`: the same while the backbone is frozen.

    The backward pass has two products for each product of the forward pass: one for the gradient of
    each input. An input that depends on no parameter, such as the images, needs no gradient.
    """

    backbone: float
    temporal: float
    decoder: float
    ctc_head: float
    training: float
    training_frozen: float

    @property
    def forward(self) -> float:
        return self.backbone + self.temporal + self.decoder + self.ctc_head


def clip_flops(definition: ModelDefinition, frames: int, text_length: int) -> ClipFlops:
    """Count the operations of a clip by tracing the model; nothing is computed.

    `frames`: the clip's length. `text_length`: tokens of the padded text, with BOS and EOS; a gloss
    memory is taken for as long.
    """
    # The operations of a fused attention kernel cannot be traced; those of plain attention can.
    # What is computed a second time to save memory does not count.
    policy = dataclasses.replace(
        definition.policy, attention="xla", remat="none", frames_per_chunk=0
    )
    config = definition.config
    definition = ModelDefinition(config, definition.vocab_size, definition.gloss_vocab_size, policy)
    params = definition.abstract_params()
    key = jax.eval_shape(lambda: jax.random.key(0))
    size = config.data.image_size
    video = jax.ShapeDtypeStruct((1, frames, size, size, 3), jnp.uint8)
    lengths = jax.ShapeDtypeStruct((1,), jnp.int32)
    tokens = jax.ShapeDtypeStruct((1, text_length - 1), jnp.int32)
    batch = {
        "video": video,
        "frame_lengths": lengths,
        "tokens": jax.ShapeDtypeStruct((1, text_length), jnp.int32),
        "weights": jax.ShapeDtypeStruct((1,), jnp.float32),
    }
    reads_glosses = config.model.decoder.gloss_memory
    if reads_glosses:
        sentences = (config.training.gloss_sentences, text_length)
        batch |= {
            "sentence_tokens": jax.ShapeDtypeStruct((1, *sentences), jnp.int32),
            "sentence_glosses": jax.ShapeDtypeStruct((1, *sentences), jnp.int32),
            "sentence_gloss_lengths": jax.ShapeDtypeStruct((1, sentences[0]), jnp.int32),
        }

    def encode(params: PyTree, video: jax.Array, lengths: jax.Array, key: jax.Array) -> PyTree:
        return definition.bind(params).encode(video, lengths, key)

    def pool(params: PyTree, features: jax.Array, lengths: jax.Array, key: jax.Array) -> PyTree:
        return definition.bind(params).encoder.pool(features, lengths, key)

    def call(method: Callable[..., PyTree], params: PyTree, *inputs: PyTree) -> PyTree:
        return method(definition.bind(params), *inputs)

    def training(frozen_backbone: bool) -> float:
        def sum_of_outputs(params: PyTree, batch: Batch, key: jax.Array) -> jax.Array:
            """A stand-in for the loss: it depends on every output of the model."""
            if frozen_backbone:
                params = with_backbone(params, jax.lax.stop_gradient(backbone_of(params)))
            model = definition.bind(params)
            outputs = forward(model, batch, key, frozen_backbone=frozen_backbone)
            total = outputs.logits.sum() + outputs.ctc_logits.sum()
            if outputs.gloss_logits is not None:
                total += outputs.gloss_logits.sum()
            localization = outputs.encoded.localization
            if localization is not None:
                total = total + sum(x.sum() for x in localization.parts)
            return total

        return traced_flops(jax.grad(sum_of_outputs), params, batch, key)

    encoded = jax.eval_shape(encode, params, video, lengths, key)
    features = jax.ShapeDtypeStruct(
        (1, frames, config.model.encoder.output_dim), encoded.frames.dtype
    )
    temporal = traced_flops(pool, params, features, lengths, key)
    decoder = traced_flops(partial(call, SignTranslator.logits), params, encoded, tokens, key)
    if reads_glosses:
        inputs = (batch["tokens"], lengths, tokens, key)
        one = traced_flops(partial(call, SignTranslator.gloss_logits), params, *inputs)
        decoder += config.training.gloss_sentences * one
    return ClipFlops(
        backbone=traced_flops(encode, params, video, lengths, key) - temporal,
        temporal=temporal,
        decoder=decoder,
        ctc_head=traced_flops(partial(call, SignTranslator.ctc_logits), params, encoded, key),
        training=training(frozen_backbone=False),
        training_frozen=training(frozen_backbone=True),
    )


def traced_flops(function: Callable[..., PyTree], *inputs: PyTree) -> float:
    """Count the matrix products and convolutions of a function of arrays or their shapes.

    A multiply-add counts as two operations.
    """
    return _count(jax.make_jaxpr(function)(*inputs).jaxpr)


def _count(jaxpr: Jaxpr) -> float:
    return sum(_count_equation(equation) for equation in jaxpr.eqns)


def _count_equation(equation: Any) -> float:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        left = equation.invars[0].aval.shape
        terms = math.prod(left[axis] for axis in contracted)
        return 2.0 * math.prod(equation.outvars[0].aval.shape) * terms
    if name == "conv_general_dilated":
        return _count_convolution(equation)
    inner = [_count(sub) for value in params.values() for sub in _jaxprs(value)]
    if name == "cond":
        return max(inner)
    return sum(inner) * (params["length"] if name == "scan" else 1)


def _count_convolution(equation: Any) -> float:
    """Count a convolution's products of kernel values with image values.

    Products with zeros are not counted, since a compiler need not compute them: padding, and the
    zeros between the inputs of the gradient of a strided convolution.
    """
    params, output = equation.params, equation.outvars[0].aval.shape
    numbers = params["dimension_numbers"]
    image, kernel = (variable.aval.shape for variable in equation.invars)
    products = float(kernel[numbers.rhs_spec[1]])
    products *= output[numbers.out_spec[0]] * output[numbers.out_spec[1]]
    for dimension in range(len(params["window_strides"])):
        first_input = np.arange(output[numbers.out_spec[2 + dimension]])
        first_input = first_input * params["window_strides"][dimension]
        first_input -= params["padding"][dimension][0]
        tap = np.arange(kernel[numbers.rhs_spec[2 + dimension]]) * params["rhs_dilation"][dimension]
        spacing = params["lhs_dilation"][dimension]
        place = first_input[:, None] + tap
        length = (image[numbers.lhs_spec[2 + dimension]] - 1) * spacing + 1
        products *= np.sum((place >= 0) & (place < length) & (place % spacing == 0))
    return 2.0 * float(products)


def _jaxprs(value: object) -> list[Jaxpr]:
    """Return the inner programs among an equation's parameters."""
    if isinstance(value, tuple | list):
        return [jaxpr for item in value for jaxpr in _jaxprs(item)]
    jaxpr = getattr(value, "jaxpr", value)
    return [jaxpr] if isinstance(jaxpr, Jaxpr) else []
