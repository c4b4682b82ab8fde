"""Parameters in INT8, with what their layers need to be computed in: a quarter of the bytes of float32.

Matrices of linear layers stay INT8 when they are read again (`Int8Linear`); kernels of convolutions and the embedding become float32. Norms, biases,
positions and other small tensors are float32 throughout.
"""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
import qwix

from signvit_jax.inference.trained_model import TrainedModel
from signvit_jax.models.translator import abstract_model
from signvit_jax.serving.int8_linear import _SCALE, input_levels, int8_matrix
from signvit_jax.serving.linear_layers import linear_paths
from signvit_jax.serving.param_paths import flat

_SMALL = 16_384  # numbers; a tensor of fewer is not worth a loss
_EMBEDDING = "decoder/embedding"


def int8_tensors(
    model: TrainedModel, ranges: Mapping[str, np.ndarray] | None = None
) -> dict[str, np.ndarray]:
    """The model's tensors by path; with `ranges` of `input_ranges` the inputs of those layers are INT8 too."""
    gloss_words = model.gloss_tokenizer.vocab_size if model.gloss_tokenizer else 0
    linears = set(
        linear_paths(abstract_model(model.config, model.tokenizer.vocab_size, gloss_words))
    )
    tensors: dict[str, np.ndarray] = {}
    for path, value in flat(model.params).items():
        layer, _, name = path.rpartition("/")
        if layer in linears and name == "kernel":
            tensors[path], tensors[f"{path}_scale"] = int8_matrix(value)
            if ranges is not None and layer in ranges:
                tensors[f"{layer}/input_scale"], tensors[f"{layer}/input_zero"] = input_levels(
                    ranges[layer]
                )
        elif value.size >= _SMALL and (path == _EMBEDDING or value.ndim == 4):
            found = qwix.quantize(
                jnp.asarray(value), jnp.int8, channelwise_axes=[0 if path == _EMBEDDING else 3]
            )
            tensors[path], tensors[path + _SCALE] = (
                np.asarray(found.qvalue),
                np.asarray(found.scale),
            )
        else:
            tensors[path] = value
    return tensors
