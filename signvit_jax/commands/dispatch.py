"""Translate signed video into text, and train the models that do.

signvit COMMAND --help      what a command does and its options
signvit configs             the presets that --config=NAME takes
signvit --version
"""

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import NamedTuple

from signvit_jax import __version__
from signvit_jax.errors.nearest import did_you_mean
from signvit_jax.runtime import completion
from signvit_jax.runtime.exit_codes import DONE, USAGE, run_command
from signvit_jax.runtime.standard_streams import clean


class Command(NamedTuple):
    """A function (argv) -> exit code in a module, and one line about it."""

    module: str
    about: str
    function: str = "main"

    def load(self) -> tuple[ModuleType, Callable[[Sequence[str]], int]]:
        """Import the module; return it and the function."""
        module = importlib.import_module(self.module)
        return module, getattr(module, self.function)


COMMANDS = {
    "demo": Command("signvit_jax.demo.command", "translate packaged clips with a packaged model"),
    "record": Command("signvit_jax.commands.record", "record takes of your own signs"),
    "build": Command("tfds_builders.build", "make a data set of videos and their texts"),
    "check": Command("tfds_builders.check", "say what a build would make of your data"),
    "data_report": Command("signvit_jax.commands.data_report", "show what a data set holds"),
    "train": Command("signvit_jax.commands.train", "train a model, or resume a run"),
    "eval": Command("signvit_jax.commands.eval", "score a model on a split, with a report"),
    "compare": Command("signvit_jax.comparing.command", "compare models on the same clips"),
    "translate": Command("signvit_jax.commands.translate", "translate videos; subtitles"),
    "serve": Command("signvit_jax.web.command", "a local page and API: videos, camera"),
    "live": Command("signvit_jax.live.command", "caption a camera or a file, live"),
    "export": Command("signvit_jax.commands.export", "write a model in a smaller or portable form"),
    "distill": Command(
        "signvit_jax.commands.distill", "train a small model with a large one's help"
    ),
    "convert": Command("signvit_jax.commands.convert", "start from weights trained elsewhere"),
    "inspect": Command("signvit_jax.commands.inspect_config", "show what a config would train"),
    "sweep": Command("signvit_jax.sweep.command", "search for config values that train better"),
    "pull": Command("signvit_jax.commands.sharing", "copy an export from a model hub", "pull_main"),
    "push": Command("signvit_jax.commands.sharing", "send an export to a model hub", "push_main"),
    "doctor": Command(
        "signvit_jax.doctor.command", "say what is wrong with this machine and its set-up"
    ),
    "configs": Command("signvit_jax.commands.configs", "list the presets, or show one"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run `signvit COMMAND ...` and return its exit code.

    A command's module is imported when it is asked for: listing commands waits for none of them.
    """
    if completion.is_asked():
        return run_command(_complete)
    name, *rest = [*(sys.argv[1:] if argv is None else argv)] or ["--help"]
    if name in ("-h", "--help", "help"):
        return run_command(_print_help)
    if name == "--version":
        return run_command(lambda: print(f"signvit-jax {__version__}"))
    name = name.replace("-", "_") if name.replace("-", "_") in COMMANDS else name
    if name not in COMMANDS:
        return run_command(lambda: _refuse(name))
    sys.argv[0] = f"signvit {name}"  # what a command's help calls itself
    module, run = COMMANDS[name].load()
    code = run_command(lambda: run(rest), getattr(module, "run_log", lambda: None))
    if name in ("train", "distill"):
        from signvit_jax.cli.processes import leave

        leave(code)
    return code


def _complete() -> int:
    """Complete the name of a command, or let its parser complete what follows the name."""
    # The "" is the command's name if no word is complete yet.
    name, *rest = [*completion.typed_words()[1:], ""]
    if not rest:
        parser = argparse.ArgumentParser()
        parser.add_argument("command", choices=list(COMMANDS))
        parser.add_argument("--version", action="store_true")
        completion.complete(parser, first=1)  # ends the process
    command = COMMANDS.get(name.replace("-", "_"))
    if command is None:
        return USAGE
    _, run = command.load()
    return run(rest[:-1])  # the command's parser completes and ends the process: nothing is run


def _print_help() -> int:
    width = max(map(len, COMMANDS))
    commands = "\n".join(f"  {name:{width}}  {command.about}" for name, command in COMMANDS.items())
    print(f"usage: signvit COMMAND [options]\n\n{__doc__}\ncommands:\n{commands}")
    return DONE


def _refuse(name: str) -> int:
    allowed = f"{', '.join(COMMANDS)}{did_you_mean(name, COMMANDS)}"
    print(f"error: no command {clean(name)!r}; allowed: {allowed}", file=sys.stderr)
    return USAGE
