"""`reliquant ui` and `reliquant dashboard` in a real browser: what a reader sees who opens the printed address."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote
from urllib.request import urlopen

import psutil
import pytest
from playwright.sync_api import Browser, Page, expect
from typer.testing import CliRunner

from benchmark.cli.app import app
from benchmark.ledger.records import Ledger
from benchmark.utils.browser import answers
from search.storage import open_storage
from tests.browser import open_page
from tests.search_stub import Stub, make_search
from tests.unit.trackers.test_trackers import finished
from trackers.mlflow import MLflowTracker

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
ROOT = Path(__file__).resolve().parent.parent.parent
QUANT = "rtn-w2-channel-vision"
SUITE = f"""
name: seen
version: 1
description: Two quantizations of the demo, for the browser.
models: [demo]
quantizations: [fp32, {QUANT}]
data:
  scenes: {{source: demo, split: test}}
  far: {{source: demo, split: far_ood, text: none}}
tasks:
  zero_shot: {{scenes: {{test: scenes}}}}
  calibration: {{scenes: {{test: scenes}}}}
  ood: {{scenes.far: {{id: scenes, ood: far}}}}
headline: [zero_shot/scenes/accuracy, calibration/scenes/ece_15, ood/scenes.far/mcm/auroc]
"""
PATIENCE = 60_000
"""Milliseconds for the page's own requests, on a busy machine."""


@pytest.fixture(scope="module")
def home(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a small suite; asked for after the browser, which skips where there is none."""
    folder = tmp_path_factory.mktemp("ui")
    (folder / "seen.yaml").write_text(SUITE)
    home = folder / "home"
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        arguments = ["run", str(folder / "seen.yaml"), "--limit", "96", "--no-speed", "--home", str(home), "--quiet"]
        result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    return home


@contextmanager
def serving(name: str, *arguments: str) -> Iterator[dict[str, str]]:
    """`reliquant ui` or `dashboard` on a free port; yields what it prints at its start: experiment -> address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "benchmark", name, "--port", str(port), *arguments]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
        try:
            assert answers("127.0.0.1", port, 180), read(log)
            lines = [line.split(": ", 1) for line in read(log).splitlines() if re.search("/#/|/dashboard", line)]
            yield {line[0] if len(line) == 2 else "": line[-1] for line in lines}
        finally:
            process.terminate()
            process.wait(60)


def read(log: object) -> str:
    log.seek(0)  # type: ignore[attr-defined]
    return str(log.read())  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def addresses(home: Path) -> Iterator[dict[str, str]]:
    with serving("ui", "--home", str(home)) as found:
        yield found


@pytest.fixture
def page(browser: Browser, addresses: dict[str, str]) -> Iterator[Page]:
    with open_page(browser, addresses["seen"], width=1700) as watched:
        watched.page.set_default_timeout(PATIENCE)
        expect.set_options(timeout=PATIENCE)
        yield watched.page


def value(home: Path, quantization: str, key: str) -> float:
    [found] = [
        r.metrics[key] for r in Ledger(home).records.values() if r.quantization == quantization and key in r.metrics
    ]
    return float(found)


def cell(number: float) -> re.Pattern[str]:
    """The number as JavaScript writes it, or cut off."""
    return re.compile(re.escape(f"{number:.6f}".rstrip("0")[:7]))


def names(page: Page) -> list[str]:
    """Runs from top to bottom."""
    rows = page.locator(".ag-pinned-left-cols-container .ag-row")
    read = "row => [Number(row.getAttribute('row-index')), (row.querySelector('a') || row).innerText]"
    found = rows.evaluate_all(f"rows => rows.map({read})")
    return [text for _, text in sorted(found)]


def expect_names(page: Page, wanted: list[str]) -> None:
    """Wait until the table shows these runs; it is filled some time after the page around it."""
    for _ in range(100):
        if names(page) == wanted:
            return
        page.wait_for_timeout(200)
    assert names(page) == wanted


