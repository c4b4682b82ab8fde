"""A whole translator as one safetensors file, and from one: under the reference's names where it has all the parts, else under our own paths."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from flax import traverse_util
from jaxtyping import PyTree

from signvit_jax.weights import mapping, reference
from signvit_jax.weights.mapping import WeightsError
from signvit_jax.weights.tensor_files import write_safetensors


def export_safetensors(
    path: Path, params: PyTree, description: Mapping[str, str] | None = None
) -> str:
    """Writes the parameters of a `TrainedModel` (nested dicts), and says whose names they have: "reference" or "signvit_jax".

    `description` goes into the file's metadata; with the texts of `config`, `tokenizer` and, where there is one, `gloss_tokenizer` the file is all
    that `python -m signvit_jax.convert` needs. Raises OSError.
    """
    parameters = traverse_util.flatten_dict(params, sep="/")
    try:
        names, tensors = "reference", reference.from_ours(parameters)
    except WeightsError:
        names, tensors = (
            "signvit_jax",
            {name: np.asarray(value) for name, value in parameters.items()},
        )
    write_safetensors(path, tensors, {"names": names, **(description or {})})
    return names


def parameters_from(tensors: Mapping[str, np.ndarray], params: PyTree) -> PyTree:
    """What `export_safetensors` wrote, or the reference's state dict, as parameters in the shapes of `params`, exactly as they were in float32.

    Raises WeightsError with all that is missing, left over or of another shape.
    """
    shapes = {
        path: tuple(leaf.shape)
        for path, leaf in traverse_util.flatten_dict(params, sep="/").items()
    }
    layout = mapping.OURS if shapes.keys() & tensors.keys() else reference.layout(shapes)
    return traverse_util.unflatten_dict(mapping.to_ours(layout, tensors, shapes), sep="/")


def vocabulary_sizes(tensors: Mapping[str, np.ndarray]) -> tuple[int, int]:
    """(words of the decoder, labels of the CTC head) of a whole translator's tensors. Raises WeightsError if they are not one."""
    for embedding, labels in (
        ("decoder.embed.weight", "ctc_head.3.bias"),
        ("decoder/embedding", "ctc_head/out/bias"),
    ):
        if embedding in tensors and labels in tensors:
            return tensors[embedding].shape[0], tensors[labels].shape[0]
    raise WeightsError(
        "not a whole translator: no decoder.embed.weight and ctc_head.3.bias (the reference's), nor decoder/embedding (ours)"
    )
