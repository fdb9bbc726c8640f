"""Does what `reliquant search` recommends hold on fresh images? Replayed over an exhaustive grid, for many seeds.

    python -m tests.performance.bench_search --home FOLDER [--world planted] [--seeds 20] [--minutes 10]

1. Every point of a grid is evaluated once on three **pools** of images: one to search on, one to test on, and one that
   nothing else uses, the truth. Columns of each image are kept in the ledger, so that this is resumed where it stopped.
2. A **replay** with a seed draws half of the pictures of the first two pools, by a hash of seed and picture, and runs
   the search as it is, its samplers and its rule, on metrics and errors made again from the columns of those pictures.
3. The truth of a configuration is its change on the third pool. It is truly non-inferior where every headline metric
   stays within its margin there.

A second call goes on, and one with more seeds adds them. `--output` writes the table as a page.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from numpy.typing import NDArray
from scipy.stats import t as student

from benchmark.demo import scenes
from benchmark.engine.plan import Settings
from benchmark.errors import SpecError
from benchmark.ledger.records import Ledger, Record
from benchmark.plugins import Outcome, Summary, tasks
from benchmark.quantization import parse
from benchmark.results.compare import Comparer
from benchmark.results.decide import judging
from benchmark.results.evidence import Evidence, gather, pack, unpack
from benchmark.spec import FP32, DataSpec, QuantSpec, SuiteSpec
from benchmark.spec.suite import load_suite, narrow
from benchmark.utils.progress import Lines
from search.evaluator import Engine
from search.history import evaluated
from search.objective import EFFECTIVE_BITS, Goals, Problem, make_goals, make_objective
from search.recommend import Member, candidates, choice_of, name_of
from search.samplers import DEFAULT
from search.settings import PROBABILITY
from search.space import Choices, Space
from search.standing import Standing, shortfall, stand
from search.study import Search

POOLS = {"validation": 1, "test": 2, "truth": 3}
"""Pool -> seed of its images."""
SHARE = 0.5
"""Of the pictures of a pool that one replay draws."""
TRIALS = 20
LADDER = ("rtn-w8a8-channel-token", "rtn-w6a8-channel-token", "rtn-w4a8-channel-token", "bnb-nf4")
SAMPLERS = (DEFAULT, "tpe", "gp", "nsga2", "random")
NEAR = 0.5
"""Bits by which a recommendation may miss the cheapest truly non-inferior configuration."""


@dataclass(frozen=True)
class World:
    """Where searches are replayed. `sizes`: images of each data set in a pool; `corrupted`: of each corruption."""

    suite: str
    model: str
    sizes: Mapping[str, int]
    corrupted: int
    margins: Mapping[str, float]
    grid: Choices

    def pool(self, name: str) -> SuiteSpec:
        """The suite on one pool of images, named for it, without a split of its own."""
        base = load_suite(self.suite)
        data = {key: self._spec(key, spec, POOLS[name]) for key, spec in base.data.items()}
        wanted = {"/".join(key.split("/")[:2]) for key in base.headline}
        bound = {t: {k: b for k, b in labels.items() if f"{t}/{k}" in wanted} for t, labels in base.tasks.items()}
        used = {n for labels in bound.values() for b in labels.values() for role in b.roles for n in b.data(role)}
        kept = {n: spec for n, spec in data.items() if n in used | {base.calibration}}
        update = {"name": f"{self.suite}.{name}", "data": kept, "validation": {}, "spectrum": ()}
        update |= {"margins": dict(self.margins), "tasks": {task: labels for task, labels in bound.items() if labels}}
        return narrow(base.model_copy(update=update), models=(self.model,))

    def _spec(self, key: str, spec: DataSpec, seed: int) -> DataSpec:
        """With the pool's number of images, from a seed where the source takes one; the demo's come from `rendered`."""
        if spec.corruptions is None and key not in self.sizes:
            return spec
        options = {**dict(spec.options), **({"seed": seed} if spec.source == "planted" else {})}
        limit = self.corrupted if spec.corruptions is not None else self.sizes[key]
        return spec.model_copy(update={"limit": limit, "options": tuple(sorted(options.items()))})


TEST = ("near", "far", "shifted", "common", "counter")
GRID = Choices(
    methods=("rtn", "mse", "bnb-nf4", "bnb-fp4", "bnb-int8"),
    scopes=("vision", "vision+text"),
    weight_bits=(2, 3, 4, 5, 6, 8),
    weight_granularity=("tensor", "channel"),
    symmetric=(True,),
    activations=("none", "token"),
    activation_bits=(8,),
)
FEWER = replace(
    GRID, methods=("rtn", "bnb-nf4", "bnb-int8"), weight_bits=(3, 4, 5, 6, 8), weight_granularity=("channel",)
)
WORLDS = {
    "planted": World(
        "planted",
        "planted:gain",
        {"test": 4800, "test-large": 8000, **dict.fromkeys(TEST, 4000)},
        1200,
        {"calibration/*": 0.02},
        GRID,
    ),
    "demo": World("demo", "demo", {}, 60, {"calibration/*": 0.02}, FEWER),
}
RENDERED = ("test", "test_large", "sketch", "textured", "v2", "common", "counter", "near_ood", "far_ood")
"""The demo's splits that can have any number of images."""
TIMES = 2.5
"""Each pool of the demo has so many times its images, so the two pools of a search have five times as many."""


