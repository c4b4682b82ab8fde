"""Programs compiled ahead of the first step.

No step has to wait for compilation in the middle of a run, nor finds only there that a program
needs more memory than a device has.
"""

from collections.abc import Callable
from typing import Any

import jax

Shapes = dict[str, jax.ShapeDtypeStruct]


class CompiledSteps:
    """A jitted function of (state or parameters, batch) with one program per shape of batch.

    Shapes that were not given to `compile` are compiled when they occur, as by `jax.jit`.
    """

    def __init__(self, step: Callable[..., Any]):
        self._step = step
        self._programs: dict[tuple, jax.stages.Compiled] = {}
        self.lower = step.lower

    def compile(self, state: Any, batch: Shapes) -> jax.stages.Compiled:
        """Return the program for these shapes, which carry their shardings; compile it once."""
        key = _shapes_of(batch)
        if key not in self._programs:
            self._programs[key] = self._step.lower(state, batch).compile()
        return self._programs[key]

    def shapes(self, state: Any, batch: Shapes) -> Any:
        """Return the result of a call as ShapeDtypeStructs."""
        return jax.eval_shape(self._step, state, batch)

    def __call__(self, state: Any, batch: dict[str, jax.Array]) -> Any:
        return self._programs.get(_shapes_of(batch), self._step)(state, batch)


def _shapes_of(batch: dict[str, Any]) -> tuple:
    return tuple(sorted((name, leaf.shape) for name, leaf in batch.items()))
