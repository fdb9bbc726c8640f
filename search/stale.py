"""Find stale trials, whose worker ended before the trial did, and queue their configurations again.

A worker signs its trial with host, process and start time, so that processes of the same machine see whether it still
runs. Other machines see only its heartbeat: with a database Optuna's own, with a journal an attribute of the trial that
increases every `HEARTBEAT` seconds. Observers measure its age with their own clock and never compare two machines'.
"""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
from optuna.storages import JournalStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from benchmark.utils.processes import is_gone, is_here, is_stopped, owner

OWNER, BEAT, RETRY_OF = "owner", "beat", "retry_of"
RETRIES = 3
HEARTBEAT = 30
GRACE = 120
"""Seconds between heartbeats, and seconds without one after which a worker on another machine counts as dead."""
UNSIGNED = 60.0
"""Seconds after which a trial that was begun and never signed is stale."""
SUSPENDED = 30.0
"""Seconds after which the trial of a suspended worker (SIGSTOP, Ctrl-Z) is stale."""


@contextmanager
def signed(study: optuna.Study, trial: optuna.Trial, interval: float = HEARTBEAT) -> Iterator[None]:
    """Sign a trial as this process's; with a journal, also write its heartbeat until the block ends."""
    trial.set_user_attr(OWNER, owner())
    if not isinstance(study._storage, JournalStorage):
        yield
        return
    trial.set_user_attr(BEAT, 0)
    over = threading.Event()

    def beat() -> None:
        count = 0
        with suppress(UpdateFinishedTrialError, OSError):  # the worker's next write raises the same error
            while not over.wait(interval):
                trial.set_user_attr(BEAT, count := count + 1)

    thread = threading.Thread(target=beat, name=f"heartbeat of trial {trial.number}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


class Watch:
    """Measures how long the worker of a running trial has been silent, with this process's clock.

    The first look counts as a sign of life, so that a process that has just joined a study ends nobody's trial.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: dict[int, tuple[Any, float]] = {}

    def silent(self, trial: FrozenTrial) -> float:
        """Seconds since the trial's signature or heartbeat last changed."""
        now, sign = self._clock(), (trial.user_attrs.get(OWNER), trial.user_attrs.get(BEAT))
        before, since = self._seen.get(trial.number, (None, now))
        self._seen[trial.number] = (sign, since if sign == before else now)
        return now - self._seen[trial.number][1]


def reconcile(study: optuna.Study, watch: Watch) -> int:
    """End stale trials and queue their configurations again; returns how many were queued."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        optuna.storages.fail_stale_trials(study)  # heartbeats, where the storage has them
    beats = isinstance(study._storage, JournalStorage)
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if _is_stale(trial, watch.silent(trial), beats):
            with suppress(ValueError, UpdateFinishedTrialError):  # another process was faster
                study.tell(trial.number, state=TrialState.FAIL)
    abandoned = _abandoned(study)
    for trial in abandoned:
        retry(study, trial)
    return len(abandoned)


def retry(study: optuna.Study, trial: FrozenTrial) -> None:
    """Queue the configuration of a stale trial again."""
    kept = {k: v for k, v in trial.user_attrs.items() if k in ("configuration", "baseline")}
    kept[RETRY_OF] = [*trial.user_attrs.get(RETRY_OF, []), trial.number]
    fixed = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
    study.add_trial(
        create_trial(state=TrialState.WAITING, system_attrs={"fixed_params": fixed}, user_attrs=kept),
    )


def taken_over(study: optuna.Study, trial: optuna.Trial) -> bool:
    """Whether another process ended this trial as stale while this process evaluated it (after a suspension, say)."""
    return study._storage.get_trial(trial._trial_id).state is not TrialState.RUNNING


def _is_stale(trial: FrozenTrial, silent: float, beats: bool) -> bool:
    who = trial.user_attrs.get(OWNER)
    if who is None:
        return silent > UNSIGNED
    if is_here(who):
        return is_gone(who) or (silent > SUSPENDED and is_stopped(who))
    return beats and silent > GRACE


def _abandoned(study: optuna.Study) -> list[FrozenTrial]:
    """Trials that ended as stale and are not queued again yet (the process that ended them may have been killed)."""
    trials = study.get_trials(deepcopy=False)
    again = {number for trial in trials for number in trial.user_attrs.get(RETRY_OF, ())}
    return [
        trial
        for trial in trials
        if trial.state is TrialState.FAIL
        and not {"error", "repeat_of"} & trial.user_attrs.keys()
        and trial.number not in again
        and len(trial.user_attrs.get(RETRY_OF, ())) < RETRIES
    ]
