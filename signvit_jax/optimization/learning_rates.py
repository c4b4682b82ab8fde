"""The learning rates of a run: which ones its updates are made with, and what is said of them where
a longer run draws their cycle over more epochs."""

import math

from signvit_jax.config.schema import TrainingConfig
from signvit_jax.optimization.optimizer import learning_rates, thaw_warmup
from signvit_jax.optimization.train_step import StepReport

_GROUPS = ("encoder", "rest")


class Rates:
    """Of a run of `epochs`, each of `steps_per_epoch` updates, whose backbone is frozen for the
    first `freeze_epochs`; `thaws` where it is, or was by earlier settings.
    """

    def __init__(
        self,
        config: TrainingConfig,
        epochs: int,
        steps_per_epoch: int,
        freeze_epochs: int = 0,
        thaws: bool = False,
    ):
        self._config, self._epochs, self._steps_per_epoch = config, epochs, steps_per_epoch
        self._freeze_epochs, self._thaws = freeze_epochs, thaws
        self.cycle_epochs = config.schedule_epochs or epochs
        self.cycle_steps = steps_per_epoch * self.cycle_epochs
        self._schedules = learning_rates(config, self.cycle_steps)
        self._warmup = thaw_warmup(config, self.cycle_steps)

    def at(self, made: int) -> list[float]:
        """Encoder's and rest's for the update after `made` others."""
        return [float(self._schedules[group](made)) for group in _GROUPS]

    def used(self, step: int, report: StepReport) -> dict[str, float]:
        """Those that the update of `step` was made with, by name; skipped updates do not count."""
        skipped = int(report.nonfinite_total) - (1 - int(report.finite))
        made = step - 1 - skipped
        rates = {f"lr_{group}": rate for group, rate in zip(_GROUPS, self.at(made))}
        if self._thaws:
            frozen = (step - 1) // self._steps_per_epoch < self._freeze_epochs
            share = 0.0 if frozen else float(self._warmup(made - int(report.thawed_at)))
            rates["lr_backbone"] = share * rates["lr_encoder"]
        return rates

    def change_from(self, earlier: "Rates", made: int) -> str:
        """What to tell whoever goes on after `made` updates with other settings than `earlier`;
        empty where the next update's rates are the same.
        """
        old, new = earlier.at(made), self.at(made)
        if all(math.isclose(a, b, rel_tol=1e-3) for a, b in zip(old, new)):
            return ""
        said = (
            f"the learning rates go on at {_listed(new)}; by the earlier settings, {_listed(old)}"
        )
        if self.cycle_epochs <= earlier.cycle_epochs:
            return said
        return (
            f"{said}: their cycle is drawn over {self.cycle_epochs} epochs in place of "
            f"{earlier.cycle_epochs}. {_without_raising(earlier.cycle_epochs)}"
        )

    def how_to_extend(self, made: int) -> str:
        """What to tell whoever starts a run again that is finished after `made` updates."""
        advice, now = "a larger --config.training.num_epochs goes on", _listed(self.at(made))
        if self._config.schedule_epochs:
            return f"{advice}, at learning rates of {now}"
        twice = Rates(self._config, 2 * self._epochs, self._steps_per_epoch)
        return (
            f"{advice} and draws the learning rates' cycle over all of them, so that for twice as "
            f"many they rise from {now} to {_listed(twice.at(made))}. "
            f"{_without_raising(self._epochs)}"
        )


def _listed(rates: list[float]) -> str:
    encoder, rest = (f"{rate:.2g}" for rate in rates)
    return encoder if encoder == rest else f"{encoder} (encoder) and {rest} (rest)"


def _without_raising(epochs: int) -> str:
    return (
        f"To go on without raising them: --config.training.schedule_epochs={epochs} keeps them "
        "where that cycle ends; with --config.training.final_lr_ratio=0.05 too that is a "
        "twentieth of their peaks"
    )
