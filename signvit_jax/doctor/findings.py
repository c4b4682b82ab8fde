"""The requests and the answers of the checks of `signvit doctor`."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from signvit_jax.config.schema import Config, from_json

Level = Literal["ok", "note", "bad", "skipped"]
_WORST_FIRST: tuple[Level, ...] = ("bad", "note", "ok", "skipped")

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Finding:
    """The answer of one check.

    `level`: "ok"; "note" = something works less well than it could; "bad" = something fails, or
    will; "skipped" = not looked at, and `found` says why. `found`: what was found. `advice`: what
    to do; "" where there is nothing to do.
    """

    name: str
    level: Level
    found: str
    advice: str = ""


@dataclasses.dataclass(frozen=True)
class DeviceFacts:
    """What JAX answered when asked for devices, and how well one of them computes.

    `error`: why it could not be asked; "" if it could. `memory`: bytes that a process may take of
    each device, 0 if the device does not report them. `difference`: the largest one between a
    product of bfloat16 matrices on the device and NumPy's, relative to the largest entry.
    """

    platform: str = ""
    kinds: tuple[str, ...] = ()
    memory: int = 0
    capability: str = ""
    jax_version: str = ""
    difference: float = 0.0
    first_ms: float = 0.0
    next_ms: float = 0.0
    error: str = ""


@dataclasses.dataclass(frozen=True)
class Request:
    """What `doctor` was asked to look at. Strings, so that it can be sent to another process.

    `config_json`: the text of a config.json; "" without a config. `devices`: the answer of the
    check of the devices, for the checks after it; None if it was not asked.
    """

    workdir: str = ""
    data_dir: str = ""
    config_json: str = ""
    quick: bool = False
    devices: DeviceFacts | None = None

    @property
    def config(self) -> Config | None:
        """The config, or None. Raises ConfigError."""
        return from_json(self.config_json) if self.config_json else None


def worst(levels: Iterable[Level]) -> Level:
    """The worst of several levels; "ok" for none."""
    present = {*levels}
    for level in _WORST_FIRST:
        if level in present:
            return level
    return "ok"


def joined(name: str, findings: Iterable[Finding]) -> Finding:
    """Several findings as one of this name, with the worst level; the worst come first."""
    ordered = sorted(findings, key=lambda finding: _WORST_FIRST.index(finding.level))
    return Finding(
        name,
        worst(finding.level for finding in ordered),
        "; ".join(finding.found for finding in ordered if finding.found),
        "; ".join(finding.advice for finding in ordered if finding.advice),
    )


def gib(size: float) -> str:
    """A number of bytes in GiB, or in MiB if it is small."""
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / 2**20:.0f} MiB"


def without_home(text: str) -> str:
    """The text with `~` for the home folder, whose name is often that of the user."""
    try:
        home = str(Path.home())
    except RuntimeError:  # no home
        return text
    return text.replace(home, "~") if len(home) > 1 else text
