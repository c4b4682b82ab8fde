"""Signals as a request to stop, which the run polls where it can save and end cleanly."""

import contextlib
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType

from signvit_jax.runtime.exit_codes import HUNG_UP, INTERRUPTED, TERMINATED

EXIT_CODES = {
    signal.SIGTERM: TERMINATED,
    signal.SIGUSR1: TERMINATED,
    signal.SIGINT: INTERRUPTED,
    signal.SIGHUP: HUNG_UP,
}
# One Ctrl-C or scancel can reach a process twice, through its process group and through a wrapper.
# A second signal within this time counts as the same request.
_SAME_REQUEST_S = 0.2
_END = b"\0"
log = logging.getLogger(__name__)
_Handler = Callable[[int, FrameType | None], object] | int | signal.Handlers


class StopRequest:
    """The request to stop: the first SIGTERM, SIGUSR1, SIGINT or SIGHUP; a second one exits.

    SIGHUP, of a terminal that is closed or a connection that is lost, never counts as the second:
    the shell and the kernel both send it. Where it was ignored already, as under nohup, it stays
    ignored.

    Poll `requested` between steps, in evaluation, decoding and warm-up; any thread may. A separate
    thread receives the signals, because Python's handlers wait for the main thread, which may be
    compiling for minutes. Works without `jax.distributed`; of several processes each receives its
    own signals, and `consensus.py` tells the others. Outside the main thread it catches nothing and
    `requested` stays False.
    """

    def __init__(self):
        self._received = 0
        self._received_at: float  # time.monotonic() of the first signal
        self._exit_immediately = False
        self._old_handlers: dict[int, _Handler] = {}
        self._restore = contextlib.ExitStack()

    @property
    def requested(self) -> bool:
        return self._received != 0

    @property
    def received(self) -> int:
        """The first signal; 0 = none."""
        return self._received

    @property
    def exit_code(self) -> int:
        """143, 130 or 129 for the first signal; 0 if there was none."""
        return EXIT_CODES[signal.Signals(self._received)] if self._received else 0

    @contextlib.contextmanager
    def exit_immediately_on_signal(self) -> Iterator[None]:
        """Exit at the first signal while this is open, because there is nothing to save.

        For reading the data set and for the first compilation.
        """
        self._exit_immediately = True
        try:
            if self.requested:
                self._exit()
            yield
        finally:
            self._exit_immediately = False

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
            # Python writes a signal's number to the pipe only if it has a handler of its own.
            before = signal.signal(number, lambda *_: None)
            # None: a handler that was not installed from Python, and cannot be put back.
            self._old_handlers[number] = signal.SIG_DFL if before is None else before
        self._restore.callback(self._restore_handlers)
        os.register_at_fork(after_in_child=self._restore_in_child)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._restore.close()

    def _restore_handlers(self) -> None:
        while self._old_handlers:
            signal.signal(*self._old_handlers.popitem())

    def _restore_in_child(self) -> None:
        """Let a forked reading process die of a signal as usual.

        Otherwise it would report the signal to its parent, whose pipe it shares.
        """
        if self._old_handlers:
            signal.set_wakeup_fd(-1)
            self._restore_handlers()

    def _watch(self, reading: int) -> None:
        while (byte := os.read(reading, 1)) != _END:
            if byte[0] in EXIT_CODES:
                self._receive(signal.Signals(byte[0]))

    def _receive(self, received: signal.Signals) -> None:
        now = time.monotonic()
        if self.requested:
            if received == signal.SIGHUP or now - self._received_at < _SAME_REQUEST_S:
                return
            self._exit()
        self._received = received
        self._received_at = now
        if self._exit_immediately:
            self._exit()
        log.warning(
            "%s: stopping and saving; a second signal ends at once, without saving", received.name
        )

    def _exit(self) -> None:
        """Exit without unwinding, which is impossible during a compilation.

        Reading processes are killed first, so that none is left behind.
        """
        for child in multiprocessing.active_children():
            child.kill()
        os._exit(self.exit_code)
