"""`reliquant ui`: MLflow's server on the results."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import NoReturn
from urllib.parse import quote

from benchmark.errors import InputError

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def serve(home: Path, host: str, port: int, tracking_uri: str | None) -> NoReturn:
    """Become the server; it runs until it is stopped.

    One worker and no job executor: 2 processes instead of 14.

    Raises:
        InputError: there are no results yet, or the port is taken.
    """
    uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(home / 'mlflow.db').resolve()}"
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).is_file():
        raise InputError(f"no results in {home} yet; `reliquant run demo --home {home}` makes some")
    check_port(host, port)
    if host not in LOOPBACK:
        print(
            f"warning: the UI has no authentication and will be open to everybody who reaches {host}", file=sys.stderr
        )
    for address in addresses(uri, host, port):
        print(address, flush=True)
    environment = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        **os.environ,
    }
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri, "--host", host]
    command += ["--port", str(port), "--workers", "1"]
    if uri.startswith("sqlite:///"):
        command += ["--default-artifact-root", (home / "artifacts").resolve().as_uri()]
    os.execve(command[0], command, environment)  # the server takes this process's place: signals reach it directly


def addresses(uri: str, host: str, port: int) -> list[str]:
    """One line per experiment: the address of its runs table, filtered to the quantizations.

    MLflow's bare experiment page opens on traces, which are empty here.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    import logging

    logging.getLogger("alembic").setLevel(logging.ERROR)
    from mlflow import MlflowClient

    shown = f"[{host}]" if ":" in host else host
    search = quote("tags.kind = 'configuration'")
    return [
        f"{e.name}: http://{shown}:{port}/#/experiments/{e.experiment_id}/runs?searchFilter={search}"
        for e in MlflowClient(tracking_uri=uri).search_experiments()
        if e.name != "Default"
    ]


def check_port(host: str, port: int) -> None:
    """Refuse a port that somebody listens on already, before a server is started."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise InputError(
                f"cannot listen on {host}:{port} ({error.strerror}); choose another with --port N"
            ) from None
