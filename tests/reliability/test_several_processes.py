"""Two processes, a device each, train one model: they stop together, go on together, and where one is killed the other does not wait for it."""

import dataclasses
import json
import signal
import time

import numpy as np
import pytest

from signvit_jax.cli.flag_parser import parser
from signvit_jax.cli.processes import add_process_flags, join_processes
from signvit_jax.config.errors import ConfigError
from tests.helpers import tiny_run
from tests.helpers.free_port import free_port
from tests.helpers.reliability_runs import TOTAL, batches, figures


@pytest.fixture
def pair(run):
    """Starts both processes on one workdir; with a fault in one of them."""
    both = [dataclasses.replace(run, name=f"process_{number}") for number in range(2)]

    def start(fault: dict | None = None, faulty: int = 1) -> list:
        port = free_port()
        for number, one in enumerate(both):
            joined = [
                f"--coordinator=127.0.0.1:{port}",
                "--num_processes=2",
                f"--process_id={number}",
            ]
            one.start(*joined, fault=fault if number == faulty else None)
        return both

    return start


@pytest.mark.long
def test_two_processes_train_as_one_stop_together_and_go_on_after_one_was_killed(
    pair, run, undisturbed
):
    # A signal to one of them stops both, at the same step.
    first, second = pair({"phase": "step", "count": 4, "signals": [[0.0, int(signal.SIGUSR1)]]})
    assert [first.wait(), second.wait(60)] == [143, 143], (
        first.said()[-3000:] + second.said()[-3000:]
    )
    stopped = max(batches(first))
    assert 4 <= stopped == max(batches(second)) == run.steps()[-1] < TOTAL

    # One is killed: the other ends, and says why.
    first, second = pair(
        {"phase": "step", "count": 9, "signals": [[0.0, int(signal.SIGKILL)]], "hang": 5}
    )
    assert second.wait() == -signal.SIGKILL, second.said()[-3000:]
    begin = time.monotonic()
    assert first.wait(60) != 0
    assert time.monotonic() - begin < 60
    assert "another one has ended" in first.said(), first.said()[-3000:]
    assert f"resumed from the checkpoint of step {stopped}" in first.said()

    # Started again they go on to the end.
    first, second = pair()
    assert [first.wait(), second.wait(60)] == [0, 0], first.said()[-3000:] + second.said()[-3000:]
    assert run.steps()[-1] == TOTAL

    # Over both, each epoch has every clip once; each took the same steps, and made again what was lost, the same.
    halves = [batches(one) for one in (first, second)]
    assert all(
        half.keys() == set(range(1, TOTAL + 1)) and all(len(taken) == 1 for taken in half.values())
        for half in halves
    )
    for epoch in range(tiny_run.EPOCHS):
        steps = range(
            epoch * tiny_run.STEPS_PER_EPOCH + 1, (epoch + 1) * tiny_run.STEPS_PER_EPOCH + 1
        )
        clips = [
            clip for half in halves for step in steps for taken, _ in half[step] for clip in taken
        ]
        assert sorted(clips) == list(range(tiny_run.CLIPS["train"]))

    # The numbers are those of one process with the whole batch, up to the order of sums.
    for name in ("train/loss", "validation/loss"):
        ours, theirs = (
            [float(row[name]) for row in figures(one) if row[name]] for one in (run, undisturbed)
        )
        np.testing.assert_allclose(ours, theirs, rtol=2e-3)


@pytest.mark.long
@pytest.mark.parametrize("faulty", [0, 1])
@pytest.mark.parametrize("phase", ["save", "manifest", "eval"])
def test_whichever_of_two_is_killed_the_other_ends_within_a_minute(pair, phase, faulty):
    if (phase, faulty) == ("manifest", 1):
        pytest.skip("the first process alone writes the manifest")
    both = pair(
        {"phase": phase, "count": 2, "signals": [[0.0, int(signal.SIGKILL)]], "hang": 5}, faulty
    )
    assert both[faulty].wait() == -signal.SIGKILL
    begin = time.monotonic()
    assert both[1 - faulty].wait(60) != 0
    assert time.monotonic() - begin < 60
    assert both[1 - faulty].said().strip()


def parsed(*flags: str):
    flag_parser = parser("", "")
    add_process_flags(flag_parser)
    return flag_parser.parse_args(flags)


@pytest.fixture
def initialized(monkeypatch):
    """What jax.distributed was told."""
    calls = []
    monkeypatch.setattr("jax.distributed.initialize", lambda *given, **options: calls.append(given))
    for name in ("JOB_COMPLETION_INDEX", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    return calls


def test_one_process_joins_nothing_and_several_find_each_other(initialized, monkeypatch):
    join_processes(parsed())
    assert initialized == []
    join_processes(parsed("--coordinator=node01:1234", "--num_processes=4", "--process_id=3"))
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "2")  # of an indexed Kubernetes job
    join_processes(parsed("--coordinator=node01:1234", "--num_processes=4"))
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "8")
    join_processes(parsed())
    assert initialized == [("node01:1234", 4, 3), ("node01:1234", 4, 2), ()]
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    join_processes(parsed())
    assert len(initialized) == 3


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--num_processes=2"], "--coordinator and --process_id missing"),
        (["--coordinator=a:1", "--num_processes=2", "--process_id=2"], "allowed: 0 to 1"),
        (["--coordinator=node", "--num_processes=2", "--process_id=0"], "HOST:PORT"),
    ],
)
def test_flags_of_several_processes_that_do_not_fit_are_refused(initialized, flags, said):
    with pytest.raises(ConfigError, match=said):
        join_processes(parsed(*flags))
    assert initialized == []


def test_the_trace_is_one_line_a_batch(undisturbed):
    assert [json.loads(line)[0] for line in undisturbed.trace.read_text().splitlines()] == list(
        range(1, TOTAL + 1)
    )
