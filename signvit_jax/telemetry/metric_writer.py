"""A run's metrics: metrics.csv with one row per step, and the same as TensorBoard events.

The events also have sample texts, frames of a clip and the config.
"""

import csv
import io
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
from PIL import Image

from signvit_jax.checkpoints.workdir import Workdir
from signvit_jax.files.atomic import write_atomically
from signvit_jax.telemetry.events_file import EventsFile
from signvit_jax.telemetry.metrics_file import STEP, read_rows
from signvit_jax.telemetry.observers import Observer, Records
from signvit_jax.telemetry.trackers import BackgroundTracker, RunEnd


class MetricsLog:
    """Metrics by step, written on process 0 only; metrics of one step share a row.

    Each call hands its row to the operating system before it returns. A row that a crash truncated
    is dropped when the file is opened again. A full disk is reported once and does not end the run:
    the metrics wait in memory, and are written when there is room again.
    """

    def __init__(
        self,
        workdir: Workdir,
        open_trackers: Callable[[], Sequence[BackgroundTracker]] = lambda: (),
    ):
        """`open_trackers` is called with the first metrics, on process 0."""
        self._open_trackers = open_trackers
        self._trackers: Sequence[BackgroundTracker] | None = None
        self._active = jax.process_index() == 0
        self._table = _Table(workdir.metrics_csv)
        self._events = EventsFile(workdir.events)
        self._rows = Records(workdir.metrics_csv, self._table.write)
        self._event_records = Records(workdir.events / "events.*", self._events.write)
        self._rewinding = Observer(workdir.metrics_csv)

    def rewind(self, step: int) -> int:
        """Drop the rows after `step` when a run resumes from the checkpoint of `step`.

        Returns the number of lost steps, as far as they were logged.
        """
        if not self._active:
            return 0
        self._events.purge_step = step + 1
        logged = self._table.steps()
        self._table.keep_up_to(step)
        self._rewinding.attempt(self._table.open)
        return max([step, *logged]) - step

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add metrics, named like "train/loss", at the step written last or a later one."""
        if not self._active:
            return
        values = {name: float(value) for name, value in metrics.items()}
        self._rows.add(step, {name: f"{value:.9g}" for name, value in values.items()})
        self._event_records.add(step, values, time.time())
        if self._trackers is None:
            self._trackers = self._open_trackers()
        for tracker in self._trackers:
            tracker.log(step, values)

    def show(self, step: int, values: Mapping[str, str | Image.Image]) -> None:
        """Add texts (Markdown) and images, which only TensorBoard's events can hold."""
        if self._active and values:
            self._event_records.add(step, values, time.time())

    def close(self, end: RunEnd = RunEnd()) -> None:  # noqa: B008 - it cannot be changed
        """Write what waits. `end`: what trackers are told of how the run has ended."""
        self._rows.close()
        self._event_records.close()
        self._events.close()
        for tracker in self._trackers or ():
            tracker.close(end)


class _Table:
    """metrics.csv. Methods except `steps` may raise OSError, and can then be called again."""

    def __init__(self, path: Path):
        self._path = path
        self._keep_up_to: int | None = None
        self._ready = False
        self._columns: list[str] = [STEP]
        self._row: dict[str, str] = {}  # the last row
        self._row_start: int  # its first byte in the file, and the byte after it
        self._end: int

    def steps(self) -> list[int]:
        return [int(row[STEP]) for row in read_rows(self._path)[1]]

    def keep_up_to(self, step: int) -> None:
        """Make `open` drop the rows after `step`."""
        self._keep_up_to, self._ready = step, False

    def open(self) -> None:
        columns, rows = read_rows(self._path)
        if not rows and self._path.exists() and not self._is_metrics_file():
            self._path.rename(self._path.with_name(self._path.name + ".foreign"))
        limit = self._keep_up_to
        self._rewrite([row for row in rows if limit is None or int(row[STEP]) <= limit], columns)
        self._ready, self._keep_up_to = True, None

    def _is_metrics_file(self) -> bool:
        return self._path.read_bytes().startswith(STEP.encode())

    def write(self, step: int, texts: Mapping[str, str]) -> None:
        if not self._ready:
            self.open()
        same_step = self._row.get(STEP) == str(step)
        row = {**(self._row if same_step else {STEP: str(step)}), **texts}
        if new := [name for name in texts if name not in self._columns]:
            earlier = [old for old in read_rows(self._path)[1] if int(old[STEP]) != step]
            self._rewrite([*earlier, row], [*self._columns, *new])
            return
        start = self._row_start if same_step else self._end
        line = _line(row, self._columns)
        try:
            # A part of a row that a failed attempt left is after `_end`, and is overwritten.
            with self._path.open("r+b") as file:
                file.seek(start)
                file.write(line)
                file.truncate()
        except FileNotFoundError:
            # Deleted, or moved with the workdir: the next attempt starts a new file.
            self._ready = False
            raise
        self._row, self._row_start, self._end = row, start, start + len(line)

    def _rewrite(self, rows: list[dict[str, str]], columns: list[str]) -> None:
        lines = [_line(row, columns) for row in [dict(zip(columns, columns)), *rows]]
        write_atomically(self._path, b"".join(lines).decode())
        self._columns, self._row = columns, dict(rows[-1]) if rows else {}
        self._end = sum(map(len, lines))
        self._row_start = self._end - len(lines[-1])


def _line(row: Mapping[str, str], columns: list[str]) -> bytes:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow([row.get(name, "") for name in columns])
    return buffer.getvalue().encode()
