"""Tests that mutants that once survived are detected; scripts/mutate.py tries the complete core."""

import subprocess
import sys

import pytest

from tests.helpers import tiny_run
from tests.helpers.scripts import load_script

SCRIPTS = tiny_run.REPOSITORY / "scripts"
RULES = tiny_run.REPOSITORY / "signvit_jax" / "checkpoints" / "resume_rules.py"


@pytest.fixture(scope="module")
def module():
    return load_script("mutants")


SOURCE = '''"""Ä module."""
KEYS = ("a", "b")


def chosen(x: int = 3) -> bool:
    """A docstring is not changed, nor is an annotation."""
    text = "é"; print(text)
    return x < 2 and not x
'''


def test_the_mutants_of_a_source_change_one_place_each(module, tmp_path):
    (tmp_path / "a.py").write_text(SOURCE, encoding="utf-8")
    found = module.all_mutants(tmp_path, ["a.py"], range(100))
    assert {(mutant.line, mutant.change) for mutant in found} == {
        (2, '("a", "b") -> without \'a\''),
        (2, '("a", "b") -> without \'b\''),
        (5, "3 -> (4)"),
        (7, "print(text) -> statement removed"),
        (8, "return x < 2 and not x -> return None"),
        (8, "x < 2 and not x -> (x < 2 or not x)"),
        (8, "x < 2 -> (x <= 2)"),
        (8, "2 -> (3)"),
        (8, "not x -> (x)"),
    }
    assert 'text = "é"; pass' in next(m.content.decode() for m in found if m.line == 7)
    assert [mutant.id for mutant in found] == sorted({mutant.id for mutant in found})


def test_a_mutant_keeps_its_identity_when_lines_move(module, tmp_path):
    (tmp_path / "a.py").write_text(SOURCE, encoding="utf-8")
    before = module.all_mutants(tmp_path, ["a.py"], range(100))
    (tmp_path / "a.py").write_text(f"# A comment.\n{SOURCE}", encoding="utf-8")
    after = module.all_mutants(tmp_path, ["a.py"], range(100))
    assert [mutant.id for mutant in after] == [mutant.id for mutant in before]
    assert [mutant.line for mutant in after] == [mutant.line + 1 for mutant in before]


def lines_of(name: str) -> str:
    """Return the first line of a tuple constant of resume_rules.py as "FIRST:END"."""
    lines = RULES.read_text().splitlines()
    first = next(number for number, line in enumerate(lines, 1) if line.startswith(f"{name} = ("))
    return f"{first}:{first + 1}"


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("file", "lines"),
    [("files/atomic.py", "1:1000"), ("checkpoints/resume_rules.py", lines_of("_FIXED"))],
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
    done = subprocess.run(
        command, cwd=tiny_run.REPOSITORY, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0 and ", 0 survived" in done.stdout, done.stdout + done.stderr
    assert done.stdout.count("killed") > 8
