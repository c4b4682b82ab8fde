"""The folder of a sweep: its settings, and the trials as they are on the disk.

`sweep.json` has the settings, `config.py` the config with nothing searched; `trials/0007` is the
workdir of a trial. `trial.json` and `result.json` are each written once; the state of a trial
follows from them and from its claims.
"""

import dataclasses
import json
import logging
import math
import os
import shutil
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

from signvit_jax.checkpoints.best import HIGHER_IS_BETTER
from signvit_jax.config.schema import Config, from_json, to_json
from signvit_jax.errors.base import SignVitError
from signvit_jax.files.atomic import write_atomically
from signvit_jax.files.parsed_json import UNREADABLE_JSON, ParsedJson
from signvit_jax.sweep.leases import Claim, claims_of, is_held, make_claim
from signvit_jax.sweep.space import Dimension, Value, with_values
from signvit_jax.telemetry.metrics_file import read_metrics

log = logging.getLogger(__name__)

FORMAT = 1
TRIAL, RESULT = "trial.json", "result.json"
NEVER_PRUNED = "never_pruned"  # an empty file beside them, for a pruned trial that was resumed
# States that a result records. A trial without a result is "running" if a worker holds a claim on
# it, else "waiting".
FINISHED = ("complete", "pruned", "failed", "out_of_memory", "invalid")


