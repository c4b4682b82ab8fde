"""Reading processes that end before their time: an error with its cause, and never a wait."""

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

# The data set makes the difference between a wait and an error: it is to come within 30 s, the start of the run on a busy machine left out.
LIMIT_S = 30.0
START_S = 400.0


def test_more_epochs_extend_a_run_a_killed_reading_process_ends_it_and_no_end_leaves_a_process_behind(
    run, undisturbed
):
    shutil.copytree(undisturbed.workdir, run.workdir)
    # No evaluation: the seconds that one compiles for are not those that an error of the readers takes.
    many = (
        "--config.data.num_workers=2",
        "--config.training.num_epochs=1000",
        "--config.training.eval_every_n_epochs=1000",
    )

    def started() -> list[int]:
        """The processes of the run, once it is in steps that come after those of before, the first of which it compiles for."""
        before = max(batches(run)) if run.trace.exists() else TOTAL
        run.start(*many)
        assert wait_until(lambda: run.trace.exists() and max(batches(run)) > before + 1, START_S), (
            run.said()
        )
        return processes_of_session(run.process)

    readers = [process for process in started() if process != run.process]
    assert f"resumed from the checkpoint of step {TOTAL}" in run.said()
    assert f"config.training.num_epochs is now 1000; it was {tiny_run.EPOCHS}" in run.said()
    assert len(readers) >= 2
    begin = time.monotonic()
    os.kill(readers[-1], signal.SIGKILL)
    assert run.wait() == 2 and time.monotonic() - begin < LIMIT_S, run.said()[-2000:]
    assert (
        "a reading process ended before its work was done" in run.said()
        and "data.num_workers=0" in run.said()
        and "Traceback" not in run.said()
    )
    assert wait_until(lambda: not processes_of_session(run.process), 60.0)

    assert len(started()) >= 3
    begin = time.monotonic()
    os.killpg(run.process, signal.SIGINT)  # as a terminal does: to the reading processes too
    assert run.wait() == 130 and time.monotonic() - begin < LIMIT_S, run.said()[-2000:]
    assert wait_until(lambda: not processes_of_session(run.process), 60.0)
    assert "Traceback" not in run.said()
    assert run.steps()[-1] > TOTAL

    assert len(started()) >= 3
    os.kill(run.process, signal.SIGKILL)  # the trainer alone
    assert run.wait() == -signal.SIGKILL
    assert wait_until(lambda: not processes_of_session(run.process), 60.0)


@pytest.mark.skipif(
    not can_mount(),
    reason="this machine lets no process mount file systems of its own (unshare -Urm)",
)
def test_a_shared_memory_too_small_for_the_reading_processes_is_an_error_with_its_cause_and_no_hang(
    run,
):
    small = [["-t", "tmpfs", "-o", "size=64k", "none", "/dev/shm"]]
    run.start("--config.data.num_workers=1", mounts=small)
    assert wait_until(
        lambda: "steps an epoch, at step 0" in run.said(), START_S
    )  # the run begins to read
    begin = time.monotonic()
    assert run.wait() == 2 and time.monotonic() - begin < LIMIT_S, run.said()[-2000:]
    assert (
        "/dev/shm is too small" in run.said()
        and "data.num_workers=0" in run.said()
        and "Traceback" not in run.said()
    )
    assert not run.trace.exists() or len(batches(run)) < TOTAL
