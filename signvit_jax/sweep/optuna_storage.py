"""A sweep written into a database in Optuna's format, for programs such as optuna-dashboard.

The database is a copy of the trial folders at one moment. No worker reads it.
"""

import contextlib
import datetime
import os
import sqlite3
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from signvit_jax.runtime.exit_codes import UsageError
from signvit_jax.sweep.sampling import base_values, direction, distribution_of, quiet_optuna
from signvit_jax.sweep.space import Value
from signvit_jax.sweep.trial_files import RESULT, TRIAL, Sweep, SweepError, Trial

if TYPE_CHECKING:
    import optuna
    from sqlalchemy.engine import URL

_EXAMPLE = "sqlite:///sweep.db"


def export_study(sweep: Sweep, trials: Sequence[Trial], storage: str, name: str) -> list[str]:
    """Write the trials as a new study into a database; return what could not be shown as it is.

    `storage`: a database URL of SQLAlchemy's, such as sqlite:///sweep.db. `name`: of the study. A
    file appears complete, and nothing that is there is changed. Raises UsageError for a URL that
    cannot be used and for a file or a study that exists, SweepError if the database refuses.
    """
    import optuna
    import sqlalchemy.exc

    url = _url_of(storage)
    frozen, notes = _frozen_trials(sweep, trials)
    try:
        with quiet_optuna(), _draft_of(url) as place:
            _write_study(sweep, frozen, place, name)
    except optuna.exceptions.DuplicatedStudyError as error:
        raise UsageError(
            f"--storage={url}: it has a study {name!r} already, which is not changed; give "
            "another --study"
        ) from error
    except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise SweepError(f"--storage={url} cannot be written: {reason}") from error
    except ImportError as error:  # of the driver of a database
        raise UsageError(f"--storage={url}: {error}") from error
    return notes


def _write_study(
    sweep: Sweep, frozen: Sequence["optuna.trial.FrozenTrial"], url: "URL", name: str
) -> None:
    """Write a study; after an error, delete it again. Raises Optuna's errors."""
    import optuna

    storage = optuna.storages.RDBStorage(url.render_as_string(hide_password=False))
    try:
        study = optuna.create_study(
            storage=storage, study_name=name, direction=direction(sweep.settings)
        )
        try:
            study.set_user_attr("sweep", str(sweep.folder))
            study.set_metric_names([sweep.settings.metric])
            study.add_trials(frozen)
        except BaseException:
            optuna.delete_study(study_name=name, storage=storage)
            raise
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _url_of(storage: str) -> "URL":
    """Read a database URL, which prints without its password. Raises UsageError."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import SQLAlchemyError

    try:
        url = make_url(storage)
    except (SQLAlchemyError, ValueError) as error:
        raise UsageError(
            f"--storage={storage.rpartition('@')[2]}: give the URL of a database, such as "
            f"{_EXAMPLE} (three slashes before a relative path, four before an absolute one)"
        ) from error
    if url.get_backend_name() == "sqlite":
        if not url.database or url.database == ":memory:":
            raise UsageError(f"--storage={url}: give the file, as in {_EXAMPLE}")
        if Path(url.database).exists():
            raise UsageError(
                f"--storage={url}: {url.database} exists and is not overwritten; give another file"
            )
    return url


@contextlib.contextmanager
def _draft_of(url: "URL") -> "Iterator[URL]":
    """Yield the URL to write to: for SQLite a temporary file, renamed when it is complete."""
    if url.get_backend_name() != "sqlite" or url.database is None:
        yield url
        return
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    file = Path(url.database)
    draft = file.with_name(f".{file.name}.{uuid.uuid4().hex[:8]}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        event.listen(Engine, "connect", _without_syncing)
        try:
            yield url.set(database=str(draft))
        finally:
            event.remove(Engine, "connect", _without_syncing)
        os.rename(draft, file)
    finally:
        for left in file.parent.glob(f"{draft.name}*"):  # SQLite may have a journal beside it
            left.unlink(missing_ok=True)


def _without_syncing(connection: sqlite3.Connection, record: object) -> None:
    """Do not wait for the disk at each of Optuna's many commits: a draft may be lost."""
    del record
    connection.execute("PRAGMA synchronous=OFF")


