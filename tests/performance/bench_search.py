"""How much of an exhaustive grid a search finds, and at which cost: writes docs/results-search.md.

python tests/performance/bench_search.py --home FOLDER

1. Every point of a grid of 551 quantizations of the demo is evaluated once, on all images and on each part of them
   (FOLDER keeps it: a call that was stopped goes on; --minutes ends one early).
2. For 5 seeds and each sampler (15 for the default with racing) the same space is searched over these evaluations, as
   `reliquant search` does it.
3. Cost: image-tower forward passes. Quantizations that treat the image tower alike share its features, in the grid
   and in the search; a larger part of the images takes the smaller one's features.
4. The same on the symmetric 227 of them, and on these with five times the images, where values depend less on chance.
5. What a trial takes, and Optuna's and MLflow's share of it, is measured on real studies of the demo.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from scipy.stats import t as student

from benchmark.demo import scenes
from benchmark.engine.plan import Settings
from benchmark.quantization import parse
from benchmark.spec import FP32, QuantSpec
from benchmark.spec.suite import load_suite
from benchmark.utils.progress import Lines
from search.evaluator import Engine
from search.front import Floats, hypervolume, hypervolume_curve, non_dominated
from search.objective import RELATIVE, Goals, Metrics, Problem, Rung, make_goals, make_objective
from search.racing import LEVEL, Race
from search.request import SHARES
from search.rungs import make_rungs, parse_shares
from search.samplers import DEFAULT as SAMPLER
from search.space import Choices, Space
from search.splits import suite_on_validation
from search.storage import open_storage
from search.study import CUSTOMARY, Search
from search.tracking import TrialLog
from trackers.mlflow import MLflowTracker

GRID = Choices(
    methods=("rtn", "mse", "hqq", "bnb-nf4", "bnb-fp4", "bnb-int8"),
    scopes=("vision+text", "vision"),
    weight_bits=(2, 3, 4, 5, 6, 8),
    weight_granularity=("channel", "group"),
    group_size=(32, 64),
    symmetric=(True, False),
    activations=("none", "token"),
    activation_bits=(8,),
)
SMALLER = replace(GRID, symmetric=(True,))
"""Without the choice of symmetry; also for more images than the demo's, which take longer."""
ECE, NLL = "calibration/scenes/ece_15", "calibration/scenes/nll"
FLOOR = "calibration/scenes/ece_15_floor"
SEEDS = range(10, 15)
"""None of them was used to choose the sampler's settings: those were 0 to 9."""
MANY = range(10, 25)
"""For the default sampler with racing: five searches differ much by chance."""
SHARE = 0.99
BUDGET = 0.2
KEYS = (RELATIVE, "effective_bits")
"""The objectives."""
RUNS = ((SAMPLER, False), (SAMPLER, True), ("tpe", False), ("nsga2", False), ("qmc", False), ("random", False))
NEAR = 0.05
"""Configurations that lose no more `mean_relative_change` than this are compared between the grids."""
OFTEN = (SAMPLER, "tpe", "random")
"""Samplers that are tried in every case."""
GRIDS = ((1, GRID), (1, SMALLER), (5, SMALLER))
"""As many times the demo's images, and the grid."""
RENDERED = ("validation", "test", "test_large", "sketch", "textured", "v2", "common", "counter", "near_ood", "far_ood")
"""The demo's splits that can have any number of images."""


def evaluate_grid(
    engine: Engine, rungs: Sequence[Rung], space: Space, keys: Sequence[str], cache: Path, until: float
) -> dict[str, Any] | None:
    """Short name -> metrics on all images and on each part, seconds; None where the time was over before the end."""
    table: dict[str, Any] = json.loads(cache.read_text()) if cache.is_file() else {}
    specs = {spec.name: spec for spec in [FP32, *map(parse, CUSTOMARY), *space.points()]}
    for i, (name, spec) in enumerate(specs.items()):
        if name in table:
            continue
        if time.monotonic() > until:
            return None
        start = time.monotonic()
        row: dict[str, Any] = {"metrics": _only(engine.evaluate(spec), keys), "seconds": time.monotonic() - start}
        row["parts"] = [
            [_only(rung.evaluate(spec), keys), [_only(r, keys) for r in rung.replicates(spec)]] for rung in rungs
        ]
        table[name] = row
        cache.write_text(json.dumps(table))
        print(f"{i + 1}/{len(specs)} {name}: {row['seconds']:.1f} s", flush=True)
    return {name: table[name] for name in specs}


