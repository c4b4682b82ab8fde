"""Looks at every step's report: names the clips of updates that were not finite, ends a run of them, notes where the loss jumps."""

import logging
import math
from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import Int

from signvit_jax.errors.base import SignVitError
from signvit_jax.optimization.train_step import StepReport

_SHOWN_CLIPS = 8
_logger = logging.getLogger(__name__)


class TrainingDivergedError(SignVitError, RuntimeError):
    """Too many updates in a row were not finite; the last checkpoint is good."""

    exit_code = 1


class StepWatch:
    """Keeps the reports on the device until `read`, so that a step is given to the device while it
    works on the one before.

    `name_of` gives the name of a clip by its number in the training split. Where a run has several processes, each knows the clips of its own rows.
    """

    def __init__(self, max_nonfinite: int, name_of: Callable[[int], str]):
        self._max_nonfinite, self._name_of = max_nonfinite, name_of
        self._unread: list[tuple[int, Int[np.ndarray, " b"], StepReport]] = []
        self._skipped: list[
            tuple[int, Int[np.ndarray, " b"]]
        ] = []  # steps in a row whose update was not made
        self._spikes = SpikeFinder()

    def add(self, step: int, index: Int[np.ndarray, " b"], report: StepReport) -> None:
        """Waits for the step before: with this one's batch and the next no more than
        `BATCHES_ON_DEVICE` lie on the device, however far the loop could run ahead.
        """
        if self._unread:
            jax.block_until_ready(self._unread[-1][2])
        self._unread.append((step, index, report))

    def read(self) -> None:
        """Judges the steps since the last call. Raises TrainingDivergedError naming the clips of the last batches."""
        figures = jax.device_get(
            [
                (report.loss.total, report.finite, report.nonfinite_in_row)
                for _, _, report in self._unread
            ]
        )
        for (step, index, _), (loss, finite, in_row) in zip(self._unread, figures, strict=True):
            if finite:
                self._skipped.clear()
                if usual := self._spikes.jump(float(loss)):
                    _logger.warning(
                        "step %d: the loss jumped to %.4g from about %.4g; clips %s",
                        step,
                        loss,
                        usual,
                        self._names([index]),
                    )
                continue
            self._skipped.append((step, index))
            _logger.warning(
                "step %d: loss or gradient was not finite, the update was not made; clips %s",
                step,
                self._names([index]),
            )
            if in_row >= self._max_nonfinite:
                raise TrainingDivergedError(
                    f"{int(in_row)} updates in a row were not finite (loss or gradient was NaN or infinite) and were not made; the last checkpoint "
                    f"is good. The clips of these batches: {self._names([clips for _, clips in self._skipped], all_of_them=True)}. "
                    "Halve config.training.encoder_lr, and look at the data's normalization (config.data.mean, std)."
                )
        self._unread.clear()

    def _names(self, batches: list[Int[np.ndarray, " b"]], all_of_them: bool = False) -> str:
        names = list(
            dict.fromkeys(self._name_of(i) for index in batches for i in index.tolist() if i >= 0)
        )
        if all_of_them or len(names) <= _SHOWN_CLIPS:
            return ", ".join(names)
        return f"{', '.join(names[:_SHOWN_CLIPS])} and {len(names) - _SHOWN_CLIPS} more"


class SpikeFinder:
    """Finds a loss far above those before it: 8 times their usual deviation, and at least half as large again.

    Both are exponential averages over about 50 steps, the jump itself left out of neither: a new level is soon the usual one.
    """

    _MEMORY, _FIRST, _DEVIATIONS, _LEAST = 0.98, 20, 8.0, 1.5

    def __init__(self):
        self._count, self._mean, self._deviation = 0, 0.0, 0.0

    def jump(self, loss: float) -> float | None:
        """The usual loss if this one is a jump, else None; a loss that is not finite is none and is not kept."""
        if not math.isfinite(loss):
            return None
        usual = self._mean
        jumped = self._count >= self._FIRST and loss > max(
            usual + self._DEVIATIONS * self._deviation, self._LEAST * usual
        )
        self._count += 1
        memory = min(self._MEMORY, 1.0 - 1.0 / self._count)  # a plain mean at first
        self._deviation = memory * self._deviation + (1.0 - memory) * abs(loss - usual) * (
            self._count > 1
        )
        self._mean = memory * self._mean + (1.0 - memory) * loss
        return usual if jumped else None