def _frozen_trials(
    sweep: Sweep, trials: Sequence[Trial]
) -> tuple[list["optuna.trial.FrozenTrial"], list[str]]:
    """The trials in Optuna's form, under the numbers of the sweep; and notes on them."""
    by_number = {trial.number: trial for trial in trials}
    frozen, notes = [], []
    for number in range(max(by_number, default=-1) + 1):
        trial = _frozen(sweep, by_number.get(number), number)
        frozen.append(trial)
        if number not in by_number:
            notes.append(f"there is no trial {number}; it is shown as failed")
        notes += [
            f"trial {number}: {key}={value} is outside the space; it is a user attribute of the "
            "trial, not a parameter"
            for key, value in trial.user_attrs.items()
            if key in {dimension.key for dimension in sweep.settings.space}
        ]
    return frozen, notes


def _frozen(sweep: Sweep, trial: Trial | None, number: int) -> "optuna.trial.FrozenTrial":
    """A trial as Optuna has it. One that ran out of memory or was refused has failed there.

    User attributes say more: the state by our own name, the reason, the workdir, and values outside
    the space, as those of the config may be.
    """
    from optuna.trial import FrozenTrial, TrialState

    now = datetime.datetime.now()
    if trial is None:
        trial = Trial(number, "search", {}, sweep.trials_folder / f"{number:04d}", "missing")
    state = {
        "complete": TrialState.COMPLETE,
        "pruned": TrialState.PRUNED,
        "running": TrialState.RUNNING,
        "waiting": TrialState.WAITING,
    }.get(trial.state, TrialState.FAIL)
    attributes: dict[str, object] = {
        "kind": trial.kind,
        "state": trial.state,
        "reason": trial.reason,
        "workdir": str(trial.folder),
        "batch_size": trial.batch_size,
    }
    params: dict[str, Value] = {}
    distributions: dict[str, optuna.distributions.BaseDistribution] = {}
    if trial.state != "missing":
        for dimension in sweep.settings.space:
            key, distribution = dimension.key, distribution_of(dimension)
            value = (base_values(sweep) | trial.parameters).get(key)
            if value is not None and _fits(value, distribution):
                params[key], distributions[key] = value, distribution
            else:
                attributes[key] = value
    if "training.seed" in trial.parameters:
        attributes["training.seed"] = trial.parameters["training.seed"]
    values = [best for _, best in trial.curve]
    if len(trial.values) == len(values):
        values = list(trial.values)
    begun = None if state == TrialState.WAITING else _time_of(trial.folder / TRIAL, now)
    ended = _time_of(trial.folder / RESULT, now) if state.is_finished() else None
    return FrozenTrial(
        number=number,
        trial_id=number,
        state=state,
        value=trial.value if state == TrialState.COMPLETE else None,
        datetime_start=begun,
        datetime_complete=ended,
        params=params,
        distributions=distributions,
        user_attrs=attributes,
        system_attrs={},
        intermediate_values={clips: value for (clips, _), value in zip(trial.curve, values)},
    )


def _fits(value: Value, distribution: "optuna.distributions.BaseDistribution") -> bool:
    import optuna

    try:
        optuna.trial.create_trial(
            state=optuna.trial.TrialState.RUNNING,
            params={"value": value},
            distributions={"value": distribution},
        )
    except ValueError:
        return False
    return True


def _time_of(path: Path, otherwise: datetime.datetime) -> datetime.datetime:
    try:
        return datetime.datetime.fromtimestamp(path.stat().st_mtime)
    except OSError:
        return otherwise