def _only(metrics: Metrics, keys: Sequence[str]) -> dict[str, float]:
    return {key: metrics[key] for key in keys if key in metrics}


def tower(name: str) -> str:
    """What a quantization does to the image tower."""
    return parse(name).for_tower("vision").name


@dataclass
class Replay:
    """A problem answered from the grid; counts the images that would have gone through an image tower."""

    table: Mapping[str, Any]
    images: Sequence[int]
    spent: int = 0
    seen: dict[str, int] = field(default_factory=dict)
    finished: list[tuple[str, int]] = field(default_factory=list)

    def _pay(self, name: str, images: int) -> None:
        own = tower(name)
        self.spent += max(0, images - self.seen.get(own, 0))
        self.seen[own] = max(images, self.seen.get(own, 0))

    def evaluate(self, spec: QuantSpec) -> Metrics:
        """On all images."""
        self._pay(spec.name, self.images[-1])
        self.finished.append((spec.name, self.spent))
        found: Metrics = self.table[spec.name]["metrics"]
        return found

    def part(self, index: int, spec: QuantSpec) -> Metrics:
        """On a part of them."""
        self._pay(spec.name, self.images[index])
        found: Metrics = self.table[spec.name]["parts"][index][0]
        return found

    def replicates(self, index: int, spec: QuantSpec) -> Sequence[Metrics]:
        """Without one group of the part's images each: from the same features."""
        found: Sequence[Metrics] = self.table[spec.name]["parts"][index][1]
        return found

    def rungs(self, shares: Sequence[float]) -> tuple[Rung, ...]:
        """The parts as rungs."""
        return tuple(
            Rung(share, partial(self.part, index), partial(self.replicates, index))
            for index, share in enumerate(shares)
        )


@dataclass(frozen=True)
class Case:
    """One definition of `mean_relative_change` on the grid's evaluations."""

    problem: Problem
    goals: Goals
    points: Mapping[str, Floats]

    @property
    def every(self) -> Floats:
        """(N, 2) losses of the grid."""
        return np.array(list(self.points.values()))

    @property
    def front(self) -> Floats:
        """The grid's front."""
        return self.every[non_dominated(self.every)]


def make_case(engine: Engine, table: Mapping[str, Any], headline: tuple[str, ...]) -> Case:
    """Goals with these headline metrics, and the losses of every point."""
    problem = Problem(
        lambda spec: table[spec.name]["metrics"], engine.better, headline, known_objectives=engine.known_objectives
    )
    goals = make_goals(problem, [make_objective(key, engine.better, engine.known) for key in KEYS], ())
    rows = {name: goals.values(goals.complete(row["metrics"])) for name, row in table.items()}
    losses = {n: np.array([o.loss(v) for o, v in zip(goals.objectives, r, strict=True)]) for n, r in rows.items()}
    return Case(problem, goals, losses)


@dataclass(frozen=True)
class Searched:
    """What one search had found when it had spent how much: order of (name, images), and the trials that it took."""

    finished: Sequence[tuple[str, int]]
    spent: int
    trials: int

    def cost_to(self, case: Case, corner: Floats, whole: int) -> float | None:
        """Share of the grid's images that were spent when 99 % of its hypervolume was reached."""
        curve = hypervolume_curve(np.array([case.points[name] for name, _ in self.finished]), corner)
        passed = np.flatnonzero(curve >= SHARE * hypervolume(case.every, corner))
        return self.finished[int(passed[0])][1] / whole if len(passed) else None

    def at(self, case: Case, corner: Floats, whole: int) -> float:
        """Share of the grid's hypervolume that 20 % of its cost buys."""
        bought = [case.points[name] for name, spent in self.finished if spent <= BUDGET * whole]
        return hypervolume(np.array(bought), corner) / hypervolume(case.every, corner)


