"""The table of `reliquant run` on a narrow terminal."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from benchmark.cli.app import app
from benchmark.cli.tables import LEGEND, print_efficiency, print_table, print_verdicts
from benchmark.engine.plan import Configuration, Evaluation, Plan, Settings
from benchmark.metrics.uncertainty import Estimate
from benchmark.plugins import NoOptions, tasks
from benchmark.quantization import parse
from benchmark.results.compare import Change
from benchmark.results.tables import Cell, TableRow
from benchmark.spec.suite import load_suite, suite_names


def stub_plan(name: str = "demo", quantizations: Sequence[str] = ()) -> Plan:
    """As much of a suite's plan as the tables look at; no data is opened and no model resolved."""
    suite = load_suite(name)
    evaluations = tuple(
        Evaluation("", tasks.get(task), label, {}, NoOptions())
        for task, labels in suite.tasks.items()
        for label in labels
    )
    models: list[Any] = [SimpleNamespace(name=spec.name or spec.ref) for spec in suite.models]
    configurations = [
        Configuration(f"{model.name} {quant}", quant, model, parse(quant), evaluations)
        for model in models
        for quant in dict.fromkeys(["fp32", *(parse(q).name for q in quantizations or suite.quantizations)])
    ]
    return Plan(suite, Settings(), {}, None, tuple(configurations))


def demo_plan() -> Plan:
    """That of the demo."""
    return stub_plan()


def widest_rows(plan: Plan, keys: Sequence[str]) -> list[TableRow]:
    """Every metric of every quantization changed with three stars: the widest cells that there are."""
    full, changed = Cell(0.85, None, "higher"), Cell(0.85, -0.125, "higher", "***")
    return [
        TableRow(c.model.name, c.quant.name, dict.fromkeys(keys, full if c.quant.name == "fp32" else changed))
        for c in plan.configurations
    ]


def first_column(lines: Sequence[str]) -> str:
    """What stands below `run`, put together again."""
    below = [line for line in lines if line[0].strip() and not re.match(r"run |.*value and change|\* q", line)]
    return "".join(line.split()[0] for line in below)


