"""Profile a few training steps for TensorBoard's profiler (xprof) or Perfetto."""

import argparse
import contextlib
import dataclasses
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import jax
from jaxtyping import PyTree

from signvit_jax.telemetry.observers import Observer

log = logging.getLogger(__name__)

_WARM_UP = 3  # steps before the first traced one: compilation, and filling of caches


@dataclasses.dataclass(frozen=True)
class TracedSteps:
    """The steps to trace: `first` to `last` of the run, or `count` steps after the warm-up."""

    first: int = 0
    last: int = 0
    count: int = 0

    @classmethod
    def parse(cls, text: str) -> "TracedSteps":
        """Parse text such as "10:14" or "5". Raises argparse.ArgumentTypeError."""
        match = re.fullmatch(r"(\d+)(?::(\d+))?", text, re.ASCII)
        numbers = [int(number) for number in match.groups() if number] if match else []
        if len(numbers) == 1 and numbers[0] >= 1:
            return cls(count=numbers[0])
        if len(numbers) == 2 and 1 <= numbers[0] <= numbers[1]:
            return cls(*numbers)
        raise argparse.ArgumentTypeError(
            f"{text!r}; allowed: a number of steps, such as 5, or the first and the last step of "
            "the run, such as 100:104"
        )

    def within(self, steps_done: int) -> tuple[int, int]:
        """Return (first, last) for a start that resumes after `steps_done` steps."""
        if self.count:
            return steps_done + _WARM_UP + 1, steps_done + _WARM_UP + self.count
        return self.first, self.last


class StepTrace:
    """A trace of `traced` steps in `folder`, one file for each process.

    Does nothing if `traced` is None.
    """

    def __init__(self, traced: TracedSteps | None, steps_done: int, folder: Path):
        self._first, self._last = traced.within(steps_done) if traced else (-1, -1)
        self._folder = folder
        self._running = False
        self._observer = Observer(folder)

    def __enter__(self) -> "StepTrace":
        return self

    def __exit__(self, *_: object) -> None:
        if self._running:
            self._stop()

    @contextlib.contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Wrap the work of one step, including the wait for its batch."""
        if number == self._first:
            self._running = self._observer.attempt(lambda: jax.profiler.start_trace(self._folder))
        with jax.profiler.StepTraceAnnotation("train", step_num=number):
            yield

    def done(self, number: int, result: PyTree) -> None:
        """Stop after the last traced step; waits for its result, so that the trace is complete."""
        if self._running and number >= self._last:
            jax.block_until_ready(result)
            self._stop()

    def _stop(self) -> None:
        self._running = False
        if self._observer.attempt(jax.profiler.stop_trace):
            log.info(
                "the trace of the steps from %d on is in %s; to view it: tensorboard --logdir=%s",
                self._first,
                self._folder,
                self._folder,
            )
