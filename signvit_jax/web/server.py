"""The running server: its listening socket, and how a signal ends it."""

import asyncio
import contextlib
import logging
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

import uvicorn

from signvit_jax.runtime.exit_codes import DONE, INTERRUPTED, TERMINATED, UsageError
from signvit_jax.web.app import WebApp
from signvit_jax.web.settings import MEBIBYTE, ServerSettings

log = logging.getLogger(__name__)
_SAME_REQUEST_S = 0.2  # within this time a second signal counts as the same Ctrl-C


def listen(settings: ServerSettings, port: int) -> socket.socket:
    """Return a socket that is bound to the address; port 0 takes any free port.

    Raises UsageError if the address or port cannot be used.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((settings.host, port))
    except (OSError, OverflowError) as error:
        bound.close()
        reason = getattr(error, "strerror", None) or error
        raise UsageError(
            f"--host={settings.host} --port={port}: {reason}; give another port, or --port=0 for "
            "any free one"
        ) from error
    return bound


def run(app: WebApp, listening: socket.socket, on_ready: Callable[[], object]) -> int:
    """Serve until a signal; return the exit code.

    After the first SIGTERM or Ctrl-C the server finishes all accepted requests; a second signal
    ends it immediately. `on_ready` is called once the server accepts requests.
    """
    config = uvicorn.Config(
        app,
        lifespan="off",
        log_level="warning",
        access_log=False,  # addresses of clients and names of files are private
        server_header=False,
        ws="websockets-sansio",
        ws_max_size=MEBIBYTE,
        ws_per_message_deflate=False,
        h11_max_incomplete_event_size=64 << 10,
        timeout_keep_alive=15,
        limit_concurrency=None,
    )
    server = _Server(config, app, on_ready)
    server.run(sockets=[listening])
    return server.exit_code


class _Server(uvicorn.Server):
    """A server that ends only when the application has finished."""

    def __init__(self, config: uvicorn.Config, app: WebApp, on_ready: Callable[[], object]):
        super().__init__(config)
        self.exit_code = DONE
        self._app = app
        self._on_ready = on_ready
        self._stopped_at = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._finishing: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        self._on_ready()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals here: uvicorn would close live sessions before their last text."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        old_handlers = {
            number: signal.signal(number, self.handle_exit)
            for number in (signal.SIGTERM, signal.SIGINT)
        }
        try:
            yield
        finally:
            for number, handler in old_handlers.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._finishing is not None or self._stopped_at:
            if now - self._stopped_at > _SAME_REQUEST_S:
                self.force_exit = True
                self.should_exit = True
            return
        self._stopped_at = now
        self.exit_code = INTERRUPTED if sig == signal.SIGINT else TERMINATED
        log.warning("stopping after all accepted requests; a second signal ends the server at once")
        if self._loop is None:
            self.should_exit = True
        else:
            self._loop.call_soon_threadsafe(self._begin_to_finish)

    def _begin_to_finish(self) -> None:
        self._finishing = asyncio.get_running_loop().create_task(self._finish())

    async def _finish(self) -> None:
        try:
            await self._app.finish()
        finally:
            self.should_exit = True
