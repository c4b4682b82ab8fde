"""The learning rates that a run logs, and messages about rates that change."""

import numpy as np
import pytest

from signvit_jax.optimization.learning_rates import LearningRates
from signvit_jax.optimization.losses import LossParts
from signvit_jax.optimization.schedules import one_cycle
from signvit_jax.optimization.train_step import StepReport
from tests.helpers import tiny_model

RATES = {"training__encoder_lr": 1e-3, "training__decoder_lr": 1e-2, "training__warmup_ratio": 0.1}


def rates(epochs=10, freeze_epochs=0, **changes):
    training = tiny_model.config(**RATES, **changes).training
    return LearningRates(training, epochs, 20, freeze_epochs, thaws=freeze_epochs > 0)


def report(skipped, finite=True, thawed_at=None):
    return StepReport(
        loss=LossParts(np.float32(0), {}),
        grad_norm=np.float32(0),
        finite=np.float32(finite),
        nonfinite_in_row=np.int32(0),
        nonfinite_total=np.int32(skipped),
        thawed_at=None if thawed_at is None else np.int32(thawed_at),
    )


def test_the_logged_rate_is_that_of_the_applied_updates():
    schedule = one_cycle(1e-3, 200, 0.1)
    for step, step_report, updates in (
        (50, report(0), 49),
        (50, report(3), 46),
        (50, report(3, finite=False), 47),
    ):
        found = rates().used(step, step_report)
        assert found["lr_encoder"] == float(schedule(updates))
        assert found["lr_rest"] == pytest.approx(10 * found["lr_encoder"])
        assert "lr_backbone" not in found


def test_a_thawed_backbones_rate_rises_from_zero_to_the_encoders():
    frozen, thawing, thawed = (
        rates(freeze_epochs=2).used(step, report(0, thawed_at=40)) for step in (40, 46, 80)
    )
    assert frozen["lr_backbone"] == 0.0
    # The rate rises for as many updates as in the warm-up of the run, 20.
    assert thawing["lr_backbone"] == pytest.approx(6 / 20 * thawing["lr_encoder"])
    assert thawed["lr_backbone"] == thawed["lr_encoder"]


def test_a_longer_run_reports_old_and_new_rates():
    change = rates(epochs=20).change_from(rates(epochs=10), updates=200)
    assert (
        "continue at 0.00058 (encoder) and 0.0058 (rest); by the earlier settings, "
        "4e-09 (encoder) and 4e-08 (rest)" in change
    )
    assert "spans 20 epochs instead of 10" in change
    assert "--config.training.schedule_epochs=10" in change


def test_unchanged_rates_have_no_message():
    kept = rates(epochs=20, training__schedule_epochs=10)
    assert kept.change_from(rates(epochs=10), updates=200) == ""
    assert rates(epochs=10).change_from(rates(epochs=10), updates=77) == ""


def test_other_rates_in_the_same_cycle_give_no_cycle_advice():
    lower = rates(epochs=10, training__final_lr_ratio=0.5)
    change = lower.change_from(rates(epochs=10), updates=77)
    assert "by the earlier settings" in change and "schedule_epochs" not in change


def test_after_its_cycle_the_rate_stays_at_the_final_value():
    kept = rates(epochs=20, training__schedule_epochs=10, training__final_lr_ratio=0.05)
    assert kept.cycle_steps == 200
    end = kept.at(199)
    assert kept.at(150) != end == kept.at(200) == kept.at(399)
    assert end == pytest.approx([5e-5, 5e-4])


def test_a_finished_run_shows_the_rates_of_a_longer_run():
    kept = rates(epochs=20, training__schedule_epochs=10, training__final_lr_ratio=0.05)
    assert "the learning rates are then 5e-05 (encoder)" in kept.how_to_extend(400)
    advice = rates().how_to_extend(200)
    assert "from 4e-09 (encoder) and 4e-08 (rest) to 0.00058 (encoder)" in advice