class SweepError(SignVitError):
    """A folder that is no sweep, or one with other settings."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """The settings of a sweep.

    `config`: as given, with `overrides` as (key, text). `base`: values of the searched keys in the
    config. `trials`: largest number of trials, with that of the config untouched. `seeds`:
    repetitions of the best at the end. `lease_seconds`: time after which a claim that is not
    renewed has lapsed. `attempts`: number of attempts without progress after which a trial has
    failed. `hours`, `patience`: 0 = no limit. `keep`: which trials keep their checkpoints, "best"
    or "all". `pruner`: as `pruning.pruner_of` reads it. `prune_after`: number of validations before
    a trial can be stopped.
    """

    config: str
    overrides: tuple[tuple[str, str], ...]
    space: tuple[Dimension, ...]
    metric: str
    trials: int = 40
    seeds: int = 3
    sampler: str = "tpe"
    pruner: str = "median"
    prune_after: int = 1
    seed: int = 0
    lease_seconds: float = 600.0
    attempts: int = 3
    hours: float = 0.0
    patience: int = 0
    keep: str = "best"

    @property
    def higher_is_better(self) -> bool:
        return HIGHER_IS_BETTER[self.metric]

    def is_better(self, value: float, than: float) -> bool:
        return value > than if self.higher_is_better else value < than

    def to_json(self) -> str:
        return json.dumps({"format": FORMAT} | dataclasses.asdict(self), indent=1) + "\n"


@dataclasses.dataclass(frozen=True)
class Trial:
    """A trial as it is on the disk.

    `kind`: "base" (the config untouched), "search" or "seed" (the best again with another seed).
    `parameters`: values that differ from the config. `curve`: (clips seen, best value of the metric
    so far) for each validation, `values`: the values themselves, as far as metrics.csv has them.
    `step`: the last step in metrics.csv. `is_spared`: the trial was pruned and then resumed, so it
    is not pruned a second time.
    """

    number: int
    kind: str
    parameters: dict[str, Value]
    folder: Path
    state: str
    value: float | None = None
    reason: str = ""
    curve: tuple[tuple[int, float], ...] = ()
    values: tuple[float, ...] = ()
    step: int = -1
    claims: tuple[Claim, ...] = ()
    batch_size: int = 1
    is_spared: bool = False

    @property
    def is_finished(self) -> bool:
        return self.state in FINISHED

    @property
    def holder(self) -> str:
        return self.claims[-1].holder if self.claims else ""

    @property
    def fruitless_attempts(self) -> int:
        """Claims in a row, the newest first, that lapsed or failed without a further step."""
        count = 0
        for claim in reversed(self.claims):
            if claim.step != self.step:
                break
            count += not claim.is_released
        return count


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A sweep's folder, settings and config with nothing searched."""

    folder: Path
    settings: Settings
    base: Config

    trials_folder = property(lambda self: self.folder / "trials")
    config_file = property(lambda self: self.folder / "config.py")
    page = property(lambda self: self.folder / "sweep.html")

    @classmethod
    def open(cls, folder: Path) -> "Sweep":
        """Open a sweep that `run` has made. Raises SweepError."""
        try:
            content = json.loads((folder / "sweep.json").read_text(encoding="utf-8"))
            if content.pop("format") > FORMAT:
                raise SweepError(f"{folder} was made by a later release; use that one")
            base = from_json((folder / "config.json").read_text(encoding="utf-8"))
            space = tuple(
                Dimension(**one | {"choices": tuple(one["choices"])}) for one in content["space"]
            )
            overrides = tuple((str(key), str(text)) for key, text in content["overrides"])
            settings = Settings(**content | {"space": space, "overrides": overrides})
        except FileNotFoundError as error:
            raise SweepError(
                f"--sweep={folder} is no sweep ({error.filename} is missing); make one: "
                "signvit sweep run --sweep=FOLDER --config=NAME --search.KEY=..."
            ) from error
        except UNREADABLE_JSON as error:
            raise SweepError(
                f"{folder}/sweep.json or config.json is damaged ({error}); restore it from a copy, "
                "or give the same `signvit sweep run` another folder"
            ) from error
        return cls(folder, settings, base)

    @classmethod
    def create(cls, folder: Path, settings: Settings, base: Config) -> "Sweep":
        """Make a sweep, or open an existing one if its settings are the same.

        Some settings (`may_change` below) may differ, and the new values are stored. Raises
        SweepError for other differences, OSError.
        """
        (folder / "trials").mkdir(parents=True, exist_ok=True)
        if (folder / "sweep.json").exists():
            earlier = cls.open(folder).settings
            may_change = {
                "trials",
                "hours",
                "patience",
                "seeds",
                "keep",
                "attempts",
                "lease_seconds",
            }
            for field in dataclasses.fields(Settings):
                before, now = getattr(earlier, field.name), getattr(settings, field.name)
                if before != now and field.name not in may_change:
                    raise SweepError(
                        f"--sweep={folder} was begun with {field.name} {_shown(before)}, not "
                        f"{_shown(now)}; give the same, or another folder"
                    )
            base = cls.open(folder).base
        text = to_json(base)
        write_atomically(folder / "config.json", text)
        write_atomically(folder / "config.py", _CONFIG_FILE.format(text=text))
        write_atomically(folder / "sweep.json", settings.to_json())
        started = folder / "started"
        if not started.exists():
            started.touch()
        return cls(folder, settings, base)

    def config_of(self, parameters: Mapping[str, Value]) -> Config:
        """The config of a trial. Raises ConfigError."""
        return with_values(self.base, parameters)

    def read(self, now: float) -> list[Trial]:
        """Every trial, by number. `now` is from `server_time`. Raises OSError."""
        paths = sorted(self.trials_folder.glob("[0-9]*"))
        trials = [self._read_trial(path, now) for path in paths]
        return [trial for trial in trials if trial is not None]

    def _read_trial(self, folder: Path, now: float) -> Trial | None:
        if not folder.name.isdecimal():
            return None
        number = int(folder.name)
        content = _read_json(folder / TRIAL)
        try:
            parameters = {str(key): value for key, value in content["parameters"].items()}
            kind = str(content["kind"])
            batch_size = int(content["batch_size"])
        except UNREADABLE_JSON:
            if (folder / TRIAL).exists():
                _rename_aside(folder / TRIAL)
            # Its number stays taken, and it counts as a failed trial.
            reason = f"{TRIAL} is missing or damaged"
            return Trial(number, "search", {}, folder, "failed", reason=reason)
        trial = Trial(
            number,
            kind,
            parameters,
            folder,
            "waiting",
            claims=tuple(claims_of(folder)),
            batch_size=batch_size,
            is_spared=(folder / NEVER_PRUNED).exists(),
        )
        trial = self.with_metrics(trial)
        if (folder / RESULT).exists():
            result = _read_json(folder / RESULT)
            try:
                state, reason = str(result["state"]), str(result["reason"])
                if state in FINISHED:
                    value = None if result["value"] is None else float(result["value"])
                    curve = tuple((int(clips), float(best)) for clips, best in result["curve"])
                    return dataclasses.replace(
                        trial, state=state, reason=reason, value=value, curve=curve
                    )
            except UNREADABLE_JSON:
                pass
            _rename_aside(folder / RESULT)  # the trial is resumed from its checkpoint
        if trial.claims and is_held(trial.claims[-1], now, self.settings.lease_seconds):
            return dataclasses.replace(trial, state="running")
        return trial

    def with_metrics(self, trial: Trial) -> Trial:
        """The trial with the present content of its metrics.csv, without non-finite values."""
        metrics = read_metrics(trial.folder / "metrics.csv")
        last = max((steps[-1] for steps, _ in metrics.values() if steps), default=-1)
        curve: list[tuple[int, float]] = []
        values: list[float] = []
        for step, value in zip(*metrics.get(f"validation/{self.settings.metric}", ([], []))):
            if math.isfinite(value):
                best = curve[-1][1] if curve else value
                better = value if self.settings.is_better(value, best) else best
                curve.append((step * trial.batch_size, better))
                values.append(value)
        return dataclasses.replace(
            trial,
            value=curve[-1][1] if curve else None,
            curve=tuple(curve),
            values=tuple(values),
            step=last,
        )

    def add_trial(self, number: int, kind: str, parameters: Mapping[str, Value]) -> Claim | None:
        """Make a trial and claim it; None if another worker has made that number.

        The folder appears complete, by renaming. Raises OSError.
        """
        batch_size = parameters.get("training.batch_size", self.base.training.batch_size)
        content = {"kind": kind, "parameters": dict(parameters), "batch_size": batch_size}
        draft = self.trials_folder / f".draft-{uuid.uuid4().hex}"
        draft.mkdir()
        try:
            write_atomically(draft / TRIAL, json.dumps(content, indent=1) + "\n")
            make_claim(draft, 1, -1)
            folder = self.trials_folder / f"{number:04d}"
            os.rename(draft, folder)  # fails if the folder is there, since it is not empty
        except OSError:
            shutil.rmtree(draft, ignore_errors=True)
            if (self.trials_folder / f"{number:04d}").exists():
                return None
            raise
        return claims_of(folder)[-1]

    def retry_failed(self, now: float) -> list[int]:
        """Let failed trials be tried again; return their numbers. Raises OSError."""
        failed = [t for t in self.read(now) if t.state == "failed" and (t.folder / RESULT).exists()]
        for trial in failed:
            _rename_numbered(trial.folder / RESULT, "failed")
        return [trial.number for trial in failed]

    def take_up_pruned(self, numbers: Sequence[int], now: float) -> None:
        """Let pruned trials go on from their checkpoints, to their end.

        Raises SweepError, with no trial changed, for a trial that is not there, was not pruned, or
        whose checkpoints were deleted; OSError.
        """
        trials = {trial.number: trial for trial in self.read(now)}
        for number in numbers:
            trial = trials.get(number)
            if trial is None:
                pruned = [str(one.number) for one in trials.values() if one.state == "pruned"]
                raise SweepError(
                    f"there is no trial {number} in {self.folder}; pruned are: "
                    f"{', '.join(pruned) or 'none'}"
                )
            if trial.state != "pruned":
                what = {
                    "failed": "the same `signvit sweep run` tries failed trials again",
                    "waiting": "the next `signvit sweep work` takes it up",
                    "running": f"{trial.holder} works on it",
                }.get(trial.state, "only pruned trials can go on")
                state = trial.state.replace("_", " ")
                raise SweepError(f"trial {number} was not pruned, it is {state}: {what}")
            checkpoints = trial.folder / "checkpoints"
            if not checkpoints.is_dir() or not any(checkpoints.iterdir()):
                raise SweepError(
                    f"trial {number} has no checkpoint to go on from: the sweep keeps those of "
                    f"{'the best alone (--keep=best)' if self.settings.keep == 'best' else 'all'}, "
                    f"and {checkpoints} is empty or gone. Train it from the start, in a workdir of "
                    f"its own: signvit train --config={self.config_file} "
                    f"{' '.join(override_flags(trial.parameters))} --workdir=FOLDER"
                )
        for number in dict.fromkeys(numbers):
            folder = trials[number].folder
            (folder / NEVER_PRUNED).touch()  # first: else it would be pruned again
            _rename_numbered(folder / RESULT, "pruned")

    def write_result(self, trial: Trial, state: str, reason: str = "") -> None:
        """Record the end of a trial. Raises OSError."""
        content = {
            "state": state,
            "value": trial.value,
            "reason": reason,
            "curve": trial.curve,
            "step": trial.step,
            "holder": trial.holder,
        }
        write_atomically(trial.folder / RESULT, json.dumps(content, indent=1) + "\n")
        if trial.claims:
            trial.claims[-1].release()


