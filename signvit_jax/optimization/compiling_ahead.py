"""Compilation of the steps for all batch shapes before the first step of a run.

Then no step waits for compilation in the middle of the run, and a step that needs more memory than
a device has fails at the start.
"""

from collections.abc import Mapping
from typing import Protocol

import jax
from jaxtyping import PyTree

Shapes = dict[str, jax.ShapeDtypeStruct]


class JittedStep[State, Result](Protocol):
    """A function of `jax.jit` from (state, batch) to a result.

    The state of a training step is the train state, that of an evaluation step the parameters.
    """

    def __call__(self, state: State, batch: Mapping[str, jax.Array], /) -> Result: ...

    def lower(
        self, state: State, batch: Mapping[str, jax.Array | jax.ShapeDtypeStruct], /
    ) -> jax.stages.Lowered: ...


class CompiledSteps[State, Result]:
    """A `JittedStep` with one compiled program per batch shape.

    A batch with shapes that were not given to `compile` goes to `jax.jit`, which compiles then.
    """

    def __init__(self, step: JittedStep[State, Result]):
        self._step = step
        self._programs: dict[tuple, jax.stages.Compiled] = {}
        self.lower = step.lower

    def compile(self, state: State, batch: Shapes) -> jax.stages.Compiled:
        """Return the program for these shapes; compile it at the first call.

        `batch`: shapes with shardings.
        """
        key = _shapes_of(batch)
        if key not in self._programs:
            self._programs[key] = self._step.lower(state, batch).compile()
        return self._programs[key]

    def shapes(self, state: State, batch: Shapes) -> PyTree:
        """Return the shapes and types of the result of a call, without computing it."""
        return jax.eval_shape(self._step, state, batch)

    def __call__(self, state: State, batch: Mapping[str, jax.Array]) -> Result:
        run = self._programs.get(_shapes_of(batch), self._step)
        return run(state, batch)


def _shapes_of(batch: Mapping[str, jax.Array | jax.ShapeDtypeStruct]) -> tuple:
    return tuple(sorted((name, leaf.shape) for name, leaf in batch.items()))
