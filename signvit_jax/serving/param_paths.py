"""Model parameters as flat dicts by slash-joined path, and as nested dicts."""

from collections.abc import Mapping
from pathlib import Path
from typing import cast

import jax
import numpy as np
from flax import traverse_util
from jaxtyping import PyTree

from signvit_jax.serving.export_dir import ExportError

_MAX_SHOWN = 5  # paths in a message


def flat(params: PyTree) -> dict[str, np.ndarray]:
    """Return nested parameters by slash-joined path."""
    return {
        path: np.asarray(jax.device_get(value))
        for path, value in traverse_util.flatten_dict(params, sep="/").items()
    }


def nested(tensors: Mapping[str, np.ndarray], abstract: PyTree, path: Path) -> PyTree:
    """Return the tensors of the file `path` as nested parameters like `abstract`.

    Raises ExportError if tensors are missing, left over, or of another shape or dtype; the message
    lists up to 5 of them and counts the rest.
    """
    leaves = cast(dict[str, jax.ShapeDtypeStruct], traverse_util.flatten_dict(abstract, sep="/"))
    expected = {name: (tuple(leaf.shape), np.dtype(leaf.dtype)) for name, leaf in leaves.items()}
    found = {name: (value.shape, value.dtype) for name, value in tensors.items()}
    wrong = sorted(
        name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)
    )
    if wrong:
        more = f" and {len(wrong) - _MAX_SHOWN} more" if len(wrong) > _MAX_SHOWN else ""
        raise ExportError(
            f"{path} does not fit its config.json: {', '.join(wrong[:_MAX_SHOWN])}{more} "
            "missing, left over or of another shape"
        )
    return traverse_util.unflatten_dict(dict(tensors), sep="/")
