"""The lock of a workdir: who is refused, and when a lock is taken over."""

import contextlib
import errno
import fcntl
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from signvit_jax.checkpoints.workdir import Workdir, WorkdirError
from signvit_jax.checkpoints.workdir_lock import _locks, lock_workdir
from signvit_jax.runtime.exit_codes import USAGE
from tests.helpers import tiny_run

HOLD = """
import os, sys, time
from signvit_jax.checkpoints.workdir import Workdir
from signvit_jax.checkpoints.workdir_lock import lock_workdir
with lock_workdir(Workdir.create(sys.argv[1])):
    with_child = len(sys.argv) > 2
    is_child = with_child and os.fork() == 0  # a forked child closes its copy of the lock
    if is_child:
        os.setsid()
    if is_child or not with_child:
        print("locked", flush=True)
    time.sleep(30)
    os._exit(0)  # a forked process with threads may hang at a normal exit
"""


@contextlib.contextmanager
def holder(path, *arguments):
    """Yield a process that holds the lock of `path`; at the end of the context it is killed."""
    environment = os.environ | {
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "JAX_PLATFORMS": "cpu",
    }
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path), *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        try:
            assert process.stdout.readline() == "locked\n"
            yield process
        finally:
            process.kill()


def test_a_second_trainer_is_refused_with_the_holders_name(tmp_path):
    with holder(tmp_path) as first:
        with (
            pytest.raises(
                WorkdirError, match=rf"in use by process {first.pid} on .* since \d{{4}}-"
            ) as caught,
            lock_workdir(Workdir.create(tmp_path)),
        ):
            pass
        assert caught.value.exit_code == USAGE


@pytest.mark.parametrize("with_child", [False, True], ids=["alone", "a_forked_child_survives"])
def test_the_lock_of_a_killed_trainer_is_taken_over(tmp_path, with_child):
    with holder(tmp_path, *(["child"] if with_child else [])) as first:
        pass
    with lock_workdir(Workdir.create(tmp_path)) as lock:
        assert lock.killed.startswith(f"process {first.pid} on ")
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()
        with (
            pytest.raises(WorkdirError, match=f"process {os.getpid()}"),
            lock_workdir(Workdir.create(tmp_path)),
        ):
            pass
    assert (tmp_path / ".lock").read_text() == ""
    assert not _locks  # so a child that is forked later closes no unrelated descriptor
    with lock_workdir(Workdir.create(tmp_path)) as lock:
        assert lock.killed is None


def test_a_second_trainer_is_refused_if_the_lock_file_is_gone(tmp_path):
    workdir = Workdir.create(tmp_path)
    with lock_workdir(workdir) as lock:
        assert lock.holds()
        workdir.lock_file.unlink()
        assert not lock.holds()
        with pytest.raises(WorkdirError, match="in use by another process"), lock_workdir(workdir):
            pass
        lock.take()
        assert lock.holds() and json.loads(workdir.lock_file.read_text())["pid"] == os.getpid()
        with (
            pytest.raises(WorkdirError, match=f"in use by process {os.getpid()}"),
            lock_workdir(workdir),
        ):
            pass
    with lock_workdir(workdir) as lock:
        assert lock.killed is None


def flock_of_nfs(descriptor, operation, flock=fcntl.flock):
    """Lock files but refuse folders, as NFS does."""
    if stat.S_ISDIR(os.fstat(descriptor).st_mode):
        raise OSError(errno.EBADF, "Bad file descriptor")
    flock(descriptor, operation)


@pytest.mark.parametrize("folders_cannot_be_locked", [False, True])
def test_a_replaced_workdir_is_locked_again_if_it_is_free(
    tmp_path, monkeypatch, folders_cannot_be_locked
):
    if folders_cannot_be_locked:
        monkeypatch.setattr(fcntl, "flock", flock_of_nfs)
    workdir = Workdir.create(tmp_path / "run")
    with lock_workdir(workdir) as lock:
        with pytest.raises(WorkdirError, match=f"process {os.getpid()}"), lock_workdir(workdir):
            pass
        workdir.path.rename(tmp_path / "renamed")
        assert not lock.holds()
        Workdir.create(workdir.path)
        assert not lock.holds()
        with lock_workdir(workdir), pytest.raises(WorkdirError, match=f"process {os.getpid()}"):
            lock.take()
        lock.take()
        assert lock.holds()
        with pytest.raises(WorkdirError, match=f"process {os.getpid()}"), lock_workdir(workdir):
            pass


@pytest.mark.parametrize("folders_cannot_be_locked", [False, True])
def test_a_refused_lock_leaves_the_holders_file_unchanged(
    tmp_path, monkeypatch, folders_cannot_be_locked
):
    if folders_cannot_be_locked:
        monkeypatch.setattr(fcntl, "flock", flock_of_nfs)
    workdir = Workdir.create(tmp_path)
    with lock_workdir(workdir):
        content = workdir.lock_file.read_text()
        before = tiny_run.open_below(tmp_path)
        for _ in range(3):
            with pytest.raises(WorkdirError), lock_workdir(workdir):
                pass
        assert workdir.lock_file.read_text() == content
        assert tiny_run.open_below(tmp_path) == before


def test_a_lock_of_an_earlier_release_is_respected(tmp_path):
    workdir = Workdir.create(tmp_path)
    with workdir.lock_file.open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(WorkdirError, match="in use"), lock_workdir(workdir):
            pass


def test_a_file_system_without_locks_is_used_with_a_warning(tmp_path, monkeypatch, caplog):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with lock_workdir(Workdir.create(tmp_path)) as lock:
        assert lock.holds()
    warning = "cannot be locked (No locks available): take care that no second trainer uses it"
    assert warning in caplog.text


def test_only_process_0_takes_the_lock(tmp_path, monkeypatch):
    monkeypatch.setattr("jax.process_index", lambda: 1)
    workdir = Workdir.create(tmp_path)
    with lock_workdir(workdir) as first, lock_workdir(workdir):
        assert first.holds() and first.killed is None
    assert not workdir.lock_file.exists()


def test_a_garbled_lock_file_does_no_harm(tmp_path):
    (tmp_path / ".lock").write_text("{[" + 500 * "x")
    with lock_workdir(Workdir.create(tmp_path)):
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()
        (tmp_path / ".lock").write_text("{[")
        with (
            pytest.raises(WorkdirError, match="in use by another process;"),
            lock_workdir(Workdir.create(tmp_path)),
        ):
            pass


def test_a_file_in_place_of_a_workdir_is_not_locked(tmp_path):
    (tmp_path / "run").write_text("mine")
    with (
        pytest.raises(WorkdirError, match=r"/run could not be opened: Not a directory"),
        lock_workdir(Workdir(tmp_path / "run")),
    ):
        pass


def test_others_can_read_the_lock_file(tmp_path):
    before = os.umask(0)
    try:
        with lock_workdir(Workdir.create(tmp_path)):
            assert stat.S_IMODE((tmp_path / ".lock").stat().st_mode) == 0o644
    finally:
        os.umask(before)


def test_a_failing_disk_raises_a_workdir_error(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    workdir = Workdir.create(tmp_path / "run")
    monkeypatch.setattr(os, "open", full)
    message = r"run could not be opened: No space left"
    with pytest.raises(WorkdirError, match=message), lock_workdir(workdir):
        pass
