"""Workers of a sweep: killed, stopped, resumed and racing, with a stand-in for training."""

import collections
import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from signvit_jax.config.files import load_config
from signvit_jax.sweep import leases
from signvit_jax.sweep.leases import claims_of, make_claim, server_time
from signvit_jax.sweep.sampling import seeds_verdict
from signvit_jax.sweep.space import Dimension
from signvit_jax.sweep.trial_files import Settings, Sweep, SweepError, Trial, best_of, seeds_of
from signvit_jax.sweep.worker import Worker
from tests.helpers.tiny_run import REPOSITORY

STUB = (sys.executable, str(Path(__file__).with_name("stub_train.py")))
BASE = load_config("small")
RATE = Dimension("training.encoder_lr", low=1e-4, high=1e-2, log=True)
SETTINGS = Settings(
    config="small",
    overrides=(),
    space=(RATE, Dimension("training.batch_size", choices=(16, 32))),
    metric="wer",
    trials=8,
    seeds=2,
    lease_seconds=2.0,
    attempts=20,
)
_WORK = f"""
import sys, time, logging
from pathlib import Path
SHIFT = float(sys.argv[2])
real = time.time
time.time = lambda: real() + SHIFT
logging.basicConfig(level=logging.INFO)
from signvit_jax.sweep.trial_files import Sweep
from signvit_jax.sweep.worker import Worker
sys.exit(Worker(Sweep.open(Path(sys.argv[1])), {STUB!r}, 0.02, 0.1).run())
"""


def new_sweep(folder: Path, **changes: object) -> Sweep:
    return Sweep.create(folder, dataclasses.replace(SETTINGS, **changes), BASE)


def worker(sweep: Sweep) -> Worker:
    """Return a worker of this process."""
    return Worker(sweep, STUB, poll_seconds=0.02, idle_seconds=0.05)


def start(sweep: Sweep, shift: float = 0.0, **environment: str) -> subprocess.Popen:
    """Start a worker process whose clock is `shift` seconds ahead."""
    command = [sys.executable, "-c", _WORK, str(sweep.folder), str(shift)]
    with (sweep.folder / "workers.log").open("ab") as output:
        return subprocess.Popen(
            command, cwd=REPOSITORY, env=os.environ | environment, stderr=output
        )


def table(sweep: Sweep) -> list[Trial]:
    return sweep.read(server_time(sweep.folder))


def assert_complete(sweep: Sweep) -> None:
    """Check that every trial exists once and is finished, and that no epoch was trained twice."""
    trials = table(sweep)
    settings = sweep.settings
    assert [trial.number for trial in trials] == list(range(len(trials)))
    kinds = collections.Counter(trial.kind for trial in trials)
    best = best_of(settings, trials)
    seeds = settings.seeds if best and best.kind == "search" else 0
    assert kinds == collections.Counter(
        {"base": 1, "search": settings.trials - 1} | ({"seed": seeds} if seeds else {})
    )
    assert all(trial.is_finished for trial in trials), [trial.state for trial in trials]
    assert {trial.state for trial in trials} <= {"complete", "pruned"}
    for trial in trials:
        steps = [clips for clips, _ in trial.curve]
        assert steps == sorted(set(steps)), trial.number
        if trial.state == "complete":
            assert len(steps) == 6
    searched = [tuple(t.parameters.items()) for t in trials if t.kind == "search"]
    assert len(set(searched)) == len(searched)
    assert not list(sweep.trials_folder.glob("*/*.damaged-*"))


def test_a_sweep_from_the_config_to_the_seeds_of_the_best(tmp_path):
    sweep = new_sweep(tmp_path / "sweep")
    assert worker(sweep).run() == 0
    assert_complete(sweep)
    trials = table(sweep)
    assert trials[0].parameters == {} and trials[0].state == "complete"
    best = best_of(sweep.settings, trials)
    assert best is not None and best.kind == "search"
    seeds = [trial for trial in trials if trial.kind == "seed"]
    first = BASE.training.seed
    assert [t.parameters["training.seed"] for t in seeds] == [first + 1, first + 2]
    assert all(t.parameters | best.parameters == t.parameters for t in seeds)
    assert "exceeds the spread" in seeds_verdict(sweep.settings, trials)
    kept = [trial.number for trial in trials if (trial.folder / "checkpoints").exists()]
    assert kept == [best.number, *(trial.number for trial in seeds)]
    assert worker(sweep).run() == 0  # no trial is left
    assert table(sweep) == trials


