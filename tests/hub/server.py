"""The loopback hub's server: its API, its files with ranges and redirects, its refusals, and faults on demand."""

from __future__ import annotations

import json
import os
import re
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from unittest import mock
from urllib.parse import parse_qs, quote, unquote, urlsplit

from tests.hub.repositories import File, Kind, Repository

CHUNK = 4096


@dataclass
class Request:
    """One request as it is answered; `sent`: bytes of the body that went out."""

    method: str
    path: str
    status: int
    range: str | None = None
    sent: int = 0
    token: str | None = None


@dataclass
class Fault:
    """What goes wrong with requests whose `METHOD PATH` a pattern finds.

    Attributes:
        times: how often; None for always. status, headers: the answer in place of the right one.
        cut: the body ends after so many bytes. reset: with a TCP reset where it is cut, as a dead router does.
        hang: no answer before the hub stops. pause: seconds before each `CHUNK` bytes of the body.
    """

    pattern: str
    times: int | None = None
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    cut: int | None = None
    reset: bool = False
    hang: bool = False
    pause: float = 0.0


@dataclass(frozen=True)
class Plain:
    """A file that is no part of a repository, at `/files/PATH`.

    Attributes:
        ranges: whether the server answers ranges; else it sends all with status 200.
        redirect: an address in place of the content.
    """

    content: bytes = field(default=b"", repr=False)
    content_type: str = "application/octet-stream"
    etag: str | None = None
    ranges: bool = True
    redirect: str | None = None


@dataclass
class _Answer:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    ranges: bool = False


