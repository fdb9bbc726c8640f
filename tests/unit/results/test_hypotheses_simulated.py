"""Verdicts in worlds with a known truth are wrong in at most 5 % of them."""

from __future__ import annotations

import pytest

from tests.statistics.hypotheses import QUANTIZATIONS, cases, simulate

WORLDS = 100
CASES = cases()


def test_the_worlds_are_of_the_size_of_a_study() -> None:
    assert len(set(QUANTIZATIONS)) == 70
    assert len({hypothesis.claim for hypothesis, _ in CASES.values()}) == 12


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_wrong_verdict_comes_in_at_most_5_per_cent(name: str) -> None:
    seen = simulate(*CASES[name], range(WORLDS))
    assert sum(seen.values()) == WORLDS
    for verdict in ("holds", "does not hold"):
        assert seen[verdict] <= 0.05 * WORLDS, dict(seen)


@pytest.mark.slow
def test_the_simulation_would_see_intervals_that_are_too_narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the interval of these models in place of that of their kind, as if no model differed."""
    monkeypatch.setattr("benchmark.results.aggregate.Mean.widest", property(lambda mean: mean.these))
    name = next(name for name in CASES if "LAION" in name)
    seen = simulate(*CASES[name], range(WORLDS))
    assert max(seen["holds"], seen["does not hold"]) > 0.1 * WORLDS
