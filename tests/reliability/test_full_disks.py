"""Disks that are full or cannot be written to: an end with the reason, and older checkpoints as they were.

On file systems mounted for one process alone, where the machine allows that; tests/training/test_checkpoint.py has the same through limits of the
kernel and through errors raised at the write call, which need no permission.
"""

import shutil

import pytest
from runs import SAVED, TOTAL, can_mount, final_state

pytestmark = pytest.mark.skipif(not can_mount(), reason="this machine lets no process mount file systems of its own (unshare -Urm)")


@pytest.mark.long
def test_a_disk_that_fills_up_ends_the_run_with_one_line_and_the_older_checkpoint_intact(run, undisturbed, tmp_path):
    size = 512 * sum(path.stat().st_blocks for path in (undisturbed.workdir / "checkpoints" / str(TOTAL)).rglob("*"))
    run.workdir.mkdir()
    # Room for a checkpoint and a half, and all else: the first fits, the second beside it does not.
    mounts = [["-t", "tmpfs", "-o", f"size={int(1.5 * size) + 300_000}", "none", str(run.workdir)]]
    assert run.go(mounts=mounts, keep=tmp_path / "kept") == 1
    assert any(f"error: checkpoint {step} could not be saved" in run.said() for step in (SAVED, 2 * SAVED)), run.said()
    assert "the disk is full; free some space" in run.said() and "Traceback" not in run.said()
    left = run.said().rpartition("Checkpoints still there: ")[2].split("\n")[0]
    # With room again it goes on from what was left.
    shutil.move(tmp_path / "kept", tmp_path / "again")
    run.workdir = tmp_path / "again"
    assert run.steps() == ([] if left == "none" else [int(step) for step in left.split(", ")])
    assert run.go() == 0
    assert final_state(run) == final_state(undisturbed)


def test_a_disk_that_cannot_be_written_to_is_named_and_nothing_changes(run, undisturbed):
    shutil.copytree(undisturbed.workdir, run.workdir, ignore=shutil.ignore_patterns(str(TOTAL)))
    before = {path: path.stat().st_mtime_ns for path in run.workdir.rglob("*")}
    read_only = [["--bind", str(run.workdir), str(run.workdir)], ["-o", "remount,ro,bind", str(run.workdir)]]
    assert run.go(mounts=read_only) == 2
    assert "Read-only file system; give a workdir that you may write to" in run.said() and "Traceback" not in run.said()
    assert {path: path.stat().st_mtime_ns for path in run.workdir.rglob("*")} == before
