"""Figures of a study: the trade-off with intervals, the course of the search, and what its choices matter."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from .front import Floats, hypervolume_curve
from .history import ERRORS, METRICS, complete, is_feasible, losses
from .objective import RELIABILITY, Goals
from .recommend import Member

MANY = 12
"""At most so many parameters are in the slices, the most important first."""
NORMAL = 1.96


def write_figures(
    folder: Path, study: optuna.Study, goals: Goals, members: Sequence[Member], recommended: str | None
) -> dict[str, float]:
    """Write `front.png`, `course.png`, `importance.png` and `slices.png`, as far as the trials allow.

    Args:
        members: on the test split. recommended: the name of one of them.

    Returns:
        for a study of several objectives the final `hypervolume` and its reference point,
        `hypervolume_reference/OBJECTIVE`. That differs from study to study: compare hypervolumes only with it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    done = complete(study)
    feasible = [trial for trial in done if is_feasible(trial)]
    found: dict[str, float] = {}
    if done:
        _draw_front(folder / "front.png", done, members, goals, recommended)
    if feasible:
        found = _draw_course(folder / "course.png", study, feasible, goals)
    shares = importances(study, study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))
    if any(shares):
        _draw_importance(folder / "importance.png", goals, shares)
        _draw_slices(folder / "slices.png", goals, done, shares)
    return found


def importances(study: optuna.Study, done: Sequence[FrozenTrial]) -> list[dict[str, float]]:
    """For each objective: parameter -> share of importance (PED-ANOVA, Watanabe et al. 2023, arXiv 2304.10255)."""
    return [_shares(study, done, index) for index in range(len(study.directions))]


def _shares(study: optuna.Study, done: Sequence[FrozenTrial], index: int) -> dict[str, float]:
    """Shares for one objective; empty where its value never varies or there are fewer than 4 trials."""
    if len(done) < 4 or np.ptp(losses(study, done)[:, index]) == 0:
        return {}
    sign = -1.0 if study.directions[index] is StudyDirection.MAXIMIZE else 1.0

    def loss(trial: FrozenTrial) -> float:
        return sign * float(trial.values[index])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna's notes on parameters that never vary
        return optuna.importance.get_param_importances(study, target=loss)


def reference_point(points: Floats) -> Floats:
    """The worst value seen in each column: the reference point of hypervolumes."""
    worst: Floats = points.max(axis=0)
    return worst


def _plot(columns: int = 1, rows: int = 1, sharey: bool = False) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5 * columns, 3.8 * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, sharey=sharey)


def _draw_front(
    path: Path, done: Sequence[FrozenTrial], members: Sequence[Member], goals: Goals, recommended: str | None
) -> None:
    """Reliability over cost with 95 % intervals: trials on the validation split, the candidates on the test split."""
    figure, axes = _plot()
    plot, cost = axes[0][0], goals.cost
    shown = [t for t in done if {cost, RELIABILITY} <= t.user_attrs[METRICS].keys()]
    for label, trials, style in (
        ("validation: beyond a constraint", [t for t in shown if not is_feasible(t)], {"fmt": "x", "color": "0.8"}),
        ("validation", [t for t in shown if is_feasible(t)], {"fmt": "o", "color": "0.6"}),
    ):
        if trials:
            across, up = ([t.user_attrs[METRICS][key] for t in trials] for key in (cost, RELIABILITY))
            half = [NORMAL * t.user_attrs.get(ERRORS, {}).get(RELIABILITY, 0.0) for t in trials]
            plot.errorbar(across, up, half, ms=3, lw=0.6, ls="none", label=label, zorder=1, **style)
    able = [(each, value) for each in members if (value := each.reliability.value) is not None and cost in each.metrics]
    for chosen, label, colour in ((False, "test: candidates", "tab:red"), (True, "recommended", "tab:green")):
        own = [(each, value) for each, value in able if (each.name == recommended) == chosen]
        if own:
            middle = np.array([value for _, value in own])
            ends = np.array([each.reliability.interval or (value, value) for each, value in own])
            across = [each.metrics[cost] for each, _ in own]
            size = {"fmt": "*" if chosen else "o", "ms": 12.0 if chosen else 5.0}
            half = np.abs(ends.T - middle)
            plot.errorbar(
                across, middle, half, color=colour, label=label, lw=1.2, capsize=2, ls="none", zorder=3, **size
            )
    for each, value in able:
        if each.group:
            at = (each.metrics[cost], value)
            plot.annotate(str(each.group), at, xytext=(4, 4), textcoords="offset points", fontsize=8)
    _focus(plot, [end for each, value in able for end in each.reliability.interval or (value,)])
    plot.axhline(0.0, color="0.5", lw=0.8, ls=":")
    plot.set_xlabel(cost.replace("_", " "))
    plot.set_ylabel("reliability against full precision, points (95 %)")
    plot.set_title("numbers: groups that cannot be told apart", fontsize=8)
    plot.legend(fontsize=8)
    figure.savefig(path, dpi=140)


