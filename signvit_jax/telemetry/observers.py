"""Writers that only observe a run: metrics, events, plots, samples and traces.

One rule holds for all of them: a failing observer never ends the run and never blocks it.
"""

import collections
import logging
from collections.abc import Callable
from pathlib import Path

log = logging.getLogger(__name__)

_MAX_WAITING = 10_000  # records kept while the disk is full; a wide row takes about 2 KB


class Observer:
    """A writer of what a run does not depend on.

    The first failure is logged, further ones are counted, and the first success after them is
    logged.
    """

    def __init__(self, path: Path):
        self.path = path
        self.failed = 0  # attempts since the last that succeeded

    def attempt(self, write: Callable[[], object]) -> bool:
        """Call `write` and return whether it succeeded.

        Any exception counts as a failure: weeks of training matter more than a plot.
        """
        try:
            write()
        except Exception as error:
            self.failed += 1
            if self.failed == 1:
                reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
                log.warning(
                    "%s cannot be written (%s); the run continues without it", self.path, reason
                )
            return False
        if self.failed:
            log.warning(
                "%s is written again, after %d attempts that failed", self.path, self.failed
            )
            self.failed = 0
        return True


class Records:
    """Records for a file. If a write fails they wait, and are written in order when it succeeds."""

    def __init__(self, path: Path, write: Callable[..., None]):
        """`write` writes one record completely, or raises and leaves none that looks complete."""
        self._observer = Observer(path)
        self._write = write
        self._waiting: collections.deque[tuple] = collections.deque(maxlen=_MAX_WAITING)
        self._dropped = 0

    def add(self, *record: object) -> None:
        self._dropped += len(self._waiting) == _MAX_WAITING
        self._waiting.append(record)
        self.flush()

    def flush(self) -> None:
        self._observer.attempt(self._drain)

    def close(self) -> None:
        """Log how many records the file lacks, if any."""
        if self._waiting:
            self.flush()
        if missing := len(self._waiting) + self._dropped:
            log.warning("%s lacks %d of this run's records", self._observer.path, missing)

    def _drain(self) -> None:
        while self._waiting:
            self._write(*self._waiting[0])
            self._waiting.popleft()
