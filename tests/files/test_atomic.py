"""A file is the old one or the new one also across a power cut: what is on the disk is known by the order of writing, flushing and renaming."""

import os
from pathlib import Path

import pytest

from signvit_jax.checkpoints import manifest
from signvit_jax.files.atomic import flush_to_disk, write_atomically
from tests.helpers import tiny_run


@pytest.fixture
def calls(monkeypatch):
    """("flush", path) and ("rename", path) in their order."""
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


def test_content_is_flushed_before_it_gets_its_name_and_the_name_after(tmp_path, calls):
    write_atomically(tmp_path / "file", "new\r\nü")
    (first, temporary, size), *rest = calls
    assert first == "flush" and temporary.startswith(f"{tmp_path}/.file.") and size == 7
    assert [(what, path) for what, path, _ in rest] == [
        ("rename", str(tmp_path / "file")),
        ("flush", str(tmp_path)),
    ]
    assert (tmp_path / "file").read_bytes() == "new\r\nü".encode()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_failure_leaves_what_was_there_and_nothing_beside_it(tmp_path, monkeypatch):
    write_atomically(tmp_path / "file", "old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "old" and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(OSError, match="No space left"):
        flush_to_disk(tmp_path)
    assert tiny_run.open_below(tmp_path) == []


def test_a_file_that_cannot_even_be_made_is_the_error_that_is_raised(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(tmp_path / "file", "new")


def test_every_file_of_a_checkpoint_is_flushed_before_the_manifest_that_vouches_for_it(
    tmp_path, calls
):
    for name in ("params/d/data", "params/_METADATA", "meta/meta.json", "_CHECKPOINT_METADATA"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    manifest.write_manifest(tmp_path)
    flushed = [os.path.relpath(path, tmp_path) for what, path, _ in calls if what == "flush"]
    listed = {"params/d/data", "params/_METADATA", "meta/meta.json"}
    assert set(flushed[:3]) == listed
    assert flushed[3].startswith(".manifest.json") and flushed[4:] == ["."]
    assert manifest.find_damage(tmp_path) == []


def test_damage_is_told_file_by_file(tmp_path):
    for name in ("whole", "params/missing", "params/cut", "params/changed", "meta/folder"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("content")
    manifest.write_manifest(tmp_path)
    assert manifest.find_damage(tmp_path) == [] == manifest.find_damage(tmp_path, ("params",))
    (tmp_path / "foreign").write_text("of somebody else")
    (tmp_path / "params/missing").unlink()
    (tmp_path / "params/cut").write_text("cont")
    (tmp_path / "params/changed").write_text("Content")
    of_params = [
        "params/changed: content changed",
        "params/cut: 4 bytes instead of 7",
        "params/missing: missing",
    ]
    assert sorted(manifest.find_damage(tmp_path)) == of_params
    assert manifest.find_damage(tmp_path, ("meta",)) == []
    assert sorted(manifest.find_damage(tmp_path, ("params",))) == of_params
    (tmp_path / "whole").unlink()
    assert manifest.find_damage(tmp_path, ("meta",)) == [
        "whole: missing"
    ]  # what lies beside the items is always looked at


def test_a_file_that_the_disk_does_not_give_back_is_damage(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("content")
    manifest.write_manifest(tmp_path)

    def fails(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("hashlib.file_digest", fails)
    assert manifest.find_damage(tmp_path) == ["file: unreadable (Input/output error)"]
