"""Documents that the server sends as JSON: errors, segments, translations and events."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.responses import JSONResponse, Response

from signvit_jax.captions.formats import Captions
from signvit_jax.captions.segments import Segment
from signvit_jax.errors.base import SignVitError
from signvit_jax.inference.translator import Translation


class RequestError(SignVitError):
    """A refused request.

    Attributes:
        status: HTTP status of the answer.
        code: Name of the error, for programs.
        headers: Additional headers of the answer.
        place: Place that the request would have in a full queue; else None.
    """

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
        self.place = place

    def document(self) -> dict[str, object]:
        """Return the JSON document of the error."""
        place = {} if self.place is None else {"place": self.place}
        return {"error": {"code": self.code, "message": str(self), **place}}

    def response(self) -> Response:
        """Return the HTTP response."""
        return JSONResponse(self.document(), self.status, self.headers)


def segment_document(segment: Segment, seconds: float | None = None) -> dict[str, object]:
    """Return a segment as `signvit translate --format=json --word_times` writes it."""
    return _document([segment], seconds)["segments"][0]


def translation_document(translation: Translation) -> dict[str, object]:
    """Return a translation as `--format=json` writes it, with confidence, length and warnings."""
    return {
        **_document(translation.segments, translation.seconds),
        "confidence": translation.confidence,
        "seconds": translation.seconds,
        "decoder": translation.decoder,
        "warnings": list(translation.warnings),
    }


def _document(segments: Sequence[Segment], seconds: float | None) -> dict[str, Any]:
    return json.loads(Captions(segments, seconds, word_times=True).as_format("json"))


def json_line(document: Mapping[str, object]) -> bytes:
    """Return an event as a line of JSON."""
    return json.dumps(document, ensure_ascii=False, allow_nan=False).encode() + b"\n"
