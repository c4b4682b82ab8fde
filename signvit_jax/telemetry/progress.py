"""Progress of a run on the terminal: a bar with metrics and the time left."""

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
    """A bar over the run's steps on a terminal; log lines every half minute if output is a file.

    On the first process only.
    """

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
        self._total = total_steps
        self._figures = ""
        self._first = first_step
        self._start = time.monotonic()
        self._last_line = self._start
        self._task = self._bar.add_task(
            "training", total=total_steps, completed=first_step, figures=self._figures
        )

    def __enter__(self) -> "TrainingProgress":
        self._bar.start()
        return self

    def begin(self) -> None:
        """Mark the start of the first step; the estimate of the time left excludes earlier work."""
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
        """Update the bar. `figures`: text with metrics; None keeps the present text."""
        if figures is not None:
            self._figures = figures
        self._bar.update(self._task, completed=step, description=description, figures=self._figures)
        now = time.monotonic()
        if self._plain and figures is not None and now - self._last_line >= PLAIN_LINE_SECONDS:
            left = (now - self._start) / max(step - self._first, 1) * (self._total - step)
            log.info(
                "step %d of %d, %s | %s | %s left",
                step,
                self._total,
                description,
                figures,
                f"about {left / 60:.0f} min" if left >= 90 else "less than 2 min",
            )
            self._last_line = now
