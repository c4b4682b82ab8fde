"""Tests that one base class catches every error that a user of the package can meet."""

import ast
from pathlib import Path

import pytest

import signvit_jax
from signvit_jax.config.errors import ConfigError
from signvit_jax.config.schema import from_mapping
from signvit_jax.errors.base import SignVitError
from signvit_jax.runtime.exit_codes import run_command

ROOT = Path(__file__).parents[2]
BUILTIN = {"Exception", "ValueError", "RuntimeError", "OSError", "LookupError", "TypeError"}
# These are raised and caught within one folder of the package; users never see them.
INTERNAL = {
    "Refused",
    "ManifestMissing",
    "WorkerEnded",
    "PoseModelError",
    "KeypointFileError",
    "ProbeFailed",
    "CannotWrite",
}


def public_exceptions() -> dict[str, set[str]]:
    """Return the names of the bases of every public exception class, by "file: class"."""
    found = {}
    for package in ("signvit_jax", "tfds_builders"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if not isinstance(node, ast.ClassDef) or node.name.startswith("_"):
                    continue
                bases = {base.id for base in node.bases if isinstance(base, ast.Name)}
                if bases & BUILTIN and node.name not in INTERNAL | {"SignVitError"}:
                    found[f"{path.relative_to(ROOT)}: {node.name}"] = bases
    return found


def test_public_exceptions_derive_from_the_base():
    classes = public_exceptions()
    assert len(classes) > 15
    assert [name for name, bases in classes.items() if "SignVitError" not in bases] == []


def test_the_base_is_part_of_the_public_api():
    assert signvit_jax.SignVitError is SignVitError


def test_value_errors_are_still_value_errors():
    with pytest.raises(ValueError, match="num_frames"):
        from_mapping({"data": {"num_frames": 0}})
    assert issubclass(ConfigError, SignVitError)


def test_a_foreign_exit_code_attribute_does_not_hide_a_bug(capsys):
    class Foreign(Exception):
        exit_code = 3

    def main():
        raise Foreign("a bug of some library")

    assert run_command(main) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_subclass_without_an_exit_code_ends_with_2(capsys):
    class Ours(SignVitError):
        pass

    def main():
        raise Ours("give another value")

    assert run_command(main) == 2
    assert capsys.readouterr().err == "error: give another value\n"
