"""MLflow's tracking store: connecting to it, and what a SQLite store tells without MLflow, whose import costs seconds.

Read here: the tables `experiments`, `runs` and `tags` of MLflow's schema. Whatever is not as expected counts as "not
known", and MLflow itself is asked.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, nullcontext, suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlparse
from urllib.request import url2pathname

from filelock import FileLock

from benchmark.errors import StorageError, masked, why
from benchmark.utils.processes import is_gone, owner
from benchmark.utils.sqlite import sqlite_address, sqlite_path

KEY, CONTENT, ERROR, OWNER = "eval.key", "eval.content", "error", "reliquant.owner"
KILLED = "the process that wrote this run was killed"
"""Value of the tag `ERROR` of a run that its process did not end."""
STORE = "mlflow.db"
ANALYZE_EVERY = 2000
"""Runs after which SQLite's statistics are renewed: without them the UI's queries choose bad plans (50,000 runs
ordered by a metric: minutes instead of a second)."""

QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true"}
"""No telemetry; and stdout is the command line's own (`--json`), MLflow names each run there."""

PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"}
"""For a server that is gone: MLflow's own defaults hold a sweep up for minutes at each call."""

WAIT_SECONDS = 5.0
"""How long ANALYZE waits for others who write."""

CHECKED_BYTES = 1 << 26
"""Up to this size a store is read through when it is opened (milliseconds); of a larger one its tables' names are."""

_COMPLETE = """
    SELECT k.value, c.value FROM experiments e
    JOIN runs r ON r.experiment_id = e.experiment_id AND r.lifecycle_stage = 'active'
    JOIN tags k ON k.run_uuid = r.run_uuid AND k.key = ?
    JOIN tags c ON c.run_uuid = r.run_uuid AND c.key = ?
    WHERE e.name = ? AND e.lifecycle_stage = 'active'
    AND NOT EXISTS (SELECT 1 FROM tags x WHERE x.run_uuid = r.run_uuid AND x.key = ?)
"""
_RUNNING = """
    SELECT count(*) FROM runs r JOIN experiments e ON r.experiment_id = e.experiment_id
    WHERE e.name = ? AND r.lifecycle_stage = 'active' AND r.status = 'RUNNING'
"""


def default_uri(home: Path) -> str:
    """Where runs are tracked unless the user says otherwise."""
    return os.environ.get("MLFLOW_TRACKING_URI") or sqlite_address(home / STORE)


def connect(address: str) -> Any:
    """A client of the tracking store; imports MLflow. A SQLite store is put into WAL mode.

    Raises:
        StorageError: the tracking store cannot be reached.
    """
    for name, value in {**QUIET, **PATIENCE}.items():
        os.environ.setdefault(name, value)
    for noisy in ("alembic", "mlflow", "mlflow.store.db.utils"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    from mlflow import MlflowClient

    try:
        place = sqlite_path(address)
        with FileLock(f"{place}.lock") if place is not None else nullcontext():
            if place is not None and not place.is_file():
                _create(place)
            client = MlflowClient(tracking_uri=address)
            client.search_experiments(max_results=1)
    except Exception as error:  # SQLAlchemy, HTTP and MLflow each have their own
        raise StorageError(masked(f"tracking store {address} cannot be reached: {_reason(error)}", address)) from error
    if (file := sqlite_file(address)) is not None:
        with closing(sqlite3.connect(file)) as database:
            database.execute("PRAGMA journal_mode=WAL")
    return client


def _reason(error: Exception) -> str:
    """Why a store cannot be reached; of a server that asks who we are, the way out."""
    if "error code 401" in str(error):
        return (
            "the server asks for a user and a password that it knows. Set MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD (or MLFLOW_TRACKING_TOKEN)"
        )
    return str(error)


def set_aside_damaged(home: Path, address: str) -> None:
    """Rename the store of a results folder if it is damaged, and say so: the ledger has everything that was in it.

    A store elsewhere, which the user named, is left alone: it may hold what we did not write, or be no store at all.

    Raises:
        StorageError: it cannot be renamed.
    """
    path = (home / STORE).resolve()
    if sqlite_path(address) != path or not path.exists():
        return
    with FileLock(f"{path}.lock"):
        if (reason := damage(path)) is None:
            return
        aside = path.with_name(f"{path.name}.damaged-{time.strftime('%Y%m%dT%H%M%S')}-{time.time_ns() % 10**6:06d}")
        try:
            path.rename(aside)
            for journal in ("-wal", "-shm"):
                with suppress(FileNotFoundError):
                    path.with_name(path.name + journal).rename(aside.with_name(aside.name + journal))
        except OSError as error:
            raise StorageError(f"{path} is damaged ({reason}) and cannot be renamed: {why(error)}") from error
    print(
        f"warning: {path} is damaged ({reason}); it is now {aside.name}, and a new one is begun. The ledger has "
        "everything: `reliquant sync SUITE` brings each suite's results over",
        file=sys.stderr,
    )


def damage(path: Path) -> str | None:
    """Why a file is no whole SQLite database; None where it is one, or cannot be looked at now."""
    if not path.is_file():
        return "not a file"
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
            database.execute("SELECT name FROM sqlite_master").fetchall()
            if path.stat().st_size > CHECKED_BYTES:
                return None
            [(found,)] = database.execute("PRAGMA quick_check(1)")
            return None if found == "ok" else " ".join(str(found).split())
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        return str(error) if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) else None
    except OSError:
        return None


