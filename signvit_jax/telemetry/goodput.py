"""Where the time of a run goes, and what of it was lost."""

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
# Told by JAX at the end of each; of programs that come from the cache too.
_COMPILING = (
    "/jax/core/compile/jaxpr_trace_duration",
    "/jax/core/compile/jaxpr_to_mlir_module_duration",
    "/jax/core/compile/backend_compile_duration",
)


class Goodput:
    """Seconds by part; every moment since it was made belongs to exactly one. Compiling is taken out of the part in which it happens.

    Parts may be nested: the inner one's time is not the outer one's. For one thread.
    """

    def __init__(self):
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self.steps = self.steps_replayed = 0
        self._part = "rest"
        self._since = time.perf_counter()
        self._thread = threading.get_ident()
        self._compiled = 0.0  # not yet charged
        self._last_events: list[tuple[float, float]] = []  # (begin, seconds), one after the other
        self._at_checkpoint: dict[
            int | None, tuple[int, float]
        ] = {}  # step of the run -> steps and seconds of this start until then

    def __enter__(self) -> "Goodput":
        jax.monitoring.register_event_duration_secs_listener(self._listen)
        return self

    def __exit__(self, *_: object) -> None:
        jax.monitoring.unregister_event_duration_listener(self._listen)

    @contextlib.contextmanager
    def spent(self, part: str) -> Iterator[None]:
        """Charges the time until the end of the context to a part."""
        outer = self._switch(part)
        try:
            yield
        finally:
            self._switch(outer)

    def saving(self, step: int) -> None:
        """A checkpoint of this step of the run is being written."""
        self._charge()
        self._at_checkpoint[step] = self.steps, self.seconds["step"]

    def line(self, newest_checkpoint: int | None) -> str:
        """The account of the run so far; what came after the newest checkpoint that is final is lost."""
        self._charge()
        total, stepping = sum(self.seconds.values()), self.seconds["step"]
        parts = ", ".join(f"{name} {self.seconds[part]:.1f} s" for part, name in PARTS.items())
        safe_steps, safe_seconds = self._at_checkpoint.get(newest_checkpoint, (0, 0.0))
        lost = f"lost since the last checkpoint: {self.steps - safe_steps} steps"
        if self.steps > safe_steps:
            lost += f" ({stepping - safe_seconds:.1f} s)"
        again = (
            f"; lost by an earlier start and made again: {self.steps_replayed} steps"
            if self.steps_replayed
            else ""
        )
        return f"goodput {stepping / max(total, 1e-9):.0%} of {total:.1f} s, {self.steps} steps: {parts}; {lost}{again}"

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

    def _listen(self, event: str, seconds: float, **_: object) -> None:
        if event not in _COMPILING or threading.get_ident() != self._thread:
            return
        begin = time.perf_counter() - seconds
        while (
            self._last_events and self._last_events[-1][0] >= begin
        ):  # a function traced within this one
            self._compiled -= self._last_events.pop()[1]
        self._last_events.append((begin, seconds))
        self._compiled += seconds
