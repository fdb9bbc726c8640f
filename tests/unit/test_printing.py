"""The table of `reliquant run` on a narrow terminal."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from benchmark.analysis.tables import Cell, Row
from benchmark.engine.plan import Configuration, Evaluation, Plan, Settings, tasks
from benchmark.plugins import NoOptions
from benchmark.printing import LEGEND, print_table
from benchmark.quantization import parse
from benchmark.suite import load_suite


def demo_plan() -> Plan:
    """As much of the demo's plan as the table looks at; no data is opened."""
    suite = load_suite("demo")
    evaluations = tuple(Evaluation("", tasks.get(name), "scenes", {}, NoOptions()) for name in suite.tasks)
    model: Any = SimpleNamespace(name="demo")
    return Plan(
        suite,
        Settings(),
        {},
        None,
        tuple(
            Configuration(key=name, content=name, model=model, quant=parse(name), evaluations=evaluations)
            for name in suite.quantizations
        ),
    )


def test_six_headline_metrics_with_stars_fit_80_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    plan = demo_plan()
    rows = []
    for configuration in plan.configurations:
        full = configuration.quant.name == "fp32"
        cell = Cell(0.85, None, "higher") if full else Cell(0.85, -0.125, "higher", "***")
        rows.append(Row(configuration.model.name, configuration.quant.name, dict.fromkeys(plan.suite.headline, cell)))
    print_table(rows, plan.suite.headline, {}, plan)
    lines = capsys.readouterr().out.splitlines()
    assert len(plan.suite.headline) == 6
    assert max(map(len, lines)) <= 80
    assert sum(line.count("-0.125***") for line in lines) == 6 * (len(rows) - 1)
    assert "…" not in "".join(lines)
    assert lines[-1] == LEGEND


def test_full_precision_alone_has_no_legend(capsys: pytest.CaptureFixture[str]) -> None:
    plan = demo_plan()
    key = plan.suite.headline[0]
    print_table(
        [Row("demo", c.quant.name, {key: Cell(0.5, None, "higher")}) for c in plan.configurations], [key], {}, plan
    )
    assert LEGEND not in capsys.readouterr().out
