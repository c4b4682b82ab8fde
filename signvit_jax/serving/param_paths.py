"""The parameters of a model by slash-joined path, and nested again."""

from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
from flax import traverse_util
from jaxtyping import PyTree

from signvit_jax.serving.export_dir import ExportError

_MOST_SHOWN = 5


def flat(params: PyTree) -> dict[str, np.ndarray]:
    """Nested parameters by slash-joined path."""
    return {
        path: np.asarray(jax.device_get(value))
        for path, value in traverse_util.flatten_dict(params, sep="/").items()
    }


def nested(tensors: Mapping[str, np.ndarray], abstract: PyTree, path: Path) -> PyTree:
    """Tensors as parameters of these shapes and dtypes. Raises ExportError, naming those of the file that are missing, left over or different."""
    expected = {
        name: (tuple(leaf.shape), np.dtype(leaf.dtype))
        for name, leaf in traverse_util.flatten_dict(abstract, sep="/").items()
    }
    found = {name: (value.shape, value.dtype) for name, value in tensors.items()}
    if wrong := sorted(
        name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)
    ):
        more = f" and {len(wrong) - _MOST_SHOWN} more" if len(wrong) > _MOST_SHOWN else ""
        raise ExportError(
            f"{path} does not fit its config.json: {', '.join(wrong[:_MOST_SHOWN])}{more} missing, left over or of another shape"
        )
    return traverse_util.unflatten_dict(dict(tensors), sep="/")
