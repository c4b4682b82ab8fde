"""Several processes that train together: their flags, start and end."""

import argparse
import logging
import multiprocessing
import os
import sys
from typing import NoReturn

from signvit_jax.config.errors import ConfigError
from signvit_jax.runtime.exit_codes import DONE, HUNG_UP, INTERRUPTED, TERMINATED

_PEER_TIMEOUT_S = 30  # a process that sends no heartbeat for this long counts as lost


def add_process_flags(flag_parser: argparse.ArgumentParser) -> None:
    flag_parser.add_argument(
        "--coordinator",
        metavar="HOST:PORT",
        help="several processes: address of process 0, the same for all",
    )
    flag_parser.add_argument(
        "--num_processes", type=int, metavar="N", help="several processes: their number"
    )
    flag_parser.add_argument(
        "--process_id",
        type=int,
        metavar="I",
        help="several processes: number of this one, from 0 (JOB_COMPLETION_INDEX)",
    )


def join_processes(arguments: argparse.Namespace) -> None:
    """Connect the processes of one run. Call it before the first use of a device.

    A run of one process is left alone. Under `srun` with several tasks JAX finds all it needs;
    elsewhere the three flags of `add_process_flags` are required, except that --process_id defaults
    to the index of an indexed Kubernetes job. Raises ConfigError for flags that do not fit.
    """
    import jax

    coordinator: str | None = arguments.coordinator
    num_processes: int | None = arguments.num_processes
    process_id: int | None = arguments.process_id
    if coordinator is None and num_processes is None and process_id is None:
        if int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
            jax.distributed.initialize(
                heartbeat_timeout_seconds=_PEER_TIMEOUT_S, shutdown_timeout_seconds=_PEER_TIMEOUT_S
            )
        return
    if process_id is None and os.environ.get("JOB_COMPLETION_INDEX", "").isdecimal():
        process_id = int(os.environ["JOB_COMPLETION_INDEX"])
    if coordinator is None or num_processes is None or process_id is None:
        flags = {
            "--coordinator": coordinator,
            "--num_processes": num_processes,
            "--process_id": process_id,
        }
        missing = [flag for flag, value in flags.items() if value is None]
        raise ConfigError(
            f"{' and '.join(missing)} missing; several processes need --coordinator=HOST:PORT, "
            "--num_processes and --process_id"
        )
    if not 0 <= process_id < num_processes:
        raise ConfigError(
            f"--process_id is {process_id}; allowed: 0 to {num_processes - 1}, below "
            "--num_processes"
        )
    if not coordinator.rpartition(":")[2].isdecimal():
        raise ConfigError(
            f"--coordinator is {coordinator!r}; allowed: HOST:PORT, such as node01:12345"
        )
    jax.distributed.initialize(
        coordinator,
        num_processes,
        process_id,
        heartbeat_timeout_seconds=_PEER_TIMEOUT_S,
        shutdown_timeout_seconds=_PEER_TIMEOUT_S,
    )


def leave(code: int) -> NoReturn:
    """End the process with exit code `code`.

    If one of several processes has failed, it ends without unwinding: at a normal exit it would
    wait for the others, and they would wait for it.
    """
    jax = sys.modules.get("jax")  # not imported after --help
    if (
        jax is not None
        and jax.distributed.is_initialized()
        and code not in (DONE, HUNG_UP, INTERRUPTED, TERMINATED)
    ):
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        for child in multiprocessing.active_children():
            child.kill()
        os._exit(code)
    sys.exit(code)
