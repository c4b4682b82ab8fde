"""The files of a workdir, and the errors of wrong or damaged ones."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from signvit_jax.checkpoints.workdir import Workdir, WorkdirError
from signvit_jax.config.errors import ConfigError
from signvit_jax.config.schema import from_mapping, to_json
from signvit_jax.runtime.exit_codes import USAGE
from signvit_jax.text.tokenizer import TokenizerError, learn_gloss_vocabulary


def test_a_file_instead_of_a_workdir_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for function in (Workdir.create, Workdir.open):
        with pytest.raises(WorkdirError, match=r"is a file.*give"):
            function(tmp_path / "file")
    with pytest.raises(WorkdirError, match="is a file"):
        Workdir.create(tmp_path / "file" / "below")


def test_a_folder_that_is_not_a_workdir_is_refused_with_a_hint(tmp_path):
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


def test_a_failing_disk_raises_a_workdir_error(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    run = Workdir.create(tmp_path / "run")
    monkeypatch.setattr("signvit_jax.checkpoints.workdir.write_atomically", full)
    with pytest.raises(WorkdirError, match=r"config\.json could not be written: No space left"):
        run.write_text(run.config_json, "{}")
    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(WorkdirError, match=r"other cannot be created: No space left"):
        Workdir.create(tmp_path / "other")


def test_a_damaged_file_of_a_run_is_reported_with_its_path(tmp_path):
    run = Workdir.create(tmp_path)
    tokenizer = learn_gloss_vocabulary(["A B", "B C"])
    run.write_text(run.config_json, to_json(from_mapping({"data": {"num_frames": 40}})))
    run.write_text(run.tokenizer_json, tokenizer.to_json())
    assert run.read_config().data.num_frames == 40
    assert run.read_tokenizer(run.tokenizer_json).tokens == tokenizer.tokens
    for path, read in (
        (run.config_json, run.read_config),
        (run.tokenizer_json, lambda: run.read_tokenizer(run.tokenizer_json)),
    ):
        for content, message in (
            (b"{", "JSON"),
            (b"ab\xff", "byte 2 is not UTF-8; put back a copy"),
            (None, "cannot be read: No such file"),
        ):
            if content is None:
                path.unlink()
            else:
                path.write_bytes(content)
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
