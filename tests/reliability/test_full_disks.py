"""Full and read-only disks: the run ends with the reason, and older checkpoints are unchanged.

Only the process of the run sees the file systems, if the machine allows such mounts.
tests/checkpoints/test_store.py tests the same faults without mounts, which may need permission:
with limits of the kernel, and with errors that are raised at the write call.
"""

import shutil
import signal

import pytest

from tests.helpers.reliability_runs import SAVED, TOTAL, assert_same_run, can_mount, final_state

pytestmark = pytest.mark.skipif(
    not can_mount(),
    reason="this machine does not let processes mount file systems (unshare -Urm)",
)


def checkpoint_bytes(undisturbed) -> int:
    """Return the disk space of a checkpoint."""
    folder = undisturbed.workdir / "checkpoints" / str(TOTAL)
    return 512 * sum(path.stat().st_blocks for path in folder.rglob("*"))


def disk(run, size: int) -> list[list[str]]:
    """Return mounts that put the run's workdir on a disk of `size` bytes."""
    run.workdir.mkdir()
    return [["-t", "tmpfs", "-o", f"size={size}", "none", str(run.workdir)]]


@pytest.mark.long
def test_a_disk_that_fills_up_keeps_the_older_checkpoint(run, undisturbed, tmp_path):
    # Room for one and a half checkpoints and all other files: the second checkpoint does not fit.
    mounts = disk(run, int(1.5 * checkpoint_bytes(undisturbed)) + 300_000)
    assert run.go(mounts=mounts, keep=tmp_path / "kept") == 1
    failed = [f"error: checkpoint {step} could not be saved" for step in (SAVED, 2 * SAVED)]
    assert any(message in run.messages() for message in failed), run.messages()
    assert "the disk is full; free some space" in run.messages()
    assert "Traceback" not in run.messages()
    reported = run.messages().rpartition("Checkpoints still there: ")[2].split("\n")[0]
    # With enough room the run resumes from the checkpoints that still exist.
    shutil.move(tmp_path / "kept", tmp_path / "again")
    run.workdir = tmp_path / "again"
    existing = [] if reported == "none" else [int(step) for step in reported.split(", ")]
    assert run.steps() == existing
    assert run.go() == 0
    assert final_state(run) == final_state(undisturbed)


@pytest.mark.long
def test_a_full_disk_between_checkpoints_changes_nothing(run, undisturbed, tmp_path):
    mounts = disk(run, 4 * checkpoint_bytes(undisturbed) + 1_000_000)
    # The disk is full from the first step after a checkpoint to the last step before the next one.
    # A plot is drawn before that; more plots are due while the disk is full.
    fault = {
        "phase": "step",
        "count": SAVED + 1,
        "fill": str(run.workdir),
        "free_at": TOTAL,
        "plots": True,
    }
    every_six = "--config.training.save_every_n_epochs=6"
    code = run.go(every_six, fault=fault, mounts=mounts, keep=tmp_path / "kept")
    assert code == 0, run.messages()[-2000:]
    assert "Traceback" not in run.messages() and "Exception" not in run.messages()
    # metrics.csv and the events still fit into their last blocks; tests/telemetry tests them on a
    # full disk.
    warning = "metrics.png cannot be written (No space left on device)"
    assert run.messages().count(warning) == 1, run.messages()
    assert "metrics.png is written again" in run.messages()
    run.workdir = tmp_path / "kept"
    assert (run.workdir / "metrics.png").stat().st_size > 1000
    assert_same_run(run, undisturbed)


@pytest.mark.long
@pytest.mark.parametrize("after_the_first_plot", [False, True])
@pytest.mark.parametrize("number", [None, signal.SIGTERM])
def test_a_disk_that_stays_full_ends_the_run_at_the_next_save(
    run, undisturbed, tmp_path, after_the_first_plot, number
):
    mounts = disk(run, 4 * checkpoint_bytes(undisturbed) + 1_000_000)
    first = SAVED + 1 if after_the_first_plot else 1
    fault = {"phase": "step", "count": first, "fill": str(run.workdir), "plots": True}
    if number:
        fault |= {"signals": [[2.0, number]], "hang": 2.5}
    # The run compiles in its first step. A signal there ends it at once, without saving.
    ends_at_once = number and not after_the_first_plot
    code = run.go(fault=fault, mounts=mounts, keep=tmp_path / "kept")
    assert code == (143 if ends_at_once else 1), run.messages()[-2000:]
    if ends_at_once:
        return
    existing = SAVED if after_the_first_plot else "none"
    assert "the disk is full; free some space" in run.messages()
    assert f"Checkpoints still there: {existing}" in run.messages()
    assert "Traceback" not in run.messages() and "Exception" not in run.messages()
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
def test_a_disk_without_inodes_ends_the_run_within_a_minute(run, undisturbed, tmp_path, share):
    """`share`: the number of checkpoints whose files fit on the disk."""
    run.workdir.mkdir()
    files = len(list((undisturbed.workdir / "checkpoints" / str(TOTAL)).rglob("*")))
    inodes = max(64, 20 + int(share * files)) if share < 1 else 20 + int(share * files)
    assert 20 + files > inodes or share > 1
    mounts = [["-t", "tmpfs", "-o", f"size=100m,nr_inodes={inodes}", "none", str(run.workdir)]]
    run.start(mounts=mounts, keep=tmp_path / "kept")
    # The run must end within a minute after its start, which may take half a minute.
    assert run.wait(90) == 1, run.messages()[-2000:]
    assert "could not be saved" in run.messages()
    assert "the disk takes no more files (no inode is free); delete files" in run.messages()
    assert f"Checkpoints still there: {'none' if share < 1 else SAVED}" in run.messages()
    assert "Traceback" not in run.messages() and "awaitable" not in run.messages()


def test_a_read_only_disk_is_reported_and_nothing_changes(run, undisturbed):
    shutil.copytree(undisturbed.workdir, run.workdir, ignore=shutil.ignore_patterns(str(TOTAL)))
    before = {path: path.stat().st_mtime_ns for path in run.workdir.rglob("*")}
    read_only = [
        ["--bind", str(run.workdir), str(run.workdir)],
        ["-o", "remount,ro,bind", str(run.workdir)],
    ]
    assert run.go(mounts=read_only) == 2
    assert "Read-only file system; give a workdir that you may write to" in run.messages()
    assert "Traceback" not in run.messages()
    assert {path: path.stat().st_mtime_ns for path in run.workdir.rglob("*")} == before