def test_one_worker_makes_the_same_trials_again(tmp_path):
    parameters = []
    for name in ("a", "b"):
        sweep = new_sweep(tmp_path / name, trials=4, seeds=0)
        worker(sweep).run()
        parameters.append([trial.parameters for trial in table(sweep)])
    assert parameters[0] == parameters[1]


def kill_at_random(sweep: Sweep, kills: int, seed: int, workers: int = 4) -> None:
    """Keep `workers` workers running, and kill a random one of them `kills` times.

    Every second kill hits a worker that has a trial; the others hit any worker at any time.
    """
    rng = random.Random(seed)
    running = [start(sweep, STUB_SECONDS="0.15") for _ in range(workers)]

    def workers_with_trials() -> list[int]:
        """Return the indices of workers that have a trial now."""
        trials = table(sweep)
        assert any(not trial.is_finished for trial in trials) or not trials, "it ended too early"
        pids = {t.holder.rpartition(":")[2] for t in trials if t.state == "running"}
        return [i for i, process in enumerate(running) if str(process.pid) in pids]

    for kill in range(kills):
        victim = rng.randrange(workers)
        if kill % 2 == 0:
            while not (candidates := workers_with_trials()):
                time.sleep(0.02)
            victim = rng.choice(candidates)
        time.sleep(rng.uniform(0.0, 0.5))
        running[victim].kill()  # SIGKILL
        running[victim].wait()
        running[victim] = start(sweep, STUB_SECONDS="0.15")
    codes = [process.wait(timeout=200) for process in running]
    assert codes == [0] * workers, (sweep.folder / "workers.log").read_text()[-3000:]
    assert any(len(trial.claims) > 1 for trial in table(sweep))  # taken over by another worker


def test_killed_workers_lose_no_trial_and_repeat_none(tmp_path):
    # A grid without pruning does not import Optuna, so processes start faster.
    rates = tuple(i / 1000 for i in range(1, 10))
    space = (Dimension("training.encoder_lr", choices=rates),)
    sweep = new_sweep(tmp_path / "sweep", space=space, sampler="grid", pruner="none", trials=10)
    kill_at_random(sweep, kills=4, seed=0)
    assert_complete(sweep)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_twenty_killed_workers(tmp_path):
    sweep = new_sweep(tmp_path / "sweep", trials=60, lease_seconds=3.0)
    kill_at_random(sweep, kills=20, seed=1)
    assert_complete(sweep)


def test_workers_whose_clocks_differ_by_a_day_take_over_no_trial(tmp_path):
    sweep = new_sweep(tmp_path / "sweep", trials=5, lease_seconds=30.0)
    running = [start(sweep, shift) for shift in (-86400.0, 86400.0)]
    assert [process.wait(timeout=100) for process in running] == [0, 0]
    assert_complete(sweep)
    assert {len(claims_of(trial.folder)) for trial in table(sweep)} == {1}


def test_a_new_worker_continues_after_all_workers_were_killed(tmp_path):
    sweep = new_sweep(tmp_path / "sweep", trials=3, seeds=0)
    process = start(sweep, STUB_SECONDS="0.6")
    while not any(trial.step > 0 for trial in table(sweep)):
        time.sleep(0.05)
    process.kill()
    process.wait()
    started = next(trial for trial in table(sweep) if trial.step > 0)
    time.sleep(0.5)  # the training process saves and ends, because its worker is gone
    assert worker(sweep).run() == 0
    assert_complete(sweep)
    starts = (started.folder / "starts.jsonl").read_text().splitlines()
    assert len(starts) == 2 and 0 < json.loads(starts[1])["from"] <= 3


def test_a_stopped_worker_releases_its_trial(tmp_path):
    sweep = new_sweep(tmp_path / "sweep", trials=1, seeds=0, lease_seconds=1000.0)
    process = start(sweep, STUB_SECONDS="0.2")
    while not any(trial.step > 0 for trial in table(sweep)):
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 143
    (trial,) = table(sweep)
    assert trial.state == "waiting" and trial.claims[0].is_released
    assert trial.fruitless_attempts == 0
    assert worker(sweep).run() == 0  # without waiting for the end of the lease
    assert table(sweep)[0].state == "complete"


def test_out_of_memory_ends_only_its_trial(tmp_path):
    wide = Dimension("training.encoder_lr", choices=(1e-3, 0.9, 3e-3))
    sweep = new_sweep(tmp_path / "sweep", space=(wide,), sampler="grid", seeds=0)
    assert worker(sweep).run() == 0
    trials = {t.parameters.get("training.encoder_lr"): t for t in table(sweep)}
    assert trials[0.9].state == "out_of_memory" and "9 GiB of 8" in trials[0.9].reason
    assert trials[3e-3].state == "complete"


