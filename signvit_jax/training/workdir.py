"""The folder of one run: the names of its files, its lock, and which settings a resumed run may change."""

import contextlib
import dataclasses
import datetime
import fcntl
import json
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from signvit_jax.config import Config, ConfigError, key_differences
from signvit_jax.exit_codes import USAGE
from signvit_jax.training.atomic_write import write_atomically

_logger = logging.getLogger(__name__)


class WorkdirError(Exception):
    """A path that cannot be a workdir, is none, or is in use; the message says what to do."""

    exit_code = USAGE


@dataclasses.dataclass(frozen=True)
class Workdir:
    """Names of everything that a run leaves behind. `create` for a trainer, `open` for whoever reads."""

    path: Path

    @classmethod
    def create(cls, path: str | os.PathLike) -> "Workdir":
        """The workdir at `path`, made if it is not there. Raises WorkdirError."""
        workdir = cls(Path(path).absolute())
        try:
            for folder in (workdir.path, workdir.checkpoints, workdir.samples):
                folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise WorkdirError(f"--workdir={path}: {error.filename} is a file; a workdir is a folder, give another path") from error
        except OSError as error:
            raise WorkdirError(f"--workdir={path} cannot be made: {error.strerror}; give a folder that you may write to") from error
        return workdir

    @classmethod
    def open(cls, path: str | os.PathLike) -> "Workdir":
        """The workdir of an earlier run. Raises WorkdirError for anything else."""
        workdir = cls(Path(path).absolute())
        if not workdir.path.exists():
            raise WorkdirError(f"--workdir={path} does not exist; give the folder that signvit_jax.train wrote to")
        if not workdir.path.is_dir():
            raise WorkdirError(f"--workdir={path} is a file; give the folder that signvit_jax.train wrote to")
        if not workdir.config_json.is_file():
            near = [candidate for candidate in (workdir.path.parent, *sorted(workdir.path.iterdir())[:1000]) if cls(candidate).config_json.is_file()]
            hint = f"; did you mean {', '.join(map(str, near[:3]))}?" if near else "; give the folder that signvit_jax.train wrote to"
            raise WorkdirError(f"--workdir={path} is not a workdir: it has no config.json{hint}")
        return workdir

    config_json = property(lambda self: self.path / "config.json")
    tokenizer_json = property(lambda self: self.path / "tokenizer.json")
    gloss_tokenizer_json = property(lambda self: self.path / "gloss_tokenizer.json")
    calibration_json = property(lambda self: self.path / "calibration.json")
    checkpoints = property(lambda self: self.path / "checkpoints")
    metrics_csv = property(lambda self: self.path / "metrics.csv")
    metrics_png = property(lambda self: self.path / "metrics.png")
    events = property(lambda self: self.path)  # TensorBoard's events.* lie beside the rest, so that --logdir takes the workdir or its parent
    samples = property(lambda self: self.path / "samples")
    evaluations = property(lambda self: self.path / "eval")
    profile = property(lambda self: self.path / "profile")
    report_html = property(lambda self: self.path / "report.html")
    run_log = property(lambda self: self.path / "run.log")
    fingerprint_txt = property(lambda self: self.path / "training_split.txt")
    lock_file = property(lambda self: self.path / ".lock")

    def write_text(self, path: Path, text: str) -> None:
        """Writes one of the files above whole or not at all. Raises WorkdirError."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, text)
        except OSError as error:
            raise WorkdirError(f"{path} could not be written: {error.strerror}") from error

    @contextlib.contextmanager
    def lock(self) -> Iterator[str | None]:
        """Keeps a second trainer out while the context is open. Gives the trainer, if any, that ended without releasing the lock.

        The kernel frees the lock when its holder ends, however it ends, so none is ever left behind. Of a run's processes the first takes it.
        Raises WorkdirError that names who is in.
        """
        if jax.process_index() != 0:
            yield None
            return
        try:
            descriptor = os.open(self.lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise WorkdirError(f"{self.lock_file} could not be opened: {error.strerror}; give a workdir that you may write to") from error
        with contextlib.ExitStack() as stack:
            stack.callback(os.close, descriptor)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise WorkdirError(f"{self.path} is in use by {_holder(descriptor)}; wait for it, stop it, or give another --workdir") from error
            except OSError as error:
                _logger.warning("%s cannot be locked (%s): take care that no second trainer uses it", self.path, error.strerror)
            _close_in_children(descriptor)
            killed = _holder(descriptor) if os.fstat(descriptor).st_size else None
            since = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
            os.ftruncate(descriptor, 0)  # what a killed holder wrote may be longer
            os.pwrite(descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since}).encode(), 0)
            stack.callback(os.ftruncate, descriptor, 0)
            yield killed


# A child that outlives a killed trainer must not go on holding its lock.
_locks: set[int] = set()


def _close_in_children(descriptor: int) -> None:
    if not _locks:
        os.register_at_fork(after_in_child=_close_locks)
    _locks.add(descriptor)


def _close_locks() -> None:
    while _locks:
        with contextlib.suppress(OSError):
            os.close(_locks.pop())


def _holder(descriptor: int) -> str:
    try:
        info = json.loads(os.pread(descriptor, 4096, 0))
        return f"process {info['pid']} on {info['host']} since {info['since']}"
    except (ValueError, KeyError, TypeError):
        return "another process"


# What a resumed run may not change, because the saved parameters, optimiser state, vocabulary or data position would no longer fit,
# or because the finished part of the run would have been another. Everything else (rates, weights of losses, augmentation, patience,
# epochs, mesh, inference ...) may change.
_FIXED = (
    "data.fit",
    "data.frame_buckets",
    "data.frame_rate",
    "data.image_size",
    "data.mean",
    "data.name",
    "data.num_frames",
    "data.sampling",
    "data.std",
    "data.train_split",
    "training.batch_size",
    "training.seed",
    "training.weight_decay_on",
)
_FIXED_GROUPS = ("model.", "tokenizer.")
_FREE_IN_GROUPS = (  # by the last part of the key
    "dropout",
    "attention_dropout",
    "drop_path",
    "freeze_epochs",
    "pretrained",
    "attention",
    "frames_per_chunk",
    "patch_drop",
    "token_merge",
    "dropout_random",
)


def check_resume(old: Config, new: Config) -> list[tuple[str, Any, Any]]:
    """The (key, old, new) that a resumed run changes, to be logged. Raises ConfigError naming those that it may not change."""
    differences = key_differences(old, new)
    refused = [(key, before, now) for key, before, now in differences if _is_fixed(key, before, now)]
    if refused:
        lines = "\n".join(f"  config.{key}: {before!r} in the workdir, {now!r} now" for key, before, now in refused)
        raise ConfigError(
            f"this workdir was made with another model, vocabulary or data set:\n{lines}\nUse the old values, or give another --workdir"
        )
    return differences


def _is_fixed(key: str, before: Any, now: Any) -> bool:
    if key in ("training.ema_decay", "training.distillation.teacher"):
        return not (before and now)  # from the first step on, or not at all
    return key in _FIXED or (key.startswith(_FIXED_GROUPS) and key.rsplit(".", 1)[-1] not in _FREE_IN_GROUPS)
