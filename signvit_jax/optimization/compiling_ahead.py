"""Programs compiled ahead of the first step.

No step has to wait for compilation in the middle of a run, and a program that needs more memory
than a device has is found before the first step.
"""

from collections.abc import Mapping
from typing import Protocol

import jax
from jaxtyping import PyTree

Shapes = dict[str, jax.ShapeDtypeStruct]


class JittedStep[State, Result](Protocol):
    """A jitted function of (state or parameters, batch)."""

    def __call__(self, state: State, batch: Mapping[str, jax.Array], /) -> Result: ...

    def lower(
        self, state: State, batch: Mapping[str, jax.Array | jax.ShapeDtypeStruct], /
    ) -> jax.stages.Lowered: ...


class CompiledSteps[State, Result]:
    """A `JittedStep` with one program per shape of batch.

    Shapes that were not given to `compile` are compiled when they occur, as by `jax.jit`.
    """

    def __init__(self, step: JittedStep[State, Result]):
        self._step = step
        self._programs: dict[tuple, jax.stages.Compiled] = {}
        self.lower = step.lower

    def compile(self, state: State, batch: Shapes) -> jax.stages.Compiled:
        """Return the program for these shapes, which carry their shardings; compile it once."""
        key = _shapes_of(batch)
        if key not in self._programs:
            self._programs[key] = self._step.lower(state, batch).compile()
        return self._programs[key]

    def shapes(self, state: State, batch: Shapes) -> PyTree:
        """Return the result of a call as ShapeDtypeStructs."""
        return jax.eval_shape(self._step, state, batch)

    def __call__(self, state: State, batch: Mapping[str, jax.Array]) -> Result:
        return self._programs.get(_shapes_of(batch), self._step)(state, batch)


def _shapes_of(batch: Mapping[str, jax.Array | jax.ShapeDtypeStruct]) -> tuple:
    return tuple(sorted((name, leaf.shape) for name, leaf in batch.items()))
