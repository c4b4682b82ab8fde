"""Search for config values that train better: many runs, on as many machines as you have.

signvit sweep run      begin a sweep, or go on with it
signvit sweep work     one more worker for it, on any host that shares the folder
signvit sweep status   a table of the trials, and the page sweep.html
signvit sweep best     the best trial, and the command that trains it; --retrain runs it
signvit sweep resume   resume a pruned trial, and train it to its end
signvit sweep export   a database for optuna-dashboard and its like

A trial is a workdir that `signvit train` trains in a separate process. The first one leaves the
config untouched; at the end the best one is repeated with other seeds, and the table says whether
its gain exceeds their spread. Workers may be killed at any time: their trials are resumed from
their checkpoints. Needs Optuna (the extra `sweep`).
Exit codes: 0 done, 1 trials keep failing, 2 wrong usage, 129, 130 and 143 on signals.
"""

import argparse
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from signvit_jax.checkpoints.best import HIGHER_IS_BETTER
from signvit_jax.cli.config_flags import parse_with_config
from signvit_jax.config.schema import Config
from signvit_jax.errors.nearest import did_you_mean
from signvit_jax.files.local_paths import local_path
from signvit_jax.runtime import completion
from signvit_jax.runtime.command_line import FlagParser, integer, parser, positive
from signvit_jax.runtime.exit_codes import DONE, UsageError
from signvit_jax.runtime.standard_streams import CleanFormatter, clean
from signvit_jax.sweep import results_commands
from signvit_jax.sweep.results_commands import open_sweep, sweep_parser

if TYPE_CHECKING:
    from signvit_jax.sweep.trial_files import Sweep

