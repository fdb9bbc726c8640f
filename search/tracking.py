"""Log finished trials to the tracker, below the run of their study."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState

from benchmark.quantization import parse
from benchmark.tracking import STUDY, StudyLog
from benchmark.utils.processes import is_gone, owner

from .history import ERRORS, METRICS, is_settled
from .objective import Goals


@dataclass
class TrialLog:
    """Logs finished trials. If the tracking store fails, the search goes on: the study has everything.

    Attributes:
        broken: why the store could not be written; None while it could.
    """

    run: StudyLog
    study: str
    goals: Goals
    broken: str | None = None

    def trial(self, trial: FrozenTrial) -> None:
        """Log one finished trial."""
        if self.broken is not None:
            return
        name = trial.user_attrs["configuration"]
        tags = {STUDY: self.study}
        tags |= {"baseline": "true"} if trial.user_attrs.get("baseline") else {}
        tags |= {key: str(trial.user_attrs[key])[:5000] for key in ("repeat_of", "error") if key in trial.user_attrs}
        metrics = dict(trial.user_attrs.get(METRICS, {}))
        metrics |= {f"{key}/error": value for key, value in trial.user_attrs.get(ERRORS, {}).items()}
        if trial.state is TrialState.COMPLETE:
            pairs = zip(self.goals.objectives, trial.values, strict=True)
            metrics |= {f"objective/{objective.key}": value for objective, value in pairs}
            metrics |= {f"violation/{i}": value for i, value in enumerate(trial.constraints.values())}
        if "seconds" in trial.user_attrs:
            metrics["trial/seconds"] = trial.user_attrs["seconds"]
        fields = parse(name).model_dump(mode="json", exclude={"skip", "overrides", "options"}, exclude_none=True)
        params = {f"quant.{key}": value for key, value in fields.items()}
        params |= {f"quant.{key}": value for key, value in parse(name).options}
        try:
            self.run.trial(trial.number, name, params, metrics, tags)
        except Exception as error:  # a server may raise anything
            self.broken = f"{type(error).__name__}: {error}"

    def finish(self, folder: Path, metrics: Mapping[str, float]) -> None:
        """Attach the study's files and end its run."""
        try:
            self.run.finish(folder, metrics)
        except Exception as error:  # a server may raise anything
            self.broken = f"{type(error).__name__}: {error}"

    def fail(self, stopped: bool) -> None:
        """End the study's run as stopped by the user, or as failed, so that it does not stay open."""
        try:
            self.run.fail(stopped)
        except Exception as error:  # a server may raise anything; the next start ends the run
            self.broken = f"{type(error).__name__}: {error}"

    @contextmanager
    def ending(self) -> Iterator[None]:
        """End the study's run if the block raises."""
        try:
            yield
        except BaseException as error:
            self.fail(stopped=isinstance(error, KeyboardInterrupt))
            raise

    def catch_up(self, study: optuna.Study) -> int:
        """Log the finished trials that have no run because their process was killed; returns how many."""
        logged = self.run.logged()
        missing = [
            trial
            for trial in study.get_trials(deepcopy=False)
            if trial.number not in logged
            and "configuration" in trial.user_attrs
            and is_settled(trial)
            and (trial.user_attrs["owner"] == owner() or is_gone(trial.user_attrs["owner"]))
        ]
        for trial in missing:
            self.trial(trial)
        return len(missing)