def search_once(
    case: Case, space: Space, replay: Replay, shares: Sequence[float], sampler: str, seed: int, trials: int
) -> Searched:
    """A search over the grid's evaluations."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(directions=[o.direction for o in case.goals.objectives])
    problem = replace(case.problem, evaluate=replay.evaluate, rungs=replay.rungs(shares))
    search = Search(study, space, problem, case.goals, sampler, seed)
    search.prepare(trials)
    search.run(trials)
    return Searched(replay.finished, replay.spent, len(study.get_trials(deepcopy=False)))


def replays(
    case: Case,
    space: Space,
    table: Mapping[str, Any],
    images: Sequence[int],
    shares: Sequence[float],
    sampler: str,
    seeds: Sequence[int],
    cache: Path,
    until: float,
) -> list[Searched] | None:
    """One search for each seed, kept in a file; None where the time was over before the end."""
    kept: list[Any] = json.loads(cache.read_text()) if cache.is_file() else []
    for seed in seeds[len(kept) :]:
        if time.monotonic() > until:
            return None
        found = search_once(case, space, Replay(table, images), shares, sampler, seed, len(table) // 2)
        kept.append(asdict(found))
        cache.write_text(json.dumps(kept))
        print(f"{cache.stem} seed {seed}: {found.spent:,} images", flush=True)
    return [Searched(**row) for row in kept]


def wrong_stops(case: Case, table: Mapping[str, Any], shares: Sequence[float]) -> list[tuple[float, float]]:
    """For each part: the share of pairs (trial, member) that are stopped, where the member is not better, and where it
    is better by 0.02 or more; one test alone, at the level that it has where it is one of all parts' tests.
    """
    names = [name for name in table if name != FP32.name]
    goals = case.goals
    found = []
    problem = replace(case.problem, rungs=Replay(table, [0] * len(shares)).rungs(shares))
    race = Race(problem, goals)
    points = np.array([case.points[name] for name in names])
    for index, share in enumerate(shares):
        standings = [race.standing(parse(name), index) for name in names]
        own = np.array([s.values[0] for s in standings if s])
        rows = np.array([r[:, 0] for name in names if (r := race.replicates(parse(name), index)) is not None])
        quantile = float(student.ppf(1 - LEVEL / (2 * len(shares)), rows.shape[1] - 1))
        counts = np.zeros(4)
        for i in range(len(names)):
            pairs = rows - rows[i]
            spread = ((pairs - pairs.mean(axis=1, keepdims=True)) ** 2).sum(axis=1)
            error = np.sqrt((1 - share) * (rows.shape[1] - 1) / rows.shape[1] * spread)
            rival = (points[:, 1] <= points[i, 1]) & (np.arange(len(names)) != i)
            stop = rival & (own - own[i] - quantile * error > 0)
            worse, better = rival & (points[:, 0] >= points[i, 0]), rival & (points[:, 0] < points[i, 0] - 0.02)
            counts += [(stop & worse).sum(), worse.sum(), (stop & better).sum(), better.sum()]
        found.append((counts[0] / counts[1], counts[2] / counts[3]))
    return found


def needed(case: Case) -> tuple[int, float]:
    """How few of the most reliable configurations a search must have one of, and what the others reach without them."""
    corner = case.every.max(0)
    ordered = case.every[np.argsort(case.every[:, 0])]
    for count in range(1, len(ordered)):
        rest = hypervolume(ordered[count:], corner) / hypervolume(case.every, corner)
        if rest < SHARE:
            return count, rest
    raise ValueError("the grid has no hypervolume")


@dataclass(frozen=True)
class Spent:
    """Seconds of a study's trials: in all, on parts of the images, and on all images."""

    wall: float
    parts: float
    whole: float
    trials: int

    @property
    def overhead(self) -> float:
        """Seconds of a trial outside its evaluation."""
        return (self.wall - self.parts - self.whole) / self.trials


