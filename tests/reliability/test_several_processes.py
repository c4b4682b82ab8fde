"""Two processes with one device each, which train one model and stop and resume together.

If one process is killed, the other does not wait for it.
"""

import dataclasses
import json
import signal
import time

import numpy as np
import pytest

from signvit_jax.cli.processes import add_process_flags, join_processes
from signvit_jax.config.errors import ConfigError
from signvit_jax.runtime.command_line import parser
from tests.helpers import tiny_run
from tests.helpers.free_port import free_port
from tests.helpers.reliability_runs import SAVED, TOTAL, batches, figures


@pytest.fixture
def pair(run):
    """A function that starts two processes on one workdir, the process `faulty` with a fault."""
    processes = [dataclasses.replace(run, name=f"process_{number}") for number in range(2)]

    def start(fault: dict | None = None, faulty: int = 1) -> list:
        port = free_port()
        for number, process in enumerate(processes):
            flags = [
                f"--coordinator=127.0.0.1:{port}",
                "--num_processes=2",
                f"--process_id={number}",
            ]
            process.start(*flags, fault=fault if number == faulty else None)
        return processes

    return start


def assert_trained_to_the_end(pair, run, undisturbed, resumed_from):
    """Restart both processes; compare all their steps with those of a run in one process."""
    first, second = pair()
    assert [first.wait(), second.wait(60)] == [0, 0], (
        first.messages()[-3000:] + second.messages()[-3000:]
    )
    assert f"resumed from the checkpoint of step {resumed_from}" in first.messages()
    assert run.steps()[-1] == TOTAL

    # Both took the same steps, and replayed steps had the same batches.
    halves = [batches(process) for process in (first, second)]
    for half in halves:
        assert half.keys() == set(range(1, TOTAL + 1))
        assert all(len(batches_of_step) == 1 for batches_of_step in half.values())
    # In each epoch, the two processes together read every clip once.
    for epoch in range(tiny_run.EPOCHS):
        first_step = epoch * tiny_run.STEPS_PER_EPOCH + 1
        clips = []
        for step in range(first_step, first_step + tiny_run.STEPS_PER_EPOCH):
            for half in halves:
                ((clips_of_batch, _),) = half[step]
                clips += clips_of_batch
        assert sorted(clips) == list(range(tiny_run.CLIPS["train"]))

    # The losses equal those of one process with the complete batch, except that sums are rounded
    # in another order.
    for name in ("train/loss", "validation/loss"):
        ours, theirs = (
            [float(row[name]) for row in figures(each) if row[name]] for each in (run, undisturbed)
        )
        np.testing.assert_allclose(ours, theirs, rtol=2e-3)


def test_two_processes_train_stop_and_resume_together(pair, run, undisturbed):
    # A signal to one process stops both, at the same step.
    first, second = pair({"phase": "step", "count": 4, "signals": [[0.0, int(signal.SIGUSR1)]]})
    assert [first.wait(), second.wait(60)] == [143, 143], (
        first.messages()[-3000:] + second.messages()[-3000:]
    )
    stopped = max(batches(first))
    assert 4 <= stopped == max(batches(second)) == run.steps()[-1] < TOTAL
    assert_trained_to_the_end(pair, run, undisturbed, resumed_from=stopped)


@pytest.mark.long
def test_two_processes_resume_after_one_was_killed_in_a_step(pair, run, undisturbed):
    first, second = pair(
        {"phase": "step", "count": 9, "signals": [[0.0, int(signal.SIGKILL)]], "hang": 5}
    )
    assert second.wait() == -signal.SIGKILL, second.messages()[-3000:]
    begin = time.monotonic()
    assert first.wait(60) != 0
    assert time.monotonic() - begin < 60
    assert "another one has ended" in first.messages(), first.messages()[-3000:]
    assert_trained_to_the_end(pair, run, undisturbed, resumed_from=SAVED)


@pytest.mark.long
@pytest.mark.parametrize("faulty", [0, 1])
@pytest.mark.parametrize("phase", ["save", "manifest", "eval"])
def test_if_one_process_is_killed_the_other_ends_within_a_minute(pair, phase, faulty):
    if (phase, faulty) == ("manifest", 1):
        pytest.skip("only the first process writes the manifest")
    processes = pair(
        {"phase": phase, "count": 2, "signals": [[0.0, int(signal.SIGKILL)]], "hang": 5}, faulty
    )
    assert processes[faulty].wait() == -signal.SIGKILL
    begin = time.monotonic()
    other = processes[1 - faulty]
    assert other.wait(60) != 0
    assert time.monotonic() - begin < 60
    assert other.messages().strip()


def parsed(*flags: str):
    flag_parser = parser("", "")
    add_process_flags(flag_parser)
    return flag_parser.parse_args(flags)


@pytest.fixture
def initialized(monkeypatch):
    """The positional arguments of each call of jax.distributed.initialize."""
    calls = []
    monkeypatch.setattr(
        "jax.distributed.initialize", lambda *arguments, **options: calls.append(arguments)
    )
    for name in ("JOB_COMPLETION_INDEX", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    return calls


def test_several_processes_join_by_flags_or_environment(initialized, monkeypatch):
    join_processes(parsed())
    assert initialized == []
    join_processes(parsed("--coordinator=node01:1234", "--num_processes=4", "--process_id=3"))
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "2")  # set in an indexed Kubernetes job
    join_processes(parsed("--coordinator=node01:1234", "--num_processes=4"))
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "8")
    join_processes(parsed())
    assert initialized == [("node01:1234", 4, 3), ("node01:1234", 4, 2), ()]
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    join_processes(parsed())
    assert len(initialized) == 3


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--num_processes=2"], "--coordinator and --process_id missing"),
        (["--coordinator=a:1", "--num_processes=2", "--process_id=2"], "allowed: 0 to 1"),
        (["--coordinator=node", "--num_processes=2", "--process_id=0"], "HOST:PORT"),
    ],
)
def test_wrong_flags_of_several_processes_are_refused(initialized, flags, message):
    with pytest.raises(ConfigError, match=message):
        join_processes(parsed(*flags))
    assert initialized == []


def test_the_trace_has_one_line_per_batch(undisturbed):
    steps = [json.loads(line)[0] for line in undisturbed.trace.read_text().splitlines()]
    assert steps == list(range(1, TOTAL + 1))
