"""Trackers: what they get, and that they cannot end or delay a run."""

import json
import logging
import math
import sys
import threading
import time
import types

import pytest

from signvit_jax.checkpoints.workdir import Workdir
from signvit_jax.commands import train
from signvit_jax.runtime.exit_codes import UsageError
from signvit_jax.telemetry import trackers
from signvit_jax.telemetry.metric_writer import MetricsLog
from signvit_jax.telemetry.metrics_file import read_metrics
from signvit_jax.telemetry.trackers import BackgroundTracker, RunEnd, TrackedRun, open_trackers
from tests.helpers import tiny_run

CONFIG = {"training.batch_size": 8, "model.name": "small"}


class FakeRun:
    """A stand-in for the runs that `wandb.init` and `trackio.init` return."""

    def __init__(self, calls, id):
        self.calls, self.id = calls, id

    def log(self, values, step):
        self.calls.append(("log", step, values))

    @property
    def summary(self):
        return types.SimpleNamespace(update=lambda values: self.calls.append(("summary", values)))

    def finish(self, **arguments):
        self.calls.append(("finish", arguments))


def fake_wandb(calls):
    def init(**arguments):
        calls.append(("init", arguments))
        return FakeRun(calls, arguments["id"] or "abc")

    return {"wandb": types.SimpleNamespace(init=init)}


def fake_trackio(calls):
    def init(**arguments):
        calls.append(("init", arguments))
        return FakeRun(calls, "")

    return {"trackio": types.SimpleNamespace(init=init)}


def fake_mlflow(calls):
    class Client:
        def get_experiment_by_name(self, name):
            return None

        def create_experiment(self, name):
            calls.append(("experiment", name))
            return "7"

        def create_run(self, experiment_id, run_name):
            calls.append(("run", experiment_id, run_name))
            return types.SimpleNamespace(info=types.SimpleNamespace(run_id="abc"))

        def update_run(self, run_id, status):
            calls.append(("resume", run_id, status))

        def log_batch(self, run_id, metrics=(), params=()):
            calls.append(("params", dict(params)) if params else ("metrics", run_id, metrics))

        def set_terminated(self, run_id, status):
            calls.append(("finish", run_id, status))

    entities = types.SimpleNamespace(
        Metric=lambda name, value, timestamp, step: (step, name, value),
        Param=lambda name, value: (name, value),
    )
    return {"mlflow": types.SimpleNamespace(MlflowClient=Client), "mlflow.entities": entities}


@pytest.fixture(autouse=True)
def no_settings(monkeypatch):
    for name in ("WANDB_PROJECT", "MLFLOW_EXPERIMENT_NAME", "TRACKIO_PROJECT"):
        monkeypatch.delenv(name, raising=False)


END = RunEnd("finished", {"best/wer": 0.25})


def track(monkeypatch, folder, name, make, *rows, end=END):
    """Open a tracker, log `rows` and close it with `end`; return the calls that it made."""
    calls = []
    for module, fake in make(calls).items():
        monkeypatch.setitem(sys.modules, module, fake)
    (tracker,) = open_trackers([name], "mine", folder, CONFIG)
    for row in rows:
        tracker.log(*row)
    tracker.close(end)
    return calls


ROWS = ((10, {"train/loss": 2.5, "train/ctc": math.nan}), (20, {"validation/wer": 0.5}))


