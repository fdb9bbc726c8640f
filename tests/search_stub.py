"""A problem without models for the tests of the search: metrics are a formula of the quantization."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import optuna
from optuna.storages import BaseStorage, InMemoryStorage

from benchmark.errors import QuantizationError
from benchmark.plugins import Better
from benchmark.spec import FP32, QuantSpec
from search.objective import Goals, Problem, make_goals, make_objective, parse_constraint
from search.space import Choices, Space
from search.study import Search

ACCURACY, ECE = "zero_shot/scenes/accuracy", "calibration/scenes/ece_15"
SMALL = Choices(methods=("rtn",), scopes=("vision",), weight_bits=(3, 4), group_size=(32,), activations=("none",))
"""2 bits x 3 granularities x 2 symmetries = 12 points."""
MEDIUM = Choices(methods=("rtn", "percentile", "gptq", "bnb-nf4"), scopes=("vision", "vision+text"))


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
            return {ACCURACY: 0.8, ECE: 0.1, "effective_bits": 32.0, "size_mb": 8.0}
        bits = spec.weight_bits or 4
        loss = 2.0**-bits * (0.5 if spec.method == "gptq" else 1.0) + 0.3 * 2.0 ** -(spec.activation_bits or 16)
        loss *= 0.8 if spec.option("percentile", 99.9) == 99.0 else 1.0
        extra = 32 / (spec.group_size or 256) + (0.3 if not spec.symmetric else 0.0)
        return {ACCURACY: 0.8 - loss, ECE: 0.1 + loss / 4, "effective_bits": bits + extra, "size_mb": bits / 4 + 0.1}


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
