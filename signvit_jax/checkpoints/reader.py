"""Reads checkpoints: finds the newest or the best that is whole, and its parameters alone; never changes a folder."""

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
from signvit_jax.runtime.exit_codes import FAILED, USAGE, is_out_of_memory

FORMAT = 1  # of meta.json; raised when a later release can no longer be read by this one
META = "meta.json"
_Result = TypeVar("_Result")
_logger = logging.getLogger(__name__)


class CheckpointError(SignVitError):
    """A checkpoint could not be written or read; earlier ones are as they were."""

    exit_code = FAILED


class CheckpointMissing(CheckpointError):
    """There is none, none of that step, or only one that a later release wrote."""

    exit_code = USAGE


class CheckpointDamaged(CheckpointError):
    """Files differ from what was written; the message names them."""


class CheckpointMismatch(CheckpointError):
    """The checkpoint is sound, but of another model, optimizer or number of processes."""

    exit_code = USAGE


@dataclasses.dataclass(frozen=True)
class RestoredParams:
    """Parameters to evaluate with, and which ones they are."""

    step: int
    params: PyTree
    averaged: bool  # True: the exponential moving average
    meta: dict[str, Any]
    metrics: dict[str, float]


class CheckpointReader:
    """Reads a checkpoint folder, also while a trainer is writing to it.

    `best_metric` names the saved metric that "best" looks at. With `strict`, a damaged checkpoint raises CheckpointDamaged instead of being left out.
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
        self._best_metric, self._sign, self._strict = (
            best_metric,
            -1.0 if higher_is_better else 1.0,
            strict,
        )
        self._orbax = ocp.Checkpointer(ocp.CompositeCheckpointHandler(**item_handlers()))

    def steps(self) -> list[int]:
        """Steps that were saved to the end, rising; files and folders that are not checkpoints do not count."""
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
        """Whether a step is a model that was trained elsewhere, without the state of a run."""
        return bool(self.noted(step, "converted"))

    def noted(self, step: int, name: str) -> Any:
        """What the notes of a step hold under a name; None if nothing, or if they cannot be read."""
        try:
            return self._notes(step)[0].get(name)
        except (
            CheckpointError,
            OSError,
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            RecursionError,
        ):
            return None

    def best_step(self) -> int | None:
        """The step with the best metric (the latest of equals); None if no step has that metric."""
        return self._best_of(self.steps())

    def restore_params(
        self,
        which: str = "best",
        target: PyTree | None = None,
        *,
        prefer_ema: bool = True,
        step: int | None = None,
    ) -> RestoredParams:
        """Parameters of the best or the last checkpoint, or of `step`; the optimizer's state is not read.

        `target`: ShapeDtypeStructs, with shardings or without; None gives NumPy arrays in the shapes that were saved.
        If nothing was scored, the best is the last. Raises CheckpointMissing, CheckpointDamaged, CheckpointMismatch.
        """
        if which not in ("best", "last"):
            raise ValueError(f"which is {which!r}; allowed: 'best', 'last'")
        candidates = self.steps()[::-1]
        if which == "best":
            scored = [s for s in candidates if self._score(s) is not None]
            candidates = sorted(scored, key=lambda s: (self._score(s), -s)) + [
                s for s in candidates if s not in scored
            ]

        def read(at: int) -> RestoredParams:
            averaged = prefer_ema and (self.folder / str(at) / "ema").is_dir()
            item = "ema" if averaged else "params"
            saved = self._saved_shapes(at, item)
            if target is not None:
                check_same(saved, target, item, self.folder / str(at))
            wanted = (
                jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), saved)
                if target is None
                else target
            )
            read = self._orbax.restore(
                self.folder / str(at),
                args=ocp.args.Composite(**{item: ocp.args.StandardRestore(wanted)}),
            )
            return RestoredParams(at, read[item], averaged, *self._notes(at))

        return self._first_sound(
            candidates if step is None else [self._existing(step)], read, ("params", "ema", "meta")
        )

    def _first_sound(
        self, candidates: Sequence[int], read: Callable[[int], _Result], items: Sequence[str] | None
    ) -> _Result:
        """`read(step)` of the first candidate that is not damaged."""
        reasons: dict[int, str] = {}
        for step in candidates:
            damage = self._damage(step, items)
            unproven = damage is None
            if not damage and not (unproven and self._strict):
                try:
                    result = read(step)
                except Exception as error:
                    # A step whose files are all as they were written is not to blame for the error, nor is one that was understood.
                    if not unproven or isinstance(error, SignVitError) or is_out_of_memory(error):
                        raise
                    damage = [f"{MANIFEST}: missing, and reading failed ({type(error).__name__})"]
                else:
                    if unproven:
                        _logger.warning(
                            "checkpoint %d in %s has no %s, so it could not be checked; it was read without an error",
                            step,
                            self.folder,
                            MANIFEST,
                        )
                    self._leave_out(list(reasons))
                    return result
            reasons[step] = "; ".join(
                (damage or [f"{MANIFEST}: missing, so it cannot be checked"])[:5]
            )
            if self._strict:
                raise CheckpointDamaged(
                    f"checkpoint {step} in {self.folder} is damaged: {reasons[step]}. Without strict restoring, the one before it would be used"
                )
            _logger.warning(
                "checkpoint %d in %s is damaged and is left out: %s",
                step,
                self.folder,
                reasons[step],
            )
        if reasons:
            listing = "\n  ".join(f"{step}: {reason}" for step, reason in reasons.items())
            raise CheckpointDamaged(
                f"no checkpoint in {self.folder} can be used:\n  {listing}\nRestore the folder from a copy, or start in a new workdir"
            )
        raise CheckpointMissing(
            f"no checkpoint in {self.folder}; train first, or give another workdir"
        )

    def _leave_out(self, damaged: Sequence[int]) -> None:
        """What to do with newer steps that are damaged, when a sound one was found. Where none was, they stay: the next try must not start anew."""

    def _damage(self, step: int, items: Sequence[str] | None) -> list[str] | None:
        """What is wrong with a step, [] if nothing, None if there is no manifest. Process 0 looks and tells the others."""
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
        return None if count < 0 else damage or ["named by process 0"] * count

    def _existing(self, step: int) -> int:
        if step not in self.steps():
            raise CheckpointMissing(
                f"no checkpoint of step {step} in {self.folder}; there are: {', '.join(map(str, self.steps())) or 'none'}"
            )
        return step

    def _saved_shapes(self, step: int, item: str) -> PyTree:
        """ShapeDtypeStructs of what was saved, as nested dicts and lists."""
        metadata = ocp.StandardCheckpointHandler().metadata(
            epath.Path(self.folder / str(step) / item)
        )
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), metadata.tree
        )

    def _notes(self, step: int) -> tuple[dict[str, Any], dict[str, float]]:
        """(meta, metrics). Raises CheckpointMissing for a later release's format, OSError and ValueError for a damaged file."""
        notes = json.loads((self.folder / str(step) / "meta" / META).read_text(encoding="utf-8"))
        if notes["format"] > FORMAT:
            raise CheckpointMissing(
                f"checkpoint {step} in {self.folder} has format {notes['format']}, this release reads up to {FORMAT}; use the release that wrote it"
            )
        return notes["meta"], notes["metrics"]

    def _score(self, step: int) -> float | None:
        """The lower, the better; None if the step has no such metric or cannot be read."""
        try:
            value = self._notes(step)[1].get(self._best_metric)
        except (
            CheckpointError,
            OSError,
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            RecursionError,
        ):
            return None
        return None if value is None else self._sign * value

    def _best_of(self, steps: Sequence[int]) -> int | None:
        scored = [(self._score(step), -step) for step in steps]
        best = min(((score, later) for score, later in scored if score is not None), default=None)
        return None if best is None else -best[1]


