"""How much of an exhaustive grid a search finds, and at which cost: writes docs/results-search.md.

python tests/performance/bench_search.py --home FOLDER

1. Every point of a grid of at least 200 quantizations of the demo is evaluated (once: FOLDER keeps it).
2. For 5 seeds and each sampler the same space is searched over these evaluations, as `reliquant search` does it.
3. Cost: image-tower forward passes. Quantizations that treat the image tower alike share its features, in the grid
   and in the search, so both are counted as different image towers.
4. Optuna's and MLflow's overhead is measured on a real study of a few trials.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import optuna
import torch
from optuna.trial import TrialState

from benchmark.engine.plan import Settings
from benchmark.progress import Lines
from benchmark.quantization import parse
from benchmark.spec import FP32, QuantSpec, SuiteSpec
from benchmark.suite import load_suite, narrow
from search.evaluator import Engine
from search.front import Floats, hypervolume, hypervolume_curve, non_dominated
from search.objective import DEFAULT, Goals, Metrics, Problem, make_goals, make_objective
from search.selection import selection_suite
from search.space import Choices, Space
from search.storage import open_storage
from search.study import CUSTOMARY, Search
from search.tracking import MlflowLog
from trackers.study import StudyRun

GRID = Choices(
    methods=("rtn", "percentile", "bnb-nf4", "bnb-fp4", "bnb-int8"),
    scopes=("vision", "vision+text"),
    weight_bits=(3, 4, 5, 6, 7, 8),
    weight_granularity=("channel", "group"),
    group_size=(32,),
    symmetric=(True,),
    activations=("none", "token"),
    activation_bits=(8,),
)
SEEDS = 5
SHARE = 0.99
SAMPLERS = ("tpe", "nsga2", "random")


@dataclass(frozen=True)
class Reached:
    """What one search needed to reach 99 % of the grid's hypervolume; None where it never did."""

    evaluations: int | None
    cost: float | None
    at_fifth: float


def small_demo() -> SuiteSpec:
    """The demo with 150 images a data set and five corruptions at severity 3, 40 images each."""
    suite = narrow(load_suite("demo"), limit=150)
    kinds = ("gaussian_noise", "defocus_blur", "fog", "contrast", "jpeg_compression")
    update = {"corruptions": kinds, "severities": (3,), "limit": 40}
    data = {k: v.model_copy(update=update) if v.corruptions else v for k, v in suite.data.items()}
    return suite.model_copy(update={"data": data, "name": "demo-search-bench"})


def evaluate_grid(engine: Engine, space: Space, cache: Path) -> dict[str, dict[str, float]]:
    """Short name -> metrics of every point, full precision and the customary configurations."""
    table: dict[str, dict[str, float]] = json.loads(cache.read_text()) if cache.is_file() else {}
    specs = [FP32, *map(parse, CUSTOMARY), *space.points()]
    specs = list({spec.name: spec for spec in specs}.values())
    for i, spec in enumerate(specs):
        if spec.name not in table:
            start = time.monotonic()
            table[spec.name] = {**engine.evaluate(spec), "seconds": time.monotonic() - start}
            cache.write_text(json.dumps(table))
            print(f"{i + 1}/{len(specs)} {spec.name}: {table[spec.name]['seconds']:.1f} s", flush=True)
    return {spec.name: table[spec.name] for spec in specs}


def towers(names: Sequence[str]) -> int:
    """Different image towers among quantizations: what the forward passes go through."""
    return len({parse(name).for_tower("vision").name for name in names})


def search_once(problem: Problem, goals: Goals, space: Space, sampler: str, seed: int, trials: int) -> list[str]:
    """Names in the order in which a search evaluates them."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(directions=[o.direction for o in goals.objectives])
    search = Search(study, space, problem, goals, sampler, seed)
    search.prepare(trials)
    search.run(trials)
    done = study.get_trials(states=(TrialState.COMPLETE,))
    return list(dict.fromkeys(t.user_attrs["configuration"] for t in done))


def reached(order: Sequence[str], points: Mapping[str, Floats], corner: Floats, target: float, cost: int) -> Reached:
    """Where a search's hypervolume passes the target."""
    curve = hypervolume_curve(np.array([points[name] for name in order]), corner)
    passed = np.flatnonzero(curve >= SHARE * target)
    count = int(passed[0]) + 1 if len(passed) else None
    fifth = max(i + 1 for i in range(len(order)) if i == 0 or towers(order[: i + 1]) <= 0.2 * cost)
    return Reached(count, towers(order[:count]) / cost if count else None, float(curve[fifth - 1] / target))