def test_the_printed_address_shows_the_runs_filtered_and_sorted(page: Page, home: Path) -> None:
    expect(page.get_by_text(QUANT, exact=True)).to_be_visible()
    expect(page.get_by_text("sweep demo, 2 quantizations")).to_be_visible()
    for heading in ("effective_bits", "zero_shot_accuracy", "zero_shot_accuracy_change", "calibration_ece_15"):
        expect(page.get_by_role("columnheader").get_by_text(heading, exact=True)).to_be_visible()
    worse, full = (value(home, name, "zero_shot/scenes/accuracy") for name in (QUANT, "fp32"))
    assert worse < full
    for number in (worse, full, worse - full, value(home, QUANT, "calibration/scenes/ece_15")):
        expect(page.get_by_role("gridcell").get_by_text(cell(number)).first).to_be_visible()
    expect_names(page, ["fp32", QUANT, "sweep demo, 2 quantizations"])
    assert "searchFilter=tags.kind" in page.url
    assert "orderByKey=metrics.%60zero_shot_accuracy%60&orderByAsc=false" in page.url
    expect(page.get_by_text("3 matching runs")).to_be_visible()


def test_filter_and_sort_of_the_address_are_honoured(page: Page, addresses: dict[str, str]) -> None:
    """As printed for stores without the saved view."""
    base = addresses["seen"].split("?")[0]
    wanted = quote("tags.kind = 'configuration'")
    order = f"orderByKey={quote('metrics.`zero_shot_accuracy`')}&orderByAsc=true"
    page.goto("about:blank")
    page.goto(f"{base}?workflowType=machine_learning&searchFilter={wanted}&{order}")
    expect(page.get_by_text("2 matching runs")).to_be_visible()
    expect_names(page, [QUANT, "fp32"])


def test_a_run_tells_what_changed_and_its_figures_open(page: Page, home: Path) -> None:
    page.get_by_text("sweep demo, 2 quantizations").click()
    page.get_by_role("tab", name="Artifacts").click()
    for figure in ("changes.png", "bits.png"):
        page.get_by_text(figure, exact=True).first.click()
        image = page.locator("img[src^='blob:']").first
        expect(image).to_be_visible()
        assert image.evaluate("image => image.decode().then(() => image.naturalWidth)") > 400
    page.get_by_text("summary.csv", exact=True).first.click()
    expect(page.get_by_text("Previewing the first 2 rows")).to_be_visible()
    page.go_back()
    page.goto("about:blank")


def test_a_run_is_described_in_words(page: Page, home: Path) -> None:
    """Which headline metrics changed significantly, by how much, and where the rest is."""
    page.get_by_text(QUANT, exact=True).click()
    described = page.get_by_test_id("note-editor-preview-content")
    expect(described).to_contain_text("Against full precision (q < 0.05 over 3 headline metrics)")
    change = value(home, QUANT, "zero_shot/scenes/accuracy") - value(home, "fp32", "zero_shot/scenes/accuracy")
    expect(described).to_contain_text(
        re.compile(rf"worse: .*zero_shot/scenes/accuracy {re.escape(f'{change:+.3f}')}\*")
    )
    expect(described).to_contain_text("quantization_report.json (which layers, bits, size)")
    page.goto("about:blank")


def test_parallel_coordinates_take_bits_and_metrics_as_numbers(page: Page, home: Path) -> None:
    expect(page.get_by_text(QUANT, exact=True)).to_be_visible()
    base, experiment = page.url.split("#")[0], re.search(r"experiments/(\d+)", page.url)
    assert experiment
    links = page.locator(".ag-pinned-left-cols-container a[href*='/runs/']")
    runs = [re.sub(r".*/runs/([0-9a-f]+).*", r"\1", str(link.get_attribute("href"))) for link in links.all()][:2]
    page.goto(f"{base}#/compare-runs?runs={quote(json.dumps(runs))}&experiments={quote(json.dumps([experiment[1]]))}")
    expect(page.get_by_text("Comparing 2 Runs")).to_be_visible()
    page.get_by_role("button", name="Clear All").click()
    box = page.get_by_role("combobox").nth(1)
    for name in ("effective_bits", "zero_shot_accuracy"):
        box.click()
        box.fill(name)
        page.get_by_title(name, exact=True).first.click()
    axes = page.locator(".parcoords .axis-title, .js-plotly-plot .axis-title")
    expect(axes).to_have_text(["effective_bits", "zero_shot_accuracy"])
    drawn = page.locator(".js-plotly-plot").first.evaluate(
        "plot => plot.data[0].dimensions.map(axis => [axis.label, Array.from(axis.values).sort((a, b) => a - b)])"
    )
    assert [name for name, _ in drawn] == ["effective_bits", "zero_shot_accuracy"]
    (low, high), accuracies = drawn[0][1], drawn[1][1]
    assert 2 < low < 32 == high
    assert accuracies == pytest.approx([value(home, name, "zero_shot/scenes/accuracy") for name in (QUANT, "fp32")])


