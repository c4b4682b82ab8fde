"""Options of builders: their types, what is allowed, and those that every builder has."""

import dataclasses
import numbers
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from signvit_jax.errors.nearest import did_you_mean
from tfds_builders.clips import Encoding
from tfds_builders.keypoints import NONE, SOURCES


@dataclasses.dataclass(frozen=True)
class Range:
    """A range of numbers for an option. It never contains NaN or infinity."""

    low: float
    high: float
    low_excluded: bool = False
    integer: bool = True

    def __contains__(self, value: object) -> bool:
        if not _is_number(value, numbers.Integral if self.integer else numbers.Real):
            return False
        if value == self.low:
            return not self.low_excluded
        return self.low < value <= self.high

    def __str__(self) -> str:
        least = f"above {self.low:g} and at most" if self.low_excluded else f"from {self.low:g} to"
        kind = "an integer" if self.integer else "a number"
        return f"{kind} {least} {self.high:.15g}"  # 1000000, where :g would write 1e+06


def _is_number(value: object, kind: type) -> TypeGuard[float]:
    return isinstance(value, kind) and not isinstance(value, bool)


# Option name -> value, for the options in a builder's OPTIONS.
type OptionValues = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Option:
    """A command-line option of a builder. A `type` of `Path` is a file or folder."""

    name: str
    help: str
    default: str | float | None = None  # None: not given
    type: Callable[[str], object] = str
    optional: bool = False  # the builder works without this file or folder
    allowed: Range | Sequence[str] | None = None
    # Its effect is in the builder's fingerprint (what was read), so `settings` leaves it out.
    in_fingerprint: bool = False

    @property
    def help_with_default(self) -> str:
        if self.default is None:
            return self.help
        is_float = isinstance(self.default, float)
        return f"{self.help} ({f'{self.default:.15g}' if is_float else self.default})"


HELDOUT_FRACTION = 0.1  # of validation, and of test
WORKERS = 0  # one per core
SHARD_MEGABYTES = 256.0

FRACTION = Range(0, 1, integer=False)
FRAME_RATES = Range(0, 1000, low_excluded=True, integer=False)
SHARED_OPTIONS = (  # options of every builder
    Option(
        "short_side",
        "larger frames are shrunk to this many pixels on the shorter side",
        Encoding.short_side,
        int,
        allowed=Range(1, 16384),
    ),
    Option(
        "frame_rate",
        "frames per second to store; without it those of the video, at most 25",
        Encoding.frame_rate,
        float,
        allowed=FRAME_RATES,
    ),
    Option("jpeg_quality", "1 to 95", Encoding.jpeg_quality, int, allowed=Range(1, 95)),
    Option(
        "keypoints",
        "keypoints of the signer beside the frames: none; mediapipe finds them; file reads them; "
        "exact: of drawn clips only",
        NONE,
        allowed=SOURCES,
    ),
    Option(
        "keypoint_models",
        "for --keypoints=mediapipe: the folder that scripts/keypoint_models.sh makes",
        type=Path,
        optional=True,
    ),
    Option(
        "keypoint_files",
        "for --keypoints=file: folder of the files <uid>.npz or <uid>.pose, if they are not beside "
        "the videos",
        type=Path,
        optional=True,
    ),
    Option(
        "val_fraction",
        "share of source videos for validation, if the table has no split",
        HELDOUT_FRACTION,
        float,
        allowed=FRACTION,
    ),
    Option(
        "test_fraction",
        "the same for the test split; with both 0 all clips are in train",
        HELDOUT_FRACTION,
        float,
        allowed=FRACTION,
    ),
    Option("workers", "decoding processes; 0 = one per core", WORKERS, int, allowed=Range(0, 1024)),
    Option(
        "shard_megabytes",
        "size of a file of records; a killed build loses at most one",
        SHARD_MEGABYTES,
        float,
        allowed=Range(0, 1_000_000, low_excluded=True, integer=False),
    ),
    Option(
        "beam_runner",
        "build with Apache Beam, for example DirectRunner; "
        "all its workers must see DATA_DIR and the videos",
    ),
)


def allowed_by_option(
    options: Sequence[Option],
) -> dict[str, Range | Sequence[str] | None]:
    """Return what is allowed for each option of a builder with these OPTIONS; None: anything."""
    return {option.name: option.allowed for option in (*SHARED_OPTIONS, *options)}


def option_fault(name: str, value: object, allowed: Range | Sequence[str] | None) -> str | None:
    """Return the message for a wrong value of an option, with what is allowed, or None."""
    if allowed is None or value in allowed:
        return None
    if isinstance(allowed, Range):
        return f"--{name} is {value!r}; allowed: {allowed}"
    hint = did_you_mean(str(value).casefold(), allowed)
    return f"--{name} is {value!r}; allowed: {', '.join(allowed)}{hint}"


def column_options(columns: Sequence[str]) -> tuple[Option, ...]:
    """Return an option `--<column>_column` for each column: what the table calls it."""
    return tuple(
        Option(
            f"{column}_column",
            f"name of the table's column of {column} values ({column})",
            in_fingerprint=True,
        )
        for column in columns
    )


def given_columns(options: OptionValues, columns: Sequence[str]) -> dict[str, str | None]:
    """Return the name that the user gave for each column, or None, for `read_table`."""
    return {column: options[f"{column}_column"] for column in columns}
