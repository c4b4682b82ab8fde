"""Which checkpoint is the best: the rule, in one place, and the record of it that a run carries along."""

import dataclasses
import math

HIGHER_IS_BETTER = {"loss": False, "wer": False, "bleu4": True}


def best_rule(metric: str) -> dict[str, str | bool]:
    """How a checkpoint folder is told which of its checkpoints is the best by `training.best_metric`."""
    return {"best_metric": metric, "higher_is_better": HIGHER_IS_BETTER[metric]}


@dataclasses.dataclass
class BestSoFar:
    """The best validation figure and the epoch that reached it; part of a checkpoint's meta data."""

    metric: str
    value: float | None = None
    epoch: int = 0

    def update(self, value: float, epoch: int) -> None:
        """A figure that is not finite is never the best."""
        better = self.value is None or (value > self.value if HIGHER_IS_BETTER[self.metric] else value < self.value)
        if better and math.isfinite(value):
            self.value, self.epoch = value, epoch
