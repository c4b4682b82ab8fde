"""The OpenAPI document of the server (/v1/openapi.json)."""

from collections.abc import Mapping

from signvit_jax import __version__
from signvit_jax.captions.formats import FORMATS
from signvit_jax.cli.inference_flags import DECODER_NAMES
from signvit_jax.web.translations import CAPTION_TYPES, EVENTS

_SEGMENT = {
    "type": "object",
    "required": ["start", "end", "text"],
    "properties": {
        "start": {"type": "number", "description": "seconds"},
        "end": {"type": "number", "description": "seconds"},
        "text": {"type": "string"},
        "score": {"type": ["number", "null"], "description": "score of the decoder"},
        "confidence": {"type": ["number", "null"], "minimum": 0, "maximum": 1},
        "words": {
            "type": "array",
            "description": "with times in seconds of the video: those of the signs that CTC "
            "detected, or else in proportion to the lengths of the words",
            "items": {
                "type": "object",
                "properties": {
                    "text": {"type": "string"},
                    "confidence": {"type": ["number", "null"]},
                    "start": {"type": "number"},
                    "end": {"type": "number"},
                    "timed_by": {"enum": ["ctc", "length"]},
                },
            },
        },
        "alternatives": {"type": "array", "items": {"type": "object"}},
    },
}
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message"],
            "properties": {
                "code": {"type": "string"},
                "message": {"type": "string"},
                "place": {"type": "integer", "description": "place in the queue that is full"},
            },
        }
    },
}
_SCHEMAS = {
    "Segment": _SEGMENT,
    "Error": _ERROR,
    "Translation": {
        "type": "object",
        "required": ["text", "segments", "confidence", "seconds", "decoder", "warnings"],
        "properties": {
            "text": {"type": "string"},
            "segments": {"type": "array", "items": {"$ref": "#/components/schemas/Segment"}},
            "confidence": {"type": "number"},
            "seconds": {"type": "number", "description": "length of the video"},
            "decoder": {"type": "string"},
            "warnings": {"type": "array", "items": {"type": "string"}},
        },
    },
    "Segments": {
        "type": "object",
        "required": ["segments"],
        "properties": {
            "segments": {"type": "array", "items": {"$ref": "#/components/schemas/Segment"}},
            "seconds": {"type": ["number", "null"], "description": "length of the video"},
        },
    },
}
_ERRORS = {
    400: "an option or a form that is not allowed",
    401: "the token is missing or wrong",
    403: "a page of another origin, or a feature that this server was not started with",
    408: "the upload stopped",
    413: "the video is too large; sent as soon as the limit is exceeded",
    421: "a Host that is not this server",
    422: "a video that cannot be read",
    429: "the queue is full; `place` is the place of the request, Retry-After the seconds to wait",
    503: "the server is stopping",
}


