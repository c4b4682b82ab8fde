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

    names = ("coordinator", "num_processes", "process_id")
    given = {name: getattr(arguments, name) for name in names}
    timeouts = {
        "heartbeat_timeout_seconds": _PEER_TIMEOUT_S,
        "shutdown_timeout_seconds": _PEER_TIMEOUT_S,
    }
    if all(value is None for value in given.values()):
        if int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
            jax.distributed.initialize(**timeouts)
        return
    if given["process_id"] is None and os.environ.get("JOB_COMPLETION_INDEX", "").isdecimal():
        given["process_id"] = int(os.environ["JOB_COMPLETION_INDEX"])
    missing = [f"--{name}" for name, value in given.items() if value is None]
    if missing:
        raise ConfigError(
            f"{' and '.join(missing)} missing; several processes need --coordinator=HOST:PORT, "
            "--num_processes and --process_id"
        )
    if not 0 <= given["process_id"] < given["num_processes"]:
        raise ConfigError(
            f"--process_id is {given['process_id']}; "
            f"allowed: 0 to {given['num_processes'] - 1}, below --num_processes"
        )
    if not given["coordinator"].rpartition(":")[2].isdecimal():
        raise ConfigError(
            f"--coordinator is {given['coordinator']!r}; allowed: HOST:PORT, such as node01:12345"
        )
    jax.distributed.initialize(
        given["coordinator"], given["num_processes"], given["process_id"], **timeouts
    )


def leave(code: int) -> NoReturn:
    """End the process with its exit code.

    One of several processes that has failed ends without unwinding: at a normal exit it would wait
    for the others, and they for it.
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
