"""Fronts and hypervolumes against brute force and against Optuna's own."""

from __future__ import annotations

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from optuna._hypervolume import compute_hypervolume

from benchmark.errors import InputError
from search.front import hypervolume, hypervolume_curve, non_dominated
from search.history import front

points = st.integers(1, 3).flatmap(
    lambda m: hnp.arrays(np.float64, st.tuples(st.integers(1, 12), st.just(m)), elements=st.integers(0, 6).map(float))
)


def dominates(a: np.ndarray, b: np.ndarray) -> bool:
    return bool(all(x <= y for x, y in zip(a, b, strict=True)) and any(x < y for x, y in zip(a, b, strict=True)))


@given(points)
def test_the_front_is_what_nobody_dominates(losses: np.ndarray) -> None:
    expected = [not any(dominates(other, row) for other in losses) for row in losses]
    assert non_dominated(losses).tolist() == expected


@given(points)
def test_hypervolume_agrees_with_optuna(losses: np.ndarray) -> None:
    reference = np.full(losses.shape[1], 7.0)
    assert hypervolume(losses, reference) == pytest.approx(compute_hypervolume(losses, reference), rel=1e-12)


@given(points)
def test_hypervolume_counts_the_cells_below_the_reference(losses: np.ndarray) -> None:
    """Integer points: the volume is the number of unit cells that some point covers."""
    cells = np.stack(np.meshgrid(*[np.arange(5.0)] * losses.shape[1], indexing="ij"), -1).reshape(-1, losses.shape[1])
    covered = sum(any((point <= cell).all() for point in losses) for cell in cells)
    assert hypervolume(losses, np.full(losses.shape[1], 5.0)) == pytest.approx(covered)


@given(points)
def test_the_curve_never_falls_and_ends_at_the_whole(losses: np.ndarray) -> None:
    reference = np.full(losses.shape[1], 6.5)
    curve = hypervolume_curve(losses, reference)
    assert (np.diff(curve) >= -1e-12).all()
    assert curve[-1] == pytest.approx(hypervolume(losses, reference))


def test_by_hand() -> None:
    assert hypervolume([[1, 3], [2, 1], [3, 3]], [4, 4]) == 7.0
    assert hypervolume([[5, 0]], [4, 4]) == 0.0
    assert non_dominated([[1, 3], [2, 1], [3, 3], [1, 3]]).tolist() == [True, True, False, True]


@pytest.mark.parametrize("losses", [[[np.nan, 1.0]], [1.0, 2.0], [[np.inf, 0.0]]])
def test_bad_losses_are_refused(losses: list[object]) -> None:
    with pytest.raises(InputError, match="losses"):
        non_dominated(losses)


def test_a_reference_of_another_length_is_refused() -> None:
    with pytest.raises(InputError, match="the reference has 3 values, the points 2"):
        hypervolume([[1.0, 2.0]], [3.0, 3.0, 3.0])


def test_what_violates_a_constraint_is_not_on_the_front() -> None:
    """However good it is: it neither stands there nor dominates what does."""
    study = optuna.create_study(directions=["maximize", "minimize"])
    for name, values, violation in (("best", (0.9, 2.0), 0.01), ("kept", (0.8, 4.0), 0.0), ("worse", (0.7, 5.0), -1.0)):
        trial = study.ask()
        trial.set_user_attr("configuration", name)
        trial.set_constraint("accuracy >= 0.5", violation)
        study.tell(trial, values)
    assert [trial.user_attrs["configuration"] for trial in front(study)] == ["kept"]
