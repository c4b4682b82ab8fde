"""Checkpoints that are either whole or not there.

Layout of a checkpoint folder: `<step>/{params,opt_state,ema,data_iterator,meta}/` by Orbax, and `<step>/manifest.json` (`manifest.py`).
Orbax writes a step under a temporary name in the background; the manifest is written there too, and the rename that makes the step final comes last.
Only then are older steps deleted. The last N are kept, and the best by one of the saved metrics.

A trainer uses `CheckpointStore`; evaluation and translation use its base `CheckpointReader`, which reads parameters alone and never changes a folder.
"""

import dataclasses
import functools
import json
import logging
import math
import os
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
    RestoredParams,
    check_same,
    is_checkpoint,
    item_handlers,
)

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

_logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Restored:
    """A whole training state. `ema` is None if it was not asked for or not saved; the data iterator was put into place."""

    step: int
    params: PyTree
    opt_state: PyTree
    ema: PyTree | None
    meta: dict[str, Any]
    metrics: dict[str, float]


class CheckpointStore(CheckpointReader):
    """Writes checkpoints, and restores the whole training state. One process (or one `jax.distributed` group) may have a folder open for writing."""

    def __init__(self, folder: Path, keep_last: int = 3, **reading: Any):
        """`keep_last` >= 1; `reading` as for CheckpointReader. Raises CheckpointError if the folder cannot be made."""
        if keep_last < 1:
            raise ValueError(f"keep_last is {keep_last}; allowed: a whole number >= 1")
        super().__init__(folder, **reading)
        self._keep_last = keep_last
        self._manager: ocp.CheckpointManager | None = None
        self._saving: int | None = None
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
        meta: Mapping[str, Any],
        data_iterator: Any = None,
        ema: PyTree | None = None,
        metrics: Mapping[str, float] | None = None,
        wait: bool = False,
    ) -> None:
        """Starts saving; returns when the arrays may be changed again.

        A step that was saved before is replaced once the new one is final. Without `opt_state` it is a model to use, or to start a run from.

        `meta`: JSON values. `metrics`: what "best" may look at; non-finite ones are not kept.
        `data_iterator`: a `grain.DatasetIterator`, its position as of now.
        A folder that was renamed or deleted since is made again. Raises CheckpointError if this save or the one before failed.
        """
        try:
            self.wait()
        except CheckpointError as error:
            if self.folder.is_dir():
                raise
            _logger.warning("%s", error)  # what is saved now is newer
        notes = {
            "format": FORMAT,
            "meta": dict(meta),
            "metrics": {name: float(x) for name, x in (metrics or {}).items() if math.isfinite(x)},
        }
        items = {
            "params": ocp.args.StandardSave(params),
            "meta": ocp.args.JsonSave(
                json.loads(json.dumps(notes))
            ),  # a copy, which the caller cannot change while it is being written
        }
        if opt_state is not None:
            items["opt_state"] = ocp.args.StandardSave(opt_state)
        if data_iterator is not None:
            items["data_iterator"] = grain.checkpoint.CheckpointSave(data_iterator)
        if ema is not None:
            items["ema"] = ocp.args.StandardSave(ema)
        value = notes["metrics"].get(self._best_metric)
        self._saving, self._saving_score = step, None if value is None else self._sign * value
        try:
            if not self.folder.is_dir():
                _logger.warning(
                    "%s is gone, renamed or deleted while the run went on; it is made again, and the run saves there",
                    self.folder,
                )
                self._manager = None  # it remembers what was there
            self._on_first_process(lambda: self._make_way(step))
            if self._manager is not None and step in self._manager.all_steps():
                self._drop_manager()  # it remembers what it saved
            if self._manager is None:
                self._manager = ocp.CheckpointManager(
                    self.folder, options=self._options(), item_handlers=item_handlers()
                )
            self._manager.save(step, args=ocp.args.Composite(**items), force=True)
        except Exception as error:
            raise self._failed(error) from error
        if wait:
            self.wait()

    def wait(self) -> None:
        """Until the last save is final, its manifest written and what it makes superfluous deleted. Raises CheckpointError if it failed."""
        if self._saving is None or self._manager is None:
            return
        try:
            self._manager.wait_until_finished()
            if jax.process_index() == 0 and not is_checkpoint(self.folder / str(self._saving)):
                raise CheckpointError("it did not become final")
            self._on_first_process(self._finish_replacing)
        except Exception as error:
            raise self._failed(error) from error
        self._saving = self._saving_score = None

    def close(self) -> None:
        """Waits for the last save. Raises CheckpointError if it failed."""
        self.wait()
        self._drop_manager()

    def abandon(self) -> None:
        """Gives up a save that is under way: without one of its processes it can never become final, and waiting for it would not end."""
        self._manager = self._saving = self._saving_score = None

    def restore(
        self,
        params: PyTree,
        opt_state: PyTree,
        ema: PyTree | None = None,
        data_iterator: Any = None,
        step: int | None = None,
    ) -> Restored:
        """The newest sound checkpoint, or that of `step`, on the shardings of the targets (ShapeDtypeStructs); `data_iterator` is moved to its place.

        Damaged checkpoints are named in a warning and, where an older one is sound, renamed to `<step>.damaged`, so that the run can save that step
        again.
        A converted model is not gone back to: it has none of the run's state.
        Raises CheckpointMissing, CheckpointDamaged (strict, or nothing sound is left), CheckpointMismatch.
        """
        self.wait()

        def read(at: int) -> Restored:
            folder = self.folder / str(at)
            targets = {"params": params, "opt_state": opt_state} | (
                {"ema": ema} if ema is not None and (folder / "ema").is_dir() else {}
            )
            for item, target in targets.items():
                check_same(self._saved_shapes(at, item), target, item, folder)
            notes = self._notes(at)
            position = None if data_iterator is None else _data_position(folder)
            arguments = {item: ocp.args.StandardRestore(target) for item, target in targets.items()}
            read = self._orbax.restore(folder, args=ocp.args.Composite(**arguments))
            if data_iterator is not None:
                data_iterator.set_state(position)
            return Restored(
                at,
                read["params"],
                read["opt_state"],
                read["ema"] if "ema" in targets else None,
                *notes,
            )

        own = [at for at in self.steps()[::-1] if not self.is_converted(at)]
        return self._first_sound(own if step is None else [self._existing(step)], read, None)

    def _leave_out(self, damaged: Sequence[int]) -> None:
        for step in damaged:
            self._on_first_process(functools.partial(self._set_aside, step, "damaged"))

    def _options(self) -> ocp.CheckpointManagerOptions:
        return ocp.CheckpointManagerOptions(
            preservation_policy=self,
            lightweight_initialize=True,  # reads no metadata: a damaged step must not stop a save
            cleanup_tmp_directories=True,
            # Folders that Orbax makes in the background and cannot (no inode left) would be waited for, for five minutes.
            async_options=ocp.AsyncOptions(
                post_finalization_callback=self._write_manifest,
                create_directories_asynchronously=False,
            ),
        )

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Orbax's question which steps to keep; the one that is being saved is among them."""
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
        """Orbax calls this on process 0, in its own thread, when every file is written and the folder still has its temporary name."""
        write_manifest(next(path for path in self._folders_of(self._saving) if path.is_dir()))

    def _folders_of(self, step: int | None) -> list[Path]:
        return [*self.folder.glob(f"{step}.orbax-checkpoint-tmp*"), self.folder / str(step)]

    def _failed(self, error: BaseException) -> CheckpointError:
        """The error to raise for a save that failed, after its remains are gone: they may be what fills the disk."""
        step, self._saving, self._saving_score = self._saving, None, None
        self._manager = None  # its background threads have ended with the error; closing it would only raise that again
        if jax.process_index() == 0:
            for remains in self._folders_of(step)[:-1]:
                shutil.rmtree(remains, ignore_errors=True)
            self._finish_replacing()
        left = ", ".join(map(str, self.steps())) or "none"
        return CheckpointError(
            f"checkpoint {step} could not be saved to {self.folder}: {_cause(error, self.folder)}. Checkpoints still there: {left}"
        )

    def _drop_manager(self) -> None:
        if self._manager is not None:
            self._manager.close()
            self._manager = None

    def _make_way(self, step: int) -> None:
        if (self.folder / str(step)).exists():
            self._set_aside(
                step, "replaced" if is_checkpoint(self.folder / str(step)) else "foreign"
            )

    def _set_aside(self, step: int, why: str) -> None:
        """Renames a step's folder to `<step>.<why>`, `<step>.<why>-2`, ..."""
        number = 1
        while (aside := self.folder / f"{step}.{why}{f'-{number}' if number > 1 else ''}").exists():
            number += 1
        (self.folder / str(step)).rename(aside)

    def _finish_replacing(self) -> None:
        """`<step>.replaced` is deleted if the new `<step>` became final, and gets its name back if not."""
        for aside in self.folder.glob("*.replaced"):
            final = aside.with_suffix("")
            if not final.exists():
                aside.rename(final)
            elif is_checkpoint(final):
                shutil.rmtree(aside)

    def _on_first_process(self, change: Callable[[], None]) -> None:
        if jax.process_index() == 0:
            change()
        multihost_utils.sync_global_devices(f"checkpoint folder {self.folder}")


