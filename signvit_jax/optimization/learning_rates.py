"""The learning rates of a run: those of each update, and the messages about a changed schedule."""

import math

import jax

from signvit_jax.config.schema import TrainingConfig
from signvit_jax.optimization.optimizer import thaw_warmup
from signvit_jax.optimization.schedules import group_schedules
from signvit_jax.optimization.train_step import StepReport

_GROUPS = ("encoder", "rest")


class LearningRates:
    """Learning rates of a run of `epochs` epochs with `steps_per_epoch` steps each.

    `freeze_epochs`: epochs at the start in which the backbone is frozen. `thaws`: the backbone is
    trained after them.
    """

    def __init__(
        self,
        config: TrainingConfig,
        epochs: int,
        steps_per_epoch: int,
        freeze_epochs: int = 0,
        thaws: bool = False,
    ):
        self._config = config
        self._epochs = epochs
        self._steps_per_epoch = steps_per_epoch
        self._freeze_epochs = freeze_epochs
        self._thaws = thaws
        self.cycle_epochs = config.schedule_epochs or epochs
        self.cycle_steps = steps_per_epoch * self.cycle_epochs
        self._schedules = group_schedules(config, self.cycle_steps)
        self._warmup = thaw_warmup(config, self.cycle_steps)

    # A schedule is JAX arithmetic on an integer of the host, a transfer that the train loop's guard
    # would refuse.
    @jax.transfer_guard("allow")
    def at(self, updates: int) -> list[float]:
        """Return the rates of encoder and rest for the update after `updates` applied ones."""
        return [float(self._schedules[group](updates)) for group in _GROUPS]

    @jax.transfer_guard("allow")
    def used(self, step: int, report: StepReport) -> dict[str, float]:
        """Return the rates that the update of `step` used, by name.

        They follow the number of applied updates: skipped ones do not count.
        """
        skipped_before = int(report.nonfinite_total) - (1 - int(report.finite))
        updates = step - 1 - skipped_before
        rates = {f"lr_{group}": rate for group, rate in zip(_GROUPS, self.at(updates), strict=True)}
        if self._thaws:
            assert report.thawed_at is not None
            frozen = (step - 1) // self._steps_per_epoch < self._freeze_epochs
            share = 0.0 if frozen else float(self._warmup(updates - int(report.thawed_at)))
            rates["lr_backbone"] = share * rates["lr_encoder"]
        return rates

    def change_from(self, earlier: "LearningRates", updates: int) -> str:
        """Return the message for a run that resumes after `updates` with other rates than before.

        It is empty if the next update has the rates that `earlier` would give it.
        """
        old, new = earlier.at(updates), self.at(updates)
        if all(math.isclose(a, b, rel_tol=1e-3) for a, b in zip(old, new, strict=True)):
            return ""
        change = (
            f"the learning rates continue at {_listed(new)}; by the earlier settings, "
            f"{_listed(old)}"
        )
        if self.cycle_epochs <= earlier.cycle_epochs:
            return change
        return (
            f"{change}: their cycle now spans {self.cycle_epochs} epochs instead of "
            f"{earlier.cycle_epochs}. {_without_raising(earlier.cycle_epochs)}"
        )

    def how_to_extend(self, updates: int) -> str:
        """Return the advice for a run that is started again after its last update."""
        advice = "to train longer, raise --config.training.num_epochs"
        now = _listed(self.at(updates))
        if self._config.schedule_epochs:
            return f"{advice}; the learning rates are then {now}"
        twice = LearningRates(self._config, 2 * self._epochs, self._steps_per_epoch)
        return (
            f"{advice}. The learning rates' cycle then spans all epochs: for twice as many they "
            f"rise from {now} to {_listed(twice.at(updates))}. {_without_raising(self._epochs)}"
        )


def _listed(rates: list[float]) -> str:
    encoder, rest = (f"{rate:.2g}" for rate in rates)
    return encoder if encoder == rest else f"{encoder} (encoder) and {rest} (rest)"


def _without_raising(epochs: int) -> str:
    return (
        f"To continue without raising them: --config.training.schedule_epochs={epochs} keeps them "
        "at the end of that cycle; with --config.training.final_lr_ratio=0.05 as well, that is a "
        "twentieth of their peaks"
    )
