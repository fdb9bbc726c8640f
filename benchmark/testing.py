"""For plugin authors: synthetic feature banks and the contract that every task must pass.

Subclass `TaskContract`, set `task` and `banks`, and pytest collects the checks.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from benchmark.bank import FeatureBank
from benchmark.plugins import Banks, Outcome, Task


def make_bank(
    seed: int = 0,
    samples: int = 200,
    classes: int = 8,
    dimension: int = 32,
    accuracy: float | None = None,
    **fields: Any,
) -> FeatureBank:
    """A synthetic bank: class weights at random, images near their class's weight.

    Args:
        accuracy: exact share of images that the zero-shot classifier gets right (rounded to whole images);
            None leaves it to the noise.
        fields: replace FeatureBank's fields, e.g. `group`, `corruption`.
    """
    rng = np.random.default_rng(seed)
    text = _unit(rng.standard_normal((classes, dimension)))
    label = rng.integers(0, classes, samples)
    if accuracy is None:
        image = _unit(text[label] + 0.35 * rng.standard_normal((samples, dimension)))
    else:
        wrong = np.arange(samples) >= round(accuracy * samples)
        image = text[np.where(wrong, (label + 1) % classes, label)]
    defaults: dict[str, Any] = {
        "dataset": "synthetic",
        "image": image.astype(np.float32),
        "label": label.astype(np.int64),
        "sample_id": np.array([f"synthetic/{i:05d}" for i in range(samples)]),
        "text": text.astype(np.float32),
        "class_names": tuple(f"class {i}" for i in range(classes)),
        "logit_scale": 20.0,
    }
    return FeatureBank(**{**defaults, **fields})


def _unit(values: Any) -> Any:
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


class TaskContract:
    """What every task must satisfy. Set `task`, and `banks` for which it is defined."""

    task: ClassVar[Task]
    banks: ClassVar[Banks]

    def test_metrics_are_finite_and_declared(self) -> None:
        """`Task.run` checks both."""
        assert self.task.run(self.banks).metrics

    def test_is_deterministic(self) -> None:
        """The same banks give the same numbers."""
        assert dict(self.task.run(self.banks).metrics) == dict(self.task.run(self.banks).metrics)

    def test_leaves_its_banks_alone(self) -> None:
        """A task is a pure function."""
        before = [bank.image.copy() for role in self.banks for bank in self.banks.all(role)]
        self.task.run(self.banks)
        after = [bank.image for role in self.banks for bank in self.banks.all(role)]
        assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))

    def test_does_not_depend_on_the_order_of_samples(self) -> None:
        """Metrics are the same for shuffled samples (all data sets that share ids are shuffled alike)."""
        first = self.task.run(self.banks).metrics
        shuffled = self.task.run(shuffle(self.banks, seed=1)).metrics
        assert first.keys() == shuffled.keys()
        for key, value in first.items():
            assert np.isclose(value, shuffled[key], rtol=1e-9, atol=1e-12), key

    def test_identical_models_do_not_differ(self) -> None:
        """A comparison of a model with itself says that nothing changed: 0, or 1 for a ratio."""
        outcome = self.task.run(self.banks)
        compared: Outcome = self.task.run_comparison(outcome, outcome)
        for key, value in compared.metrics.items():
            metric = self.task.metric(key)
            neutral = metric.neutral if metric.neutral is not None else 1.0 if metric.unit == "ratio" else 0.0
            assert np.isclose(value, neutral, atol=1e-12), key

    def test_has_a_docstring(self) -> None:
        """Its first line is what `reliquant list tasks` shows."""
        assert self.task.summary


def shuffle(banks: Banks, seed: int) -> Banks:
    """The same banks with their rows in another order; banks of equal length share the order."""

    def shuffled(bank: FeatureBank) -> FeatureBank:
        return bank.take(np.random.default_rng(seed + len(bank)).permutation(len(bank)))

    return replace(banks, by_role={role: [shuffled(b) for b in banks.all(role)] for role in banks})