@contextmanager
def rendered(world: str, pool: str) -> Iterator[None]:
    """The demo with more images, drawn from another seed for each pool."""
    kept, written = scenes.SPLITS, scenes._backgrounds
    if world == "demo":
        shift = 1000 * POOLS[pool]
        fresh = {n: replace(kept[n], size=int(TIMES * kept[n].size), seed=kept[n].seed + shift) for n in RENDERED}
        scenes.SPLITS = {**kept, **fresh}
        scenes._backgrounds = dict  # type: ignore[assignment]  # those written down are of the demo's own seeds
    try:
        yield
    finally:
        scenes.SPLITS, scenes._backgrounds = kept, written


def grid_of(engine: Engine, choices: Choices) -> dict[str, QuantSpec]:
    """Every point, by short name."""
    return {spec.name: spec for spec in Space(choices, engine.check).points()}


def evaluate_pool(world: World, which: str, pool: str, home: Path, until: float) -> dict[str, Any] | None:
    """Evaluate the grid on a pool; a table of bits and of the ledger's keys. None where the time was over before."""
    table = home / f"{which}-{pool}.json"
    if table.is_file():
        found: dict[str, Any] = json.loads(table.read_text())
        return found
    with rendered(which, pool):
        engine = Engine(world.pool(pool), Settings(), home, Lines())
        rows: dict[str, Any] = {"headline": [], "points": {}}
        for name, spec in {FP32.name: FP32, **grid_of(engine, world.grid)}.items():
            if time.monotonic() > until:
                return None
            bits = engine.evaluate(spec)[EFFECTIVE_BITS]
            rows["points"][name] = {"bits": bits, "keys": [record.key for record in engine._found[name]]}
        rows["headline"] = list(engine.headline)
    table.write_text(json.dumps(rows))
    return rows


@dataclass
class Pool:
    """The grid's evaluations on one pool; `drawn` makes records of a part of its pictures."""

    name: str
    ledger: Ledger
    cache: Path
    table: Mapping[str, Any]
    known: dict[tuple[str, int | None], list[Record]] = field(default_factory=dict)
    evidence: dict[str, Evidence] = field(default_factory=dict)

    @cached_property
    def comparer(self) -> Comparer:
        """Of the drawn records."""
        comparer = Comparer(self.ledger)
        vars(comparer)["evidence"] = self.evidence.__getitem__
        return comparer

    @property
    def headline(self) -> tuple[str, ...]:
        """The suite's."""
        return tuple(self.table["headline"])

    def drawn(self, name: str, seed: int | None) -> list[Record]:
        """Records of a quantization with metrics and evidence of the pictures that a seed draws; None: of all."""
        if (name, seed) not in self.known:
            records = [self.ledger.records[key] for key in self.table["points"][name]["keys"]]
            self.known[name, seed] = [self._part(record, seed) for record in records]
        return self.known[name, seed]

    def _part(self, record: Record, seed: int | None) -> Record:
        key = f"{record.key}-{seed}"
        file = self.cache / f"{key}.npz"
        prefix = f"{record.name}/"
        if file.is_file():
            with np.load(file) as arrays:
                self.evidence[key] = unpack({name: arrays[name] for name in arrays.files})
        else:
            self.evidence[key] = self._gathered(record, seed, prefix)
            self.cache.mkdir(parents=True, exist_ok=True)
            np.savez(file, **pack(self.evidence[key]))  # type: ignore[arg-type]
        values = {prefix + inner: each.value for inner, each in self.evidence[key].measured.items()}
        return replace(record, key=key, metrics=values)

    def _gathered(self, record: Record, seed: int | None, prefix: str) -> Evidence:
        task = tasks.get(record.task)
        options = task.parse_options(record.identity.get("options", {}), record.name)
        columns = self.ledger.outcome(record).columns
        if seed is not None:  # what a task fits on stays whole
            groups = columns.groups.items()
            rows = {n: np.full(len(g["base_id"]), True) if n in task.optional else _chosen(g, seed) for n, g in groups}
            columns = columns.take(rows)
        inner = {key.removeprefix(prefix) for head in self.headline for key in (head, judging(head))}
        metrics = {k: v for k, v in task.run_summarise(columns, options).metrics.items() if k in inner}
        return gather(task, Outcome(columns, Summary(metrics)), options)

    def standing(self, name: str, seed: int | None, margins: Mapping[str, float]) -> Standing:
        """Against full precision on the same pictures."""
        bases = {record.name: record for record in self.drawn(FP32.name, seed)}
        return stand(self.drawn(name, seed), bases, self.comparer, self.headline, margins)

    def metrics(self, name: str, seed: int | None) -> dict[str, float]:
        """All metrics of the drawn pictures, and the bits."""
        found = {k: v for record in self.drawn(name, seed) for k, v in record.metrics.items()}
        return found | {EFFECTIVE_BITS: self.table["points"][name]["bits"]}


