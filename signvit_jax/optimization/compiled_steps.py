"""Programs compiled before the first step, so that none is compiled, and none found to be too large
for the devices, in mid-run."""

from collections.abc import Callable
from typing import Any

import jax

Shapes = dict[str, jax.ShapeDtypeStruct]


class CompiledSteps:
    """A jitted function of (a state or parameters, a batch) with one program for each shape of batch.

    Shapes that `compile` was not told of are compiled when they come, as by `jax.jit`.
    """

    def __init__(self, step: Callable[..., Any]):
        self._step = step
        self._programs: dict[tuple, jax.stages.Compiled] = {}
        self.lower = step.lower

    def compile(self, state: Any, batch: Shapes) -> jax.stages.Compiled:
        """The program for these shapes, which carry their shardings; made by the first call."""
        key = _shapes_of(batch)
        if key not in self._programs:
            self._programs[key] = self._step.lower(state, batch).compile()
        return self._programs[key]

    def shapes(self, state: Any, batch: Shapes) -> Any:
        """What a call would return, as ShapeDtypeStructs."""
        return jax.eval_shape(self._step, state, batch)

    def __call__(self, state: Any, batch: dict[str, jax.Array]) -> Any:
        return self._programs.get(_shapes_of(batch), self._step)(state, batch)


def _shapes_of(batch: dict[str, Any]) -> tuple:
    return tuple(sorted((name, leaf.shape) for name, leaf in batch.items()))
