"""Tests of a run that is profiled and then runs out of memory: its trace, speed and advice."""

import contextlib
import csv
import dataclasses
import gzip
import io
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from signvit_jax.commands import train
from signvit_jax.optimization.compiling_ahead import CompiledSteps
from signvit_jax.telemetry import throughput
from signvit_jax.training import step_programs
from tests.helpers import tiny_run


class OutOfMemoryAtStep4(CompiledSteps):
    """A training step whose fourth call runs out of memory in XLA."""

    calls = 0

    def __call__(self, state, batch):
        self.calls += 1
        if self.calls < 4:
            return super().__call__(state, batch)
        # XLA cannot allocate these 4 exabytes. Without "allow", the transfer guard of the training
        # loop would raise another error: `jnp.zeros` moves its 0 to the device.
        with jax.transfer_guard("allow"):
            return jax.block_until_ready(jnp.zeros((2**30, 2**30)))


@dataclasses.dataclass(frozen=True)
class StoppedRun:
    """A run that ended by an error in its fourth step."""

    workdir: Path
    exit_code: int
    messages: str  # standard error


@pytest.fixture(scope="module")
def stopped(trained, tmp_path_factory) -> StoppedRun:
    workdir = tmp_path_factory.mktemp("profiled")
    flags = [
        f"--config={trained.config}",
        f"--workdir={workdir}",
        "--profile=2:3",
        "--config.training.eval_every_n_epochs=6",
    ]
    messages = io.StringIO()
    with (
        tiny_run.light_jax(trained.cache),
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stderr(messages),
    ):
        patch.setattr(step_programs, "CompiledSteps", OutOfMemoryAtStep4)
        # MFU needs the peak FLOP/s of the device, which is not known for CPUs.
        patch.setattr(throughput, "peak_flops", lambda kind: 1e12)
        code = tiny_run.command(train.main, *flags)
    return StoppedRun(workdir, code, messages.getvalue())


def test_the_requested_steps_are_profiled(stopped):
    (trace,) = (stopped.workdir / "profile").rglob("*.trace.json.gz")
    with gzip.open(trace) as file:
        events = json.load(file)["traceEvents"]
    assert [e["args"]["step_num"] for e in events if e.get("name") == "train"] == ["2", "3"]


def test_the_metrics_have_the_speed_of_every_step(stopped):
    with (stopped.workdir / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3  # the steps before the one that failed
    for name in ("clips_per_second", "frames_per_second", "data_wait", "mfu"):
        assert all(float(row[f"train/{name}"]) >= 0 for row in rows)
    assert all(0 < float(row["train/mfu"]) < 1 for row in rows)
    assert "train/peak_memory_gib" not in rows[0]  # a CPU does not report its memory use


def test_out_of_memory_is_exit_5_with_advice(stopped):
    assert stopped.exit_code == 5, stopped.messages
    parts_in_order = (
        "out of memory: RESOURCE_EXHAUSTED",
        "gradients and activations",
        "1. --config.training.gradient_acc",
    )
    positions = [stopped.messages.find(part) for part in parts_in_order]
    assert -1 not in positions and positions == sorted(positions), stopped.messages
    assert "not compiled" not in stopped.messages and "Traceback" not in stopped.messages


@pytest.mark.usefixtures("light_jax")
def test_profiling_that_ends_before_it_begins_is_refused(trained, tmp_path, capsys):
    flags = [f"--config={trained.config}", f"--workdir={tmp_path}", "--profile=5:4"]
    assert tiny_run.command(train.main, *flags) == 2
    assert "allowed: a number of steps" in capsys.readouterr().err
