"""Errors of the clips that have something in common: one signer, one camera, one recording."""

import dataclasses
from collections.abc import Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table

from signvit_jax.data.schema import IndexEntry
from signvit_jax.evaluation.metrics import WordErrors
from signvit_jax.evaluation.results import Results
from signvit_jax.evaluation.scored_clips import ScoredClip

GROUPS = "groups"  # the detail of a prediction: {column: value}
INDEX_COLUMNS = ("signer", "video_id")  # columns that a data set has
NO_VALUE = "(none)"
MAX_ROWS = 40

Columns = Mapping[str, Mapping[str, str]]  # column -> clip id -> value


@dataclasses.dataclass(frozen=True)
class GroupErrors:
    """The clips with one value of a column, and their errors by decoder."""

    value: str
    clips: int
    errors: Mapping[str, WordErrors]


def index_column(entries: Sequence[IndexEntry], column: str) -> dict[str, str]:
    """Return the values of one of INDEX_COLUMNS by clip id, of the clips that have one."""
    values = {entry.id: str(getattr(entry, column)) for entry in entries}
    return {clip: value for clip, value in values.items() if value}


def columns_of(results: Results) -> list[str]:
    """Return the columns by which the predictions of these results are grouped."""
    groups = (prediction.details.get(GROUPS) for prediction in results.predictions)
    columns: dict[str, None] = {}  # keeps the order
    for values in groups:
        if isinstance(values, Mapping):
            columns |= dict.fromkeys(values)
    return list(columns)


def errors_by(
    clips: Sequence[ScoredClip], column: str, decoders: Sequence[str]
) -> list[GroupErrors]:
    """Return the groups of a column, the one with the highest error rate of `decoders[0]` first.

    Clips without a value form one more group. Clips on which `decoders[0]` was not scored, such as
    those without glosses, are in no group.
    """
    by_value: dict[str, list[ScoredClip]] = {}
    for clip in clips:
        if decoders[0] in clip.alignments:
            groups = clip.prediction.details.get(GROUPS)
            value = groups.get(column) if isinstance(groups, Mapping) else None
            by_value.setdefault(str(value) if value else NO_VALUE, []).append(clip)
    rows = [
        GroupErrors(
            value,
            len(members),
            {name: sum((clip.errors(name) for clip in members), WordErrors()) for name in decoders},
        )
        for value, members in by_value.items()
    ]
    return sorted(rows, key=lambda group: (-group.errors[decoders[0]].rate, group.value))


def format_table(column: str, groups: Sequence[GroupErrors]) -> Table:
    """Return a rich table of error rates, one row per group, at most MAX_ROWS."""
    left_out = len(groups) - MAX_ROWS
    caption = f"and {left_out:,} more, with fewer errors" if left_out > 0 else None
    decoders = list(groups[0].errors) if groups else []
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), caption=caption)
    for name in (column, "clips", *(f"{decoder} error" for decoder in decoders)):
        table.add_column(name, justify="left" if name == column else "right", no_wrap=True)
    for group in groups[:MAX_ROWS]:
        rates = (f"{errors.rate:.1%}" for errors in group.errors.values())
        table.add_row(group.value, f"{group.clips:,}", *rates)
    return table
