"""Trackers in real runs: what `train` sends when it is stopped, finishes, or fails."""

import dataclasses
import json
import logging
import sys
from pathlib import Path

import pytest

from signvit_jax.commands import train
from signvit_jax.config.schema import flatten, from_json
from signvit_jax.telemetry.metrics_file import read_rows
from signvit_jax.training.divergence import StepWatch, TrainingDivergedError
from tests.helpers import tiny_run

FAKES = Path(__file__).parents[1] / "helpers" / "fake_trackers"
TRACKERS = ("wandb", "mlflow", "trackio")
MODULES = (*TRACKERS, "mlflow.entities", "recording")


class Calls:
    """The calls that the stand-ins for trackers record in a file."""

    def __init__(self, file: Path):
        self.file = file

    def take(self) -> dict[str, list[dict]]:
        """Return the calls by tracker, in order, and delete the file."""
        calls = [json.loads(line) for line in self.file.read_text().splitlines()]
        self.file.unlink()
        return {name: [call for call in calls if call["tracker"] == name] for name in TRACKERS}


@pytest.fixture
def calls(tmp_path, monkeypatch, light_jax):
    monkeypatch.setenv("FAKE_TRACKER_CALLS", str(tmp_path / "calls.jsonl"))
    monkeypatch.syspath_prepend(FAKES)
    yield Calls(tmp_path / "calls.jsonl")
    for module in MODULES:
        sys.modules.pop(module, None)


def run_train(trained, workdir, names=TRACKERS) -> int:
    """Train with trackers; return the exit code."""
    return tiny_run.command(
        train.main,
        f"--config={trained.config}",
        f"--workdir={workdir}",
        f"--tracker={','.join(names)}",
    )


def metrics_of(workdir: Path, after: int = 0) -> dict[int, dict[str, float]]:
    """Return step -> finite metrics of its row in metrics.csv, of the steps after `after`."""
    _, rows = read_rows(workdir / "metrics.csv")
    return {
        int(row["step"]): {
            name: float(text) for name, text in row.items() if name != "step" and text != "nan"
        }
        for row in rows
        if int(row["step"]) > after
    }


def sent_metrics(sent: list[dict]) -> dict[int, dict[str, float]]:
    """Return step -> metrics that a tracker got, without the summary at the end."""
    metrics: dict[int, dict[str, float]] = {}
    for call in sent:
        if call["call"] == "log" and not any(name.startswith("best/") for name in call["values"]):
            metrics.setdefault(call["step"], {}).update(call["values"])
    return metrics


def same(sent: dict[int, dict[str, float]], written: dict[int, dict[str, float]]) -> bool:
    """Return True if sent and written metrics are equal to the digits of metrics.csv."""
    return sent.keys() == written.keys() and all(
        values == pytest.approx(written[step], rel=1e-7) for step, values in sent.items()
    )


def best_of(workdir: Path) -> dict[str, float]:
    """Return the summary of a run: the lowest validation loss, and the last epoch that has it."""
    losses = {
        step: row["validation/loss"]
        for step, row in metrics_of(workdir).items()
        if "validation/loss" in row
    }
    best = min(losses.values())
    latest = max(step for step, loss in losses.items() if loss == best)
    return {"best/loss": best, "best/epoch": latest // tiny_run.STEPS_PER_EPOCH}


@pytest.mark.long
def test_trackers_get_all_metrics_of_a_stopped_and_resumed_run(
    trained, tmp_path, calls, monkeypatch, caplog
):
    workdir = tmp_path / "run"
    monkeypatch.setenv("FAKE_TRACKER_SIGTERM", "wandb")
    assert run_train(trained, workdir) == 143
    stopped = calls.take()
    done = max(metrics_of(workdir))
    assert done < tiny_run.EPOCHS * tiny_run.STEPS_PER_EPOCH
    written = flatten(dataclasses.asdict(from_json((workdir / "config.json").read_text())))
    for name, sent in stopped.items():
        assert sent[0]["call"] == "init" and sent[-1]["call"] == "finish", name
        config = {key: value for call in sent for key, value in call.get("config", {}).items()}
        assert config.keys() == written.keys()
        assert str(config["training.num_epochs"]) == str(tiny_run.EPOCHS)
        assert str(config["model.decoder.hidden_dim"]) == "16"
        assert not any(str(tmp_path.parent) in str(value) for value in config.values())
        assert same(sent_metrics(sent), metrics_of(workdir)), name
    assert {name: sent[-1].get("status") for name, sent in stopped.items()} == {
        "wandb": 1,
        "mlflow": "KILLED",
        "trackio": 0,
    }

    # The same command continues the runs of the trackers; the server of trackio is unreachable.
    monkeypatch.setenv("FAKE_TRACKER_RAISES", "trackio")
    with caplog.at_level(logging.WARNING):
        assert run_train(trained, workdir) == 0
    finished = calls.take()
    for name in ("wandb", "mlflow"):
        sent = finished[name]
        assert sent[0]["id"] == f"made-by-{name}" and sent[-1]["call"] == "finish"
        # If the signal came at the end of an epoch, its validation is sent by this start.
        later = {step: values for step, values in sent_metrics(sent).items() if step > done}
        assert same(later, metrics_of(workdir, after=done)), name
    assert finished["wandb"][-1]["status"] == 0
    assert finished["wandb"][-1]["summary"] == pytest.approx(best_of(workdir))
    assert finished["mlflow"][-1]["status"] == "FINISHED"
    *_, summary, _ = finished["mlflow"]
    assert summary["values"] == pytest.approx(best_of(workdir))
    assert summary["step"] == max(metrics_of(workdir))

    # Trackio did not disturb the run. Its error was reported once, and its missing rows counted.
    assert {call["call"] for call in finished["trackio"]} == {"init"}
    messages = [record.getMessage() for record in caplog.records]
    messages = [message for message in messages if "trackio" in message]
    rows = sum(len(call["values"]) > 0 for call in finished["wandb"] if call["call"] == "log")
    assert len(messages) == 2 and "no network" in messages[0] and "the run continues" in messages[0]
    assert f"tracker trackio lacks {rows} of this run's records" in messages[1]


@pytest.mark.long
def test_trackers_get_the_failed_end_of_a_run(trained, tmp_path, calls, monkeypatch):
    add = StepWatch.add

    def fail_at_two(self, step, index, report):
        if step == 2:
            raise TrainingDivergedError("the loss is not finite")
        add(self, step, index, report)

    monkeypatch.setattr(StepWatch, "add", fail_at_two)
    assert run_train(trained, tmp_path / "run") == 1
    for name, sent in calls.take().items():
        assert sent_metrics(sent).keys() == {1}, name
        assert sent[-1]["call"] == "finish"
        assert sent[-1]["status"] == {"wandb": 1, "mlflow": "FAILED", "trackio": 0}[name]
