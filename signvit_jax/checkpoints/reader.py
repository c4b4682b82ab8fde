"""Read checkpoints: the newest or the best undamaged one, or its parameters alone.

Reading never changes a checkpoint folder.
"""

import dataclasses
import json
import logging
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import grain
import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils
from jaxtyping import PyTree

from signvit_jax.checkpoints.manifest import MANIFEST, ManifestMissing, find_damage
from signvit_jax.errors.base import SignVitError
from signvit_jax.files.parsed_json import UNREADABLE_JSON
from signvit_jax.runtime.exit_codes import FAILED, USAGE, is_out_of_memory

log = logging.getLogger(__name__)

FORMAT = 1  # of meta.json; raised when earlier releases can no longer read what this one writes
META = "meta.json"
Meta = dict[str, Any]  # notes of a run in a checkpoint, JSON values
_Result = TypeVar("_Result")


class CheckpointError(SignVitError):
    """A checkpoint could not be written or read. Earlier checkpoints are unchanged."""

    exit_code = FAILED


class CheckpointMissing(CheckpointError):
    """There is no checkpoint, none of that step, or only one that a later release wrote."""

    exit_code = USAGE


class CheckpointDamaged(CheckpointError):
    """Files differ from what was written; the message lists them."""


class CheckpointMismatch(CheckpointError):
    """An undamaged checkpoint belongs to a different model, optimizer or number of processes."""

    exit_code = USAGE


class _StepDamaged(Exception):
    """One step is damaged; `lines` describes the damage."""

    def __init__(self, lines: Sequence[str]):
        super().__init__(*lines)
        self.lines = lines


# Raised by `_read_meta` for a damaged meta.json or one of a later release.
_META_ERRORS = (CheckpointError, *UNREADABLE_JSON)


@dataclasses.dataclass(frozen=True)
class RestoredParams:
    """Parameters to evaluate with, and where they come from."""

    step: int
    params: PyTree
    averaged: bool  # True: the exponential moving average
    meta: Meta
    metrics: dict[str, float]


