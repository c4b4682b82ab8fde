"""Checkpoints that are complete or absent.

Layout of a checkpoint folder: `<step>/{params,opt_state,ema,data_iterator,meta}/` by Orbax, and
`<step>/manifest.json` (`manifest.py`). Orbax writes a step under a temporary name in the
background. The manifest is written there too, and the last action renames the folder to its final
name. Only then are older steps deleted. The last N steps are kept, and the best by one metric.

A trainer uses `CheckpointStore`. Evaluation and translation use its base class `CheckpointReader`,
which reads parameters alone and never changes a folder.
"""

import dataclasses
import functools
import json
import logging
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import grain
import jax
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from jaxtyping import PyTree

from signvit_jax.checkpoints.manifest import write_manifest
from signvit_jax.checkpoints.reader import (
    FORMAT,
    CheckpointDamaged,
    CheckpointError,
    CheckpointMismatch,
    CheckpointMissing,
    CheckpointReader,
    Meta,
    RestoredParams,
    check_same,
    is_checkpoint,
    item_handlers,
)
from signvit_jax.checkpoints.save_failures import save_failure

__all__ = [
    "CheckpointDamaged",
    "CheckpointError",
    "CheckpointMismatch",
    "CheckpointMissing",
    "CheckpointReader",
    "CheckpointStore",
    "Restored",
    "RestoredParams",
]

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Restored:
    """A complete training state. `ema` is None if it was not requested or not saved."""

    step: int
    params: PyTree
    opt_state: PyTree
    ema: PyTree | None
    meta: Meta
    metrics: dict[str, float]


