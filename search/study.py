"""Run a study: draw a configuration, evaluate it once and record it, until the budget is used up.

Several processes may run the same study. The budget counts different configurations: repeats are answered from the
study and cost nothing, and a configuration that another process is evaluating is not evaluated twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from benchmark.errors import ReliquantError, SpecError, StorageError
from benchmark.quantization import parse
from benchmark.spec import QuantSpec
from benchmark.spec.scalars import Scalar
from benchmark.utils.locking import exclusive
from benchmark.utils.progress import Progress, Silent

from .ehvi import Ehvi
from .history import CONFIGURATION, ERRORS, METRICS, complete, evaluated, is_settled, losses
from .leases import TrialFailed, lease, repeat
from .objective import OWN, RELIABILITY, Goals, Metrics, Problem
from .samplers import DEFAULT, EHVI, GRID, Seeded
from .space import Space
from .stale import Watch, reconcile, signed, taken_over
from .standing import Standing

CUSTOMARY = (
    "rtn-w8a8-channel-token-vision",
    "rtn-w6a8-channel-token-vision",
    "rtn-w4a8-channel-token-vision",
    "bnb-nf4-vision",
    "bnb-int8-vision",
)
"""Common choices without a search; the search evaluates those first that are in its space."""
LARGEST_GRID = 10_000
PATIENCE = 3
"""Repeats in a row after which a trial is drawn from the points that are not evaluated yet."""
_ENOUGH = 100
"""After so many repeats in a row the space counts as exhausted."""
_DRAWS = 1000


@dataclass
class Search:
    """One process's share of a study.

    Attributes:
        study: Optuna's. space: what may be drawn. problem: how a configuration is evaluated.
        goals: objectives and constraints. sampler: a name of `search.samplers.NAMES`. seed: the study's.
        log: told of each finished trial, e.g. for MLflow. progress: where messages go.
        baselines: configurations to evaluate first, where they are in the space.
        lock: file that the processes of this machine lock while they lease a configuration; None where the study is in
            memory. pause: seconds between looks at other processes' trials. watch: finds their stale trials.
    """

    study: optuna.Study
    space: Space
    problem: Problem
    goals: Goals
    sampler: str = DEFAULT
    seed: int = 0
    log: Callable[[FrozenTrial], None] = lambda trial: None
    progress: Progress = field(default_factory=Silent)
    baselines: Sequence[str] = CUSTOMARY
    lock: Path | None = None
    pause: float = 0.3
    watch: Watch = field(default_factory=Watch)

    def prepare(self, trials: int) -> None:
        """Queue the first trials: the baselines, and more; only the process that creates the study.

        In a space with no more points than trials, or for `grid`, all points follow. Otherwise the baselines on both
        towers follow, for at most a quarter of the trials: their image features are cached, so no image is embedded.

        Raises:
            SpecError: `grid` in a space that is too large to enumerate.
        """
        check_grid(self.sampler, self.space)
        first = [spec for spec in map(parse, self.baselines) if self.space.encode(spec) is not None]
        if self.sampler == GRID or self.space.size(trials) <= trials:
            more = [spec for spec in self.space.points() if spec not in first]
            np.random.default_rng(self.seed).shuffle(more)
        else:
            more = [both for spec in first if (both := self.space.same_images(spec)) is not None]
            more = more[: max(trials - len(first), 0) // 4]
        for spec in [*first, *more][:trials]:
            self._queue(spec, baseline=spec in first)

    def budget(self, trials: int) -> int:
        """Number of different configurations to evaluate: `trials`, or all of a space that has fewer."""
        return min(trials, self.space.size(trials))

    def run(self, trials: int) -> None:
        """Evaluate until `trials` different configurations are settled, by any process, or the space is exhausted.

        Raises:
            StorageError: the results or the study cannot be written.
        """
        trials, repeats = self.budget(trials), 0
        self.study.sampler = Seeded(self.sampler, self.seed)
        with self.progress.phase(f"search {self.study.study_name}", trials) as advance:
            done = len(evaluated(self.study))
            advance(done)
            while done < trials:
                with self._alone():
                    reconcile(self.study, self.watch)
                others = self._count(TrialState.RUNNING)
                if repeats >= _ENOUGH and not others:
                    break
                if repeats >= _ENOUGH or (done + others >= trials and not self._count(TrialState.WAITING)):
                    time.sleep(self.pause)
                else:
                    self._one(repeats)
                now = len(evaluated(self.study))
                repeats = 0 if now > done else repeats + 1
                advance(now - done)
                done = now
        if done < trials:
            self.progress.message(f"search: {done} configurations; the sampler finds no new one")

    def _queue(self, spec: QuantSpec, **attributes: Any) -> None:
        self.study.enqueue_trial(self.space.encode(spec) or {}, user_attrs=attributes)

    def _count(self, state: TrialState) -> int:
        return len(self.study.get_trials(deepcopy=False, states=(state,)))

    def _one(self, repeats: int) -> None:
        """Run one trial. If another process has taken it over meanwhile, its result is dropped (the ledger has it)."""
        taken: list[int] = []
        if not self._count(TrialState.WAITING):
            self._queue_next(repeats)

        def objective(trial: optuna.Trial) -> Sequence[float]:
            try:
                with signed(self.study, trial):
                    return self._values(trial)
            finally:
                if taken_over(self.study, trial):
                    taken.append(trial.number)

        try:
            self.study.optimize(objective, n_trials=1, catch=(TrialFailed,), callbacks=[self._log])
        except (ValueError, UpdateFinishedTrialError):  # Optuna raises these when the trial was finished already
            if not taken:
                raise
            self.progress.message(f"trial {taken[0]}: taken over by another process")

    def _queue_next(self, repeats: int) -> None:
        """Queue what no sampler of Optuna's chooses: the last trial's sibling, a choice of `ehvi`, or after repeats an
        unseen point.

        The sibling treats the image tower alike, so that no image is embedded again.
        """
        trials = self.study.get_trials(deepcopy=False)
        tried = {trial.user_attrs.get(CONFIGURATION) for trial in trials}
        last = trials[-1] if trials else None
        spec = None
        if last is not None and last.state is TrialState.COMPLETE and "baseline" not in last.user_attrs:
            spec = self.space.same_images(parse(last.user_attrs[CONFIGURATION]))
        if spec is not None and spec.name not in tried:
            self._queue(spec, sibling_of=last.number if last else None)
            return
        chosen = self._promising(tried, len(trials)) if self.sampler == EHVI else None
        if chosen is not None:
            self._queue(chosen)
        elif repeats >= PATIENCE and (unseen := self._unseen(tried, len(trials))) is not None:
            self._queue(unseen)

    @cached_property
    def _ehvi(self) -> Ehvi:
        return Ehvi(self.space, self.seed, self._known_losses)

    def _promising(self, tried: set[Any], number: int) -> QuantSpec | None:
        """The choice of `ehvi`; None while too few trials are finished."""
        known = complete(self.study)
        found = losses(self.study, known)
        full = [o.loss(self.goals.reference[o.key]) for o in self.goals.objectives]
        return self._ehvi.choose(known, found, np.max([*found, full], axis=0), tried, number) if known else None

    def _known_losses(self, spec: QuantSpec) -> list[float | None]:
        """For each objective the loss of a configuration that is known in advance, None where it is not."""
        known = self.problem.known_objectives(spec)
        return [o.loss(known[o.key]) if o.key in known else None for o in self.goals.objectives]

    def _unseen(self, tried: set[Any], number: int) -> QuantSpec | None:
        """A random point that no trial has; None where many draws find none."""
        rng = np.random.default_rng([self.seed, number])
        for _ in range(_DRAWS):
            spec = self.space.sample(lambda dimension: dimension.values[rng.integers(len(dimension.values))])
            if spec.name not in tried:
                return spec
        return None

    def _alone(self) -> AbstractContextManager[Any]:
        """A lock that one process of this machine holds at a time."""
        return exclusive(self.lock) if self.lock is not None else nullcontext()

    def _values(self, trial: optuna.Trial) -> Sequence[float]:
        spec = self.space.decode({name: suggest(trial, name, values) for name, values in self.space.parameters.items()})
        with self._alone():
            earlier = lease(self.study, trial, spec)
        if earlier is not None:
            return repeat(trial, earlier)
        start = time.monotonic()
        try:
            metrics = self.goals.complete(self.problem.evaluate(spec))
            standing = self.problem.standing(spec)
            values, violations = self.goals.values(metrics), self.goals.violations(metrics, standing)
        except ReliquantError as error:
            if isinstance(error, StorageError):  # the configuration is not at fault: it is queued again
                raise
            trial.set_user_attr("error", str(error))
            self.progress.message(f"trial {trial.number}: {spec.name} failed: {error}")
            raise TrialFailed(str(error)) from error
        finally:
            trial.set_user_attr("seconds", time.monotonic() - start)
        self._keep(trial, metrics, standing)
        for text, violation in violations.items():
            trial.set_constraint(text, violation)
        shown = ", ".join(f"{o.key} {v:.4g}" for o, v in zip(self.goals.objectives, values, strict=True))
        worst = max(violations, key=lambda text: violations[text], default="")
        missed = f"; not {worst}" if violations.get(worst, 0.0) > 0 else ""
        self.progress.message(f"trial {trial.number}: {spec.name}: {shown}{missed}")
        return values

    def _keep(self, trial: optuna.Trial, metrics: Metrics, standing: Standing) -> None:
        """Store the metrics that the study shows (its own, the headline metrics, those of the goals) with errors."""
        keys = [*OWN, *self.problem.headline, *(o.key for o in self.goals.objectives)]
        keys += [c.key for c in self.goals.constraints]
        trial.set_user_attr(METRICS, {key: metrics[key] for key in dict.fromkeys(keys) if key in metrics})
        changes = [each.change for each in standing.decision.judged if each.change is not None]
        errors = {change.key: change.estimate.error for change in changes if change.estimate is not None}
        if standing.reliability.estimate is not None:
            errors[RELIABILITY] = standing.reliability.estimate.error
        trial.set_user_attr(ERRORS, errors)

    def _log(self, study: optuna.Study, trial: FrozenTrial) -> None:
        if is_settled(trial):
            self.log(trial)


def suggest(trial: optuna.Trial, name: str, values: Sequence[Scalar]) -> Scalar:
    """Ask the sampler for a value: consecutive integers are ordered, anything else is categorical."""
    low, high = values[0], values[-1]
    if type(low) is int and type(high) is int and tuple(values) == tuple(range(low, high + 1)):
        return trial.suggest_int(name, low, high)
    return cast(Scalar, trial.suggest_categorical(name, values))


def check_grid(sampler: str, space: Space) -> None:
    """Refuse `grid` in a space that has too many points to enumerate.

    Raises:
        SpecError: there are more than `LARGEST_GRID`.
    """
    if sampler == GRID and space.size(LARGEST_GRID) > LARGEST_GRID:
        raise SpecError(
            f"--sampler {GRID}: the space has more than {LARGEST_GRID:,} points. Narrow it with --method and "
            "--scope, or choose another sampler."
        )
