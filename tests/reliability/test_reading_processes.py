"""Reading processes that end early: an error with its cause, and never a hang."""

import os
import shutil
import signal
import time

import pytest

from tests.helpers import tiny_run
from tests.helpers.reliability_runs import (
    TOTAL,
    batches,
    can_mount,
    processes_of_session,
    wait_until,
)

pytestmark = pytest.mark.long

LIMIT_S = 30.0  # for the error, after the start of the run
START_S = 400.0  # for a start on a busy machine


def test_a_killed_reading_process_ends_the_run_and_none_is_left(run, undisturbed):
    shutil.copytree(undisturbed.workdir, run.workdir)
    # Without evaluations, whose compilation would take a part of LIMIT_S.
    flags = (
        "--config.data.num_workers=2",
        "--config.training.num_epochs=1000",
        "--config.training.eval_every_n_epochs=1000",
    )

    def started() -> list[int]:
        """Start the run; return its processes after its second step (it compiles in the first)."""
        before = max(batches(run), default=0) if run.trace.exists() else TOTAL
        run.start(*flags)
        made_two_steps = wait_until(
            lambda: run.trace.exists() and max(batches(run), default=0) > before + 1, START_S
        )
        assert made_two_steps, run.messages()
        return processes_of_session(run.process)

    readers = [process for process in started() if process != run.process]
    assert f"resumed from the checkpoint of step {TOTAL}" in run.messages()
    assert f"config.training.num_epochs is now 1000; it was {tiny_run.EPOCHS}" in run.messages()
    assert len(readers) >= 2
    begin = time.monotonic()
    os.kill(readers[-1], signal.SIGKILL)
    assert run.wait() == 2 and time.monotonic() - begin < LIMIT_S, run.messages()[-2000:]
    assert "a reading process ended before its work was done" in run.messages()
    assert "data.num_workers=0" in run.messages()
    assert "Traceback" not in run.messages()
    assert wait_until(lambda: not processes_of_session(run.process), 60.0)

    assert len(started()) >= 3
    begin = time.monotonic()
    os.killpg(run.process, signal.SIGINT)  # reaches the reading processes too, like Ctrl-C
    assert run.wait() == 130 and time.monotonic() - begin < LIMIT_S, run.messages()[-2000:]
    assert wait_until(lambda: not processes_of_session(run.process), 60.0)
    assert "Traceback" not in run.messages()
    assert run.steps()[-1] > TOTAL

    assert len(started()) >= 3
    os.kill(run.process, signal.SIGKILL)  # reaches only the trainer
    assert run.wait() == -signal.SIGKILL
    assert wait_until(lambda: not processes_of_session(run.process), 60.0)


@pytest.mark.skipif(
    not can_mount(),
    reason="this machine does not let processes mount file systems (unshare -Urm)",
)
def test_too_little_shared_memory_is_an_error_not_a_hang(run):
    small_shm = [["-t", "tmpfs", "-o", "size=64k", "none", "/dev/shm"]]
    run.start("--config.data.num_workers=1", mounts=small_shm)
    reading_begins = "steps per epoch, at step 0"  # in the log
    assert wait_until(lambda: reading_begins in run.messages(), START_S)
    begin = time.monotonic()
    assert run.wait() == 2 and time.monotonic() - begin < LIMIT_S, run.messages()[-2000:]
    assert "/dev/shm is too small" in run.messages()
    assert "data.num_workers=0" in run.messages()
    assert "Traceback" not in run.messages()
    assert not run.trace.exists() or len(batches(run)) < TOTAL
