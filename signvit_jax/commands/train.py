"""Trains a translator, or goes on with a run that was stopped.

The workdir gets config.json, tokenizer.json, checkpoints/, metrics.csv, metrics.png, TensorBoard events, samples/ and run.log.
The same command on the same workdir resumes from the newest good checkpoint.
SIGINT, SIGTERM, SIGUSR1 and SIGHUP (a closed terminal) save and end; a second signal ends at once, but for SIGHUP.
Several processes, one a host or a GPU, train together: under srun they find each other, elsewhere give each --coordinator, --num_processes and
--process_id.
Exit codes: 0 done, 1 failed, 2 wrong config or data set, 5 out of memory, 129, 130 and 143 on signals.
"""

import argparse
import contextlib
import logging
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from signvit_jax.cli.common import (
    add_process_flags,
    join_processes,
    parse_with_config,
    parser,
    set_up_jax,
)
from signvit_jax.files.local_paths import local_path
from signvit_jax.runtime.exit_codes import HUNG_UP, INTERRUPTED, TERMINATED
from signvit_jax.runtime.streams import clean

if TYPE_CHECKING:
    from signvit_jax.telemetry.profiler import TracedSteps


def main(argv: Sequence[str] | None = None) -> int:
    flags = parser(
        __doc__,
        "python -m signvit_jax.train --config=configs/quickstart.py --workdir=runs/quickstart --config.training.batch_size=8",
    )
    return run_training(flags, argv, "signvit_jax.train")


def run_training(
    flags: argparse.ArgumentParser,
    argv: Sequence[str] | None,
    module: str,
) -> int:
    """Trains by the flags that every training command has, and says which command of `module` goes on with a run that was stopped."""
    flags.add_argument(
        "--workdir",
        required=True,
        type=local_path,
        help="folder of the run; made if it is not there",
    )
    flags.add_argument(
        "--strict_restore",
        action="store_true",
        help="end with an error where a damaged checkpoint would be left out",
    )
    flags.add_argument(
        "--requeue",
        action="store_true",
        help="in a Slurm job: when SIGUSR1 has stopped the run, save and put the job back into the queue",
    )
    flags.add_argument(
        "--profile",
        type=_traced_steps,
        metavar="STEPS",
        help="trace so many steps, such as 5, or steps 100:104, into the workdir's profile/",
    )
    add_process_flags(flags)
    arguments, config = parse_with_config(flags, argv)
    set_up_jax()
    join_processes(arguments)

    import jax

    from signvit_jax.runtime.malloc import (
        tune_malloc,
    )  # after the config has been checked: it takes seconds to load
    from signvit_jax.training.run import train

    tune_malloc()
    code = train(
        config,
        arguments.workdir,
        strict_restore=arguments.strict_restore,
        requeue=arguments.requeue,
        profile=arguments.profile,
        teacher=vars(arguments).get("teacher"),  # a flag of signvit_jax.distill
    )
    if code in (HUNG_UP, INTERRUPTED, TERMINATED) and jax.process_index() == 0:
        again = shlex.join(["python", "-m", module, *(sys.argv[1:] if argv is None else argv)])
        with contextlib.suppress(OSError):  # a terminal that was closed takes nothing
            print(
                clean(f"stopped and saved; to go on:\n  {again}", keep="\n"),
                file=sys.stderr,
                flush=True,
            )
    return code


def _traced_steps(text: str) -> "TracedSteps":
    from signvit_jax.telemetry.profiler import (
        TracedSteps,
    )  # it loads JAX, which --help does without

    return TracedSteps.parse(text)


def run_log() -> Path | None:
    """The run's log file, once there is one."""
    files = [
        Path(handler.baseFilename)
        for handler in logging.getLogger().handlers
        if isinstance(handler, logging.FileHandler)
    ]
    return files[0] if files else None