class Hub:
    """A hub on 127.0.0.1, started by `with`.

    Attributes:
        granted: tokens that may read what is gated or private. page: entries of a page of `/tree/`.
        latency: seconds before each answer. log: requests in the order of their answers.
    """

    def __init__(self) -> None:
        self.repositories: dict[tuple[Kind, str], Repository] = {}
        self.files: dict[str, Plain] = {}
        self.faults: list[Fault] = []
        self.granted: set[str] = set()
        self.tokens: set[str] = set()
        self.page = 1000
        self.latency = 0.0
        self.log: list[Request] = []
        self._lock = threading.Lock()
        self._server: ThreadingHTTPServer | None = None
        self._port = 0
        self._stopping = threading.Event()
        self._connections: set[socket.socket] = set()

    # Its content

    def model(self, name: str) -> Repository:
        """The model of that name, made where there is none."""
        return self.repositories.setdefault(("model", name), Repository(name))

    def dataset(self, name: str) -> Repository:
        """The data set of that name, made where there is none."""
        return self.repositories.setdefault(("dataset", name), Repository(name, "dataset"))

    def plain(self, path: str, content: bytes = b"", **options: Any) -> str:
        """Serve a file outside any repository (options as `Plain`); its address."""
        self.files[path] = Plain(content, **options)
        return f"{self.url}/files/{quote(path)}"

    # What goes wrong

    def fail(self, pattern: str, status: int, times: int | None = None, **headers: str) -> Fault:
        """Answer with a status; `Retry_After="3"` gives a header."""
        return self.fault(
            pattern, times=times, status=status, headers={k.replace("_", "-"): headers[k] for k in headers}
        )

    def cut(self, pattern: str, at: int, times: int | None = 1, reset: bool = False) -> Fault:
        """Let bodies end after `at` bytes."""
        return self.fault(pattern, times=times, cut=at, reset=reset)

    def fault(self, pattern: str, **options: Any) -> Fault:
        """Add a fault (options as `Fault`); it stays until `heal`."""
        fault = Fault(pattern, **options)
        with self._lock:
            self.faults.append(fault)
        return fault

    def heal(self) -> None:
        """Take all faults away."""
        with self._lock:
            self.faults.clear()
        self.latency = 0.0

    # What was asked

    def requests(self, pattern: str = "") -> list[Request]:
        """The requests so far whose `METHOD PATH` a pattern finds."""
        with self._lock:
            return [one for one in self.log if re.search(pattern, f"{one.method} {one.path}")]

    def forget(self) -> None:
        """Empty the log."""
        with self._lock:
            self.log.clear()

    def counts(self) -> Counter[str]:
        """`METHOD PATH` without its query -> how often it was asked."""
        return Counter(f"{one.method} {one.path.split('?')[0]}" for one in self.requests())

    # Life

    @property
    def url(self) -> str:
        """`http://127.0.0.1:PORT`; the port stays the same when the hub is stopped and started again."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def storage(self) -> str:
        """Where LFS files are redirected to: by name another host, so that clients take their token away."""
        return f"http://localhost:{self._port}/cdn"

    def start(self) -> None:
        """Listen."""
        self._stopping = threading.Event()
        self._server = _Server(("127.0.0.1", self._port), partial(_Handler, self))
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Refuse connections; requests that hang end."""
        self._stopping.set()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
        with self._lock:
            for connection in self._connections:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @contextmanager
    def down(self) -> Iterator[None]:
        """Be unreachable: connections are refused."""
        self.stop()
        try:
            yield
        finally:
            self.start()

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Be a hub that takes connections and never answers."""
        fault = self.fault("", hang=True)
        try:
            yield
        finally:
            with self._lock:
                self.faults.remove(fault)

    def environment(self, folder: Path, token: str | None = None, offline: bool = False) -> dict[str, str]:
        """Variables that make clients ask this hub and keep their caches below a folder."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(folder / "hf"),
            "HF_HUB_CACHE": str(folder / "hf" / "hub"),
            "HF_DATASETS_CACHE": str(folder / "hf" / "datasets"),
            "HF_TOKEN": token or "",
            "HF_HUB_OFFLINE": "1" if offline else "0",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_XET": "1",
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
        }

    @contextmanager
    def asked_here(self, folder: Path, token: str | None = None, offline: bool = False) -> Iterator[None]:
        """Let this process ask this hub, with the client's cache below a folder."""
        from huggingface_hub import constants

        from benchmark.utils import hub_client

        own = self.environment(folder, token, offline)
        constant = {"ENDPOINT": self.url, "HF_HUB_CACHE": own["HF_HUB_CACHE"], "HF_HUB_OFFLINE": offline}
        constant["HUGGINGFACE_CO_URL_TEMPLATE"] = self.url + "/{repo_id}/resolve/{revision}/{filename}"
        hub_client._probe.cache_clear()
        with mock.patch.multiple(constants, **constant), mock.patch.dict(os.environ, own):
            yield
        hub_client._probe.cache_clear()

    # For the handler

    def taken(self, line: str) -> Fault | None:
        """The first fault for a request; one with `times` is used up."""
        with self._lock:
            for fault in self.faults:
                if fault.times != 0 and re.search(fault.pattern, line):
                    if fault.times is not None:
                        fault.times -= 1
                    return fault
        return None

    def hold(self, connection: socket.socket, held: bool) -> None:
        """Remember an open connection, or forget it."""
        with self._lock:
            (self._connections.add if held else self._connections.discard)(connection)

    def note(self, request: Request) -> None:
        """Add to the log."""
        with self._lock:
            self.log.append(request)

    def wait(self, seconds: float) -> bool:
        """Sleep; whether the hub was stopped meanwhile."""
        return self._stopping.wait(seconds)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that are killed close their connections: no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, hub: Hub, *arguments: Any) -> None:
        self.hub = hub
        super().__init__(*arguments)

    def setup(self) -> None:
        super().setup()
        self.hub.hold(self.connection, True)

    def finish(self) -> None:
        self.hub.hold(self.connection, False)
        with suppress(OSError):
            super().finish()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on stderr."""

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_GET

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        posted = self.rfile.read(length) if length else b""
        fault = self.hub.taken(f"{self.command} {self.path}")
        if self.hub.latency and self.hub.wait(self.hub.latency):
            return self._drop()
        if fault is not None and fault.hang:
            while not self.hub.wait(0.05) and fault in self.hub.faults:
                pass
            return self._drop()
        answer = _routed(self.hub, self.path, self._token(), posted)
        if fault is not None and fault.status is not None:
            answer = _Answer(fault.status, fault.body, dict(fault.headers))
        return self._send(_ranged(answer, self.headers), fault or Fault(""))

    def _token(self) -> str | None:
        return (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None

    def _send(self, answer: _Answer, fault: Fault) -> None:
        noted = Request(self.command, self.path, answer.status, self.headers.get("Range"), 0, self._token())
        self.hub.note(noted)
        try:
            self.send_response(answer.status)
            for name, value in {"Content-Length": str(len(answer.body)), **answer.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                whole = fault.cut is None or fault.cut >= len(answer.body)
                body = answer.body if whole else answer.body[: fault.cut]
                for start in range(0, len(body), CHUNK):
                    if fault.pause and self.hub.wait(fault.pause):
                        return self._drop()
                    self.wfile.write(body[start : start + CHUNK])
                    noted.sent = min(start + CHUNK, len(body))
                if not whole:
                    self._drop(fault.reset)
        except OSError:
            self.close_connection = True
        return None

    def _drop(self, reset: bool = False) -> None:
        """Close the connection without a word more."""
        self.close_connection = True
        with suppress(OSError):
            self.wfile.flush()
            if reset:
                self.hub.wait(0.05)  # what was sent is to arrive: a reset throws away what the client has not read
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            else:
                self.connection.shutdown(socket.SHUT_RDWR)
            self.connection.close()


def _ranged(answer: _Answer, asked: Mapping[str, str]) -> _Answer:
    """The part of a body that `Range` asks for: 206, or 416 where it has none."""
    found = re.fullmatch(r"bytes=(\d*)-(\d*)", asked.get("Range") or "")
    if answer.status != 200 or not answer.ranges or not found or found.groups() == ("", ""):
        return answer
    condition = asked.get("If-Range")
    if condition is not None and condition not in (answer.headers.get("ETag"), answer.headers.get("Last-Modified")):
        return answer
    size = len(answer.body)
    if not found[1]:
        first, last = max(0, size - int(found[2])), size - 1
    else:
        first, last = int(found[1]), min(size - 1, int(found[2] or size - 1))
    if first >= size or first > last:
        return _Answer(416, b"", {"Content-Range": f"bytes */{size}"})
    headers = {**answer.headers, "Content-Range": f"bytes {first}-{last}/{size}"}
    return _Answer(206, answer.body[first : last + 1], headers)


def _routed(hub: Hub, address: str, token: str | None, posted: bytes) -> _Answer:
    url = urlsplit(address)
    path, query = unquote(url.path), parse_qs(url.query)
    if found := re.fullmatch(r"/cdn/([0-9a-f]{64})(?:/.*)?", url.path):
        return _stored(hub, found[1])
    if path.startswith("/files/"):
        return _plain(hub.files.get(path.removeprefix("/files/")))
    if token is not None and token not in hub.granted | hub.tokens:
        return _refused(401, None, "Invalid credentials in Authorization header")
    if path == "/api/whoami-v2":
        return _json({"name": "somebody", "type": "user", "auth": {}}) if token else _refused(401, None, "Unauthorized")
    # the revision is one part of the address, with its own slashes encoded
    api = re.fullmatch(
        r"/api/(model|dataset)s/([^/]+(?:/[^/]+)?)(?:/(revision|tree|paths-info|refs)(?:/([^/]+))?(/.*)?)?", url.path
    )
    if api and not api[3]:
        return _api(hub, api[1], unquote(api[2]), ("revision", "main", ""), query, token, posted)
    if api:
        return _api(
            hub,
            api[1],
            unquote(api[2]),
            (api[3], unquote(api[4] or "main"), unquote(api[5] or "")),
            query,
            token,
            posted,
        )
    cached = re.fullmatch(r"/api/resolve-cache/(model|dataset)s/([^/]+/[^/]+)/([0-9a-f]{40})/(.+)", url.path)
    if cached:
        return _file(hub, cached[1], unquote(cached[2]), ("cached", cached[3], unquote(cached[4])), token)
    file = re.fullmatch(r"/(datasets/)?([^/]+(?:/[^/]+)?)/(resolve|raw)/([^/]+)/(.+)", url.path)
    if file:
        kind = "dataset" if file[1] else "model"
        return _file(hub, kind, unquote(file[2]), (file[3], unquote(file[4]), unquote(file[5])), token)
    return (
        _Answer(200, b"<html>hub</html>", {"Content-Type": "text/html"})
        if path == "/"
        else _refused(404, None, "Not found")
    )


def _api(
    hub: Hub,
    kind: str,
    name: str,
    asked: tuple[str, str, str],
    query: Mapping[str, list[str]],
    token: str | None,
    posted: bytes,
) -> _Answer:
    route, revision, rest = asked
    repository = _visible(hub, kind, name, token)
    if isinstance(repository, _Answer):
        return repository
    if route == "refs":
        branches = [
            {"name": branch, "ref": f"refs/heads/{branch}", "targetCommit": commit}
            for branch, commit in repository.branches.items()
        ]
        return _json({"branches": branches, "converts": [], "tags": []})
    commit = repository.resolve(revision)
    if commit is None:
        return _refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
    if route == "tree":
        recursive = query.get("recursive", ["false"])[0].lower() == "true"
        entries = repository.tree(commit, rest.strip("/"), recursive)
        if not entries:
            return _refused(404, "EntryNotFound", f'{rest.strip("/")} does not exist on "{revision}"')
        start = int(query.get("cursor", ["0"])[0])
        answer = _json(entries[start : start + hub.page])
        if start + hub.page < len(entries):
            more = f"{hub.url}/api/{kind}s/{name}/tree/{quote(revision, safe='')}{quote(rest)}"
            answer.headers["Link"] = f'<{more}?recursive={recursive}&cursor={start + hub.page}>; rel="next"'
        return answer
    if route == "paths-info":
        wanted = json.loads(posted)["paths"] if posted[:1] == b"{" else parse_qs(posted.decode()).get("paths", [])
        entries = {entry["path"]: entry for entry in repository.tree(commit, "", True)}
        return _json([entries[path] for path in wanted if path in entries])
    return _json(repository.about(commit))


def _visible(hub: Hub, kind: str, name: str, token: str | None) -> Repository | _Answer:
    """A repository, or the hub's refusal: the same for one that is private as for one that does not exist."""
    found = hub.repositories.get(("dataset" if kind == "dataset" else "model", name))
    if found is None or (found.private and token not in hub.granted):
        message = "Repository not found" if token else "Invalid username or password."
        return _refused(404 if token else 401, "RepoNotFound", message)
    return found


