"""A run that is killed several times, at any place, ends like an undisturbed run.

Batches, losses and all bits of the last state are the same.
"""

import random
import shutil
import signal

import pytest

from tests.helpers.reliability_runs import SAVED, TOTAL, assert_same_run, kill
from tests.helpers.tiny_run import STEPS_PER_EPOCH

SEEDS = [0, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(1, 30))]
# The places at which seeds 0 and 1 kill the run. Together they are all places.
FIRST = [["compile", "save", "evaluation"], ["epoch 1", "later"]]


def disturbances(seed: int) -> list[dict]:
    """Return faults: one SIGKILL per start, at two or three places and times that `seed` draws."""
    draw = random.Random(seed)
    all_places = ["compile", "epoch 1", "save", "evaluation", "later"]
    if seed < len(FIRST):
        places = FIRST[seed]
    else:
        places = sorted(draw.sample(all_places, draw.randint(2, 3)), key=all_places.index)
    faults = {
        "compile": kill("compile", after=draw.uniform(0.1, 0.5)),
        "epoch 1": kill("step", draw.randint(1, STEPS_PER_EPOCH), draw.uniform(0.0, 0.05)),
        # The first checkpoint is saved twice, before and after its evaluation. The run is killed
        # when a save begins ("save") or just before it is final ("manifest").
        "save": kill("save", draw.randint(1, 2), draw.uniform(0.0, 0.15))
        if seed % 2
        else kill("manifest", draw.randint(1, 2), hang=5.0),
        "evaluation": kill("eval", hang=5.0),  # the next evaluation
        "later": kill(
            "step",
            draw.randint((2 if "evaluation" in places else 1) * SAVED + 1, TOTAL),
            draw.uniform(0.0, 0.05),
        ),
    }
    return [faults[place] for place in places]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_run_killed_at_random_times_ends_as_an_undisturbed_one(run, undisturbed, tmp_path, seed):
    for number, fault in enumerate(disturbances(seed)):
        environment = {}
        if fault["phase"] == "compile":  # with the cache there would be nothing to compile
            environment["JAX_COMPILATION_CACHE_DIR"] = str(tmp_path / "empty")
        assert run.go(fault=fault, **environment) == -signal.SIGKILL, (
            f"disturbance {number}: {run.messages()[-2000:]}"
        )
        assert fault["phase"] != "compile" or not run.steps()
    assert run.go() == 0, run.messages()[-2000:]
    assert_same_run(run, undisturbed)
    assert "Traceback" not in run.messages() and "took over the lock of process" in run.messages()


@pytest.mark.long
def test_a_killed_run_resumes_from_a_checkpoint_within_an_epoch(run, undisturbed):
    every_step = "--config.training.save_every_n_minutes=1e-9"
    shutil.copytree(undisturbed.workdir, run.workdir, ignore=shutil.ignore_patterns(str(TOTAL)))
    shutil.copy(undisturbed.trace, run.trace)
    assert run.go(every_step, fault=kill("step", TOTAL)) == -signal.SIGKILL
    assert run.steps()[-1] % 3, "the newest checkpoint is within an epoch"
    newest = run.steps()[-1]
    assert run.go() == 0
    assert f"resumed from the checkpoint of step {newest}" in run.messages()
    assert_same_run(run, undisturbed)
