"""Disks that are full or cannot be written to: an end with the reason, and older checkpoints as they were.

On file systems mounted for one process alone, where the machine allows that; tests/checkpoints/test_store.py has the same through limits of the
kernel and through errors raised at the write call, which need no permission.
"""

import shutil
import signal

import pytest

from tests.helpers.reliability_runs import SAVED, TOTAL, assert_same_run, can_mount, final_state

pytestmark = pytest.mark.skipif(
    not can_mount(),
    reason="this machine lets no process mount file systems of its own (unshare -Urm)",
)


@pytest.mark.long
def test_a_disk_that_fills_up_ends_the_run_with_one_line_and_the_older_checkpoint_intact(
    run, undisturbed, tmp_path
):
    size = 512 * sum(
        path.stat().st_blocks
        for path in (undisturbed.workdir / "checkpoints" / str(TOTAL)).rglob("*")
    )
    run.workdir.mkdir()
    # Room for a checkpoint and a half, and all else: the first fits, the second beside it does not.
    mounts = [["-t", "tmpfs", "-o", f"size={int(1.5 * size) + 300_000}", "none", str(run.workdir)]]
    assert run.go(mounts=mounts, keep=tmp_path / "kept") == 1
    assert any(
        f"error: checkpoint {step} could not be saved" in run.said() for step in (SAVED, 2 * SAVED)
    ), run.said()
    assert "the disk is full; free some space" in run.said() and "Traceback" not in run.said()
    left = run.said().rpartition("Checkpoints still there: ")[2].split("\n")[0]
    # With room again it goes on from what was left.
    shutil.move(tmp_path / "kept", tmp_path / "again")
    run.workdir = tmp_path / "again"
    assert run.steps() == ([] if left == "none" else [int(step) for step in left.split(", ")])
    assert run.go() == 0
    assert final_state(run) == final_state(undisturbed)


def room(undisturbed, checkpoints: float) -> int:
    """Bytes for so many checkpoints, and all else."""
    size = 512 * sum(
        path.stat().st_blocks
        for path in (undisturbed.workdir / "checkpoints" / str(TOTAL)).rglob("*")
    )
    return int(checkpoints * size) + 1_000_000


def test_a_disk_that_is_full_for_a_while_between_two_checkpoints_changes_nothing(
    run, undisturbed, tmp_path
):
    run.workdir.mkdir()
    mounts = [["-t", "tmpfs", "-o", f"size={room(undisturbed, 4)}", "none", str(run.workdir)]]
    # From the first step after a checkpoint to the last before the next; a plot was drawn before, others are due meanwhile.
    fault = {
        "phase": "step",
        "count": SAVED + 1,
        "fill": str(run.workdir),
        "free_at": TOTAL,
        "plots": True,
    }
    assert (
        run.go(
            "--config.training.save_every_n_epochs=6",
            fault=fault,
            mounts=mounts,
            keep=tmp_path / "kept",
        )
        == 0
    ), run.said()[-2000:]
    assert "Traceback" not in run.said() and "Exception" not in run.said()
    for name in (
        "metrics.png",
        "events.*",
    ):  # metrics.csv is smaller than the block that it has already
        assert run.said().count(f"{name} cannot be written (No space left on device)") == 1, (
            run.said()
        )
        assert f"{name} is written again" in run.said()
    run.workdir = tmp_path / "kept"
    assert (run.workdir / "metrics.png").stat().st_size > 1000
    assert_same_run(run, undisturbed)


@pytest.mark.long
@pytest.mark.parametrize("after_the_first_plot", [False, True])
@pytest.mark.parametrize("number", [None, signal.SIGTERM])
def test_a_disk_that_stays_full_ends_the_run_at_its_next_checkpoint_or_at_a_signal(
    run, undisturbed, tmp_path, after_the_first_plot, number
):
    run.workdir.mkdir()
    mounts = [["-t", "tmpfs", "-o", f"size={room(undisturbed, 4)}", "none", str(run.workdir)]]
    first = SAVED + 1 if after_the_first_plot else 1
    fault = {"phase": "step", "count": first, "fill": str(run.workdir), "plots": True}
    if number:
        fault |= {
            "signals": [[2.0, number]],
            "hang": 2.5,
        }  # the first step is past: before that there is nothing to lose
    assert run.go(fault=fault, mounts=mounts, keep=tmp_path / "kept") == (
        143 if number and not after_the_first_plot else 1
    ), run.said()[-2000:]
    if number and not after_the_first_plot:
        return  # the step that a start compiles in: it ends at once
    left = SAVED if after_the_first_plot else "none"
    assert (
        "the disk is full; free some space" in run.said()
        and f"Checkpoints still there: {left}" in run.said()
    )
    assert "Traceback" not in run.said() and "Exception" not in run.said()
    shutil.move(tmp_path / "kept", tmp_path / "again")
    run.workdir = tmp_path / "again"
    (run.workdir / "of_somebody_else").unlink()
    assert run.go() == 0
    assert final_state(run) == final_state(undisturbed)


@pytest.mark.parametrize(
    "share",
    [0.6, pytest.param(1.6, marks=pytest.mark.long)],
    ids=["in_the_first_save", "in_the_second_save"],
)
def test_a_disk_that_takes_no_more_files_ends_the_run_with_that_reason_within_a_minute(
    run, undisturbed, tmp_path, share
):
    run.workdir.mkdir()
    files = sum(1 for _ in (undisturbed.workdir / "checkpoints" / str(TOTAL)).rglob("*"))
    inodes = max(64, 20 + int(share * files)) if share < 1 else 20 + int(share * files)
    assert 20 + files > inodes or share > 1
    mounts = [["-t", "tmpfs", "-o", f"size=100m,nr_inodes={inodes}", "none", str(run.workdir)]]
    run.start(mounts=mounts, keep=tmp_path / "kept")
    assert run.wait(90) == 1, run.said()[-2000:]  # a start takes some of it
    assert (
        "could not be saved" in run.said()
        and "the disk takes no more files (no inode is free); delete files" in run.said()
    )
    assert f"Checkpoints still there: {'none' if share < 1 else SAVED}" in run.said()
    assert "Traceback" not in run.said() and "awaitable" not in run.said()


def test_a_disk_that_cannot_be_written_to_is_named_and_nothing_changes(run, undisturbed):
    shutil.copytree(undisturbed.workdir, run.workdir, ignore=shutil.ignore_patterns(str(TOTAL)))
    before = {path: path.stat().st_mtime_ns for path in run.workdir.rglob("*")}
    read_only = [
        ["--bind", str(run.workdir), str(run.workdir)],
        ["-o", "remount,ro,bind", str(run.workdir)],
    ]
    assert run.go(mounts=read_only) == 2
    assert (
        "Read-only file system; give a workdir that you may write to" in run.said()
        and "Traceback" not in run.said()
    )
    assert {path: path.stat().st_mtime_ns for path in run.workdir.rglob("*")} == before
