"""`reliquant ui`: MLflow's server on the results."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import urlencode

from benchmark.errors import InputError, StorageError, masked
from benchmark.tracking import RUNS_FILTER, VIEW
from benchmark.utils.browser import LOOPBACK, check_port, open_later
from benchmark.utils.origins import HOSTS_VARIABLE, ORIGINS_VARIABLE, own_hosts, own_origins
from benchmark.utils.sqlite import sqlite_address, sqlite_path

if TYPE_CHECKING:
    from mlflow.entities import Experiment


def serve(home: Path, host: str, port: int, tracking_uri: str | None, browse: bool = False) -> NoReturn:
    """Become the server; it runs until it is stopped.

    One worker and no job executor: 2 processes instead of 14. Requests must name this server (`Host`) and come from
    its own pages (`Origin`): by MLflow's settings, and by `benchmark.utils.origins`, since MLflow trusts every port of
    localhost.

    Args:
        browse: open a browser on the last experiment that was written, when the server answers.

    Raises:
        InputError: there are no results yet, the port is taken, or a browser was asked for on another machine's name.
        StorageError: the store cannot be read.
    """
    uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or sqlite_address(home / "mlflow.db")
    if (file := sqlite_path(uri)) is not None and not file.is_file():
        raise InputError(f"no results in {home} yet; `reliquant run demo --home {quote(str(home))}` makes some")
    check_port(host, port)
    if host not in LOOPBACK:
        print(
            f"warning: the UI has no authentication and will be open to everybody who reaches {host}", file=sys.stderr
        )
    found = addresses(uri, host, port)
    for name, address in found.items():
        print(f"{name}: {address}", flush=True)
    if browse:
        shown = next(iter(found.values()), f"http://{_bracketed(host)}:{port}/")
        open_later(host, port, shown)
    environment = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        **os.environ,
        "MLFLOW_BACKEND_STORE_URI": uri,  # an argument would show its password to everybody on the machine
    }
    command = [sys.executable, "-m", "mlflow", "server", "--host", host, "--port", str(port), "--workers", "1"]
    command += ["--uvicorn-opts", "--http benchmark.utils.origins:GuardedProtocol --ws none"]
    if (hosts := own_hosts(host, port)) is not None:
        environment[HOSTS_VARIABLE] = ",".join(hosts)
        environment[ORIGINS_VARIABLE] = ",".join(own_origins(host, port))
    if file is not None:
        command += ["--default-artifact-root", (home / "artifacts").resolve().as_uri()]
    os.execve(command[0], command, environment)  # the server takes this process's place: signals reach it directly


def addresses(uri: str, host: str, port: int) -> dict[str, str]:
    """Experiment -> address of its runs table, filtered to the quantizations and sorted; the last changed first.

    MLflow's bare experiment page opens on traces, which are empty here.

    Raises:
        StorageError: the store cannot be read.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    import logging

    logging.getLogger("alembic").setLevel(logging.ERROR)
    from mlflow import MlflowClient

    try:
        experiments = MlflowClient(tracking_uri=uri).search_experiments(order_by=["last_update_time DESC"])
    except Exception as error:  # SQLAlchemy, HTTP and MLflow each have their own
        hint = "; `reliquant sync` writes a new one from the ledger" if sqlite_path(uri) is not None else ""
        raise StorageError(masked(f"tracking store {uri} cannot be read: {error}", uri) + hint) from error
    base = f"http://{_bracketed(host)}:{port}/#/experiments"
    return {e.name: f"{base}/{e.experiment_id}/runs?{_query(e)}" for e in experiments if e.name != "Default"}


def _query(experiment: Experiment) -> str:
    """The saved view, which filters, sorts and chooses columns; for an older store filter and sort alone.

    MLflow leaves a saved view aside where the address has a filter of its own.
    """
    query = {"workflowType": "machine_learning"}  # its pages for training, not those for language-model applications
    if f"mlflow.sharedViewState.{VIEW}" in experiment.tags:
        return urlencode({**query, "viewStateShareKey": VIEW})
    sort = {"orderByKey": "attributes.start_time", "orderByAsc": "true"}
    return urlencode({**query, "searchFilter": RUNS_FILTER, **sort})


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
