"""The argument parser of every command, types of its flags, and the name of the command."""

import argparse
import math
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn, overload

from signvit_jax.errors.nearest import unexpected_argument, unknown_flag
from signvit_jax.runtime import completion
from signvit_jax.runtime.standard_streams import clean

_FLAG = re.compile(r"--?[A-Za-z][^ ]*")  # not a negative number, and not a file name with a space
_OVERRIDES = "; values of the config are set as --config.group.key=value"


def program_name(module: str = "") -> str:
    """Return `signvit NAME`, or `python -m MODULE` where the user did not go through `signvit`.

    `module` is that of the command; without it, the module or script that Python was started with.
    """
    name = sys.argv[0]
    if name.startswith("signvit "):  # set by `commands.dispatch`
        return name
    spec = sys.modules["__main__"].__spec__
    module = module or (spec.name.removesuffix(".__main__") if spec else "")
    return f"python -m {module}" if module else Path(name).name


def parser(description: str | None, example: str) -> "FlagParser":
    """A parser whose help is the module's docstring, the flags, and one example."""
    return FlagParser(
        prog=program_name(),
        description=description,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


class FlagParser(argparse.ArgumentParser):
    """An argument parser that answers an unknown flag with the nearest one it has.

    Wrong usage ends the process with exit code 2. `config_keys` are dotted keys that can be set as
    `--config.key=value`; a parser without a config has none. `num_command_words` are the words in
    front of the flags, such as `signvit train`.
    """

    config_keys: Sequence[str] = ()
    num_command_words = 2
    _completes = False

    # The overloads of argparse, which pyright compares with these.
    @overload
    def parse_known_args(
        self, args: Iterable[str] | None = None, namespace: None = None
    ) -> tuple[argparse.Namespace, list[str]]: ...

    @overload
    def parse_known_args[Space](
        self, args: Iterable[str] | None, namespace: Space
    ) -> tuple[Space, list[str]]: ...

    @overload
    def parse_known_args[Space](self, *, namespace: Space) -> tuple[Space, list[str]]: ...

    def parse_known_args(
        self, args: Iterable[str] | None = None, namespace: object = None
    ) -> tuple[object, list[str]]:
        arguments = list(sys.argv[1:] if args is None else args)
        if self._completes:  # argcomplete parses what has been typed so far
            return super().parse_known_args(arguments, namespace)
        if completion.is_asked():
            self._complete()
        # Before argparse's own checks: for a misspelled --config they report a missing --config.
        if not {"-h", "--help"} & set(arguments):
            self._refuse_unknown_flags(arguments)
        return super().parse_known_args(arguments, namespace)

    @overload
    def parse_args(
        self, args: Iterable[str] | None = None, namespace: None = None
    ) -> argparse.Namespace: ...

    @overload
    def parse_args[Space](self, args: Iterable[str] | None, namespace: Space) -> Space: ...

    @overload
    def parse_args[Space](self, *, namespace: Space) -> Space: ...

    def parse_args(self, args: Iterable[str] | None = None, namespace: object = None) -> object:
        values, rest = self.parse_known_args(args, namespace)
        if rest:
            self.error(unexpected_argument(rest[0]))
        return values

    def error(self, message: str) -> NoReturn:
        super().error(clean(message, keep="\n"))

    def _complete(self) -> NoReturn:
        """Complete the flags of a command of `signvit`, and overrides of the config."""
        self._completes = True
        for key in self.config_keys:
            self.add_argument(f"--config.{key}")
        completion.complete(self, first=self.num_command_words)

    def _refuse_unknown_flags(self, arguments: Sequence[str]) -> None:
        pending, unknown = list(arguments), []
        while pending and (argument := pending.pop(0)) != "--":
            flag, has_value, _ = argument.partition("=")
            if self.config_keys and flag.startswith("--config."):
                if not has_value and pending:
                    pending.pop(0)
            elif _FLAG.fullmatch(argument) and not self._has(argument):
                unknown.append(flag)
        if unknown:
            known, otherwise = self._candidates(), _OVERRIDES if self.config_keys else ""
            self.error("\n".join(unknown_flag(flag, known, otherwise) for flag in unknown))

    def _has(self, argument: str) -> bool:
        flag = argument.partition("=")[0]
        is_short = not argument.startswith("--")
        options = self._option_string_actions
        return argument in options or flag in options or (is_short and argument[:2] in options)

    def _candidates(self) -> Mapping[str, list[str]]:
        """What a flag can stand for: flags as they are, and config keys by their last part."""
        candidates: dict[str, list[str]] = {}
        for key in self.config_keys:
            candidates.setdefault(f"--{key.split('.')[-1]}", []).append(f"--config.{key}")
        options = [option for option in self._option_string_actions if option.startswith("--")]
        return candidates | {option: [option] for option in options}


def integer(least: int) -> Callable[[str], int]:
    """The type of a flag that takes an integer from `least` up."""

    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r}; allowed: an integer >= {least}")
        return int(text)

    return read


def positive(what: str = "a number") -> Callable[[str], float]:
    """The type of a flag that takes a finite number > 0; `what` names it in the error."""

    def read(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not 0 < number < math.inf:
            raise argparse.ArgumentTypeError(f"{text!r}; allowed: {what} > 0")
        return number

    return read
