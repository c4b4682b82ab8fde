"""What a run began with and has to go on with: its data set and, where it has one, its teacher."""

import dataclasses
import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from signvit_jax.checkpoints.workdir import Workdir
from signvit_jax.config.errors import ConfigError
from signvit_jax.training.run_data import RunData

_logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class TeacherIdentity:
    """`digest`: of the parameters. `step`: of the checkpoint that they are from, in the workdir `path`."""

    path: str
    step: int
    digest: str


def check_data_set(data: RunData, workdir: Workdir) -> None:
    """Raises ConfigError when any split, or an option of the builder, is another than at the first start."""
    before = _read(workdir).get("data_set")
    if before is None:
        _check_by_the_old_rule(data, workdir)
        return
    if differences := _differences(before, data.dataset.identity(), workdir.origin_json):
        lines = "\n".join(f"  {line}" for line in differences)
        raise ConfigError(
            f"the data set {data.config.data.name!r} in {data.dataset.folder} is another than this workdir was started on:\n{lines}\n"
            "Build the old one again, or give another --workdir"
        )


def recorded_teacher(workdir: Workdir) -> TeacherIdentity | None:
    """The teacher that the run began with; None if there was none, or an earlier release did not record it."""
    teacher = _read(workdir).get("teacher")
    try:
        return (
            None
            if teacher is None
            else TeacherIdentity(str(teacher["path"]), int(teacher["step"]), str(teacher["digest"]))
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{workdir.origin_json}: 'teacher' is damaged; put back a copy of the file"
        ) from error


def write_origin(workdir: Workdir, data: RunData, teacher: TeacherIdentity | None) -> None:
    """Raises WorkdirError."""
    origin = {
        "data_set": data.dataset.identity(),
        "teacher": teacher and dataclasses.asdict(teacher),
    }
    workdir.write_text(workdir.origin_json, json.dumps(origin, indent=1, ensure_ascii=False) + "\n")


def digest_of(params: PyTree) -> str:
    """16 hexadecimal digits that change with any bit, shape or name of the parameters."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        array = np.ascontiguousarray(jax.device_get(leaf))
        digest.update(f"{jax.tree_util.keystr(path)} {array.shape} {array.dtype}\n".encode())
        digest.update(array.view(np.uint8).data)
    return digest.hexdigest()[:16]


def _read(workdir: Workdir) -> dict[str, Any]:
    """{} at a first start, and in a workdir of an earlier release."""
    path: Path = workdir.origin_json
    try:
        origin = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"{path} cannot be read ({error}); put back a copy of the file"
        ) from error
    if not isinstance(origin, dict):
        raise ConfigError(
            f"{path} holds {type(origin).__name__} and no object; put back a copy of the file"
        )
    return origin


def _check_by_the_old_rule(data: RunData, workdir: Workdir) -> None:
    """Release 0.1 recorded ids, texts, glosses and frame counts of the training split."""
    file = workdir.fingerprint_txt
    if not file.is_file():
        return
    before = file.read_text(encoding="utf-8", errors="replace").strip()
    if before != data.train.fingerprint:
        raise ConfigError(
            f"the training split of {data.config.data.name!r} is another than this workdir was started on (fingerprint {data.train.fingerprint}, "
            f"before {before}); build the old one again, or give another --workdir"
        )
    _logger.warning(
        "an earlier release started this workdir and recorded only ids, texts, glosses and frame counts of the training split; "
        "they agree. From now on every split and the builder's options are held against %s",
        workdir.origin_json.name,
    )


def _differences(before: dict[str, Any], now: dict[str, Any], path: Path) -> list[str]:
    """One line for each option and split that differs; options that only one of two releases knows do not count."""
    try:
        old_settings, settings = before["settings"] or {}, now["settings"] or {}
        options = [
            f"option {name}: {old_settings[name]!r} then, {settings[name]!r} now"
            for name in sorted(old_settings.keys() & settings.keys())
            if old_settings[name] != settings[name]
        ]
        splits = []
        for name in sorted(before["splits"].keys() | now["splits"].keys()):
            old, new = before["splits"].get(name), now["splits"].get(name)
            if old is not None and new is not None and None in (old["digest"], new["digest"]):
                # The files of a split that the run does not read may be elsewhere; its size is known nevertheless.
                old, new = old | {"digest": "unknown"}, new | {"digest": "unknown"}
            if old != new:
                splits.append(f"split {name!r}: {_described(old)} then, {_described(new)} now")
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{path}: what it records of the data set is damaged; put back a copy of the file"
        ) from error
    return options + splits


def _described(split: dict[str, Any] | None) -> str:
    return (
        "none"
        if split is None
        else f"{split['clips']:,} clips, {split['bytes']:,} bytes, digest {split['digest']}"
    )
