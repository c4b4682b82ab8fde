"""Convert tensors with other names and axis orders to our flat parameters, and back.

Used by the tables of names in this folder. PyTorch's axis orders: a Linear is (out, in), a Conv1d
(out, in / groups, kernel), a Conv2d (out, in / groups, height, width), and the projections of
attention are one (3 * width, width) matrix in the order query, key, value.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, traverse_util

from signvit_jax.errors.base import SignVitError
from signvit_jax.models.translator import SAVED

_MAX_SHOWN = 20  # problems in a message
_PATCH_CHANNELS = 3  # of the other systems' patches: RGB; ours may have motion channels too


class WeightsError(SignVitError, ValueError):
    """Weights that cannot be read or do not fit the model.

    The message lists up to 20 tensors that are missing, left over or of another shape, and counts
    the rest.
    """


class Source(NamedTuple):
    """The tensor that one of our parameters comes from."""

    name: str  # in the other system; {0} stands for the layer of a stacked block
    # One of: matrix, pointwise, depthwise, convolution, conv1x1 (a 1x1 convolution that is a matrix
    # in our model), patch (a convolution that is a matrix over flattened patches), plain.
    kind: str = "plain"
    # Thirds [first, end) of a fused projection that our matrix holds: 0 query, 1 key, 2 value.
    qkv_slice: tuple[int, int] | None = None


@dataclasses.dataclass(frozen=True)
class NameTable:
    """The names of another system for our parameters."""

    title: str  # of the other system, the subject of error messages
    source: Callable[[str], Source | None]  # of each of our paths; None: the other system lacks it
    stacked: str = ""  # prefix of our paths that have a leading axis over their layers
    is_ignored: Callable[[str], bool] = lambda name: False  # True for tensors that we do not need

    def is_stacked(self, path: str) -> bool:
        return bool(self.stacked) and path.startswith(self.stacked)


OURS = NameTable("this model", source=Source)  # every path is its own name


def flat_parameters(module: nnx.Module) -> dict[str, jax.Array]:
    """Parameters and BatchNorm statistics by slash-joined path."""
    pure = nnx.to_pure_dict(nnx.state(module, SAVED))
    leaves = cast(dict[tuple[str | int, ...], jax.Array], traverse_util.flatten_dict(pure))
    return {"/".join(map(str, path)): value for path, value in leaves.items()}


def fill(module: nnx.Module, values: Mapping[str, np.ndarray]) -> None:
    """Overwrite everything that `flat_parameters` returns, in place.

    A parameter whose path `values` lacks keeps its value. Raises ValueError for a path that the
    module lacks.
    """
    state = nnx.state(module, SAVED)
    nnx.replace_by_pure_dict(
        state,
        traverse_util.unflatten_dict(
            {_keys(path): jnp.asarray(value) for path, value in values.items()}
        ),
    )
    nnx.update(module, state)


def to_ours(
    table: NameTable, tensors: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, np.ndarray]:
    """Convert `tensors` to our flat float32 parameters.

    `shapes` has the shape of every parameter of the model, by path. Raises WeightsError for tensors
    that do not fit; the message lists up to 20 problems and counts the rest.
    """
    converted: dict[str, np.ndarray] = {}
    used: set[str] = set()
    problems: list[str] = []
    for path, shape in shapes.items():
        source = table.source(path)
        if source is None:
            problems.append(_lacks(table, path))
            continue
        is_stacked = table.is_stacked(path)
        layers = range(shape[0]) if is_stacked else (0,)
        names = [source.name.format(layer) if is_stacked else source.name for layer in layers]
        used.update(names)
        if missing := [name for name in names if name not in tensors]:
            problems.append(f"missing: {', '.join(missing)}")
            continue
        expected = tuple(shape[1:]) if is_stacked else tuple(shape)
        values = []
        for name in names:
            value = _to_our_axes(np.asarray(tensors[name], np.float32), source)
            if value is None or value.shape != expected:
                problems.append(
                    f"{name}: shape {np.shape(tensors[name])}; "
                    f"converted for our {path}, it must have shape {expected}"
                )
            else:
                values.append(value)
        if len(values) == len(names):
            converted[path] = np.stack(values) if is_stacked else values[0]
    problems += [
        f"left over: {name}" for name in tensors if name not in used and not table.is_ignored(name)
    ]
    if problems:
        hidden = len(problems) - _MAX_SHOWN
        shown = problems[:_MAX_SHOWN] + ([f"... and {hidden} more"] if hidden > 0 else [])
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise WeightsError(f"the weights do not fit the model ({count}):\n  " + "\n  ".join(shown))
    return converted


def from_ours(
    table: NameTable, parameters: Mapping[str, np.ndarray | jax.Array]
) -> dict[str, np.ndarray]:
    """The inverse of `to_ours`.

    Raises WeightsError for a parameter that the other system lacks.
    """
    # Our parts of each tensor, by their `qkv_slice`; the key is None for a complete tensor.
    parts: dict[str, dict[tuple[int, int] | None, np.ndarray]] = {}
    for path, value in parameters.items():
        source = table.source(path)
        if source is None:
            raise WeightsError(_lacks(table, path))
        array = np.asarray(value)
        for layer, part in enumerate(array if table.is_stacked(path) else [array]):
            converted = _to_their_axes(part, source)
            if converted is None:
                raise WeightsError(_lacks(table, path))
            # `format` leaves names without {0} as they are: those of parameters without layers.
            parts.setdefault(source.name.format(layer), {})[source.qkv_slice] = converted
    return {name: np.ascontiguousarray(_joined(by_slice)) for name, by_slice in parts.items()}


def _lacks(table: NameTable, path: str) -> str:
    return (
        f"{table.title} has no tensor for our parameter {path}; "
        f"the model uses an option that {table.title} does not support"
    )


def _joined(by_slice: Mapping[tuple[int, int] | None, np.ndarray]) -> np.ndarray:
    if len(by_slice) == 1:  # a complete tensor
        return next(iter(by_slice.values()))
    return np.concatenate([by_slice[qkv_slice] for qkv_slice in sorted(filter(None, by_slice))])


def _keys(path: str) -> tuple[str | int, ...]:
    return tuple(int(part) if part.isdigit() else part for part in path.split("/"))


# Number of axes of their tensors; a plain tensor may have any number.
_AXES = {"matrix": 2, "pointwise": 3, "depthwise": 3, "convolution": 4, "conv1x1": 4, "patch": 4}


def _to_our_axes(tensor: np.ndarray, source: Source) -> np.ndarray | None:
    """Return the tensor with its axes in our order, or None if it is not of its kind.

    It is not of its kind if it has a wrong number of axes, if a fused projection does not divide
    into three, if an axis that our parameter lacks has more than one element, or if patches are not
    square or not RGB.
    """
    if tensor.ndim != _AXES.get(source.kind, tensor.ndim):
        return None
    if source.qkv_slice:
        third, rest = divmod(tensor.shape[0], 3)
        if rest:
            return None
        first, end = source.qkv_slice
        tensor = tensor[first * third : end * third]
    match source.kind:
        case "matrix":
            return tensor.T
        case "pointwise":
            return tensor[..., 0].T if tensor.shape[2] == 1 else None
        case "depthwise":
            return tensor[:, 0].T if tensor.shape[1] == 1 else None
        case "convolution":
            return tensor.transpose(2, 3, 1, 0)
        case "conv1x1":
            return tensor[..., 0, 0].T if tensor.shape[2:] == (1, 1) else None
        case "patch":
            width, channels, height, breadth = tensor.shape
            if channels != _PATCH_CHANNELS or height != breadth:
                return None
            return tensor.transpose(2, 3, 1, 0).reshape(-1, width)
    return tensor


def _to_their_axes(array: np.ndarray, source: Source) -> np.ndarray | None:
    """The inverse of `_to_our_axes`; None for patches that are not square or not of RGB alone."""
    match source.kind:
        case "matrix":
            return array.T
        case "pointwise":
            return array.T[..., None]
        case "depthwise":
            return array.T[:, None]
        case "convolution":
            return array.transpose(3, 2, 0, 1)
        case "conv1x1":
            return array.T[..., None, None]
        case "patch":
            size = math.isqrt(array.shape[0] // _PATCH_CHANNELS)
            if array.shape[0] != size * size * _PATCH_CHANNELS:
                return None
            return array.reshape(size, size, _PATCH_CHANNELS, -1).transpose(3, 2, 0, 1)
    return array
