"""Typed config fields: a default, a description, and the values that are allowed."""

import dataclasses
import math
from collections.abc import Callable

from signvit_jax.files.local_paths import ALLOWED, is_address, is_hub_address


def plain[Value](default: Value, description: str) -> Value:
    """A field that may have any value of its type."""
    return dataclasses.field(default=default, metadata={"description": description})


def checked[Value](
    default: Value, description: str, allowed: str, check: Callable[[Value], bool]
) -> Value:
    """A field whose values must pass `check`; `allowed` names them in error messages."""
    metadata = {"description": description, "allowed": allowed, "check": check}
    return dataclasses.field(default=default, metadata=metadata)


def integer(default: int, description: str, *, least: int = 1) -> int:
    """An integer from `least` to 2^31 - 1, which fits the int32 of a compiled program."""
    allowed = f"an integer >= {least} and < 2^31"
    return checked(default, description, allowed, lambda x: least <= x < 2**31)


def number(
    default: float, description: str, *, least: float = 0.0, most: float = math.inf
) -> float:
    """A finite number from `least` to `most`."""
    finite = math.isfinite(most)
    allowed = f"a number from {least:g} to {most:g}" if finite else f"a number >= {least:g}"
    return checked(default, description, allowed, lambda x: math.isfinite(x) and least <= x <= most)


def positive(default: float, description: str) -> float:
    return checked(default, description, "a number > 0", lambda x: math.isfinite(x) and x > 0)


def rate(default: float, description: str) -> float:
    allowed = "a rate from 0 up to, but not including, 1"
    return checked(default, description, allowed, lambda x: 0.0 <= x < 1.0)


def choice(options: tuple[str, ...], description: str) -> str:
    """One of `options`; the first one is the default."""
    metadata = {
        "description": description,
        "allowed": "one of " + ", ".join(map(repr, options)),
        "check": lambda x: x in options,
        "options": options,
    }
    return dataclasses.field(default=options[0], metadata=metadata)


def options_of(section: type, name: str) -> tuple[str, ...]:
    """The options of a field of a section that `choice` made."""
    return next(f for f in dataclasses.fields(section) if f.name == name).metadata["options"]


def model(default: str, description: str) -> str:
    """The local path of a model, or hf://organization/name of an export on a model hub."""
    return _path(
        default,
        description,
        f"{ALLOWED}, or hf://ORGANIZATION/NAME",
        lambda x: is_hub_address(x) or not is_address(x),
    )


def path(default: str, description: str) -> str:
    """A local path. Addresses such as gs://bucket are refused."""
    return _path(default, description, ALLOWED, lambda x: not is_address(x))


def _path(default: str, description: str, allowed: str, check: Callable[[str], bool]) -> str:
    metadata = {"description": description, "allowed": allowed, "check": check, "is_path": True}
    return dataclasses.field(default=default, metadata=metadata)