def _data_position(folder: Path) -> dict[str, Any]:
    """This process's own, or process 0's if the number of processes has changed: batches are counted alike in all of them."""
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


def _cause(error: BaseException, folder: Path) -> str:
    """The reason in plain words; TensorStore hands on the system's text inside a longer one."""
    text = str(error)
    if not folder.is_dir():
        return "the folder is gone, renamed or deleted while the run went on"
    if "No space left on device" in text and _no_inodes(folder):
        return "the disk takes no more files (no inode is free); delete files, or lower training.keep_last_n_checkpoints"
    for sign, words in (
        (
            "No space left on device",
            "the disk is full; free some space, or lower training.keep_last_n_checkpoints",
        ),
        (
            "Disk quota exceeded",
            "your disk quota (of bytes or of files) is used up; free some, or lower training.keep_last_n_checkpoints",
        ),
        ("File too large", "a file grew beyond the allowed size (ulimit -f)"),
        ("Read-only file system", "the disk is read-only"),
        ("Permission denied", "no permission to write there"),
        ("Stale file handle", "the network disk lost the folder (stale file handle)"),
        ("Input/output error", "the disk does not answer (input/output error)"),
    ):
        if sign in text:
            return words
    return (
        f"{type(error).__name__}: {text.strip().splitlines()[0] if text.strip() else 'no message'}"
    )


def _no_inodes(folder: Path) -> bool:
    """Of a file system that counts them: some (btrfs) say 0 of 0. A failed save may have given a few back by now."""
    found = os.statvfs(folder)
    return found.f_files > 0 and found.f_favail < 100 and found.f_bavail * found.f_frsize > 2**20
