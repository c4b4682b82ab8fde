"""The workdir: its lock, its files, and what a resumed run may change."""

import contextlib
import dataclasses
import errno
import fcntl
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from signvit_jax.checkpoints.workdir import (
    _FIXED,
    _FREE_IN_GROUPS,
    Workdir,
    WorkdirError,
    _is_fixed,
    _locks,
    check_resume,
)
from signvit_jax.config.errors import ConfigError
from signvit_jax.config.schema import Config, from_mapping, to_json
from signvit_jax.runtime.exit_codes import USAGE
from signvit_jax.text.tokenizer import TokenizerError, learn_gloss_vocabulary
from tests.helpers import tiny_run

HOLD = """
import os, sys, time
from signvit_jax.checkpoints.workdir import Workdir
with Workdir.create(sys.argv[1]).lock():
    with_child = len(sys.argv) > 2
    if not with_child or os.fork() == 0:  # the child, which has closed its copy of the lock
        with_child and os.setsid()
        print("locked", flush=True)
    time.sleep(30)
    os._exit(0)  # a forked process with threads may hang at a normal exit
"""


@contextlib.contextmanager
def holder(path, *arguments):
    """A process that holds the lock of `path` until it is killed, at the latest at the end."""
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
            Workdir.create(tmp_path).lock(),
        ):
            pass
        assert caught.value.exit_code == USAGE


@pytest.mark.parametrize("with_child", [False, True], ids=["alone", "a_forked_child_survives"])
def test_the_lock_of_a_killed_trainer_is_taken_over(tmp_path, with_child):
    with holder(tmp_path, *(["child"] if with_child else [])) as first:
        pass
    with Workdir.create(tmp_path).lock() as lock:
        assert lock.killed.startswith(f"process {first.pid} on ")
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()
        with (
            pytest.raises(WorkdirError, match=f"process {os.getpid()}"),
            Workdir.create(tmp_path).lock(),
        ):
            pass
    assert (tmp_path / ".lock").read_text() == ""
    assert not _locks  # a child that is forked later closes no descriptor of others
    with Workdir.create(tmp_path).lock() as lock:
        assert lock.killed is None


def test_a_second_trainer_is_refused_if_the_lock_file_is_gone(tmp_path):
    workdir = Workdir.create(tmp_path)
    with workdir.lock() as lock:
        assert lock.holds()
        workdir.lock_file.unlink()
        assert not lock.holds()
        with pytest.raises(WorkdirError, match="in use by another process"), workdir.lock():
            pass
        lock.take()
        assert lock.holds() and json.loads(workdir.lock_file.read_text())["pid"] == os.getpid()
        with pytest.raises(WorkdirError, match=f"in use by process {os.getpid()}"), workdir.lock():
            pass
    with workdir.lock() as lock:
        assert lock.killed is None


def flock_of_nfs(descriptor, operation, flock=fcntl.flock):
    """Lock files, but no folders."""
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
    with workdir.lock() as lock:
        with pytest.raises(WorkdirError, match=f"process {os.getpid()}"), workdir.lock():
            pass
        workdir.path.rename(tmp_path / "renamed")
        assert not lock.holds()
        Workdir.create(workdir.path)
        assert not lock.holds()
        with workdir.lock(), pytest.raises(WorkdirError, match=f"process {os.getpid()}"):
            lock.take()
        lock.take()
        assert lock.holds()
        with pytest.raises(WorkdirError, match=f"process {os.getpid()}"), workdir.lock():
            pass


@pytest.mark.parametrize("folders_cannot_be_locked", [False, True])
def test_a_refused_lock_leaves_the_holders_file_unchanged(
    tmp_path, monkeypatch, folders_cannot_be_locked
):
    if folders_cannot_be_locked:
        monkeypatch.setattr(fcntl, "flock", flock_of_nfs)
    workdir = Workdir.create(tmp_path)
    with workdir.lock():
        content = workdir.lock_file.read_text()
        before = tiny_run.open_below(tmp_path)
        for _ in range(3):
            with pytest.raises(WorkdirError), workdir.lock():
                pass
        assert workdir.lock_file.read_text() == content
        assert tiny_run.open_below(tmp_path) == before


def test_a_lock_of_an_earlier_release_is_respected(tmp_path):
    workdir = Workdir.create(tmp_path)
    with workdir.lock_file.open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(WorkdirError, match="in use"), workdir.lock():
            pass


