"""Answers of the server: errors as JSON, and the events of a translation."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.responses import JSONResponse, Response

from signvit_jax.captions.formats import Captions
from signvit_jax.captions.segments import Segment
from signvit_jax.errors.base import SignVitError
from signvit_jax.inference.translator import Translation


class RequestError(SignVitError):
    """A request that is refused: the status of the answer, a code for programs, and a message."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        headers: Mapping[str, str] | None = None,
        place: int | None = None,
    ):
        super().__init__(message)
        self.status = status
        self.code = code
        self.headers = dict(headers or {})
        self.place = place  # in the queue that is full

    def document(self) -> dict[str, object]:
        """Return what the answer says."""
        place = {} if self.place is None else {"place": self.place}
        return {"error": {"code": self.code, "message": str(self), **place}}

    def response(self) -> Response:
        """Return the answer."""
        return JSONResponse(self.document(), self.status, self.headers)


def segment_document(segment: Segment, seconds: float | None = None) -> dict[str, object]:
    """Return a segment as `signvit translate --format=json --word_times` writes it."""
    return _document([segment], seconds)["segments"][0]


def translation_document(found: Translation) -> dict[str, object]:
    """Return a translation as JSON: that of `--format=json`, and what else is known."""
    return {
        **_document(found.segments, found.seconds),
        "confidence": found.confidence,
        "seconds": found.seconds,
        "decoder": found.decoder,
        "warnings": list(found.warnings),
    }


def _document(segments: Sequence[Segment], seconds: float | None) -> dict[str, Any]:
    return json.loads(Captions(segments, seconds, word_times=True).as_format("json"))


def json_line(document: Mapping[str, object]) -> bytes:
    """Return an event as a line of JSON."""
    return json.dumps(document, ensure_ascii=False, allow_nan=False).encode() + b"\n"