class CheckpointReader:
    """Reader of a checkpoint folder, also while a trainer is writing to it.

    `best_metric`: the saved metric that decides which checkpoint is the best. `strict`: raise
    CheckpointDamaged for a damaged checkpoint instead of skipping it.
    """

    def __init__(
        self,
        folder: Path,
        *,
        best_metric: str = "loss",
        higher_is_better: bool = False,
        strict: bool = False,
    ):
        self.folder = Path(folder).absolute()
        self._best_metric = best_metric
        self._sign = -1.0 if higher_is_better else 1.0
        self._strict = strict
        self._orbax = ocp.Checkpointer(ocp.CompositeCheckpointHandler(**item_handlers()))

    def steps(self) -> list[int]:
        """Return the completely saved steps in rising order; all other files are ignored."""
        if not self.folder.is_dir():
            return []
        return sorted(
            int(path.name)
            for path in self.folder.iterdir()
            if re.fullmatch(r"0|[1-9]\d*", path.name) and is_checkpoint(path)
        )

    def latest_step(self) -> int | None:
        return max(self.steps(), default=None)

    def is_converted(self, step: int) -> bool:
        """Return True if a step holds converted weights, without the state of a run."""
        return bool(self.meta_value(step, "converted"))

    def meta_value(self, step: int, name: str) -> object:
        """Return the value of `name` in a step's meta; None if absent or unreadable."""
        try:
            return self._read_meta(step)[0].get(name)
        except _META_ERRORS:
            return None

    def best_step(self) -> int | None:
        """Return the step with the best metric (the latest of equals); None if no step has it."""
        return self._best_of(self.steps())

    def restore_params(
        self,
        which: str = "best",
        target: PyTree | None = None,
        *,
        prefer_ema: bool = True,
        step: int | None = None,
    ) -> RestoredParams:
        """Return the parameters of the best or the last checkpoint, or of `step`.

        The optimizer's state is not read. `target`: ShapeDtypeStructs, with or without shardings;
        None gives NumPy arrays with the saved shapes. If no step has the metric, the best is the
        last. Raises CheckpointMissing, CheckpointDamaged, CheckpointMismatch.
        """
        if which not in ("best", "last"):
            raise ValueError(f"which is {which!r}; allowed: 'best', 'last'")
        candidates = self.steps()[::-1]
        if which == "best":
            scored = [s for s in candidates if self._score(s) is not None]
            unscored = [s for s in candidates if s not in scored]
            candidates = sorted(scored, key=lambda s: (self._score(s), -s)) + unscored
        if step is not None:
            candidates = [self._existing(step)]

        def read(candidate: int) -> RestoredParams:
            folder = self.folder / str(candidate)
            averaged = prefer_ema and (folder / "ema").is_dir()
            item = "ema" if averaged else "params"
            saved = self._saved_shapes(candidate, item)
            if target is None:
                template = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), saved)
            else:
                check_same(saved, target, item, folder)
                template = target
            arguments = ocp.args.Composite(**{item: ocp.args.StandardRestore(template)})
            restored = self._orbax.restore(folder, args=arguments)
            meta, metrics = self._read_meta(candidate)
            return RestoredParams(candidate, restored[item], averaged, meta, metrics)

        return self._first_undamaged(candidates, read, ("params", "ema", "meta"))

    def _first_undamaged(
        self, candidates: Sequence[int], read: Callable[[int], _Result], items: Sequence[str] | None
    ) -> _Result:
        """Return `read(step)` of the first candidate that is not damaged."""
        reasons: dict[int, str] = {}
        for step in candidates:
            try:
                result = self._read_undamaged(step, read, items)
            except _StepDamaged as error:
                reasons[step] = "; ".join(error.lines[:5])
            else:
                self._quarantine(list(reasons))
                return result
            if self._strict:
                raise CheckpointDamaged(
                    f"checkpoint {step} in {self.folder} is damaged: {reasons[step]}. Without "
                    "strict restoring, the one before it would be used"
                )
            log.warning(
                "checkpoint %d in %s is damaged and is skipped: %s",
                step,
                self.folder,
                reasons[step],
            )
        if reasons:
            listing = "\n  ".join(f"{step}: {reason}" for step, reason in reasons.items())
            raise CheckpointDamaged(
                f"no checkpoint in {self.folder} can be used:\n  {listing}\n"
                "Restore the folder from a copy, or start in a new workdir"
            )
        raise CheckpointMissing(
            f"no checkpoint in {self.folder}; train first, or give another workdir"
        )

    def _read_undamaged(
        self, step: int, read: Callable[[int], _Result], items: Sequence[str] | None
    ) -> _Result:
        """Return `read(step)`. Raises _StepDamaged, and the errors of `read` that are no damage."""
        damage = self._damage(step, items)
        if damage:
            raise _StepDamaged(damage)
        has_manifest = damage is not None
        if not has_manifest and self._strict:
            raise _StepDamaged([f"{MANIFEST}: missing, so it cannot be checked"])
        try:
            result = read(step)
        except Exception as error:
            # The step is not damaged if the manifest agrees with the files, if the error is one of
            # ours (a mismatch), or if memory ran out.
            if has_manifest or isinstance(error, SignVitError) or is_out_of_memory(error):
                raise
            raise _StepDamaged(
                [f"{MANIFEST}: missing, and reading failed ({type(error).__name__})"]
            ) from error
        if not has_manifest:
            log.warning(
                "checkpoint %d in %s has no %s, so it could not be checked; it was read without "
                "an error",
                step,
                self.folder,
                MANIFEST,
            )
        return result

    def _quarantine(self, damaged: Sequence[int]) -> None:
        """Move damaged steps away once an older undamaged one was read; a reader moves nothing.

        If no step is undamaged, this is not called: with the damaged steps gone, the next start
        would silently train from scratch.
        """

    def _damage(self, step: int, items: Sequence[str] | None) -> list[str] | None:
        """Return a line for each damaged file; None if there is no manifest.

        Process 0 reads the files and broadcasts the result.
        """
        damage: list[str] | None = []
        if jax.process_index() == 0:
            try:
                damage = find_damage(self.folder / str(step), items)
            except ManifestMissing:
                damage = None
        if jax.process_count() == 1:
            return damage
        count = int(
            multihost_utils.broadcast_one_to_all(np.int32(-1 if damage is None else len(damage)))
        )
        return None if count < 0 else damage or ["reported by process 0"] * count

    def _existing(self, step: int) -> int:
        steps = self.steps()
        if step not in steps:
            raise CheckpointMissing(
                f"no checkpoint of step {step} in {self.folder}; "
                f"there are: {', '.join(map(str, steps)) or 'none'}"
            )
        return step

    def _saved_shapes(self, step: int, item: str) -> PyTree:
        """Return ShapeDtypeStructs of a saved item, as nested dicts and lists."""
        folder = epath.Path(self.folder / str(step) / item)
        metadata = ocp.StandardCheckpointHandler().metadata(folder)
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), metadata.tree
        )

    def _read_meta(self, step: int) -> tuple[Meta, dict[str, float]]:
        """Return a step's (meta, metrics).

        Raises CheckpointMissing for a later release's format, and others of _META_ERRORS for a
        damaged file.
        """
        content = json.loads((self.folder / str(step) / "meta" / META).read_text(encoding="utf-8"))
        if content["format"] > FORMAT:
            raise CheckpointMissing(
                f"checkpoint {step} in {self.folder} has format {content['format']}, this release "
                f"reads up to {FORMAT}; use the release that wrote it"
            )
        return content["meta"], content["metrics"]

    def _score(self, step: int) -> float | None:
        """Return a step's metric, negated if higher is better; None if absent or unreadable."""
        try:
            value = self._read_meta(step)[1].get(self._best_metric)
        except _META_ERRORS:
            return None
        return None if value is None else self._sign * value

    def _best_of(self, steps: Sequence[int]) -> int | None:
        scored = [(self._score(step), -step) for step in steps]
        best = min(((score, later) for score, later in scored if score is not None), default=None)
        return None if best is None else -best[1]


