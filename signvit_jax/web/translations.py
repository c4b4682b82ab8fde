"""POST /v1/translate and /v1/captions: translate an uploaded video to texts with times."""

import asyncio
import contextlib
import json
import math
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeGuard

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from signvit_jax.captions.formats import FORMATS, Captions
from signvit_jax.captions.segments import Segment
from signvit_jax.captions.word_times import FROM_CTC
from signvit_jax.cli.inference_flags import DECODER_NAMES
from signvit_jax.config.errors import ConfigError
from signvit_jax.errors.nearest import did_you_mean
from signvit_jax.inference.options import InferenceOptions
from signvit_jax.inference.translator import Translation, Translator
from signvit_jax.media.video import VideoDecodeError, read_header
from signvit_jax.telemetry.prometheus import Metrics
from signvit_jax.text import writing_systems
from signvit_jax.text.words import TimedWord, Word
from signvit_jax.web.responses import (
    RequestError,
    json_line,
    segment_document,
    translation_document,
)
from signvit_jax.web.settings import ServerSettings
from signvit_jax.web.uploads import Upload, receive_upload
from signvit_jax.web.work_queue import Ticket, WorkQueue

EVENTS = "application/x-ndjson"
CAPTION_TYPES = {
    "vtt": "text/vtt",
    "srt": "application/x-subrip",
    "txt": "text/plain",
    "tsv": "text/tab-separated-values",
    "json": "application/json",
    "ass": "text/x-ssa",
    "ttml": "application/ttml+xml",
    "eaf": "application/xml",
}
_MAX_JSON_BYTES = 8 << 20
_MAX_SEGMENTS = 20_000
_MAX_TIME = 1e6  # seconds
_PLACE_SECONDS = 1.0  # between checks of the place in the queue
_DRAIN_SECONDS = 2.0  # discard the rest of a refused upload for this long


class _Stopped(Exception):
    """The client has disconnected, so its translation ends."""


