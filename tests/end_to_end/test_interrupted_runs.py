"""A run that is stopped in every way there is ends as one that was left alone; a finished one is left alone."""

import csv
import logging
import shutil
import signal
import time

import jax
import numpy as np
import pytest
import tiny_run

from signvit_jax import train
from signvit_jax.training.checkpoint_reader import CheckpointReader

TOTAL = tiny_run.STEPS_PER_EPOCH * tiny_run.EPOCHS


def last_logged_step(workdir) -> int:
    try:
        with (workdir / "metrics.csv").open(newline="") as file:
            return max((int(row["step"]) for row in csv.DictReader(file) if (row["step"] or "").isdigit()), default=0)
    except FileNotFoundError:
        return 0


def checkpoints(workdir) -> list[int]:
    return CheckpointReader(workdir / "checkpoints").steps()


def stop(trained, workdir, number: signal.Signals, ready) -> tuple[int, str]:
    """Starts the run, sends the signal once `ready()`; (exit code, what it printed)."""
    process = tiny_run.start("signvit_jax.train", f"--config={trained.config}", f"--workdir={workdir}", cache=trained.cache)
    end = time.monotonic() + 120
    try:
        while not ready() and process.poll() is None and time.monotonic() < end:
            time.sleep(0.01)
        process.send_signal(number)
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    return process.returncode, output


def test_interrupted_terminated_and_killed_a_run_ends_with_the_parameters_of_one_left_alone(trained, tmp_path):
    workdir = tmp_path / "run"

    code, output = stop(trained, workdir, signal.SIGINT, lambda: last_logged_step(workdir) >= 1)
    assert code == 130, output
    reached = last_logged_step(workdir)
    assert 1 <= reached < TOTAL
    assert checkpoints(workdir)[-1] == reached  # in mid-epoch: nothing that was computed is lost

    code, output = stop(trained, workdir, signal.SIGTERM, lambda: last_logged_step(workdir) > reached)
    assert code == 143, output
    assert f"resumed from the checkpoint of step {reached}" in output
    reached = last_logged_step(workdir)
    assert checkpoints(workdir)[-1] == reached < TOTAL

    code, output = stop(trained, workdir, signal.SIGKILL, lambda: max(checkpoints(workdir), default=0) > reached)
    assert code == -signal.SIGKILL, output
    newest = checkpoints(workdir)[-1]
    assert newest < TOTAL

    with tiny_run.light_jax(trained.cache):
        assert tiny_run.command(train.main, f"--config={trained.config}", f"--workdir={workdir}") == 0
    assert f"resumed from the checkpoint of step {newest}" in (workdir / "run.log").read_text()
    with (workdir / "metrics.csv").open(newline="") as file:
        assert [int(row["step"]) for row in csv.DictReader(file)] == list(range(1, TOTAL + 1))
    for averages in (False, True):
        ours, theirs = (CheckpointReader(folder / "checkpoints").restore_params("last", prefer_ema=averages) for folder in (workdir, trained.workdir))
        assert ours.step == theirs.step == TOTAL and ours.averaged == averages
        jax.tree.map(np.testing.assert_array_equal, ours.params, theirs.params)


@pytest.mark.usefixtures("light_jax")
def test_a_finished_run_says_so_and_compiles_no_step(trained, tmp_path, caplog):
    workdir = shutil.copytree(trained.workdir, tmp_path / "run")
    before = (workdir / "metrics.csv").read_bytes()
    jax.config.update("jax_log_compiles", True)
    try:
        with caplog.at_level(logging.INFO):
            assert tiny_run.command(train.main, f"--config={trained.config}", f"--workdir={workdir}") == 0
    finally:
        jax.config.update("jax_log_compiles", False)
    assert "nothing to do" in caplog.text
    assert "train_step" not in caplog.text
    assert (workdir / "metrics.csv").read_bytes() == before
    assert checkpoints(workdir) == checkpoints(trained.workdir)
