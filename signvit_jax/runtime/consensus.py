"""What the processes of one run decide together: to stop, and to save in mid-epoch."""

import collections
import signal

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from signvit_jax.runtime.signals import EXIT_CODES, StopRequest


class StopConsensus:
    """The wishes of all processes as each of them sees them at the same step. With one process they are its own, at once and at no cost.

    With several, each `poll` starts an all-reduce of two numbers and reads the one that was started `LAG` polls before, so that no device waits for
    it: a signal that one process receives stops all of them two steps later, at the same step.
    """

    LAG = 2

    def __init__(self, stop: StopRequest):
        self._stop = stop
        self._several = jax.process_count() > 1
        self._signal = 0  # agreed upon, 0 = none
        self._save = False
        self._under_way: collections.deque[jax.Array] = collections.deque()
        self._outdated = 0  # results to come that were asked for before the last save
        if self._several:
            mesh = Mesh(np.array(jax.devices()), ("all",))
            self._rows = NamedSharding(mesh, P("all"))
            self._largest = jax.jit(
                lambda wishes: wishes.max(axis=0), out_shardings=NamedSharding(mesh, P())
            )

    def poll(self, save_is_due: bool = False) -> None:
        """To be called by all processes at the same places: once a step, once a batch of evaluation."""
        if not self._several:
            self._save = save_is_due
            return
        wish = np.array([[self._stop.received, save_is_due]] * jax.local_device_count(), np.int32)
        self._under_way.append(
            self._largest(jax.make_array_from_process_local_data(self._rows, wish))
        )
        self._save = False
        if len(self._under_way) > self.LAG:
            received, save = np.asarray(self._under_way.popleft()).tolist()
            self._signal = self._signal or received
            self._save = bool(save) and not self._outdated
            self._outdated = max(self._outdated - 1, 0)

    def saved(self) -> None:
        """A save was made: wishes for one that are still under way are fulfilled."""
        self._save, self._outdated = False, len(self._under_way)

    @property
    def stopping(self) -> bool:
        return self.received != 0

    @property
    def received(self) -> int:
        """The signal that stops the run, 0 if none; of several the one with the largest number (SIGTERM above SIGUSR1 above SIGINT above SIGHUP)."""
        return self._signal if self._several else self._stop.received

    @property
    def exit_code(self) -> int:
        """143, 130 or 129 for the signal that stops the run, 0 if none does."""
        return EXIT_CODES[signal.Signals(self.received)] if self.stopping else 0

    @property
    def save_is_due(self) -> bool:
        return self._save
