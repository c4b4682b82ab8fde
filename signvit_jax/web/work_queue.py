"""The queue of translations: some run, some wait, and the rest is refused with its place."""

import asyncio
import collections
import contextlib
import time
from collections.abc import AsyncIterator, Iterator

from signvit_jax.web.responses import RequestError

_RECENT = 20  # translations whose time tells how long waiting will take


class Ticket:
    """A place in the queue, from the acceptance of a request on."""

    def __init__(self, queue: "WorkQueue"):
        self._queue = queue
        self._turn: asyncio.Future[None] | None = None

    @property
    def place(self) -> int:
        """How many are served before this one, and one more; 0 once it runs."""
        return self._queue.place_of(self)

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for the turn, and keep it until the end of the block."""
        await self._queue.wait_for(self)
        began = time.monotonic()
        try:
            yield
        finally:
            self._queue.release(time.monotonic() - began)


class WorkQueue:
    """At most `max_running` translations run, `max_waiting` more are accepted."""

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
        """Accept a translation; yield its ticket. Raises RequestError if the queue is full."""
        if self.is_closed:
            raise stopping()
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
        """Seconds until a translation at this place has its turn, by the recent ones; >= 1."""
        mean = sum(self._seconds) / len(self._seconds) if self._seconds else 2.0
        return max(1, round(mean * place / self._max_running))

    def place_of(self, ticket: Ticket) -> int:
        """As `Ticket.place`."""
        for number, (other, _) in enumerate(self._waiting, 1):
            if other is ticket:
                return number
        return 0

    async def wait_for(self, ticket: Ticket) -> None:
        """Wait until it is this ticket's turn, in the order of asking."""
        if self.running < self._max_running and not self._waiting:
            self.running += 1
            return
        turn = asyncio.get_running_loop().create_future()
        entry = (ticket, turn)
        self._waiting.append(entry)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # it came at the same moment
                self.release(None)
            else:
                self._waiting.remove(entry)
            raise

    def release(self, seconds: float | None) -> None:
        """Give a turn to the next one; `seconds` is how long this one took."""
        if seconds is not None:
            self._seconds.append(seconds)
        self.running -= 1
        while self._waiting and self.running < self._max_running:
            _, turn = self._waiting.popleft()
            if not turn.cancelled():
                self.running += 1
                turn.set_result(None)

    async def finish(self) -> None:
        """Accept nothing more, and wait until what was accepted is done."""
        self.is_closed = True
        while self._accepted:
            await asyncio.sleep(0.05)


def stopping() -> RequestError:
    """The answer of a server that ends."""
    return RequestError(503, "stopping", "the server is stopping; it finishes what it has accepted")
