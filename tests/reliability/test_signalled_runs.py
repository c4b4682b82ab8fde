"""Signals to a run: the first one saves and ends it in any phase, the second ends it at once."""

import contextlib
import os
import signal
import threading
import time

import pytest

from signvit_jax.config.errors import ConfigError
from signvit_jax.runtime.slurm import check_requeue, requeue_after
from tests.helpers.reliability_runs import (
    SAVED,
    TOTAL,
    assert_same_run,
    batches,
    processes_of_session,
    wait_until,
)

INT, TERM, USR1, HUP = (
    int(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
)
GRACE_S = 30.0  # a run must end within this time after the signal
HANG_S = 120.0  # a phase is made this long, so that only a signal can end it in time


def one_signal(phase: str, number: int, count: int = 1) -> dict:
    """Return a fault: the signal `number` when the run enters `phase` for the `count`-th time."""
    return {"phase": phase, "count": count, "signals": [[0.0, number]], "hang": 0.3}


def fake_scontrol(folder, script: str) -> dict[str, str]:
    """Create a command `scontrol`; return the environment in which it is found."""
    folder.mkdir()
    (folder / "scontrol").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "scontrol").chmod(0o755)
    return {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "SLURM_JOB_ID": "4711"}


@pytest.mark.parametrize(
    "stops",
    [
        [
            (one_signal("step", INT, 2), 130),
            (one_signal("eval", TERM, 2), 143),
            (one_signal("step", HUP, 14), 129),
        ],
        pytest.param(
            [(one_signal("save", USR1, 2), 143), (one_signal("step", USR1, 9), 143)],
            marks=pytest.mark.long,
        ),
    ],
    ids=["ctrl_c_scancel_and_a_closed_terminal", "slurm"],
)
def test_the_first_signal_saves_and_ends_without_loss(run, undisturbed, tmp_path, stops):
    requeues = tmp_path / "requeues"
    environment = fake_scontrol(tmp_path / "bin", f'echo "$@" >> {requeues}')
    reached = 0
    for fault, code in stops:
        assert not requeues.exists()  # the job is requeued only with --requeue
        earlier = reached
        flags = ["--requeue"] if reached else []
        assert run.go(*flags, fault=fault, **environment) == code, run.messages()[-2000:]
        assert run.since_signal() < GRACE_S
        text = run.messages()
        saved_stops = text.count("stopped and saved; to resume:")
        assert text.count("lost since the last checkpoint: 0 steps") == saved_stops
        command = f"python -m signvit_jax.train --config={run.config} --workdir={run.workdir}"
        assert f"to resume:\n  {command}" in text
        reached = max(batches(run))
        assert run.steps()[-1] == reached and earlier < reached < TOTAL
    # Only SIGUSR1, which announces the time limit, requeues a job; a canceled job stays canceled.
    _, last_signal = stops[-1][0]["signals"][0]
    assert requeues.exists() == (last_signal == USR1)
    assert not requeues.exists() or requeues.read_text() == "requeue 4711\n"
    assert run.go("--config.inference.beam_size=3") == 0
    # Changes that a resumed run may make are reported.
    assert "config.inference.beam_size is now 3; it was 2" in run.messages()
    resumed_from = [
        line.split()[-1]
        for line in run.messages().splitlines()
        if "resumed from the checkpoint of step" in line
    ]
    assert resumed_from[-1] == str(reached)
    assert_same_run(run, undisturbed)
    # No step was replayed.
    assert all(len(batches_of_step) == 1 for batches_of_step in batches(run).values())
    assert run.trace.read_text().count("\n") == TOTAL


