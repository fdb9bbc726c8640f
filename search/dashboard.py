"""`reliquant dashboard`: serve optuna-dashboard on the studies, without authentication, to this machine only."""

from __future__ import annotations

import shlex
import socket
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from sqlalchemy import create_engine, inspect
from sqlalchemy.engine import make_url

from benchmark.errors import InputError, StorageError, masked
from benchmark.utils.browser import LOOPBACK, check_port, open_later
from benchmark.utils.origins import WsgiGuard

from .journal import check_journal
from .request import DashboardRequest
from .storage import journal_path


class _Server(ThreadingMixIn, WSGIServer):
    """Handles each request in a daemon thread, which does not keep the process alive."""

    daemon_threads = True


class _Server6(_Server):
    """The server for the IPv6 loopback address `::1`."""

    address_family = socket.AF_INET6


class _Handler(WSGIRequestHandler):
    """Logs errors only."""

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Log no request."""


def run_dashboard(request: DashboardRequest) -> None:
    """Serve the dashboard until the process is stopped."""
    serve(request.home, request.host, request.port, request.storage, request.browse)


def serve(home: Path, host: str, port: int, storage: str | None = None, browse: bool = False) -> None:
    """Serve the dashboard until the process is stopped.

    It runs in this process: as an argument of another one, everybody on the machine could read the storage's password.

    Args:
        browse: open a browser on it when it answers.

    Raises:
        InputError: optuna-dashboard is missing, `host` is not this machine, there is no study, or the port is taken.
        StorageError: the storage does not exist or cannot be read.
    """
    if find_spec("optuna_dashboard") is None:
        raise InputError(
            "reliquant dashboard: optuna-dashboard is not installed. Run pip install 'reliquant[search-ui]'"
        )
    if host not in LOOPBACK:
        raise InputError(
            f"--host {host}: the dashboard has no authentication and serves this machine only. Use 127.0.0.1."
        )
    where = storage or str(journal_path(home))
    if storage is None and not Path(where).is_file():
        way = f"reliquant search demo --home {shlex.quote(str(home))}"
        raise InputError(f"--home {home}: it holds no study. Create one with `{way}`.")
    check_studies(where)
    check_port(host, port)
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}/dashboard"
    print(address, flush=True)
    if browse:
        open_later(host, port, address)
    from optuna_dashboard import wsgi

    kind = _Server6 if ":" in host else _Server
    absolute = where if "://" in where else str(Path(where).absolute())  # `redis-...` is taken for an address
    guarded = WsgiGuard(wsgi(absolute), host, port)
    with suppress(KeyboardInterrupt), make_server(host, port, guarded, kind, _Handler) as server:
        server.serve_forever()


def check_studies(where: str) -> None:
    """Check that a storage exists, without creating it: the dashboard would create it, or fail with a traceback.

    Args:
        where: path of a journal, or URL of a database.

    Raises:
        StorageError: it does not exist, cannot be reached, or holds no studies.
    """
    if "://" not in where:
        if not Path(where).is_file():
            raise StorageError(f"--storage {where}: no such file. Name the journal of an existing study.")
        check_journal(Path(where))
        return
    try:
        url = make_url(where)
        there = not url.drivername.startswith("sqlite") or Path(url.database or "").is_file()
        engine = create_engine(url) if there else None
        found = engine is not None and inspect(engine).has_table("studies")
    except Exception as error:  # SQLAlchemy and the drivers each have their own
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise StorageError(
            masked(
                f"--storage {where}: cannot be reached ({reason}). Check the address and that its server is running.",
                where,
            )
        ) from error
    if engine is not None:
        engine.dispose()
    if not found:
        raise StorageError(
            masked(f"--storage {where}: it holds no Optuna studies. Name a database that a search has used.", where)
        )
