"""Runs a config file and applies the overrides of the command line."""

import ast
import dataclasses
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from signvit_jax.config.schema import Config, ConfigError, from_mapping, key_names, unknown_key
from signvit_jax.config.presets import resolve_config


def load_config(spec: str, overrides: Sequence[tuple[str, str]] = ()) -> Config:
    """Runs a preset or a config file (`small`, `path.py`, `path.py:argument`), applies overrides such as ("training.batch_size", "8") and checks the result.

    Raises ConfigError for a file that cannot be run as well as for its values.
    """
    values = _plain(_run_config_file(spec))
    for key, text in overrides:
        _override(values, key, text)
    return from_mapping(values)


def _run_config_file(spec: str) -> Mapping[str, Any]:
    path, argument = resolve_config(spec)
    module_spec = importlib.util.spec_from_file_location("signvit_config_file", path)
    module = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(module)
        values = module.get_config(argument) if argument else module.get_config()
    except Exception as error:
        raise ConfigError(
            f"{path} cannot be run as a config (a file that defines get_config()): {type(error).__name__}: {error}"
        ) from error
    if not isinstance(values, Mapping) and not hasattr(values, "to_dict"):
        raise ConfigError(
            f"get_config() of {path} returned a {type(values).__name__}; it must return an ml_collections.ConfigDict"
        )
    return values


def _plain(values: Any) -> Any:
    """Nested ConfigDicts and dicts as plain dicts, so that nothing shares state with the config file."""
    if hasattr(values, "to_dict"):
        values = values.to_dict()
    return {
        k: _plain(v) if isinstance(v, Mapping) or hasattr(v, "to_dict") else v
        for k, v in values.items()
    }


def _override(values: dict[str, Any], key: str, text: str) -> None:
    *rooms, name = key.split(".")
    section, field_type = Config, None
    node = values
    for depth, part in enumerate([*rooms, name]):
        fields = (
            {f.name: f for f in dataclasses.fields(section)}
            if dataclasses.is_dataclass(section)
            else {}
        )
        if part not in fields:
            raise unknown_key(".".join([*rooms, name][: depth + 1]), text, fields)
        field_type = fields[part].type
        if depth < len(rooms):
            node = node.setdefault(part, {})
        section = field_type
    if dataclasses.is_dataclass(field_type):
        raise ConfigError(
            f"config.{key} is a group of keys ({key_names(field_type)}); "
            f"set one of them, as in --config.{key}.{key_names(field_type).split(', ')[0]}=..."
        )
    node[name] = text if field_type is str else _literal(text)


def _literal(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
