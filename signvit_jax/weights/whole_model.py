"""A complete translator as one safetensors file.

Its tensors are named as in the PyTorch reference if that has every part of this model, else by our
own paths.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import cast

import jax
import numpy as np
from flax import traverse_util
from jaxtyping import PyTree

from signvit_jax.weights import mapping, reference
from signvit_jax.weights.mapping import WeightsError
from signvit_jax.weights.tensor_files import write_safetensors


def export_safetensors(
    path: Path, params: PyTree, description: Mapping[str, str] | None = None
) -> str:
    """Write the parameters of a `TrainedModel`. Raises OSError.

    Returns the naming used, "reference" or "signvit_jax"; the file's metadata has it as `names`,
    beside `description`. If that has the keys `config` and `tokenizer`, and `gloss_tokenizer` for a
    model that has one, each in JSON, then `signvit convert` needs no other file.
    """
    parameters = cast(dict[str, jax.Array], traverse_util.flatten_dict(params, sep="/"))
    try:
        names = "reference"
        tensors = reference.from_ours(parameters)
    except WeightsError:
        names = "signvit_jax"
        tensors = {name: np.asarray(value) for name, value in parameters.items()}
    write_safetensors(path, tensors, {"names": names, **(description or {})})
    return names


def parameters_from(tensors: Mapping[str, np.ndarray], params: PyTree) -> PyTree:
    """Convert the tensors of `export_safetensors`, or the reference's state dict, to parameters.

    Returns a nested dict of float32 arrays with the structure and shapes of `params`. Raises
    WeightsError for tensors that do not fit.
    """
    leaves = cast(dict[str, jax.ShapeDtypeStruct], traverse_util.flatten_dict(params, sep="/"))
    shapes = {path: tuple(leaf.shape) for path, leaf in leaves.items()}
    table = mapping.OURS if shapes.keys() & tensors.keys() else reference.name_table(shapes)
    return traverse_util.unflatten_dict(mapping.to_ours(table, tensors, shapes), sep="/")


def vocabulary_sizes(tensors: Mapping[str, np.ndarray]) -> tuple[int, int]:
    """Return (number of the decoder's tokens, number of the CTC head's labels).

    Raises WeightsError if one of them is missing.
    """
    for embedding, labels in (
        ("decoder.embed.weight", "ctc_head.3.bias"),
        ("decoder/embedding", "ctc_head/out/bias"),
    ):
        if embedding in tensors and labels in tensors:
            return tensors[embedding].shape[0], tensors[labels].shape[0]
    raise WeightsError(
        "not a complete translator: it has neither decoder.embed.weight and ctc_head.3.bias "
        "(the reference's names) nor decoder/embedding and ctc_head/out/bias (ours)"
    )