@pytest.mark.long
@pytest.mark.parametrize("nohup", [False, True])
def test_a_closed_terminal_ends_the_run_unless_under_nohup(run, undisturbed, nohup):
    """The run draws its progress bar on a terminal; writing there fails once it is closed."""
    our_end, run_end = os.openpty()
    terminal = os.ttyname(run_end)
    reader = threading.Thread(target=read_all, args=(our_end,), daemon=True)
    reader.start()
    # The run waits in step 4, so that the terminal is closed during the step.
    run.start(
        fault={"phase": "step", "count": 4, "hang": 3.0},
        output=terminal,
        **({"TRACED_NOHUP": "1"} if nohup else {}),
    )
    os.close(run_end)
    assert wait_until(lambda: run.trace.exists() and max(batches(run), default=0) >= 4, 200)
    closed = time.monotonic()
    os.close(our_end)
    assert run.wait() == (0 if nohup else 129)
    assert nohup or time.monotonic() - closed < GRACE_S
    log = (run.workdir / "run.log").read_text()
    assert ("SIGHUP: stopping and saving" in log) == (not nohup) and "Traceback" not in log
    if not nohup:
        assert run.steps()[-1] == max(batches(run)) < TOTAL
        assert run.go() == 0
    assert_same_run(run, undisturbed)


def read_all(descriptor: int) -> None:
    with contextlib.suppress(OSError):
        while os.read(descriptor, 4096):
            pass


@pytest.mark.long
@pytest.mark.parametrize(("phase", "number", "code"), [("compile", TERM, 143), ("eval", INT, 130)])
def test_if_nothing_can_be_lost_the_first_signal_ends_at_once(
    run, undisturbed, phase, number, code
):
    fault = {"phase": phase, "count": 1, "signals": [[0.2, number]], "hang": HANG_S}
    assert run.go(fault=fault) == code
    assert run.since_signal() < GRACE_S
    # A checkpoint is saved before the first evaluation.
    assert run.steps() == ([] if phase == "compile" else [SAVED])
    assert not processes_of_session(run.process)


@pytest.mark.long
@pytest.mark.parametrize("phase", ["step", "save", "eval", "manifest"])
def test_the_second_signal_ends_at_once_from_any_phase(run, phase):
    # In the first evaluation one signal is enough to end at once.
    fault = {"phase": phase, "count": 2, "signals": [[0.0, TERM], [0.6, TERM]], "hang": HANG_S}
    assert run.go(fault=fault) == 143, run.messages()[-2000:]
    assert run.since_signal() < GRACE_S
    assert not processes_of_session(run.process)


def test_a_canceled_job_is_not_requeued(monkeypatch, tmp_path):
    requeued = tmp_path / "requeued"
    for name, value in fake_scontrol(tmp_path / "bin", f"touch {requeued}").items():
        monkeypatch.setenv(name, value)
    for number in (TERM, INT, 0):
        requeue_after(number)
    assert not requeued.exists()
    requeue_after(USR1)
    assert requeued.exists()


def test_a_failed_requeue_is_reported(monkeypatch, tmp_path, caplog):
    for name, value in fake_scontrol(tmp_path / "bin", "echo 'invalid job id' >&2; exit 1").items():
        monkeypatch.setenv(name, value)
    requeue_after(USR1)
    assert "job 4711 could not be requeued" in caplog.text
    assert "invalid job id" in caplog.text
    monkeypatch.setenv("PATH", str(tmp_path))
    requeue_after(USR1)
    assert "No such file" in caplog.text


def test_requeue_outside_slurm_is_refused(monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with pytest.raises(ConfigError, match=r"--requeue was given.*SLURM_JOB_ID"):
        check_requeue()


def test_a_run_with_a_closed_output_pipe_saves_on_a_signal(run):
    # As in: train 2>&1 | head -1
    os.mkfifo(run.output)
    lines = []

    def head():
        with run.output.open() as pipe:
            lines.append(pipe.readline())

    reader = threading.Thread(target=head, daemon=True)
    reader.start()
    assert run.go(fault=one_signal("step", TERM, 9)) == 143
    reader.join(60)
    assert lines and lines[0].strip()
    assert run.steps()[-1] == max(batches(run)) < TOTAL
