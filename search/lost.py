"""Trials of workers that ended in the middle: they are found, and their configurations are tried again.

A worker signs its trial with host, process and start time, so on its own machine it is seen whether it still runs.
Other machines see its heartbeat only: Optuna's own with a database, with a journal an attribute of the trial that rises
every `HEARTBEAT` seconds. It is judged by the observer's own clock, never by comparing the clocks of two machines.
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
"""Seconds between heartbeats, and after which a silent worker of another machine counts as dead."""
UNSIGNED = 60.0
"""Seconds after which a trial that was begun and never signed counts as lost."""
STOPPED = 30.0
"""Seconds after which a worker that is stopped (SIGSTOP, Ctrl-Z) counts as lost; when it goes on, it finds it so."""


@contextmanager
def signed(study: optuna.Study, trial: optuna.Trial, interval: float = HEARTBEAT) -> Iterator[None]:
    """Sign a trial as this process's and, where the storage has no heartbeat of its own, beat until the block ends."""
    trial.set_user_attr(OWNER, owner())
    if not isinstance(study._storage, JournalStorage):
        yield
        return
    trial.set_user_attr(BEAT, 0)
    over = threading.Event()

    def beat() -> None:
        count = 0
        with suppress(UpdateFinishedTrialError, OSError):  # the worker's own next write tells it the same
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
    """For how long the worker of a running trial has given no sign, as this process sees it.

    The first look counts as a sign: a process that joins a study waits before it judges.
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
    """End the trials whose worker is dead and queue what was given up again; returns how many were queued."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        optuna.storages.fail_stale_trials(study)  # heartbeats, where the storage has them
    beats = isinstance(study._storage, JournalStorage)
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if _is_lost(trial, watch.silent(trial), beats):
            with suppress(ValueError, UpdateFinishedTrialError):  # another process was faster
                study.tell(trial.number, state=TrialState.FAIL)
    given_up = _given_up(study)
    for trial in given_up:
        retry(study, trial)
    return len(given_up)


def retry(study: optuna.Study, trial: FrozenTrial) -> None:
    """Queue the configuration of a lost trial again."""
    kept = {k: v for k, v in trial.user_attrs.items() if k in ("configuration", "baseline")}
    kept[RETRY_OF] = [*trial.user_attrs.get(RETRY_OF, []), trial.number]
    fixed = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
    study.add_trial(
        create_trial(state=TrialState.WAITING, system_attrs={"fixed_params": fixed}, user_attrs=kept),
    )


def taken_over(study: optuna.Study, trial: optuna.Trial) -> bool:
    """Whether others gave a trial up while this process was evaluating it (it was suspended, say)."""
    return study._storage.get_trial(trial._trial_id).state is not TrialState.RUNNING


def _is_lost(trial: FrozenTrial, silent: float, beats: bool) -> bool:
    who = trial.user_attrs.get(OWNER)
    if who is None:
        return silent > UNSIGNED
    if is_here(who):
        return is_gone(who) or (silent > STOPPED and is_stopped(who))
    return beats and silent > GRACE


def _given_up(study: optuna.Study) -> list[FrozenTrial]:
    """Failed trials without a reason, which nobody has queued again yet (whoever ended them may have been killed)."""
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
