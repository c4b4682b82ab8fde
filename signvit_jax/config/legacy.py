"""Config keys and values of earlier releases, as the current release reads them."""

import logging
from collections.abc import Mapping
from typing import overload

log = logging.getLogger(__name__)

# Earlier names of keys: in config.json files, in users' config files and on the command line.
RENAMED = {
    "data.fit": "data.resize_mode",
    "data.short_first_epochs": "data.sortagrad_epochs",
    "model.encoder.dropout_random": "model.encoder.dropout_rng_impl",
}
# Before `inference.rest_seconds` existed, every config.json had these values, although no user had
# chosen them and they did not depend on the model.
_OLD_LIMITS = {"max_clip_seconds": 30.0, "window_seconds": 6.0}


def current_key(key: str) -> str:
    """The current name of a dotted key."""
    return RENAMED.get(key, key)


@overload
def with_current_names(values: Mapping[str, object]) -> dict[str, object]: ...


@overload
def with_current_names(values: object) -> object: ...


def with_current_names(values: object) -> object:
    """Nested values with renamed keys under their current names; anything else is returned as is.

    Where both names are given, the earlier one wins: a user wrote it, while the current name may
    come from a shipped config that the user's file builds on.
    """
    return _renamed(values, "") if isinstance(values, Mapping) else values


def without_old_limits(values: object) -> object:
    """The parsed config.json without the limits on clips and windows that earlier releases wrote.

    Without them the limits follow from the model's training. A user's own values stay.
    """
    if not isinstance(values, dict):
        return values
    inference = values.get("inference")
    if not isinstance(inference, dict) or "rest_seconds" in inference:
        return values
    remaining = {key: value for key, value in inference.items() if _OLD_LIMITS.get(key) != value}
    return values | {"inference": remaining}


def _renamed(values: Mapping[str, object], prefix: str) -> dict[str, object]:
    renamed = {}
    for name, value in values.items():
        if f"{prefix}{name}" not in RENAMED:
            if isinstance(value, Mapping):
                value = _renamed(value, f"{prefix}{name}.")
            renamed[name] = value
    for name in values:
        key = RENAMED.get(f"{prefix}{name}")
        if key is None:
            continue
        current = key.removeprefix(prefix)
        if current in renamed and renamed[current] != values[name]:
            log.warning(
                "config.%s%s is the earlier name of config.%s: its value %r replaces %r",
                *(prefix, name, key, values[name], renamed[current]),
            )
        renamed[current] = values[name]
    return renamed
