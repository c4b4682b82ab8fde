"""Plans for absent devices, each made in a separate process.

XLA's flags and JAX's platforms can be set only once per process, so those of the caller must stay.
"""

import contextlib
import dataclasses
import importlib.util
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, overload

from signvit_jax.config.errors import ConfigError
from signvit_jax.config.schema import Config, to_json
from signvit_jax.errors.base import SignVitError
from signvit_jax.planning.device_kinds import KINDS, check_count
from signvit_jax.planning.step_plan import PlanRequest, StepPlan
from signvit_jax.runtime.exit_codes import UsageError
from signvit_jax.runtime.optional_deps import install_command

log = logging.getLogger(__name__)

_PACKAGES = {
    "tpu": [("libtpu",)],
    "cuda": [("jax_plugins.xla_cuda12", "jax_plugins.xla_cuda13"), ("nvidia.cudnn",)],
}
# Without a GPU no kernel can be timed, and none is executed, so their code need not be fast. The
# flag of the scheduler is the one that all commands set.
_XLA_FLAGS = {
    "cuda": (
        "--xla_gpu_autotune_level=0",
        "--xla_llvm_disable_expensive_passes=true",
        "--xla_gpu_disable_gpuasm_optimizations=true",
        "--xla_gpu_enable_latency_hiding_scheduler=true",
        # XLA's own rematerialization takes long to search a program that is about to exceed the
        # memory. `alternatives` looks for settings that keep less instead.
        "--xla_disable_hlo_passes=rematerialization",
    ),
    "tpu": (),
}
_SLOW_SECONDS = 180.0  # a longer wait is explained
_SHOWN = 1500  # characters that are shown of a compiler's error


class PlanError(SignVitError, RuntimeError):
    """A compiler that ended without a plan; the message has the end of what it wrote."""


def missing_packages(platform: str) -> list[str]:
    """Return the modules that planning for a platform ("cuda", "tpu") lacks."""
    return [names[0] for names in _PACKAGES[platform] if not any(map(_is_there, names))]


def check_packages(device: str) -> None:
    """Raise UsageError, with the command that installs them, if packages are missing."""
    missing = missing_packages(KINDS[device].platform)
    if missing:
        raise UsageError(
            f"--device={device} compiles with XLA's compiler for {KINDS[device].title}; "
            f"{', '.join(missing)} not found. Install what it needs (no GPU, TPU or driver): "
            f"{install_command('libtpu')}"
        )


@overload
def plan_elsewhere(config: Config, request: PlanRequest) -> StepPlan: ...


@overload
def plan_elsewhere(config: Config, request: PlanRequest, *, unless: str) -> StepPlan | None: ...


def plan_elsewhere(config: Config, request: PlanRequest, *, unless: str = "") -> StepPlan | None:
    """Return the plan of a config's step for devices that this machine need not have.

    It takes one to several minutes. `unless`: the digest of a program whose plan is known already;
    if this step has the same program, None is returned within seconds.

    Raises UsageError without the packages, ConfigError for a mesh that does not fit, PlanError if
    the compiler fails.
    """
    check_packages(request.device)
    check_count(request.kind, request.devices)
    question = {"config": to_json(config), "request": dataclasses.asdict(request), "unless": unless}
    process = subprocess.Popen(
        [sys.executable, "-m", "signvit_jax.planning.step_plan"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=child_environment(dict(os.environ), request.kind.platform),
    )
    with _killed_at_exit(process):
        try:
            output, errors = process.communicate(json.dumps(question), timeout=_SLOW_SECONDS)
        except subprocess.TimeoutExpired:
            log.warning(
                "XLA's compiler for %s still works after %.0f s; a busy machine, or a model that "
                "is not a loop over equal layers, can take it many times that",
                request.kind.title,
                _SLOW_SECONDS,
            )
            output, errors = process.communicate()
    for line in reversed(output.splitlines()):
        try:
            answer = json.loads(line)
        except ValueError:
            continue  # not ours: compilers write to standard output too
        if isinstance(answer, dict) and "refused" in answer:
            raise ConfigError(answer["refused"])
        if isinstance(answer, dict) and "plan" in answer:
            return StepPlan.from_json(answer["plan"]) if answer["plan"] else None
    raise PlanError(
        f"the compiler for {request.kind.title} ended with code {process.returncode} and no plan:\n"
        + errors.strip()[-_SHOWN:]
    )


def child_environment(
    environment: dict[str, str], platform: Literal["cuda", "tpu"]
) -> dict[str, str]:
    """Return the environment of a process that compiles for absent devices of a platform."""
    user_flags = environment.get("XLA_FLAGS", "").split()
    paths = [str(Path(__file__).parents[2]), environment.get("PYTHONPATH", "")]
    return environment | {
        "JAX_PLATFORMS": "cpu",  # do not look for devices
        "TPU_SKIP_MDS_QUERY": "1",  # do not ask for metadata of a virtual machine
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "JAX_ENABLE_COMPILATION_CACHE": "false",  # programs of absent devices cannot be read again
        "TF_CPP_MIN_LOG_LEVEL": environment.get("TF_CPP_MIN_LOG_LEVEL", "2"),
        "XLA_FLAGS": " ".join([*_XLA_FLAGS[platform], *user_flags]),
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
    }


@contextlib.contextmanager
def _killed_at_exit(process: "subprocess.Popen[str]") -> Iterator[None]:
    """Kill the process, if it still runs, when the block ends, also by an interrupt."""
    try:
        yield
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # its package is not there
        return False
