"""Tests that commands answer --help and wrong flags without JAX, and start in any folder."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import tiny_run

PACKAGE = tiny_run.REPOSITORY / "signvit_jax"
COMMANDS = [
    "signvit_jax.convert",
    "signvit_jax.data_report",
    "signvit_jax.distill",
    "signvit_jax.eval",
    "signvit_jax.export",
    "signvit_jax.inspect_config",
    "signvit_jax.record",
    "signvit_jax.serve",
    "signvit_jax.train",
    "signvit_jax.translate",
    "tfds_builders.build",
    "tfds_builders.check",
]
LARGE_PACKAGES = {
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax",
    "grain",
    "tensorflow",
    "tensorflow_datasets",
    "array_record",
    "av",
    "matplotlib",
    "sacrebleu",
}
FOLDERS = ("signvit_jax", "tfds_builders", "configs", "scripts")


def packages_after(command: str, *arguments: str) -> set[str]:
    """Return the top-level packages that a command's process has imported when it ends."""
    program = f"""if True:
        import atexit, runpy, sys
        def report():
            print("IMPORTED", *{{name.partition(".")[0] for name in sys.modules}})
        atexit.register(report)
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
    return set(done.stdout.splitlines()[-1].removeprefix("IMPORTED").split())


@pytest.mark.parametrize("command", COMMANDS)
def test_help_imports_no_large_package(command):
    imported = packages_after(command, "--help")
    assert "argparse" in imported and imported.isdisjoint(LARGE_PACKAGES), imported & LARGE_PACKAGES


@pytest.mark.parametrize("command", ["signvit_jax.eval", "signvit_jax.train"])
def test_a_wrong_flag_imports_no_large_package(command):
    assert packages_after(command, "--wrong").isdisjoint(LARGE_PACKAGES)


def test_every_command_is_in_the_list():
    launchers = {path.stem for path in PACKAGE.glob("*.py") if "__main__" in path.read_text()}
    launchers -= {"__main__"}  # `signvit` itself
    builders = {"tfds_builders.build", "tfds_builders.check"}
    assert {f"signvit_jax.{name}" for name in launchers} | builders == set(COMMANDS)


def test_every_command_has_a_module_of_its_own():
    modules = {path.stem for path in (PACKAGE / "commands").glob("*.py")} - {
        "__init__",
        "dispatch",
        "configs",
        "sharing",  # pull and push
    }
    assert {f"signvit_jax.{name}" for name in modules} < set(COMMANDS)


def test_no_module_shadows_the_standard_library():
    """A script imports a module of its own folder before one of the standard library."""
    modules = [path for folder in FOLDERS for path in (tiny_run.REPOSITORY / folder).rglob("*.py")]
    assert len(modules) > 100
    assert [str(path) for path in modules if path.stem in sys.stdlib_module_names] == []


def test_the_standard_library_can_be_imported_in_the_package_folder():
    """Users may run Python in the folder of the package, or run a file of it."""
    program = "import inspect, dataclasses; inspect.signature(print); print(inspect.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=PACKAGE, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr[-500:]
    assert tiny_run.REPOSITORY not in Path(done.stdout.strip()).parents
