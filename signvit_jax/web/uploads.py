"""Uploaded videos: stored in files without a name, and refused as soon as they are too large.

The system removes a file without a name when it is closed, and when the process ends, even if it
is killed.
"""

import asyncio
import contextlib
import dataclasses
import os
import tempfile
from collections.abc import AsyncIterator
from typing import IO

from python_multipart import MultipartParser
from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import parse_options_header
from starlette.requests import ClientDisconnect, Request

from signvit_jax.web.responses import RequestError

_MAX_FIELD_BYTES = 10_000  # of all fields except the video, together
_MAX_PARTS = 20
_MAX_HEADER_BYTES = 10_000  # of the headers of all parts, together


@dataclasses.dataclass
class Upload:
    """An uploaded video, and the other fields of its form.

    Attributes:
        file: The video, in a file without a name.
        size: Bytes of the video.
        fields: Name -> text of the other fields.
    """

    file: IO[bytes]
    size: int = 0
    fields: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def path(self) -> str:
        """Path by which a decoding child process opens the file, until the file is closed."""
        return f"/proc/{os.getpid()}/fd/{self.file.fileno()}"


@contextlib.asynccontextmanager
async def receive_upload(
    request: Request, max_bytes: int, idle_seconds: float
) -> AsyncIterator[Upload]:
    """Receive the video of a request: the part `video` of a form, or the complete body.

    Raises RequestError as soon as the video has more than `max_bytes`, or if nothing arrives for
    `idle_seconds`. Raises ClientDisconnect if the client disconnects.
    """
    declared_size = request.headers.get("content-length", "")
    if declared_size.isdecimal() and int(declared_size) > max_bytes + 2 * _MAX_FIELD_BYTES:
        raise _too_large(max_bytes)
    content_type, options = parse_options_header(request.headers.get("content-type", ""))
    with tempfile.TemporaryFile(prefix="signvit_upload_") as file:
        upload = Upload(file)
        if content_type == b"multipart/form-data":
            boundary = options.get(b"boundary")
            if not boundary or len(boundary) > 200:
                raise RequestError(400, "bad_form", "the form has no boundary")
            form = _Form(upload, boundary, max_bytes)
            async for chunk in _chunks(request, idle_seconds):
                await form.add(chunk)
            form.finish()
        else:
            async for chunk in _chunks(request, idle_seconds):
                await _write(upload, chunk, max_bytes)
        if not upload.size:
            raise RequestError(
                400,
                "no_video",
                "there is no video in the request; send it as the body, or as the part 'video' of "
                "a form (curl -F video=@clip.mp4)",
            )
        file.flush()
        yield upload


class _Form:
    """Parser of a form while it arrives."""

    def __init__(self, upload: Upload, boundary: bytes, max_bytes: int):
        self._upload = upload
        self._max_bytes = max_bytes
        self._pending: list[bytes] = []  # parts of the video that are not written yet
        self._header_name = b""
        self._header_value = b""
        self._part = ""  # name of the current part
        self._counts = {"parts": 0, "headers": 0, "fields": 0}
        self._has_ended = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin_part,
                "on_header_field": self._add_header_name,
                "on_header_value": self._add_header_value,
                "on_header_end": self._end_header,
                "on_part_data": self._add_data,
                "on_end": self._end,
            },
        )

    async def add(self, chunk: bytes) -> None:
        """Parse the next bytes. Raises RequestError."""
        try:
            self._parser.write(chunk)
        except MultipartParseError as error:
            raise RequestError(400, "bad_form", f"the form cannot be read: {error}") from error
        for data in self._pending:
            await _write(self._upload, data, self._max_bytes)
        self._pending.clear()

    def finish(self) -> None:
        """Raise RequestError if the form is not complete."""
        if not self._has_ended:
            raise RequestError(400, "bad_form", "the form ends before its last boundary")

    def _count(self, what: str, number: int, limit: int) -> None:
        unit = what if what == "parts" else f"bytes of {what}"
        self._counts[what] += number
        if self._counts[what] > limit:
            raise RequestError(400, "bad_form", f"the form has more than {limit} {unit}")

    def _begin_part(self) -> None:
        self._count("parts", 1, _MAX_PARTS)
        self._part = ""

    def _add_header_name(self, data: bytes, start: int, end: int) -> None:
        self._count("headers", end - start, _MAX_HEADER_BYTES)
        self._header_name += data[start:end]

    def _add_header_value(self, data: bytes, start: int, end: int) -> None:
        self._count("headers", end - start, _MAX_HEADER_BYTES)
        self._header_value += data[start:end]

    def _end_header(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            _, options = parse_options_header(self._header_value)
            self._part = options.get(b"name", b"").decode("utf-8", "replace")
        self._header_name = self._header_value = b""

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        if self._part == "video":
            self._pending.append(data[start:end])
            return
        self._count("fields", end - start, _MAX_FIELD_BYTES)
        value = data[start:end].decode("utf-8", "replace")
        self._upload.fields[self._part] = self._upload.fields.get(self._part, "") + value

    def _end(self) -> None:
        self._has_ended = True


async def _chunks(request: Request, idle_seconds: float) -> AsyncIterator[bytes]:
    """Yield the pieces of the body as they arrive. Raises RequestError and ClientDisconnect."""
    stream = request.stream()
    while True:
        try:
            chunk = await asyncio.wait_for(anext(stream), idle_seconds)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise RequestError(
                408, "upload_stopped", f"nothing has arrived for {idle_seconds:g} s"
            ) from None
        yield chunk


async def _write(upload: Upload, data: bytes, max_bytes: int) -> None:
    upload.size += len(data)
    if upload.size > max_bytes:
        raise _too_large(max_bytes)
    try:
        await asyncio.to_thread(upload.file.write, data)
    except OSError as error:
        raise RequestError(
            507, "no_space", f"the server cannot keep the video: {error.strerror}"
        ) from error


def _too_large(max_bytes: int) -> RequestError:
    return RequestError(
        413,
        "too_large",
        f"the video is too large; allowed: at most {max_bytes / (1 << 20):g} MiB "
        "(signvit serve --max_upload_mb)",
        headers={"Connection": "close"},
    )


__all__ = ["ClientDisconnect", "Upload", "receive_upload"]
