"""Mutants that survived once are noticed now; scripts/mutate.py tries the complete core."""

import subprocess
import sys

import pytest

from tests.helpers import tiny_run

WORKDIR = tiny_run.REPOSITORY / "signvit_jax" / "checkpoints" / "workdir.py"


def lines_of(name: str) -> str:
    """Return the first line of a constant as FIRST:END."""
    lines = WORKDIR.read_text().splitlines()
    first = next(number for number, line in enumerate(lines, 1) if line.startswith(f"{name} = ("))
    return f"{first}:{first + 1}"


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("file", "lines"),
    [("files/atomic.py", "1:1000"), ("checkpoints/workdir.py", lines_of("_FIXED"))],
    ids=["flushing_and_renaming", "fixed_on_resume"],
)
def test_each_mutant_is_noticed(tmp_path, file, lines):
    command = [
        sys.executable,
        "scripts/mutate.py",
        f"--results={tmp_path / 'mutants.jsonl'}",
        f"--files={file}",
        f"--lines={lines}",
        "--workers=1",
    ]
    tried = subprocess.run(
        command, cwd=tiny_run.REPOSITORY, capture_output=True, text=True, timeout=900, check=False
    )
    assert tried.returncode == 0 and ", 0 survived" in tried.stdout, tried.stdout + tried.stderr
    assert tried.stdout.count("killed") > 8
