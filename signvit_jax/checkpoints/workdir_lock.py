"""The lock that keeps a second trainer out of a workdir."""

import contextlib
import datetime
import fcntl
import json
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import jax

from signvit_jax.checkpoints.workdir import Workdir, WorkdirError

log = logging.getLogger(__name__)


@contextlib.contextmanager
def lock_workdir(workdir: Workdir) -> Iterator["WorkdirLock"]:
    """Keep a second trainer out while the context is open.

    Process 0 of a run takes the lock. Raises WorkdirError, which reports the holder.
    """
    lock = WorkdirLock(workdir)
    try:
        if jax.process_index() == 0:
            lock.take()
        yield lock
    finally:
        lock.release()


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
        """Lock the folder and the file, unless this object already holds their locks.

        Raises WorkdirError, which reports the holder.
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

    def _reopen(self, path: Path, flags: int, previous: int | None) -> int:
        """Open `path`, close the descriptor `previous`, and return the new one."""
        try:
            descriptor = os.open(path, flags | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise WorkdirError(
                f"{path} could not be opened: {error.strerror}; give a workdir that you may write "
                "to"
            ) from error
        _close(previous)
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


# Descriptors of this process. A forked child closes them: if it outlives a killed trainer, it must
# not keep the lock.
_locks: set[int] = set()


def _close_locks() -> None:
    while _locks:
        with contextlib.suppress(OSError):
            os.close(_locks.pop())


os.register_at_fork(after_in_child=_close_locks)


def _close(descriptor: int | None) -> None:
    if descriptor in _locks:  # not so in a forked child, which has closed it already
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
