"""The contract of a task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from benchmark.plugins import Banks, Columns, Summary, Task
from benchmark.testing.banks import shuffle


class TaskContract:
    """What every task must satisfy. Set `task`, and `banks` for which it is defined.

    Attributes:
        subset_tolerance: by how much a metric of columns that lack a picture may differ from that of banks that lack
            it. More than rounding only where `summarise` redoes a fit approximately, or where pictures that are left
            out as questions stay among the possible answers (an index that is searched).
    """

    task: ClassVar[Task]
    banks: ClassVar[Banks]
    subset_tolerance: ClassVar[float] = 1e-9

    def test_metrics_are_finite_and_declared(self) -> None:
        """`Task.run` checks both."""
        assert self.task.run(self.banks).metrics

    def test_is_deterministic(self) -> None:
        """The same banks give the same columns, and the same columns the same numbers."""
        first, second = self.task.run(self.banks), self.task.run(self.banks)
        assert_same_columns(first.columns, second.columns)
        again = self.task.run_summarise(first.columns, self.banks.options)
        tables = self.task.run_tables(first.columns, self.banks.options)
        for summary in (second.summary, again):
            assert dict(summary.metrics) == dict(first.metrics)
            assert dict(summary.notes) == dict(first.notes)
        for found in (second.tables, again.tables, tables):
            assert found.keys() == first.tables.keys()
            for name, table in found.items():
                np.testing.assert_array_equal(table, first.tables[name])

    def test_leaves_its_banks_alone(self) -> None:
        """A task is a pure function."""
        before = [bank.image.copy() for role in self.banks for bank in self.banks.all(role)]
        self.task.run(self.banks)
        after = [bank.image for role in self.banks for bank in self.banks.all(role)]
        assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))

    def test_takes_columns_that_cannot_be_written(self) -> None:
        """`summarise` and the comparison change no column: the ledger's may be read-only."""
        outcome = self.task.run(self.banks)
        groups = {name: _frozen(group) for name, group in outcome.columns.groups.items()}
        frozen = Columns(groups, _frozen(outcome.columns.about))
        assert dict(self.task.run_summarise(frozen, self.banks.options).metrics) == dict(outcome.metrics)
        self.task.run_comparison(frozen, frozen, self.banks.options)

    def test_every_sample_has_its_picture(self) -> None:
        """`base_id` comes from the banks: `FeatureBank.columns` puts it in."""
        known = {base for role in self.banks for bank in self.banks.all(role) for base in bank.columns()["base_id"]}
        for group in self.task.run_observe(self.banks).groups.values():
            assert set(group["base_id"]) <= known

    def test_does_not_depend_on_the_order_of_samples(self) -> None:
        """Metrics are the same for shuffled samples (all data sets that share ids are shuffled alike)."""
        first = self.task.run(self.banks)
        assert_close(first.summary, self.task.run(shuffle(self.banks, seed=1)).summary)

    def test_does_not_depend_on_the_order_of_rows(self) -> None:
        """`summarise` gives the same for each group's rows in any order."""
        outcome = self.task.run(self.banks)
        rng = np.random.default_rng(2)
        rows = {name: rng.permutation(len(group["sample_id"])) for name, group in outcome.columns.groups.items()}
        assert_close(outcome.summary, self.task.run_summarise(outcome.columns.take(rows), self.banks.options))

    def test_a_picture_can_be_left_out(self) -> None:
        """Columns without a picture say what banks without it say: nothing needs to be observed again."""
        columns = self.task.run_observe(self.banks)
        left_out = min(base for group in columns.groups.values() for base in group["base_id"])
        rows = {name: group["base_id"] != left_out for name, group in columns.groups.items()}
        fewer = self.task.run_summarise(columns.take(rows), self.banks.options)
        kept = self.banks.each(lambda bank: bank.take(bank.columns()["base_id"] != left_out))
        assert_close(self.task.run(kept).summary, fewer, self.subset_tolerance)

    def test_half_of_the_samples_is_enough(self) -> None:
        """Every second row of each group still gives metrics, finite and declared, or notes."""
        columns = self.task.run_observe(self.banks)
        half = columns.take({name: np.arange(0, len(g["sample_id"]), 2) for name, g in columns.groups.items()})
        summary = self.task.run_summarise(half, self.banks.options)
        assert summary.metrics

    def test_identical_models_do_not_differ(self) -> None:
        """A comparison of a model with itself says that nothing changed: 0, or 1 for a ratio."""
        columns = self.task.run_observe(self.banks)
        for key, value in self.task.run_comparison(columns, columns, self.banks.options).metrics.items():
            metric = self.task.metric(key)
            neutral = metric.neutral if metric.neutral is not None else 1.0 if metric.unit == "ratio" else 0.0
            assert np.isclose(value, neutral, atol=1e-12), key

    def test_has_a_docstring(self) -> None:
        """Its first line is what `reliquant list tasks` shows."""
        assert self.task.title


def assert_close(first: Summary, second: Summary, tolerance: float = 1e-9) -> None:
    """The same metrics, up to a tolerance, and notes on the same ones."""
    assert first.metrics.keys() == second.metrics.keys()
    assert first.notes.keys() == second.notes.keys()
    for key, value in first.metrics.items():
        assert np.isclose(value, second.metrics[key], rtol=tolerance, atol=tolerance * 1e-3), key


def assert_same_columns(first: Columns, second: Columns) -> None:
    """Bit for bit."""
    assert first.groups.keys() == second.groups.keys()
    for name, group in first.groups.items():
        assert group.keys() == second[name].keys()
        for column, values in group.items():
            np.testing.assert_array_equal(values, second[name][column])


def _frozen(arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    copies = {name: np.array(values) for name, values in arrays.items()}
    for values in copies.values():
        values.flags.writeable = False
    return copies
