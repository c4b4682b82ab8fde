"""Watch the reports of all steps for skipped updates and for jumps of the loss."""

import logging
import math
from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import Int

from signvit_jax.errors.base import SignVitError
from signvit_jax.optimization.train_step import StepReport
from signvit_jax.runtime.exit_codes import FAILED

_SHOWN_CLIPS = 8
log = logging.getLogger(__name__)


class TrainingDivergedError(SignVitError, RuntimeError):
    """Too many updates in a row were not finite; the last checkpoint is good."""

    exit_code = FAILED


class StepWatch:
    """Log of the clips of skipped updates and of jumps of the loss, which ends a run that diverges.

    Reports stay on the device until `read`, so that the next step can be dispatched while the
    device still works. `clip_name` returns the name of a clip by its number in the training split.
    Each of several processes names the clips of its own rows.
    """

    def __init__(self, max_nonfinite: int, clip_name: Callable[[int], str]):
        self._max_nonfinite = max_nonfinite
        self._clip_name = clip_name
        self._unread: list[tuple[int, Int[np.ndarray, " b"], StepReport]] = []
        self._skipped: list[tuple[int, Int[np.ndarray, " b"]]] = []  # the latest steps in a row
        self._spikes = SpikeFinder()

    def add(self, step: int, index: Int[np.ndarray, " b"], report: StepReport) -> None:
        """Add a step, after the one before it is done.

        The wait keeps at most `BATCHES_ON_DEVICE` batches on the device: this step's and the next.
        """
        if self._unread:
            jax.block_until_ready(self._unread[-1][2])
        self._unread.append((step, index, report))

    def read(self) -> None:
        """Check the steps since the last call.

        Raises TrainingDivergedError with the clips of the batches that were skipped in a row.
        """
        reports = [report for _, _, report in self._unread]
        values = jax.device_get(
            [(report.loss.total, report.finite, report.nonfinite_in_row) for report in reports]
        )
        for (step, index, _), (loss, finite, in_row) in zip(self._unread, values, strict=True):
            if finite:
                self._skipped.clear()
                self._watch_loss(step, index, float(loss))
            else:
                self._watch_skipped(step, index, int(in_row))
        self._unread.clear()

    def _watch_loss(self, step: int, index: Int[np.ndarray, " b"], loss: float) -> None:
        """Log a jump of the loss."""
        if usual := self._spikes.jump(loss):
            log.warning(
                "step %d: the loss jumped to %.4g from about %.4g; clips %s",
                step,
                loss,
                usual,
                self._names([index]),
            )

    def _watch_skipped(self, step: int, index: Int[np.ndarray, " b"], in_row: int) -> None:
        """Log a skipped update. Raises TrainingDivergedError after too many in a row."""
        self._skipped.append((step, index))
        log.warning(
            "step %d: loss or gradient was not finite, the update was skipped; clips %s",
            step,
            self._names([index]),
        )
        if in_row < self._max_nonfinite:
            return
        clips = self._names([clips for _, clips in self._skipped], complete=True)
        raise TrainingDivergedError(
            f"{in_row} updates in a row were not finite (loss or gradient was NaN or infinite) and "
            f"were skipped; the last checkpoint is good. The clips of these batches: {clips}. "
            "Halve config.training.encoder_lr, and check the data's normalization "
            "(config.data.mean, std)."
        )

    def _names(self, batches: list[Int[np.ndarray, " b"]], complete: bool = False) -> str:
        """List the clips, each once; padding rows (index -1) have no name."""
        examples = [example for index in batches for example in index.tolist() if example >= 0]
        names = list(dict.fromkeys(self._clip_name(example) for example in examples))
        if complete or len(names) <= _SHOWN_CLIPS:
            return ", ".join(names)
        return f"{', '.join(names[:_SHOWN_CLIPS])} and {len(names) - _SHOWN_CLIPS} more"


class SpikeFinder:
    """Search for a loss that is far above those before it.

    That is 8 times their usual deviation above their mean, and at least 1.5 times the mean. Both
    are exponential averages over about 50 steps. They include the jump itself, so that a new level
    soon becomes the usual one.
    """

    _MEMORY = 0.98  # weight of the earlier losses in the averages
    _FIRST = 20  # losses before the first that may count as a jump
    _DEVIATIONS = 8.0
    _MIN_RATIO = 1.5  # of a jump to the mean

    def __init__(self):
        self._count = 0
        self._mean = 0.0
        self._deviation = 0.0

    def jump(self, loss: float) -> float | None:
        """Return the usual loss if this one is a jump, else None.

        A loss that is not finite is no jump, and is not part of the averages.
        """
        if not math.isfinite(loss):
            return None
        usual = self._mean
        limit = max(usual + self._DEVIATIONS * self._deviation, self._MIN_RATIO * usual)
        jumped = self._count >= self._FIRST and loss > limit
        self._count += 1
        memory = min(self._MEMORY, 1.0 - 1.0 / self._count)  # a plain mean at first
        deviation = abs(loss - usual) * (self._count > 1)
        self._deviation = memory * self._deviation + (1.0 - memory) * deviation
        self._mean = memory * self._mean + (1.0 - memory) * loss
        return usual if jumped else None