class Translations:
    """An ASGI application that translates the video of one request.

    `as_captions`: answer with a caption file instead of JSON. `language`: tag of the language of
    the texts, such as "de", for caption formats that state it; empty if unknown.
    """

    def __init__(
        self,
        translator: Translator,
        settings: ServerSettings,
        queue: WorkQueue,
        metrics: Metrics,
        threads: ThreadPoolExecutor,
        *,
        as_captions: bool = False,
        language: str = "",
    ):
        self._translator = translator
        self._settings = settings
        self._queue = queue
        self._metrics = metrics
        self._threads = threads
        self._as_captions = as_captions
        self._language = language

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        start = time.monotonic()
        status = 499  # the client has disconnected
        try:
            if self._as_captions and _is_json(request):
                response = await self._write_captions(request)
            else:
                response = await self._translate(request, send)
            status = response.status_code if response is not None else 200
            if response is not None:
                await response(scope, receive, send)
        except RequestError as error:
            status = error.status
            await error.response()(scope, receive, send)
            await _drain(receive)
        except ClientDisconnect:
            pass
        finally:
            self._metrics.add("signvit_requests_total", path=request.url.path, status=status)
            self._metrics.observe(time.monotonic() - start)

    async def _translate(self, request: Request, send: Send) -> Response | None:
        """Return the response; None if it was sent as events already."""
        options = _Options.of(request, self._settings, self._as_captions)
        wants_events = not self._as_captions and EVENTS in request.headers.get("accept", "")
        limits = self._settings
        with self._queue.enter() as ticket:
            async with receive_upload(
                request, limits.max_upload_bytes, limits.idle_seconds
            ) as upload:
                self._metrics.add("signvit_upload_bytes_total", upload.size)
                options = options.with_fields(upload.fields)
                if wants_events:
                    await self._send_events(request, send, upload, options, ticket)
                    return None
                translation = None
                async for event in self._events(request, upload, options, ticket):
                    if isinstance(event, Translation):
                        translation = event
                assert translation is not None  # `_events` ends with it, or raises
        if self._as_captions:
            return self._captions(translation.segments, translation.seconds, options)
        return JSONResponse(translation_document(translation))

    async def _send_events(
        self, request: Request, send: Send, upload: Upload, options: "_Options", ticket: Ticket
    ) -> None:
        headers = [(b"content-type", f"{EVENTS}; charset=utf-8".encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})

        async def send_line(document: dict[str, object]) -> None:
            await send(
                {"type": "http.response.body", "body": json_line(document), "more_body": True}
            )

        try:
            async for event in self._events(request, upload, options, ticket):
                if isinstance(event, Translation):
                    await send_line({"event": "done", **translation_document(event)})
                else:
                    await send_line(event)
        except RequestError as error:
            await send_line({"event": "error", **error.document()})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _events(
        self, request: Request, upload: Upload, options: "_Options", ticket: Ticket
    ) -> AsyncIterator[dict[str, object] | Translation]:
        """Yield the events of a translation, and finally the translation.

        Raises RequestError if the video cannot be read, and ClientDisconnect.
        """
        events: asyncio.Queue[dict[str, object]] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def emit(event: dict[str, object]) -> None:  # called in the thread of the translation
            loop.call_soon_threadsafe(events.put_nowait, event)

        work = asyncio.create_task(self._work(upload, options, ticket, emit))
        disconnected = asyncio.create_task(_disconnection(request))
        place = -1
        try:
            await asyncio.sleep(0)  # let the task start, which gives the ticket its place
            while not (work.done() and events.empty()):
                if ticket.place not in (0, place):
                    place = ticket.place
                    yield {"event": "queued", "place": place}
                next_event = asyncio.create_task(events.get())
                done, _ = await asyncio.wait(
                    {next_event, disconnected, work},
                    timeout=_PLACE_SECONDS,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if next_event in done:
                    yield next_event.result()
                else:
                    next_event.cancel()
                if disconnected in done:
                    raise ClientDisconnect
                if work in done:
                    await asyncio.sleep(0)  # let the last events of its thread reach the queue
            yield work.result()
        finally:
            disconnected.cancel()
            if not work.done():
                work.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await work

    async def _work(
        self,
        upload: Upload,
        options: "_Options",
        ticket: Ticket,
        emit: Callable[[dict[str, object]], None],
    ) -> Translation:
        """Translate in a thread once `ticket` has its turn. Raises RequestError."""
        stop = threading.Event()

        def translate() -> Translation:
            header = read_header(upload.path, [], self._settings.video_limits)
            emit({"event": "started", "seconds": header.seconds})

            def on_segment(segment: Segment) -> None:
                emit({"event": "segment", **segment_document(segment)})

            def on_progress(seconds: float) -> None:
                if stop.is_set():
                    raise _Stopped
                emit({"event": "progress", "seconds": seconds})

            return self._translator.translate(
                upload.path,
                decode=options.decode,
                on_segment=on_segment,
                on_progress=on_progress,
                **options.inference,
            )

        async with ticket.turn():
            running = asyncio.get_running_loop().run_in_executor(self._threads, translate)
            try:
                translation = await asyncio.shield(running)
            except asyncio.CancelledError:
                # Keep the file open until the thread has finished: otherwise another file could get
                # the same descriptor, and the thread would read that one.
                stop.set()
                while not running.done():
                    with contextlib.suppress(asyncio.CancelledError):
                        await asyncio.wait({running})
                running.exception()
                raise
            except VideoDecodeError as error:
                raise RequestError(
                    422, "unreadable_video", f"the video cannot be read: {error.reason}"
                ) from error
            except ConfigError as error:
                raise RequestError(400, "bad_option", str(error)) from error
        self._metrics.add("signvit_video_seconds_total", translation.seconds)
        return translation

    async def _write_captions(self, request: Request) -> Response:
        """Write segments that the client sends, such as corrected ones, as a caption file."""
        options = _Options.of(request, self._settings, as_captions=True)
        segments, seconds = await read_segments(request)
        return self._captions(segments, seconds, options)

    def _captions(
        self, segments: Sequence[Segment], seconds: float | None, options: "_Options"
    ) -> Response:
        captions = Captions(segments, seconds, word_times=True, language=self._language)
        text = captions.as_format(options.format)
        return Response(text, media_type=CAPTION_TYPES[options.format])


class _Options:
    """Options of a request: its query parameters and form fields. Raises RequestError."""

    def __init__(self, values: dict[str, str], settings: ServerSettings, as_captions: bool):
        self._values = values
        self._settings = settings
        self._as_captions = as_captions
        allowed = ("decode", "min_confidence", *(("format",) if as_captions else ()))
        for name in values:
            if name not in allowed:
                raise RequestError(
                    400,
                    "unknown_option",
                    f"no option {name[:100]!r}; allowed: {', '.join(allowed)}"
                    f"{did_you_mean(name[:100], allowed)}",
                )
        self.decode = values.get("decode", settings.decode)
        self.format = values.get("format", "vtt")
        _check_choice("decode", self.decode, DECODER_NAMES)
        _check_choice("format", self.format, FORMATS)
        self.inference = InferenceOptions()  # replaces values of the model's config
        if "min_confidence" in values:
            self.inference["min_confidence"] = _fraction("min_confidence", values["min_confidence"])

    @classmethod
    def of(cls, request: Request, settings: ServerSettings, as_captions: bool) -> "_Options":
        return cls(dict(request.query_params), settings, as_captions)

    def with_fields(self, fields: dict[str, str]) -> "_Options":
        """Return these options, updated by the fields of the form."""
        return _Options(self._values | fields, self._settings, self._as_captions)


async def read_segments(request: Request) -> tuple[list[Segment], float | None]:
    """Read `{"segments": [{"start", "end", "text", "words"}], "seconds"}`.

    Words that do not match their text, for example because the text was corrected, are dropped.
    Raises RequestError.
    """
    document = await read_json(request, _MAX_JSON_BYTES)
    refusal = RequestError(
        400,
        "bad_segments",
        'allowed: {"segments": [{"start": 0.0, "end": 1.5, "text": "..."}, ...], "seconds": 9.0}, '
        f"at most {_MAX_SEGMENTS:,} segments, times from 0 to {_MAX_TIME:g}",
    )
    if not isinstance(document, dict) or not isinstance(document.get("segments"), list):
        raise refusal
    seconds = document.get("seconds")
    if seconds is not None and not _is_time(seconds):
        raise refusal
    segments = []
    for item in document["segments"]:
        if not isinstance(item, dict) or not isinstance(item.get("text"), str):
            raise refusal
        start, end, confidence = item.get("start"), item.get("end"), item.get("confidence")
        if not _is_time(start) or not _is_time(end):
            raise refusal
        if confidence is not None and not _is_time(confidence):
            raise refusal
        words = _words(item["text"], item.get("words"))
        segments.append(Segment(start, end, item["text"], confidence=confidence, words=words))
    if len(segments) > _MAX_SEGMENTS:
        raise refusal
    return segments, seconds


def _words(text: str, items: object) -> tuple[Word, ...]:
    """Return the words of a text from their JSON items; () if these do not match the text."""
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        return ()
    pieces = writing_systems.pieces(text)
    if [item.get("text") for item in items] != [piece.removeprefix(" ") for piece in pieces]:
        return ()
    return tuple(_word(piece, item) for piece, item in zip(pieces, items))


def _word(piece: str, item: dict[str, object]) -> Word:
    start, end, confidence = item.get("start"), item.get("end"), item.get("confidence")
    text, space = piece.removeprefix(" "), piece.startswith(" ")
    confidence = float(confidence) if _is_time(confidence) else math.nan
    if item.get("timed_by") == FROM_CTC and _is_time(start) and _is_time(end):
        return TimedWord(text, confidence, space, start=float(start), end=float(end))
    return Word(text, confidence, space)


async def read_json(request: Request, max_bytes: int) -> object:
    """Read a small JSON body. Raises RequestError and ClientDisconnect."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            raise RequestError(413, "too_large", f"allowed: at most {max_bytes:,} bytes of JSON")
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise RequestError(400, "bad_json", "the body is not JSON") from None


def _is_time(value: object) -> TypeGuard[int | float]:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return 0 <= value <= _MAX_TIME


def _is_json(request: Request) -> bool:
    return request.headers.get("content-type", "").partition(";")[0].strip() == "application/json"


def _check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise RequestError(
            400,
            "bad_option",
            f"{name} is {value[:100]!r}; allowed: {', '.join(allowed)}"
            f"{did_you_mean(value[:100], allowed)}",
        )


def _fraction(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise RequestError(
            400, "bad_option", f"{name} is {text[:100]!r}; allowed: a number from 0 to 1"
        )
    return value


async def _disconnection(request: Request) -> None:
    """Wait until the client disconnects. Its complete body was received before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _drain(receive: Receive) -> None:
    """Receive and discard the rest of a refused upload, for at most `_DRAIN_SECONDS`.

    A client whose connection closes while it still sends would not get the answer.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_DRAIN_SECONDS):
            while True:
                message = await receive()
                if message["type"] != "http.request" or not message.get("more_body"):
                    return
