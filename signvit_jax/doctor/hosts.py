"""Check of runs of several processes: who started them, and whether process 0 can be reached."""

import contextlib
import dataclasses
import os
import socket
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from signvit_jax.doctor.findings import Finding, Request, joined

_CONNECT_SECONDS = 3.0
_CLOCK_SECONDS = 5.0  # a larger difference of clocks is worth a note

# Starter of processes -> variables with the number of processes and with the number of this one.
_STARTERS = {
    "Slurm": ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),
    "Open MPI": ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    "a TPU pod": ("TPU_WORKER_HOSTNAMES", "TPU_WORKER_ID"),
    "Kubernetes": ("", "JOB_COMPLETION_INDEX"),
}
_JOINED_BY_TRAIN = "Slurm"


@dataclasses.dataclass(frozen=True)
class HostFacts:
    """Processes that train together. `processes`: 0 if their number is not known.

    `coordinator`: the address of process 0, "" if none is set. `reachable`: "yes", "refused" (the
    host answers; nobody listens), or the error. `clock`: seconds by which the file server of the
    workdir is ahead of this machine; 0 without a workdir.
    """

    starter: str = ""
    processes: int = 1
    process_id: int = 0
    coordinator: str = ""
    reachable: str = ""
    clock: float = 0.0


def probe_hosts(request: Request, environment: Mapping[str, str] = os.environ) -> HostFacts:
    """Read the environment, connect to process 0 if it has an address, and compare clocks."""
    starter, processes, process_id = _started_by(environment)
    coordinator = environment.get("JAX_COORDINATOR_ADDRESS", "")
    return HostFacts(
        starter=starter,
        processes=processes,
        process_id=process_id,
        coordinator=coordinator,
        reachable=_reach(coordinator) if coordinator and process_id else "",
        clock=_clock_difference(request.workdir) if request.workdir else 0.0,
    )


def _started_by(environment: Mapping[str, str]) -> tuple[str, int, int]:
    """Return the starter, the number of processes (0 if not known) and the number of this one."""
    for starter, (count_variable, id_variable) in _STARTERS.items():
        if id_variable not in environment:
            continue
        text = environment.get(count_variable, "")
        if "HOSTNAMES" in count_variable and text:
            count = len(text.split(","))
        else:
            count = _integer(text, 0)
        if count != 1:
            return starter, count, _integer(environment.get(id_variable, ""), 0)
    return "", 1, 0


def _integer(text: str, otherwise: int) -> int:
    return int(text) if text.isdecimal() else otherwise


def _reach(address: str) -> str:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, _integer(port, 0)), timeout=_CONNECT_SECONDS):
            return "yes"
    except ConnectionRefusedError:
        return "refused"
    except OSError as error:
        return error.strerror or str(error)


def _clock_difference(folder: str) -> float:
    """Seconds by which the clock of a folder's file server is ahead of this machine's.

    A file is written there. If its time is between those before and after writing, return 0.
    """
    place = Path(folder).absolute()
    while not place.is_dir():
        place = place.parent
    with contextlib.suppress(OSError), tempfile.NamedTemporaryFile(dir=place) as file:
        before = time.time()
        file.write(b"x")
        file.flush()
        os.fsync(file.fileno())
        after = time.time()
        written = os.stat(file.name).st_mtime
        return round(written - min(max(written, before), after), 3)
    return 0.0


def check_hosts(facts: HostFacts) -> Finding:
    findings = [_processes(facts)]
    if facts.coordinator and facts.reachable not in ("", "yes", "refused"):
        findings.append(
            Finding(
                "",
                "bad",
                f"process 0 at {facts.coordinator} cannot be reached: {facts.reachable}",
                "the same --coordinator=HOST:PORT for all, a name that every host knows, and a "
                "port that no firewall closes",
            )
        )
    elif facts.coordinator:
        state = {"yes": "answers", "refused": "has no run yet"}.get(facts.reachable, "is this one")
        findings.append(Finding("", "ok", f"process 0 at {facts.coordinator} {state}"))
    if abs(facts.clock) > _CLOCK_SECONDS:
        findings.append(
            Finding(
                "",
                "note",
                f"the file server's clock is {facts.clock:+.1f} s from this machine's",
                "set the clocks by NTP: times in logs do not agree",
            )
        )
    return joined("hosts", findings)


def _processes(facts: HostFacts) -> Finding:
    if not facts.starter:
        return Finding("", "ok", "one process; no starter of several (Slurm, MPI, ...) is seen")
    number = f"{facts.processes} processes" if facts.processes else "a number of processes"
    found = f"{facts.starter} started {number}, this is number {facts.process_id}"
    if facts.starter == _JOINED_BY_TRAIN:
        return Finding("", "ok", f"{found}; `train` joins them by itself")
    return Finding(
        "",
        "note",
        f"{found}; `train` does not join them by itself",
        "give --coordinator=HOST:PORT --num_processes=N --process_id=I",
    )