ACTIONS = ("run", "work", "status", "best", "resume", "export")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one of the actions; return the exit code."""
    action, *rest = [*(sys.argv[1:] if argv is None else argv)] or [""]
    if completion.is_asked() and action not in ACTIONS:
        choices = argparse.ArgumentParser()
        choices.add_argument("action", choices=ACTIONS)
        completion.complete(choices, first=2)
    if action in ("", "-h", "--help"):
        parser(__doc__, "signvit sweep run --help").parse_args(["--help"])
    if action not in ACTIONS:
        if action.startswith("-"):
            flag = action.partition("=")[0]
            raise UsageError(
                f"unknown argument {flag} before an action; give one first: {', '.join(ACTIONS)}"
            )
        allowed = f"{', '.join(ACTIONS)}{did_you_mean(action, ACTIONS)}"
        raise UsageError(f"signvit sweep {action}: no such action; allowed: {allowed}")
    actions = {"run": _run, "work": _work, "resume": _resume}
    return (actions | results_commands.ACTIONS)[action](rest)


def _run(argv: Sequence[str]) -> int:
    flags = sweep_parser(
        "run",
        "Begin a sweep with one or more workers here, or go on with one that was stopped.\n\n"
        "Values are a,b,c (choices), LOW:HIGH, LOW:HIGH:STEP or log:LOW:HIGH.",
        "signvit sweep run --sweep=runs/sweep --config=small "
        "--search.training.encoder_lr=log:1e-4:3e-3 --search.model.temporal.kernel_size=3,5,7",
    )
    _add_run_flags(flags)
    arguments, config = parse_with_config(flags, [_as_flag(argument) for argument in argv])
    _show_log()
    sweep = _begin(arguments, config, argv)
    return _work_here(sweep, arguments.workers, arguments.devices_per_trial)


def _add_run_flags(flags: FlagParser) -> None:
    flags.add_argument(
        "--search",
        action="append",
        default=[],
        metavar="KEY=VALUES",
        help="a config key to search, also written --search.KEY=VALUES; several times",
    )
    flags.add_argument(
        "--space",
        type=local_path,
        metavar="FILE.py",
        help="Python file with get_space(), which returns a dict of keys to values",
    )
    flags.add_argument("--trials", type=integer(1), default=40, help="trials at most (40)")
    flags.add_argument(
        "--metric",
        choices=tuple(HIGHER_IS_BETTER),
        help="metric of the validation by which trials are compared (config.training.best_metric)",
    )
    flags.add_argument(
        "--sampler",
        default="tpe",
        metavar="NAME",
        help="what to try next, by Optuna: tpe, qmc, random or grid (tpe)",
    )
    flags.add_argument(
        "--pruner",
        default="median",
        metavar="NAME",
        help="what to stop early, by Optuna: median or quartile of the others after as many clips, "
        "percentile:SHARE, threshold:VALUE, patient:VALIDATIONS, successive_halving, hyperband or "
        "none (median)",
    )
    flags.add_argument(
        "--prune_after",
        type=integer(1),
        default=1,
        metavar="N",
        help="validations of a trial before it can be stopped (1)",
    )
    flags.add_argument(
        "--seeds", type=integer(0), default=3, help="repetitions of the best at the end (3)"
    )
    flags.add_argument("--seed", type=integer(0), default=0, help="seed of the search (0)")
    flags.add_argument("--hours", type=positive("hours"), help="begin no trial after this time")
    flags.add_argument(
        "--stop_if_no_better",
        type=integer(1),
        metavar="N",
        help="begin no trial after N without a better one",
    )
    flags.add_argument(
        "--keep",
        choices=("best", "all"),
        default="best",
        help="checkpoints of the best trial and its seeds alone, or of all (best); metrics.csv and "
        "config.json of all stay",
    )
    flags.add_argument(
        "--attempts",
        type=integer(1),
        default=3,
        help="attempts without a further step, after which a trial has failed (3)",
    )
    flags.add_argument(
        "--lease",
        type=positive("seconds"),
        default=600.0,
        metavar="SECONDS",
        help="silence of a worker after which another one takes over its trial (600)",
    )
    flags.add_argument(
        "--workers",
        type=integer(1),
        default=1,
        help="workers here, which share the cores (1); more elsewhere: signvit sweep work",
    )
    flags.add_argument(
        "--devices_per_trial",
        type=integer(1),
        metavar="K",
        help="with --workers: GPUs of each worker, by CUDA_VISIBLE_DEVICES",
    )


def _as_flag(argument: str) -> str:
    """`--search.KEY=VALUES` as `--search=KEY=VALUES`."""
    if argument.startswith("--search."):
        return f"--search={argument.removeprefix('--search.')}"
    return argument


def _begin(arguments: argparse.Namespace, config: Config, argv: Sequence[str]) -> "Sweep":
    """Check the space and the settings, and write them. Raises UsageError, ConfigError."""
    from signvit_jax.sweep.leases import server_time
    from signvit_jax.sweep.pruning import pruner_of
    from signvit_jax.sweep.sampling import check_sampler
    from signvit_jax.sweep.space import (
        MOST_CORNERS,
        check_space,
        dimension_of,
        space_of_file,
        with_absolute_paths,
    )
    from signvit_jax.sweep.trial_files import Settings, Sweep

    searched: dict[str, object] = space_of_file(arguments.space) if arguments.space else {}
    for text in arguments.search:
        key, has_values, values = text.partition("=")
        if not has_values:
            raise UsageError(f"--search={text}: give --search.KEY=VALUES")
        searched[key] = values
    if not searched:
        raise UsageError("nothing to search: give --search.KEY=VALUES or --space=FILE.py")
    config = with_absolute_paths(config)
    space = tuple(dimension_of(key, values, config) for key, values in searched.items())
    settings = Settings(
        config=arguments.config,
        overrides=_overrides(argv),
        space=space,
        metric=arguments.metric or config.training.best_metric,
        trials=arguments.trials,
        seeds=arguments.seeds,
        sampler=arguments.sampler,
        pruner=arguments.pruner,
        prune_after=arguments.prune_after,
        seed=arguments.seed,
        lease_seconds=arguments.lease,
        attempts=arguments.attempts,
        hours=arguments.hours or 0.0,
        patience=arguments.stop_if_no_better or 0,
        keep=arguments.keep,
    )
    check_sampler(settings)
    pruner_of(settings.pruner)
    corners, refused, reason = check_space(config, space)
    if refused:
        print(
            clean(
                f"{refused} of {corners} corners of the space are refused, such as: {reason}\n"
                "trials with such values will be recorded as invalid"
            ),
            file=sys.stderr,
        )
    if corners == MOST_CORNERS:
        print(f"only {MOST_CORNERS} corners of the space were checked", file=sys.stderr)
    if settings.metric != config.training.best_metric:
        print(
            f"the sweep compares {settings.metric}, but each run keeps the checkpoint with the "
            f"best {config.training.best_metric} (config.training.best_metric)",
            file=sys.stderr,
        )
    sweep = Sweep.create(arguments.sweep.absolute(), settings, config)
    if again := sweep.retry_failed(server_time(sweep.folder)):
        listed = ", ".join(map(str, again))
        print(f"trials that failed and are tried again: {listed}", file=sys.stderr)
    return sweep


def _overrides(argv: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """The overrides of the config on the command line."""
    overrides, pending = [], list(argv)
    while pending:
        flag, has_value, value = pending.pop(0).partition("=")
        if flag.startswith("--config."):
            key = flag.removeprefix("--config.")
            overrides.append((key, value if has_value else pending.pop(0)))
    return tuple(overrides)


def _work_here(sweep: "Sweep", workers: int, devices: int | None) -> int:
    """Work in this process, or in several that share the cores and the GPUs."""
    from signvit_jax.sweep.worker import Worker, end_message

    if workers == 1 and devices is None:
        code = Worker(sweep).run()
    else:
        code = _run_workers(sweep.folder, workers, devices)
    results_commands.write_page(sweep)
    if code == DONE:
        print(clean(end_message(sweep), keep="\n"))
    print(f"{sweep.page} has the curves; signvit sweep best --sweep={sweep.folder}")
    return code


def _run_workers(folder: Path, workers: int, devices: int | None) -> int:
    """Start each worker in a separate process and wait for all; return the exit code.

    `devices`: GPUs of each worker; None: they share all.
    """
    cores = sorted(os.sched_getaffinity(0))
    share = max(len(cores) // workers, 1)
    processes = []
    for i in range(workers):
        environment = dict(os.environ)
        if devices is not None:
            environment["CUDA_VISIBLE_DEVICES"] = _devices_of(i, devices)
        process = subprocess.Popen(
            [sys.executable, "-m", "signvit_jax", "sweep", "work", f"--sweep={folder}"],
            env=environment,
        )
        os.sched_setaffinity(process.pid, set(cores[i * share % len(cores) :][:share]))
        processes.append(process)

    def forward(number: int, frame: object) -> None:
        del frame
        for process in processes:
            if process.poll() is None:
                process.send_signal(number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, forward)
    codes = [process.wait() for process in processes]
    # A killed worker (a negative code) is no failure of the sweep: the others did its trials.
    failures = [code for code in codes if code > 0]
    return failures[0] if failures else DONE


def _devices_of(worker: int, count: int) -> str:
    """The worker's share of the visible GPUs. Raises UsageError if there are too few."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    listed = visible.split(",") if visible else [str(i) for i in range(_gpus())]
    gpus_of_worker = listed[worker * count :][:count]
    if len(gpus_of_worker) < count:
        raise UsageError(
            f"--workers and --devices_per_trial={count} ask for more GPUs than the {len(listed)} "
            "that are visible"
        )
    return ",".join(gpus_of_worker)


