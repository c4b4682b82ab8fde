"""Skipped updates and jumps of the loss: which are logged, and which end a run."""

import logging
import math

import numpy as np
import pytest

from signvit_jax.optimization.losses import LossParts
from signvit_jax.optimization.train_step import StepReport
from signvit_jax.planning.memory import BATCHES_ON_DEVICE
from signvit_jax.training import divergence
from signvit_jax.training.divergence import SpikeFinder, StepWatch, TrainingDivergedError


def report(loss: float, in_row: int = 0) -> StepReport:
    """Return the report of a step; `in_row`: how many updates in a row were skipped so far."""
    return StepReport(
        loss=LossParts(np.float32(loss), {}),
        grad_norm=np.float32(0),
        finite=np.float32(in_row == 0),
        nonfinite_in_row=np.int32(in_row),
        nonfinite_total=np.int32(in_row),
    )


def new_watch(max_nonfinite: int) -> StepWatch:
    return StepWatch(max_nonfinite, lambda example: f"clip-{example}")


def test_a_skipped_update_is_logged_with_its_clips(caplog):
    watch = new_watch(3)
    watch.add(1, np.array([4, 5]), report(1.0))
    watch.add(2, np.array([7, -1]), report(math.nan, in_row=1))  # -1: a padding row
    watch.add(3, np.array([0, 1]), report(1.0))
    watch.read()
    assert [record.getMessage() for record in caplog.records] == [
        "step 2: loss or gradient was not finite, the update was skipped; clips clip-7"
    ]


def test_adding_a_step_waits_for_the_previous_step(monkeypatch):
    waited = []
    monkeypatch.setattr(divergence.jax, "block_until_ready", waited.append)
    watch = new_watch(3)
    reports = [report(1.0) for _ in range(5)]
    for step, step_report in enumerate(reports, start=1):
        watch.add(step, np.array([step]), step_report)
        assert waited == reports[: step - 1]
    watch.read()
    assert BATCHES_ON_DEVICE == 2


def test_too_many_skipped_updates_in_a_row_end_the_run():
    watch = new_watch(3)
    # The skipped step 1 does not count: step 2 was applied. Steps 3 to 5 are read in two reads.
    for step, in_row in enumerate([1, 0, 1, 2], start=1):
        index = np.array([10 * step, 10 * step + 1])
        watch.add(step, index, report(math.nan if in_row else 1.0, in_row))
    watch.read()
    watch.add(5, np.array([50, 51]), report(math.inf, in_row=3))
    clips = r"clip-30, clip-31, clip-40, clip-41, clip-50, clip-51\."
    with pytest.raises(TrainingDivergedError, match=rf"3 updates in a row.*: {clips} Halve"):
        watch.read()


def test_a_jump_of_the_loss_is_logged_with_step_and_clips(caplog):
    watch = new_watch(3)
    for step in range(1, 40):
        watch.add(step, np.array([step]), report(2.0 + 0.1 * math.sin(step)))
    watch.add(40, np.arange(20), report(9.0))
    with caplog.at_level(logging.WARNING):
        watch.read()
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith("step 40: the loss jumped to 9 from about 2")
    shown = ", ".join(f"clip-{number}" for number in range(8))
    assert message.endswith(f"clips {shown} and 12 more")


def jumps(losses) -> list[int]:
    finder = SpikeFinder()
    return [number for number, loss in enumerate(losses) if finder.jump(loss) is not None]


def test_a_falling_or_noisy_loss_has_no_jump():
    draw = np.random.default_rng(0)
    assert jumps(8.0 * np.exp(-np.arange(500) / 100) + 0.1 * draw.standard_normal(500) + 1) == []
    assert jumps(draw.gamma(4.0, 0.5, 2000)) == []


QUIET = 2.0 + 0.1 * np.sin(np.arange(100))


def test_a_jump_is_found_at_its_step():
    assert jumps([*QUIET, 6.0, *QUIET]) == [100]


def test_a_lasting_change_of_the_loss_is_soon_not_a_jump():
    found = jumps([*QUIET, *(QUIET + 4.0)])
    assert found[0] == 100 and len(found) < 10


def test_first_losses_and_infinite_losses_are_no_jumps():
    assert jumps([100.0, 1.0, 50.0, *QUIET[:10]]) == []
    assert jumps([*QUIET, math.nan, math.inf, *QUIET]) == []