def test_a_file_system_without_locks_is_used_with_a_warning(tmp_path, monkeypatch, caplog):
    def none(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    with Workdir.create(tmp_path).lock() as lock:
        assert lock.holds()
    warning = "cannot be locked (No locks available): take care that no second trainer uses it"
    assert warning in caplog.text


def test_only_process_0_takes_the_lock(tmp_path, monkeypatch):
    monkeypatch.setattr("jax.process_index", lambda: 1)
    workdir = Workdir.create(tmp_path)
    with workdir.lock() as first, workdir.lock():
        assert first.holds() and first.killed is None
    assert not workdir.lock_file.exists()


def test_a_garbled_lock_file_does_no_harm(tmp_path):
    (tmp_path / ".lock").write_text("{[" + 500 * "x")
    with Workdir.create(tmp_path).lock():
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()
        (tmp_path / ".lock").write_text("{[")
        with (
            pytest.raises(WorkdirError, match="in use by another process;"),
            Workdir.create(tmp_path).lock(),
        ):
            pass


def test_a_file_instead_of_a_workdir_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for open_it in (Workdir.create, Workdir.open):
        with pytest.raises(WorkdirError, match=r"is a file.*give"):
            open_it(tmp_path / "file")
    with pytest.raises(WorkdirError, match="is a file"):
        Workdir.create(tmp_path / "file" / "below")


def test_a_folder_that_is_no_workdir_is_refused_with_a_hint(tmp_path):
    with pytest.raises(WorkdirError, match="does not exist; give the folder"):
        Workdir.open(tmp_path / "nothing")
    with pytest.raises(WorkdirError, match=r"has no config\.json; give the folder"):
        Workdir.open(tmp_path)
    run = Workdir.create(tmp_path / "run")
    run.write_text(run.config_json, "{}")
    for path in (tmp_path, run.checkpoints):
        with pytest.raises(WorkdirError, match=f"did you mean {run.path}"):
            Workdir.open(path)
    assert Workdir.open(run.path) == run
    for name in ("run2", "run3", "run4"):
        other = Workdir.create(tmp_path / name)
        other.write_text(other.config_json, "{}")
    with pytest.raises(WorkdirError, match=f"did you mean {run.path}, {run.path}2, {run.path}3\\?"):
        Workdir.open(tmp_path)


def test_a_killed_writer_leaves_the_old_or_the_new_text(tmp_path):
    code = """
import sys
from signvit_jax.checkpoints.workdir import Workdir
workdir = Workdir.create(sys.argv[1])
for number in range(10**9):
    workdir.write_text(workdir.config_json, str(number % 10) * 200_000)
    if number == 3: print("writing", flush=True)
"""
    environment = os.environ | {
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "JAX_PLATFORMS": "cpu",
    }
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, env=environment
    ) as writer:
        writer.stdout.readline()
        time.sleep(0.1)
        writer.send_signal(signal.SIGKILL)
    text = (tmp_path / "config.json").read_text()
    assert len(text) == 200_000 and len(set(text)) == 1


