"""Experiment trackers: a run's metrics and config in W&B, MLflow or trackio, with --tracker.

A tracker may be slow, or its server may not answer, so it runs in a separate thread: training never
waits for it and never ends because of it. It gets the numbers of metrics.csv and the config without
local paths, but no clips, no texts and no weights.
"""

import contextlib
import json
import logging
import math
import os
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Literal, NamedTuple, Protocol

from signvit_jax.errors.nearest import did_you_mean
from signvit_jax.files.atomic import write_atomically
from signvit_jax.runtime.exit_codes import UsageError
from signvit_jax.runtime.optional_deps import import_optional
from signvit_jax.telemetry.observers import Observer, Records

log = logging.getLogger(__name__)

PROJECT = "signvit_jax"  # unless the tracker's own environment variable names another
_MAX_WAITING = 10_000  # rows that may wait for the thread
_SECONDS_TO_FINISH = 60.0  # longest wait for a tracker at the end of a run
_MLFLOW_PARAMS = 100  # most parameters that MLflow accepts in one call
_LOGIN_SECONDS = 30  # longest wait of W&B for a login
_ids_lock = threading.Lock()  # the trackers of a run write their ids into one file


class TrackedRun(NamedTuple):
    """The facts of a run that a tracker gets. `id` is the tracker's, from the run's first start."""

    name: str
    folder: Path
    config: Mapping[str, object]  # by dotted key
    id: str | None


class RunEnd(NamedTuple):
    """How a start of a run has ended: "finished", "stopped" by a signal, or "failed".

    `summary`: the best validation so far, by name.
    """

    outcome: Literal["finished", "stopped", "failed"] = "finished"
    summary: Mapping[str, float] = MappingProxyType({})


