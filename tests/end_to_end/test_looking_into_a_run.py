"""What a run says of its speed and its memory: a trace of its steps, figures in the log, and why there was not room enough."""

import csv
import gzip
import json

import jax
import jax.numpy as jnp

from signvit_jax.commands import train
from signvit_jax.optimization.compiled_steps import CompiledSteps
from signvit_jax.telemetry import throughput
from signvit_jax.training import step_programs
from tests.helpers import tiny_run


def test_steps_are_traced_speed_is_logged_and_one_that_does_not_fit_ends_the_run_with_5_and_advice(
    trained, light_jax, tmp_path, capsys, monkeypatch
):
    class TooLargeInTheEnd(CompiledSteps):
        """The step; the fourth is refused."""

        done = 0

        def __call__(self, state, batch):
            self.done += 1
            if self.done < 4:
                return super().__call__(state, batch)
            # 4 exabytes: XLA itself refuses them. The loop's guard would refuse the zero.
            with jax.transfer_guard("allow"):
                return jax.block_until_ready(jnp.zeros((2**30, 2**30)))

    monkeypatch.setattr(step_programs, "CompiledSteps", TooLargeInTheEnd)
    monkeypatch.setattr(
        throughput, "peak_flops", lambda kind: 1e12
    )  # this CPU's kind is not in the table
    flags = [
        f"--config={trained.config}",
        f"--workdir={tmp_path}",
        "--profile=2:3",
        "--config.training.eval_every_n_epochs=6",
    ]
    assert tiny_run.command(train.main, *flags) == 5

    with gzip.open(next((tmp_path / "profile").rglob("*.trace.json.gz"))) as file:
        steps = [
            event["args"]["step_num"]
            for event in json.load(file)["traceEvents"]
            if event.get("name") == "train"
        ]
    assert steps == ["2", "3"]

    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3
    for name in ("clips_per_second", "frames_per_second", "data_wait", "mfu"):
        assert all(float(row[f"train/{name}"]) >= 0 for row in rows)
    assert all(0 < float(row["train/mfu"]) < 1 for row in rows)
    assert "train/peak_memory_gib" not in rows[0]  # a CPU's device says nothing of its memory

    said = capsys.readouterr().err
    places = [
        said.find(part)
        for part in (
            "out of memory: RESOURCE_EXHAUSTED",
            "gradients and activations",
            "1. --config.training.gradient_acc",
        )
    ]
    assert -1 not in places and places == sorted(places), said
    assert "not compiled" not in said and "Traceback" not in said


def test_wrong_steps_to_trace_are_refused(trained, tmp_path, capsys):
    assert (
        tiny_run.command(
            train.main, f"--config={trained.config}", f"--workdir={tmp_path}", "--profile=5:4"
        )
        == 2
    )
    assert "allowed: how many steps" in capsys.readouterr().err
