"""What the processes of one run decide together: when to stop, and when to save within an epoch."""

import collections
import signal

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from signvit_jax.runtime.signals import EXIT_CODES, StopRequest


class StopConsensus:
    """Stop and save requests of all processes, as every process sees them at the same step.

    With one process, its requests take effect at once and cost nothing. With several processes,
    each `poll` starts an all-reduce of two numbers and reads the one that was started `LAG` polls
    before, so that no device waits for it. A signal that one process receives stops all of them two
    steps later, at the same step.
    """

    LAG = 2

    def __init__(self, stop: StopRequest):
        self._stop = stop
        self._several = jax.process_count() > 1
        self._signal = 0  # that all agree on; 0 = none
        self._save = False
        self._in_flight: collections.deque[jax.Array] = collections.deque()
        self._outdated = 0  # results in flight that were requested before the last save
        if self._several:
            mesh = Mesh(np.array(jax.devices()), ("all",))
            self._rows = NamedSharding(mesh, P("all"))
            self._largest = jax.jit(
                lambda requests: requests.max(axis=0), out_shardings=NamedSharding(mesh, P())
            )

    def poll(self, save_is_due: bool = False) -> None:
        """Exchange requests. All processes call it at the same places: every step and batch."""
        if not self._several:
            self._save = save_is_due
            return
        local_request = [self._stop.received, save_is_due]
        rows = np.array([local_request] * jax.local_device_count(), np.int32)
        self._in_flight.append(
            self._largest(jax.make_array_from_process_local_data(self._rows, rows))
        )
        self._save = False
        if len(self._in_flight) > self.LAG:
            received, save = np.asarray(self._in_flight.popleft()).tolist()
            self._signal = self._signal or received
            self._save = bool(save) and not self._outdated
            self._outdated = max(self._outdated - 1, 0)

    def mark_saved(self) -> None:
        """Record a save: it fulfills the save requests that are still in flight."""
        self._save = False
        self._outdated = len(self._in_flight)

    @property
    def stopping(self) -> bool:
        return self.received != 0

    @property
    def received(self) -> int:
        """The signal that stops the run; 0 = none.

        Of several, the largest number: SIGTERM above SIGUSR1 above SIGINT above SIGHUP.
        """
        return self._signal if self._several else self._stop.received

    @property
    def exit_code(self) -> int:
        """143, 130 or 129 for the signal that stops the run; 0 if none does."""
        return EXIT_CODES[signal.Signals(self.received)] if self.stopping else 0

    @property
    def save_is_due(self) -> bool:
        return self._save