def test_a_refused_combination_is_an_invalid_trial(tmp_path):
    space = (
        Dimension("training.batch_size", choices=(16, 32)),
        Dimension("training.gradient_accumulation", choices=(1, 32)),
    )
    sweep = new_sweep(tmp_path / "sweep", space=space, sampler="grid", seeds=0)
    assert worker(sweep).run() == 0
    invalid = [trial for trial in table(sweep) if trial.state == "invalid"]
    assert [t.parameters["training.batch_size"] for t in invalid] == [16]
    assert "a divisor of training.batch_size = 16" in invalid[0].reason
    assert not (invalid[0].folder / "starts.jsonl").exists()


def pruned(folder: Path, monkeypatch, **settings: object) -> Sweep:
    """A finished sweep whose trial 1 was pruned at its third validation."""
    monkeypatch.setenv("STUB_WAIT_ABOVE", "0.005")
    bad = Dimension("training.encoder_lr", choices=(9e-3, 1e-3))
    defaults: dict[str, object] = {"trials": 2, "seeds": 0, "pruner": "threshold:1.0"}
    sweep = new_sweep(folder, space=(bad,), sampler="grid", **defaults | settings)
    assert worker(sweep).run() == 0
    assert [trial.state for trial in table(sweep)] == ["complete", "pruned"]
    return sweep


def test_a_resumed_pruned_trial_is_completed(tmp_path, monkeypatch):
    sweep = pruned(tmp_path / "sweep", monkeypatch, keep="all")
    done = len(table(sweep)[1].curve)
    assert done in (2, 3)
    sweep.take_up_pruned([1], server_time(tmp_path))
    assert table(sweep)[1].state == "waiting"
    assert worker(sweep).run() == 0
    trial = table(sweep)[1]
    assert trial.state == "complete" and len(trial.curve) == 6 and trial.is_spared
    starts = (trial.folder / "starts.jsonl").read_text().splitlines()
    assert [json.loads(line)["from"] for line in starts] == [0, done]
    assert json.loads((trial.folder / "result.json.pruned-1").read_text())["state"] == "pruned"


def test_trials_that_cannot_be_resumed_are_refused(tmp_path, monkeypatch):
    sweep = pruned(tmp_path / "sweep", monkeypatch)
    before = sorted(sweep.folder.rglob("*"))
    for number, message in (
        (1, r"--keep=best.*from the start.*--config.training.encoder_lr=0.009 --workdir=FOLDER"),
        (0, "trial 0 was not pruned, it is complete: only pruned trials"),
        (7, "there is no trial 7 in .*; pruned are: 1"),
    ):
        with pytest.raises(SweepError, match=message):
            sweep.take_up_pruned([number], server_time(tmp_path))
    assert sorted(sweep.folder.rglob("*")) == before


def test_a_better_trial_after_the_seeds_gets_its_own_seeds(tmp_path):
    """The number of trials is increased, and a better trial is found."""
    choices = Dimension("training.encoder_lr", choices=(2.5e-3, 1.9e-3))
    options = {"space": (choices,), "sampler": "grid", "pruner": "none", "seeds": 2}
    assert worker(new_sweep(tmp_path / "sweep", trials=2, **options)).run() == 0
    more = new_sweep(tmp_path / "sweep", trials=3, **options)
    kinds = ["base", "search", "seed", "seed"]
    assert [trial.kind for trial in table(more)] == kinds
    assert worker(more).run() == 0
    trials = table(more)
    assert [trial.kind for trial in trials] == [*kinds, "search", "seed", "seed"]
    best = best_of(more.settings, trials)
    assert best is not None and best.number == 4
    assert [trial.number for trial in seeds_of(best, trials)] == [5, 6]
    mean = sum(trial.value or 0 for trial in trials[5:]) / 2
    assert f"{mean:.4g} on average" in seeds_verdict(more.settings, trials)
    kept = [trial.number for trial in trials if (trial.folder / "checkpoints").exists()]
    assert kept == [4, 5, 6]


@pytest.mark.parametrize("name", ["trial.json", "result.json"])
def test_a_damaged_file_is_renamed_and_reported(tmp_path, caplog, name):
    sweep = new_sweep(tmp_path / "sweep", trials=3, seeds=0, keep="all")
    worker(sweep).run()
    path = sweep.trials_folder / "0001" / name
    path.write_text(path.read_text()[:20])
    trials = table(sweep)
    assert path.with_name(f"{name}.damaged-1").exists() and not path.exists()
    assert f"{name} is damaged and was set aside" in caplog.text
    assert trials[1].state == ("failed" if name == "trial.json" else "waiting")
    worker(sweep).run()
    after = table(sweep)
    assert all(trial.is_finished for trial in after)
    if name == "result.json":
        starts = (sweep.trials_folder / "0001" / "starts.jsonl").read_text().splitlines()
        assert after[1].state == "complete"
        assert json.loads(starts[1])["from"] == 6  # from its checkpoint, at the end


