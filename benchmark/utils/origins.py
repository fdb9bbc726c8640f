"""Check requests to our servers: they must use the server's own name and come from the server's own pages.

A browser sends any web page's requests to 127.0.0.1 too. Two headers reveal them: `Host` is another name if a page has
pointed its own name at 127.0.0.1 (DNS rebinding), and `Origin` differs if another page sends the request, even one of
another server on this machine. MLflow checks both but lets every port of localhost write, and optuna-dashboard checks
neither; so both are served behind this check. Programs send no `Origin`.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterable, MutableMapping, Sequence
from fnmatch import fnmatch
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from uvicorn.protocols.http.auto import AutoHTTPProtocol

from benchmark.utils.browser import LOOPBACK

HOSTS_VARIABLE, ORIGINS_VARIABLE = "MLFLOW_SERVER_ALLOWED_HOSTS", "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"
"""MLflow's own settings, which a user may set: comma-separated, `*` for any text."""

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


def own_hosts(host: str, port: int) -> tuple[str, ...] | None:
    """Values of `Host` that name a server on `host:port`; None (any) where it does not listen on this machine alone."""
    if os.environ.get(HOSTS_VARIABLE):
        return tuple(part.strip() for part in os.environ[HOSTS_VARIABLE].split(","))
    if host not in LOOPBACK:
        return None
    names = ("127.0.0.1", "localhost", "[::1]")
    return tuple(f"{name}:{port}" for name in names) + (names if port == 80 else ())


def own_origins(host: str, port: int) -> tuple[str, ...]:
    """Values of `Origin` that are accepted besides the one that `Host` gives."""
    listed = tuple(part.strip() for part in os.environ.get(ORIGINS_VARIABLE, "").split(",") if part.strip())
    return listed or tuple(f"http://{name}" for name in own_hosts(host, port) or () if "*" not in name)


def refusal(
    hosts: Sequence[str], origins: Sequence[str], allowed: Sequence[str] | None, trusted: Sequence[str] = ()
) -> str | None:
    """Why a request is refused, whatever its method; None where it may pass.

    Args:
        hosts, origins: the values of the headers `Host` and `Origin`, each as often as it was sent.
        allowed: hosts that may be named, None for any.
        trusted: further origins that a user allows (`MLFLOW_SERVER_CORS_ALLOWED_ORIGINS`).
    """
    if len(hosts) != 1 or len(origins) > 1:
        return "the request must have one Host and at most one Origin"
    host = hosts[0]
    if allowed is not None and not _named(host, allowed):
        return "this server does not answer to that Host"
    if not origins or origins[0] in (f"http://{host}", f"https://{host}"):
        return None
    if _named(origins[0], trusted):
        return None
    return "requests from pages of another origin are refused"


def _named(value: str, patterns: Sequence[str]) -> bool:
    """Match as MLflow does: `*` makes a pattern, anything else must be equal."""
    return any(fnmatch(value, pattern) if "*" in pattern else value == pattern for pattern in patterns)


class WsgiGuard:
    """A WSGI application behind the check: refused requests get 403, and no other page may show it in a frame."""

    def __init__(self, app: WSGIApplication, host: str, port: int) -> None:
        self.app, self.allowed = app, own_hosts(host, port)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """WSGI's interface."""
        hosts, origins = ([environ[k]] if k in environ else [] for k in ("HTTP_HOST", "HTTP_ORIGIN"))
        reason = refusal(hosts, origins, self.allowed)
        if reason is not None:
            start_response("403 Forbidden", [("Content-Type", "text/plain; charset=utf-8")])
            return [reason.encode()]

        def framed(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:
            own = [("X-Frame-Options", "DENY"), ("X-Content-Type-Options", "nosniff")]
            return start_response(status, [*headers, *own], *more)

        return self.app(environ, framed)


class AsgiGuard:
    """An ASGI application behind the check: refused requests get 403, refused websockets are closed."""

    def __init__(self, app: App, host: str, port: int) -> None:
        self.app = app
        self.allowed, self.trusted = own_hosts(host, port), own_origins(host, port)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI's interface."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] == "http":
            hosts, origins = header(scope, b"host"), header(scope, b"origin")
            reason = refusal(hosts, origins, self.allowed, self.trusted)
            if reason is not None:
                await answer(send, 403, reason.encode(), b"text/plain; charset=utf-8")
                return
        await self.app(scope, receive, send)


def header(scope: Scope, name: bytes) -> list[str]:
    """All values of a header."""
    return [value.decode("latin-1") for key, value in scope["headers"] if key.lower() == name]


async def answer(send: Send, status: int, body: bytes, kind: bytes) -> None:
    """Send a whole response."""
    headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class GuardedProtocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """uvicorn's HTTP protocol with the check before whatever it serves: `uvicorn --http benchmark.utils.origins:...`.

    MLflow chooses the application itself but passes options on to uvicorn, so that is where the check comes in.
    """

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        self.app = AsgiGuard(self.guarded(config.loaded_app), config.host, config.port)

    def guarded(self, app: App) -> App:
        """The application behind the check: here the application itself."""
        return app
