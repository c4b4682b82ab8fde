"""Which checkpoint is the best: the rule, in one place, and the record of it that a run carries along."""

import dataclasses
import math

HIGHER_IS_BETTER = {"loss": False, "wer": False, "bleu4": True, "chrf": True}
PERFECT = {"wer": 0.0, "bleu4": 100.0, "chrf": 100.0}  # of outputs that equal their references


def best_rule(metric: str) -> dict[str, str | bool]:
    """How a checkpoint folder is told which of its checkpoints is the best by `training.best_metric`."""
    return {"best_metric": metric, "higher_is_better": HIGHER_IS_BETTER[metric]}


@dataclasses.dataclass
class BestSoFar:
    """The best validation figure and the latest epoch that reached it; part of a checkpoint's meta data.

    The later of equals is the best, as it has seen more; patience counts from the first of them.
    """

    metric: str
    value: float | None = None
    epoch: int = 0
    since: int = (
        -1
    )  # the first epoch with that figure; -1: `epoch`, of an earlier release's checkpoint

    def __post_init__(self) -> None:
        if self.since < 0:
            self.since = self.epoch

    def update(self, value: float, epoch: int) -> None:
        """A figure that is not finite is never the best."""
        if not math.isfinite(value):
            return
        if self.value is None or (
            value > self.value if HIGHER_IS_BETTER[self.metric] else value < self.value
        ):
            self.value, self.since = value, epoch
        if value == self.value:
            self.epoch = epoch
