"""The results of a sweep: `signvit sweep status`, `best` and `export`."""

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from signvit_jax.files.local_paths import local_path
from signvit_jax.runtime.command_line import FlagParser, parser
from signvit_jax.runtime.exit_codes import DONE, UsageError
from signvit_jax.runtime.standard_streams import clean

if TYPE_CHECKING:
    from signvit_jax.sweep.trial_files import Sweep


def sweep_parser(action: str, description: str, example: str) -> FlagParser:
    """The parser of an action, with --sweep."""
    flags = parser(description, example)
    flags.prog = f"{flags.prog} {action}"
    flags.num_command_words = 3
    flags.add_argument(
        "--sweep", required=True, type=local_path, help="folder of the sweep, shared by its workers"
    )
    return flags


def open_sweep(arguments: argparse.Namespace) -> "Sweep":
    """The sweep of --sweep. Raises SweepError."""
    from signvit_jax.sweep.trial_files import Sweep

    return Sweep.open(arguments.sweep.absolute())


def write_page(sweep: "Sweep") -> None:
    """Write sweep.html. Raises OSError."""
    from signvit_jax.files.atomic import write_atomically
    from signvit_jax.sweep.leases import server_time
    from signvit_jax.sweep.report import render

    write_atomically(sweep.page, render(sweep, sweep.read(server_time(sweep.folder))))


def _status(argv: Sequence[str]) -> int:
    flags = sweep_parser(
        "status",
        "Print the trials, best first, and write sweep.html.",
        "signvit sweep status --sweep=runs/sweep",
    )
    sweep = open_sweep(flags.parse_args(argv))

    from rich.table import Table

    from signvit_jax.runtime.terminal import print_table
    from signvit_jax.sweep.leases import server_time
    from signvit_jax.sweep.report import columns, ranked, row_of
    from signvit_jax.sweep.sampling import importance, seeds_verdict
    from signvit_jax.sweep.trial_files import best_of, seeds_of

    trials = sweep.read(server_time(sweep.folder))
    seeds = seeds_of(best_of(sweep.settings, trials), trials)
    table = Table(title=str(sweep.folder))
    for name in columns(sweep):
        table.add_column(name.removeprefix("training.").removeprefix("model."))
    for trial in ranked(sweep, trials):
        table.add_row(*(clean(cell) for cell in row_of(sweep, trial, seeds)))
    print_table(table)
    if shares := importance(sweep, trials):
        listed = ", ".join(f"{key} {share:.0%}" for key, share in shares.items())
        print(f"importance: {listed}")
    for trial in trials:
        if trial.reason and trial.state != "pruned":
            print(clean(f"trial {trial.number}: {trial.state}: {trial.reason}"))
    if verdict := seeds_verdict(sweep.settings, trials):
        print(verdict)
    write_page(sweep)
    print(f"written: {sweep.page}")
    return DONE


def _best(argv: Sequence[str]) -> int:
    from signvit_jax.sweep.report import WORKDIR, winning_command, winning_flags

    flags = sweep_parser(
        "best",
        "Print the best trial, whether its gain exceeds the spread of the seeds, and the command "
        "that trains it.",
        "signvit sweep best --sweep=runs/sweep --retrain",
    )
    flags.add_argument(
        "--retrain",
        action="store_true",
        help="then run that command; if it is stopped, the same `best --retrain` goes on",
    )
    flags.add_argument(
        "--print", action="store_true", help="only print the command, and nothing else"
    )
    flags.add_argument(
        "--workdir", type=local_path, default=WORKDIR, help=f"of that training ({WORKDIR})"
    )
    arguments = flags.parse_args(argv)
    sweep = open_sweep(arguments)

    from signvit_jax.sweep.leases import server_time
    from signvit_jax.sweep.sampling import seeds_verdict
    from signvit_jax.sweep.trial_files import best_of
    from signvit_jax.sweep.worker import TRAIN

    trials = sweep.read(server_time(sweep.folder))
    best = best_of(sweep.settings, trials)
    if best is None:
        raise UsageError(f"no trial of {sweep.folder} is complete yet; signvit sweep status")
    if not arguments.print:
        print(f"trial {best.number}: {sweep.settings.metric} {best.value:.4g}, in {best.folder}")
        if verdict := seeds_verdict(sweep.settings, trials):
            print(verdict)
    print(clean(winning_command(sweep, best, arguments.workdir)), flush=True)
    if arguments.print or not arguments.retrain:
        return DONE
    unfinished = [trial.number for trial in trials if not trial.is_finished]
    if unfinished:
        print(
            f"{len(unfinished)} trials are not finished, and one of them may be better",
            file=sys.stderr,
        )
    # In place of this process, so that signals and the exit code are those of the training.
    os.execv(TRAIN[0], [*TRAIN, *winning_flags(sweep, best, arguments.workdir)])


def _export(argv: Sequence[str]) -> int:
    flags = sweep_parser(
        "export",
        "Write the trials as they are now into a database, for optuna-dashboard and other programs "
        "that read Optuna's studies. Workers never read it.",
        "signvit sweep export --sweep=runs/sweep --storage=sqlite:///sweep.db",
    )
    flags.add_argument(
        "--storage",
        required=True,
        metavar="URL",
        help="of the database, as SQLAlchemy writes it: sqlite:///FILE, which must not exist yet, "
        "or one of a server",
    )
    flags.add_argument("--study", metavar="NAME", help="name of the study (the sweep's folder)")
    arguments = flags.parse_args(argv)
    sweep = open_sweep(arguments)

    from signvit_jax.sweep.leases import server_time
    from signvit_jax.sweep.optuna_storage import export_study

    name = arguments.study or sweep.folder.name
    trials = sweep.read(server_time(sweep.folder))
    for note in export_study(sweep, trials, arguments.storage, name):
        print(clean(note), file=sys.stderr)
    print(clean(f"written: {len(trials)} trials, as the study {name}"))
    if "@" not in arguments.storage:  # no password
        print(clean(f"to look at it: optuna-dashboard {shlex.quote(arguments.storage)}"))
    return DONE


ACTIONS: dict[str, Callable[[Sequence[str]], int]] = {
    "status": _status,
    "best": _best,
    "export": _export,
}
