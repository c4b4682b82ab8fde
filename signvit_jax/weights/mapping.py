"""Tensors under other names and in PyTorch's layouts to our flat parameters and back: what every table of names in this folder shares.

PyTorch keeps a Linear as (out, in), a Conv1d as (out, in / groups, kernel), a Conv2d as (out, in / groups, height, width), and the projections of
attention as one (3 width, width) matrix in the order query, key, value.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, traverse_util

from signvit_jax.errors.base import SignVitError
from signvit_jax.models.translator import SAVED

_SHOWN = 20  # problems in a message


class WeightsError(SignVitError, ValueError):
    """Weights that cannot be read or do not fit the model; the message lists what is missing, left over or of another shape."""

    exit_code = 2


class Source(NamedTuple):
    """Where one of our parameters comes from."""

    name: str  # of their tensor; {0} stands for the layer of a stacked block
    kind: str = "plain"  # matrix, pointwise, depthwise, convolution, pixel (a 1x1 convolution that is a matrix here), patch, or plain
    thirds: tuple[int, int] | None = (
        None  # rows of a fused projection that one of our matrices holds
    )


@dataclasses.dataclass(frozen=True)
class Layout:
    """A table of names. `source` knows each of our paths, or gives None; paths that begin with `stacked` carry a leading axis over their layers."""

    title: str
    source: Callable[[str], Source | None]
    stacked: str = ""
    ignored: Callable[[str], bool] = lambda name: False  # their tensors that hold nothing for us

    def is_stacked(self, path: str) -> bool:
        return bool(self.stacked) and path.startswith(self.stacked)


OURS = Layout("this model", Source)


def flat_parameters(module: nnx.Module) -> dict[str, jax.Array]:
    """Parameters and BatchNorm's statistics by slash-joined path."""
    pure = nnx.to_pure_dict(nnx.state(module, SAVED))
    return {
        "/".join(map(str, path)): value for path, value in traverse_util.flatten_dict(pure).items()
    }


def fill(module: nnx.Module, values: Mapping[str, np.ndarray]) -> None:
    """Overwrites all that `flat_parameters` gives, in place."""
    state = nnx.state(module, SAVED)
    nnx.replace_by_pure_dict(
        state,
        traverse_util.unflatten_dict(
            {_keys(path): jnp.asarray(value) for path, value in values.items()}
        ),
    )
    nnx.update(module, state)


def to_ours(
    layout: Layout, tensors: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, np.ndarray]:
    """`tensors` as our flat float32 parameters; `shapes` names all that the model has. Raises WeightsError with all that does not fit."""
    converted, used, problems = {}, set(), []
    for path, shape in shapes.items():
        source = layout.source(path)
        if source is None:
            problems.append(f"{layout.title} has nothing for our {path}")
            continue
        names = (
            [source.name.format(layer) for layer in range(shape[0])]
            if layout.is_stacked(path)
            else [source.name]
        )
        used.update(names)
        if missing := [name for name in names if name not in tensors]:
            problems.append(f"missing: {', '.join(missing)}")
            continue
        wanted = tuple(shape[1:]) if layout.is_stacked(path) else tuple(shape)
        values = {
            name: _to_our_layout(np.asarray(tensors[name], np.float32), source) for name in names
        }
        wrong = {
            name: value.shape
            for name, value in values.items()
            if value is None or value.shape != wanted
        }
        if wrong:
            problems += [
                f"{name}: shape {np.shape(tensors[name])}; our {path} needs {wanted} in its own layout"
                for name in wrong
            ]
            continue
        converted[path] = (
            np.stack(list(values.values())) if layout.is_stacked(path) else values[names[0]]
        )
    problems += [
        f"left over: {name}" for name in tensors if name not in used and not layout.ignored(name)
    ]
    if problems:
        more = [f"... and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else []
        raise WeightsError(
            f"the weights do not fit the model ({len(problems)} problems):\n  "
            + "\n  ".join(problems[:_SHOWN] + more)
        )
    return converted


def from_ours(
    layout: Layout, parameters: Mapping[str, np.ndarray | jax.Array]
) -> dict[str, np.ndarray]:
    """The inverse of `to_ours`. Raises WeightsError for a parameter that the layout has no name for."""
    parts: dict[str, dict[tuple[int, int] | None, np.ndarray]] = {}
    for path, value in parameters.items():
        source = layout.source(path)
        if source is None:
            raise WeightsError(
                f"{layout.title} has nothing for our {path}: this model uses options that it lacks"
            )
        layers = (
            enumerate(np.asarray(value)) if layout.is_stacked(path) else [(0, np.asarray(value))]
        )
        for layer, array in layers:
            parts.setdefault(source.name.format(layer), {})[source.thirds] = _to_their_layout(
                array, source
            )
    return {
        name: np.ascontiguousarray(
            np.concatenate([piece[thirds] for thirds in sorted(piece)])
            if len(piece) > 1
            else next(iter(piece.values()))
        )
        for name, piece in parts.items()
    }


def _keys(path: str) -> tuple[str | int, ...]:
    return tuple(int(part) if part.isdigit() else part for part in path.split("/"))


def _to_our_layout(tensor: np.ndarray, source: Source) -> np.ndarray | None:
    """None for a tensor that has not the number of axes that its kind has."""
    axes = {
        "matrix": 2,
        "pointwise": 3,
        "depthwise": 3,
        "convolution": 4,
        "pixel": 4,
        "patch": 4,
    }.get(source.kind, tensor.ndim)
    if tensor.ndim != axes or (source.thirds and tensor.shape[0] % 3):
        return None
    if source.thirds:
        third = tensor.shape[0] // 3
        tensor = tensor[source.thirds[0] * third : source.thirds[1] * third]
    match source.kind:
        case "matrix":
            return tensor.T
        case "pointwise":
            return tensor[..., 0].T
        case "depthwise":
            return tensor[:, 0].T
        case "convolution":
            return tensor.transpose(2, 3, 1, 0)
        case "pixel":
            return tensor[..., 0, 0].T
        case "patch":
            return tensor.transpose(2, 3, 1, 0).reshape(-1, tensor.shape[0])
    return tensor


def _to_their_layout(array: np.ndarray, source: Source) -> np.ndarray:
    match source.kind:
        case "matrix":
            return array.T
        case "pointwise":
            return array.T[..., None]
        case "depthwise":
            return array.T[:, None]
        case "convolution":
            return array.transpose(3, 2, 0, 1)
        case "pixel":
            return array.T[..., None, None]
        case "patch":
            size = round((array.shape[0] // 3) ** 0.5)
            return array.reshape(size, size, 3, -1).transpose(3, 2, 0, 1)
    return array
