"""The sixteen checks in their order, and how they are run."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

from signvit_jax.doctor import (
    config_fit,
    devices,
    hosts,
    machine,
    media_codecs,
    run_files,
    software,
)
from signvit_jax.doctor.findings import DeviceFacts, Finding, Request
from signvit_jax.doctor.isolation import ProbeFailed, ProbeTimeout, in_process, in_thread

SECONDS = 20.0  # time limit of a check


@dataclasses.dataclass(frozen=True)
class Check[Facts]:
    """A check: `probe` gathers facts, `judge` is a pure function of them.

    `isolated`: the probe runs in a separate process. `slow`: --quick leaves it out. `needs`: the
    flag ("workdir", "data_dir", "config") without which the check is skipped. `on_timeout`: what to
    do if the probe does not answer.
    """

    name: str
    probe: Callable[[Request], Facts]
    judge: Callable[[Facts], Finding]
    isolated: bool = False
    slow: bool = False
    needs: str = ""
    on_timeout: str = "give it longer on a busy machine: --seconds=120"

    def run(self, request: Request, seconds: float = SECONDS) -> tuple[Finding, Facts | None]:
        """The finding and the facts; None if they could not be gathered. Raises nothing."""
        if self.slow and request.quick:
            return Finding(self.name, "skipped", "left out by --quick"), None
        inputs = {
            "workdir": request.workdir,
            "data_dir": request.data_dir,
            "config": request.config_json,
        }
        if self.needs and not inputs[self.needs]:
            return Finding(self.name, "skipped", f"no --{self.needs} given"), None
        # A quick check forks nothing, and needs no process.
        gather = in_process if self.isolated and not request.quick else in_thread
        try:
            facts = gather(self.probe, request, seconds)
            finding = dataclasses.replace(self.judge(facts), name=self.name)
        except ProbeTimeout as error:
            return Finding(self.name, "bad", str(error), self.on_timeout), None
        except ProbeFailed as error:
            advice = "report it, with `signvit doctor --json`, unless the message says what to do"
            return Finding(self.name, "bad", f"could not be checked: {error}", advice), None
        return finding, facts


_PYTHON = Check("python", software.probe_python, software.check_python)
_SIGNVIT = Check("signvit", software.probe_package, software.check_package)
PACKAGES = Check("packages", software.probe_dependencies, software.check_dependencies)
DEVICES = Check(
    "devices",
    devices.probe_devices,
    devices.check_devices,
    isolated=True,
    slow=True,
    on_timeout="a device hangs, or another process holds it: nvidia-smi, and end that process",
)
_ACCELERATORS = Check("accelerators", devices.probe_accelerators, devices.check_accelerators)
_ATTENTION = Check(
    "attention",
    devices.probe_attention,
    devices.check_attention,
    isolated=True,
    slow=True,
    on_timeout="--config.model.encoder.attention=recompute does without it",
)
_CODECS = Check(
    "codecs", media_codecs.probe_codecs, media_codecs.check_codecs, isolated=True, slow=True
)
LIMITS = Check("limits", machine.probe_limits, machine.check_limits)
_MEMORY = Check("memory", machine.probe_memory, machine.check_memory)
FOLDERS = Check(
    "folders",
    machine.probe_folders,
    machine.check_folders,
    isolated=True,
    on_timeout="a file server does not answer (df, dmesg): give folders of this machine",
)
_WORKDIR = Check(
    "workdir",
    run_files.probe_workdir,
    run_files.check_workdir,
    isolated=True,
    needs="workdir",
)
_DATA = Check(
    "data_set",
    run_files.probe_data,
    run_files.check_data,
    isolated=True,
    slow=True,
    needs="data_dir",
)
_CONFIG = Check(
    "config",
    config_fit.probe_fit,
    config_fit.check_fit,
    isolated=True,
    slow=True,
    needs="config",
    on_timeout="signvit inspect with the same --config, which may take longer",
)
_HOSTS = Check("hosts", hosts.probe_hosts, hosts.check_hosts)
_EXTRAS = Check("extras", software.probe_extras, software.check_extras)
_NETWORK = Check("network", software.probe_network, software.check_network)

CHECKS: tuple[Check, ...] = (
    _PYTHON,
    _SIGNVIT,
    PACKAGES,
    DEVICES,
    _ACCELERATORS,
    _ATTENTION,
    _CODECS,
    LIMITS,
    _MEMORY,
    FOLDERS,
    _WORKDIR,
    _DATA,
    _CONFIG,
    _HOSTS,
    _EXTRAS,
    _NETWORK,
)


def run_checks(
    request: Request, seconds: float = SECONDS, checks: Sequence[Check] = CHECKS
) -> Iterator[tuple[Finding, object]]:
    """Yield the finding and the facts of every check, as soon as each is there.

    The requests of the checks after DEVICES hold its facts.
    """
    for check in checks:
        finding, facts = check.run(request, seconds)
        if isinstance(facts, DeviceFacts):
            request = dataclasses.replace(request, devices=facts)
        elif check is DEVICES and not request.quick:
            # A device that hangs would hang again.
            request = dataclasses.replace(request, devices=DeviceFacts(error=finding.found))
        yield finding, facts