def _file(hub: Hub, kind: str, name: str, asked: tuple[str, str, str], token: str | None) -> _Answer:
    route, revision, path = asked
    repository = _visible(hub, kind, name, token)
    if isinstance(repository, _Answer):
        return repository
    if repository.gated and token not in hub.granted:
        if token is None:
            return _refused(
                401,
                "GatedRepo",
                f"Access to {kind} {name} is restricted. You must have access to it and be "
                "authenticated to access it. Please log in.",
            )
        return _refused(
            403, "GatedRepo", f"Access to {kind} {name} is restricted and you are not in the authorized list."
        )
    commit = repository.resolve(revision)
    if commit is None:
        return _refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
    file = repository.commits[commit].get(path)
    if file is None:
        return _refused(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": commit})
    headers = {"X-Repo-Commit": commit, "Accept-Ranges": "bytes", "ETag": f'"{file.etag}"'}
    if route == "raw":
        return _Answer(200, file.pointer if file.lfs else file.content, headers | {"Content-Type": "text/plain"}, True)
    if file.lfs:
        headers |= {"X-Linked-Size": str(len(file.content)), "X-Linked-ETag": f'"{file.sha256}"'}
        return _Answer(302, b"", headers | {"Location": f"{hub.storage}/{file.sha256}/{quote(path)}"})
    if route == "resolve":
        return _Answer(307, b"", headers | {"Location": f"/api/resolve-cache/{kind}s/{name}/{commit}/{quote(path)}"})
    return _Answer(200, file.content, headers | {"Content-Type": "text/plain; charset=utf-8"}, True)


def _stored(hub: Hub, sha256: str) -> _Answer:
    """A file of LFS by its SHA-256."""
    found: Iterator[File] = (
        file
        for repository in hub.repositories.values()
        for tree in repository.commits.values()
        for file in tree.values()
        if file.lfs and file.sha256 == sha256
    )
    file = next(found, None)
    if file is None:
        return _Answer(403, b"<Error><Code>AccessDenied</Code></Error>", {"Content-Type": "application/xml"})
    headers = {"ETag": f'"{file.sha256}"', "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
    return _Answer(200, file.content, headers, True)


def _plain(file: Plain | None) -> _Answer:
    if file is None:
        return _Answer(404, b"not found", {"Content-Type": "text/plain"})
    if file.redirect is not None:
        return _Answer(302, b"", {"Location": file.redirect})
    headers = {"Content-Type": file.content_type}
    headers |= {"ETag": file.etag} if file.etag else {}
    headers |= {"Accept-Ranges": "bytes"} if file.ranges else {}
    return _Answer(200, file.content, headers, file.ranges)


def _json(content: Any) -> _Answer:
    return _Answer(200, json.dumps(content).encode(), {"Content-Type": "application/json; charset=utf-8"})


def _refused(status: int, code: str | None, message: str, more: Mapping[str, str] | None = None) -> _Answer:
    answer = _json({"error": message})
    headers = {**answer.headers, "X-Error-Message": message, **({"X-Error-Code": code} if code else {}), **(more or {})}
    return _Answer(status, answer.body, headers)
