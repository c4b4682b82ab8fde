"""WS /v1/live: captions of camera frames, over a websocket.

The client sends each frame as a JPEG, and {"event": "end"} after the last frame. The server sends
{"event": "ready"}, then {"event": "update", ...} every half second, and at last
{"event": "ended"}.
"""

import asyncio
import collections
import contextlib
import json
import threading
import time

from starlette.websockets import WebSocket, WebSocketDisconnect

from signvit_jax.errors.base import SignVitError
from signvit_jax.inference.streaming import LiveSession, StreamUpdate
from signvit_jax.inference.translator import Translator
from signvit_jax.media.video import VideoDecodeError, decode_jpeg, start_decoder
from signvit_jax.telemetry.prometheus import Metrics
from signvit_jax.web.responses import RequestError, segment_document
from signvit_jax.web.settings import FRAME_LIMITS, ServerSettings
from signvit_jax.web.work_queue import stopping_error

# Close codes of websockets; codes from 4000 on are defined by the application.
_DONE, _GOING_AWAY, _UNSUPPORTED, _FAULT, _TRY_LATER, _IDLE = 1000, 1001, 1003, 1011, 1013, 4408
# Limits of the frames of one session that wait to be decoded: ten seconds at 25 frames per second.
# Decoding takes about a millisecond per frame.
_MAX_WAITING, _MAX_WAITING_BYTES = 250, 8 << 20
_SEND_SECONDS = 10.0  # end the session of a client that receives nothing for this long
_SHORT_SIDE = 256  # pixels; the decoder may halve an image down to this size


class LiveSessions:
    """The live sessions of all clients. `serve` is the websocket endpoint."""

    def __init__(self, translator: Translator, settings: ServerSettings, metrics: Metrics):
        self._translator = translator
        self._settings = settings
        self._metrics = metrics
        self._open: set[_Connection] = set()
        self._is_closed = False

    @property
    def count(self) -> int:
        """Number of open sessions."""
        return len(self._open)

    async def serve(self, socket: WebSocket) -> None:
        """Serve one client."""
        await socket.accept()
        if self._is_closed:
            await _refuse(socket, stopping_error(), _GOING_AWAY)
            return
        if len(self._open) >= self._settings.max_live:
            message = (
                f"{len(self._open)} live sessions are open, and {self._settings.max_live} are "
                "allowed (signvit serve --max_live); try again when one has ended"
            )
            await _refuse(socket, RequestError(429, "too_many_sessions", message), _TRY_LATER)
            return
        self._metrics.add("signvit_live_sessions_total")
        session = self._translator.live(decode=self._settings.decode)
        connection = _Connection(socket, session, self._settings.idle_seconds, self._metrics)
        self._open.add(connection)
        try:
            await connection.run()
        finally:
            self._open.discard(connection)

    async def finish(self) -> None:
        """End all sessions, each with its final text, and wait until they are closed."""
        self._is_closed = True
        for connection in list(self._open):
            connection.end(_GOING_AWAY)
        while self._open:
            await asyncio.sleep(0.05)


