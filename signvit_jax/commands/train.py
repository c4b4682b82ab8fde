"""Train a translator, or resume a run that was stopped.

The workdir gets config.json, tokenizer.json, checkpoints/, metrics.csv, metrics.png, TensorBoard
events, samples/ and run.log. The same command on the same workdir resumes from the newest undamaged
checkpoint. SIGINT, SIGTERM, SIGUSR1 and SIGHUP (a closed terminal) save and stop the run; a second
signal stops it without saving, except SIGHUP.
Several processes, one per host or per GPU, train together: under srun they find each other,
elsewhere each needs --coordinator, --num_processes and --process_id.
Exit codes: 0 done, 1 failed, 2 wrong config or data set, 5 out of memory, 129, 130 and 143 on
signals.
"""

import contextlib
import logging
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from signvit_jax.cli.config_flags import parse_with_config
from signvit_jax.cli.jax_setup import set_up_jax
from signvit_jax.cli.processes import add_process_flags, join_processes
from signvit_jax.files.local_paths import local_path
from signvit_jax.runtime.command_line import FlagParser, parser, program_name
from signvit_jax.runtime.exit_codes import HUNG_UP, INTERRUPTED, TERMINATED
from signvit_jax.runtime.standard_streams import clean

if TYPE_CHECKING:
    from signvit_jax.telemetry.profiler import TracedSteps


def main(argv: Sequence[str] | None = None) -> int:
    flags = parser(
        __doc__,
        "signvit train --config=quickstart --workdir=runs/quickstart "
        "--config.training.batch_size=8",
    )
    return run_training(flags, argv, "signvit_jax.train")


def run_training(
    flags: FlagParser,
    argv: Sequence[str] | None,
    module: str,
) -> int:
    """Train with the flags that all training commands share; return the exit code.

    `module` is the command's module, such as signvit_jax.train. If a signal stops the run, the
    command line that resumes it is printed.
    """
    _add_run_flags(flags)
    add_process_flags(flags)
    arguments, config = parse_with_config(flags, argv)
    trackers = ()
    if arguments.tracker:
        from signvit_jax.telemetry.trackers import tracker_names

        trackers = tracker_names(arguments.tracker)
    set_up_jax()
    join_processes(arguments)

    # After the config has been checked: these imports take seconds.
    import jax

    from signvit_jax.runtime.malloc import tune_malloc
    from signvit_jax.training.run import train

    tune_malloc()
    code = train(
        config,
        arguments.workdir,
        strict_restore=arguments.strict_restore,
        requeue=arguments.requeue,
        profile=arguments.profile,
        teacher=vars(arguments).get("teacher"),  # a flag of signvit_jax.distill
        trackers=trackers,
    )
    if code in (HUNG_UP, INTERRUPTED, TERMINATED) and jax.process_index() == 0:
        _print_resume_command(module, sys.argv[1:] if argv is None else argv)
    return code


def _add_run_flags(flags: FlagParser) -> None:
    flags.add_argument(
        "--workdir",
        required=True,
        type=local_path,
        help="folder of the run; created if it does not exist",
    )
    flags.add_argument(
        "--strict_restore",
        action="store_true",
        help="fail where a damaged checkpoint would be skipped",
    )
    flags.add_argument(
        "--requeue",
        action="store_true",
        help="in a Slurm job: after SIGUSR1, save and requeue the job",
    )
    flags.add_argument(
        "--profile",
        type=_traced_steps,
        metavar="STEPS",
        help="profile a number of steps, such as 5, or a range, such as 100:104, into profile/ of "
        "the workdir",
    )
    flags.add_argument(
        "--tracker",
        default="",
        metavar="NAME",
        help="also send metrics and config to wandb, mlflow or trackio; several with commas "
        "between (none)",
    )


def _print_resume_command(module: str, argv: Sequence[str]) -> None:
    command = f"{program_name(module)} {shlex.join(argv)}"
    with contextlib.suppress(OSError):  # a closed terminal takes no output
        print(
            clean(f"stopped and saved; to resume:\n  {command}", keep="\n"),
            file=sys.stderr,
            flush=True,
        )


def _traced_steps(text: str) -> "TracedSteps":
    from signvit_jax.telemetry.profiler import TracedSteps  # imports JAX, which --help does without

    return TracedSteps.parse(text)


def run_log() -> Path | None:
    """The run's log file; None before the run has opened it."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler):
            return Path(handler.baseFilename)
    return None