class CheckpointStore(CheckpointReader):
    """Writer of checkpoints, which also restores the complete training state.

    Only one process (or one `jax.distributed` group) may have a folder open for writing.
    """

    def __init__(
        self,
        folder: Path,
        keep_last: int = 3,
        *,
        best_metric: str = "loss",
        higher_is_better: bool = False,
        strict: bool = False,
    ):
        """`keep_last`: at least 1. The others: as for CheckpointReader.

        Raises CheckpointError if the folder cannot be created.
        """
        if keep_last < 1:
            raise ValueError(f"keep_last is {keep_last}; allowed: an integer >= 1")
        super().__init__(
            folder, best_metric=best_metric, higher_is_better=higher_is_better, strict=strict
        )
        self._keep_last = keep_last
        self._manager: ocp.CheckpointManager | None = None
        self._saving: int | None = None  # the step of a save that is not final yet
        self._saving_score: float | None = None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._on_first_process(self._finish_replacing)
        except OSError as error:
            raise CheckpointError(
                f"the checkpoint folder {self.folder} cannot be used: {error.strerror or error}"
            ) from error

    def save(
        self,
        step: int,
        params: PyTree,
        opt_state: PyTree | None,
        meta: Mapping[str, object],
        data_iterator: grain.DatasetIterator | None = None,
        ema: PyTree | None = None,
        metrics: Mapping[str, float] | None = None,
        wait: bool = False,
    ) -> None:
        """Start saving; return when the caller may change the arrays again.

        An earlier save of the same step is replaced once the new one is final. Without `opt_state`
        the checkpoint is a model to use, or to start a run from.

        `meta`: JSON values. `metrics`: values by which the best step is chosen; non-finite ones are
        dropped. `data_iterator`: a `grain.DatasetIterator`; its present position is saved. A folder
        that was renamed or deleted is recreated. Raises CheckpointError if this save or the one
        before failed.
        """
        try:
            self.wait()
        except CheckpointError as error:
            if self.folder.is_dir():
                raise
            log.warning("%s", error)  # not fatal: the present save is newer
        content = {
            "format": FORMAT,
            "meta": dict(meta),
            "metrics": {name: float(x) for name, x in (metrics or {}).items() if math.isfinite(x)},
        }
        items = {
            "params": ocp.args.StandardSave(params),
            # A deep copy, which the caller cannot change while it is being written.
            "meta": ocp.args.JsonSave(json.loads(json.dumps(content))),
        }
        if opt_state is not None:
            items["opt_state"] = ocp.args.StandardSave(opt_state)
        if data_iterator is not None:
            items["data_iterator"] = grain.checkpoint.CheckpointSave(data_iterator)
        if ema is not None:
            items["ema"] = ocp.args.StandardSave(ema)
        value = content["metrics"].get(self._best_metric)
        self._saving = step
        self._saving_score = None if value is None else self._sign * value
        try:
            manager = self._manager_for(step)
            manager.save(step, args=ocp.args.Composite(**items), force=True)
        except Exception as error:
            raise self._clean_up_failed_save(error) from error
        if wait:
            self.wait()

    def _manager_for(self, step: int) -> ocp.CheckpointManager:
        """Return Orbax's manager of a folder that has no step of this number."""
        if not self.folder.is_dir():
            log.warning(
                "%s is gone, renamed or deleted during the run; it is recreated, and "
                "the run saves there",
                self.folder,
            )
            self._manager = None  # it remembers the steps of the old folder
        self._on_first_process(lambda: self._move_existing(step))
        if self._manager is not None and step in self._manager.all_steps():
            self._drop_manager()  # it remembers the step that was moved
        if self._manager is None:
            self._manager = ocp.CheckpointManager(
                self.folder, options=self._options(), item_handlers=item_handlers()
            )
        return self._manager

    def wait(self) -> None:
        """Wait until the last save is final and the steps that it replaces are deleted.

        Raises CheckpointError if the save failed.
        """
        if self._saving is None or self._manager is None:
            return
        try:
            self._manager.wait_until_finished()
            if jax.process_index() == 0 and not is_checkpoint(self.folder / str(self._saving)):
                raise CheckpointError("it did not become final")
            self._on_first_process(self._finish_replacing)
        except Exception as error:
            raise self._clean_up_failed_save(error) from error
        self._saving = None
        self._saving_score = None

    def close(self) -> None:
        """Wait for the last save. Raises CheckpointError if it failed."""
        self.wait()
        self._drop_manager()

    def abandon(self) -> None:
        """Give up a save in progress after a process of the group has died.

        Without that process the save never becomes final, and waiting for it would not end.
        """
        self._manager = None
        self._saving = None
        self._saving_score = None

    def restore(
        self,
        params: PyTree,
        opt_state: PyTree,
        ema: PyTree | None = None,
        data_iterator: grain.DatasetIterator | None = None,
        step: int | None = None,
    ) -> Restored:
        """Restore the newest undamaged checkpoint, or that of `step`.

        `params`, `opt_state`, `ema`: ShapeDtypeStructs; arrays get their shardings.
        `data_iterator` is moved to its saved position.

        Damaged checkpoints are reported in a warning. If an older one is undamaged, they are
        renamed to `<step>.damaged`, so that the run can save that step again. Converted weights
        are never chosen: they have no state of a run.

        Raises CheckpointMissing, CheckpointDamaged (if strict, or if all are damaged),
        CheckpointMismatch.
        """
        self.wait()

        def read(candidate: int) -> Restored:
            folder = self.folder / str(candidate)
            targets = {"params": params, "opt_state": opt_state}
            if ema is not None and (folder / "ema").is_dir():
                targets["ema"] = ema
            for item, target in targets.items():
                check_same(self._saved_shapes(candidate, item), target, item, folder)
            meta, metrics = self._read_meta(candidate)
            position = {} if data_iterator is None else _data_position(folder)
            arguments = {item: ocp.args.StandardRestore(target) for item, target in targets.items()}
            restored = self._orbax.restore(folder, args=ocp.args.Composite(**arguments))
            if data_iterator is not None:
                data_iterator.set_state(position)
            return Restored(
                step=candidate,
                params=restored["params"],
                opt_state=restored["opt_state"],
                ema=restored["ema"] if "ema" in targets else None,
                meta=meta,
                metrics=metrics,
            )

        if step is None:
            candidates = [saved for saved in self.steps()[::-1] if not self.is_converted(saved)]
        else:
            candidates = [self._existing(step)]
        return self._first_undamaged(candidates, read, None)

    def _quarantine(self, damaged: Sequence[int]) -> None:
        for step in damaged:
            self._on_first_process(functools.partial(self._rename_aside, step, "damaged"))

    def _options(self) -> ocp.CheckpointManagerOptions:
        return ocp.CheckpointManagerOptions(
            preservation_policy=self,
            lightweight_initialize=True,  # reads no metadata, which may be damaged
            cleanup_tmp_directories=True,
            async_options=ocp.AsyncOptions(
                post_finalization_callback=self._write_manifest,
                # If Orbax creates folders in the background and that fails (no inode is free), it
                # waits for them for five minutes.
                create_directories_asynchronously=False,
            ),
        )

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Tell Orbax which steps to keep; the step that is being saved is one of `checkpoints`."""
        steps = sorted(
            c.step
            for c in checkpoints
            if c.step == self._saving or is_checkpoint(self.folder / str(c.step))
        )
        kept = {*steps[-self._keep_last :], self._best_of(steps)}
        return [c.step in kept or c.step not in steps for c in checkpoints]

    def _score(self, step: int) -> float | None:
        return self._saving_score if step == self._saving else super()._score(step)

    def _write_manifest(self) -> None:
        """Write the manifest. Orbax calls this on process 0, in a background thread.

        Every file is written by then, and the folder still has its temporary name.
        """
        write_manifest(next(path for path in self._folders_of(self._saving) if path.is_dir()))

    def _folders_of(self, step: int | None) -> list[Path]:
        """Return a step's temporary folders, and last its final one."""
        return [*self.folder.glob(f"{step}.orbax-checkpoint-tmp*"), self.folder / str(step)]

    def _clean_up_failed_save(self, error: BaseException) -> CheckpointError:
        """Delete the files of a failed save, which may fill the disk; return the error to raise."""
        step = self._saving
        self._saving = None
        self._saving_score = None
        # Its background threads ended with the error; closing it would only raise the error again.
        self._manager = None
        if jax.process_index() == 0:
            for remains in self._folders_of(step)[:-1]:
                shutil.rmtree(remains, ignore_errors=True)
            self._finish_replacing()
        steps = ", ".join(map(str, self.steps())) or "none"
        return CheckpointError(
            f"checkpoint {step} could not be saved to {self.folder}: "
            f"{save_failure(error, self.folder)}. Checkpoints still there: {steps}"
        )

    def _drop_manager(self) -> None:
        if self._manager is not None:
            self._manager.close()
            self._manager = None

    def _move_existing(self, step: int) -> None:
        """Rename an existing folder that has the name of the step to be saved."""
        folder = self.folder / str(step)
        if folder.exists():
            self._rename_aside(step, "replaced" if is_checkpoint(folder) else "foreign")

    def _rename_aside(self, step: int, reason: str) -> None:
        """Rename a step's folder to `<step>.<reason>`, or `<step>.<reason>-2`, ..."""
        number = 1
        aside = self.folder / f"{step}.{reason}"
        while aside.exists():
            number += 1
            aside = self.folder / f"{step}.{reason}-{number}"
        (self.folder / str(step)).rename(aside)

    def _finish_replacing(self) -> None:
        """Delete `<step>.replaced` if the new `<step>` became final, else restore its name."""
        for aside in self.folder.glob("*.replaced"):
            final = aside.with_suffix("")
            if not final.exists():
                aside.rename(final)
            elif is_checkpoint(final):
                shutil.rmtree(aside)

    def _on_first_process(self, change: Callable[[], None]) -> None:
        """Change the folder on process 0; the others wait until it is done."""
        if jax.process_index() == 0:
            change()
        multihost_utils.sync_global_devices(f"checkpoint folder {self.folder}")


def _data_position(folder: Path) -> dict[str, object]:
    """Return the data position that this process saved.

    If the number of processes has changed, return the position of process 0: all processes count
    the same batches.
    """
    own = f"process_{jax.process_index()}-of-{jax.process_count()}.json"
    files = {
        path.name: path for path in sorted((folder / "data_iterator").glob("process_*-of-*.json"))
    }
    if not files:
        raise CheckpointMismatch(
            f"{folder} was saved without a data position; start in a new workdir"
        )
    path = files.get(own) or next(iter(files.values()))
    return json.loads(path.read_text(encoding="utf-8"))