def test_no_hard_links_are_needed(tmp_path, monkeypatch):
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    monkeypatch.setattr(os, "symlink", refused)
    sweep = new_sweep(tmp_path / "sweep", trials=2, seeds=0)
    assert worker(sweep).run() == 0
    assert [trial.state for trial in table(sweep)] == ["complete", "complete"]


def test_only_the_first_of_two_equal_claims_or_trials_succeeds(tmp_path):
    sweep = new_sweep(tmp_path / "sweep")
    first = sweep.add_trial(0, "base", {})
    assert first is not None and sweep.add_trial(0, "base", {}) is None
    trial = first.path.parent
    assert make_claim(trial, 2, 5) is not None and make_claim(trial, 2, 5) is None
    assert [claim.step for claim in claims_of(trial)] == [-1, 5]
    assert sorted(path.name for path in sweep.trials_folder.iterdir()) == ["0000"]


def test_a_suspended_worker_loses_its_claim_to_a_new_one(tmp_path):
    sweep = new_sweep(tmp_path / "sweep")
    claim = sweep.add_trial(0, "base", {})
    assert claim is not None
    holding = leases.Holding(claim, 100.0)
    assert holding.check()
    make_claim(claim.path.parent, 2, -1)
    assert not holding.check() and holding.lost


def test_a_renewed_claim_stays_valid_and_another_expires(tmp_path):
    sweep = new_sweep(tmp_path / "sweep", lease_seconds=0.4)
    claim = sweep.add_trial(0, "base", {})
    assert claim is not None
    with leases.Holding(claim, 0.4).renewed():
        time.sleep(0.8)
        assert leases.is_held(claim, server_time(tmp_path), 0.4)
    time.sleep(0.5)
    assert not leases.is_held(claim, server_time(tmp_path), 0.4)
    assert table(sweep)[0].state == "waiting"


def test_attempts_without_progress_end_a_trial(tmp_path):
    sweep = new_sweep(tmp_path / "sweep", trials=1, attempts=2, lease_seconds=0.1)
    sweep.add_trial(0, "base", {})
    make_claim(sweep.trials_folder / "0000", 2, -1)
    time.sleep(0.2)
    with pytest.raises(SweepError, match="2 attempts made no progress"):
        worker(sweep).run()
    (trial,) = table(sweep)
    assert trial.state == "failed" and "2 attempts made no progress" in trial.reason


def test_a_config_that_cannot_be_trained_ends_the_sweep(tmp_path, monkeypatch):
    monkeypatch.setenv("STUB_BROKEN", "1")
    sweep = new_sweep(tmp_path / "sweep", trials=2, seeds=0)
    for _ in range(2):  # the second worker starts no trial after the failure
        with pytest.raises(SweepError, match="nothing searched cannot be trained: no data set"):
            worker(sweep).run()
        assert [trial.state for trial in table(sweep)] == ["failed"]
    monkeypatch.delenv("STUB_BROKEN")
    assert sweep.retry_failed(server_time(tmp_path)) == [0]
    assert worker(sweep).run() == 0
    assert_complete(sweep)


@pytest.mark.long
def test_four_workers_prune_the_same_trials_as_one_worker(tmp_path):
    """The folder has the same finished trials; one or four workers decide on the others."""
    rates = (0.0021, 0.0022, 0.0023, 0.0024, 0.0025, 0.05, 0.06, 0.0019, 0.07, 0.08)
    states = []
    for name, workers in (("one", 1), ("four", 4)):
        space = (Dimension("training.encoder_lr", choices=rates),)
        sweep = new_sweep(
            tmp_path / name, space=space, sampler="grid", trials=6, seeds=0, lease_seconds=30.0
        )
        worker(sweep).run()
        more = new_sweep(
            tmp_path / name, space=space, sampler="grid", trials=20, seeds=0, lease_seconds=30.0
        )
        processes = [start(more, STUB_PAUSE="3") for _ in range(workers)]
        assert [process.wait(timeout=100) for process in processes] == [0] * workers
        states.append({t.parameters.get("training.encoder_lr"): t.state for t in table(more)})
    assert states[0] == states[1]
    assert set(states[0].values()) == {"complete", "pruned"}
