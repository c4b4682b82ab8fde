"""Cheap checks of the machine when training starts, and a line of facts for run.log."""

import logging
import os
import platform
from pathlib import Path

from signvit_jax import __version__
from signvit_jax.config.schema import Config, to_json
from signvit_jax.doctor import machine, software
from signvit_jax.doctor.findings import Finding, Request, gib, without_home
from signvit_jax.doctor.registry import FOLDERS, LIMITS, PACKAGES

_SECONDS = 2.0  # time limit of each check, such as one of folders on a slow file server

log = logging.getLogger(__name__)
_run_log_only = logging.getLogger("run_facts")  # the terminal does not show this logger


def check_start(config: Config, workdir: Path) -> list[Finding]:
    """Return the bad findings about packages, limits and folders. Takes a few milliseconds.

    It writes no file, starts no process, imports nothing and raises nothing.
    """
    request = Request(
        workdir=str(workdir),
        data_dir=config.data.data_dir,
        config_json=to_json(config),
        quick=True,
    )
    findings = (check.run(request, _SECONDS)[0] for check in (PACKAGES, LIMITS, FOLDERS))
    return [finding for finding in findings if finding.level == "bad"]


def log_start(config: Config, workdir: Path) -> None:
    """Log a line of facts, in run.log alone, and a warning for each bad finding.

    Nothing is raised: these checks never end a run.
    """
    try:
        _run_log_only.info("%s", run_facts())
        for finding in check_start(config, workdir):
            log.warning(
                "%s: %s; what to do: %s (signvit doctor --workdir=%s says more)",
                finding.name,
                finding.found,
                finding.advice,
                workdir,
            )
    except Exception as error:
        log.warning("the checks at the start failed and are left out: %r", error)


def run_facts() -> str:
    """One line on the versions and the machine, for the head of run.log."""
    commit = software.commit_of(Path(software.__file__).parents[2])
    limits = machine.probe_limits(Request())
    cores = min(limits.cores_allowed, limits.cores_quota or limits.cores_allowed)
    memory = machine.free_memory(machine.probe_memory(Request()))
    names = ("jax", "jaxlib", "flax", "orbax-checkpoint", "grain", "av", "numpy")
    installed = software.installed_versions(names)
    settings = [
        f"{name}={value}"
        for name in ("JAX_PLATFORMS", "CUDA_VISIBLE_DEVICES", "XLA_FLAGS")
        if (value := os.environ.get(name))
    ]
    return without_home(
        f"run by signvit-jax {__version__}{f' ({commit})' if commit else ''} on Python "
        f"{platform.python_version()}, {platform.machine()}; "
        + ", ".join(f"{name} {version}" for name, version in installed.items())
        + f"; {cores:g} cores, {gib(memory)} of memory free"
        + (f"; {', '.join(settings)}" if settings else "")
    )
