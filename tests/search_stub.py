"""A problem without models for the tests of the search: metrics are a formula of the quantization."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.storages import BaseStorage, InMemoryStorage

from benchmark.errors import QuantizationError
from benchmark.plugins import Better
from benchmark.results.decide import judging
from benchmark.spec import FP32, QuantSpec
from search.objective import Goals, Metrics, Problem, Rung, make_goals, make_objective, parse_constraint
from search.space import Choices, Space
from search.study import Search

ACCURACY, ECE = "zero_shot/scenes/accuracy", "calibration/scenes/ece_15"
SMALL = Choices(methods=("rtn",), scopes=("vision",), weight_bits=(3, 4), group_size=(32,), activations=("none",))
"""2 bits x 3 granularities x 2 symmetries = 12 points."""
MEDIUM = Choices(methods=("rtn", "percentile", "gptq", "bnb-nf4"), scopes=("vision", "vision+text"))


GROUPS = 10
Values = NDArray[np.float64]


class Stub:
    """Counts its calls; `broken` names cannot be evaluated."""

    def __init__(self, broken: tuple[str, ...] = ()) -> None:
        self.calls: Counter[str] = Counter()
        self.broken = broken

    def evaluate(self, spec: QuantSpec) -> dict[str, float]:
        """Better with more bits, with a bonus for gptq and for one clip."""
        self.calls[spec.name] += 1
        if spec.name in self.broken:
            raise QuantizationError(f"quantization '{spec.name}' changed nothing")
        if spec == FP32:
            return {ACCURACY: 0.8, ECE: 0.1, judging(ECE): 0.1, "effective_bits": 32.0, "size_mb": 8.0}
        bits = spec.weight_bits or 4
        loss = 2.0**-bits * (0.5 if spec.method == "gptq" else 1.0) + 0.3 * 2.0 ** -(spec.activation_bits or 16)
        loss *= 0.8 if spec.option("percentile", 99.9) == 99.0 else 1.0
        extra = 32 / (spec.group_size or 256) + (0.3 if not spec.symmetric else 0.0)
        error, size = 0.1 + loss / 4, bits / 4 + 0.1
        metrics = {ACCURACY: 0.8 - loss, ECE: error, judging(ECE): error}
        return metrics | {"effective_bits": bits + extra, "size_mb": size}


def better(key: str) -> Better:
    """Directions of the stub's metrics."""
    return "lower" if key == ECE else "higher"


def make_search(
    stub: Stub,
    choices: Choices = MEDIUM,
    *,
    storage: BaseStorage | None = None,
    name: str = "stub",
    sampler: str = "tpe",
    seed: int = 0,
    objectives: tuple[str, ...] = ("reliability", "effective_bits"),
    constraints: tuple[str, ...] = (),
    lock: Path | None = None,
) -> Search:
    """A search over the stub; the study is created or joined."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    problem = Problem(stub.evaluate, better, (ACCURACY, ECE))
    chosen = [make_objective(key, better, lambda key: key in (ACCURACY, ECE)) for key in objectives]
    goals: Goals = make_goals(problem, chosen, [parse_constraint(text) for text in constraints])
    study = optuna.create_study(
        storage=storage or InMemoryStorage(),
        study_name=name,
        directions=[o.direction for o in chosen],
        load_if_exists=True,
    )
    return Search(study, Space(choices), problem, goals, sampler, seed, lock=lock, pause=0.05)


class Images:
    """A problem whose accuracy is a mean over images; `values` gives them for a quantization."""

    def __init__(self, count: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.order, self.group = rng.permutation(count), rng.integers(GROUPS, size=count)
        self.count, self.paid = count, Counter[str]()
        self.measured, self.repeated = Counter[str](), Counter[str]()
        self.table: dict[str, tuple[float, Values]] = {}
        self.put("fp32", 32.0, np.full(count, 0.8))

    def put(self, name: str, bits: float, values: Values) -> None:
        self.table[name] = (bits, values)

    def of(self, spec: QuantSpec) -> tuple[float, Values]:
        return self.table[spec.name]

    def _metrics(self, spec: QuantSpec, rows: NDArray[np.int64]) -> dict[str, float]:
        bits, values = self.of(spec)
        return {ACCURACY: float(values[rows].mean()), "effective_bits": bits, "size_mb": bits}

    def whole(self, spec: QuantSpec) -> Metrics:
        self.paid[spec.name] = self.count
        return self._metrics(spec, np.arange(self.count))

    def part(self, share: float, spec: QuantSpec) -> Metrics:
        rows = self.order[: round(share * self.count)]
        self.paid[spec.name] = max(self.paid[spec.name], len(rows))
        self.measured[spec.name] += 1
        return self._metrics(spec, rows)

    def replicates(self, share: float, spec: QuantSpec) -> list[Metrics]:
        rows = self.order[: round(share * self.count)]
        self.repeated[spec.name] += 1
        return [self._metrics(spec, rows[self.group[rows] != g]) for g in range(GROUPS)]

    def rung(self, share: float) -> Rung:
        return Rung(share, partial(self.part, share), partial(self.replicates, share))

    def problem(self, shares: tuple[float, ...] = (1 / 9, 1 / 3)) -> Problem:
        rungs = tuple(map(self.rung, shares))
        return Problem(self.whole, better, (ACCURACY,), rungs)


def goals_of(problem: Problem, *constraints: str) -> Goals:
    objectives = [make_objective(key, better, lambda key: key == ACCURACY) for key in (ACCURACY, "effective_bits")]
    return make_goals(problem, objectives, [parse_constraint(text) for text in constraints])


class Noisy(Images):
    """The stub's formula as the mean of noisy images."""

    def of(self, spec: QuantSpec) -> tuple[float, Values]:
        if spec.name not in self.table:
            metrics = Stub().evaluate(spec)
            rng = np.random.default_rng(list(spec.name.encode()))
            noise = rng.normal(0, 0.02, self.count)
            self.put(spec.name, metrics["effective_bits"], metrics[ACCURACY] + noise - noise.mean())
        return self.table[spec.name]


def raced(images: Images, trials: int, racing: bool = True, prepared: int | None = None, **options: object) -> Search:
    search = make_search(Stub(), MEDIUM, objectives=(ACCURACY, "effective_bits"), **options)  # type: ignore[arg-type]
    problem = images.problem() if racing else replace(images.problem(), rungs=())
    search.problem, search.goals = problem, goals_of(problem, *(c.text for c in search.goals.constraints))
    search.prepare(prepared or trials)
    search.run(trials)
    return search