_CHOSEN: dict[int, dict[str, bool]] = {}


def _chosen(group: Mapping[str, NDArray[Any]], seed: int) -> NDArray[np.bool_]:
    """(N,) bool: the pictures that a seed draws; the same pictures in every data set."""
    known, names = _CHOSEN.setdefault(seed, {}), group["base_id"].astype(str).tolist()
    for name in names:
        if name not in known:
            digest = hashlib.sha256(f"{seed} {name}".encode("utf-8", "surrogatepass")).digest()
            known[name] = digest[0] < 256 * SHARE
    return np.array([known[name] for name in names], np.bool_)


@dataclass(frozen=True)
class Found:
    """One replayed search.

    Attributes:
        recommended: a short name; None where the rule recommended nothing. towers: image towers it ran, as a share of
            the grid's. covered: for each candidate whether the interval of its reliability on the test images holds the
            truth, whose own error counts, too.
    """

    recommended: str | None
    towers: float
    candidates: int
    covered: Sequence[bool]


@dataclass
class Replays:
    """Searches over the pools of one world."""

    world: World
    pools: Mapping[str, Pool]

    @cached_property
    def names(self) -> list[str]:
        """Of the grid, without full precision."""
        return [name for name in self.pools["truth"].table["points"] if name != FP32.name]

    @cached_property
    def truly(self) -> dict[str, bool]:
        """Configuration -> whether it is non-inferior by its values on the pool that nothing else uses."""
        return {name: self._worst(name) <= 1.0 for name in self.names}

    def _worst(self, name: str) -> float:
        judged = self.pools["truth"].standing(name, None, self.world.margins).decision.judged
        return max((each.loss or 0.0) / (each.margin or 1.0) for each in judged)

    def bits(self, name: str) -> float:
        """Effective bits."""
        return float(self.pools["truth"].table["points"][name]["bits"])

    @property
    def cheapest(self) -> float:
        """Bits of the cheapest truly non-inferior configuration."""
        return min(self.bits(name) for name, ok in self.truly.items() if ok)

    def _judge(self, chosen: Mapping[str, Any], seed: int, goals: Goals, tried: Sequence[str]) -> Found:
        """The rule of the search on the drawn test images. Args: chosen: candidates with anything for a trial."""
        test, members = self.pools["test"], []
        for name, trial in chosen.items():
            standing = test.standing(name, seed, self.world.margins)
            metrics = goals.complete(test.metrics(name, seed))
            members.append(Member(name, trial, metrics, standing.decision, standing.reliability))
        best = choice_of(members, EFFECTIVE_BITS).recommended
        towers, every = ({parse(name).for_tower("vision").name for name in names} for names in (tried, self.names))
        covered = [self._covers(each) for each in members if each.reliability.estimate is not None]
        return Found(best.name if best else None, len(towers) / len(every), len(members), covered)

    def _covers(self, member: Member) -> bool:
        """The interval of the difference between test and truth, whose images are independent, holds zero."""
        truth = self.pools["truth"].standing(member.name, None, self.world.margins).reliability
        here = member.reliability.estimate
        if here is None or truth.estimate is None:
            return True
        error = float(np.hypot(here.error, truth.estimate.error))
        df = min(here.df, truth.estimate.df)
        return abs(here.value - truth.estimate.value) <= float(student.ppf(0.975, df)) * error

    def problem(self, seed: int) -> Problem:
        """The grid on the drawn validation images."""
        pool = self.pools["validation"]
        return Problem(
            lambda spec: pool.metrics(spec.name, seed),
            lambda key: tasks.get(key.split("/", 1)[0]).metric(key).better,
            pool.headline,
            lambda spec: pool.standing(spec.name, seed, self.world.margins),
            lambda spec: {EFFECTIVE_BITS: self.bits(spec.name)},
        )

    def search(self, sampler: str, seed: int, trials: int, probability: float) -> Found:
        """One search as it is, on the grid."""
        problem = self.problem(seed)
        bits = make_objective(EFFECTIVE_BITS, problem.better, lambda _: True)
        goals = make_goals(problem, [bits], [], probability)
        study = optuna.create_study(direction="minimize")
        search = Search(study, Space(self.world.grid, self._check), problem, goals, sampler, seed)
        search.prepare(trials)
        search.run(trials)
        chosen = {name_of(trial): trial for trial in candidates(study, goals)}
        return self._judge(chosen, seed, goals, evaluated(study))

    def ladder(self, seed: int) -> Found:
        """The customary choices, judged without a search."""
        goals = make_goals(self.problem(seed), [], [])
        wanted = [parse(f"{name}-{scope}").name for name in LADDER for scope in self.world.grid.scopes]
        names = [name for name in wanted if name in self.names]
        return self._judge(dict.fromkeys(names, True), seed, goals, names)

    def _check(self, spec: QuantSpec) -> None:
        if spec.name not in self.truly:
            raise SpecError(f"{spec.name}: not in the grid")


