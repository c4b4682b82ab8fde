"""Control of access: Host, Origin and token of requests, and security headers of responses.

The check of Host stops DNS rebinding: a foreign page lets its own host name point to this machine.
The check of Origin stops POST requests and websockets of foreign pages; browsers send these without
asking the server first.
"""

import hmac
import ipaddress
from collections.abc import Callable
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from signvit_jax.web.responses import RequestError
from signvit_jax.web.settings import LOOPBACK, ServerSettings

_CONTENT_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob:",
        "media-src 'self' blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
SECURITY_HEADERS = {
    "Content-Security-Policy": _CONTENT_POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
_NEEDS_TOKEN = ("/v1/", "/metrics")


class AccessControl:
    """ASGI application that passes permitted requests on to `app`, and refuses all others.

    `on_refusal` is called with the error code of each refused request.
    """

    def __init__(self, app: ASGIApp, settings: ServerSettings, on_refusal: Callable[[str], object]):
        self._app = app
        self._settings = settings
        self._on_refusal = on_refusal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                MutableHeaders(scope=message).update(SECURITY_HEADERS)
            await send(message)

        try:
            self._check(scope)
        except RequestError as error:
            self._on_refusal(error.code)
            await error.response()(scope, receive, send_with_headers)
            return
        await self._app(scope, receive, send_with_headers)

    def _check(self, scope: Scope) -> None:
        """Raise RequestError if the request is not permitted."""
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not self._is_own_name(_name_of(host)):
            raise RequestError(
                421,
                "wrong_host",
                f"the Host of the request is {host[:100]!r}; open the page by the address that "
                "`signvit serve` printed, or name this one with --host_name",
            )
        is_socket = scope["type"] == "websocket"
        if is_socket or scope.get("method") not in ("GET", "HEAD"):
            self._check_origin(headers, host)
        if self._settings.token is not None and scope["path"].startswith(_NEEDS_TOKEN):
            self._check_token(headers, scope if is_socket else None)

    def _check_origin(self, headers: Headers, host: str) -> None:
        origin = headers.get("origin")
        # Browsers always send Origin here. Programs such as curl do not; they act for their user.
        if origin is not None and origin not in (f"http://{host}", f"https://{host}"):
            raise RequestError(
                403,
                "wrong_origin",
                f"the request comes from a page of {origin[:100]!r}; only pages of this server "
                "may send videos",
            )

    def _check_token(self, headers: Headers, socket: Scope | None) -> None:
        given = headers.get("authorization", "").removeprefix("Bearer ")
        if not given and socket is not None:  # a page cannot set headers of a websocket
            query = parse_qs(socket["query_string"].decode("latin-1"))
            given = query.get("token", [""])[0]
        expected = self._settings.token or ""
        if not hmac.compare_digest(given.encode(), expected.encode()):
            raise RequestError(
                401,
                "wrong_token",
                "this server requires the token that `signvit serve` printed; open the address "
                "with #token=..., or send 'Authorization: Bearer TOKEN'",
                headers={"WWW-Authenticate": "Bearer"},
            )

    def _is_own_name(self, name: str) -> bool:
        """Return True if clients may address this server by `name`."""
        if name in LOOPBACK or name in self._settings.host_names:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return not self._settings.is_local  # DNS rebinding needs a name, not a numeric address


def _name_of(host: str) -> str:
    """Return the name in a Host header, without its port and the brackets of IPv6."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.rpartition(":")[0].lower() if ":" in host else host.lower()
