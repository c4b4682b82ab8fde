"""How many floating-point operations the model is, and how many a device could have made: what MFU is the quotient of.

Matrix products and convolutions are counted in the traced program itself, so that every option of the model counts as what it computes. Elementwise
operations are left out, as is what rematerialisation computes a second time: MFU (Chowdhery et al. 2022) is about the work that was asked for.
"""

import dataclasses
import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from signvit_jax.models.definition import ModelDefinition
from signvit_jax.models.translator import SignTranslator

# Dense bfloat16 operations a second, from the vendors' data sheets. The first name that a device's kind contains counts.
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
    """Dense bf16 operations a second of one device, by JAX's name of it; None for a CPU and for a device that the table does not know."""
    return next((peak for name, peak in _PEAKS.items() if name in device_kind), None)


@dataclasses.dataclass(frozen=True)
class ClipFlops:
    """Operations of one clip's forward pass in training."""

    backbone: float
    temporal: float  # with the pooling
    decoder: float
    ctc_head: float

    @property
    def forward(self) -> float:
        return self.backbone + self.temporal + self.decoder + self.ctc_head

    def training(self, *, frozen_backbone: bool = False) -> float:
        """Forward and backward; the backward pass has two products for each of the forward's, and none through a frozen backbone."""
        return 3.0 * self.forward - (2.0 * self.backbone if frozen_backbone else 0.0)


def clip_flops(definition: ModelDefinition, frames: int, text_length: int) -> ClipFlops:
    """Counts for a clip of `frames` frames and a text padded to `text_length` tokens, BOS and EOS included. Traces, and computes nothing."""
    # A fused attention kernel cannot be looked into; the same attention in plain products can.
    policy = dataclasses.replace(definition.policy, attention="xla")
    config = definition.config
    definition = ModelDefinition(config, definition.vocab_size, definition.gloss_vocab_size, policy)
    params, key = definition.abstract_params(), jax.eval_shape(lambda: jax.random.key(0))
    size = config.data.image_size
    video, lengths = (
        jax.ShapeDtypeStruct((1, frames, size, size, 3), jnp.uint8),
        jax.ShapeDtypeStruct((1,), jnp.int32),
    )
    tokens = jax.ShapeDtypeStruct((1, text_length - 1), jnp.int32)

    def encode(params: Any, video: Any, lengths: Any, key: Any) -> Any:
        return definition.bind(params).encode(video, lengths, key)

    def pool(params: Any, features: Any, lengths: Any, key: Any) -> Any:
        return definition.bind(params).encoder.pool(features, lengths, key)

    def call(method: Any, params: Any, *inputs: Any) -> Any:
        return method(definition.bind(params), *inputs)

    encoded = jax.eval_shape(encode, params, video, lengths, key)
    features = jax.ShapeDtypeStruct(
        (1, frames, config.model.encoder.output_dim), encoded.frames.dtype
    )
    temporal = traced_flops(pool, params, features, lengths, key)
    return ClipFlops(
        backbone=traced_flops(encode, params, video, lengths, key) - temporal,
        temporal=temporal,
        decoder=traced_flops(partial(call, SignTranslator.logits), params, encoded, tokens, key),
        ctc_head=traced_flops(partial(call, SignTranslator.ctc_logits), params, encoded, key),
    )


def traced_flops(function: Any, *inputs: Any) -> float:
    """Operations of the matrix products and convolutions of a function of arrays (or their shapes); a multiply-add counts as two."""
    return _count(jax.make_jaxpr(function)(*inputs).jaxpr)


def _count(jaxpr: Any) -> float:
    return sum(_count_equation(equation) for equation in jaxpr.eqns)


def _count_equation(equation: Any) -> float:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        left = equation.invars[0].aval.shape
        return (
            2.0
            * math.prod(equation.outvars[0].aval.shape)
            * math.prod(left[axis] for axis in contracted)
        )
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        outputs = kernel[params["dimension_numbers"].rhs_spec[0]]
        return 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) / outputs
    inner = [_count(sub) for value in params.values() for sub in _jaxprs(value)]
    if name == "cond":
        return max(inner)
    return sum(inner) * (params["length"] if name == "scan" else 1)


def _jaxprs(value: Any) -> list[Any]:
    if isinstance(value, tuple | list):
        return [jaxpr for item in value for jaxpr in _jaxprs(item)]
    jaxpr = getattr(value, "jaxpr", value)
    return [jaxpr] if hasattr(jaxpr, "eqns") else []
