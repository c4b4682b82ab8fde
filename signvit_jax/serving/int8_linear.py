"""Linear layers with INT8 kernels, which replace a model's own; qwix does the arithmetic.

A kernel has one scale per output channel and no zero point. If calibration has found the range of a
layer's input, the input is quantized to INT8 too, with one scale and zero point per layer, and the
layer multiplies integers.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import qwix
from flax import nnx
from jaxtyping import Array, DTypeLike, Float, Int8

from signvit_jax.models.translator import SignTranslator
from signvit_jax.serving.linear_layers import replace_linears

_LOWEST, _HIGHEST = -128, 127  # levels of an input
SCALE_SUFFIX = ":scale"  # of the scale of a tensor that is INT8 only in the file


class Int8Linear(nnx.Module):
    """`linear` with its kernel in INT8, and with `int8_input` its input too.

    It is created without values; `ModifiedDefinition.bind` sets them.
    """

    def __init__(self, linear: nnx.Linear, *, int8_input: bool):
        *layers, inputs, outputs = linear.kernel.shape
        self.kernel = _abstract_param((*layers, inputs, outputs), jnp.int8)
        self.kernel_scale = _abstract_param((*layers, 1, outputs), jnp.float32)
        self.bias = linear.bias
        self.input_scale = _abstract_param(layers, jnp.float32) if int8_input else None
        self.input_zero = _abstract_param(layers, jnp.int8) if int8_input else None
        self.dtype = linear.dtype
        self.out_dtype = linear.preferred_element_type or linear.dtype

    def __call__(self, x: Float[Array, "*shape i"]) -> Float[Array, "*shape o"]:
        rows = x.reshape(-1, x.shape[-1])
        kernel = qwix.QArray(self.kernel[...], self.kernel_scale[...])
        if self.input_scale is None or self.input_zero is None:
            matrix = qwix.dequantize(kernel).astype(self.dtype)
            out = jnp.matmul(rows.astype(self.dtype), matrix, preferred_element_type=self.out_dtype)
        else:
            levels = _quantize_rows(rows, self.input_scale[...], self.input_zero[...])
            out = _matmul(levels, kernel).astype(self.out_dtype)
        out = out.reshape(*x.shape[:-1], out.shape[-1])
        return out if self.bias is None else out + self.bias[...].astype(self.out_dtype)


def _quantize_rows(
    rows: Float[Array, "r i"], scale: Float[Array, ""], zero: Int8[Array, ""]
) -> qwix.QArray:
    scale, zero = scale.reshape(1, 1), zero.reshape(1, 1)
    levels = jnp.round(rows.astype(jnp.float32) / scale) + zero
    return qwix.QArray(jnp.clip(levels, _LOWEST, _HIGHEST).astype(jnp.int8), scale, zero)


def _abstract_param(shape: tuple[int, ...] | list[int], dtype: DTypeLike) -> nnx.Param:
    return nnx.Param(jax.ShapeDtypeStruct(tuple(shape), dtype))


def _matmul(rows: qwix.QArray, kernel: qwix.QArray) -> Float[Array, "r o"]:
    # On CPUs XLA has no fast product of integers. In float32 the result is the same up to rounding.
    if jax.default_backend() == "cpu":
        return qwix.dequantize(rows) @ qwix.dequantize(kernel)
    return qwix.dot_general(rows, kernel, (((1,), (0,)), ((), ())))


def use_int8_layers(int8_inputs: bool) -> Callable[[SignTranslator], None]:
    """Return a transform for `ModifiedDefinition` that makes every linear layer an `Int8Linear`.

    With `int8_inputs` the encoder's layers, which take nearly all of the time, have INT8 inputs
    too.
    """

    def transform(model: SignTranslator) -> None:
        replace_linears(
            model,
            lambda path, linear: Int8Linear(
                linear, int8_input=int8_inputs and path.startswith("encoder/")
            ),
        )

    return transform


def int8_kernel(
    kernel: Float[np.ndarray, "*layers i o"],
) -> tuple[Int8[np.ndarray, "*layers i o"], Float[np.ndarray, "*layers _ o"]]:
    """Quantize a kernel to levels from -128 to 127; return them and their scales.

    There is one scale per output channel, and per layer of stacked layers.
    """
    channels = [axis for axis in range(kernel.ndim) if axis != kernel.ndim - 2]
    found = qwix.quantize(jnp.asarray(kernel, jnp.float32), jnp.int8, channelwise_axes=channels)
    return np.asarray(found.qvalue), np.asarray(found.scale)


def input_quantization(
    ranges: Float[np.ndarray, "*layers 2"],
) -> tuple[Float[np.ndarray, "*layers"], Int8[np.ndarray, "*layers"]]:
    """Return the scale and zero point that spread inputs over the 256 levels.

    `ranges` has the lowest and highest input; the range is widened to include 0.
    """
    low, high = np.minimum(ranges[..., 0], 0.0), np.maximum(ranges[..., 1], 0.0)
    scale = np.maximum(high - low, 1e-8) / (_HIGHEST - _LOWEST)
    zero = np.clip(np.round(_LOWEST - low / scale), _LOWEST, _HIGHEST)
    return np.asarray(scale, np.float32), np.asarray(zero, np.int8)


def float_tensors(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the float32 parameters, rounded to INT8, from the tensors of `int8_tensors`."""
    found = {}
    for path, value in served_tensors(tensors).items():
        layer, _, name = path.rpartition("/")
        if name in ("kernel_scale", "input_scale", "input_zero"):
            continue
        scale = tensors.get(f"{layer}/kernel_scale") if name == "kernel" else None
        found[path] = value if scale is None else value.astype(np.float32) * scale
    return found


def served_tensors(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the parameters of a model with INT8 layers from the tensors of `int8_tensors`.

    A tensor that is INT8 only in the file becomes float32.
    """
    found = {}
    for path, value in tensors.items():
        if not path.endswith(SCALE_SUFFIX):
            scale = tensors.get(path + SCALE_SUFFIX)
            found[path] = value if scale is None else value.astype(np.float32) * scale
    return found