def test_a_store_without_the_view_gets_an_address_that_filters(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    tracker = MLflowTracker().open(tmp_path)
    tracker.log(finished("plain"))
    experiment = tracker._client.get_experiment_by_name("plain").experiment_id
    tracker._client.delete_experiment_tag(experiment, "mlflow.sharedViewState.reliquant")
    with serving("ui", "--home", str(tmp_path)) as found, open_page(browser, found["plain"]) as watched:
        expect(watched.page.get_by_text("1 matching run")).to_be_visible(timeout=PATIENCE)


def test_the_dashboard_draws_the_front_and_tells_values(browser: Browser, tmp_path: Path) -> None:
    search = make_search(Stub(), storage=open_storage(tmp_path), name="a study to see")
    search.prepare(5)
    search.run(5)
    trials = {trial.number: trial for trial in search.study.trials}
    with serving("dashboard", "--home", str(tmp_path)) as found, open_page(browser, found[""]) as watched:
        page = watched.page
        page.set_default_timeout(PATIENCE)
        page.get_by_text("a study to see").first.click()
        figure = page.locator("#graph-pareto-front.js-plotly-plot")
        expect(figure).to_be_visible(timeout=PATIENCE)
        page.wait_for_function("() => document.querySelector('#graph-pareto-front').data?.some(t => t.x.length)")
        drawn = figure.evaluate("plot => plot.data.map(t => Array.from(t.x).map((x, i) => [x, t.y[i]]))")
        dominated, front = (sorted(map(tuple, trace)) for trace in drawn if trace)
        best = {trial.number for trial in search.study.best_trials}
        assert front == sorted(tuple(trial.values) for number, trial in trials.items() if number in best)
        assert dominated == sorted(tuple(trial.values) for number, trial in trials.items() if number not in best)
        page.goto(f"{page.url.rstrip('/')}/trials")
        for number in (0, 4):
            page.get_by_text(f"Trial {number}", exact=True).first.click()
            told = ", ".join(repr(number).removesuffix(".0") for number in trials[number].values)  # as JavaScript does
            expect(page.get_by_text(told, exact=True)).to_be_visible(timeout=PATIENCE)


def commands() -> str:
    """Of all processes that were started here, with their arguments: what everybody on a machine can read."""
    return "\n".join(" ".join(child.cmdline()) for child in psutil.Process().children(recursive=True))


def test_the_dashboard_takes_the_storage_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = f"sqlite:///{tmp_path / 'own.db'}"  # a database's address would hold a password
    search = make_search(Stub(), storage=open_storage(tmp_path, storage), name="from outside")
    search.prepare(1)
    search.run(1)
    monkeypatch.setenv("RELIQUANT_STORAGE", storage)
    with serving("dashboard", "--home", str(tmp_path)) as found:
        with urlopen(found[""].replace("/dashboard", "/api/studies"), timeout=PATIENCE / 1000) as answer:
            assert [study["study_name"] for study in json.load(answer)["study_summaries"]] == ["from outside"]
        assert "dashboard" in commands()
        assert "own.db" not in commands()


def test_mlflow_is_not_told_the_store_as_an_argument(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = f"sqlite:///{tmp_path / 'own.db'}"
    MLflowTracker().open(tmp_path, store).log(finished("elsewhere"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    with serving("ui", "--home", str(tmp_path)) as found:
        server = found["elsewhere"].partition("/#/")[0]
        with urlopen(f"{server}/api/2.0/mlflow/experiments/get-by-name?experiment_name=elsewhere") as answer:
            assert json.load(answer)["experiment"]["name"] == "elsewhere"
        assert "mlflow" in commands()
        assert "own.db" not in commands()
