"""The folder of one run: its file names, its lock, and what a resumed run may change."""

import contextlib
import dataclasses
import datetime
import fcntl
import json
import logging
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

import jax

from signvit_jax.config.errors import ConfigError
from signvit_jax.config.schema import Config, from_json, key_differences
from signvit_jax.errors.base import SignVitError
from signvit_jax.files.atomic import write_atomically
from signvit_jax.files.local_paths import ALLOWED, is_address
from signvit_jax.text.tokenizer import Tokenizer, TokenizerError

log = logging.getLogger(__name__)

_WRITER = "give the folder that `signvit train` wrote to"


class WorkdirError(SignVitError):
    """A path that is no workdir, cannot become one or is in use; the message says what to do."""


@dataclasses.dataclass(frozen=True)
class Workdir:
    """Paths of a run's files. A trainer calls `create`, a reader `open`."""

    path: Path

    @classmethod
    def create(cls, path: str | os.PathLike) -> "Workdir":
        """Return the workdir at `path`, created if it does not exist. Raises WorkdirError."""
        _check_local(path)
        workdir = cls(Path(path).absolute())
        try:
            for folder in (workdir.path, workdir.checkpoints, workdir.samples):
                folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise WorkdirError(
                f"--workdir={path}: {error.filename} is a file; a workdir is a folder, give "
                "another path"
            ) from error
        except OSError as error:
            raise WorkdirError(
                f"--workdir={path} cannot be created: {error.strerror}; give a folder that you may "
                "write to"
            ) from error
        return workdir

    @classmethod
    def open(cls, path: str | os.PathLike) -> Self:
        """Return the workdir of an earlier run. Raises WorkdirError if `path` is none."""
        _check_local(path)
        workdir = cls(Path(path).absolute())
        if not workdir.path.exists():
            raise WorkdirError(f"--workdir={path} does not exist; {_WRITER}")
        if not workdir.path.is_dir():
            raise WorkdirError(f"--workdir={path} is a file; {_WRITER}")
        if not workdir.config_json.is_file():
            near = [
                str(candidate)
                for candidate in (workdir.path.parent, *sorted(workdir.path.iterdir())[:1000])
                if cls(candidate).config_json.is_file()
            ]
            hint = f"did you mean {', '.join(near[:3])}?" if near else _WRITER
            raise WorkdirError(f"--workdir={path} is not a workdir: it has no config.json; {hint}")
        return workdir

    config_json = property(lambda self: self.path / "config.json")
    tokenizer_json = property(lambda self: self.path / "tokenizer.json")
    gloss_tokenizer_json = property(lambda self: self.path / "gloss_tokenizer.json")
    calibration_json = property(lambda self: self.path / "calibration.json")
    checkpoints = property(lambda self: self.path / "checkpoints")
    metrics_csv = property(lambda self: self.path / "metrics.csv")
    metrics_png = property(lambda self: self.path / "metrics.png")
    # TensorBoard's events.* are directly in the workdir, so that --logdir takes it or its parent.
    events = property(lambda self: self.path)
    samples = property(lambda self: self.path / "samples")
    evaluations = property(lambda self: self.path / "eval")
    profile = property(lambda self: self.path / "profile")
    run_log = property(lambda self: self.path / "run.log")
    # The data set and the teacher that the run began with.
    origin_json = property(lambda self: self.path / "origin.json")
    # The same, in workdirs of release 0.1.
    fingerprint_txt = property(lambda self: self.path / "training_split.txt")
    lock_file = property(lambda self: self.path / ".lock")

    def write_text(self, path: Path, text: str) -> None:
        """Write one of the files above completely or not at all. Raises WorkdirError."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, text)
        except OSError as error:
            raise WorkdirError(f"{path} could not be written: {error.strerror}") from error

    def read_config(self) -> Config:
        """Return the run's config. Raises ConfigError or WorkdirError with the file's path."""
        return _parsed(self.config_json, from_json)

    def read_tokenizer(self, path: Path) -> Tokenizer:
        """Return a vocabulary. Raises TokenizerError or WorkdirError with the file's path."""
        return _parsed(path, Tokenizer.from_json)

    @contextlib.contextmanager
    def lock(self) -> Iterator["WorkdirLock"]:
        """Keep a second trainer out while the context is open.

        Process 0 of a run takes the lock. Raises WorkdirError that reports the holder.
        """
        lock = WorkdirLock(self)
        try:
            if jax.process_index() == 0:
                lock.take()
            yield lock
        finally:
            lock.release()


def _parsed[Read](path: Path, parse: Callable[[str], Read]) -> Read:
    try:
        return parse(path.read_text(encoding="utf-8"))
    except (ConfigError, TokenizerError) as error:
        raise type(error)(f"{path}: {error}") from error
    except OSError as error:
        raise WorkdirError(
            f"{path} cannot be read: {error.strerror}; put back a copy of the file"
        ) from error
    except UnicodeDecodeError as error:
        raise WorkdirError(
            f"{path} is damaged: byte {error.start} is not of a text; put back a copy of the file"
        ) from error


