"""Counts of the server as Prometheus text (/metrics)."""

import collections
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

_SECONDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)  # upper bounds of buckets

_HELP = {
    "signvit_requests_total": ("counter", "Answers by path and status."),
    "signvit_refused_total": ("counter", "Requests refused by Host, Origin or token."),
    "signvit_upload_bytes_total": ("counter", "Bytes of videos received."),
    "signvit_video_seconds_total": ("counter", "Seconds of video translated."),
    "signvit_live_sessions_total": ("counter", "Live sessions begun."),
    "signvit_live_frames_total": ("counter", "Frames received in live sessions."),
    "signvit_live_dropped_total": ("counter", "Frames of live sessions that were not read."),
    "signvit_live_updates_total": ("counter", "Updates sent in live sessions."),
    "signvit_examples_total": ("counter", "Training examples saved."),
    "signvit_translation_seconds": ("histogram", "Seconds from acceptance to the last byte."),
}


class Metrics:
    """Counters, and gauges that are asked when they are written. Safe for several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: collections.Counter[tuple[str, str]] = collections.Counter()
        self._buckets = [0] * (len(_SECONDS) + 1)
        self._sum = 0.0
        self._gauges: dict[str, tuple[str, Callable[[], float]]] = {
            "process_resident_memory_bytes": ("Resident memory of the server.", resident_bytes)
        }

    def add(self, name: str, value: float = 1, **labels: str | int) -> None:
        """Add to a counter."""
        text = ",".join(f'{key}="{_escaped(str(item))}"' for key, item in labels.items())
        with self._lock:
            self._counts[name, text] += value  # pyright: ignore[reportArgumentType]

    def observe(self, seconds: float) -> None:
        """Count a translation of this length."""
        place = next((n for n, bound in enumerate(_SECONDS) if seconds <= bound), len(_SECONDS))
        with self._lock:
            self._buckets[place] += 1
            self._sum += seconds

    def gauge(self, name: str, help_text: str, value: Callable[[], float]) -> None:
        """Register a gauge."""
        self._gauges[name] = (help_text, value)

    def text(self) -> str:
        """Return all of it in Prometheus's format."""
        return "".join(f"{line}\n" for line in self._lines())

    def _lines(self) -> Iterator[str]:
        with self._lock:
            counts, buckets, total = dict(self._counts), list(self._buckets), self._sum
        for name, (kind, help_text) in _HELP.items():
            yield f"# HELP {name} {help_text}"
            yield f"# TYPE {name} {kind}"
            if kind == "histogram":
                below = 0
                for bound, count in zip([*map(str, _SECONDS), "+Inf"], buckets):
                    below += count
                    yield f'{name}_bucket{{le="{bound}"}} {below}'
                yield f"{name}_sum {total:.6f}"
                yield f"{name}_count {below}"
                continue
            found = {labels: value for (other, labels), value in counts.items() if other == name}
            for labels, value in sorted((found or {"": 0}).items()):
                yield f"{name}{{{labels}}} {value:g}" if labels else f"{name} {value:g}"
        for name, (help_text, ask) in self._gauges.items():
            yield f"# HELP {name} {help_text}"
            yield f"# TYPE {name} gauge"
            yield f"{name} {ask():g}"


def resident_bytes() -> float:
    """Bytes of memory that this process has; 0 where the system does not tell."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0.0
    found = [line for line in lines.splitlines() if line.startswith("VmRSS:")]
    return float(found[0].split()[1]) * 1024 if found else 0.0


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