def openapi_document() -> Mapping[str, object]:
    """Return the OpenAPI document."""
    decode = _query("decode", {"type": "string", "enum": list(DECODER_NAMES)})
    confidence = _query("min_confidence", {"type": "number", "minimum": 0, "maximum": 1})
    caption_format = _query("format", {"type": "string", "enum": list(FORMATS), "default": "vtt"})
    translation = {"schema": {"$ref": "#/components/schemas/Translation"}}
    events = {
        "schema": {"type": "string"},
        "example": '{"event": "queued", "place": 2}\n{"event": "started", "seconds": 9.0}\n'
        '{"event": "segment", "start": 0.1, "end": 2.0, "text": "..."}\n'
        '{"event": "progress", "seconds": 2.0}\n{"event": "done", "text": "..."}\n',
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "signvit serve",
            "version": __version__,
            "description": "Translation of sign-language video to text. Texts can be wrong.",
        },
        "security": [{}, {"token": []}],
        "paths": {
            "/v1/translate": {
                "post": {
                    "summary": "Translate a video.",
                    "description": f"With Accept: {EVENTS} a line of JSON for each event: "
                    "queued, started, segment, progress, and finally done or error.",
                    "parameters": [decode, confidence],
                    "requestBody": _video(),
                    "responses": {
                        "200": _answer(
                            "the translation", {"application/json": translation, EVENTS: events}
                        ),
                        **_errors(400, 401, 403, 408, 413, 421, 422, 429, 503),
                    },
                }
            },
            "/v1/captions": {
                "post": {
                    "summary": "Translate a video to a caption file, or write segments as one.",
                    "parameters": [caption_format, decode, confidence],
                    "requestBody": _video(
                        {"application/json": {"schema": {"$ref": "#/components/schemas/Segments"}}}
                    ),
                    "responses": {
                        "200": _answer(
                            "the caption file",
                            {kind: {"schema": {"type": "string"}} for kind in _caption_types()},
                        ),
                        **_errors(400, 401, 403, 408, 413, 421, 422, 429, 503),
                    },
                }
            },
            "/v1/examples": {
                "post": {
                    "summary": "Save a part of a video, and its text, as a training example.",
                    "requestBody": _video(
                        fields={
                            "text": {"type": "string"},
                            "start": {"type": "number", "description": "seconds"},
                            "end": {"type": "number", "description": "seconds"},
                            "signer": {"type": "string"},
                        }
                    ),
                    "responses": {
                        "201": _answer(
                            "saved", {"application/json": {"schema": {"type": "object"}}}
                        ),
                        **_errors(400, 401, 403, 408, 413, 421, 422, 429, 503),
                    },
                }
            },
            "/v1/live": {
                "get": {
                    "summary": "Live captions over a websocket.",
                    "description": "Send a JPEG per frame as a binary message, and "
                    '{"event": "end"} at the end. Messages of the server: {"event": "ready"}; '
                    '{"event": "update", "seconds", "partial", "text", "final": [Segment], '
                    '"latency", "dropped"} every half second; {"event": "error", "error"}; '
                    '{"event": "ended"}. The token goes into the query: ?token=.',
                    "responses": {"101": {"description": "a websocket"}, **_errors(401, 403, 421)},
                }
            },
            "/v1/model": {
                "get": {
                    "summary": "Facts of the model, and limits of this server.",
                    "responses": {
                        "200": _answer(
                            "facts", {"application/json": {"schema": {"type": "object"}}}
                        ),
                        **_errors(401, 421),
                    },
                }
            },
            "/v1/openapi.json": {
                "get": {
                    "summary": "This document.",
                    "responses": {
                        "200": _answer(
                            "OpenAPI", {"application/json": {"schema": {"type": "object"}}}
                        ),
                        **_errors(401, 421),
                    },
                }
            },
            "/healthz": {
                "get": {
                    "summary": "State of the server.",
                    "responses": {
                        status: _answer(state, {"application/json": {"schema": {"type": "object"}}})
                        for status, state in (("200", "running"), ("503", "stopping"))
                    },
                }
            },
            "/metrics": {
                "get": {
                    "summary": "Metrics, in the text format of Prometheus.",
                    "responses": {
                        "200": _answer("metrics", {"text/plain": {"schema": {"type": "string"}}}),
                        **_errors(401, 421),
                    },
                }
            },
        },
        "components": {
            "schemas": _SCHEMAS,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _caption_types() -> list[str]:
    return list(CAPTION_TYPES.values())


def _query(name: str, schema: Mapping[str, object]) -> Mapping[str, object]:
    return {"name": name, "in": "query", "required": False, "schema": schema}


def _video(
    others: Mapping[str, object] | None = None, fields: Mapping[str, object] | None = None
) -> Mapping[str, object]:
    binary = {"type": "string", "format": "binary"}
    form = {
        "type": "object",
        "required": ["video"],
        "properties": {"video": binary, **(fields or {})},
    }
    return {
        "required": True,
        "content": {
            "multipart/form-data": {"schema": form},
            "application/octet-stream": {"schema": binary},
            **(others or {}),
        },
    }


def _answer(description: str, content: Mapping[str, object]) -> Mapping[str, object]:
    return {"description": description, "content": content}


def _errors(*statuses: int) -> Mapping[str, object]:
    schema = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {str(status): _answer(_ERRORS[status], schema) for status in statuses}
