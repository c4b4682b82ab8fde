"""`--config=FILE.py` and the overrides `--config.group.key=value` of a command."""

import argparse
from collections.abc import Sequence

from signvit_jax.config.errors import ConfigError
from signvit_jax.config.files import load_config
from signvit_jax.config.presets import preset_names
from signvit_jax.config.schema import Config
from signvit_jax.config.typed_sections import flat_defaults
from signvit_jax.errors.nearest import unexpected_argument
from signvit_jax.runtime.command_line import FlagParser
from signvit_jax.runtime.completion import offer

_CONFIG_HELP = "config file; --config.training.batch_size=8 overrides one of its values"


def parse_with_config(
    flag_parser: FlagParser, argv: Sequence[str] | None = None
) -> tuple[argparse.Namespace, Config]:
    """Return the flags, and the config of `--config=FILE.py` with its overrides applied.

    Raises ConfigError for a config that cannot be run.
    """
    arguments, overrides = _parse(flag_parser, argv, required=True)
    return arguments, load_config(arguments.config, overrides)


def parse_with_optional_config(
    flag_parser: FlagParser, argv: Sequence[str] | None = None
) -> tuple[argparse.Namespace, Config | None]:
    """`parse_with_config` for a command that needs no config: None if none is given."""
    arguments, overrides = _parse(flag_parser, argv, required=False)
    if arguments.config:
        return arguments, load_config(arguments.config, overrides)
    if overrides:
        raise ConfigError(
            f"--config.{overrides[0][0]} overrides a value of a config file; "
            "give the file with --config=FILE.py"
        )
    return arguments, None


def _parse(
    flag_parser: FlagParser, argv: Sequence[str] | None, *, required: bool
) -> tuple[argparse.Namespace, list[tuple[str, str]]]:
    """Flags and the (key, text) of every override."""
    flag_parser.config_keys = list(flat_defaults(Config))
    config = flag_parser.add_argument(
        "--config", required=required, metavar="FILE.py", help=_CONFIG_HELP
    )
    offer(config, preset_names)
    arguments, rest = flag_parser.parse_known_args(argv)
    pairs, pending = [], list(rest)
    while pending:
        flag, has_value, value = pending.pop(0).partition("=")
        if not flag.startswith("--config."):
            flag_parser.error(unexpected_argument(flag))
        if not has_value:
            if not pending:
                raise ConfigError(f"{flag} needs a value, as in {flag}=VALUE")
            value = pending.pop(0)
        pairs.append((flag.removeprefix("--config."), value))
    return arguments, pairs
