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
    return StepReport(
        loss=LossParts(np.float32(loss), {}),
        grad_norm=np.float32(0),
        finite=np.float32(in_row == 0),
        nonfinite_in_row=np.int32(in_row),
        nonfinite_total=np.int32(in_row),
    )


def watch(max_nonfinite: int) -> StepWatch:
    return StepWatch(max_nonfinite, lambda example: f"clip-{example}")


def test_a_skipped_update_is_logged_with_its_clips(caplog):
    seen = watch(3)
    seen.add(1, np.array([4, 5]), report(1.0))
    seen.add(2, np.array([7, -1]), report(math.nan, in_row=1))  # -1: a padding row
    seen.add(3, np.array([0, 1]), report(1.0))
    seen.read()
    assert [record.getMessage() for record in caplog.records] == [
        "step 2: loss or gradient was not finite, the update was skipped; clips clip-7"
    ]


def test_adding_a_step_waits_for_the_one_before(monkeypatch):
    waited = []
    monkeypatch.setattr(divergence.jax, "block_until_ready", waited.append)
    seen = watch(3)
    reports = [report(1.0) for _ in range(5)]
    for step, given in enumerate(reports, start=1):
        seen.add(step, np.array([step]), given)
        assert waited == reports[: step - 1]
    seen.read()
    assert BATCHES_ON_DEVICE == 2


def test_too_many_in_a_row_end_the_run_with_their_clips_alone():
    seen = watch(3)
    # The first is not part of the row, which spans two reads.
    for step, in_row in enumerate([1, 0, 1, 2], start=1):
        index = np.array([10 * step, 10 * step + 1])
        seen.add(step, index, report(math.nan if in_row else 1.0, in_row))
    seen.read()
    seen.add(5, np.array([50, 51]), report(math.inf, in_row=3))
    clips = r"clip-30, clip-31, clip-40, clip-41, clip-50, clip-51\."
    with pytest.raises(TrainingDivergedError, match=rf"3 updates in a row.*: {clips} Halve"):
        seen.read()


def test_a_jump_of_the_loss_is_logged_with_step_and_clips(caplog):
    seen = watch(3)
    for step in range(1, 40):
        seen.add(step, np.array([step]), report(2.0 + 0.1 * math.sin(step)))
    seen.add(40, np.arange(20), report(9.0))
    with caplog.at_level(logging.WARNING):
        seen.read()
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


def test_a_new_level_of_the_loss_soon_is_the_usual_one():
    found = jumps([*QUIET, *(QUIET + 4.0)])
    assert found[0] == 100 and len(found) < 10


def test_neither_first_losses_nor_infinite_ones_are_jumps():
    assert jumps([100.0, 1.0, 50.0, *QUIET[:10]]) == []
    assert jumps([*QUIET, math.nan, math.inf, *QUIET]) == []
