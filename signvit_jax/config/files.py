"""Config files (Python) and the overrides of the command line."""

import ast
import dataclasses
import importlib.util
from collections.abc import Sequence
from typing import get_origin

from signvit_jax.config.errors import ConfigError
from signvit_jax.config.legacy import current_key, with_current_names
from signvit_jax.config.presets import resolve_config
from signvit_jax.config.schema import Config, from_mapping
from signvit_jax.config.typed_sections import (
    as_plain,
    field_types,
    key_names,
    not_a_group,
    unknown_key,
)


def load_config(spec: str, overrides: Sequence[tuple[str, str]] = ()) -> Config:
    """Run a preset or a config file, apply overrides, and check the result.

    `spec` is a preset (`small`) or a path (`path.py`), with `:argument` behind it for a
    `get_config` that takes an argument. An override is a pair such as ("training.batch_size", "8").
    Both may use earlier names of keys.
    Raises ConfigError for a file that cannot be run as well as for its values.
    """
    values = with_current_names(_run_config_file(spec))
    for key, text in overrides:
        _override(values, current_key(key), text)
    return from_mapping(values)


def _run_config_file(spec: str) -> dict[str, object]:
    """The values of a config file as plain dicts, which share no state with the file."""
    path, argument = resolve_config(spec)
    module_spec = importlib.util.spec_from_file_location("signvit_config_file", path)
    if module_spec is None or module_spec.loader is None:
        raise ConfigError(f"{path} is not a config; allowed: a file that ends with .py")
    module = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(module)
        values = module.get_config(argument) if argument else module.get_config()
    except Exception as error:
        raise ConfigError(
            f"{path} cannot be run as a config (a file that defines get_config()): "
            f"{type(error).__name__}: {error}"
        ) from error
    values = as_plain(values)
    if not isinstance(values, dict):
        raise ConfigError(
            f"get_config() of {path} returned a {type(values).__name__}; "
            "it must return an ml_collections.ConfigDict"
        )
    return values


def _override(values: dict[str, object], key: str, text: str) -> None:
    """Set one key of the nested `values` from the text of an override. Raises ConfigError."""
    *groups, name = parts = key.split(".")
    section: type = Config
    node = values
    for depth, part in enumerate(parts):
        types = field_types(section) if _is_group(section) else {}
        if part not in types:
            raise unknown_key(".".join(parts[: depth + 1]), text, types, Config)
        section = types[part]
        if depth < len(groups):
            group = node.setdefault(part, {})
            if isinstance(group, dict):
                node = group
            elif _is_group(section):
                raise not_a_group(".".join(parts[: depth + 1]), group, section)
    if _is_group(section):
        names = key_names(section)
        raise ConfigError(
            f"config.{key} is a group of keys ({names}); "
            f"set one of them, as in --config.{key}.{names.split(', ')[0]}=..."
        )
    value = text if section is str else literal(text)
    if get_origin(section) is tuple and isinstance(value, int | float):
        value = (value,)  # `--config.data.frame_buckets=32` is a list of one
    node[name] = value


def _is_group(section: type) -> bool:
    return dataclasses.is_dataclass(section)


def literal(text: str) -> object:
    """The value that a text on the command line stands for: a Python literal, or the text."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