@pytest.mark.parametrize("name", suite_names())
def test_the_table_of_every_suite_fits_80_columns(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is cut off: all values, all headings and all names are there, the quantizations of one model in order."""
    monkeypatch.setenv("COLUMNS", "80")
    plan = stub_plan(name)
    keys = plan.suite.headline or ("zero_shot/images/accuracy", "calibration/images/ece_15")
    rows = widest_rows(plan, keys)
    print_table(rows, keys, {}, plan)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in "".join(lines)
    changed = sum(row.quantization != "fp32" for row in rows)
    assert sum(line.count("-0.125***") for line in lines) == len(keys) * changed
    assert sum(line.count("0.850") for line in lines) == len(keys) * len(rows)
    [start, *others] = [i for i, line in enumerate(lines) if "value and change against" in line]
    assert 1 + len(others) == len(plan.suite.models)  # a table each, not two
    end = next(i for i, line in enumerate(lines) if line.startswith("run "))
    heading = "".join(lines[start + 1 : end + 1]).replace(" ", "")
    asked = "".join(
        f"{task.replace('_', '')}{label}{rest}" for task, label, rest in (key.split("/", 2) for key in keys)
    )
    assert Counter(heading) - Counter("↑↓" * 9) == Counter("runbits" + asked.replace("/", ""))
    assert first_column(lines) == "".join(row.quantization for row in rows)
    assert lines[-1] == LEGEND


def test_long_names_and_many_metrics_go_on_below(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A pattern with its own bits in the name, a data set with a long one, and twice the headline metrics."""
    monkeypatch.setenv("COLUMNS", "80")
    long = "rtn-w4a8-channel-token-bits_visual.transformer.resblocks.%5B0%2D9%5D.mlp_8-vision+text"
    plan = stub_plan("demo", [long])
    keys = [f"zero_shot/{'a_data_set.with_a_very_long_name' + str(i)}/accuracy" for i in range(12)]
    print_table(widest_rows(plan, keys), keys, {}, plan)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert sum(line.count("-0.125***") for line in lines) == 12
    assert sum(line.startswith("run ") for line in lines) == 2
    assert first_column(lines) == ("fp32" + long) * 2


def judged_change(configuration: Configuration, delta: float) -> Change:
    """A change of the first headline metric of the demo."""
    key, names = "zero_shot/scenes/accuracy", (configuration.model.name, configuration.quant.name, configuration.key)
    estimate = Estimate(delta, 0.001, 60.0, delta)
    return Change(*names, key, "higher", 0.8 + delta, 0.8, delta, estimate, images=2400)


def test_each_quantization_has_a_verdict(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Also one that was never compared; images and margins are in the title; nothing is wider than 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    plan = demo_plan()
    first, second, *rest = [c for c in plan.configurations if c.quant.name != "fp32"]
    changes = [judged_change(first, 0.0), judged_change(second, -0.2)]
    report = {"weights": {"vision": 100}, "parameters": {"vision": 100}, "towers": {}}
    print_verdicts(changes, ["zero_shot/scenes/accuracy"], {first.key: report}, plan)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0] == "demo: verdict against fp32, on 2,400 images; margins: 0.02"
    text = "".join(line[23:] for line in lines[1:]).replace(" ", "")  # beside the names
    assert text.startswith("non-inferior;recommended")
    assert "inferior:zero_shot/scenes/accuracy-0.2000[-0.2020,-0.1980],margin0.02" in text
    assert text.count("ithasnovaluetocompare") == len(rest)
    print_verdicts([], ["zero_shot/scenes/accuracy"], {}, plan)
    assert capsys.readouterr().out == ""


def test_full_precision_alone_has_no_legend(capsys: pytest.CaptureFixture[str]) -> None:
    plan = demo_plan()
    key = plan.suite.headline[0]
    print_table(
        [TableRow("demo", c.quant.name, {key: Cell(0.5, None, "higher")}) for c in plan.configurations], [key], {}, plan
    )
    assert LEGEND not in capsys.readouterr().out


def efficiency(name: str, **speed: Any) -> dict[str, Any]:
    """An Efficiency as JSON; simulated without a speed."""
    about = {"batch": 32, "threads": 2, "cpu": "AVX2", "device": "cpu", "engine": "int8-onednn"}
    fast = {"images_per_second": 1234.5, "latency_ms_p50": 0.98765, "latency_ms_p95": 12.345, "noisy": False}
    fast |= {"latency_ratio": 2.07, "latency_ratio_low": 1.99, "latency_ratio_high": 2.153, "rounds": 6}
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
    rows = [
        efficiency(first, engine="float"),
        efficiency(second),
        efficiency(third, noisy=True),
    ]
    print_efficiency({c.key: row for c, row in zip(plan.configurations, rows, strict=False)}, plan)
    title, heading, *lines = capsys.readouterr().out.splitlines()
    assert "batch 32" in title
    assert "AVX2, 2 threads" in title
    assert max(map(len, [title, heading, *lines])) <= 80
    full, simulated, noisy = (line for line in lines if "1234.6" in line)
    assert full.split() == [first, "1234.6", "1234", "0.988", "12.3", "2.07", "±4%", "float"]
    assert simulated.split()[1:] == ["1234.6", "-", "-", "-", "-", "simulated"]
    assert noisy.split()[2:] == ["1234", "0.988", "12.3", "noisy", "int8-onednn"]
    missing = [line for line in lines if "not measured" in line]
    assert len(missing) == len(plan.configurations) - 3
    assert missing[0].split()[1:] == ["-"] * 5 + ["not", "measured"]


@pytest.mark.parametrize("name", suite_names())
def test_the_efficiency_of_every_suite_fits_80_columns(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    plan = stub_plan(name)
    wide = {"images_per_second": 123456.7, "engine": "float-simulated+int8-onednn", "latency_ratio": 123.456}
    wide |= {"latency_ratio_low": 112.5, "latency_ratio_high": 135.5}
    print_efficiency({c.key: efficiency(c.quant.name, **wide) for c in plan.configurations}, plan)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in "".join(lines)
    assert sum("123457" in line for line in lines) == len(plan.configurations)


def test_without_efficiencies_nothing_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    print_efficiency({}, demo_plan())
    assert capsys.readouterr().out == ""


def test_hints_for_the_shell_are_quoted(tmp_path: Path) -> None:
    """A folder whose name is a command is one word of the next command."""
    home = tmp_path / "a b; echo x"
    for command in (["ui"], ["dashboard"]):
        result = CliRunner().invoke(app, [*command, "--home", str(home)])
        assert f"--home {shlex.quote(str(home))}`" in str(result.exception), command
