"""Linear layers whose matrices are INT8, put in the place of a model's own; the arithmetic is qwix's.

A matrix has one scale an output channel and no zero point. With an input range, found by calibration, the input becomes INT8 too, with one scale and
zero point a layer, and the product is one of integers.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import qwix
from flax import nnx
from jaxtyping import Array, Float, Int8

from signvit_jax.models.translator import SignTranslator
from signvit_jax.serving.linear_layers import replace_linears

LOWEST, HIGHEST = -128, 127  # levels of an input


class Int8Linear(nnx.Module):
    """`linear` with its matrix in INT8, and with `int8_input` its input as well. Made without numbers, which `ModifiedDefinition.bind` fills in."""

    def __init__(self, linear: nnx.Linear, *, int8_input: bool):
        *layers, inputs, outputs = linear.kernel.shape
        self.kernel = _empty((*layers, inputs, outputs), jnp.int8)
        self.kernel_scale = _empty((*layers, 1, outputs), jnp.float32)
        self.bias = linear.bias
        self.input_scale = _empty(layers, jnp.float32) if int8_input else None
        self.input_zero = _empty(layers, jnp.int8) if int8_input else None
        self.dtype, self.out_dtype = linear.dtype, linear.preferred_element_type or linear.dtype

    def __call__(self, x: Float[Array, "*shape i"]) -> Float[Array, "*shape o"]:
        rows = x.reshape(-1, x.shape[-1])
        kernel = qwix.QArray(self.kernel[...], self.kernel_scale[...])
        if self.input_scale is None:
            matrix = qwix.dequantize(kernel).astype(self.dtype)
            out = jnp.matmul(rows.astype(self.dtype), matrix, preferred_element_type=self.out_dtype)
        else:
            out = _product(self._in_levels(rows), kernel).astype(self.out_dtype)
        out = out.reshape(*x.shape[:-1], out.shape[-1])
        return out if self.bias is None else out + self.bias[...].astype(self.out_dtype)

    def _in_levels(self, rows: Float[Array, "r i"]) -> qwix.QArray:
        scale, zero = self.input_scale[...].reshape(1, 1), self.input_zero[...].reshape(1, 1)
        levels = jnp.round(rows.astype(jnp.float32) / scale) + zero
        return qwix.QArray(jnp.clip(levels, LOWEST, HIGHEST).astype(jnp.int8), scale, zero)


def _empty(shape: tuple[int, ...], dtype: object) -> nnx.Param:
    return nnx.Param(jax.ShapeDtypeStruct(tuple(shape), dtype))


def _product(rows: qwix.QArray, kernel: qwix.QArray) -> Float[Array, "r o"]:
    if (
        jax.default_backend() == "cpu"
    ):  # XLA has no fast product of integers there; in float32 the numbers are the same but for rounding
        return qwix.dequantize(rows) @ qwix.dequantize(kernel)
    return qwix.dot_general(rows, kernel, (((1,), (0,)), ((), ())))


def int8_layers(int8_inputs: bool) -> Callable[[SignTranslator], None]:
    """A change for `ModifiedDefinition`: every linear layer in INT8; with `int8_inputs` the encoder's inputs too, where nearly all of the time goes."""

    def change(model: SignTranslator) -> None:
        replace_linears(
            model,
            lambda path, linear: Int8Linear(
                linear, int8_input=int8_inputs and path.startswith("encoder/")
            ),
        )

    return change


def int8_matrix(
    kernel: Float[np.ndarray, "*layers i o"],
) -> tuple[Int8[np.ndarray, "*layers i o"], Float[np.ndarray, "*layers _ o"]]:
    """The matrix in levels from -128 to 127, and its scales: one an output channel, and layer of stacked ones."""
    channels = [axis for axis in range(kernel.ndim) if axis != kernel.ndim - 2]
    found = qwix.quantize(jnp.asarray(kernel, jnp.float32), jnp.int8, channelwise_axes=channels)
    return np.asarray(found.qvalue), np.asarray(found.scale)


def input_levels(
    ranges: Float[np.ndarray, "*layers 2"],
) -> tuple[Float[np.ndarray, "*layers"], Int8[np.ndarray, "*layers"]]:
    """Scale and zero point that spread inputs from the lowest to the highest, widened to hold 0, over the 256 levels."""
    low, high = np.minimum(ranges[..., 0], 0.0), np.maximum(ranges[..., 1], 0.0)
    scale = np.maximum(high - low, 1e-8) / (HIGHEST - LOWEST)
    zero = np.clip(np.round(LOWEST - low / scale), LOWEST, HIGHEST)
    return np.asarray(scale, np.float32), np.asarray(zero, np.int8)


_SCALE = ":scale"  # of a tensor that is INT8 in the file alone


def served_tensors(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The parameters by path of a model with INT8 layers, of what `int8_tensors` made."""
    found = {}
    for path, value in tensors.items():
        if not path.endswith(_SCALE):
            scale = tensors.get(path + _SCALE)
            found[path] = value if scale is None else value.astype(np.float32) * scale
    return found
