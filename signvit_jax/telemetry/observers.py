"""The one rule for all that only watches a run (figures, events, plots, samples, traces): it never ends the run and never blocks it."""

import collections
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

_WAITING = 10_000  # records kept for a disk that has no room; of a wide row each is about 2 KB
_logger = logging.getLogger(__name__)


class Observer:
    """Writes that a run can do without. A failure is named once, further ones are counted, and a return to normal is said."""

    def __init__(self, path: Path):
        self.path = path
        self.failed = 0  # attempts since the last that succeeded

    def attempt(self, write: Callable[[], Any]) -> bool:
        """Whether `write` succeeded. Any exception counts as a failure: weeks of training matter more than a plot."""
        try:
            write()
        except Exception as error:
            self.failed += 1
            if self.failed == 1:
                reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
                _logger.warning(
                    "%s cannot be written (%s); the run goes on without it", self.path, reason
                )
            return False
        if self.failed:
            _logger.warning(
                "%s is written again, after %d attempts that failed", self.path, self.failed
            )
            self.failed = 0
        return True


class Records:
    """Records on their way into a file. Where the file takes none they wait, and follow in their order as soon as it does."""

    def __init__(self, path: Path, write: Callable[..., None]):
        """`write` puts one record into the file as a whole, or raises and leaves no part of it that a reader would take for one."""
        self._observer, self._write = Observer(path), write
        self._due: collections.deque[tuple] = collections.deque(maxlen=_WAITING)
        self._dropped = 0

    def add(self, *record: Any) -> None:
        self._dropped += len(self._due) == _WAITING
        self._due.append(record)
        self.flush()

    def flush(self) -> None:
        self._observer.attempt(self._drain)

    def close(self) -> None:
        """Says what the file lacks, if anything."""
        if self._due:
            self.flush()
        if lacking := len(self._due) + self._dropped:
            _logger.warning("%s lacks %d of this run's records", self._observer.path, lacking)

    def _drain(self) -> None:
        while self._due:
            self._write(*self._due[0])
            self._due.popleft()
