"""What the commands share: flags, `--config.group.key=value` overrides, and one-time settings of JAX."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

import jax
from absl import flags

from signvit_jax.config import Config, ConfigError
from signvit_jax.config_file import load_config


def parser(description: str, example: str) -> argparse.ArgumentParser:
    """An argument parser that shows the docstring as it stands and an example at its end; wrong usage ends with exit code 2."""
    return argparse.ArgumentParser(
        description=description, epilog=f"example:\n  {example}", formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )


def parse_with_config(flag_parser: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> tuple[argparse.Namespace, Config]:
    """Flags and the config of `--config=FILE.py` with its overrides applied. Raises ConfigError for a config that cannot be run."""
    flag_parser.add_argument(
        "--config", required=True, metavar="FILE.py", help="a config file; --config.training.batch_size=8 overrides one of its values"
    )
    arguments, rest = flag_parser.parse_known_args(argv)
    overrides = _overrides(rest, flag_parser)
    return arguments, load_config(arguments.config, overrides)


def _overrides(rest: Sequence[str], flag_parser: argparse.ArgumentParser) -> list[tuple[str, str]]:
    pairs, pending = [], list(rest)
    while pending:
        flag, has_value, value = pending.pop(0).partition("=")
        if not flag.startswith("--config."):
            flag_parser.error(f"unknown argument {flag!r}; values of the config are set as --config.group.key=value")
        if not has_value:
            if not pending:
                raise ConfigError(f"{flag} needs a value, as in {flag}=VALUE")
            value = pending.pop(0)
        pairs.append((flag.removeprefix("--config."), value))
    return pairs


def set_up_jax() -> None:
    """Settings that every command wants before the first computation: compiled programs are kept from run to run.

    `JAX_COMPILATION_CACHE_DIR` chooses where; the default is the user's cache folder.
    """
    flags.FLAGS.mark_as_parsed()  # Grain's reading processes ask absl, although no absl flag is used here
    folder = os.environ.get("JAX_COMPILATION_CACHE_DIR") or str(
        Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "signvit_jax" / "jax"
    )
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