def open_replays(world: World, which: str, home: Path, until: float) -> Replays | None:
    """Evaluate what is missing; None where the time was over before the end."""
    tables = {}
    for pool in POOLS:
        table = evaluate_pool(world, which, pool, home, until)
        if table is None:
            return None
        tables[pool] = table
    ledger = Ledger(home)
    return Replays(world, {pool: Pool(pool, ledger, home / "drawn", table) for pool, table in tables.items()})


def row(name: str, found: Sequence[Found], replays: Replays) -> str:
    """One line of the table."""
    told = [each.recommended for each in found if each.recommended is not None]
    right = sum(replays.truly[name] for name in told)
    near = sum(replays.bits(name) <= replays.cheapest + NEAR for name in told)
    missed = [replays.bits(name) - replays.cheapest for name in told]
    covered = [ok for each in found for ok in each.covered]
    share = f"{100 * np.mean(covered):.0f} % of {len(covered)}" if covered else "-"
    return (
        f"| {name} | {len(found)} | {len(told)} | {right} of {len(told)} | {near} of {len(told)} | "
        f"{f'{np.median(missed):+.1f}' if missed else '-'} | {np.mean([e.towers for e in found]):.0%} | {share} |"
    )


HEAD = """| search | seeds | recommended | truly non-inferior | within 0.5 bits | median bits above the cheapest | \
image towers | intervals that cover |
|---|---|---|---|---|---|---|---|"""


def main() -> int:
    """Evaluate, replay and print; 3 where --minutes were over before the end (call again to go on)."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--world", choices=list(WORLDS), default="planted")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--trials", type=int, default=TRIALS)
    parser.add_argument("--probability", type=float, default=PROBABILITY)
    parser.add_argument("--sampler", action="append", help="Only this one; repeatable.")
    parser.add_argument("--minutes", type=float, default=1e6, help="Stop evaluating and replaying after so many.")
    parser.add_argument("--dump", type=Path, help="Write every point on every seed's validation images, as JSON.")
    args = parser.parse_args()
    until = time.monotonic() + 60 * args.minutes
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    replays = open_replays(WORLDS[args.world], args.world, args.home, until)
    if replays is None:
        print("the time is over; call again to go on")
        return 3
    names, truly = replays.names, replays.truly
    print(
        f"{args.world}: {len(names)} configurations, {sum(truly.values())} truly non-inferior, the cheapest with "
        f"{replays.cheapest:.2f} bits; {args.trials} trials, probability {args.probability:g}; "
        f"{platform.machine()}, torch {torch.__version__}, optuna {optuna.__version__}"
    )
    found: dict[str, list[Found]] = {}
    for seed in range(args.seeds):
        for sampler in args.sampler or SAMPLERS:
            if time.monotonic() > until:
                break
            found.setdefault(sampler, []).append(replays.search(sampler, seed, args.trials, args.probability))
        found.setdefault("ladder", []).append(replays.ladder(seed))
        print(f"seed {seed}: " + ", ".join(f"{k} {v[-1].recommended}" for k, v in found.items()), file=sys.stderr)
    print(HEAD)
    for name, rows in found.items():
        print(row(name, rows, replays))
    if args.dump:
        args.dump.write_text(json.dumps([dumped(replays, seed, args.probability) for seed in range(args.seeds)]))
    return 0


def dumped(replays: Replays, seed: int, probability: float) -> dict[str, list[float]]:
    """Every point -> its bits and its largest shortfall on a seed's validation images; for samplers from elsewhere."""
    pool, found = replays.pools["validation"], {}
    for name in replays.names:
        judged = pool.standing(name, seed, replays.world.margins).decision.judged
        found[name] = [replays.bits(name), max(shortfall(each, probability) for each in judged)]
    return found


if __name__ == "__main__":
    sys.exit(main())
