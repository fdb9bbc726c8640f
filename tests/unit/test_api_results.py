"""What `benchmark.run` returns, and how it and its progress look in a notebook."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

import benchmark
from benchmark import Results, Settings, load_suite, make_plan, narrow
from benchmark.cli.app import app
from benchmark.errors import StorageError
from benchmark.utils.progress import Notebook, in_notebook, open_progress

QUANTS = ("rtn-w8a8-vision", "rtn-w2-vision")
SMALL = (*(word for name in QUANTS for word in ("--quant", name)), "--task", "zero_shot", "--limit", "24", "--no-speed")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    home = tmp_path_factory.mktemp("results")
    suite = narrow(load_suite("demo"), quantizations=["fp32", *QUANTS], tasks=["zero_shot"], limit=24)
    return benchmark.run(make_plan(suite, Settings()), home, quiet=True)


def test_the_table_is_the_one_of_the_command_line(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    printed = CliRunner().invoke(app, ["run", "demo", *SMALL, "--home", str(results.home), "--tracker", "jsonl"]).stdout
    table = [line.rstrip() for line in str(results.table(80)).splitlines()]
    lines = [line.rstrip() for line in printed.splitlines()]
    assert len(table) > 10
    assert table == lines[: len(table)]
    assert any("verdict against fp32" in line for line in table)


def test_a_notebook_gets_html_and_text(results: Results) -> None:
    shown = results._repr_mimebundle_()
    assert shown == results.table()._repr_mimebundle_((), ())
    assert set(shown) == {"text/html", "text/plain"}
    assert "rtn-w2-channel-vision" in shown["text/html"]
    assert set(results._repr_mimebundle_(include=["text/plain"])) == {"text/plain"}


def test_the_frame_has_every_metric_with_what_is_known_of_its_change(results: Results) -> None:
    frame = results.to_pandas()
    known = {(r.model, r.quantization, key): v for r in results.records for key, v in r.metrics.items()}
    places = list(zip(frame.model, frame.quantization, frame.metric, strict=True))
    assert len(set(places)) == len(frame) >= len(known)
    assert set(known) <= set(places)
    for place, value in zip(places, frame.value, strict=True):
        assert known.get(place, value) == pytest.approx(value, nan_ok=True)
    full = frame[frame.quantization == "fp32"]
    assert full[["reference", "change", "low", "high", "p"]].isna().all(axis=None)
    for change in results.changes:
        [row] = frame[(frame.quantization == change.quantization) & (frame.metric == change.key)].to_dict("records")
        assert (row["reference"], row["change"]) == (change.reference, change.change)
        assert row["low"] == pytest.approx(float("nan") if change.low is None else change.low, nan_ok=True)
        assert row["evaluation"] in {record.name for record in results.records}
        assert row["better"] == change.better


def test_the_report_is_written_where_asked(results: Results, tmp_path: Path) -> None:
    place = results.report(tmp_path / "page.html")
    assert place == tmp_path / "page.html"
    assert "rtn-w2-channel-vision" in place.read_text(encoding="utf-8")
    with pytest.raises(StorageError, match="cannot be written"):
        results.report(tmp_path / "nowhere" / "page.html")


def test_a_failed_sweep_can_be_shown(results: Results) -> None:
    empty = Results(results.plan, home=results.home)
    assert "rtn-w2-channel-vision" in str(empty.table())
    assert len(empty.to_pandas()) == 0


# --- progress ----------------------------------------------------------------------------------------------------


class Handle:
    """What `IPython.display.display(..., display_id=True)` returns."""

    def __init__(self) -> None:
        self.drawn: list[str] = []
        self.last: Any = None

    def update(self, shown: Any, raw: bool = False) -> None:
        self.last = shown
        self.drawn += [] if raw else [shown._repr_mimebundle_((), ())["text/plain"]]


@pytest.fixture
def handle(monkeypatch: pytest.MonkeyPatch) -> Handle:
    """As in the kernel of a notebook."""
    made, display = Handle(), ModuleType("IPython.display")
    module = ModuleType("IPython")
    display.display = lambda shown, display_id: made  # type: ignore[attr-defined]
    module.get_ipython = lambda: SimpleNamespace(has_trait=lambda name: name == "kernel")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", module)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    return made


def test_a_notebook_draws_bars_and_removes_them(handle: Handle, capsys: pytest.CaptureFixture[str]) -> None:
    assert in_notebook()
    with open_progress(quiet=False) as progress:
        assert isinstance(progress, Notebook)
        with progress.phase("embed", 40) as advance:
            for _ in range(40):
                advance(1)
        progress.message("one line")
    assert 1 <= len(handle.drawn) < 40
    assert "embed" in handle.drawn[0]
    assert handle.last == {"text/plain": ""}
    assert capsys.readouterr() == ("one line\n", "")


def test_it_ends_cleanly_when_the_work_fails(handle: Handle) -> None:
    with pytest.raises(ValueError), open_progress(quiet=False) as progress, progress.phase("embed", 4):
        raise ValueError
    assert handle.last == {"text/plain": ""}


@pytest.mark.parametrize("shell", [None, SimpleNamespace(has_trait=lambda name: False)], ids=["none", "terminal"])
def test_ipython_in_a_terminal_is_no_notebook(handle: Handle, monkeypatch: pytest.MonkeyPatch, shell: object) -> None:
    monkeypatch.setattr(sys.modules["IPython"], "get_ipython", lambda: shell)
    assert not in_notebook()