def best_of(settings: Settings, trials: Sequence[Trial]) -> Trial | None:
    """The best complete trial of the search, the config untouched included; of equals the first."""
    best: Trial | None = None
    for trial in trials:
        if trial.state != "complete" or trial.kind == "seed" or trial.value is None:
            continue
        if best is None or best.value is None or settings.is_better(trial.value, best.value):
            best = trial
    return best


def seeds_of(best: Trial | None, trials: Sequence[Trial]) -> list[Trial]:
    """The repetitions of a trial with other seeds.

    Repetitions of an earlier best trial are left out: the sweep may have found a better one since.
    """
    if best is None:
        return []

    def repeats_best(trial: Trial) -> bool:
        without_seed = {k: v for k, v in trial.parameters.items() if k != "training.seed"}
        return trial.kind == "seed" and without_seed == best.parameters

    return [trial for trial in trials if repeats_best(trial)]


def override_flags(parameters: Mapping[str, Value]) -> list[str]:
    """The flags of a training command that set these values."""
    return [f"--config.{key}={value}" for key, value in parameters.items()]


_CONFIG_FILE = '''"""The config of a sweep with nothing searched. Written by `signvit sweep run`."""

import json


def get_config():
    return json.loads(r"""{text}""")
'''


def _read_json(path: Path) -> ParsedJson:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except UNREADABLE_JSON:
        return {}
    return content if isinstance(content, dict) else {}


def _rename_aside(path: Path) -> None:
    """Rename a damaged file, and log the new name."""
    try:
        place = _rename_numbered(path, "damaged")
        log.warning("%s is damaged and was set aside as %s", path, place.name)
    except OSError as error:
        log.warning("%s is damaged and could not be set aside: %s", path, error.strerror)


def _rename_numbered(path: Path, state: str) -> Path:
    """Rename a file to NAME.STATE-N. Raises OSError."""
    earlier = len(list(path.parent.glob(f"{path.name}.{state}-*")))
    place = path.with_name(f"{path.name}.{state}-{earlier + 1}")
    path.rename(place)
    return place


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return (
            ", ".join(
                f"{one.key}={one}" if isinstance(one, Dimension) else "=".join(map(str, one))
                for one in value
            )
            or "none"
        )
    return str(value)
