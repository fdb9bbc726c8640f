"""A problem without models for the tests of the search: metrics are a formula of the quantization."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import optuna
from optuna.storages import BaseStorage, InMemoryStorage

from benchmark.errors import QuantizationError
from benchmark.metrics.uncertainty import Estimate
from benchmark.plugins import Better
from benchmark.results.compare import Change
from benchmark.results.decide import decide, judging
from benchmark.results.reliability import Reliability
from benchmark.spec import FP32, QuantSpec
from search.objective import Goals, Problem, make_goals, make_objective, parse_constraint
from search.space import Choices, Space
from search.standing import Standing
from search.study import Search

ACCURACY, ECE = "zero_shot/scenes/accuracy", "calibration/scenes/ece_15"
SMALL = Choices(methods=("rtn",), scopes=("vision",), weight_bits=(3, 4), group_size=(32,), activations=("none",))
"""2 bits x 3 granularities x 2 symmetries = 12 points."""
MEDIUM = Choices(methods=("rtn", "percentile", "gptq", "bnb-nf4"), scopes=("vision", "vision+text"))
ERROR = 0.004
"""Standard error of a change of accuracy; ECE has half of it."""


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

    def standing(self, spec: QuantSpec) -> Standing:
        """Against full precision, with fixed errors on 1,000 images."""
        now, full = Stub().evaluate(spec), Stub().evaluate(FP32)
        changes = {}
        for key, error in ((ACCURACY, ERROR), (judging(ECE), ERROR / 2)):
            moved = now[key] - full[key]
            estimate = Estimate(moved, error, 60.0, moved)
            names = "m", spec.name, spec.name, key, better(key)
            changes[key] = Change(*names, now[key], full[key], moved, estimate, images=1000)
        points = 50 * (changes[ACCURACY].change - changes[judging(ECE)].change)
        known = Estimate(points, 50 * ERROR, 60.0, points)
        return Standing(decide([ACCURACY, ECE], changes, {}), Reliability(points, estimate=known))


def better(key: str) -> Better:
    """Directions of the stub's metrics."""
    return "lower" if "ece" in key else "higher"


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
    probability: float | None = None,
    lock: Path | None = None,
) -> Search:
    """A search over the stub; the study is created or joined."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    problem = Problem(stub.evaluate, better, (ACCURACY, ECE), stub.standing)
    chosen = [make_objective(key, better, lambda key: key in (ACCURACY, ECE)) for key in objectives]
    goals: Goals = make_goals(problem, chosen, [parse_constraint(text) for text in constraints], probability)
    study = optuna.create_study(
        storage=storage or InMemoryStorage(),
        study_name=name,
        directions=[o.direction for o in chosen],
        load_if_exists=True,
    )
    return Search(study, Space(choices), problem, goals, sampler, seed, lock=lock, pause=0.05)
