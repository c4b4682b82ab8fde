"""Seconds of a run by activity, and the steps that were lost."""

import contextlib
import threading
import time
from collections.abc import Iterator

import jax.monitoring

PARTS = {
    "rest": "start and the rest",
    "compile": "compiling",
    "data": "waiting for data",
    "step": "steps",
    "save": "saving",
    "eval": "evaluating",
}
# Events that JAX reports at the end of each phase, also for programs from the cache.
_COMPILING = (
    "/jax/core/compile/jaxpr_trace_duration",
    "/jax/core/compile/jaxpr_to_mlir_module_duration",
    "/jax/core/compile/backend_compile_duration",
)


class Goodput:
    """Seconds by part of the run; every moment since the start belongs to exactly one part.

    Parts may be nested: the inner part's time does not count for the outer one. Compiling counts
    for "compile", not for the part in which it happens. For use by one thread.
    """

    def __init__(self):
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self.steps = 0
        self.steps_replayed = 0
        self._part = "rest"
        self._since = time.perf_counter()
        self._thread = threading.get_ident()
        self._compiled = 0.0  # seconds of compiling since `_since`
        self._last_events: list[tuple[float, float]] = []  # (begin, seconds), not overlapping
        # Step of the run -> (steps, step seconds) of this start when that step was saved.
        self._at_checkpoint: dict[int | None, tuple[int, float]] = {}

    def __enter__(self) -> "Goodput":
        jax.monitoring.register_event_duration_secs_listener(self._on_event)
        return self

    def __exit__(self, *_: object) -> None:
        jax.monitoring.unregister_event_duration_listener(self._on_event)

    @contextlib.contextmanager
    def time_as(self, part: str) -> Iterator[None]:
        """Count the time that the block takes as that of `part`."""
        outer = self._switch(part)
        try:
            yield
        finally:
            self._switch(outer)

    def mark_save(self, step: int) -> None:
        """Record that a checkpoint of the run's step `step` is being written."""
        self._charge()
        self._at_checkpoint[step] = self.steps, self.seconds["step"]

    def line(self, newest_checkpoint: int | None) -> str:
        """Return the run's account in one line.

        Steps after the newest final checkpoint count as lost.
        """
        self._charge()
        total, stepping = sum(self.seconds.values()), self.seconds["step"]
        parts = ", ".join(f"{name} {self.seconds[part]:.1f} s" for part, name in PARTS.items())
        safe_steps, safe_seconds = self._at_checkpoint.get(newest_checkpoint, (0, 0.0))
        line = (
            f"goodput {stepping / max(total, 1e-9):.0%} of {total:.1f} s, {self.steps} steps: "
            f"{parts}; lost since the last checkpoint: {self.steps - safe_steps} steps"
        )
        if self.steps > safe_steps:
            line += f" ({stepping - safe_seconds:.1f} s)"
        if self.steps_replayed:
            line += f"; replayed after a restart: {self.steps_replayed} steps"
        return line

    def _switch(self, part: str) -> str:
        self._charge()
        before, self._part = self._part, part
        return before

    def _charge(self) -> None:
        now = time.perf_counter()
        self.seconds["compile"] += self._compiled
        self.seconds[self._part] += now - self._since - self._compiled
        self._since, self._compiled = now, 0.0
        self._last_events.clear()

    def _on_event(self, event: str, duration_secs: float, **_: object) -> None:
        if event not in _COMPILING or threading.get_ident() != self._thread:
            return
        begin = time.perf_counter() - duration_secs
        # Events that lie inside this one are of functions traced within it: count them once.
        while self._last_events and self._last_events[-1][0] >= begin:
            self._compiled -= self._last_events.pop()[1]
        self._last_events.append((begin, duration_secs))
        self._compiled += duration_secs