class _Connection:
    """The session of one client: one thread decodes its frames, another translates them."""

    def __init__(
        self, socket: WebSocket, session: LiveSession, idle_seconds: float, metrics: Metrics
    ):
        self._socket = socket
        self._session = session
        self._idle_seconds = idle_seconds
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._outgoing: asyncio.Queue[dict[str, object] | None] = asyncio.Queue()  # None: the end
        # Frames that wait to be decoded: seconds since the first frame, and JPEG.
        self._frames: collections.deque[tuple[float, bytes]] = collections.deque()
        self._waiting_bytes = 0  # of the JPEGs in `_frames`
        self._changed = threading.Condition()
        self._has_ended = False
        self._dropped = 0  # frames dropped before they were decoded
        self._close_code = _DONE
        self._receiving: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Serve the client until its session ends or it disconnects; then stop all threads."""
        threads = [
            threading.Thread(target=run, name="signvit_live", daemon=True)
            for run in (self._decode, self._translate)
        ]
        for thread in threads:
            thread.start()
        try:
            while (event := await self._outgoing.get()) is not None:
                await self._send(event)
                if event["event"] == "ready":  # idle time counts from here
                    self._receiving = asyncio.create_task(self._receive())
            await self._send({"event": "ended"})
            await self._close()
        except (WebSocketDisconnect, TimeoutError, RuntimeError):  # the client has disconnected
            self._session.cancel()
        except BaseException:
            self._session.cancel()
            raise
        finally:
            if self._receiving is not None:
                self._receiving.cancel()
            self._stop_decoding()
            for thread in threads:
                while thread.is_alive():
                    await asyncio.sleep(0.02)

    def end(self, code: int) -> None:
        """Send the rest of the text as final, and close the websocket with `code`."""
        self._close_code = code
        self._stop_decoding()

    async def _close(self) -> None:
        with contextlib.suppress(RuntimeError, WebSocketDisconnect):
            await self._socket.close(self._close_code)

    async def _send(self, event: dict[str, object]) -> None:
        async with asyncio.timeout(_SEND_SECONDS):
            await self._socket.send_text(json.dumps(event, ensure_ascii=False, allow_nan=False))

    async def _receive(self) -> None:
        """Receive frames until the client ends the session, disconnects, or is idle."""
        began = None
        try:
            while not self._has_ended:
                async with asyncio.timeout(self._idle_seconds):
                    message = await self._socket.receive()
                if message["type"] == "websocket.disconnect":
                    self._session.cancel()
                    self._stop_decoding()
                    return
                content = message.get("bytes")
                if content is not None:
                    arrived = time.monotonic()
                    began = arrived if began is None else began
                    self._add_frame(arrived - began, content)
                elif _is_end(message.get("text") or ""):
                    self._stop_decoding()
                    return
                else:
                    self._fail(
                        "bad_message",
                        'allowed: a JPEG as a binary message, or {"event": "end"}',
                        _UNSUPPORTED,
                    )
                    return
        except TimeoutError:
            self._fail("idle", f"no frame has arrived for {self._idle_seconds:g} s", _IDLE)

    def _add_frame(self, seconds: float, content: bytes) -> None:
        self._metrics.add("signvit_live_frames_total")
        with self._changed:
            self._frames.append((seconds, content))
            self._waiting_bytes += len(content)
            while len(self._frames) > _MAX_WAITING or self._waiting_bytes > _MAX_WAITING_BYTES:
                self._waiting_bytes -= len(self._frames.popleft()[1])
                self._dropped += 1
                self._metrics.add("signvit_live_dropped_total")
            self._changed.notify()

    def _stop_decoding(self) -> None:
        """Let the decoding thread finish the waiting frames, and then end the session."""
        with self._changed:
            self._has_ended = True
            self._changed.notify()

    def _next_frame(self) -> tuple[float, bytes] | None:
        with self._changed:
            while not self._frames and not self._has_ended:
                self._changed.wait()
            if not self._frames:
                return None
            frame = self._frames.popleft()
            self._waiting_bytes -= len(frame[1])
            return frame

    def _decode(self) -> None:
        """Decode frames and push them into the session; runs in a thread."""
        try:
            start_decoder()  # before "ready", because it may take seconds
            self._queue_event({"event": "ready"})
            while not self._session.has_ended and (frame := self._next_frame()) is not None:
                seconds, content = frame
                image = decode_jpeg(content, _SHORT_SIDE, FRAME_LIMITS, "a frame")
                self._session.push(image, seconds)
        except VideoDecodeError as error:
            self._fail("unreadable_frame", str(error), _UNSUPPORTED)
        except SignVitError as error:
            self._fail("bad_frame", str(error), _UNSUPPORTED)
        except Exception:
            self._fail("fault", "an unexpected error; the log of the server has details", _FAULT)
            raise
        finally:
            self._session.end()

    def _translate(self) -> None:
        """Translate the frames and queue the updates for the client; runs in a thread."""
        dropped = 0
        try:
            for update in self._session.updates(wait=True):
                self._metrics.add("signvit_live_updates_total")
                self._metrics.add("signvit_live_dropped_total", update.dropped - dropped)
                dropped = update.dropped
                self._queue_event(update_document(update, self._dropped))
        except Exception:
            self._fail("fault", "an unexpected error; the log of the server has details", _FAULT)
            raise
        finally:
            self._queue_event(None)

    def _fail(self, code: str, message: str, close_code: int) -> None:
        """Send the client the reason, make the rest of the text final, and end the session."""
        self._close_code = close_code
        self._queue_event({"event": "error", "error": {"code": code, "message": message}})
        self._stop_decoding()

    def _queue_event(self, event: dict[str, object] | None) -> None:
        with contextlib.suppress(RuntimeError):  # the event loop of the server is closed
            self._loop.call_soon_threadsafe(self._outgoing.put_nowait, event)


def update_document(update: StreamUpdate, dropped: int) -> dict[str, object]:
    """Return the event for an update. `dropped`: number of frames dropped before decoding."""
    return {
        "event": "update",
        "seconds": update.seconds,
        "partial": update.partial,
        "text": update.text,
        "final": [segment_document(segment) for segment in update.final],
        "latency": update.latency,
        "dropped": update.dropped + dropped,
    }


def _is_end(text: str) -> bool:
    try:
        return len(text) < 1000 and json.loads(text) == {"event": "end"}
    except (ValueError, RecursionError):
        return False


async def _refuse(socket: WebSocket, error: RequestError, code: int) -> None:
    await socket.send_text(json.dumps({"event": "error", **error.document()}))
    await socket.close(code)
