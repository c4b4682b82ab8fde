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
    zero = np.float32(0)
    return StepReport(
        LossParts(np.float32(loss), zero, zero, zero),
        zero,
        np.float32(in_row == 0),
        np.int32(in_row),
        np.int32(in_row),
        {},
    )


def watch(max_nonfinite: int) -> StepWatch:
    return StepWatch(max_nonfinite, lambda example: f"clip-{example}")


def test_steps_that_were_not_finite_are_named_with_their_clips_and_filling_rows_have_no_name(
    caplog,
):
    seen = watch(3)
    seen.add(1, np.array([4, 5]), report(1.0))
    seen.add(2, np.array([7, -1]), report(math.nan, in_row=1))
    seen.add(3, np.array([0, 1]), report(1.0))
    seen.read()
    assert [record.getMessage() for record in caplog.records] == [
        "step 2: loss or gradient was not finite, the update was not made; clips clip-7"
    ]


def test_a_step_is_added_when_the_one_before_it_is_done_so_that_two_batches_lie_on_the_device(
    monkeypatch,
):
    waited = []
    monkeypatch.setattr(divergence.jax, "block_until_ready", waited.append)
    seen, reports = watch(3), [report(1.0) for _ in range(5)]
    for step, given in enumerate(reports, start=1):
        seen.add(step, np.array([step]), given)
        assert waited == reports[: step - 1]
    seen.read()
    assert BATCHES_ON_DEVICE == 2


def test_so_many_in_a_row_end_the_run_and_name_the_clips_of_these_batches_alone():
    seen = watch(3)
    for step, in_row in enumerate(
        [1, 0, 1, 2], start=1
    ):  # the first is not in the row; the row is longer than what is read at once
        seen.add(
            step, np.array([10 * step, 10 * step + 1]), report(math.nan if in_row else 1.0, in_row)
        )
    seen.read()
    seen.add(5, np.array([50, 51]), report(math.inf, in_row=3))
    with pytest.raises(
        TrainingDivergedError,
        match=r"3 updates in a row.*: clip-30, clip-31, clip-40, clip-41, clip-50, clip-51\. Halve",
    ):
        seen.read()


def test_a_jump_of_the_loss_is_noted_with_step_and_clips(caplog):
    seen = watch(3)
    for step in range(1, 40):
        seen.add(step, np.array([step]), report(2.0 + 0.1 * math.sin(step)))
    seen.add(40, np.arange(20), report(9.0))
    with caplog.at_level(logging.WARNING):
        seen.read()
    (note,) = [record.getMessage() for record in caplog.records]
    assert note.startswith("step 40: the loss jumped to 9 from about 2")
    assert note.endswith(
        "clips clip-0, clip-1, clip-2, clip-3, clip-4, clip-5, clip-6, clip-7 and 12 more"
    )


def jumps(losses) -> list[int]:
    finder = SpikeFinder()
    return [number for number, loss in enumerate(losses) if finder.jump(loss) is not None]


def test_a_loss_that_falls_or_wavers_as_usual_has_no_jump():
    draw = np.random.default_rng(0)
    assert jumps(8.0 * np.exp(-np.arange(500) / 100) + 0.1 * draw.standard_normal(500) + 1) == []
    assert jumps(draw.gamma(4.0, 0.5, 2000)) == []


def test_a_jump_is_found_where_it_is_a_new_level_is_soon_the_usual_one_and_the_first_steps_are_none():
    quiet = 2.0 + 0.1 * np.sin(np.arange(100))
    assert jumps([*quiet, 6.0, *quiet]) == [100]
    level = jumps([*quiet, *(quiet + 4.0)])
    assert level[0] == 100 and len(level) < 10
    assert jumps([100.0, 1.0, 50.0, *quiet[:10]]) == []
    assert jumps([*quiet, math.nan, math.inf, *quiet]) == []
