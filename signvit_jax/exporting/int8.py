"""INT8 parameters, a quarter of the bytes of float32.

Kernels of linear layers stay INT8 when they are loaded (`Int8Linear`). Kernels of convolutions and
the embedding are INT8 in the file and become float32. Norms, biases, positions and other small
tensors are float32 in the file too.
"""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
import qwix

from signvit_jax.exporting.exportable import Exportable
from signvit_jax.models.translator import abstract_model
from signvit_jax.serving.int8_linear import SCALE_SUFFIX, input_quantization, int8_kernel
from signvit_jax.serving.linear_layers import linear_paths
from signvit_jax.serving.param_paths import flat
from signvit_jax.serving.programs import EXPORT_POLICY

_SMALL = 16_384  # entries; INT8 would save too little in a smaller tensor for the lost precision
_EMBEDDINGS = ("decoder/embedding", "gloss_encoder/embedding")


def int8_tensors(
    model: Exportable, ranges: Mapping[str, np.ndarray] | None = None
) -> dict[str, np.ndarray]:
    """Return the model's tensors by path, for a file.

    With the `ranges` of `input_ranges` the inputs of those layers become INT8 too.
    """
    definition = model.define(EXPORT_POLICY)
    sizes = definition.vocab_size, definition.gloss_vocab_size
    linears = set(linear_paths(abstract_model(model.config, *sizes)))
    tensors: dict[str, np.ndarray] = {}
    for path, value in flat(model.params).items():
        layer, _, name = path.rpartition("/")
        if layer in linears and name == "kernel":
            tensors[path], tensors[f"{path}_scale"] = int8_kernel(value)
            if ranges is not None and layer in ranges:
                scale, zero = input_quantization(ranges[layer])
                tensors[f"{layer}/input_scale"] = scale
                tensors[f"{layer}/input_zero"] = zero
        elif value.size >= _SMALL and (path in _EMBEDDINGS or value.ndim == 4):
            channels = [0 if path in _EMBEDDINGS else 3]
            quantized = qwix.quantize(jnp.asarray(value), jnp.int8, channelwise_axes=channels)
            tensors[path] = np.asarray(quantized.qvalue)
            tensors[path + SCALE_SUFFIX] = np.asarray(quantized.scale)
        else:
            tensors[path] = value
    return tensors
