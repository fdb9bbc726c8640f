"""Where studies are kept: a journal file below the results folder, or any database that Optuna takes.

A worker that was killed leaves its trial RUNNING. With a database Optuna's heartbeats find it; with either storage
`reconcile` finds it on the worker's own machine, and its configuration is tried again.
"""

from __future__ import annotations

import warnings
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy import Engine, event

from benchmark.errors import StorageError
from benchmark.processes import is_gone

RETRIES = 3
HEARTBEAT = 30
GRACE = 120
"""Seconds between heartbeats, and after which a silent worker counts as dead (databases only)."""


def journal_path(home: Path) -> Path:
    """The journal file of all studies below a results folder."""
    return home / "studies" / "journal.log"


def open_storage(home: Path, url: str | None = None) -> BaseStorage:
    """The journal file of `home`, the journal file that `url` is the path of, or a database.

    Raises:
        StorageError: it cannot be reached or written.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        if url is None or "://" not in url:
            path = journal_path(home) if url is None else Path(url)
            path.parent.mkdir(parents=True, exist_ok=True)
            return JournalStorage(JournalFileBackend(str(path)))
        sqlite = url.startswith("sqlite")
        # several processes create the tables and write: wait for each other
        options: dict[str, Any] = {"connect_args": {"timeout": 100}} if sqlite else {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            storage = RDBStorage(
                url,
                engine_kwargs=options,
                heartbeat_interval=HEARTBEAT,
                grace_period=GRACE,
                heartbeat_stale_trial_callback=retry,
            )
        if sqlite:
            _lock_whole_transactions(storage.engine)
        return storage
    except Exception as error:  # SQLAlchemy, the drivers and the file system each have their own
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise StorageError(f"--storage {url or journal_path(home)} cannot be reached: {reason}") from error


def _lock_whole_transactions(engine: Engine) -> None:
    """Make SQLite lock when a transaction begins, not when it first writes.

    Optuna reads a trial's state with FOR UPDATE, which SQLite ignores: otherwise two processes can both read WAITING
    and both take the trial. (Recipe of SQLAlchemy's SQLite page, with IMMEDIATE so that nobody reads before a writer.)
    """

    def leave_transactions_to_us(connection: Any, _: object) -> None:
        connection.isolation_level = None

    event.listen(engine, "connect", leave_transactions_to_us)
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    engine.dispose()  # connections that were opened before


def reconcile(study: optuna.Study, lost_after: float = 60.0) -> int:
    """End the trials that a killed process of this machine left RUNNING and queue them again; returns how many.

    A trial whose worker was killed before it could sign it is found by its age.

    Args:
        lost_after: seconds after which an unsigned trial counts as lost.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        optuna.storages.fail_stale_trials(study)  # heartbeats, where the storage has them
    found = 0
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        who = trial.user_attrs.get("owner")
        lost = is_gone(who) if who is not None else _age(trial) > lost_after
        if lost:
            try:
                study.tell(trial.number, state=TrialState.FAIL)
            except (ValueError, RuntimeError):
                continue  # another process was faster
            retry(study, trial)
            found += 1
    return found


def _age(trial: FrozenTrial) -> float:
    """Seconds since a trial was begun."""
    now = datetime.now()
    return (now - (trial.datetime_start or now)).total_seconds()


def retry(study: optuna.Study, trial: FrozenTrial) -> None:
    """Queue the configuration of a lost trial again, three times at most."""
    history = [*trial.user_attrs.get("retry_of", []), trial.number]
    if len(history) > RETRIES:
        return
    kept = {k: v for k, v in trial.user_attrs.items() if k in ("configuration", "baseline")}
    fixed = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
    study.add_trial(
        create_trial(
            state=TrialState.WAITING, system_attrs={"fixed_params": fixed}, user_attrs={**kept, "retry_of": history}
        )
    )