def test_wandb_gets_config_and_finite_metrics_and_resumes_its_run(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_PROJECT", "signs")
    init, *logged = track(monkeypatch, tmp_path, "wandb", fake_wandb, *ROWS)
    assert init[1]["config"] == CONFIG and init[1]["name"] == "mine" and init[1]["id"] is None
    assert init[1]["project"] == "signs" and init[1]["resume"] == "allow"
    assert logged == [
        ("log", 10, {"train/loss": 2.5}),
        ("log", 20, {"validation/wer": 0.5}),
        ("summary", {"best/wer": 0.25}),
        ("finish", {"exit_code": 0}),
    ]
    assert json.loads((tmp_path / "trackers.json").read_text()) == {"wandb": "abc"}
    (second_init, *_) = track(monkeypatch, tmp_path, "wandb", fake_wandb, ROWS[1])
    assert second_init[1]["id"] == "abc"


def test_mlflow_gets_params_once_and_metrics_with_their_steps(monkeypatch, tmp_path):
    assert track(monkeypatch, tmp_path, "mlflow", fake_mlflow, *ROWS) == [
        ("experiment", "signvit_jax"),
        ("run", "7", "mine"),
        ("params", {"training.batch_size": "8", "model.name": "small"}),
        ("metrics", "abc", [(10, "train/loss", 2.5)]),
        ("metrics", "abc", [(20, "validation/wer", 0.5)]),
        ("metrics", "abc", [(20, "best/wer", 0.25)]),
        ("finish", "abc", "FINISHED"),
    ]
    resumed = track(monkeypatch, tmp_path, "mlflow", fake_mlflow, ROWS[1])
    assert resumed[0] == ("resume", "abc", "RUNNING") and resumed[1][:2] == ("metrics", "abc")


def test_trackio_resumes_by_its_name(monkeypatch, tmp_path):
    init, *logged = track(monkeypatch, tmp_path, "trackio", fake_trackio, *ROWS)
    assert init[1]["project"] == "signvit_jax" and init[1]["name"].startswith("mine-")
    assert [call[0] for call in logged] == ["log", "log", "log", "finish"]
    assert logged[2] == ("log", 20, {"best/wer": 0.25})
    (second_init, *_) = track(monkeypatch, tmp_path, "trackio", fake_trackio, ROWS[1])
    assert second_init[1]["name"] == init[1]["name"]


@pytest.mark.parametrize(("outcome", "status"), [("stopped", "KILLED"), ("failed", "FAILED")])
def test_trackers_get_the_status_of_a_run_that_did_not_finish(
    monkeypatch, tmp_path, outcome, status
):
    end = RunEnd(outcome)
    for name, make, last in (
        ("wandb", fake_wandb, ("finish", {"exit_code": 1})),
        ("mlflow", fake_mlflow, ("finish", "abc", status)),
        ("trackio", fake_trackio, ("finish", {})),
    ):
        assert track(monkeypatch, tmp_path, name, make, ROWS[0], end=end)[-1] == last


class Unreliable:
    """A tracker that cannot be opened while `fails` is True."""

    id = "x"
    fails = True
    sent: list

    def __init__(self, run):
        if self.fails:
            raise ConnectionError("no network")

    def log(self, step, values):
        self.sent.append(step)

    def finish(self, end):
        pass


def test_a_failing_server_is_reported_once_and_gets_all_rows_later(monkeypatch, tmp_path, caplog):
    kind = type("Fake", (Unreliable,), {"sent": []})
    monkeypatch.setitem(trackers.TRACKERS, "wandb", kind)
    tracker = BackgroundTracker("wandb", TrackedRun("mine", tmp_path, {}, None), tmp_path / "ids")
    with caplog.at_level(logging.WARNING):
        for step in range(5):
            tracker.log(step, {"loss": 1.0})
        deadline = time.monotonic() + 20
        while not tracker._waiting.empty() and time.monotonic() < deadline:
            time.sleep(0.01)
        kind.fails = False
        tracker.log(5, {"loss": 1.0})
        tracker.close(END)
    assert kind.sent == [0, 1, 2, 3, 4, 5]
    messages = [record.getMessage() for record in caplog.records]
    assert sum("no network" in text for text in messages) == 1
    assert any("is written again" in text for text in messages)


def test_missing_rows_of_a_failing_tracker_are_counted(monkeypatch, tmp_path, caplog):
    monkeypatch.setitem(trackers.TRACKERS, "wandb", type("Fake", (Unreliable,), {"sent": []}))
    with caplog.at_level(logging.WARNING):
        (tracker,) = open_trackers(["wandb"], "mine", tmp_path, {})
        tracker.log(1, {"loss": 1.0})
        tracker.close(END)
    assert "tracker wandb lacks 1 of this run's records" in caplog.text


def test_a_hanging_tracker_delays_neither_steps_nor_the_end(monkeypatch, tmp_path, caplog):
    release = threading.Event()

    class Hanging(Unreliable):
        fails = False

        def log(self, step, values):
            release.wait(30)

    monkeypatch.setitem(trackers.TRACKERS, "wandb", Hanging)
    monkeypatch.setattr(trackers, "_SECONDS_TO_FINISH", 0.2)
    monkeypatch.setattr(trackers, "_MAX_WAITING", 3)
    workdir = Workdir.create(tmp_path / "run")
    metrics = MetricsLog(workdir, lambda: open_trackers(["wandb"], "run", workdir.path, {}))
    metrics.rewind(0)
    start = time.monotonic()
    with caplog.at_level(logging.WARNING):
        for step in range(1, 11):
            metrics.write(step, {"train/loss": 1.0})
        metrics.close()
    assert time.monotonic() - start < 10
    assert read_metrics(workdir.metrics_csv)["train/loss"][0] == list(range(1, 11))
    assert "has not finished" in caplog.text and "was too slow for" in caplog.text
    release.set()


def test_ids_of_trackers_that_open_at_the_same_time_are_all_saved(monkeypatch, tmp_path, caplog):
    for name in trackers.TRACKERS:
        kind = type("Fake", (Unreliable,), {"sent": [], "fails": False, "id": f"of {name}"})
        monkeypatch.setitem(trackers.TRACKERS, name, kind)
    real_read = trackers._read_ids

    def read_slowly(path):
        if threading.current_thread() is not threading.main_thread():
            time.sleep(0.05)
        return real_read(path)

    monkeypatch.setattr(trackers, "_read_ids", read_slowly)
    opened = open_trackers([*trackers.TRACKERS], "mine", tmp_path, {})
    for tracker in opened:
        tracker.log(1, {"loss": 1.0})
    for tracker in opened:
        tracker.close(END)
    ids = json.loads((tmp_path / "trackers.json").read_text())
    assert ids == {name: f"of {name}" for name in trackers.TRACKERS} and not caplog.text


def test_on_a_full_disk_metrics_are_sent_and_the_id_is_saved_later(monkeypatch, tmp_path, caplog):
    kind = type("Fake", (Unreliable,), {"sent": [], "fails": False})
    monkeypatch.setitem(trackers.TRACKERS, "wandb", kind)
    real_write = trackers.write_atomically
    errors = [OSError(28, "No space left on device")] * 2

    def fail_twice(*arguments):
        if errors:
            raise errors.pop()
        real_write(*arguments)

    monkeypatch.setattr(trackers, "write_atomically", fail_twice)
    with caplog.at_level(logging.WARNING):
        (tracker,) = open_trackers(["wandb"], "mine", tmp_path, {})
        for step in range(4):
            tracker.log(step, {"loss": 1.0})
        tracker.close(END)
    assert kind.sent == [0, 1, 2, 3]
    assert json.loads((tmp_path / "trackers.json").read_text()) == {"wandb": "x"}
    assert caplog.text.count("No space left") == 1 and "after 2 attempts" in caplog.text


def test_no_tracker_is_opened_before_the_first_metrics(tmp_path):
    opened = []
    metrics = MetricsLog(Workdir.create(tmp_path / "run"), lambda: opened.append(1) or [])
    metrics.rewind(0)
    metrics.close()
    assert opened == []


@pytest.mark.parametrize(
    ("name", "message"),
    [("wandbb", "did you mean 'wandb'?"), ("mlflow", "pip install mlflow-skinny")],
)
def test_an_unknown_or_missing_tracker_is_exit_2_before_the_run(
    tmp_path, monkeypatch, capfd, name, message
):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    flags = ["--config=quickstart", f"--workdir={tmp_path / 'run'}", f"--tracker={name}"]
    assert tiny_run.command(train.main, *flags) == 2
    assert message in capfd.readouterr().err and not (tmp_path / "run").exists()


def test_names_of_several_trackers_are_separated_by_commas(monkeypatch):
    for module in (*fake_wandb([]), *fake_trackio([])):
        monkeypatch.setitem(sys.modules, module, types.ModuleType(module))
    assert trackers.tracker_names("wandb,trackio,wandb") == ("wandb", "trackio")
    with pytest.raises(UsageError, match="allowed: wandb, mlflow, trackio"):
        trackers.tracker_names("wandb,")