def time_study(home: Path, trials: int, racing: bool) -> Spent:
    """A study of the demo, journal file and MLflow.

    In a folder of its own, so that every configuration is evaluated; with the default sampler, which plans longest when
    it knows enough to plan.
    """
    name = f"overhead-{time.time_ns()}"
    home = home / name
    engine = Engine(suite_on_validation(load_suite("demo")), Settings(), home, Lines())
    space, problem = Space(GRID, engine.check), engine.problem
    goals = make_goals(problem, [make_objective(key, engine.better, engine.known) for key in KEYS], ())
    rungs = make_rungs(engine, parse_shares(SHARES), goals.keys) if racing else ()
    whole, parts = Timed(), Timed()
    rungs = tuple(replace(r, evaluate=parts(r.evaluate), replicates=parts(r.replicates)) for r in rungs)
    study = optuna.create_study(
        storage=open_storage(home), study_name=name, directions=[o.direction for o in goals.objectives]
    )
    problem = replace(problem, evaluate=whole(engine.evaluate), rungs=rungs)
    search = Search(study, space, problem, goals, SAMPLER, 0)
    search.lock = home / "studies" / ".leases.lock"
    search.log = TrialLog(MLflowTracker().open(home, None).open_study(load_suite("demo"), name, {}), name, goals)
    start = time.monotonic()
    search.prepare(trials)
    search.run(trials)
    return Spent(time.monotonic() - start, parts.seconds, whole.seconds, trials)


@dataclass
class Timed:
    """Adds up the seconds of what it wraps."""

    seconds: float = 0.0

    def __call__(self, function: Callable[[QuantSpec], Any]) -> Callable[[QuantSpec], Any]:
        """The function, timed."""

        def timed(spec: QuantSpec) -> Any:
            start = time.monotonic()
            try:
                return function(spec)
            finally:
                self.seconds += time.monotonic() - start

        return timed


@contextmanager
def enlarged(times: int) -> Iterator[None]:
    """The demo with so many times the images, its own first."""
    kept = scenes.SPLITS
    scenes.SPLITS = {n: replace(s, size=times * s.size) if n in RENDERED else s for n, s in kept.items()}
    try:
        yield
    finally:
        scenes.SPLITS = kept


@dataclass(frozen=True)
class Measured:
    """A grid and the searches over it.

    Attributes:
        table: short name -> metrics on all images and on each part, seconds.
        shares: of the parts. images: of each part, and all.
        cases: name -> one definition of `mean_relative_change`. results: (case, sampler, racing) -> a search for each
            seed.
    """

    table: Mapping[str, Any]
    shares: Sequence[float]
    images: Sequence[int]
    cases: Mapping[str, Case]
    results: Mapping[tuple[str, str, bool], Sequence[Searched]]

    @property
    def towers(self) -> int:
        """Different image towers."""
        return len({tower(name) for name in self.table})


def measure(home: Path, times: int, choices: Choices, until: float) -> Measured | None:
    """The demo with so many times the images; None where the time was over before the end."""
    engine = Engine(suite_on_validation(load_suite("demo")), Settings(), home, Lines())
    space = Space(choices, engine.check)
    headline = engine.problem.headline
    keys = (*KEYS[1:], "size_mb", *headline, NLL, FLOOR)
    rungs = make_rungs(engine, parse_shares(SHARES), keys)
    shares = [rung.share for rung in rungs]
    table = evaluate_grid(engine, rungs, space, keys, home / "grid.json", until)
    if table is None:
        return None
    images = [_embedded(rung.evaluate.__self__.engine) for rung in rungs]  # type: ignore[attr-defined]
    images.append(_embedded(engine))
    if choices == GRID:
        cases = {
            "the demo's `mean_relative_change`": make_case(engine, table, headline),
            "with NLL instead of ECE": make_case(engine, table, tuple(NLL if k == ECE else k for k in headline)),
        }
    else:
        which = "without the choice of symmetry" if times == 1 else f"{times} times the images"
        cases = {which: make_case(engine, table, headline)}
    results: dict[tuple[str, str, bool], Sequence[Searched]] = {}
    for which, case in cases.items():
        for sampler, racing in RUNS if choices == GRID and not results else [run for run in RUNS if run[0] in OFTEN]:
            cache = home / f"{which}-{sampler}-{racing}.json"
            seeds = MANY if (sampler, racing) == (SAMPLER, True) else SEEDS
            runs = replays(case, space, table, images, shares if racing else [], sampler, seeds, cache, until)
            if runs is None:
                return None
            results[which, sampler, racing] = runs
    return Measured(table, shares, images, cases, results)


