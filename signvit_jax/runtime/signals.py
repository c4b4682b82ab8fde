"""Signals as a wish that the run reads where it can act on it: stop, save, end with the right exit code."""

import contextlib
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import TracebackType

from signvit_jax.runtime.exit_codes import HUNG_UP, INTERRUPTED, TERMINATED

EXIT_CODES = {
    signal.SIGTERM: TERMINATED,
    signal.SIGUSR1: TERMINATED,
    signal.SIGINT: INTERRUPTED,
    signal.SIGHUP: HUNG_UP,
}
# One Ctrl-C or scancel can reach a process twice, by way of its process group and of a wrapper; what comes this soon is the same wish.
_SAME_WISH_S = 0.2
_END = b"\0"
_logger = logging.getLogger(__name__)


class StopRequest:
    """Turns the first SIGTERM, SIGUSR1, SIGINT or SIGHUP into `requested`; the second ends the process at once.

    SIGHUP, of a terminal that is closed or a connection that is lost, is nobody's second wish: the shell
    and the kernel both send it. Where it was ignored already, as under nohup, it stays ignored.

    Poll `requested` between steps, in evaluation, decoding and warm-up; any thread may. Signals are received by a thread of their own: Python's
    handlers wait for the main thread, which may be inside a compilation for minutes. Works without `jax.distributed`; of several processes each
    receives its own, and `consensus.py` tells the others. Entered outside the main thread it catches nothing and `requested` stays False.
    """

    def __init__(self):
        self._received = 0
        self._since: float  # when that was
        self._nothing_to_lose = False
        self._old_handlers: dict[int, object] = {}
        self._restore = contextlib.ExitStack()

    @property
    def requested(self) -> bool:
        return self._received != 0

    @property
    def received(self) -> int:
        """The signal that came first, 0 if none did."""
        return self._received

    @property
    def exit_code(self) -> int:
        """143, 130 or 129 for the signal that came, 0 if none did."""
        return EXIT_CODES[signal.Signals(self._received)] if self._received else 0

    @contextlib.contextmanager
    def exit_immediately_on_signal(self) -> Iterator[None]:
        """While this is open, the first signal already ends the process at once: for reading the data set and for the first compilation."""
        self._nothing_to_lose = True
        try:
            if self.requested:
                self._end()
            yield
        finally:
            self._nothing_to_lose = False

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is not threading.main_thread():
            return self
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        watcher = threading.Thread(target=self._watch, args=(reading,), name="signals", daemon=True)
        watcher.start()
        self._restore.callback(os.close, writing)
        self._restore.callback(os.close, reading)
        self._restore.callback(watcher.join)
        self._restore.callback(os.write, writing, _END)
        self._restore.callback(
            signal.set_wakeup_fd, signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        )
        for number in EXIT_CODES:
            if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                continue
            # A handler has to be there for the number to be written to the pipe; all else is the watcher's.
            self._old_handlers[number] = signal.signal(number, lambda *_: None)
        self._restore.callback(self._give_back_handlers)
        os.register_at_fork(after_in_child=self._leave_in_child)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._restore.close()

    def _give_back_handlers(self) -> None:
        while self._old_handlers:
            signal.signal(*self._old_handlers.popitem())

    def _leave_in_child(self) -> None:
        """A forked reading process has to die of a signal as usual, and must not report it to its parent's pipe, which it shares."""
        if self._old_handlers:
            signal.set_wakeup_fd(-1)
            self._give_back_handlers()

    def _watch(self, reading: int) -> None:
        while (byte := os.read(reading, 1)) != _END:
            if byte[0] in EXIT_CODES:
                self._receive(signal.Signals(byte[0]))

    def _receive(self, received: signal.Signals) -> None:
        now = time.monotonic()
        if self.requested and (received == signal.SIGHUP or now - self._since < _SAME_WISH_S):
            return
        first = not self.requested
        if first:
            self._received, self._since = received, now
        if self._nothing_to_lose or not first:
            self._end()
        _logger.warning(
            "%s: stopping and saving; a second signal ends at once, without saving", received.name
        )

    def _end(self) -> None:
        """Without unwinding, which in mid-compilation is impossible; reading processes go first, so that none is left behind."""
        for child in multiprocessing.active_children():
            child.kill()
        os._exit(self.exit_code)
