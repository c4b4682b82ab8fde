"""Plans of training steps by XLA's compilers, which run in child processes.

Tests that need the packages of the extra `plan` are skipped without these packages.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from signvit_jax.config.errors import ConfigError
from signvit_jax.config.files import load_config
from signvit_jax.config.presets import preset_names
from signvit_jax.planning.compile_elsewhere import (
    PlanError,
    child_environment,
    missing_packages,
    plan_elsewhere,
)
from signvit_jax.planning.device_kinds import KINDS
from signvit_jax.planning.step_plan import PlanRequest

REPOSITORY = Path(__file__).parents[2]
TINY = [
    ("model.encoder.vit_num_layers", "2"),
    ("model.decoder.num_layers", "1"),
    ("training.batch_size", "8"),
    ("training.remat", "dots"),
    ("mesh.fsdp", "2"),
]


def needs(platform):
    """Skip the test if the packages for planning for `platform` are missing."""
    missing = missing_packages(platform)
    reason = f"{', '.join(missing)} not found: pip install 'signvit-jax[plan]'"
    return pytest.mark.skipif(bool(missing), reason=reason)


def test_the_callers_settings_are_kept_and_ours_added():
    environment = child_environment(
        {"XLA_FLAGS": "--mine=1", "PYTHONPATH": "/mine", "JAX_PLATFORMS": "cuda", "A": "b"}, "cuda"
    )
    assert environment["JAX_PLATFORMS"] == "cpu" and environment["A"] == "b"
    flags = environment["XLA_FLAGS"].split()
    assert flags[-1] == "--mine=1" and "--xla_disable_hlo_passes=rematerialization" in flags
    # The compiler for TPUs needs this pass to refuse a program that does not fit.
    assert child_environment({}, "tpu")["XLA_FLAGS"] == ""
    assert environment["PYTHONPATH"] == f"{REPOSITORY}{os.pathsep}/mine"


@pytest.fixture
def failing_compiler(monkeypatch, tmp_path):
    """Return a function that replaces the compiler by shell commands and exit code 7."""

    def replace(commands):
        script = tmp_path / "python"
        script.write_text(f"#!/bin/sh\ncat >/dev/null\n{commands}\nexit 7\n")
        script.chmod(0o700)
        monkeypatch.setattr(sys, "executable", str(script))
        monkeypatch.setattr("signvit_jax.planning.compile_elsewhere._is_there", lambda module: True)

    return replace


def test_a_message_explains_a_slow_compiler(failing_compiler, monkeypatch, caplog):
    monkeypatch.setattr("signvit_jax.planning.compile_elsewhere._SLOW_SECONDS", 0.2)
    failing_compiler("sleep 1; echo last words >&2")
    with pytest.raises(PlanError, match="last words"):
        plan_elsewhere(load_config("small_gpu"), PlanRequest("h100", 1))
    assert "compiler for NVIDIA H100 80GB HBM3 still works" in caplog.text


def test_the_error_of_a_failed_compiler_has_its_last_output(failing_compiler, caplog):
    failing_compiler("echo noise; echo last words >&2")
    with pytest.raises(PlanError, match="code 7 and no plan:\nlast words"):
        plan_elsewhere(load_config("small_gpu"), PlanRequest("h100", 1))
    assert caplog.text == ""


def test_a_refused_config_is_an_error_of_the_config(failing_compiler):
    failing_compiler("""echo '{"refused": "config.mesh is wrong"}'; echo noise""")
    with pytest.raises(ConfigError, match=r"^config\.mesh is wrong$"):
        plan_elsewhere(load_config("small_gpu"), PlanRequest("h100", 1))


@needs("tpu")
@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_mesh_that_does_not_fit_the_devices_is_refused():
    config = load_config("small_gpu", [("mesh.fsdp", "3")])
    with pytest.raises(ConfigError, match="fsdp=3"):
        plan_elsewhere(config, PlanRequest("v5e", 4))


@needs("cuda")
@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_tiny_step_is_planned_for_four_h100():
    plan = plan_elsewhere(load_config("small_gpu", TINY), PlanRequest("h100", 4))
    assert plan.fits and plan.mesh == {"data": 2, "fsdp": 2, "tensor": 1}
    assert plan.cost is not None
    assert {"fsdp", "data"} <= set(plan.cost.collectives)
    # The step does the operations of the model, and more for remat and padding.
    assert plan.cost.asked_flops < plan.cost.flops < 1.5 * plan.cost.asked_flops
    assert plan.cost.uncounted == {} and plan.cost.unknown_loops == 0
    assert any("layers/transformer.py" in kept.source for kept in plan.cost.residuals)
    again = plan_elsewhere(
        load_config("small_gpu", TINY), PlanRequest("h100", 4), unless=plan.program
    )
    assert again is None


@needs("tpu")
@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_tiny_step_is_planned_for_a_v5e_slice():
    plan = plan_elsewhere(load_config("small_gpu", TINY), PlanRequest("v5e", 4))
    assert plan.fits and plan.cost is not None
    assert {"fsdp", "data"} <= set(plan.cost.collectives)
    assert plan.cost.asked_flops < plan.cost.flops < 1.5 * plan.cost.asked_flops
    assert plan.cost.unknown_loops == 0


LOWERING = """
import sys
from signvit_jax.config.files import load_config
from signvit_jax.planning.abstract_step import TextSizes, abstract_step
from signvit_jax.planning.device_kinds import KINDS, absent_devices
name, kind = sys.argv[1], KINDS[sys.argv[2]]
config = load_config(name)
count = max(config.mesh.data, 1) * config.mesh.fsdp * config.mesh.tensor
planned = abstract_step(config, TextSizes(), absent_devices(kind, count))
text = planned.step.lower(planned.state, planned.batch).as_text()
# On several devices cuDNN's attention is the one operation that is sharded by a callback.
print("fmha" in text or "CustomSPMDPartitioning" in text)
"""
# cuDNN's attention needs bfloat16, heads of at most 128, and no dropout on the weights.
FUSED = {"dense_vit", "dense_vit_100m", "dense_vit_server", "small_gpu"}


@needs("cuda")
@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("device", ["h100", "a100_40"])
@pytest.mark.parametrize("preset", preset_names())
def test_every_preset_lowers_for_gpus_with_the_attention_of_auto(preset, device):
    done = subprocess.run(
        [sys.executable, "-c", LOWERING, preset, device],
        capture_output=True,
        text=True,
        timeout=850,
        env=child_environment(dict(os.environ), KINDS[device].platform),
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == [str(preset in FUSED)]


COMMAND = ["-m", "signvit_jax.inspect_config", "--config=small", "--no_compile"]


@pytest.mark.skipif(
    bool(missing_packages("tpu") and missing_packages("cuda")),
    reason="no package for planning found: pip install 'signvit-jax[plan]'",
)
@pytest.mark.long
def test_commands_do_not_use_the_planning_packages():
    environment = {name: value for name, value in os.environ.items() if name != "JAX_PLATFORMS"}
    done = subprocess.run(
        [sys.executable, *COMMAND],
        capture_output=True,
        text=True,
        timeout=250,
        cwd=REPOSITORY,
        env=environment,
    )
    assert done.returncode == 0 and done.stderr == ""
    assert re.search(r"1 x cpu", done.stdout)