class Found(NamedTuple):
    """A configuration's run, its children by evaluation key, and its content where it was written to the end."""

    run: Any
    children: Mapping[str, Any]
    content: str | None


def every_run(client: Any, experiment: str, wanted: str) -> Iterator[Any]:
    """All runs of an experiment that a filter finds, page by page."""
    token: str | None = None
    while True:
        page = client.search_runs([experiment], wanted, max_results=5000, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def end_orphans(client: Any, experiment: str) -> None:
    """Runs that a killed process left RUNNING are ended as FAILED; who writes them again takes them up."""
    for run in list(every_run(client, experiment, "attributes.status = 'RUNNING'")):
        if is_gone(run.data.tags.get(OWNER, "")):
            client.set_tag(run.info.run_id, ERROR, KILLED)
            client.set_terminated(run.info.run_id, "FAILED")


def take_up(client: Any, run: Any, errors: Mapping[str, str]) -> str:
    """Go on with a run that is there: it is ours now, should we be killed. Errors that are not in `errors` go."""
    name = str(run.info.run_id)
    client.set_tag(name, OWNER, owner())
    client.update_run(name, status="RUNNING")
    for tag in run.data.tags:
        if (tag == ERROR or tag.startswith(f"{ERROR}.")) and tag not in errors:
            client.delete_tag(name, tag)
    return name


def _create(path: Path) -> None:
    """A new database appears whole: a process killed between the tables would leave one that nobody can use."""
    from mlflow import MlflowClient

    aside = path.with_name(f".{path.name}.new")
    aside.unlink(missing_ok=True)
    MlflowClient(tracking_uri=sqlite_address(aside)).search_experiments(max_results=1)
    aside.rename(path)


def sqlite_file(address: str) -> Path | None:
    """The file of a SQLite store; None for other stores, and where there is no such file."""
    path = sqlite_path(address)
    return path if path is not None and path.is_file() else None


def artifact_folder(address: str, location: str) -> Path | None:
    """Folder of an experiment's artifacts, `<RUN>/artifacts` below it; None where MLflow must carry them."""
    place = urlparse(location)
    return Path(url2pathname(place.path)) if sqlite_path(address) is not None and place.scheme == "file" else None


def complete_configurations(address: str, experiment: str) -> dict[str, str] | None:
    """Configuration key -> content of the parent runs of an experiment that were written to their end.

    Returns:
        None when this cannot be told without MLflow: not a SQLite store, another schema, or some run is RUNNING and
        may have to be ended first.
    """
    path = sqlite_file(address)
    if path is None:
        return None
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
            [(running,)] = database.execute(_RUNNING, (experiment,))
            return None if running else dict(database.execute(_COMPLETE, (KEY, CONTENT, experiment, ERROR)))
    except sqlite3.Error:
        return None


def renew_statistics(address: str) -> bool:
    """Run ANALYZE when `ANALYZE_EVERY` runs or more have come since the last time; True when it ran.

    SQLite only, False elsewhere. A database that others keep locked is left for the next call.
    """
    file = sqlite_file(address)
    if file is None:
        return False
    with closing(sqlite3.connect(file, timeout=WAIT_SECONDS)) as database:
        try:
            [(count,)] = database.execute("SELECT coalesce(max(rowid), 0) FROM runs")
            tables = database.execute("SELECT 1 FROM sqlite_master WHERE name = 'sqlite_stat1'").fetchall()
            known = database.execute("SELECT stat FROM sqlite_stat1 WHERE tbl = 'runs'").fetchall() if tables else []
            if count - max((int(stat.split()[0]) for (stat,) in known), default=0) < ANALYZE_EVERY:
                return False
            database.execute("ANALYZE")
            database.commit()
        except sqlite3.OperationalError:
            return False
    return True


def write_batch(
    client: Any, run: str, metrics: Mapping[str, float], params: Mapping[str, object], tags: Mapping[str, str]
) -> None:
    """Metrics, params and tags of a run in as few requests as MLflow allows."""
    from mlflow.entities import Metric, Param, RunTag

    now = int(time.time() * 1000)
    entries = [Metric(key, float(value), now, 0) for key, value in metrics.items()]
    for start in range(0, max(len(entries), 1), 1000):  # MLflow's limit of metrics a batch
        first = start == 0
        client.log_batch(
            run,
            entries[start : start + 1000],
            [Param(key, str(value)) for key, value in params.items()] if first else [],
            [RunTag(key, value) for key, value in tags.items()] if first else [],
        )
