"""The study: ask for a configuration, evaluate it once, tell; until so many different ones are evaluated.

Several processes may run the same study. The budget counts different configurations: a sampler's repeats are answered
from the study and cost nothing; a configuration that another process is evaluating is not evaluated twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, cast

import numpy as np
import optuna
from filelock import FileLock
from optuna.trial import FrozenTrial, TrialState

from benchmark.errors import ReliquantError, SpecError, StorageError
from benchmark.processes import owner
from benchmark.progress import Progress, Silent
from benchmark.quantization import parse
from benchmark.scalars import Scalar
from benchmark.spec import FP32, QuantSpec
from search.front import Floats, non_dominated
from search.objective import OWN, Goals, Metrics, Problem
from search.samplers import GRID, Fixed, make_sampler
from search.space import Dimension, Space
from search.storage import reconcile, retry

CUSTOMARY = (
    "rtn-w8a8-channel-token-vision",
    "rtn-w6a8-channel-token-vision",
    "rtn-w4a8-channel-token-vision",
    "bnb-nf4-vision",
    "bnb-int8-vision",
)
"""What people use without a search; evaluated first, after full precision."""
PATIENCE = 10
"""Repeats in a row after which a trial is drawn from the points that are not evaluated yet."""
LARGEST_GRID = 10_000
_ENOUGH = 100
"""Repeats in a row after which the space counts as exhausted."""
_DRAWS = 1000


class TrialLog(Protocol):
    """Where finished trials are shown, e.g. MLflow."""

    def trial(self, trial: FrozenTrial) -> None:
        """Write one finished trial."""


class NoLog:
    """Writes nothing."""

    def trial(self, trial: FrozenTrial) -> None:
        """Nothing to do."""


class TrialFailed(Exception):
    """A configuration that cannot be evaluated, or that another process is evaluating: the study goes on."""


@dataclass
class Search:
    """One process's share of a study.

    Attributes:
        baselines: configurations to evaluate first, after full precision.
        lock: file that the processes of this machine hold while they claim a configuration; None in memory.
    """

    study: optuna.Study
    space: Space
    problem: Problem
    goals: Goals
    sampler: str = "tpe"
    seed: int = 0
    log: TrialLog = field(default_factory=NoLog)
    progress: Progress = field(default_factory=Silent)
    baselines: Sequence[str] = CUSTOMARY
    lock: Path | None = None
    pause: float = 0.3
    lost_after: float = 60.0

    def prepare(self, trials: int) -> None:
        """Queue full precision, the customary configurations and, in a small space or for `grid`, the points.

        The process that creates the study does this, once.

        Raises:
            SpecError: `grid` in a space that is too large to enumerate.
        """
        first = self._first()
        queued = list(first.values())
        check_grid(self.sampler, self.space)
        if self.sampler == GRID or self.space.size(trials) <= trials:
            points = [spec for spec in self.space.points() if spec.name not in first]
            np.random.default_rng(self.seed).shuffle(points)
            queued += points[: max(trials - len(first), 0)]
        for spec in queued[: max(trials, 1)]:
            attributes = {"configuration": spec.name, "baseline": spec.name in first}
            self.study.enqueue_trial(self.space.labelled(spec) or {}, user_attrs=attributes)

    def budget(self, trials: int) -> int:
        """How many different configurations can be evaluated: `trials`, or all in a space that has fewer."""
        size = self.space.size(trials)
        if size > trials:
            return trials
        outside = [t for t in self._first().values() if self.space.labelled(t) is None]
        return min(trials, size + len(outside))

    def run(self, trials: int) -> None:
        """Go on until `trials` different configurations are evaluated, by whichever process, or all there are.

        Raises:
            StorageError: results or study cannot be written.
        """
        trials, repeats = self.budget(trials), 0
        with self.progress.phase(f"search {self.study.study_name}", trials) as advance:
            done = len(evaluated(self.study))
            advance(done)
            while done < trials:
                reconcile(self.study, self.lost_after)
                others = self._running_elsewhere()
                if repeats >= _ENOUGH and not others:
                    break
                if repeats >= _ENOUGH or (done + others >= trials and not self._waiting()):
                    time.sleep(self.pause)
                else:
                    objective = self._objective(repeats)
                    self.study.optimize(objective, n_trials=1, catch=(TrialFailed,), callbacks=[self._log])
                now = len(evaluated(self.study))
                repeats = 0 if now > done else repeats + 1
                advance(now - done)
                done = now
        if done < trials:
            self.progress.message(f"search: {done} configurations; the sampler finds no other")

    def _first(self) -> dict[str, QuantSpec]:
        """Full precision, and the customary configurations that this model and suite can do."""
        return {"fp32": FP32} | {spec.name: spec for spec in map(parse, self.baselines) if self.space.accepts(spec)}

    def _waiting(self) -> bool:
        return bool(self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)))

    def _running_elsewhere(self) -> int:
        return len(self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)))

    def _objective(self, repeats: int) -> Callable[[optuna.Trial], Sequence[float]]:
        def objective(trial: optuna.Trial) -> Sequence[float]:
            trial.set_user_attr("owner", owner())
            self.study.sampler = make_sampler(self.sampler, self.seed, trial.number)
            return self._values(trial, repeats)

        return objective

    def _values(self, trial: optuna.Trial, repeats: int) -> Sequence[float]:
        spec = self._configuration(trial, repeats)
        earlier = self._claim(trial, spec)
        if earlier is not None:
            return self._repeat(trial, earlier)
        start = time.monotonic()
        try:
            metrics = self.goals.complete(self.problem.evaluate(spec))
            values, violations = self.goals.values(metrics), self.goals.violations(metrics)
        except (KeyboardInterrupt, StorageError):  # nothing is wrong with the configuration
            retry(self.study, self.study.get_trials(deepcopy=False)[trial.number])
            raise
        except ReliquantError as error:
            trial.set_user_attr("error", str(error))
            self.progress.message(f"trial {trial.number}: {spec.name} failed: {error}")
            raise TrialFailed(str(error)) from error
        trial.set_user_attr("seconds", time.monotonic() - start)
        self._keep(trial, metrics)
        for text, violation in violations.items():
            trial.set_constraint(text, violation)
        shown = ", ".join(f"{o.key} {v:.4g}" for o, v in zip(self.goals.objectives, values, strict=True))
        self.progress.message(f"trial {trial.number}: {spec.name}: {shown}")
        return values

    def _configuration(self, trial: optuna.Trial, repeats: int) -> QuantSpec:
        """The queued configuration, or one that the sampler chooses; after many repeats one that is new."""
        name = trial.user_attrs.get("configuration")
        spec = parse(name) if name is not None else self._unseen(trial.number) if repeats >= PATIENCE else None
        if spec is None:
            return self.space.sample(lambda dimension: suggest(trial, dimension))
        labels = self.space.labelled(spec)
        if labels is not None:  # a point of the space: the sampler is to learn from it
            self.study.sampler = Fixed(labels)
            self.space.sample(lambda dimension: suggest(trial, dimension))
        return spec

    def _unseen(self, number: int) -> QuantSpec | None:
        """A point, drawn at random, that no trial has; None where many draws find none."""
        seen = {trial.user_attrs.get("configuration") for trial in self.study.get_trials(deepcopy=False)}
        rng = np.random.default_rng([self.seed, number])
        for _ in range(_DRAWS):
            spec = self.space.sample(lambda dimension: dimension.values[rng.integers(len(dimension.values))])
            if spec.name not in seen:
                return spec
        return None

    def _claim(self, trial: optuna.Trial, spec: QuantSpec) -> FrozenTrial | None:
        """Sign a configuration, so that no other process evaluates it; a trial that has evaluated it already.

        Raises:
            TrialFailed: another process is evaluating it, or it cannot be evaluated.
        """
        with FileLock(self.lock) if self.lock is not None else nullcontext():
            for other in self.study.get_trials(deepcopy=False):
                if other.number == trial.number or other.user_attrs.get("configuration") != spec.name:
                    continue
                if other.state is TrialState.COMPLETE:
                    trial.set_user_attr("configuration", spec.name)
                    return other
                if "error" in other.user_attrs:
                    trial.set_user_attr("repeat_of", other.number)
                    raise TrialFailed(other.user_attrs["error"])
                if other.state is TrialState.RUNNING and "repeat_of" not in other.user_attrs:
                    trial.set_user_attr("repeat_of", other.number)
                    raise TrialFailed(f"being evaluated as trial {other.number}")
            trial.set_user_attr("configuration", spec.name)
        return None

    def _repeat(self, trial: optuna.Trial, earlier: FrozenTrial) -> Sequence[float]:
        """The values of an earlier trial of the same configuration."""
        trial.set_user_attr("repeat_of", earlier.user_attrs.get("repeat_of", earlier.number))
        trial.set_user_attr("metrics", earlier.user_attrs["metrics"])
        for text, violation in earlier.constraints.items():
            trial.set_constraint(text, violation)
        return list(earlier.values)

    def _keep(self, trial: optuna.Trial, metrics: Metrics) -> None:
        """The metrics that the study shows: its own, the headline metrics, and what the goals name."""
        keys = [*OWN, *self.problem.headline, *(o.key for o in self.goals.objectives)]
        keys += [c.key for c in self.goals.constraints]
        trial.set_user_attr("metrics", {key: metrics[key] for key in dict.fromkeys(keys) if key in metrics})

    def _log(self, study: optuna.Study, trial: FrozenTrial) -> None:
        if trial.state is TrialState.COMPLETE or "error" in trial.user_attrs:
            self.log.trial(trial)


def check_grid(sampler: str, space: Space) -> None:
    """Refuse to enumerate a space that has too many points."""
    if sampler == GRID and space.size(LARGEST_GRID) > LARGEST_GRID:
        raise SpecError(
            f"--sampler {GRID}: the space has more than {LARGEST_GRID:,} points; narrow it with --method and "
            "--scope, or choose another sampler"
        )


def suggest(trial: optuna.Trial, dimension: Dimension) -> Scalar:
    """Ask the sampler; consecutive whole numbers are ordered, anything else is categorical."""
    values = dimension.values
    if all(type(v) is int for v in values) and values == tuple(range(int(values[0]), int(values[-1]) + 1)):
        return trial.suggest_int(dimension.label, int(values[0]), int(values[-1]))
    return cast(Scalar, trial.suggest_categorical(dimension.label, values))


def evaluated(study: optuna.Study) -> list[str]:
    """Short names of the different configurations that were evaluated, or found impossible, in order."""
    finished = [
        t for t in study.get_trials(deepcopy=False) if t.state is TrialState.COMPLETE or "error" in t.user_attrs
    ]
    return list(dict.fromkeys(t.user_attrs["configuration"] for t in finished))


def front(study: optuna.Study) -> list[FrozenTrial]:
    """The feasible, non-dominated trials, one for each configuration, in the order of the last objective."""
    first: dict[str, FrozenTrial] = {}
    for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        if all(violation <= 0 for violation in trial.constraints.values()):
            first.setdefault(trial.user_attrs["configuration"], trial)
    trials = list(first.values())
    if not trials:
        return []
    keep = non_dominated(losses(study, trials))
    return sorted((t for t, on in zip(trials, keep, strict=True) if on), key=lambda t: t.values[::-1])


def losses(study: optuna.Study, trials: Sequence[FrozenTrial]) -> Floats:
    """(N, M) values of complete trials, turned so that lower is better."""
    signs = np.array([-1.0 if d is optuna.study.StudyDirection.MAXIMIZE else 1.0 for d in study.directions])
    values: Floats = np.array([trial.values for trial in trials], np.float64).reshape(-1, len(signs)) * signs
    return values
