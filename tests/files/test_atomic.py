"""A file is complete even across a power cut, by the order of writing, flushing and renaming."""

import json
import os
from pathlib import Path

import pytest

from signvit_jax.checkpoints import manifest
from signvit_jax.files.atomic import flush_folder, write_atomically
from tests.helpers import tiny_run


@pytest.fixture
def calls(monkeypatch):
    """("flush" or "rename", path, size in bytes) in the order of the calls."""
    found = []
    fsync, replace = os.fsync, Path.replace

    def flushed(descriptor):
        found.append(
            ("flush", os.readlink(f"/proc/self/fd/{descriptor}"), os.fstat(descriptor).st_size)
        )
        fsync(descriptor)

    def renamed(path, target):
        found.append(("rename", str(target), path.stat().st_size))
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(Path, "replace", renamed)
    return found


def test_content_is_flushed_before_the_rename_and_the_name_after(tmp_path, calls):
    write_atomically(tmp_path / "file", "new\r\nü")
    (first, temporary, size), *rest = calls
    assert first == "flush" and temporary.startswith(f"{tmp_path}/.file.") and size == 7
    assert [(what, path) for what, path, _ in rest] == [
        ("rename", str(tmp_path / "file")),
        ("flush", str(tmp_path)),
    ]
    assert (tmp_path / "file").read_bytes() == "new\r\nü".encode()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_failure_leaves_the_old_file_and_no_temporary_one(tmp_path, monkeypatch):
    write_atomically(tmp_path / "file", "old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "old" and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(OSError, match="No space left"):
        flush_folder(tmp_path)
    assert tiny_run.open_below(tmp_path) == []


def test_a_file_that_cannot_be_created_raises_its_own_error(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(tmp_path / "file", "new")


def test_checkpoint_files_are_flushed_before_their_manifest(tmp_path, calls):
    for name in (
        "params/d/data",
        "params/_METADATA",
        "meta/meta.json",
        "_CHECKPOINT_METADATA",
        "commit_success.txt",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    manifest.write_manifest(tmp_path)
    flushed = [os.path.relpath(path, tmp_path) for what, path, _ in calls if what == "flush"]
    listed = {"params/d/data", "params/_METADATA", "meta/meta.json"}
    assert set(flushed[:3]) == listed
    assert flushed[3].startswith(".manifest.json") and flushed[4:] == ["."]
    assert manifest.find_damage(tmp_path) == []


def test_damage_is_reported_file_by_file(tmp_path):
    for name in ("intact", "params/missing", "params/short", "params/changed", "meta/folder"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("content")
    manifest.write_manifest(tmp_path)
    assert manifest.find_damage(tmp_path) == [] == manifest.find_damage(tmp_path, ("params",))
    (tmp_path / "foreign").write_text("not listed in the manifest")
    (tmp_path / "params/missing").unlink()
    (tmp_path / "params/short").write_text("cont")
    (tmp_path / "params/changed").write_text("Content")
    of_params = [
        "params/changed: content changed",
        "params/missing: missing",
        "params/short: 4 bytes instead of 7",
    ]
    assert sorted(manifest.find_damage(tmp_path)) == of_params
    assert manifest.find_damage(tmp_path, ("meta",)) == []
    assert sorted(manifest.find_damage(tmp_path, ("params",))) == of_params
    (tmp_path / "intact").unlink()
    # Files beside the items are always checked.
    assert manifest.find_damage(tmp_path, ("meta",)) == ["intact: missing"]


def test_a_manifest_may_be_reordered_but_not_changed(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).write_text("content")
    manifest.write_manifest(tmp_path)
    changed = json.loads((tmp_path / "manifest.json").read_text())
    changed["files"] = dict(reversed(changed["files"].items()))
    (tmp_path / "manifest.json").write_text(json.dumps(changed))
    assert manifest.find_damage(tmp_path) == []
    del changed["files"]["b"]
    (tmp_path / "manifest.json").write_text(json.dumps(changed))
    assert manifest.find_damage(tmp_path) == ["manifest.json: changed"]


def test_an_unreadable_file_is_damage(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("content")
    manifest.write_manifest(tmp_path)

    def fails(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("hashlib.file_digest", fails)
    assert manifest.find_damage(tmp_path) == ["file: unreadable (Input/output error)"]
