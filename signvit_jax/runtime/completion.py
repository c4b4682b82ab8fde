"""Completion of a command line that is being typed in a shell, by the package argcomplete.

At a press of the tab key the shell runs the program with `_ARGCOMPLETE`, `COMP_LINE` and
`COMP_POINT` in the environment, and shows what the program writes to a separate pipe.
"""

import argparse
import os
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import NoReturn

from signvit_jax.runtime.exit_codes import UsageError
from signvit_jax.runtime.optional_deps import import_optional


def is_asked() -> bool:
    """Return True if a shell asks for completions: no command runs then."""
    return "_ARGCOMPLETE" in os.environ


def typed_words() -> list[str]:
    """Return the complete words in front of the cursor. Raises UsageError without argcomplete."""
    line, cursor = os.environ["COMP_LINE"], int(os.environ["COMP_POINT"])
    return _import("argcomplete.lexers").split_line(line, cursor)[3]


def complete(parser: argparse.ArgumentParser, first: int) -> NoReturn:
    """Write what can follow, and end the process. Raises UsageError without argcomplete.

    The parser parses the words that come after the first `first` ones.
    """
    os.environ["_ARGCOMPLETE"] = str(first)
    _import("argcomplete").autocomplete(parser)
    raise AssertionError("argcomplete ends the process")


def offer(action: argparse.Action, names: Callable[[], Iterable[str]]) -> None:
    """Let the value of a flag be completed to one of these names or to a file."""

    def completions(prefix: str, **_: object) -> list[str]:
        files = _import("argcomplete.completers").FilesCompleter()(prefix)
        return [*(name for name in names() if name.startswith(prefix)), *files]

    vars(action)["completer"] = completions  # where argcomplete looks for it


def _import(module: str) -> ModuleType:
    return import_optional(module, "completion in a shell", UsageError)