def main() -> int:
    """Run everything and write the page; 3 where --minutes were over before all grids were searched."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path("docs/results-search.md"))
    parser.add_argument("--trials", type=int, default=60, help="Of the studies that are timed.")
    parser.add_argument("--minutes", type=float, default=1e6, help="Stop evaluating and searching after so many.")
    args = parser.parse_args()
    until = time.monotonic() + 60 * args.minutes
    found = []
    for times, choices in GRIDS:
        with enlarged(times):
            measured = measure(args.home / f"times-{times}", times, choices, until)
        if measured is None:
            print("the time is over; call again to go on")
            return 3
        found.append(measured)
    plain, raced = (time_study(args.home, args.trials, racing) for racing in (False, True))
    text = page(found, plain, raced)
    kept = args.output.read_text(encoding="utf-8") if args.output.is_file() else ""
    _, heading, reading = kept.partition("\n## Reading\n")  # written by hand
    args.output.write_text(text + heading + reading, encoding="utf-8")
    print(text)
    return 0


def _embedded(engine: Engine) -> int:
    """Images of the data sets that tasks see."""
    names = {n for e in engine.plan.configurations[0].evaluations for some in e.roles.values() for n in some}
    return sum(len(engine.plan.data[name]) for name in names)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _row(case: Case, runs: Sequence[Searched], corner: Floats, whole: int) -> str:
    """Cells: median cost, cost of each seed, hypervolume at 20 %."""
    costs = [run.cost_to(case, corner, whole) for run in runs]
    at = float(np.median([run.at(case, corner, whole) for run in runs]))
    each = ", ".join(map(_percent, costs))
    return f"{_median(costs)} | {each} | {_percent(at)}"


def _median(costs: Sequence[float | None]) -> str:
    middle = float(np.median([np.inf if cost is None else cost for cost in costs]))
    return _percent(None if np.isinf(middle) else middle)


def _case(which: str, measured: Measured) -> Iterator[str]:
    """Lines of one case."""
    case, table = measured.cases[which], measured.table
    count, rest = needed(case)
    yield f"### {which[0].upper()}{which[1:]}\n"
    yield (
        f"{measured.images[-1]:,} images, {measured.towers} different image towers; an evaluation took "
        f"{np.median([row['seconds'] for row in table.values()]):.1f} s (median). Parts for racing: "
        + ", ".join(f"{n:,} images ({s:.0%})" for n, s in zip(measured.images, measured.shares, strict=False))
        + ".\n"
    )
    yield (
        f"{len(case.front)} of {len(table)} are on the grid's front; values span {np.ptp(case.every[:, 0]):.2f}. "
        f"The {len(table) - count} configurations besides the {count} most reliable reach {_percent(rest)} of the "
        "hypervolume (from the worst of the grid): 99 % needs one of those.\n"
    )
    best = min(case.points, key=lambda name: case.points[name][0])
    gentle = np.array([losses for name, losses in case.points.items() if parse(name).weight_bits != 2])
    corner = case.every.max(0)
    yield (
        f"The most reliable is `{best}`: its ECE is {table[best]['metrics'][ECE]:.4f}, full precision's "
        f"{table[FP32.name]['metrics'][ECE]:.4f}; a perfectly calibrated model with its confidences would show "
        f"{table[best]['metrics'][FLOOR]:.4f} (`ece_15_floor`). Without any configuration of 2 bits the hypervolume is "
        f"{_percent(hypervolume(gentle, corner) / hypervolume(case.every, corner))}.\n"
    )
    yield "| sampler | racing | reference point | median cost | cost of each seed | at 20 % of the cost |"
    yield "|---|---|---|---|---|---|"
    whole = measured.images[-1] * measured.towers
    for (name, sampler, racing), runs in measured.results.items():
        for told, corner in (("worst of the grid", case.every.max(0)), ("worst of its front", case.front.max(0))):
            if name == which:
                cells = _row(case, runs[: len(SEEDS)], corner, whole)
                yield f"| {sampler} | {'yes' if racing else 'no'} | {told} | {cells} |"
    many = measured.results[which, SAMPLER, True]
    costs = [run.cost_to(case, case.every.max(0), whole) for run in many]
    yield (
        f"\n`{SAMPLER}` with racing over {len(many)} seeds ({MANY[0]} to {MANY[-1]}), from the worst of the grid: "
        f"median {_median(costs)}; {sum(c is not None and c <= BUDGET for c in costs)} of them at {BUDGET:.0%} or less."
    )
    stops = "; ".join(
        f"{s:.0%}: {_percent(a)}, {_percent(b)}"
        for s, (a, b) in zip(measured.shares, wrong_stops(case, table, measured.shares), strict=True)
    )
    yield (
        "\nOf all pairs of the grid where the second has no more bits, the rule prunes the first on a part (share: "
        f"first where it is no worse on all images, then where it is worse by 0.02 or more): {stops}.\n"
    )


def _luck(found: Sequence[Measured]) -> str:
    """How far the demo's values predict those on more images, where nothing is broken."""
    few, many = (next(iter(measured.cases.values())).points for measured in (found[0], found[-1]))
    names = [name for name, losses in many.items() if losses[0] <= NEAR]
    r = np.corrcoef([few[name][0] for name in names], [many[name][0] for name in names])[0, 1]
    best, rows = min(few, key=lambda name: few[name][0]), found[-1].table
    return (
        f"{len(names)} configurations have a `mean_relative_change` of {-NEAR} or more with {GRIDS[-1][0]} times the "
        "images. Over them Pearson's correlation with the `mean_relative_change` on the demo's own images, which are "
        f"among these, is {r:.2f}. The most reliable on the demo's own images, `{best}`, has an ECE of "
        f"{rows[best]['metrics'][ECE]:.4f} on the larger number, full precision {rows[FP32.name]['metrics'][ECE]:.4f}."
    )


