"""A run whose newest checkpoint is damaged resumes from the one before, with the same result.

tests/checkpoints/test_store.py damages every file.
"""

import shutil

import pytest

from tests.helpers.reliability_runs import SAVED, TOTAL, assert_same_run

pytestmark = pytest.mark.long


@pytest.fixture
def damaged(run, undisturbed):
    """A finished run with a flipped bit in its newest checkpoint, and with foreign files."""
    shutil.copytree(undisturbed.workdir, run.workdir)
    shutil.copy(undisturbed.trace, run.trace)
    checkpoints = run.workdir / "checkpoints"
    opt_state = checkpoints / str(TOTAL) / "opt_state"
    files = [path for path in opt_state.rglob("*") if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    (checkpoints / "99").mkdir()
    (checkpoints / "99" / "notes.txt").write_text("mine")
    (checkpoints / "README").write_text("mine")
    run.damaged_file = largest.relative_to(checkpoints / str(TOTAL)).as_posix()
    return run


def test_a_damaged_checkpoint_is_skipped_unless_strict(damaged, undisturbed):
    assert damaged.go("--strict_restore") == 1
    assert f"checkpoint {TOTAL} in" in damaged.messages()
    assert damaged.damaged_file in damaged.messages()
    assert "Traceback" not in damaged.messages()
    assert damaged.steps()[-1] == TOTAL

    assert damaged.go() == 0
    assert (
        f"is damaged and is skipped: {damaged.damaged_file}: content changed" in damaged.messages()
    )
    assert f"resumed from the checkpoint of step {TOTAL - SAVED}" in damaged.messages()
    assert f"replayed after a restart: {SAVED} steps" in damaged.messages()
    assert_same_run(damaged, undisturbed)
    for name in ("99/notes.txt", "README"):
        assert (damaged.workdir / "checkpoints" / name).read_text() == "mine"
