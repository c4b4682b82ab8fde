"""The data set and the teacher that a run began with, and has to resume with."""

import dataclasses
import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TypedDict

import jax
import numpy as np
from jaxtyping import PyTree

from signvit_jax.checkpoints.workdir import Workdir
from signvit_jax.config.errors import ConfigError
from signvit_jax.data.dataset import Identity
from signvit_jax.training.run_data import RunData

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class TeacherIdentity:
    """The checkpoint of a teacher: its workdir, its step, and the digest of its parameters."""

    path: str
    step: int
    digest: str


class _TeacherRecord(TypedDict):
    path: str
    step: int
    digest: str


class _Origin(TypedDict, total=False):
    """What `origin.json` should hold."""

    data_set: Identity
    teacher: _TeacherRecord | None


def check_data_set(data: RunData, workdir: Workdir) -> None:
    """Raise ConfigError if a split or a builder option is not what the run began with."""
    before = _read(workdir).get("data_set")
    if before is None:
        _check_fingerprint(data, workdir)
        return
    if differences := _differences(before, data.dataset.identity(), workdir.origin_json):
        lines = "\n".join(f"  {line}" for line in differences)
        raise ConfigError(
            f"the data set {data.config.data.name!r} in {data.dataset.folder} differs from the one "
            f"that this workdir was started on:\n{lines}\n"
            "Rebuild the data set that it was started on, or give another --workdir"
        )


def recorded_teacher(workdir: Workdir) -> TeacherIdentity | None:
    """Return the teacher that the run began with.

    None if there was none, or if an earlier release did not record it. Raises ConfigError.
    """
    teacher = _read(workdir).get("teacher")
    if teacher is None:
        return None
    try:
        return TeacherIdentity(
            path=str(teacher["path"]), step=int(teacher["step"]), digest=str(teacher["digest"])
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{workdir.origin_json}: 'teacher' is damaged; put back a copy of the file"
        ) from error


def write_origin(workdir: Workdir, data: RunData, teacher: TeacherIdentity | None) -> None:
    """Write `origin.json`. Raises WorkdirError."""
    origin = {
        "data_set": data.dataset.identity(),
        "teacher": teacher and dataclasses.asdict(teacher),
    }
    workdir.write_text(workdir.origin_json, json.dumps(origin, indent=1, ensure_ascii=False) + "\n")


def digest_of(params: PyTree) -> str:
    """Return a hash, 16 hexadecimal digits, of the bits, shapes and names of the parameters."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        array = np.ascontiguousarray(jax.device_get(leaf))
        digest.update(f"{jax.tree_util.keystr(path)} {array.shape} {array.dtype}\n".encode())
        digest.update(array.view(np.uint8).data)
    return digest.hexdigest()[:16]


def _read(workdir: Workdir) -> _Origin:
    """Return what `origin.json` holds; {} at a first start and in a workdir of release 0.1."""
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
    return _Origin(**origin)


def _check_fingerprint(data: RunData, workdir: Workdir) -> None:
    """Check the record of release 0.1: a digest of the training split.

    It covers the ids, texts, glosses and frame counts.
    """
    file = workdir.fingerprint_txt
    if not file.is_file():
        return
    before = file.read_text(encoding="utf-8", errors="replace").strip()
    if before != data.train.fingerprint:
        raise ConfigError(
            f"the training split of {data.config.data.name!r} differs from the one that this "
            f"workdir was started on (fingerprint {data.train.fingerprint}, before {before}); "
            "rebuild the data set that it was started on, or give another --workdir"
        )
    log.warning(
        "an earlier release started this workdir and recorded only ids, texts, glosses and frame "
        "counts of the training split; they agree. From now on every split and the builder's "
        "options are compared with %s",
        workdir.origin_json.name,
    )


def _differences(before: Identity, now: Identity, path: Path) -> list[str]:
    """Return a line for each option and split that differs.

    An option that one of them lacks is of another release, and is ignored.
    """
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
                # The files of a split that the run does not read may be missing here: then its
                # size alone is compared.
                old, new = old | {"digest": "unknown"}, new | {"digest": "unknown"}
            if old != new:
                splits.append(f"split {name!r}: {_describe(old)} then, {_describe(new)} now")
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{path}: the record of the data set is damaged; put back a copy of the file"
        ) from error
    return options + splits


def _describe(split: Mapping[str, object] | None) -> str:
    if split is None:
        return "none"
    return f"{split['clips']:,} clips, {split['bytes']:,} bytes, digest {split['digest']}"
