"""Margins of a suite belong to metrics: what fits nothing is refused when the suite is planned, before any work."""

from __future__ import annotations

import pytest

from benchmark.engine.plan import check_suite
from benchmark.errors import SpecError
from benchmark.spec.suite import load_suite, narrow


@pytest.mark.parametrize(
    "pattern",
    ["*", "calibration/*", "*/ece_15", "calibration/scenes/ece_15_debiased", "ood/scenes.far/mcm/auroc", "ood/*/auroc",
     "corruption/scenes/fog/3/accuracy"],
)  # fmt: skip
@pytest.mark.parametrize("tasks", [(), ("zero_shot",)], ids=["whole", "one task"])
def test_margins_of_metrics_that_tasks_declare(pattern: str, tasks: tuple[str, ...]) -> None:
    """Also where `--task` leaves the metric's task out."""
    suite = load_suite("demo").model_copy(update={"margins": {pattern: 0.1}})
    check_suite(narrow(suite, tasks=tasks))


@pytest.mark.parametrize(
    "pattern", ["zero_shot/scenes/acuracy", "zero_shot/scene/accuracy", "x", "nothing/*", "ece_15"]
)
def test_margins_of_anything_else_are_refused(pattern: str) -> None:
    suite = load_suite("demo").model_copy(update={"margins": {pattern: 0.1}})
    with pytest.raises(SpecError, match=rf"suite 'demo': margins: unknown metric '{pattern.replace('*', '.')}'"):
        check_suite(suite)