def _gpus() -> int:
    return len([*Path("/dev").glob("nvidia[0-9]*")])


def _work(argv: Sequence[str]) -> int:
    flags = sweep_parser(
        "work",
        "Work on a sweep that `signvit sweep run` has begun, until it is finished.",
        "sbatch --array=0-15 --wrap='signvit sweep work --sweep=runs/sweep'",
    )
    sweep = open_sweep(flags.parse_args(argv))
    _show_log()

    from signvit_jax.sweep.worker import Worker

    return Worker(sweep).run()


def _resume(argv: Sequence[str]) -> int:
    flags = sweep_parser(
        "resume",
        "Take up pruned trials again, and work on the sweep until it is finished.\n\n"
        "They go on from their checkpoints, which a sweep keeps with --keep=all, and are not "
        "pruned once more. If you stop this, the next `signvit sweep work` goes on.",
        "signvit sweep resume --sweep=runs/sweep --trial=7",
    )
    flags.add_argument(
        "--trial",
        required=True,
        action="append",
        type=integer(0),
        metavar="N",
        help="number of the trial; several times",
    )
    arguments = flags.parse_args(argv)
    sweep = open_sweep(arguments)
    _show_log()

    from signvit_jax.sweep.leases import server_time

    sweep.take_up_pruned(arguments.trial, server_time(sweep.folder))
    return _work_here(sweep, 1, None)


def _show_log() -> None:
    """Show the messages of the sweep on standard error, with times."""
    handler = logging.StreamHandler()
    handler.setFormatter(CleanFormatter("%(asctime)s %(process)d %(message)s", datefmt="%H:%M:%S"))
    logger = logging.getLogger("signvit_jax.sweep")
    logger.handlers[:] = [handler]
    logger.setLevel(logging.INFO)
