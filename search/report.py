"""Report a study: its front as a table, as figures, and as a suite for `reliquant run`."""

from __future__ import annotations

import shlex
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import yaml
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmark.results.decide import (
    Decision,
    choose_quantization,
    images_told,
    margins_told,
    to_json,
    verdicts_told,
)
from benchmark.results.notation import ARROWS, fold
from benchmark.spec import SuiteSpec
from benchmark.spec.suite import with_quantizations

from .front import Floats, hypervolume_curve
from .history import ESTIMATE, losses, pruned
from .objective import Goals, Metrics

NARROWEST_NAME = 12
MANY = 12
"""At most so many dimensions are in the slices, the most important first."""
LABEL = 30
"""Letters of a parameter's name that a figure has room for."""


def print_front(
    trials: Sequence[FrozenTrial], goals: Goals, test: Mapping[str, Metrics], fixed: Sequence[str] = ()
) -> None:
    """Print one row per configuration: each objective on the validation split and on the test split.

    Args:
        test: short name -> metrics on the test split; without configurations that failed there.
        fixed: artifacts, which stand below the front: nobody chose them on the validation split.
    """
    console = Console()
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("quantization", no_wrap=True)
    table.add_column("trial", justify="right", no_wrap=True)
    taken = len("trial") + 4
    for objective in goals.objectives:
        arrow = ARROWS["higher" if objective.direction == "maximize" else "lower"]
        words = "\n".join(objective.key.replace("_", "/").split("/"))
        table.add_column(f"{words} {arrow}\nvalidation", justify="right", no_wrap=True)
        table.add_column("\ntest", justify="right", no_wrap=True)
        taken += max(len("validation"), *(len(word) + 2 for word in words.split("\n"))) + len("test") + 4
    for trial in trials:
        name = trial.user_attrs["configuration"]
        cells = []
        for objective, value in zip(goals.objectives, trial.values, strict=True):
            other = test.get(name, {}).get(objective.key)
            cells += [f"{value:.4g}", "-" if other is None else f"{other:.4g}"]
        table.add_row(fold(name, max(NARROWEST_NAME, console.width - taken)), str(trial.number), *cells)
    for name in fixed:
        values = [test.get(name, {}).get(objective.key) for objective in goals.objectives]
        cells = [cell for value in values for cell in ("-", "-" if value is None else f"{value:.4g}")]
        table.add_row(fold(name, max(NARROWEST_NAME, console.width - taken)), "artifact", *cells)
    console.print(Text(f"Pareto front: {len(trials)} configurations", style="bold"))
    console.print(table)


def print_verdicts(decisions: Mapping[str, Decision], bits: Mapping[str, float]) -> None:
    """Print one row per configuration: its verdict against full precision on the test split, and which is recommended.

    Args: bits: short name -> effective bits on the test split.
    """
    if not decisions:
        return
    console = Console()
    best = choose_quantization(bits, decisions).recommended
    judged = max((decision.judged for decision in decisions.values()), key=len)
    about = f"on {images_told(judged)}; margins: {margins_told(judged)}".replace("`", "")
    console.print(Text(f"Test split against fp32, {about}", style="bold"))
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, words in verdicts_told(decisions, best.name if best else None).items():
        table.add_row(fold(name, 2 * NARROWEST_NAME), Text(words))
    console.print(table)


def front_rows(
    trials: Sequence[FrozenTrial],
    goals: Goals,
    test: Mapping[str, Metrics],
    decisions: Mapping[str, Decision],
    fixed: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """The front as JSON rows: `quantization`, `trial`, the objectives on `validation` and `test`, and the `decision` on
    `test` (or None); then the artifacts `fixed`, whose `trial` and `validation` are None.
    """
    keys = [objective.key for objective in goals.objectives]
    front = [(t.user_attrs["configuration"], t.number, dict(zip(keys, t.values, strict=True))) for t in trials]
    return [
        {
            "quantization": name,
            "trial": number,
            "validation": validation,
            "test": {key: test[name].get(key) for key in keys} if name in test else None,
            "decision": to_json(decisions[name]) if name in decisions else None,
        }
        for name, number, validation in [*front, *((name, None, None) for name in fixed)]
    ]


def write_suite(path: Path, suite: SuiteSpec, names: Sequence[str], study: str) -> None:
    """Write the test suite with the front's short names, as YAML for `reliquant run`."""
    content = with_quantizations(suite, names).model_dump(mode="json", exclude_defaults=True, exclude_none=True)
    for spec in content["data"].values():
        if "options" in spec:
            spec["options"] = dict(spec["options"])
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=110)
    path.write_text(
        f"# The Pareto front of study '{study}': reliquant run {shlex.quote(path.name)}\n{text}", encoding="utf-8"
    )