def overhead(engine: Engine, space: Space, problem: Problem, goals: Goals, home: Path, trials: int) -> float:
    """Seconds a trial outside the evaluation, in a real study with journal file and MLflow."""
    spent: list[float] = []

    def evaluate(spec: QuantSpec) -> Metrics:
        start = time.monotonic()
        try:
            return engine.evaluate(spec)
        finally:
            spent.append(time.monotonic() - start)

    name = f"overhead-{time.time_ns()}"
    study = optuna.create_study(
        storage=open_storage(home), study_name=name, directions=[o.direction for o in goals.objectives]
    )
    timed = Problem(evaluate, problem.better, problem.headline)
    search = Search(study, space, timed, goals, "tpe", 0, lock=home / "studies" / ".claims.lock")
    search.log = MlflowLog(StudyRun.open(home, None, "demo-search-bench", name, {}), name, goals)
    start = time.monotonic()
    search.prepare(trials)
    search.run(trials)
    wall = time.monotonic() - start
    return (wall - sum(spent)) / len(spent)


def main() -> None:
    """Run everything and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path("docs/results-search.md"))
    parser.add_argument("--overhead-trials", type=int, default=12)
    args = parser.parse_args()
    engine = Engine(selection_suite(small_demo()), Settings(), args.home, Lines())
    space = Space(GRID, engine.check)
    table = evaluate_grid(engine, space, args.home / "grid.json")
    problem = Problem(lambda spec: table[spec.name], engine.better, engine.problem.headline)
    goals = make_goals(problem, [make_objective(key, engine.better, engine.known) for key in DEFAULT], ())
    full = {name: goals.complete(metrics) for name, metrics in table.items()}
    points = {
        n: np.array([o.loss(v) for o, v in zip(goals.objectives, goals.values(m), strict=True)])
        for n, m in full.items()
    }
    every = np.array(list(points.values()))
    front = every[non_dominated(every)]
    cost = towers(list(table))
    corners = {"worst of the grid": every.max(0), "worst of the grid's front": front.max(0)}
    results = {
        (sampler, which): [reached(order, points, corner, hypervolume(every, corner), cost) for order in orders]
        for sampler in SAMPLERS
        for orders in [[search_once(problem, goals, space, sampler, seed, len(table) // 2) for seed in range(SEEDS)]]
        for which, corner in corners.items()
    }
    extra = overhead(engine, space, problem, goals, args.home, args.overhead_trials)
    seconds = [m["seconds"] for m in table.values()]
    args.output.write_text(page(len(table), cost, len(front), results, extra, seconds), encoding="utf-8")
    print(args.output.read_text(encoding="utf-8"))


def page(
    count: int,
    cost: int,
    front: int,
    results: Mapping[tuple[str, str], Sequence[Reached]],
    extra: float,
    seconds: Sequence[float],
) -> str:
    """The results as Markdown."""
    median = float(np.median(seconds))
    rows = []
    for (sampler, which), runs in results.items():
        done = [r for r in runs if r.cost is not None]
        needed = f"{np.median([r.evaluations for r in done]):.0f}" if len(done) == len(runs) else "not by all"
        share = f"{100 * float(np.median([r.cost for r in done])):.0f} %" if len(done) == len(runs) else "-"
        spread = ", ".join("-" if r.cost is None else f"{100 * r.cost:.0f} %" for r in runs)
        at = f"{100 * float(np.median([r.at_fifth for r in runs])):.1f} %"
        rows.append(f"| {sampler} | {which} | {needed} | {share} | {spread} | {at} |")
    return f"""# Search: measured

`python tests/performance/bench_search.py --home FOLDER` on {platform.processor() or platform.machine()}, \
{torch.get_num_threads()} threads, torch {torch.__version__}, optuna {optuna.__version__}.

The demo's selection data with 150 images a data set and five corruptions; two objectives, `reliability` and
`effective_bits`. The exhaustive grid has {count} quantizations ({cost} different image towers; {front} on the front);
an evaluation took {median:.1f} s (median). Cost is the share of the grid's image-tower forward passes.

To 99 % of the grid's hypervolume, median of {SEEDS} seeds:

| sampler | reference point | evaluations | cost | cost of each seed | hypervolume at 20 % of the cost |
|---|---|---|---|---|---|
{chr(10).join(rows)}

Each search stops at half of the grid's points ("-": not reached by then). Full precision and the customary
configurations are evaluated first and count.

Overhead of Optuna (TPE, journal file) and MLflow: {1000 * extra:.0f} ms a trial, {100 * extra / median:.1f} % of the
median evaluation above.
"""


if __name__ == "__main__":
    main()
