"""A profile of a few training steps: what ran on the device and when, for TensorBoard's profiler (xprof) or Perfetto."""

import argparse
import contextlib
import dataclasses
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from signvit_jax.telemetry.observers import Observer

log = logging.getLogger(__name__)

_WARM_UP = 3  # steps of a start before the first that is traced: compilation, and caches that fill


@dataclasses.dataclass(frozen=True)
class TracedSteps:
    """Which steps to trace: `first` to `last` of the run, or `count` of this start once it is warm."""

    first: int | None = None
    last: int | None = None
    count: int = 0

    @classmethod
    def parse(cls, text: str) -> "TracedSteps":
        """From text such as "10:14" or "5". Raises argparse.ArgumentTypeError."""
        found = re.fullmatch(r"(\d+)(?::(\d+))?", text, re.ASCII)
        numbers = [int(number) for number in found.groups() if number] if found else []
        if len(numbers) == 1 and numbers[0] >= 1:
            return cls(count=numbers[0])
        if len(numbers) == 2 and 1 <= numbers[0] <= numbers[1]:
            return cls(*numbers)
        raise argparse.ArgumentTypeError(
            f"{text!r}; allowed: how many steps, such as 5, or the first and last of the run, such as 100:104"
        )

    def within(self, steps_done: int) -> tuple[int, int]:
        """(first, last) for a start that goes on after `steps_done` steps."""
        if self.count:
            return steps_done + _WARM_UP + 1, steps_done + _WARM_UP + self.count
        return self.first, self.last


class StepTrace:
    """Writes the trace of the wanted steps into `folder`, one file for each process; without wanted steps it does nothing."""

    def __init__(self, wanted: TracedSteps | None, steps_done: int, folder: Path):
        self._first, self._last = wanted.within(steps_done) if wanted else (-1, -1)
        self._folder, self._running, self._observer = folder, False, Observer(folder)

    def __enter__(self) -> "StepTrace":
        return self

    def __exit__(self, *_: object) -> None:
        if self._running:
            self._stop()

    @contextlib.contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Around the work of one step, the waiting for its batch included."""
        if number == self._first:
            self._running = self._observer.attempt(lambda: jax.profiler.start_trace(self._folder))
        with jax.profiler.StepTraceAnnotation("train", step_num=number):
            yield

    def done(self, number: int, result: Any) -> None:
        """After a step; waits for the last one's result, so that all of it is in the trace."""
        if self._running and number >= self._last:
            jax.block_until_ready(result)
            self._stop()

    def _stop(self) -> None:
        self._running = False
        if self._observer.attempt(jax.profiler.stop_trace):
            log.info(
                "the trace of the steps from %d on is in %s; to look at it: tensorboard --logdir=%s",
                self._first,
                self._folder,
                self._folder,
            )
