"""Descriptions of all config keys, for a generated reference."""

import dataclasses
import typing
from collections.abc import Iterator

from signvit_jax.config.schema import Config
from signvit_jax.config.typed_sections import allowed_values, field_types


@dataclasses.dataclass(frozen=True)
class KeyDescription:
    """One config key. `key` is dotted, `type` a Python type as text; `allowed` is in words."""

    key: str
    type: str
    default: object
    allowed: str
    description: str


def describe_keys() -> list[KeyDescription]:
    """Every key of the config, groups in the order of `Config`'s fields."""
    return list(_describe(Config, ""))


def _describe(section: type, prefix: str) -> Iterator[KeyDescription]:
    types = field_types(section)
    for field in dataclasses.fields(section):
        key = f"{prefix}{field.name}"
        kind = types[field.name]
        if dataclasses.is_dataclass(kind):
            yield from _describe(kind, f"{key}.")
        else:
            yield KeyDescription(
                key=key,
                type=_type_name(kind),
                default=field.default,
                allowed=allowed_values(field),
                description=field.metadata["description"],
            )


def _type_name(kind: type) -> str:
    # The name of tuple[int, ...] would be only "tuple".
    return str(kind) if typing.get_origin(kind) is tuple else kind.__name__
