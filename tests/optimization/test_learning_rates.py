import numpy as np
import pytest

from signvit_jax.optimization.learning_rates import Rates
from signvit_jax.optimization.losses import LossParts
from signvit_jax.optimization.optimizer import one_cycle
from signvit_jax.optimization.train_step import StepReport
from tests.helpers import tiny_model

RATES = {"training__encoder_lr": 1e-3, "training__decoder_lr": 1e-2, "training__warmup_ratio": 0.1}


def rates(epochs=10, freeze_epochs=0, **changes):
    return Rates(
        tiny_model.config(**RATES, **changes).training, epochs, 20, freeze_epochs, freeze_epochs > 0
    )


def report(skipped, finite=True, thawed_at=None):
    zero = np.float32(0)
    losses = LossParts(zero, zero, zero, zero)
    return StepReport(
        losses,
        zero,
        np.float32(finite),
        np.int32(0),
        np.int32(skipped),
        {},
        None if thawed_at is None else np.int32(thawed_at),
    )


def test_what_is_logged_is_the_rate_of_the_updates_made_whatever_was_skipped():
    schedule = one_cycle(1e-3, 200, 0.1)
    for step, given, made in (
        (50, report(0), 49),
        (50, report(3), 46),
        (50, report(3, finite=False), 47),
    ):
        found = rates().used(step, given)
        assert found["lr_encoder"] == float(schedule(made)) and found["lr_rest"] == pytest.approx(
            10 * found["lr_encoder"]
        )
        assert "lr_backbone" not in found


def test_a_backbones_rate_is_nothing_while_it_is_frozen_and_then_rises_to_the_encoders():
    frozen, thawing, thawed = (
        rates(freeze_epochs=2).used(step, report(0, thawed_at=40)) for step in (40, 46, 80)
    )
    assert frozen["lr_backbone"] == 0.0
    assert thawing["lr_backbone"] == pytest.approx(
        6 / 20 * thawing["lr_encoder"]
    )  # the run's own warm-up: 20 updates
    assert thawed["lr_backbone"] == thawed["lr_encoder"]


def test_more_epochs_say_old_and_new_rates_and_how_to_keep_the_earlier_cycle():
    said = rates(epochs=20).change_from(rates(epochs=10), made=200)
    assert (
        "go on at 0.00058 (encoder) and 0.0058 (rest); by the earlier settings, 4e-09 (encoder) and 4e-08 (rest)"
        in said
    )
    assert (
        "over 20 epochs in place of 10" in said and "--config.training.schedule_epochs=10" in said
    )
    assert (
        rates(epochs=20, training__schedule_epochs=10).change_from(rates(epochs=10), made=200) == ""
    )
    assert rates(epochs=10).change_from(rates(epochs=10), made=77) == ""
    lower = rates(epochs=10, training__final_lr_ratio=0.5).change_from(rates(epochs=10), made=77)
    assert "by the earlier settings" in lower and "schedule_epochs" not in lower


def test_a_cycle_that_is_kept_stays_at_its_end_and_ends_where_it_is_told_to():
    kept = rates(epochs=20, training__schedule_epochs=10, training__final_lr_ratio=0.05)
    assert kept.cycle_steps == 200
    assert (
        kept.at(150) != kept.at(199) == kept.at(200) == kept.at(399) == pytest.approx([5e-5, 5e-4])
    )
    assert "at learning rates of 5e-05 (encoder)" in kept.how_to_extend(400)
    assert "from 4e-09 (encoder) and 4e-08 (rest) to 0.00058 (encoder)" in rates().how_to_extend(
        200
    )
