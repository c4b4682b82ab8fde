"""A run that is killed, wherever and however often, ends as one that was left alone: every batch, every loss and every bit of its last state."""

import random
import shutil
import signal

import pytest
from runs import TOTAL, assert_same_run, kill

pytestmark = pytest.mark.long

SEEDS = [*range(3), *(pytest.param(seed, marks=pytest.mark.long) for seed in range(3, 30))]


def disturbances(seed: int) -> list[dict]:
    """One SIGKILL a start, at places and moments that the seed draws. Each of the first three seeds has its own part of them, the others have all."""
    draw = random.Random(seed)
    first_compilation = kill("compile", after=draw.uniform(0.1, 0.5))
    in_epoch_1 = kill("step", draw.randint(1, 3), draw.uniform(0.0, 0.05))  # there is no checkpoint yet
    a_save = kill("save", draw.randint(1, 3), draw.uniform(0.0, 0.15)) if seed % 2 else kill("manifest", draw.randint(1, 3))
    an_evaluation = kill("eval", draw.randint(1, 2), draw.uniform(0.0, 0.05))
    late = kill("step", draw.randint(3, 7), draw.uniform(0.0, 0.05))  # counted from where the start before had got to: in epoch 2 to 6
    parts = [[first_compilation, in_epoch_1, a_save], [a_save, late], [an_evaluation, late]]
    return parts[seed] if seed < 3 else [first_compilation, in_epoch_1, a_save, an_evaluation, late]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_run_killed_at_random_moments_ends_as_one_left_alone(run, undisturbed, tmp_path, seed):
    for number, fault in enumerate(disturbances(seed)):
        # Without the programs of earlier runs there is something to compile.
        environment = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "empty")} if fault["phase"] == "compile" else {}
        assert run.go(fault=fault, **environment) == -signal.SIGKILL, f"disturbance {number}: {run.said()[-2000:]}"
        assert fault["phase"] != "compile" or not run.steps()
    assert run.go() == 0, run.said()[-2000:]
    assert_same_run(run, undisturbed)
    assert "Traceback" not in run.said() and "took over the lock of process" in run.said()


def test_killed_between_two_epochs_and_saved_in_mid_epoch_it_goes_on_where_it_was(run, undisturbed):
    every_step = "--config.training.save_every_n_minutes=1e-9"
    shutil.copytree(undisturbed.workdir, run.workdir, ignore=shutil.ignore_patterns(str(TOTAL)))
    shutil.copy(undisturbed.trace, run.trace)
    assert run.go(every_step, fault=kill("step", 3)) == -signal.SIGKILL
    assert run.steps()[-1] % 3, "the newest checkpoint is one of mid-epoch"
    newest = run.steps()[-1]
    assert run.go() == 0
    assert f"resumed from the checkpoint of step {newest}" in run.said()
    assert_same_run(run, undisturbed)
