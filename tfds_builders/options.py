"""Options of builders: their types, what is allowed, and those that every builder has."""

import dataclasses
import numbers
from collections.abc import Callable, Sequence
from typing import Any, TypeGuard

from signvit_jax.errors.nearest import did_you_mean
from tfds_builders.clips import Encoding


@dataclasses.dataclass(frozen=True)
class Range:
    """A range of numbers for an option. It never contains NaN or infinity."""

    low: float
    high: float
    above: bool = False  # excludes `low` itself
    integer: bool = True

    def __contains__(self, value: object) -> bool:
        if not _is_number(value, numbers.Integral if self.integer else numbers.Real):
            return False
        return (self.low < value if self.above else self.low <= value) and value <= self.high

    def __str__(self) -> str:
        least = f"above {self.low:g} and at most" if self.above else f"from {self.low:g} to"
        kind = "an integer" if self.integer else "a number"
        return f"{kind} {least} {self.high:.15g}"


def _is_number(value: object, kind: type) -> TypeGuard[float]:
    return isinstance(value, kind) and not isinstance(value, bool)


type OptionValues = dict[str, Any]  # by the names of OPTIONS, each of the type of its option


@dataclasses.dataclass(frozen=True)
class Option:
    """A command-line option of a builder. A `type` of `Path` is a file or folder."""

    name: str
    help: str
    default: str | float | None = None  # None: not given
    type: Callable[[str], object] = str
    optional: bool = False  # the builder works without this file or folder
    allowed: Range | Sequence[str] | None = None
    selects: bool = False  # where to find a value: like a path, it counts by its content


SHARE = Range(0, 1, integer=False)
FRAME_RATE = Range(0, 1000, above=True, integer=False)
SHARED = (  # options of every builder
    Option(
        "short_side",
        "larger frames are shrunk to this many pixels on the shorter side (256)",
        Encoding.short_side,
        int,
        allowed=Range(1, 16384),
    ),
    Option(
        "frame_rate",
        "frames per second to store; without it those of the video, at most 25",
        Encoding.frame_rate,
        float,
        allowed=FRAME_RATE,
    ),
    Option("jpeg_quality", "1 to 95 (90)", Encoding.jpeg_quality, int, allowed=Range(1, 95)),
    Option(
        "val_fraction",
        "share of source videos for validation, if the table has no split (0.1)",
        0.1,
        float,
        allowed=SHARE,
    ),
    Option(
        "test_fraction",
        "the same for the test split (0.1); with both 0 all clips are in train",
        0.1,
        float,
        allowed=SHARE,
    ),
    Option("workers", "decoding processes; 0 = one per core", 0, int, allowed=Range(0, 1024)),
    Option(
        "shard_megabytes",
        "size of a file of records; a killed build loses at most one (256)",
        256.0,
        float,
        allowed=Range(0, 1_000_000, above=True, integer=False),
    ),
    Option(
        "beam_runner",
        "build with Apache Beam, for example DirectRunner; "
        "all its workers must see DATA_DIR and the videos",
    ),
)


def allowed_values(
    options: Sequence[Option],
) -> dict[str, Range | Sequence[str] | None]:
    """Return what is allowed for each option of a builder with these OPTIONS; None: anything."""
    return {option.name: option.allowed for option in (*SHARED, *options)}


def option_fault(name: str, value: object, allowed: Range | Sequence[str] | None) -> str | None:
    """Return the message for a wrong value of an option, with what is allowed, or None."""
    if allowed is None or value in allowed:
        return None
    if isinstance(allowed, Range):
        return f"--{name} is {value!r}; allowed: {allowed}"
    hint = did_you_mean(str(value).casefold(), allowed)
    return f"--{name} is {value!r}; allowed: {', '.join(allowed)}{hint}"


def column_options(columns: Sequence[str]) -> tuple[Option, ...]:
    """Return an option `--<column>_column` for each column: its name in the table."""
    return tuple(
        Option(
            f"{column}_column",
            f"the column of the table that is the {column} ({column})",
            selects=True,
        )
        for column in columns
    )


def given_columns(options: OptionValues, columns: Sequence[str]) -> dict[str, str | None]:
    """Return the name that the user gave for each column, or None, for `read_table`."""
    return {column: options[f"{column}_column"] for column in columns}
