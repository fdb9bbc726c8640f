"""`reliquant serve`: MLflow's scoring server behind limits on what a request may cost; errors are one line.

MLflow parses whatever it is sent, however large or deep, and answers errors with its stack traces and the input.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from collections.abc import MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from benchmark.errors import InputError
from benchmark.utils.browser import check_port
from benchmark.utils.origins import App, GuardedProtocol, Receive, Scope, Send, answer, header
from benchmark.utils.sqlite import sqlite_address

from .request import ServeRequest

JSON = b"application/json"
_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)|[\[\]{},]', re.DOTALL)
"""A string, whole or cut off (one pass over the text, whatever is in it), or a mark of structure."""


@dataclass(frozen=True)
class RequestLimits:
    """What one request may cost.

    Attributes:
        body_bytes: of the body; base64 makes an image a third larger.
        depth: of nested lists and objects; a table has three.
        marks: brackets and commas, that is, values and rows.
        upload_seconds: until the whole body is there.
        seconds: until the answer.
        at_once: requests that are worked on at the same time; further ones get 503.
    """

    body_bytes: int = 64 << 20
    depth: int = 8
    marks: int = 20_000
    upload_seconds: float = 30
    seconds: float = 60
    at_once: int = 8


class TooMuchError(Exception):
    """A request beyond a limit: HTTP status and one line."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def check_json(body: bytes, limits: RequestLimits) -> None:
    """Refuse nesting and numbers of values before a parser sees them.

    Raises:
        TooMuchError: names the limit.
    """
    depth = marks = 0
    for found in _TOKEN.finditer(body):
        token = found[0]
        if token[:1] == b'"':
            continue
        marks += 1
        depth += (token in b"[{") - (token in b"]}")
        if depth > limits.depth:
            raise TooMuchError(400, f"the JSON is nested deeper than {limits.depth}")
        if marks > limits.marks:
            raise TooMuchError(413, f"the JSON has more than {limits.marks} values; send fewer rows")


class RequestGuard:
    """An ASGI application behind `RequestLimits`."""

    def __init__(self, app: App, limits: RequestLimits) -> None:
        self.app, self.limits = app, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI's interface."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            body = await asyncio.wait_for(self._body(scope, receive), self.limits.upload_seconds)
            if body:
                await asyncio.to_thread(check_json, body, self.limits)
        except TooMuchError as error:
            await answer(send, error.status, _error(error.status, str(error)), JSON)
            return
        except TimeoutError:
            reason = f"the body took longer than {self.limits.upload_seconds:g} seconds"
            await answer(send, 408, _error(408, reason), JSON)
            return
        await _Plain(send).run(self.app, scope, _once(body))

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        kinds = header(scope, b"content-type")
        limit = self.limits.body_bytes
        if any(length.isdigit() and int(length) > limit for length in header(scope, b"content-length")):
            raise TooMuchError(413, f"the body has more than {limit} bytes")
        parts, size = [], 0
        while True:
            message = await receive()
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > limit:
                raise TooMuchError(413, f"the body has more than {limit} bytes")
            if not message.get("more_body", False):
                break
        if size and [kind.partition(";")[0].strip().lower() for kind in kinds] != [JSON.decode()]:
            raise TooMuchError(415, f"the body must be JSON (Content-Type: {JSON.decode()})")
        return b"".join(parts)


class _Plain:
    """Passes an answer on; one that says an error is cut down to its code and one line."""

    def __init__(self, send: Send) -> None:
        self._send, self._status, self._body = send, 200, b""

    async def run(self, app: App, scope: Scope, receive: Receive) -> None:
        await app(scope, receive, self._pass)

    async def _pass(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self._status = int(message["status"])
        if self._status < 400:
            await self._send(message)
        elif message["type"] == "http.response.body":
            self._body += message.get("body", b"")
            if not message.get("more_body", False):
                await answer(self._send, self._status, _plain(self._status, self._body), JSON)


def _plain(status: int, body: bytes) -> bytes:
    try:
        found = json.loads(body)
    except ValueError:
        found = {"message": body.decode("utf-8", "replace")}
    message = str(found.get("message", found.get("detail", ""))) if isinstance(found, dict) else ""
    return _error(status, message)


def _error(status: int, message: str) -> bytes:
    code = "BAD_REQUEST" if status < 500 else "INTERNAL_ERROR"
    line = " ".join(message.partition("Input:")[0].split())
    return json.dumps({"error_code": code, "message": line[:300]}).encode() + b"\n"


def _once(body: bytes) -> Receive:
    """The whole body as one message, then the silence of a client that waits."""
    waiting = [body]

    async def receive() -> MutableMapping[str, Any]:
        if waiting:
            return {"type": "http.request", "body": waiting.pop(), "more_body": False}
        await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    return receive


class ServingProtocol(GuardedProtocol):
    """uvicorn's HTTP protocol with hosts, origins and limits checked before MLflow's scoring server."""

    def guarded(self, app: App) -> App:
        """The application behind the default limits."""
        return RequestGuard(app, RequestLimits())


def run_server(request: ServeRequest) -> None:
    """Serve until the process is stopped."""
    serve(request.model, request.home, request.host, request.port, request.tracking_uri)


def serve(model: str, home: Path, host: str, port: int, tracking_uri: str | None) -> NoReturn:
    """Become MLflow's scoring server for a registered model; it runs until it is stopped.

    Args:
        model: `models:/NAME/VERSION`, as `reliquant export --register` prints it, or the folder of an MLflow model.

    Raises:
        InputError: no such URI, or the port is taken.
    """
    if not model.startswith("models:/") and not (Path(model) / "MLmodel").is_file():
        raise InputError(
            f"'{model}' is no registered model; give models:/NAME/VERSION, as `reliquant export --register` prints it"
        )
    check_port(host, port)
    limits = RequestLimits()
    environment = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_TRACKING_URI": sqlite_address(home / "mlflow.db"),
        "MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT": f"{limits.seconds:g}",
        **os.environ,
        **({"MLFLOW_TRACKING_URI": tracking_uri} if tracking_uri else {}),
        "UVICORN_HTTP": "benchmark.siblings.trackers.serving:ServingProtocol",  # also in a folder with a trackers.py
        "UVICORN_WS": "none",
        "UVICORN_LIMIT_CONCURRENCY": str(limits.at_once),
    }
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", model, "--env-manager", "local"]
    command += ["--host", host, "--port", str(port), "--timeout", f"{limits.seconds:g}"]
    os.execve(command[0], command, environment)  # the server takes this process's place: signals reach it directly
