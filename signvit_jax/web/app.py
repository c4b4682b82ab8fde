"""The web application: its paths, and the objects that their handlers share."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypedDict

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import Receive, Scope, Send

from signvit_jax import __version__
from signvit_jax.captions.language_tags import language_tag
from signvit_jax.exporting.model_card import languages_of
from signvit_jax.inference.trained_model import TrainedModel
from signvit_jax.inference.translator import Translator
from signvit_jax.telemetry.prometheus import Metrics
from signvit_jax.web.access import AccessControl
from signvit_jax.web.examples import Examples
from signvit_jax.web.live import LiveSessions
from signvit_jax.web.openapi import openapi_document
from signvit_jax.web.responses import RequestError
from signvit_jax.web.settings import ServerSettings
from signvit_jax.web.translations import Translations
from signvit_jax.web.work_queue import WorkQueue

PAGE = Path(__file__).parent / "page"
_PAGE_FILES = {
    "/": ("index.html", "text/html"),
    "/app.js": ("app.js", "text/javascript"),
    "/camera.js": ("camera.js", "text/javascript"),
    "/style.css": ("style.css", "text/css"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}


class ModelFacts(TypedDict):
    """Facts of a model; a language is None if neither its card nor its data set states it."""

    name: str
    step: int
    data_set: str
    sign_language: str | None
    text_language: str | None
    version: str
    is_demo: bool


def model_facts(model: TrainedModel, is_demo: bool = False) -> ModelFacts:
    """Return the facts of a loaded model: the name of its folder, but not its private path."""
    folder = Path(model.workdir.path)
    sign_language, text_language = languages_of(model) or (None, None)
    return ModelFacts(
        name="demo" if is_demo else folder.resolve().name,
        step=model.step,
        data_set=model.config.data.name,
        sign_language=sign_language,
        text_language=text_language,
        version=__version__,
        is_demo=is_demo,
    )


class WebApp:
    """The ASGI application of one translator.

    Attributes:
        queue: Running and waiting translations.
        live: Open live sessions.
        is_warm: True once all programs are compiled. Earlier requests wait for their programs.
    """

    def __init__(self, translator: Translator, facts: ModelFacts, settings: ServerSettings):
        self.settings = settings
        self.metrics = Metrics()
        self.queue = WorkQueue(settings.max_running, settings.max_waiting)
        self.live = LiveSessions(translator, settings, self.metrics)
        self.is_warm = False
        self._facts = facts
        threads = ThreadPoolExecutor(settings.max_running, "signvit_web")
        shared = (translator, settings, self.queue, self.metrics, threads)
        queue, live = self.queue, self.live
        self.metrics.gauge(
            "signvit_running", "Translations that run.", lambda: float(queue.running)
        )
        self.metrics.gauge(
            "signvit_waiting", "Translations that wait.", lambda: float(queue.waiting)
        )
        self.metrics.gauge("signvit_live_sessions", "Open sessions.", lambda: float(live.count))
        pages = [
            Route(path, _file(name, media_type), methods=["GET"])
            for path, (name, media_type) in _PAGE_FILES.items()
        ]
        language = language_tag(facts["text_language"] or "")
        captions = Translations(*shared, as_captions=True, language=language)
        examples = Examples(settings, self.queue, self.metrics, threads)
        application = Starlette(
            routes=[
                *pages,
                Route("/v1/translate", Translations(*shared), methods=["POST"]),
                Route("/v1/captions", captions, methods=["POST"]),
                Route("/v1/examples", examples, methods=["POST"]),
                WebSocketRoute("/v1/live", self.live.serve),
                Route("/v1/model", self._model, methods=["GET"]),
                Route("/v1/openapi.json", _openapi, methods=["GET"]),
                Route("/healthz", self._health, methods=["GET"]),
                Route("/metrics", self._metrics, methods=["GET"]),
            ],
            exception_handlers={404: _no_such_path, 405: _no_such_method},
        )
        self._application = AccessControl(
            application,
            settings,
            lambda code: self.metrics.add("signvit_refused_total", reason=code),
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._application(scope, receive, send)

    async def finish(self) -> None:
        """Refuse new requests; finish accepted ones, and send live sessions their last text."""
        self.queue.is_closed = True
        await self.live.finish()
        await self.queue.finish()

    async def _health(self, request: Request) -> Response:
        status = "stopping" if self.queue.is_closed else "ok"
        return JSONResponse(
            {
                "status": status,
                "is_warm": self.is_warm,
                "version": __version__,
                "running": self.queue.running,
                "waiting": self.queue.waiting,
                "live_sessions": self.live.count,
            },
            200 if status == "ok" else 503,
        )

    async def _model(self, request: Request) -> Response:
        settings = self.settings
        return JSONResponse(
            {
                **self._facts,
                "decode": settings.decode,
                "max_upload_bytes": settings.max_upload_bytes,
                "max_minutes": settings.max_minutes,
                "examples": str(settings.examples) if settings.examples else None,
            }
        )

    async def _metrics(self, request: Request) -> Response:
        return PlainTextResponse(
            self.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8"
        )


def _file(name: str, media_type: str):  # noqa: ANN202
    async def serve(request: Request) -> Response:
        return FileResponse(PAGE / name, media_type=media_type)

    return serve


async def _openapi(request: Request) -> Response:
    return JSONResponse(openapi_document())


async def _no_such_path(request: Request, error: Exception) -> Response:
    return RequestError(
        404, "no_such_path", f"no {request.url.path[:100]!r}; see /v1/openapi.json"
    ).response()


async def _no_such_method(request: Request, error: Exception) -> Response:
    headers = getattr(error, "headers", None)
    return RequestError(
        405,
        "no_such_method",
        f"{request.method[:20]} is not allowed here; see /v1/openapi.json",
        headers=headers,
    ).response()
