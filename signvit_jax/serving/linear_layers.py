"""Find and replace the linear layers of a model."""

from collections.abc import Callable

from flax import nnx


def linear_paths(model: nnx.Module) -> list[str]:
    """Slash-joined paths of all linear layers, sorted."""
    return sorted(path for path, _, _ in _linears(model))


def replace_linears(model: nnx.Module, make: Callable[[str, nnx.Linear], nnx.Module]) -> None:
    """Replace every linear layer of the model by `make(path, linear)`, in place."""
    for path, parent, name in _linears(model):
        setattr(parent, name, make(path, getattr(parent, name)))


def _linears(model: nnx.Module) -> list[tuple[str, nnx.Module, str]]:
    """(path, parent, attribute) of each linear layer."""
    modules = [
        (path, module) for path, module in nnx.iter_graph(model) if isinstance(module, nnx.Module)
    ]
    return [
        ("/".join(map(str, (*path, name))), module, name)
        for path, module in modules
        for name, child in vars(module).items()
        if type(child) is nnx.Linear
    ]