class WorkdirLock:
    """The lock that keeps a second trainer out of a workdir.

    The kernel frees the lock when its holder ends, however that ends, so no stale lock remains.
    Both the folder and its file `.lock`, which reports the holder, are locked. The folder's lock
    holds if `.lock` is deleted; the file's holds on file systems that lock no folders (NFS).
    """

    def __init__(self, workdir: Workdir):
        self.killed: str | None = None  # the trainer, if any, that ended without releasing the lock
        self._workdir = workdir
        self._folder: int | None = None  # file descriptors
        self._file: int | None = None

    def take(self) -> None:
        """Lock the folder and the file, unless they are locked and still the same ones.

        Raises WorkdirError that reports the holder.
        """
        path = self._workdir.path
        if self._folder is None or not _is_same(path, self._folder):
            self._folder = self._reopen(path, os.O_RDONLY | os.O_DIRECTORY, self._folder)
            with contextlib.suppress(OSError):  # NFS locks no folders
                self._flock(self._folder)
        path = self._workdir.lock_file
        if self._file is None or not _is_same(path, self._file):
            self._file = self._reopen(path, os.O_RDWR | os.O_CREAT, self._file)
            try:
                self._flock(self._file)
            except OSError as error:
                log.warning(
                    "%s cannot be locked (%s): take care that no second trainer uses it",
                    self._workdir.path,
                    error.strerror,
                )
            self._write_holder(self._file)

    def holds(self) -> bool:
        """Return False if the workdir or its `.lock` was renamed, deleted or replaced."""
        pairs = ((self._workdir.path, self._folder), (self._workdir.lock_file, self._file))
        return all(descriptor is None or _is_same(path, descriptor) for path, descriptor in pairs)

    def release(self) -> None:
        if self._file in _locks:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, 0)
        _close(self._file)
        _close(self._folder)
        self._file = self._folder = None

    def _reopen(self, path: Path, flags: int, before: int | None) -> int:
        """Open `path` and close the descriptor that was open before."""
        try:
            descriptor = os.open(path, flags | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise WorkdirError(
                f"{path} could not be opened: {error.strerror}; give a workdir that you may write "
                "to"
            ) from error
        _close(before)
        _locks.add(descriptor)
        return descriptor

    def _flock(self, descriptor: int) -> None:
        """Raise WorkdirError if another process holds the lock, OSError if locking fails."""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if descriptor == self._file:  # release() must not truncate another holder's file
                _close(self._file)
                self._file = None
            holder = _read_holder_of(self._workdir.lock_file)
            raise WorkdirError(
                f"{self._workdir.path} is in use by {holder}; wait for it, stop it, or give "
                "another --workdir"
            ) from error

    def _write_holder(self, file: int) -> None:
        self.killed = _read_holder(file) if os.fstat(file).st_size else None
        since = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": since}
        os.ftruncate(file, 0)  # the text of a killed holder may be longer
        os.pwrite(file, json.dumps(holder).encode(), 0)


def _check_local(path: str | os.PathLike) -> None:
    if is_address(path):
        raise WorkdirError(f"--workdir={path} is an address; allowed: {ALLOWED}")


# Descriptors of this process. A forked child closes them: if it outlives a killed trainer, it must
# not keep the lock.
_locks: set[int] = set()


def _close_locks() -> None:
    while _locks:
        with contextlib.suppress(OSError):
            os.close(_locks.pop())


os.register_at_fork(after_in_child=_close_locks)


def _close(descriptor: int | None) -> None:
    if descriptor in _locks:  # a forked child has closed it already
        _locks.remove(descriptor)
        os.close(descriptor)


def _is_same(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except OSError:
        return False


def _read_holder_of(path: Path) -> str:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return "another process"
    try:
        return _read_holder(descriptor)
    finally:
        os.close(descriptor)


def _read_holder(descriptor: int) -> str:
    try:
        info = json.loads(os.pread(descriptor, 4096, 0))
        return f"process {info['pid']} on {info['host']} since {info['since']}"
    except (ValueError, KeyError, TypeError):
        return "another process"


# Keys that a resumed run may not change: the saved parameters, optimizer state, vocabulary or data
# position would no longer fit, or the finished part of the run would have come out differently.
# Everything else (rates, loss weights, augmentation, patience, epochs, mesh, inference ...) may
# change.
_FIXED = (
    "data.frame_buckets",
    "data.frame_rate",
    "data.image_size",
    "data.mean",
    "data.name",
    "data.num_frames",
    "data.resize_mode",
    "data.sampling",
    "data.std",
    "data.train_split",
    "training.batch_size",
    "training.seed",
    "training.weight_decay_on",
)
_FIXED_GROUPS = ("model.", "tokenizer.")
_FREE_IN_GROUPS = (  # last parts of keys
    "dropout",
    "attention_dropout",
    "drop_path",
    "freeze_epochs",
    "init_from",
    "pretrained",
    "attention",
    "frames_per_chunk",
    "patch_drop",
    "token_merge",
    "dropout_rng_impl",
)


def check_resume(old: Config, new: Config) -> list[tuple[str, object, object]]:
    """Return the (key, old, new) that a resumed run changes.

    Raises ConfigError that lists those that it may not change.
    """
    differences = key_differences(old, new)
    refused = [
        (key, before, now) for key, before, now in differences if _is_fixed(key, before, now)
    ]
    if refused:
        lines = "\n".join(
            f"  config.{key}: {before!r} in the workdir, {now!r} now"
            for key, before, now in refused
        )
        raise ConfigError(
            f"this workdir was made with another model, vocabulary or data set:\n{lines}\n"
            "Use the old values, or give another --workdir"
        )
    return differences


def _is_fixed(key: str, before: object, now: object) -> bool:
    if key in ("training.ema_decay", "training.distillation.teacher"):
        return not (before and now)  # used from the first step, or not at all
    if key.startswith(_FIXED_GROUPS):
        return key.rsplit(".", 1)[-1] not in _FREE_IN_GROUPS
    return key in _FIXED
