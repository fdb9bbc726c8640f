"""`reliquant dashboard`: optuna-dashboard on the studies. No authentication: for this machine and its own pages."""

from __future__ import annotations

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
from search.journal import check_journal
from search.request import DashboardRequest
from search.storage import journal_path


class _Server(ThreadingMixIn, WSGIServer):
    """A thread for each request, none of which keeps the process."""

    daemon_threads = True


class _Server6(_Server):
    """On `::1`."""

    address_family = socket.AF_INET6


class _Handler(WSGIRequestHandler):
    """Says what failed, not each request."""

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Nothing."""


def run_dashboard(request: DashboardRequest) -> None:
    """Serve the dashboard until the process is stopped."""
    serve(request.home, request.host, request.port, request.storage, request.browse)


def serve(home: Path, host: str, port: int, storage: str | None = None, browse: bool = False) -> None:
    """Serve the dashboard until the process is stopped.

    In this process: as an argument of another one the storage's password would be shown to everybody on the machine.

    Args:
        browse: open a browser on it when it answers.

    Raises:
        InputError: it is not installed, `host` is not this machine, there is no study, or the port is taken.
        StorageError: the storage is not there.
    """
    if find_spec("optuna_dashboard") is None:
        raise InputError("reliquant dashboard needs optuna-dashboard: pip install 'reliquant[search-ui]'")
    if host not in LOOPBACK:
        raise InputError(f"--host {host}: the dashboard has no authentication and listens on 127.0.0.1 only")
    where = storage or str(journal_path(home))
    if storage is None and not Path(where).is_file():
        raise InputError(f"no study in {home} yet; `reliquant search demo --home {home}` makes one")
    check_studies(where)
    check_port(host, port)
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}/dashboard"
    print(address, flush=True)
    if browse:
        open_later(host, port, address)
    from optuna_dashboard import wsgi

    kind = _Server6 if ":" in host else _Server
    guarded = WsgiGuard(wsgi(where), host, port)
    with suppress(KeyboardInterrupt), make_server(host, port, guarded, kind, _Handler) as server:
        server.serve_forever()


def check_studies(where: str) -> None:
    """Look whether a storage is there, and make nothing: the dashboard would, or fail with a traceback.

    Args:
        where: path of a journal, or URL of a database.

    Raises:
        StorageError: it is not there, cannot be reached, or is something else.
    """
    if "://" not in where:
        if not Path(where).is_file():
            raise StorageError(f"--storage {where}: no such file")
        check_journal(Path(where))
        return
    try:
        url = make_url(where)
        there = not url.drivername.startswith("sqlite") or Path(url.database or "").is_file()
        engine = create_engine(url) if there else None
        found = engine is not None and inspect(engine).has_table("studies")
    except Exception as error:  # SQLAlchemy and the drivers each have their own
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise StorageError(masked(f"--storage {where} cannot be reached: {reason}", where)) from error
    if engine is not None:
        engine.dispose()
    if not found:
        raise StorageError(masked(f"--storage {where}: there are no studies of Optuna's in it", where))
