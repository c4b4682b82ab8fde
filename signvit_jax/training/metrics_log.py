"""The run's figures: metrics.csv, one row a step, and the same as TensorBoard events."""

import csv
import io
import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path

import jax
from tensorboardX import SummaryWriter

from signvit_jax.training.atomic_write import write_atomically
from signvit_jax.training.workdir import Workdir

STEP = "step"
_logger = logging.getLogger(__name__)


class MetricsLog:
    """Appends figures by step, on process 0 only. Figures of one step that come in several calls share a row.

    Each call is on the disk's way before it returns; a row that a crash cut off is dropped when the file is opened again. A disk that takes no more
    is named once and does not end the run: checkpoints matter more.
    """

    def __init__(self, workdir: Workdir):
        self._path, self._events_folder = workdir.metrics_csv, workdir.events
        self._active = jax.process_index() == 0
        self._events: SummaryWriter | None = None
        self._purge_step: int | None = None
        self._columns: list[str] = [STEP]
        self._row: dict[str, str] = {}
        self._row_start = 0  # where in the file the last row begins
        self._failed = False
        if self._active:
            self._guarded(self._open)

    def rewind(self, step: int) -> int:
        """Drops the rows after `step`, of work that was lost: call it when a run resumes from the checkpoint of `step`.

        Returns how many steps were lost, as far as they had been logged.
        """
        self._purge_step = step + 1
        if not self._active:
            return 0
        rows = self._read()
        self._guarded(lambda: self._rewrite([row for row in rows if int(row[STEP]) <= step]))
        return max([step, *(int(row[STEP]) for row in rows)]) - step

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """Adds figures, named like "train/loss", at a step that is not before the last one written."""
        if not self._active:
            return
        texts = {name: f"{float(value):.9g}" for name, value in figures.items()}
        self._guarded(lambda: self._append(str(step), texts))
        if self._events is None:
            self._events = SummaryWriter(str(self._events_folder), purge_step=self._purge_step)
        for name, value in figures.items():
            if math.isfinite(value):  # TensorBoard has no place for the others
                self._events.add_scalar(name, float(value), step)

    def close(self) -> None:
        if self._events is not None:
            self._events.close()
            self._events = None

    def _open(self) -> None:
        rows = self._read()
        if not rows and self._path.exists() and not self._path.read_bytes().startswith(STEP.encode()):
            self._path.rename(self._path.with_name(self._path.name + ".foreign"))
        self._rewrite(rows)

    def _append(self, step: str, texts: dict[str, str]) -> None:
        grows = self._row.get(STEP) == step
        row = (self._row if grows else {STEP: step}) | texts
        if any(name not in self._columns for name in texts):
            earlier = [old for old in self._read() if old[STEP] != step]
            self._columns += [name for name in texts if name not in self._columns]
            self._rewrite([*earlier, row])
            return
        with self._path.open("r+b") as file:
            self._row_start = file.seek(self._row_start) if grows else file.seek(0, os.SEEK_END)
            file.write(_line(row, self._columns))
            file.truncate()
        self._row = row

    def _rewrite(self, rows: list[dict[str, str]]) -> None:
        head = _line(dict(zip(self._columns, self._columns)), self._columns)
        lines = [_line(row, self._columns) for row in rows]
        write_atomically(self._path, b"".join([head, *lines]).decode())
        self._row = dict(rows[-1]) if rows else {}
        self._row_start = len(head) + sum(map(len, lines[:-1]))

    def _read(self) -> list[dict[str, str]]:
        """The rows of the file, figures that are not there left out; takes over its columns."""
        self._columns, rows = read_rows(self._path)
        return rows

    def _guarded(self, change) -> None:
        try:
            change()
        except OSError as error:
            if not self._failed:
                _logger.warning("%s cannot be written (%s); the run goes on without it", self._path, error.strerror)
            self._failed = True


def read_metrics(path: Path) -> dict[str, tuple[list[int], list[float]]]:
    """Figure -> (steps, values) of a metrics.csv, {} if there is none. Values may be inf or NaN."""
    columns, rows = read_rows(path)
    series = {name: [(int(row[STEP]), float(row[name])) for row in rows if name in row] for name in columns if name != STEP}
    return {name: ([step for step, _ in points], [value for _, value in points]) for name, points in series.items()}


def read_rows(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """(columns, rows) of a metrics.csv; incomplete lines are passed over, and of rows with the same step all but the last."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return [STEP], []
    complete = text[: text.rfind("\n") + 1]
    lines = csv.reader(io.StringIO(complete))
    columns = next(lines, [])
    if STEP not in columns[:1] or len(set(columns)) != len(columns):
        return [STEP], []
    rows: dict[int, dict[str, str]] = {}
    for cells in lines:
        row = {name: cell for name, cell in zip(columns, cells) if cell}
        if len(cells) == len(columns) and cells[0].isdecimal() and all(_is_number(cell) for cell in row.values()):
            rows[int(cells[0])] = row
    return columns, [rows[step] for step in sorted(rows)]


def _line(row: Mapping[str, str], columns: list[str]) -> bytes:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow([row.get(name, "") for name in columns])
    return buffer.getvalue().encode()


def _is_number(cell: str) -> bool:
    try:
        return not math.isnan(float(cell)) or cell == "nan"
    except ValueError:
        return False