def page(found: Sequence[Measured], plain: Spent, raced: Spent) -> str:
    """The results as Markdown."""
    blocks = "\n".join(line for measured in found for which in measured.cases for line in _case(which, measured))
    return f"""# Search: measured

`python tests/performance/bench_search.py --home FOLDER` on {platform.processor() or platform.machine()}, \
{torch.get_num_threads()} threads, torch {torch.__version__}, optuna {optuna.__version__}.

The demo's selection data, two objectives, `mean_relative_change` and `effective_bits`, an exhaustive grid of \
{len(found[0].table)} quantizations.

## Hypervolume

Cost is the share of the grid's image-tower forward passes that a search had spent when it reached 99 % of the grid's
hypervolume: median of {len(SEEDS)} seeds ({SEEDS[0]} to {SEEDS[-1]}), and each seed. The last column is the share of
the hypervolume at 20 % of the cost. Equal image towers are embedded once. Each search ends after half of the grid's
points ("-": not reached by then). Full precision and the common choices are evaluated first, on all images,
and count.

{blocks}
### What is luck

{_luck(found)}

## What a trial takes

Studies of the demo over the same space, {plain.trials} trials each (`{SAMPLER}`, journal file, MLflow), full precision
evaluated before, nothing in any cache:

| racing | a trial | its evaluation on all images | on parts | Optuna, sampler, MLflow |
|---|---|---|---|---|
{_spent("no", plain)}
{_spent("yes", raced)}

Optuna's, the sampler's and MLflow's share without racing: {_percent(plain.overhead * plain.trials / plain.wall)}.
"""


def _spent(racing: str, spent: Spent) -> str:
    whole, parts = spent.whole / spent.trials, spent.parts / spent.trials
    return (
        f"| {racing} | {spent.wall / spent.trials:.2f} s | {whole:.2f} s | {parts:.2f} s "
        f"| {1000 * spent.overhead:.0f} ms |"
    )


if __name__ == "__main__":
    sys.exit(main())
