"""The table of `reliquant run` on a narrow terminal."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from benchmark.analysis.tables import Cell, Row
from benchmark.engine.plan import Configuration, Evaluation, Plan, Settings, tasks
from benchmark.plugins import NoOptions
from benchmark.printing import LEGEND, print_efficiency, print_table
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


def efficiency(name: str, **speed: Any) -> dict[str, Any]:
    """An Efficiency as JSON; simulated without a speed."""
    about = {"batch": 32, "threads": 2, "cpu": "AVX2", "device": "cpu", "timed": name, "engine": "int8-onednn"}
    fast = {"images_per_second": 1234.5, "latency_ms_p50": 0.98765, "latency_ms_p95": 12.345}
    return {
        "quantization": name,
        "packed_bytes": 1_234_567_890,
        "kernel": "real" if speed else "simulated",
        "speed": {**about, **fast, **speed} if speed else None,
        "error": None,
    }


def test_efficiency_fits_80_columns_and_a_simulation_has_no_speed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    plan = demo_plan()
    first, second, third, *_ = [c.quant.name for c in plan.configurations]
    rows = {
        first: efficiency(first, engine="float"),
        second: efficiency(second),
        third: efficiency(third, timed="torchao-int8da-vision+text"),
    }
    print_efficiency(rows, plan)
    title, heading, *lines = capsys.readouterr().out.splitlines()
    assert "batch 32" in title
    assert "AVX2, 2 threads" in title
    assert max(map(len, [title, heading, *lines])) <= 80
    full, simulated, other = (line for line in lines if "1234.6" in line)
    assert full.split() == [first, "1234.6", "1234", "0.988", "12.3", "float"]
    assert simulated.split()[1:] == ["1234.6", "-", "-", "-", "simulated"]
    assert other.split()[2:] == ["1234", "0.988", "12.3", "torchao-int8da-"]


def test_without_efficiencies_nothing_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    print_efficiency({}, demo_plan())
    assert capsys.readouterr().out == ""