def item_handlers() -> dict[str, Any]:
    """Return Orbax's handlers of a checkpoint's items."""
    return {
        "params": ocp.StandardCheckpointHandler(),
        "opt_state": ocp.StandardCheckpointHandler(),
        "ema": ocp.StandardCheckpointHandler(),
        "meta": ocp.JsonCheckpointHandler(filename=META),
        "data_iterator": grain.checkpoint.CheckpointHandler(),
    }


def is_checkpoint(path: Path) -> bool:
    """Return True if a step's folder was saved completely."""
    return (path / "_CHECKPOINT_METADATA").is_file() or (path / MANIFEST).is_file()


def check_same(saved: PyTree, target: PyTree, item: str, folder: Path) -> None:
    """Check that the arrays of a saved item have the names, shapes and dtypes of `target`.

    Raises CheckpointMismatch with the first differences.
    """
    before, now = _described(saved), _described(target)
    names = [*now, *(before.keys() - now.keys())]
    lines = [
        f"{name}: saved {before.get(name, 'nothing')}, now {now.get(name, 'nothing')}"
        for name in names
        if before.get(name) != now.get(name)
    ]
    if lines:
        shown = lines[:5]
        if len(lines) > 5:
            shown.append(f"... and {len(lines) - 5} more")
        kind = "optimizer" if item == "opt_state" else "model"
        listing = "\n  ".join(shown)
        raise CheckpointMismatch(
            f"{folder} belongs to a different {kind}: {len(lines)} of {len(names)} arrays of "
            f"{item} differ:\n  {listing}\n"
            "Use the config that this workdir was made with, or another workdir"
        )


def _described(tree: PyTree) -> dict[str, str]:
    """Return 'shape dtype' by parameter path."""
    described = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        described[name] = f"{tuple(leaf.shape)} {np.dtype(leaf.dtype).name}"
    return described
