"""The rule that picks the best checkpoint, and the record of the best one that a run keeps."""

import dataclasses
import math
from typing import TypedDict

HIGHER_IS_BETTER = {"loss": False, "wer": False, "bleu4": True, "chrf": True}
PERFECT = {"wer": 0.0, "bleu4": 100.0, "chrf": 100.0}  # of outputs that equal their references


class BestRule(TypedDict):
    """Arguments of CheckpointReader that say which checkpoint is the best."""

    best_metric: str
    higher_is_better: bool


def best_rule(metric: str) -> BestRule:
    """Return the rule of `training.best_metric`."""
    return BestRule(best_metric=metric, higher_is_better=HIGHER_IS_BETTER[metric])


@dataclasses.dataclass
class BestSoFar:
    """The best validation result and the latest epoch that reached it; part of a checkpoint's meta.

    Of equal results the later epoch is the best, because its model has seen more clips. Patience
    counts from `since`, the first epoch with that result.
    """

    metric: str
    value: float | None = None
    epoch: int = 0
    since: int = -1  # -1 in checkpoints of earlier releases: read as `epoch`

    def __post_init__(self) -> None:
        if self.since < 0:
            self.since = self.epoch

    def update(self, value: float, epoch: int) -> None:
        """Take in an epoch's result. NaN and infinity are never the best."""
        if not math.isfinite(value):
            return
        if self.value is None or self._is_better(value, self.value):
            self.value = value
            self.since = epoch
        if value == self.value:
            self.epoch = epoch

    def _is_better(self, value: float, best: float) -> bool:
        return value > best if HIGHER_IS_BETTER[self.metric] else value < best
