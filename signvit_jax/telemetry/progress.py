"""What a person sees of a run while it goes on: a bar with speed, time left and time lost waiting for data."""

import contextlib
import logging
import time
from types import TracebackType

import jax
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from signvit_jax.runtime.terminal import FittingProgress

log = logging.getLogger(__name__)

PLAIN_LINE_SECONDS = 30.0


class TrainingProgress:
    """A bar over the run's steps on a terminal; a line in the log every half minute where the output is a file. On the first process only."""

    def __init__(self, total_steps: int, first_step: int, console: Console):
        self._bar = FittingProgress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal or jax.process_index() != 0,
        )
        self._plain = not console.is_terminal and jax.process_index() == 0
        self._total, self._first = total_steps, first_step
        self._start = self._last_line = time.monotonic()
        self._task = self._bar.add_task(
            "training", total=total_steps, completed=first_step, figures=""
        )

    def __enter__(self) -> "TrainingProgress":
        self._bar.start()
        return self

    def begin(self) -> None:
        """The first step comes now: the time left is reckoned without what came before."""
        self._start = time.monotonic()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with contextlib.suppress(OSError):  # the terminal may be gone
            self._bar.stop()

    def show(self, step: int, description: str, figures: str | None = None) -> None:
        """`figures` stays as it was when None."""
        self._bar.update(
            self._task,
            completed=step,
            description=description,
            **({} if figures is None else {"figures": figures}),
        )
        now = time.monotonic()
        if self._plain and figures is not None and now - self._last_line >= PLAIN_LINE_SECONDS:
            left = (now - self._start) / max(step - self._first, 1) * (self._total - step)
            log.info(
                "step %d of %d, %s | %s | about %.0f min left",
                step,
                self._total,
                description,
                figures,
                left / 60,
            )
            self._last_line = now
