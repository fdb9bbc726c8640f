"""Open the storage of studies: a journal file below the results folder, or any database that Optuna supports.

`search.stale` finds the trials that killed workers leave behind.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from sqlalchemy import Engine, event

from benchmark.errors import StorageError, masked

from .journal import Journal
from .stale import GRACE, HEARTBEAT


def journal_path(home: Path) -> Path:
    """The journal file of all studies below a results folder."""
    return home / "studies" / "journal.log"


def open_storage(home: Path, url: str | None = None) -> BaseStorage:
    """Open the journal file of `home`, the journal file at the path `url`, or the database at `url`.

    Raises:
        StorageError: it cannot be reached or written.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        if url is None or "://" not in url:
            path = journal_path(home) if url is None else Path(url)
            path.parent.mkdir(parents=True, exist_ok=True)
            return _open_journal(path)
        sqlite = url.startswith("sqlite")
        # several processes create the tables and write: let them wait for each other
        options: dict[str, Any] = {"connect_args": {"timeout": 100}} if sqlite else {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            storage = RDBStorage(url, engine_kwargs=options, heartbeat_interval=HEARTBEAT, grace_period=GRACE)
        if sqlite:
            _lock_whole_transactions(storage.engine)
        return storage
    except StorageError:
        raise
    except Exception as error:  # SQLAlchemy, the drivers and the file system each have their own
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        where = url or str(journal_path(home))
        raise StorageError(
            masked(
                f"--storage {where}: cannot be reached ({reason}). Check the address and that its server is running.",
                where,
            )
        ) from error


def _open_journal(path: Path) -> JournalStorage:
    journal = Journal(path)
    try:
        return JournalStorage(journal)
    except (ValueError, KeyError, AssertionError) as error:
        reason = f"{type(error).__name__} {error}".splitlines()[0]
        raise StorageError(f"--storage {path}: this journal is damaged ({reason}). Name another file.") from error


def _lock_whole_transactions(engine: Engine) -> None:
    """Make SQLite lock when a transaction begins, not when it first writes.

    Optuna reads a trial's state with FOR UPDATE, which SQLite ignores: without this, two processes can read WAITING and
    both take the trial. (The recipe of SQLAlchemy's SQLite page, with IMMEDIATE so that reads are locked too.)
    """

    def leave_transactions_to_us(connection: Any, _: object) -> None:
        connection.isolation_level = None

    event.listen(engine, "connect", leave_transactions_to_us)
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    engine.dispose()  # connections that were opened before
