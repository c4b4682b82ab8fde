"""The queue of translations: some run, some wait, and further ones are refused."""

import asyncio
import collections
import contextlib
import time
from collections.abc import AsyncIterator, Iterator

from signvit_jax.web.responses import RequestError

_RECENT = 20  # number of recent translations from which waiting times are estimated


class Ticket:
    """An accepted translation in the queue."""

    def __init__(self, queue: "WorkQueue"):
        self._queue = queue
        self._turn: asyncio.Future[None] | None = None

    @property
    def place(self) -> int:
        """Position among the waiting translations, from 1; 0 if it does not wait."""
        return self._queue.place_of(self)

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait until this translation may run; it counts as running until the block ends."""
        await self._queue.wait_for(self)
        start = time.monotonic()
        try:
            yield
        finally:
            self._queue.release(time.monotonic() - start)


class WorkQueue:
    """A queue in which at most `max_running` translations run and `max_waiting` wait.

    Attributes:
        running: Number of running translations.
        is_closed: True once the server stops and accepts no more translations.
    """

    def __init__(self, max_running: int, max_waiting: int):
        self._max_running = max_running
        self._max_waiting = max_waiting
        self._accepted: set[Ticket] = set()  # received, waiting or running
        self._waiting: collections.deque[tuple[Ticket, asyncio.Future[None]]] = collections.deque()
        self._seconds: collections.deque[float] = collections.deque(maxlen=_RECENT)
        self.running = 0
        self.is_closed = False

    @property
    def waiting(self) -> int:
        """Number of accepted translations that do not run yet."""
        return len(self._accepted) - self.running

    @contextlib.contextmanager
    def enter(self) -> Iterator[Ticket]:
        """Accept a translation; yield its ticket.

        Raises RequestError if the queue is full or closed.
        """
        if self.is_closed:
            raise stopping_error()
        if len(self._accepted) >= self._max_running + self._max_waiting:
            place = self.waiting + 1
            seconds = self.expected_seconds(place)
            raise RequestError(
                429,
                "queue_full",
                f"{self.running} videos are being translated and {self.waiting} wait; this one "
                f"would be number {place} in a queue of {self._max_waiting}. Try again in "
                f"{seconds} s",
                headers={"Retry-After": str(seconds)},
                place=place,
            )
        ticket = Ticket(self)
        self._accepted.add(ticket)
        try:
            yield ticket
        finally:
            self._accepted.discard(ticket)

    def expected_seconds(self, place: int) -> int:
        """Estimated seconds until a translation at this place may run, at least 1."""
        mean = sum(self._seconds) / len(self._seconds) if self._seconds else 2.0
        return max(1, round(mean * place / self._max_running))

    def place_of(self, ticket: Ticket) -> int:
        """Return the position of a ticket, as `Ticket.place`."""
        for number, (other, _) in enumerate(self._waiting, 1):
            if other is ticket:
                return number
        return 0

    async def wait_for(self, ticket: Ticket) -> None:
        """Wait until the translation of `ticket` may run. The first to wait is the first to run."""
        if self.running < self._max_running and not self._waiting:
            self.running += 1
            return
        turn = asyncio.get_running_loop().create_future()
        entry = (ticket, turn)
        self._waiting.append(entry)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # the turn came before the cancellation
                self.release(None)
            else:
                self._waiting.remove(entry)
            raise

    def release(self, seconds: float | None) -> None:
        """End a running translation, and let the next one run.

        `seconds` is its running time; None if it did not run.
        """
        if seconds is not None:
            self._seconds.append(seconds)
        self.running -= 1
        while self._waiting and self.running < self._max_running:
            _, turn = self._waiting.popleft()
            if not turn.cancelled():
                self.running += 1
                turn.set_result(None)

    async def finish(self) -> None:
        """Accept no more translations, and wait until the accepted ones are done."""
        self.is_closed = True
        while self._accepted:
            await asyncio.sleep(0.05)


def stopping_error() -> RequestError:
    """Return the error of a server that is stopping."""
    return RequestError(503, "stopping", "the server is stopping and accepts no requests")
