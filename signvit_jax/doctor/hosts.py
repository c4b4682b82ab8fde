"""Check of a run of several processes: what started them, and can process 0 be reached?"""

import contextlib
import dataclasses
import os
import socket
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from signvit_jax.doctor.findings import Finding, Request, joined

_CONNECT_SECONDS = 3.0  # time limit of a connection to process 0
_MAX_CLOCK_SECONDS = 5.0  # a larger difference between clocks gets a note

# Program that starts several processes -> two environment variables: the number of processes ("" if
# it sets none), and the number of this process. TPU_WORKER_HOSTNAMES is a list with commas.
_STARTERS = {
    "Slurm": ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),
    "Open MPI": ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    "a TPU pod": ("TPU_WORKER_HOSTNAMES", "TPU_WORKER_ID"),
    "Kubernetes": ("", "JOB_COMPLETION_INDEX"),
}
_JOINED_BY_TRAIN = "Slurm"  # `train` connects processes of this starter without flags


@dataclasses.dataclass(frozen=True)
class HostFacts:
    """The processes that train together, as this process sees them.

    `starter`: a key of _STARTERS, "" if there is only one process. `processes`: their number, 0 if
    it is not known. `coordinator`: the address of process 0, "" if none is set. `reachable`: "yes",
    "refused" (the host answers, but no process listens on the port), the error, or "" if no
    connection was tried. `clock`: seconds by which the clock of the workdir's file server is ahead
    of this machine; 0 without a workdir.
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
        reachable=_reach(coordinator) if coordinator and process_id != 0 else "",
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
            count = _integer_or_0(text)
        if count != 1:
            return starter, count, _integer_or_0(environment[id_variable])
    return "", 1, 0


def _integer_or_0(text: str) -> int:
    return int(text) if text.isdecimal() else 0


def _reach(address: str) -> str:
    """Connect to HOST:PORT; return "yes", "refused" or the error."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, _integer_or_0(port)), timeout=_CONNECT_SECONDS):
            return "yes"
    except ConnectionRefusedError:
        return "refused"
    except OSError as error:
        return error.strerror or str(error)


def _clock_difference(folder: str) -> float:
    """Return the seconds by which the clock of a folder's file server is ahead of this machine's.

    The file server sets the time of a file that this machine writes. If it is between the times of
    this machine before and after writing, or if the folder cannot be written, return 0.
    """
    existing = Path(folder).absolute()
    while not existing.is_dir():  # the workdir may not exist yet
        existing = existing.parent
    with contextlib.suppress(OSError), tempfile.NamedTemporaryFile(dir=existing) as file:
        before = time.time()
        file.write(b"x")
        file.flush()
        os.fsync(file.fileno())
        after = time.time()
        written = os.stat(file.name).st_mtime
        nearest = min(max(written, before), after)  # in the interval from `before` to `after`
        return round(written - nearest, 3)
    return 0.0


def check_hosts(facts: HostFacts) -> Finding:
    """Return one finding about starter, coordinator and clocks."""
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
        states = {"yes": "answers", "refused": "has no run yet", "": "is this one"}
        state = states[facts.reachable]
        findings.append(Finding("", "ok", f"process 0 at {facts.coordinator} {state}"))
    if abs(facts.clock) > _MAX_CLOCK_SECONDS:
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
