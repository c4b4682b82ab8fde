"""Build typed config sections from nested mappings, and check every key and value.

Raises `ConfigError` (exit code 2) with the key, the value, the allowed values and, for a misspelled
key or choice, the nearest one.
"""

import dataclasses
import difflib
import types
from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol, get_args, get_origin, get_type_hints, runtime_checkable

from signvit_jax.config.errors import ConfigError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_TYPE_NAMES = {int: "an integer", float: "a number", bool: "True or False", str: "a string"}
_LIST_NAMES = {int: "a list of integers", float: "a list of numbers"}


def build[Section: "DataclassInstance"](
    section: type[Section], values: object, root: type, path: str = ""
) -> Section:
    """Build a section from nested dicts; keys left out take their defaults. Raises ConfigError.

    `path` is the dotted key of the section within `root`, the class of the complete config. A
    section is called a group in messages and documents.
    """
    if not isinstance(values, Mapping):
        raise not_a_group(path, values, section)
    fields = {field.name: field for field in dataclasses.fields(section)}
    field_kinds = field_types(section)
    built = {}
    for name, value in values.items():
        key = f"{path}.{name}" if path else str(name)
        if name not in fields:
            raise unknown_key(key, value, fields, root)
        kind = field_kinds[name]
        if dataclasses.is_dataclass(kind):
            built[name] = build(kind, value, root, key)
        else:
            built[name] = _typed(fields[name], kind, value, key)
    return section(**built)


def field_types(section: type) -> dict[str, type]:
    """The types of a section's fields, in their order."""
    return get_type_hints(section)


@runtime_checkable
class _ConfigDict(Protocol):
    """An `ml_collections.ConfigDict`."""

    def to_dict(self) -> Mapping[str, object]: ...


def as_plain(values: object) -> object:
    """Nested ConfigDicts and mappings as new dicts; anything else unchanged."""
    if isinstance(values, _ConfigDict):
        values = values.to_dict()
    if not isinstance(values, Mapping):
        return values
    return {name: as_plain(value) for name, value in values.items()}


def flat_defaults(section: type, path: str = "") -> dict[str, object]:
    """Defaults by dotted key, in the order of the fields."""
    return flatten(dataclasses.asdict(section()), path)


def flatten(values: Mapping[str, object], path: str = "") -> dict[str, object]:
    """Nested mappings as one dict with dotted keys."""
    flat: dict[str, object] = {}
    for name, value in values.items():
        key = f"{path}.{name}" if path else name
        flat.update(flatten(value, key) if isinstance(value, Mapping) else {key: value})
    return flat


def key_names(section: type) -> str:
    """The keys of a group, for messages."""
    return ", ".join(field.name for field in dataclasses.fields(section))


def allowed_values(field: dataclasses.Field) -> str:
    """The allowed values of a field in words, such as "a number > 0"."""
    if "allowed" in field.metadata:
        return field.metadata["allowed"]
    if get_origin(field.type) is tuple:  # the schema's annotations are types, never strings
        return _LIST_NAMES[get_args(field.type)[0]]
    return _TYPE_NAMES[field.type]


def unknown_key(key: str, value: object, fields: Mapping[str, object], root: type) -> ConfigError:
    """Return the error for a key that does not exist, with the nearest that does.

    `fields` are the keys of the group that should contain `key`; `root` is the class of the
    complete config.
    """
    *groups, name = key.split(".")
    prefix = "".join(group + "." for group in groups)
    near = difflib.get_close_matches(name, fields, n=1, cutoff=0.5)
    elsewhere = [other for other in flat_defaults(root) if other.split(".")[-1] == name]
    if near:
        hint = f"did you mean {prefix}{near[0]}?"
    elif elsewhere:
        hint = f"did you mean {elsewhere[0]}?"
    else:
        hint = "no key has a similar name"
    allowed = ", ".join(fields) or f"none: {prefix.rstrip('.')} is a value"
    return ConfigError(
        f"unknown key config.{key} (value {value!r}); {hint}; keys allowed here: {allowed}"
    )


def not_a_group(path: str, value: object, section: type) -> ConfigError:
    """The error for a value where the keys of `section` are expected."""
    return ConfigError(
        f"config.{path or '<root>'} is {value!r}; "
        f"it must be a group with keys among: {key_names(section)}"
    )


def _typed(field: dataclasses.Field, kind: type, value: object, key: str) -> object:
    converted = _convert(kind, value)
    if converted is None:
        raise ConfigError(
            f"config.{key} is {value!r} ({type(value).__name__}); allowed: {allowed_values(field)}"
        )
    if "check" in field.metadata and not field.metadata["check"](converted):
        allowed = field.metadata["allowed"]
        raise ConfigError(
            f"config.{key} is {value!r}; allowed: {allowed}{_nearest_choice(converted, allowed)}"
        )
    return converted


def _nearest_choice(value: object, allowed: str) -> str:
    if not isinstance(value, str):
        return ""
    # `allowed` lists the choices in quotation marks, such as "'mean', 'first'".
    options = [part for part in allowed.split("'") if part.strip(" ,")]
    near = difflib.get_close_matches(value, options, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _convert(kind: type | types.GenericAlias, value: object) -> object:
    """Return `value` as a value of type `kind`, or None if it cannot be converted exactly."""
    if get_origin(kind) is tuple:
        if not isinstance(value, list | tuple):
            return None
        items = tuple(_convert(get_args(kind)[0], item) for item in value)
        return None if None in items else items
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if type(value) is kind:
        return value
    return None
