"""Run a study: draw a configuration, evaluate it once and record it, until the budget is used up.

Several processes may run the same study. The budget counts different configurations: repeats are answered from the
study and cost nothing, and a configuration that another process is evaluating is not evaluated twice.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from benchmark.errors import ReliquantError, SpecError, StorageError
from benchmark.quantization import parse
from benchmark.spec import FP32, QuantSpec
from benchmark.utils.locking import exclusive
from benchmark.utils.progress import Progress, Silent

from .draw import Draw
from .history import CONFIGURATION, ESTIMATE, PRUNED, evaluated, front, is_settled
from .leases import TrialFailed, lease, repeat
from .objective import OWN, Goals, Metrics, Problem
from .racing import Member, Race
from .samplers import DEFAULT, GRID
from .space import Space
from .stale import Watch, reconcile, signed, taken_over

CUSTOMARY = (
    "rtn-w8a8-channel-token-vision",
    "rtn-w6a8-channel-token-vision",
    "rtn-w4a8-channel-token-vision",
    "bnb-nf4-vision",
    "bnb-int8-vision",
)
"""Common choices without a search; the search evaluates them first, after full precision."""
LARGEST_GRID = 10_000
_ENOUGH = 100
"""After so many repeats in a row the space counts as exhausted."""


class TrialLog(Protocol):
    """Where finished trials are logged, e.g. MLflow."""

    def trial(self, trial: FrozenTrial) -> None:
        """Log one finished trial."""


class NoLog:
    """Logs nothing."""

    def trial(self, trial: FrozenTrial) -> None:
        """Nothing to do."""


@dataclass
class Search:
    """One process's share of a study.

    Attributes:
        study: Optuna's. space: what may be drawn. problem: how a configuration is evaluated.
        goals: objectives and constraints. sampler: a name of `search.samplers.NAMES`. seed: the study's.
        log: where finished trials go. progress: where messages go.
        baselines: configurations to evaluate first, after full precision; never pruned.
        lock: file that the processes of this machine lock while they lease a configuration; None where the study is in
            memory. pause: seconds between looks at other processes' trials. watch: finds their stale trials.
    """

    study: optuna.Study
    space: Space
    problem: Problem
    goals: Goals
    sampler: str = DEFAULT
    seed: int = 0
    log: TrialLog = field(default_factory=NoLog)
    progress: Progress = field(default_factory=Silent)
    baselines: Sequence[str] = CUSTOMARY
    lock: Path | None = None
    pause: float = 0.3
    watch: Watch = field(default_factory=Watch)

    def prepare(self, trials: int) -> None:
        """Queue the first trials: full precision, the baselines, and more; only the process that creates the study.

        In a space with no more points than trials, or for `grid`, all points follow. Otherwise the baselines on both
        towers follow, for at most a quarter of the trials: their image features are cached, so no image is embedded.

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
        else:
            both = [spec.model_copy(update={"scope": "vision+text"}) for spec in first.values() if spec != FP32]
            points = [spec for spec in both if self.space.labelled(spec) is not None]
            queued += points[: max(trials - len(first), 0) // 4]
        for spec in queued[: max(trials, 1)]:
            attributes = {"configuration": spec.name, "baseline": spec.name in first}
            self.study.enqueue_trial(self.space.labelled(spec) or {}, user_attrs=attributes)

    def budget(self, trials: int) -> int:
        """Number of different configurations to evaluate: `trials`, or all of a space that has fewer."""
        size = self.space.size(trials)
        if size > trials:
            return trials
        outside = [t for t in self._first().values() if self.space.labelled(t) is None]
        return min(trials, size + len(outside))

    def run(self, trials: int) -> None:
        """Evaluate until `trials` different configurations are settled, by any process, or the space is exhausted.

        Raises:
            StorageError: the results or the study cannot be written.
        """
        trials, repeats = self.budget(trials), 0
        with self.progress.phase(f"search {self.study.study_name}", trials) as advance:
            done = len(evaluated(self.study))
            advance(done)
            while done < trials:
                with self._alone():
                    reconcile(self.study, self.watch)
                others = self._running_elsewhere()
                if repeats >= _ENOUGH and not others:
                    break
                if repeats >= _ENOUGH or (done + others >= trials and not self._waiting()):
                    time.sleep(self.pause)
                else:
                    self._one(repeats)
                now = len(evaluated(self.study))
                repeats = 0 if now > done else repeats + 1
                advance(now - done)
                done = now
        if done < trials:
            self.progress.message(f"search: {done} configurations; the sampler finds no new one")

    def _first(self) -> dict[str, QuantSpec]:
        """Full precision, and the baselines that this model and suite accept."""
        return {"fp32": FP32} | {spec.name: spec for spec in map(parse, self.baselines) if self.space.accepts(spec)}

    @cached_property
    def _draw(self) -> Draw:
        return Draw(self.study, self.space, self.sampler, self.seed, self._known_losses)

    @cached_property
    def _race(self) -> Race:
        return Race(self.problem, self.goals, self.progress)

    def _known_losses(self, spec: QuantSpec) -> list[float | None]:
        """For each objective the loss of a configuration that is known in advance, None where it is not."""
        known = self.problem.known_objectives(spec)
        return [o.loss(known[o.key]) if o.key in known else None for o in self.goals.objectives]

    def _waiting(self) -> bool:
        return bool(self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)))

    def _running_elsewhere(self) -> int:
        return len(self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)))

    def _one(self, repeats: int) -> None:
        """Run one trial. If another process has taken it over meanwhile, its result is dropped (the ledger has it)."""
        taken: list[int] = []

        def objective(trial: optuna.Trial) -> Sequence[float]:
            try:
                with signed(self.study, trial):
                    return self._values(trial, repeats)
            finally:
                if taken_over(self.study, trial):
                    taken.append(trial.number)

        try:
            self.study.optimize(objective, n_trials=1, catch=(TrialFailed,), callbacks=[self._log])
        except (ValueError, UpdateFinishedTrialError):  # Optuna raises these when the trial was finished already
            if not taken:
                raise
            self.progress.message(f"trial {taken[0]}: taken over by another process")

    def _alone(self) -> AbstractContextManager[Any]:
        """A lock that one process of this machine holds at a time."""
        return exclusive(self.lock) if self.lock is not None else nullcontext()

    def _values(self, trial: optuna.Trial, repeats: int) -> Sequence[float]:
        spec = self._draw.configuration(trial, repeats)
        with self._alone():
            earlier = lease(self.study, trial, spec)
        if earlier is not None:
            return repeat(trial, earlier)
        start = time.monotonic()
        try:
            self._race_up(trial, spec)
            metrics = self.goals.complete(self.problem.evaluate(spec))
            values, violations = self.goals.values(metrics), self.goals.violations(metrics)
        except ReliquantError as error:
            if isinstance(error, StorageError):  # the configuration is not at fault: it is queued again
                raise
            trial.set_user_attr("error", str(error))
            self.progress.message(f"trial {trial.number}: {spec.name} failed: {error}")
            raise TrialFailed(str(error)) from error
        finally:
            trial.set_user_attr("seconds", time.monotonic() - start)
        self._keep(trial, metrics)
        for text, violation in violations.items():
            trial.set_constraint(text, violation)
        shown = ", ".join(f"{o.key} {v:.4g}" for o, v in zip(self.goals.objectives, values, strict=True))
        self.progress.message(f"trial {trial.number}: {spec.name}: {shown}")
        return values

    def _race_up(self, trial: optuna.Trial, spec: QuantSpec) -> None:
        """Measure a trial on one rung after the other, where that can save work.

        Baselines are never pruned. Where a finished trial has the same image tower, its image features are cached, and
        an evaluation on all images costs no more than one on a part.

        Raises:
            TrialPruned: the trial is confidently dominated, or violates a constraint.
        """
        if trial.user_attrs.get("baseline") or self._embedded(spec):
            return
        for index in range(len(self._race.rungs)):
            standing = self._race.standing(spec, index)
            reason = self._race.verdict(spec, index, self._members())
            if standing is not None and reason is not None:
                trial.set_user_attr(ESTIMATE, standing.values)
                trial.set_user_attr(PRUNED, reason)
                for constraint, violation in zip(self.goals.constraints, standing.violations, strict=True):
                    trial.set_constraint(constraint.text, violation)
                self.progress.message(f"trial {trial.number}: {spec.name}: pruned: {reason}")
                raise optuna.TrialPruned(reason)

    def _embedded(self, spec: QuantSpec) -> bool:
        """Whether a finished trial has the same image tower."""
        done = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        own = spec.for_tower("vision")
        return any(parse(t.user_attrs[CONFIGURATION]).for_tower("vision") == own for t in done)

    def _members(self) -> list[Member]:
        return [Member(parse(t.user_attrs[CONFIGURATION]), t.values) for t in front(self.study)]

    def _keep(self, trial: optuna.Trial, metrics: Metrics) -> None:
        """Store the metrics that the study shows: its own, the headline metrics, and those that the goals name."""
        keys = [*OWN, *self.problem.headline, *(o.key for o in self.goals.objectives)]
        keys += [c.key for c in self.goals.constraints]
        trial.set_user_attr("metrics", {key: metrics[key] for key in dict.fromkeys(keys) if key in metrics})

    def _log(self, study: optuna.Study, trial: FrozenTrial) -> None:
        if is_settled(trial):
            self.log.trial(trial)


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