def write_figures(folder: Path, study: optuna.Study, goals: Goals, front: Sequence[FrozenTrial]) -> dict[str, float]:
    """Write `front.png`, `hypervolume.png`, `importance.png` and `slices.png`, as far as the trials allow.

    Returns:
        the final `hypervolume` and its reference point, `hypervolume_reference/OBJECTIVE`; empty with a single
        objective. The reference point differs from study to study: compare hypervolumes only with it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    feasible = [t for t in done if all(violation <= 0 for violation in t.constraints.values())]
    found: dict[str, float] = {}
    if len(goals.objectives) > 1 and feasible:
        _draw_front(folder / "front.png", done, feasible, front, pruned(study), goals)
        corner = reference_point(losses(study, feasible))
        found["hypervolume"] = _draw_hypervolume(folder / "hypervolume.png", study, feasible, corner)
        pairs = zip(goals.objectives, corner.tolist(), strict=True)
        found |= {f"hypervolume_reference/{o.key}": o.loss(worst) for o, worst in pairs}
    shares = importances(study, done)
    if any(shares):
        _draw_importance(folder / "importance.png", goals, shares)
        _draw_slices(folder / "slices.png", goals, done, shares)
    return found


def importances(study: optuna.Study, done: Sequence[FrozenTrial]) -> list[dict[str, float]]:
    """For each objective: parameter -> share of importance (PED-ANOVA, Watanabe et al. 2023, arXiv 2304.10255)."""
    sampled = [trial for trial in done if trial.params]
    return [_shares(study, sampled, index) for index in range(len(study.directions))]


def _shares(study: optuna.Study, sampled: Sequence[FrozenTrial], index: int) -> dict[str, float]:
    """Shares for one objective; empty where its value never varies or there are fewer than 4 trials."""
    if len(sampled) < 4 or np.ptp(losses(study, sampled)[:, index]) == 0:
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


def short_label(name: str) -> str:
    """A parameter's label for a figure: values that would not fit are counted (`method of 15 values`)."""
    what, _, values = name.partition(" of ")
    return f"{what} of {values.count('|') + 1} values" if values and len(name) > LABEL else name


def _draw_front(
    path: Path,
    done: Sequence[FrozenTrial],
    feasible: Sequence[FrozenTrial],
    front: Sequence[FrozenTrial],
    pruned_trials: Sequence[FrozenTrial],
    goals: Goals,
) -> None:
    """Plot the first two objectives: the second on the x axis, the first on the y axis."""
    figure, axes = _plot()
    plot = axes[0][0]
    kept = {t.number for t in feasible}
    for label, trials, style in (
        ("violates a constraint", [t for t in done if t.number not in kept], {"marker": "x", "color": "0.7"}),
        ("evaluated", feasible, {"marker": "o", "color": "0.6"}),
        ("customary", [t for t in feasible if t.user_attrs.get("baseline")], {"marker": "s", "color": "tab:blue"}),
    ):
        if trials:
            plot.scatter([t.values[1] for t in trials], [t.values[0] for t in trials], s=22, label=label, **style)
    if pruned_trials:
        guesses = [trial.user_attrs[ESTIMATE] for trial in pruned_trials]
        style = {"marker": ".", "color": "0.8", "label": "pruned (estimate)"}
        plot.scatter([guess[1] for guess in guesses], [guess[0] for guess in guesses], s=16, zorder=0, **style)
    ordered = sorted(front, key=lambda t: t.values[1])
    across, up = [t.values[1] for t in ordered], [t.values[0] for t in ordered]
    plot.step(across, up, "o-", where="post", color="tab:red", ms=4, lw=1, label="front")
    plot.set_xlabel(goals.objectives[1].key)
    plot.set_ylabel(goals.objectives[0].key)
    plot.legend(fontsize=8)
    figure.savefig(path, dpi=140)


def _draw_hypervolume(path: Path, study: optuna.Study, feasible: Sequence[FrozenTrial], corner: Floats) -> float:
    curve = hypervolume_curve(losses(study, feasible), corner)
    figure, axes = _plot()
    axes[0][0].step([t.number for t in feasible], curve, where="post")
    axes[0][0].set_xlabel("trial")
    axes[0][0].set_ylabel("hypervolume, from the worst values seen")
    figure.savefig(path, dpi=140)
    return float(curve[-1])


def _draw_importance(path: Path, goals: Goals, shares: Sequence[Mapping[str, float]]) -> None:
    figure, axes = _plot(columns=len(shares))
    for plot, objective, share in zip(axes[0], goals.objectives, shares, strict=True):
        names = list(share)[:MANY][::-1]
        plot.barh(range(len(names)), [share[name] for name in names])
        plot.set_yticks(range(len(names)), list(map(short_label, names)))
        plot.set_xlabel(f"importance for {objective.key}")
    figure.savefig(path, dpi=140)


def _draw_slices(path: Path, goals: Goals, done: Sequence[FrozenTrial], shares: Sequence[Mapping[str, float]]) -> None:
    """Plot the first objective over the values of its most important parameters."""
    names = list(shares[0] or next(filter(None, shares)))[:MANY]
    figure, axes = _plot(columns=min(3, len(names)), rows=-(-len(names) // 3), sharey=True)
    for plot in axes.flat[len(names) :]:
        plot.set_visible(False)
    for plot, name in zip(axes.flat, names, strict=False):
        trials = [t for t in done if name in t.params]
        order = sorted({t.params[name] for t in trials}, key=lambda v: (isinstance(v, str), v))
        plot.plot([order.index(t.params[name]) for t in trials], [t.values[0] for t in trials], "o", alpha=0.5, ms=4)
        plot.set_xticks(range(len(order)), [str(value) for value in order], fontsize=7, rotation=30)
        plot.set_xlabel(short_label(name))
    axes[0][0].set_ylabel(goals.objectives[0].key)
    figure.savefig(path, dpi=140)
