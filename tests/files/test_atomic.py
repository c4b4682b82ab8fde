"""Tests of atomic writes, which survive a power cut: the order of writes, flushes and renames."""

import json
import os
from pathlib import Path

import pytest

from signvit_jax.checkpoints import manifest
from signvit_jax.files.atomic import flush_to_disk, write_atomically
from tests.helpers import tiny_run


@pytest.fixture
def calls(monkeypatch):
    """The list of ("flush" or "rename", path, size in bytes), in the order of the calls."""
    recorded = []
    fsync, replace = os.fsync, Path.replace

    def record_flush(descriptor):
        recorded.append(
            ("flush", os.readlink(f"/proc/self/fd/{descriptor}"), os.fstat(descriptor).st_size)
        )
        fsync(descriptor)

    def record_rename(path, target):
        recorded.append(("rename", str(target), path.stat().st_size))
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", record_flush)
    monkeypatch.setattr(Path, "replace", record_rename)
    return recorded


@pytest.fixture
def full_disk(monkeypatch):
    def refuse(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)


CONTENT = "new\r\nü".encode()


@pytest.mark.parametrize(
    "content",
    [CONTENT.decode(), CONTENT, lambda file: file.write_bytes(CONTENT)],
    ids=["text", "bytes", "function"],
)
def test_content_is_flushed_before_the_rename(tmp_path, calls, content):
    write_atomically(tmp_path / "file", content)
    (first, temporary, size), *rest = calls
    assert first == "flush" and temporary.startswith(f"{tmp_path}/.file.") and size == 7
    assert [(call, path) for call, path, _ in rest] == [
        ("rename", str(tmp_path / "file")),
        ("flush", str(tmp_path)),
    ]
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_full_disk_leaves_the_old_content_alone(tmp_path, full_disk):
    (tmp_path / "file").write_text("old")
    with pytest.raises(OSError, match="No space left"):
        write_atomically(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_a_failed_flush_leaves_no_descriptor_open(tmp_path, full_disk):
    with pytest.raises(OSError, match="No space left"):
        flush_to_disk(tmp_path)
    assert tiny_run.open_below(tmp_path) == []


def test_an_error_of_the_writing_function_leaves_the_old_content(tmp_path):
    (tmp_path / "file").write_text("old")

    def write_half(file):
        file.write_text("ne")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "file", write_half)
    assert (tmp_path / "file").read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_text_that_utf_8_cannot_hold_leaves_the_old_content(tmp_path):
    (tmp_path / "file").write_text("old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(tmp_path / "file", "\ud800")
    assert (tmp_path / "file").read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_a_file_that_cannot_be_created_raises_that_error(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "open", refuse)
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
    flushed = [os.path.relpath(path, tmp_path) for call, path, _ in calls if call == "flush"]
    listed = {"params/d/data", "params/_METADATA", "meta/meta.json"}
    assert set(flushed[:3]) == listed and set(flushed[3:6]) == {"params", "params/d", "meta"}
    assert flushed[6].startswith(".manifest.json") and flushed[7:] == ["."]
    assert manifest.find_damage(tmp_path) == []


def test_damage_is_reported_file_by_file(tmp_path):
    for name in ("complete", "params/missing", "params/short", "params/changed", "meta/folder"):
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
    (tmp_path / "complete").unlink()
    # Files outside of the items' folders are always checked.
    assert manifest.find_damage(tmp_path, ("meta",)) == ["complete: missing"]


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


def test_a_file_that_the_disk_cannot_read_is_damage(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("content")
    manifest.write_manifest(tmp_path)

    def fail(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("hashlib.file_digest", fail)
    assert manifest.find_damage(tmp_path) == ["file: unreadable (Input/output error)"]