def _focus(plot: Any, ends: Sequence[float]) -> None:
    """Show the candidates' intervals, not what a configuration that broke the model lost."""
    if ends:
        low, high = min(0.0, *ends), max(0.0, *ends)
        room = 0.6 * max(high - low, 0.1)
        plot.set_ylim(low - room, high + room)


def _draw_course(path: Path, study: optuna.Study, feasible: Sequence[FrozenTrial], goals: Goals) -> dict[str, float]:
    """The best cost, or the hypervolume, after each feasible trial."""
    points, numbers = losses(study, feasible), [trial.number for trial in feasible]
    figure, axes = _plot()
    found: dict[str, float] = {}
    if points.shape[1] == 1:
        objective = goals.objectives[0]
        axes[0][0].step(numbers, [objective.loss(v) for v in np.minimum.accumulate(points[:, 0])], where="post")
        axes[0][0].set_ylabel(f"best {objective.key} so far")
    else:
        corner = reference_point(points)
        curve = hypervolume_curve(points, corner)
        axes[0][0].step(numbers, curve, where="post")
        axes[0][0].set_ylabel("hypervolume, from the worst values seen")
        pairs = zip(goals.objectives, corner.tolist(), strict=True)
        found = {"hypervolume": float(curve[-1])}
        found |= {f"hypervolume_reference/{o.key}": o.loss(worst) for o, worst in pairs}
    axes[0][0].set_xlabel("trial")
    figure.savefig(path, dpi=140)
    return found


def _draw_importance(path: Path, goals: Goals, shares: Sequence[Mapping[str, float]]) -> None:
    figure, axes = _plot(columns=len(shares))
    for plot, objective, share in zip(axes[0], goals.objectives, shares, strict=True):
        names = list(share)[:MANY][::-1]
        plot.barh(range(len(names)), [share[name] for name in names])
        plot.set_yticks(range(len(names)), names)
        plot.set_xlabel(f"importance for {objective.key}")
    figure.savefig(path, dpi=140)


def _draw_slices(path: Path, goals: Goals, done: Sequence[FrozenTrial], shares: Sequence[Mapping[str, float]]) -> None:
    """Plot the first objective over the values of its most important parameters."""
    names = list(shares[0] or next(filter(None, shares)))[:MANY]
    figure, axes = _plot(columns=min(3, len(names)), rows=-(-len(names) // 3), sharey=True)
    for plot in axes.flat[len(names) :]:
        plot.set_visible(False)
    for plot, name in zip(axes.flat, names, strict=False):
        order = sorted({t.params[name] for t in done}, key=lambda v: (isinstance(v, str), v))
        plot.plot([order.index(t.params[name]) for t in done], [t.values[0] for t in done], "o", alpha=0.5, ms=4)
        plot.set_xticks(range(len(order)), [str(value) for value in order], fontsize=7, rotation=30)
        plot.set_xlabel(name)
    axes[0][0].set_ylabel(goals.objectives[0].key)
    figure.savefig(path, dpi=140)
