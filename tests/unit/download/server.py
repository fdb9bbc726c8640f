"""A web server on the loopback: files with ranges, and what servers do wrong, on demand."""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

CHUNK = 1 << 14


@dataclass
class Page:
    """One file as it is served.

    Attributes:
        content: its bytes. etag: None for none. modified: the Last-Modified header.
        ranges: whether a Range is answered with 206; if_range: whether If-Range is looked at.
        length: whether Content-Length is sent (otherwise the connection's end is the end).
        cuts: after so many bytes of the body the connection ends; one for each request, then none.
        answers: (status, headers, body) given instead of the file; one for each request, then the file.
        headers: further ones. delay: seconds before each chunk.
    """

    content: bytes
    etag: str | None = '"1"'
    modified: str | None = None
    ranges: bool = True
    if_range: bool = True
    length: bool = True
    cuts: list[int] = field(default_factory=list)
    answers: list[tuple[int, Mapping[str, str], bytes]] = field(default_factory=list)
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0.0


@dataclass
class Server:
    """A running server; `log` has (path, Range, status, bytes sent) of each request."""

    url: str
    pages: dict[str, Page] = field(default_factory=dict)
    log: list[tuple[str, str | None, int, int]] = field(default_factory=list)

    def put(self, path: str, content: bytes, **about: Any) -> Page:
        """Serve a file under `/path`."""
        page = self.pages[f"/{path}"] = Page(content, **about)
        return page

    def at(self, path: str) -> str:
        """The address of a file."""
        return f"{self.url}/{path}"

    @property
    def sent(self) -> int:
        """Bytes of bodies so far."""
        return sum(entry[3] for entry in self.log)


@contextmanager
def serving() -> Iterator[Server]:
    """A server on a free port of the loopback."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            """Serve one request."""
            with suppress(ConnectionError):
                _serve(self, made)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    web = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    web.daemon_threads = True
    made = Server(f"http://127.0.0.1:{web.server_port}")
    thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        web.shutdown()
        web.server_close()


def _serve(handler: BaseHTTPRequestHandler, server: Server) -> None:
    wanted = handler.headers.get("Range")
    page = server.pages.get(handler.path.partition("?")[0])
    if page is None:
        _answer(handler, server, 404, {}, b"not here")
        return
    if page.answers:
        _answer(handler, server, *page.answers.pop(0))
        return
    start, status = _start(handler, page, wanted)
    size = len(page.content)
    if status == 416:
        _answer(handler, server, 416, {"Content-Range": f"bytes */{size}"}, b"")
        return
    body, headers = page.content[start:], dict(page.headers)
    headers |= {"ETag": page.etag} if page.etag else {}
    headers |= {"Last-Modified": page.modified} if page.modified else {}
    headers |= {"Content-Range": f"bytes {start}-{size - 1}/{size}"} if status == 206 else {}
    cut = page.cuts.pop(0) if page.cuts else None
    _answer(handler, server, status, headers, body, page.length, cut, page.delay)


def _start(handler: BaseHTTPRequestHandler, page: Page, wanted: str | None) -> tuple[int, int]:
    found = re.fullmatch(r"bytes=(\d+)-", wanted or "")
    known = handler.headers.get("If-Range")
    if not page.ranges or found is None:
        return 0, 200
    if page.if_range and known is not None and known not in (page.etag, page.modified):
        return 0, 200
    return (int(found[1]), 206) if int(found[1]) < len(page.content) else (0, 416)


def _answer(
    handler: BaseHTTPRequestHandler,
    server: Server,
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    length: bool = True,
    cut: int | None = None,
    delay: float = 0.0,
) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name, value)
    if length:
        handler.send_header("Content-Length", str(len(body)))
    else:
        handler.send_header("Connection", "close")
    sent, rest, number = 0, body if cut is None else body[:cut], len(server.log)
    server.log.append((handler.path, handler.headers.get("Range"), status, 0))
    handler.end_headers()
    for begin in range(0, len(rest), CHUNK):
        time.sleep(delay)
        handler.wfile.write(rest[begin : begin + CHUNK])
        sent += len(rest[begin : begin + CHUNK])
        server.log[number] = (*server.log[number][:3], sent)
    handler.wfile.flush()
    handler.close_connection = cut is not None or not length


def sha256(content: bytes) -> str:
    """Hex digits."""
    return hashlib.sha256(content).hexdigest()
