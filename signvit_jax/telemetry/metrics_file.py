"""Read a metrics.csv, also while it is being written. JAX is not needed for it."""

import csv
import io
import math
from pathlib import Path

STEP = "step"


def read_metrics(path: Path) -> dict[str, tuple[list[int], list[float]]]:
    """Return metric -> (steps, values) of a metrics.csv; {} if there is none.

    Values may be infinite or NaN.
    """
    columns, rows = read_rows(path)
    series = {
        name: [(int(row[STEP]), float(row[name])) for row in rows if name in row]
        for name in columns
        if name != STEP
    }
    return {
        name: ([step for step, _ in points], [value for _, value in points])
        for name, points in series.items()
    }


def read_rows(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Return (columns, rows) of a metrics.csv.

    Incomplete lines are skipped. Of rows with the same step the last one counts.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return [STEP], []
    complete, _, _ = text.rpartition("\n")
    lines = csv.reader(io.StringIO(complete))
    columns = next(lines, [])
    if STEP not in columns[:1] or len(set(columns)) != len(columns):
        return [STEP], []
    rows: dict[int, dict[str, str]] = {}
    for cells in lines:
        row = {name: cell for name, cell in zip(columns, cells) if cell}
        if (
            len(cells) == len(columns)
            and cells[0].isdecimal()
            and all(_is_number(cell) for cell in row.values())
        ):
            rows[int(cells[0])] = row
    return columns, [rows[step] for step in sorted(rows)]


def _is_number(cell: str) -> bool:
    try:
        return not math.isnan(float(cell)) or cell == "nan"
    except ValueError:
        return False