class Tracker(Protocol):
    """An opened tracker. Methods may raise anything."""

    id: str  # by which the run is found again when it resumes

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Send the metrics of a step; all are finite."""
        ...

    def finish(self, end: RunEnd) -> None:
        """Send what is left, and how the run has ended."""
        ...


class WandbTracker:
    """W&B (wandb), which reads WANDB_PROJECT, WANDB_MODE=offline and the like."""

    def __init__(self, run: TrackedRun):
        wandb = _import("wandb")
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=run.name,
            dir=os.fspath(run.folder),
            config=dict(run.config),
            id=run.id,
            resume="allow",
            settings={"login_timeout": _LOGIN_SECONDS},
        )
        self.id = str(self._run.id)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def finish(self, end: RunEnd) -> None:
        self._run.summary.update(dict(end.summary))
        self._run.finish(exit_code=int(end.outcome != "finished"))


class MlflowTracker:
    """MLflow, which reads MLFLOW_TRACKING_URI; MLFLOW_EXPERIMENT_NAME replaces PROJECT."""

    _last_step = 0

    def __init__(self, run: TrackedRun):
        mlflow = _import("mlflow")
        self._entities = import_optional("mlflow.entities", "--tracker=mlflow", UsageError)
        self._client = mlflow.MlflowClient()
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        if run.id is not None:
            self.id = run.id
            self._client.update_run(self.id, status="RUNNING")
            return
        experiment = self._client.get_experiment_by_name(name)
        experiment_id = (
            self._client.create_experiment(name) if experiment is None else experiment.experiment_id
        )
        self.id = str(self._client.create_run(experiment_id, run_name=run.name).info.run_id)
        params = [self._entities.Param(key, str(value)) for key, value in run.config.items()]
        for first in range(0, len(params), _MLFLOW_PARAMS):
            self._client.log_batch(self.id, params=params[first : first + _MLFLOW_PARAMS])

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._last_step = step
        now = int(time.time() * 1000)
        metrics = [self._entities.Metric(name, value, now, step) for name, value in values.items()]
        self._client.log_batch(self.id, metrics=metrics)

    def finish(self, end: RunEnd) -> None:
        if end.summary:
            self.log(self._last_step, end.summary)
        status = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}[end.outcome]
        self._client.set_terminated(self.id, status)


class TrackioTracker:
    """trackio, which by default keeps its runs on this machine."""

    _last_step = 0

    def __init__(self, run: TrackedRun):
        trackio = _import("trackio")
        self.id = run.id or f"{run.name}-{int(time.time())}"
        self._run = trackio.init(
            project=os.environ.get("TRACKIO_PROJECT", PROJECT),
            name=self.id,
            config=dict(run.config),
            resume="allow",
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._last_step = step
        self._run.log(dict(values), step=step)

    def finish(self, end: RunEnd) -> None:
        # trackio stores neither a summary of a run nor how it ended.
        if end.summary:
            self._run.log(dict(end.summary), step=self._last_step)
        self._run.finish()


TRACKERS: dict[str, Callable[[TrackedRun], Tracker]] = {
    "wandb": WandbTracker,
    "mlflow": MlflowTracker,
    "trackio": TrackioTracker,
}


def tracker_names(text: str) -> tuple[str, ...]:
    """Return the names in "wandb,mlflow". Raises UsageError for an unknown or missing tracker."""
    names = tuple(dict.fromkeys(text.split(",")))
    for name in names:
        if name not in TRACKERS:
            raise UsageError(
                f"--tracker={name!r}; allowed: {', '.join(TRACKERS)}{did_you_mean(name, TRACKERS)}"
            )
        _import(name)
    return names


class BackgroundTracker:
    """A tracker in a separate thread, which opens it for the first metrics."""

    def __init__(self, name: str, run: TrackedRun, ids_file: Path):
        """`ids_file` keeps the ids of the run for when it resumes, by tracker."""
        self._name = name
        self._run = run._replace(id=_read_ids(ids_file).get(name))
        self._ids = Observer(ids_file)
        self._id_is_kept = False
        self._tracker: Tracker | None = None
        self._waiting: queue.Queue[tuple[int, dict[str, float]] | RunEnd] = queue.Queue(
            _MAX_WAITING
        )
        self._dropped = 0
        self._thread = threading.Thread(
            target=self._send_all, name=f"signvit_jax_{name}", daemon=True
        )
        self._thread.start()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Hand over the metrics of a step, without waiting; those not finite are left out."""
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        try:
            self._waiting.put_nowait((step, finite))
        except queue.Full:
            self._dropped += 1

    def close(self, end: RunEnd) -> None:
        """Wait until all is sent, but not for a tracker that hangs; log how many rows are lost."""
        latest = time.monotonic() + _SECONDS_TO_FINISH
        with contextlib.suppress(queue.Full):
            self._waiting.put(end, timeout=_SECONDS_TO_FINISH)
        self._thread.join(max(latest - time.monotonic(), 0.0))
        if self._thread.is_alive():
            log.warning(
                "tracker %s has not finished after %.0f s and is left; metrics.csv has everything",
                self._name,
                _SECONDS_TO_FINISH,
            )
        if self._dropped:
            log.warning("tracker %s was too slow for %d rows", self._name, self._dropped)

    def _send_all(self) -> None:
        # The messages of observers name a path.
        path = Path(f"tracker {self._name}")
        records = Records(path, self._send)
        while not isinstance(record := self._waiting.get(), RunEnd):
            records.add(*record)
        records.close()
        if (tracker := self._tracker) is not None:
            Observer(path).attempt(lambda: tracker.finish(record))

    def _send(self, step: int, values: Mapping[str, float]) -> None:
        self._opened().log(step, values)

    def _opened(self) -> Tracker:
        if self._tracker is None:
            self._tracker = TRACKERS[self._name](self._run)
        if not self._id_is_kept:
            # Sending does not wait for room on the disk, but each row tries again.
            self._id_is_kept = self._ids.attempt(self._keep_id)
        return self._tracker

    def _keep_id(self) -> None:
        assert self._tracker is not None
        with _ids_lock:
            ids = _read_ids(self._ids.path) | {self._name: self._tracker.id}
            write_atomically(self._ids.path, json.dumps(ids, indent=1) + "\n")


def open_trackers(
    names: Sequence[str], run_name: str, folder: Path, config: Mapping[str, object]
) -> list[BackgroundTracker]:
    """Open the trackers of a run; `trackers.json` in its folder keeps their ids of it."""
    run = TrackedRun(run_name, folder, config, None)
    return [BackgroundTracker(name, run, folder / "trackers.json") for name in names]


def _read_ids(path: Path) -> dict[str, str]:
    """The ids that earlier starts wrote; {} if there are none that can be read."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return {str(name): str(value) for name, value in dict(values).items()}
    except (OSError, ValueError, TypeError):
        return {}


def _import(name: str):  # noqa: ANN202 - a module whose attributes are known at run time only
    return import_optional(name, f"--tracker={name}", UsageError)
