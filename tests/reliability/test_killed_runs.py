"""A run that is killed, wherever and however often, ends as one that was left alone: every batch, every loss and every bit of its last state."""

import random
import shutil
import signal

import pytest

from tests.helpers.reliability_runs import SAVED, TOTAL, assert_same_run, kill
from tests.helpers.tiny_run import STEPS_PER_EPOCH

SEEDS = [0, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(1, 30))]
FIRST = [
    ["compile", "save", "evaluation"],
    ["epoch 1", "later"],
]  # places of the first seeds, which together are all


def disturbances(seed: int) -> list[dict]:
    """One SIGKILL a start, in two or three places, at moments in them; the seed draws both."""
    draw = random.Random(seed)
    all_places = ["compile", "epoch 1", "save", "evaluation", "later"]
    places = (
        FIRST[seed]
        if seed < len(FIRST)
        else sorted(draw.sample(all_places, draw.randint(2, 3)), key=all_places.index)
    )
    faults = {
        "compile": kill("compile", after=draw.uniform(0.1, 0.5)),
        "epoch 1": kill("step", draw.randint(1, STEPS_PER_EPOCH), draw.uniform(0.0, 0.05)),
        # Of the first checkpoint: before its evaluation and after it, begun but a moment ago or all but final.
        "save": kill("save", draw.randint(1, 2), draw.uniform(0.0, 0.15))
        if seed % 2
        else kill("manifest", draw.randint(1, 2), hang=5.0),
        "evaluation": kill("eval", hang=5.0),  # the first of all, or the second where that is over
        "later": kill(
            "step",
            draw.randint((2 if "evaluation" in places else 1) * SAVED + 1, TOTAL),
            draw.uniform(0.0, 0.05),
        ),
    }
    return [faults[place] for place in places]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_run_killed_at_random_moments_ends_as_one_left_alone(run, undisturbed, tmp_path, seed):
    for number, fault in enumerate(disturbances(seed)):
        # Without the programs of earlier runs there is something to compile.
        environment = (
            {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "empty")}
            if fault["phase"] == "compile"
            else {}
        )
        assert run.go(fault=fault, **environment) == -signal.SIGKILL, (
            f"disturbance {number}: {run.said()[-2000:]}"
        )
        assert fault["phase"] != "compile" or not run.steps()
    assert run.go() == 0, run.said()[-2000:]
    assert_same_run(run, undisturbed)
    assert "Traceback" not in run.said() and "took over the lock of process" in run.said()


@pytest.mark.long
def test_killed_between_two_epochs_and_saved_in_mid_epoch_it_goes_on_where_it_was(run, undisturbed):
    every_step = "--config.training.save_every_n_minutes=1e-9"
    shutil.copytree(undisturbed.workdir, run.workdir, ignore=shutil.ignore_patterns(str(TOTAL)))
    shutil.copy(undisturbed.trace, run.trace)
    assert run.go(every_step, fault=kill("step", TOTAL)) == -signal.SIGKILL
    assert run.steps()[-1] % 3, "the newest checkpoint is one of mid-epoch"
    newest = run.steps()[-1]
    assert run.go() == 0
    assert f"resumed from the checkpoint of step {newest}" in run.said()
    assert_same_run(run, undisturbed)