def item_handlers() -> dict[str, Any]:
    return {
        "params": ocp.StandardCheckpointHandler(),
        "opt_state": ocp.StandardCheckpointHandler(),
        "ema": ocp.StandardCheckpointHandler(),
        "meta": ocp.JsonCheckpointHandler(filename=META),
        "data_iterator": grain.checkpoint.CheckpointHandler(),
    }


def is_checkpoint(path: Path) -> bool:
    return (path / "_CHECKPOINT_METADATA").is_file() or (path / MANIFEST).is_file()


def check_same(saved: PyTree, wanted: PyTree, item: str, folder: Path) -> None:
    """Raises CheckpointMismatch with the first differences between what was saved and what is asked for."""
    before, now = _described(saved), _described(wanted)
    names = [*now, *(before.keys() - now.keys())]
    lines = [
        f"{name}: saved {before.get(name, 'nothing')}, now {now.get(name, 'nothing')}"
        for name in names
        if before.get(name) != now.get(name)
    ]
    if lines:
        shown = "\n  ".join(
            lines[:5] + ([f"... and {len(lines) - 5} more"] if len(lines) > 5 else [])
        )
        kind = "optimizer" if item == "opt_state" else "model"
        raise CheckpointMismatch(
            f"{folder} holds another {kind}: {len(lines)} of {len(names)} arrays of {item} differ:\n  {shown}\n"
            "Use the config that this workdir was made with, or another workdir"
        )


def _described(tree: PyTree) -> dict[str, str]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {
        jax.tree_util.keystr(
            path, simple=True, separator="/"
        ): f"{tuple(leaf.shape)} {np.dtype(leaf.dtype).name}"
        for path, leaf in leaves
    }
