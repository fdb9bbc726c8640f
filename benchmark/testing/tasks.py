"""The contract of a task."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from benchmark.plugins import Banks, Outcome, Task
from benchmark.testing.banks import shuffle


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
