"""POST /v1/examples: save a part of a video, and its text, as a training example.

It writes the same files as `signvit record`: a video and a row of clips.csv. The flag --examples of
the server sets the folder; a request cannot choose another one.
"""

import asyncio
import math
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from signvit_jax.data.schema import STORED_FRAME_RATE
from signvit_jax.media.takes import TakeError, TakeFolder, TakeWriter, split_of
from signvit_jax.media.video import Sampling, VideoDecodeError, open_video
from signvit_jax.telemetry.prometheus import Metrics
from signvit_jax.web.responses import RequestError
from signvit_jax.web.settings import ServerSettings
from signvit_jax.web.uploads import receive_upload
from signvit_jax.web.work_queue import WorkQueue

_MAX_TEXT = 1000  # characters
_MAX_SECONDS = 60.0  # of an example: a sentence, not a recording
_SHORT_SIDE = 480  # pixels; data sets store less
_FIELDS = ("text", "start", "end", "signer")


class Examples:
    """An ASGI application that saves the video of one request as a take."""

    def __init__(
        self,
        settings: ServerSettings,
        queue: WorkQueue,
        metrics: Metrics,
        threads: ThreadPoolExecutor,
    ):
        self._settings = settings
        self._queue = queue
        self._metrics = metrics
        self._threads = threads
        self._writing = threading.Lock()  # TakeFolder has one temporary file per process

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            response = await self._save(request)
            self._metrics.add("signvit_examples_total")
        except RequestError as error:
            response = error.response()
        except ClientDisconnect:
            return
        self._metrics.add(
            "signvit_requests_total", path=request.url.path, status=response.status_code
        )
        await response(scope, receive, send)

    async def _save(self, request: Request) -> JSONResponse:
        folder, settings = self._settings.examples, self._settings
        if folder is None:
            raise RequestError(
                403,
                "no_examples",
                "this server saves no examples; start it with --examples=FOLDER to allow it",
            )
        with self._queue.enter() as ticket:
            async with receive_upload(
                request, settings.max_upload_bytes, settings.idle_seconds
            ) as upload:
                take = _Take(upload.fields, settings)
                async with ticket.turn():
                    running = asyncio.get_running_loop().run_in_executor(
                        self._threads, self._write, upload.path, take, folder
                    )
                    while not running.done():  # keep the file open until the thread has finished
                        await asyncio.shield(asyncio.wait({running}))
                    name = running.result()
        return JSONResponse({"saved": name, "table": "clips.csv"}, 201)

    def _write(self, path: str, take: "_Take", folder: Path) -> str:
        """Write the take and its row; return the name of its file. Raises RequestError."""
        with self._writing:
            try:
                takes = TakeFolder(folder)
                temporary = takes.temporary()
                try:
                    self._write_video(path, take, temporary)
                    split = split_of(takes.number_of_next(take.text))
                    values = {"split": split, "signer": take.signer}
                    return takes.add(take.text, temporary, values).name
                finally:
                    temporary.unlink(missing_ok=True)
            except VideoDecodeError as error:
                raise RequestError(
                    422, "unreadable_video", f"the video cannot be read: {error.reason}"
                ) from error
            except TakeError as error:
                raise RequestError(409, "bad_folder", str(error)) from error
            except OSError as error:
                raise RequestError(
                    507, "no_space", f"the example cannot be written: {error.strerror}"
                ) from error

    def _write_video(self, path: str, take: "_Take", temporary: Path) -> None:
        """Write the part of the video at `path` from `take.start` to `take.end`."""
        sampling = Sampling(
            short_side=_SHORT_SIDE,
            max_frame_rate=STORED_FRAME_RATE,
            start=take.start,
            end=take.end,
        )
        with open_video(path, sampling, self._settings.video_limits) as video:
            writer = TakeWriter(temporary, video.fps)
            try:
                first, seconds = None, 0.0
                for timestamp, image in video.frames:
                    first = timestamp if first is None else first
                    seconds = timestamp - first
                    if seconds > _MAX_SECONDS:
                        raise RequestError(
                            422,
                            "too_long",
                            f"an example lasts {_MAX_SECONDS:g} s at most; save the segments of "
                            "this video one by one",
                        )
                    writer.add(image, seconds)
                writer.finish(seconds + 1.0 / video.fps)
            except BaseException:
                writer.abandon()
                raise


class _Take:
    """Text, times and signer of an example, from the fields of a form. Raises RequestError."""

    def __init__(self, fields: dict[str, str], settings: ServerSettings):
        for name in fields:
            if name not in _FIELDS:
                raise RequestError(
                    400,
                    "unknown_option",
                    f"no field {name[:100]!r}; allowed: video, {', '.join(_FIELDS)}",
                )
        self.text = _one_line(fields.get("text", ""))
        self.signer = _one_line(fields.get("signer", ""))
        if not self.text or len(self.text) > _MAX_TEXT or len(self.signer) > _MAX_TEXT:
            raise RequestError(
                400,
                "bad_text",
                f"allowed: a text of 1 to {_MAX_TEXT} characters, and a signer of at most as many",
            )
        longest = 60.0 * settings.max_minutes
        self.start = _seconds("start", fields.get("start"), longest)
        self.end = _seconds("end", fields.get("end"), longest)
        if self.end is not None and self.end <= (self.start or 0.0):
            raise RequestError(400, "bad_time", "allowed: an end after the start")


def _one_line(text: str) -> str:
    """Return the text with each run of spaces and control characters replaced by one space."""
    printable = "".join(c if c.isprintable() else " " for c in text)
    return " ".join(printable.split())


def _seconds(name: str, text: str | None, longest: float) -> float | None:
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= longest:
        raise RequestError(
            400, "bad_time", f"{name} is {text[:100]!r}; allowed: seconds from 0 to {longest:g}"
        )
    return value
