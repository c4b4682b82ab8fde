"""Tests of the JAX settings that commands choose before they import JAX."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from signvit_jax.cli.jax_setup import set_up_jax
from signvit_jax.runtime.accelerators import has_accelerator
from tests.helpers import tiny_run

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def environment(monkeypatch, tmp_path):
    with tiny_run.light_jax(tmp_path):
        yield monkeypatch


def flags_after_set_up() -> list[str]:
    set_up_jax()
    return os.environ["XLA_FLAGS"].split()


def test_flags_of_the_environment_override_ours(environment):
    environment.setenv("JAX_PLATFORMS", "cuda")
    environment.setenv("XLA_FLAGS", "--some_flag=1")
    assert flags_after_set_up() == [
        "--xla_gpu_enable_latency_hiding_scheduler=true",
        "--some_flag=1",
    ]
    assert len(flags_after_set_up()) == 2
    environment.setenv("XLA_FLAGS", "--xla_gpu_enable_latency_hiding_scheduler=false")
    assert flags_after_set_up() == ["--xla_gpu_enable_latency_hiding_scheduler=false"]


def test_on_a_cpu_no_flag_is_set(environment):
    environment.setenv("JAX_PLATFORMS", "cpu")
    environment.setenv("XLA_FLAGS", "--some_flag=1")
    assert flags_after_set_up() == ["--some_flag=1"]


def test_92_percent_of_a_gpu_may_be_used_unless_the_user_sets_a_fraction(environment):
    environment.setenv("JAX_PLATFORMS", "cuda")
    environment.delenv("XLA_PYTHON_CLIENT_MEM_FRACTION", raising=False)
    set_up_jax()
    assert os.environ["XLA_PYTHON_CLIENT_MEM_FRACTION"] == "0.92"
    environment.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.5")
    set_up_jax()
    assert os.environ["XLA_PYTHON_CLIENT_MEM_FRACTION"] == "0.5"


# Unless JAX_PLATFORMS is "cpu", JAX reports plugins that it cannot use, and loads libtpu.
PROGRAM = """
import logging
logging.basicConfig(level=logging.INFO)
from signvit_jax.cli.jax_setup import set_up_jax
set_up_jax()
import jax
print(jax.devices()[0].platform, jax.config.jax_platforms)
"""


def output_with_plugin(folder, plugin, libtpu=True):
    """Return the lines and errors that the program prints if these packages are installed.

    `plugin`: the name of a JAX plugin; `libtpu`: whether there is a package libtpu. The machine has
    no accelerator.
    """
    package = folder / "jax_plugins" / plugin
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(
        "def initialize():\n"
        "    import jax\n"
        "    print('initialized with jax_platforms', jax.config.jax_platforms)\n"
    )
    if libtpu:
        (folder / "libtpu").mkdir()
        (folder / "libtpu" / "__init__.py").write_text("def get_library_path(): return 'none.so'\n")
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("JAX_PLATFORMS")
    }
    paths = f"{folder}{os.pathsep}{REPOSITORY}"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True,
        text=True,
        timeout=200,
        env=environment | {"PYTHONPATH": paths, "XDG_CACHE_HOME": str(folder / "cache")},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.split("\n"), done.stderr


@pytest.mark.skipif(has_accelerator(), reason="this machine has an accelerator")
def test_packages_for_planning_change_nothing(tmp_path):
    printed, errors = output_with_plugin(tmp_path, "xla_cuda12")
    assert "initialized with jax_platforms None" not in printed and "cpu cpu" in printed
    assert errors == ""


@pytest.mark.skipif(has_accelerator(), reason="this machine has an accelerator")
def test_plugins_for_other_devices_are_still_initialized(tmp_path):
    printed, _ = output_with_plugin(tmp_path, "xla_rocm7", libtpu=False)
    assert "initialized with jax_platforms None" in printed and "cpu None" in printed
