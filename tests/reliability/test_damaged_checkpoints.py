"""A run whose newest checkpoint was damaged goes on from the one before, to the same end; tests/checkpoints/test_store.py damages every file."""

import shutil

import pytest

from tests.helpers.reliability_runs import SAVED, TOTAL, assert_same_run

pytestmark = pytest.mark.long


@pytest.fixture
def damaged(run, undisturbed):
    """A finished run whose newest checkpoint has one bit flipped, and whose checkpoint folder holds things of other people."""
    shutil.copytree(undisturbed.workdir, run.workdir)
    shutil.copy(undisturbed.trace, run.trace)
    checkpoints = run.workdir / "checkpoints"
    largest = max(
        (checkpoints / str(TOTAL) / "opt_state").rglob("*"),
        key=lambda path: path.stat().st_size * path.is_file(),
    )
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    (checkpoints / "99").mkdir()
    (checkpoints / "99" / "notes.txt").write_text("mine")
    (checkpoints / "README").write_text("mine")
    run.harmed = largest.relative_to(checkpoints / str(TOTAL)).as_posix()
    return run


def test_the_damaged_file_is_named_and_the_checkpoint_before_is_used_unless_strict(
    damaged, undisturbed
):
    assert damaged.go("--strict_restore") == 1
    assert (
        f"checkpoint {TOTAL} in" in damaged.said()
        and damaged.harmed in damaged.said()
        and "Traceback" not in damaged.said()
    )
    assert damaged.steps()[-1] == TOTAL

    assert damaged.go() == 0
    assert f"is damaged and is skipped: {damaged.harmed}: content changed" in damaged.said()
    assert f"resumed from the checkpoint of step {TOTAL - SAVED}" in damaged.said()
    assert f"replayed after a restart: {SAVED} steps" in damaged.said()
    assert_same_run(damaged, undisturbed)
    for name in ("99/notes.txt", "README"):
        assert (damaged.workdir / "checkpoints" / name).read_text() == "mine"