def test_a_failing_disk_is_an_error_of_ours(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    run = Workdir.create(tmp_path / "run")
    monkeypatch.setattr("signvit_jax.checkpoints.workdir.write_atomically", full)
    with pytest.raises(WorkdirError, match=r"config\.json could not be written: No space left"):
        run.write_text(run.config_json, "{}")
    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(WorkdirError, match=r"other cannot be created: No space left"):
        Workdir.create(tmp_path / "other")
    monkeypatch.setattr(os, "open", full)
    with pytest.raises(WorkdirError, match=r"run could not be opened: No space left"), run.lock():
        pass


def test_a_file_in_the_place_of_the_workdir_is_not_locked(tmp_path):
    (tmp_path / "run").write_text("mine")
    with (
        pytest.raises(WorkdirError, match=r"/run could not be opened: Not a directory"),
        Workdir(tmp_path / "run").lock(),
    ):
        pass


def test_others_can_read_the_lock_file(tmp_path):
    before = os.umask(0)
    try:
        with Workdir.create(tmp_path).lock():
            assert stat.S_IMODE((tmp_path / ".lock").stat().st_mode) == 0o644
    finally:
        os.umask(before)


def test_a_damaged_file_of_a_run_is_reported_with_its_path(tmp_path):
    run = Workdir.create(tmp_path)
    tokenizer = learn_gloss_vocabulary(["A B", "B C"])
    run.write_text(run.config_json, to_json(changed(data={"num_frames": 40})))
    run.write_text(run.tokenizer_json, tokenizer.to_json())
    assert run.read_config().data.num_frames == 40
    assert run.read_tokenizer(run.tokenizer_json).tokens == tokenizer.tokens
    for path, read in (
        (run.config_json, run.read_config),
        (run.tokenizer_json, lambda: run.read_tokenizer(run.tokenizer_json)),
    ):
        for content, message in (
            (b"{", "JSON"),
            (b"ab\xff", "byte 2 is not of a text; put back a copy"),
            (None, "cannot be read: No such file"),
        ):
            path.unlink() if content is None else path.write_bytes(content)
            with pytest.raises(
                (ConfigError, TokenizerError, WorkdirError), match=rf"{path}.*{message}"
            ) as caught:
                read()
            assert caught.value.exit_code == USAGE


def test_write_text_recreates_a_missing_folder(tmp_path):
    workdir = Workdir.create(tmp_path / "a" / "run")
    shutil.rmtree(tmp_path / "a")
    workdir.write_text(workdir.samples / "epoch_0001.txt", "text")
    assert (workdir.samples / "epoch_0001.txt").read_text() == "text"


def changed(**groups):
    return from_mapping(groups)


def test_a_resumed_run_may_change_rates_and_epochs():
    new = changed(
        training={
            "encoder_lr": 1e-5,
            "num_epochs": 400,
            "patience": 3,
            "use_amp": False,
            "gradient_accumulation": 2,
        },
        model={"encoder": {"dropout": 0.1, "freeze_epochs": 2}},
        data={"data_dir": "elsewhere", "num_workers": 2, "augment": {"rotate": 5.0}},
        mesh={"fsdp": 2},
    )
    differences = check_resume(Config(), new)
    assert ("training.encoder_lr", 5e-5, 1e-5) in differences
    assert ("training.num_epochs", 200, 400) in differences
    assert len(differences) == 11


def test_the_list_of_keys_that_are_fixed_on_resume():
    """Each key alone is refused, so that none can be dropped from the list in workdir.py."""
    fixed = {
        "data.resize_mode": "crop",
        "data.frame_buckets": [32, 64],
        "data.frame_rate": 25.0,
        "data.image_size": 160,
        "data.mean": [0.4, 0.4, 0.4],
        "data.name": "isign",
        "data.num_frames": 65,
        "data.sampling": "rate",
        "data.std": [0.4, 0.4, 0.4],
        "data.train_split": "all",
        "training.batch_size": 3,
        "training.seed": 7,
        "training.weight_decay_on": "matrices",
    }
    before = dataclasses.asdict(Config())
    not_refused = []
    for key, value in fixed.items():
        group, name = key.split(".")
        old = before[group][name]
        # Not from_mapping, which checks values against each other: one key changes.
        section = dataclasses.replace(getattr(Config(), group), **{name: value})
        new = dataclasses.replace(Config(), **{group: section})
        assert new != Config(), f"{key}: {old!r} is the default; the test needs another value"
        try:
            check_resume(Config(), new)
            not_refused.append(key)
        except ConfigError as error:
            assert f"config.{key}: " in str(error)
    assert not_refused == []
    assert set(fixed) == set(_FIXED)


def test_the_list_of_model_keys_that_may_change_on_resume():
    free = {
        "model.encoder.dropout": 0.3,
        "model.encoder.attention_dropout": 0.3,
        "model.encoder.drop_path": 0.1,
        "model.encoder.freeze_epochs": 3,
        "model.encoder.pretrained": "weights.npz",
        "model.init_from": "runs/old",
        "model.encoder.attention": "xla",
        "model.encoder.frames_per_chunk": 8,
        "model.encoder.patch_drop": 0.2,
        "model.encoder.token_merge": 2,
        "model.encoder.dropout_rng_impl": "rbg",
    }
    assert {key.rsplit(".", 1)[-1] for key in free} == set(_FREE_IN_GROUPS)
    for key, value in free.items():
        assert not _is_fixed(key, None, value), key


@pytest.mark.parametrize(
    "new",
    [
        {"model": {"decoder": {"num_layers": 2}}},
        {"model": {"ctc": {"source": "frames"}}},
        {"tokenizer": {"vocab_size": 100}},
        {"data": {"name": "isign"}},
        {"data": {"num_frames": 32}},
        {"training": {"batch_size": 8}},
        {"training": {"seed": 1}},
        {"training": {"ema_decay": 0.99}},
    ],
    ids=str,
)
def test_a_resumed_run_must_not_change_shapes_or_data(new):
    with pytest.raises(ConfigError) as caught:
        check_resume(Config(), from_mapping(new | {"inference": {"beam_size": 2}}))
    group, value = next(iter(new.items()))
    name = next(iter(value))
    assert f"config.{group}.{name}" in str(caught.value) and "in the workdir" in str(caught.value)
    assert "beam_size" not in str(caught.value)


def test_averaging_cannot_be_switched_on_or_off_on_resume():
    def with_ema(decay):
        return changed(training={"ema_decay": decay})

    assert check_resume(with_ema(0.9), with_ema(0.99)) == [("training.ema_decay", 0.9, 0.99)]
    with pytest.raises(ConfigError, match="ema_decay"):
        check_resume(with_ema(0.9), with_ema(0.0))
