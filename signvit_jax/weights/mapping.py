"""Convert tensors with other names and layouts to our flat parameters, and back.

The tables of names in this folder share it. PyTorch's layouts: a Linear is (out, in), a Conv1d
(out, in / groups, kernel), a Conv2d (out, in / groups, height, width), and the projections of
attention are one (3 width, width) matrix in the order query, key, value.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, traverse_util

from signvit_jax.errors.base import SignVitError
from signvit_jax.models.translator import SAVED

_MAX_SHOWN = 20  # problems in a message


class WeightsError(SignVitError, ValueError):
    """Weights that cannot be read or do not fit the model.

    The message lists the tensors that are missing, left over or of another shape.
    """

    exit_code = 2


class Source(NamedTuple):
    """The tensor that one of our parameters comes from."""

    name: str  # of their tensor; {0} stands for the layer of a stacked block
    # matrix, pointwise, depthwise, convolution, conv1x1 (a 1x1 convolution that is a matrix in our
    # model), patch (a convolution that is a matrix over flattened patches), or plain.
    kind: str = "plain"
    # First and last (exclusive) third of a fused query-key-value projection that our matrix holds.
    qkv_slice: tuple[int, int] | None = None


@dataclasses.dataclass(frozen=True)
class Layout:
    """A table of names."""

    title: str
    source: Callable[[str], Source | None]  # of each of our paths; None: this layout lacks it
    stacked: str = ""  # prefix of our paths that have a leading axis over their layers
    ignored: Callable[[str], bool] = lambda name: False  # their tensors that we do not need

    def is_stacked(self, path: str) -> bool:
        return bool(self.stacked) and path.startswith(self.stacked)


OURS = Layout("this model", Source)


def flat_parameters(module: nnx.Module) -> dict[str, jax.Array]:
    """Parameters and BatchNorm statistics by slash-joined path."""
    pure = nnx.to_pure_dict(nnx.state(module, SAVED))
    leaves = cast(dict[tuple[str | int, ...], jax.Array], traverse_util.flatten_dict(pure))
    return {"/".join(map(str, path)): value for path, value in leaves.items()}


def fill(module: nnx.Module, values: Mapping[str, np.ndarray]) -> None:
    """Overwrite everything that `flat_parameters` returns, in place."""
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
    """Convert `tensors` to our flat float32 parameters; `shapes` has all parameters of the model.

    Raises WeightsError with every tensor that does not fit.
    """
    converted: dict[str, np.ndarray] = {}
    used: set[str] = set()
    problems: list[str] = []
    for path, shape in shapes.items():
        source = layout.source(path)
        if source is None:
            problems.append(f"{layout.title} has nothing for our {path}")
            continue
        is_stacked = layout.is_stacked(path)
        layers = range(shape[0]) if is_stacked else (0,)
        names = [source.name.format(layer) if is_stacked else source.name for layer in layers]
        used.update(names)
        if missing := [name for name in names if name not in tensors]:
            problems.append(f"missing: {', '.join(missing)}")
            continue
        expected = tuple(shape[1:]) if is_stacked else tuple(shape)
        values = []
        for name in names:
            value = _to_our_layout(np.asarray(tensors[name], np.float32), source)
            if value is None or value.shape != expected:
                problems.append(
                    f"{name}: shape {np.shape(tensors[name])}; "
                    f"our {path} needs {expected} in its own layout"
                )
            else:
                values.append(value)
        if len(values) == len(names):
            converted[path] = np.stack(values) if is_stacked else values[0]
    problems += [
        f"left over: {name}" for name in tensors if name not in used and not layout.ignored(name)
    ]
    if problems:
        hidden = len(problems) - _MAX_SHOWN
        shown = problems[:_MAX_SHOWN] + ([f"... and {hidden} more"] if hidden > 0 else [])
        raise WeightsError(
            f"the weights do not fit the model ({len(problems)} problems):\n  " + "\n  ".join(shown)
        )
    return converted


def from_ours(
    layout: Layout, parameters: Mapping[str, np.ndarray | jax.Array]
) -> dict[str, np.ndarray]:
    """The inverse of `to_ours`.

    Raises WeightsError for a parameter that the layout has no name for.
    """
    parts: dict[str, dict[tuple[int, int] | None, np.ndarray]] = {}
    for path, value in parameters.items():
        source = layout.source(path)
        if source is None:
            raise WeightsError(
                f"{layout.title} has nothing for our {path}: this model uses options that it lacks"
            )
        array = np.asarray(value)
        for layer, part in enumerate(array if layout.is_stacked(path) else [array]):
            by_slice = parts.setdefault(source.name.format(layer), {})
            by_slice[source.qkv_slice] = _to_their_layout(part, source)
    return {name: np.ascontiguousarray(_joined(by_slice)) for name, by_slice in parts.items()}


def _joined(by_slice: Mapping[tuple[int, int] | None, np.ndarray]) -> np.ndarray:
    if len(by_slice) == 1:
        return next(iter(by_slice.values()))
    return np.concatenate([by_slice[qkv_slice] for qkv_slice in sorted(filter(None, by_slice))])


def _keys(path: str) -> tuple[str | int, ...]:
    return tuple(int(part) if part.isdigit() else part for part in path.split("/"))


_AXES = {"matrix": 2, "pointwise": 3, "depthwise": 3, "convolution": 4, "conv1x1": 4, "patch": 4}


def _to_our_layout(tensor: np.ndarray, source: Source) -> np.ndarray | None:
    """Return the tensor in our layout; None if it has another number of axes than its kind."""
    if tensor.ndim != _AXES.get(source.kind, tensor.ndim):
        return None
    if source.qkv_slice:
        third, rest = divmod(tensor.shape[0], 3)
        if rest:
            return None
        first, last = source.qkv_slice
        tensor = tensor[first * third : last * third]
    match source.kind:
        case "matrix":
            return tensor.T
        case "pointwise":
            return tensor[..., 0].T
        case "depthwise":
            return tensor[:, 0].T
        case "convolution":
            return tensor.transpose(2, 3, 1, 0)
        case "conv1x1":
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
        case "conv1x1":
            return array.T[..., None, None]
        case "patch":
            size = round((array.shape[0] // 3) ** 0.5)
            return array.reshape(size, size, 3, -1).transpose(3, 2, 0, 1)
    return array
