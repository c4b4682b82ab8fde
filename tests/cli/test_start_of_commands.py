"""How the commands start: at once where they only say how they are used, and from any folder."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import tiny_run

COMMANDS = [
    *(
        f"signvit_jax.{name}"
        for name in (
            "train",
            "distill",
            "convert",
            "export",
            "eval",
            "translate",
            "inspect_config",
            "data_report",
        )
    ),
    "tfds_builders.build",
]
SLOW = (
    "jax",
    "flax",
    "optax",
    "orbax",
    "grain",
    "tensorflow_datasets",
    "array_record",
    "av",
    "matplotlib",
    "sacrebleu",
)
FOLDERS = ("signvit_jax", "tfds_builders", "configs", "scripts")


def packages_after(command: str, *arguments: str) -> set[str]:
    """Packages that a process has loaded by the time that it has answered."""
    program = f"""if True:
        import atexit, runpy, sys
        atexit.register(lambda: print("LOADED", *sorted({{name.partition(".")[0] for name in sys.modules}})))
        sys.argv = ["{command}", *{arguments!r}]
        runpy.run_module("{command}", run_name="__main__", alter_sys=True)
    """
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tiny_run.REPOSITORY,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert "usage" in (done.stdout + done.stderr).lower(), done.stderr[-2000:]
    return set(done.stdout.splitlines()[-1].removeprefix("LOADED").split())


@pytest.mark.parametrize("command", COMMANDS)
def test_help_waits_for_no_large_package(command):
    loaded = packages_after(command, "--help")
    assert "argparse" in loaded and loaded.isdisjoint(SLOW), loaded & set(SLOW)


def test_a_missing_flag_is_said_without_waiting():
    assert packages_after("signvit_jax.eval", "--wrong").isdisjoint(SLOW)


def test_every_command_is_in_the_list():
    there = {
        path.stem
        for path in (tiny_run.REPOSITORY / "signvit_jax").glob("*.py")
        if "__main__" in path.read_text(encoding="utf-8")
    }
    assert there == {
        name.removeprefix("signvit_jax.") for name in COMMANDS if name.startswith("signvit_jax.")
    }


def test_no_module_has_the_name_of_one_of_the_standard_library():
    """In its own folder a script finds its neighbors before the standard library."""
    modules = [path for folder in FOLDERS for path in (tiny_run.REPOSITORY / folder).rglob("*.py")]
    assert len(modules) > 100
    assert [str(path) for path in modules if path.stem in sys.stdlib_module_names] == []


def test_the_standard_library_is_found_from_within_the_package():
    """As for somebody who runs Python in that folder, or a file of it."""
    program = "import inspect, dataclasses; inspect.signature(print); print(inspect.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tiny_run.REPOSITORY / "signvit_jax",
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr[-500:]
    assert tiny_run.REPOSITORY not in Path(done.stdout.strip()).parents
