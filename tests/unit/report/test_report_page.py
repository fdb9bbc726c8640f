"""`reliquant report` on a small results folder: a valid, accessible, self-contained page."""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
from pathlib import Path
from typing import Any

import html5lib
import numpy as np
import pytest
from matplotlib.figure import Figure
from typer.testing import CliRunner, Result

from benchmark import Banks, Columns, Metric, NoOptions, Summary, task, tasks
from benchmark.cli.app import app
from benchmark.errors import InputError, StorageError, UnknownNameError
from benchmark.ledger.records import Ledger, Record
from benchmark.registry import Origin
from benchmark.testing import make_bank
from tests.registries import restored
from tests.report_home import NF4, W4, W8, write_home

SUITE = """
name: small
version: 2
models: [tiny]
quantizations: [rtn-w8a8, rtn-w4a8, bnb-nf4-vision]
data: {scenes: {source: demo, split: test}}
tasks: {zero_shot: {scenes: {test: scenes}}}
headline: [zero_shot/scenes/accuracy, calibration/scenes/ece_15, ood/scenes/mcm/auroc, spurious/scenes/rsg]
margins: {spurious/*: 0.03, calibration/*: 0.08}
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    write_home(folder / "home")
    (folder / "suite.yaml").write_text(SUITE)
    return folder / "home"


def run(home: Path, out: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["report", *arguments, "--home", str(home), "-o", str(out)])


@pytest.fixture(scope="module")
def page(home: Path) -> str:
    out = home.parent / "page.html"
    result = run(home, out, str(home.parent / "suite.yaml"))
    assert result.exit_code == 0, result.output
    return out.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def tree(page: str) -> Any:
    """The document, parsed by the rules of HTML; the first error fails."""
    return html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(page)


def text_of(element: Any) -> str:
    return " ".join(" ".join(element.itertext()).split())


def by_id(tree: Any, name: str) -> Any:
    return next(e for e in tree.iter() if e.get("id") == name)


def test_it_recommends_and_shows_every_section(tree: Any) -> None:
    sections = {e.get("id") for e in tree.iter("section")}
    assert sections == {"deploy", "changes", "trade", "intervals", "tasks", "spectrum", "one", "claims", "reproduce"}
    advice = text_of(by_id(tree, "deploy"))
    assert f"Deploy {W8}" in advice
    assert "It is non-inferior to full precision in all 4 headline metrics, on 200 images" in advice
    assert "none loses more than its margin (0.02, but 0.08 in calibration/scenes/ece_15" in advice
    assert "It has the fewest effective bits of those that are shown to be so: 8.0 per weight" in advice


def test_how_it_was_decided_is_behind_a_fold(tree: Any) -> None:
    """The candidates from the most bits to the fewest, each with its verdict; the headline itself is short."""
    deploy = by_id(tree, "deploy")
    table = next(t for t in deploy.iter("table") if "choice" in t.get("class", ""))
    lines = [[text_of(cell) for cell in line] for line in next(table.iter("tbody")).iter("tr")]
    assert [line[0] for line in lines] == [W8, NF4, W4]
    assert [line[2].split(":")[0] for line in lines] == ["non-inferior", "cannot tell", "inferior"]
    assert lines[0][4].endswith(", passed")
    assert "margin 0.02" in lines[2][2]
    folds = [fold for fold in deploy.iter("details") if table in list(fold.iter())]
    assert len(folds) == 1
    assert "Recommended is the one with the fewest effective bits" in text_of(folds[0])
    headline = next(e for e in deploy.iter("div") if "advice" in e.get("class", "").split())
    assert len(text_of(headline)) < 600


def test_the_heat_map_has_a_row_a_quantization_and_a_column_a_metric(tree: Any) -> None:
    table = by_id(tree, "headline")
    rows = [r for r in table.iter("tr") if r.get("data-name")]
    assert [r.get("data-name") for r in rows] == [f"tiny {name}" for name in (W8, W4, NF4)]
    assert [r.get("data-safe") for r in rows] == ["yes", "no", "no"]
    cells = [[text_of(cell) for cell in r.iter("td")] for r in rows]
    assert cells[0][:4] == ["8.0", "0.00", "10.00", "non-inferior"]
    assert cells[0][5:] == ["0.000", cells[0][6], "0.000", "0.000"]
    assert [row[3] for row in cells] == ["non-inferior", "inferior", "cannot tell"]
    assert cells[1][2] == "–", "a simulated quantization has no latency"
    assert cells[1][5].endswith("***")
    tip = next(c for c in rows[1].iter("td") if "heat" in c.get("class", "")).get("data-tip")
    assert "95 % interval [" in tip
    assert "q < 0.001" in tip


def test_significance_has_a_mark_of_its_own(tree: Any) -> None:
    """A cell has a frame if and only if it has stars, and a star stands nowhere else in the table."""
    cells = [c for table in ("headline", "more") for c in by_id(tree, table).iter("td")]
    framed = {id(c) for c in cells if "sig" in c.get("class", "").split()}
    starred = {id(c) for c in cells if "*" in text_of(c)}
    assert framed == starred
    assert 0 < len(framed) < len(cells)
    assert "*" not in "".join(text_of(head) for head in by_id(tree, "headline").iter("th"))


def test_the_legend_names_tests_and_adjustment(tree: Any) -> None:
    """The number of tests is the number of cells whose tooltip has a q."""
    text = text_of(by_id(tree, "changes"))
    tested = sum(
        "q = " in c.get("data-tip", "") or "q < " in c.get("data-tip", "") for c in by_id(tree, "headline").iter("td")
    )
    assert f"adjusted by Benjamini and Hochberg over the {tested} tests of this table" in text
    assert "McNemar" in text
    assert "DeLong" in text
    assert "intervals are not adjusted" in text


def test_short_words_are_spelled_out(tree: Any) -> None:
    assert "rsg : relative spurious gap" in text_of(by_id(tree, "changes"))
    assert "ece_15 : expected calibration error" in text_of(by_id(tree, "changes"))
    assert "RSG, the relative spurious gap, is" in text_of(by_id(tree, "tasks"))


def test_reliability_is_the_mean_of_the_tasks_in_points_with_its_interval(tree: Any) -> None:
    """Its tooltip has the tasks; the mean, worked out from them, is the cell."""
    row = next(r for r in by_id(tree, "headline").iter("tr") if r.get("data-name") == f"tiny {W4}")
    cell = next(c for c in row.iter("td") if "reliability" in c.get("data-tip", ""))
    tip = cell.get("data-tip").replace("\u2212", "-")
    parts = [float(share) for share in re.findall(r"(?:zero_shot|calibration|ood|spurious) (\S+?)(?:,|$)", tip)]
    assert len(parts) == 4
    assert float(text_of(cell).replace("\u2212", "-")) == pytest.approx(sum(parts) / 4, abs=0.011)
    low, high = (float(end) for end in re.findall(r"interval \[(\S+), (\S+)\]", tip)[0])
    assert low < sum(parts) / 4 < high < 0


def test_without_a_spectral_study_the_page_names_the_command(
    tree: Any, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is one that the command line takes in the suite's folder: run, it gets as far as the model, which is none."""
    section = by_id(tree, "spectrum")
    command = text_of(next(section.iter("pre")))
    assert command == "reliquant spectrum suite.yaml --data scenes --home home"
    monkeypatch.chdir(home.parent)
    result = CliRunner().invoke(app, [*command.split()[1:], "--tracker", "jsonl"])
    assert "unknown model 'tiny'" in str(result.exception)


def test_nothing_is_loaded_from_anywhere(page: str, tree: Any) -> None:
    addresses = [e.get(a) for e in tree.iter() if isinstance(e.tag, str) for a in ("src", "href") if e.get(a)]
    assert addresses
    assert all(address.startswith(("#", "data:")) for address in addresses)
    assert not re.findall(r"url\(|@import|fetch\(|XMLHttpRequest", page)


def test_the_policy_allows_the_own_script_alone(tree: Any) -> None:
    policy = next(e.get("content") for e in tree.iter("meta") if e.get("http-equiv") == "Content-Security-Policy")
    scripts = list(tree.iter("script"))
    digest = base64.b64encode(hashlib.sha256(scripts[0].text.encode()).digest()).decode()
    assert len(scripts) == 1
    assert f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")


def test_text_of_others_is_escaped(page: str, tree: Any) -> None:
    assert "onerror=alert(1)> & `code`" in text_of(by_id(tree, "deploy"))
    assert not [e for e in tree.iter() if e.get("onerror")]
    assert "<img src=x" not in page


def test_it_can_be_read_without_eyes_and_without_a_mouse(tree: Any) -> None:
    assert next(tree.iter("html")).get("lang") == "en"
    assert all(e.get("alt") for e in tree.iter("img"))
    charts = [e for e in tree.iter() if str(e.tag).endswith("}svg") and e.get("aria-hidden") != "true"]
    assert len(charts) > 15
    assert all(e.get("aria-label") and e.get("role") in ("img", "group") for e in charts)
    assert all(text_of(e) or e.get("aria-label") for e in tree.iter("button"))
    assert all(e.get("aria-pressed") == "true" for e in tree.iter("button") if e.get("data-toggle"))
    labelled = [e for label in tree.iter("label") for e in label.iter() if e.tag in ("select", "input")]
    assert len(labelled) == len(list(tree.iter("select"))) + len(list(tree.iter("input")))
    focusable = [e for chart in charts if chart.get("role") == "group" for e in chart.iter() if e.get("tabindex")]
    assert focusable
    assert all(e.get("aria-label") for e in focusable)
    for table in tree.iter("table"):
        assert all(cell.get("scope") in ("col", "row") for cell in table.iter("th"))
    ids = [e.get("id") for e in tree.iter() if e.get("id")]
    assert len(ids) == len(set(ids))
    for link in tree.iter("a"):
        assert link.get("href")[1:] in ids


def test_every_legend_can_be_read_without_colour(tree: Any) -> None:
    """Its signs differ in shape, dash or fill: their classes and outlines, colours left out."""
    legends = [e for e in tree.iter("div") if e.get("class") == "legend"]
    assert len(legends) >= 5
    for legend in legends:
        signs = []
        for button in legend.iter("button"):
            marks = [e for e in button.iter() if str(e.tag).rpartition("}")[2] in ("path", "circle")]
            words = [set(e.get("class", "").split()) - {f"c{i}" for i in range(8)} - {"ref", "solid"} for e in marks]
            signs.append(str([(e.tag, e.get("d"), sorted(w)) for e, w in zip(marks, words, strict=True)]))
        assert signs
        assert len(set(signs)) == len(signs), signs


def test_how_to_reproduce_it(tree: Any) -> None:
    text = text_of(by_id(tree, "reproduce"))
    assert "reliquant run suite.yaml --model tiny" not in text
    assert "reliquant run suite.yaml reliquant report" in text
    assert "name: small version: 2" in text
    assert "The file has version 2 now, the records come from 1." in text
    assert "model tiny" in text
    assert "b" * 16 in text


def test_no_path_of_this_machine_is_on_the_page_unless_it_is_wanted(page: str, home: Path, tmp_path: Path) -> None:
    assert str(home.parent) not in page
    out = tmp_path / "page.html"
    assert run(home, out, str(home.parent / "suite.yaml"), "--keep-paths").exit_code == 0
    assert str(home.parent / "suite.yaml") in out.read_text()


def test_why_there_are_no_pictures(tree: Any) -> None:
    """The digest of the synthetic data is not the demo's."""
    assert "No pictures: data set 'scenes' is not the one that was evaluated" in text_of(by_id(tree, "one"))


def test_one_quantization_in_focus(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    result = run(home, out, W4, "--suite", "small")
    assert result.exit_code == 0, result.output
    tree = html5lib.parse(out.read_text(), namespaceHTMLElements=False)
    assert f"The quantization that was asked for {W4} of tiny : 4.0 effective bits" in text_of(by_id(tree, "deploy"))
    assert [text_of(o) for o in by_id(tree, "run").iter("option")] == [W4]
    assert "The file of suite 'small' was not found" in text_of(by_id(tree, "reproduce"))
    assert "the file of suite 'small' is not known" in text_of(by_id(tree, "one"))


def test_a_ledger_of_one_task_still_makes_a_page(tmp_path: Path) -> None:
    write_home(tmp_path / "home", ("calibration",))
    result = run(tmp_path / "home", tmp_path / "page.html", "small")
    assert result.exit_code == 0, result.output
    page = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse((tmp_path / "page.html").read_text())
    assert "no task of these records draws a figure of all quantizations" in text_of(by_id(page, "tasks"))


def test_every_task_shows_what_it_draws(tree: Any) -> None:
    """The figures that MLflow keeps, for each quantization; with the caption that the task gives."""
    for panel in by_id(tree, "one").iter("article"):
        figures = [e for e in panel.iter("figure") if "drawn" in e.get("class", "")]
        titles = [next(e.iter("img")).get("alt") for e in figures]
        assert [title.split(",")[0] for title in titles] == [
            "calibration/scenes: reliability",
            "ood/scenes: score histograms",
            "corruption/scenes: severity curves",
            "corruption/scenes: corruption heatmap",
            "covariate_shift/scenes: covariate shift",
            "spurious/scenes: spurious",
        ]
        assert "on the diagonal a confidence of 0.8 means" in text_of(figures[0])


def test_a_strangers_figures_appear_and_their_failures_too(tmp_path: Path) -> None:
    """A plugin of a few lines gets its table, its figures and its grid without a further line."""

    @task(
        "strange",
        version=1,
        needs=("test",),
        metrics=[Metric("error", "lower", headline=True)],
        words={"error": "misses"},
    )
    def strange(banks: Banks, options: NoOptions) -> Columns:
        """A stranger's."""
        return Columns({"test": banks["test"].columns(wrong=banks["test"].image[:, 0] > 0)})

    @strange.summarise
    def summarise(columns: Columns, options: NoOptions) -> Summary:
        share = float(columns["test"]["wrong"].mean())
        return Summary({"error": share, "a/x/error": share, "b/x/error": 0.0})

    @strange.draw
    def draw(summary: Summary, reference: Summary | None) -> dict[str, Any]:
        """What a stranger has to say."""
        if summary.metrics["error"] > 0.5:
            raise ValueError("no <ink>")
        figure = Figure(figsize=(2, 2))
        figure.text(0, 0, f"share {summary.metrics['error']:.4f}")
        return {"odd": figure}

    with restored():
        tasks.add("strange", strange, Origin("strangers", "here"))
        ledger = Ledger(tmp_path / "home")
        for name, share in (("fp32", 0.0), (W8, 0.1), (W4, 0.9)):
            image = np.where(np.arange(40) < 40 * share, 1.0, -1.0).astype(np.float32)[:, None]
            bank = make_bank(samples=40, image=image, text=np.zeros((0, 1), np.float32), class_names=())
            outcome = strange.run(Banks({"test": [bank]}))
            metrics = {f"strange/scenes/{key}": value for key, value in outcome.metrics.items()}
            about = {"suite": "small", "model": "tiny", "task": "strange", "dataset": "scenes", "status": "done"}
            ledger.append(
                Record(name, name, quantization=name, seconds=0.0, metrics=metrics, comparison_key="p", **about),
                outcome,
            )
        result = run(tmp_path / "home", tmp_path / "page.html", "small")
    assert result.exit_code == 0, result.output
    page = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse((tmp_path / "page.html").read_text())
    one = by_id(page, "one")
    assert [e.get("alt") for e in one.iter("img")] == [f"strange/scenes: odd, {W8}"]
    drawn = base64.b64decode(next(one.iter("img")).get("src").partition(",")[2])
    assert b">share 0.1000<" in drawn, "numbers in texts keep their digits"
    assert "It could not be drawn: ValueError: no <ink>" in text_of(one)
    assert "What a stranger has to say." in text_of(one)
    assert "Parts of strange/scenes/error" in text_of(one)
    assert "error : misses" in text_of(by_id(page, "changes"))


def test_without_per_sample_columns_the_numbers_are_left(home: Path, page: str, tmp_path: Path) -> None:
    """Comparisons are kept; what is drawn from the columns is left out, and the page says so."""
    assert page
    old = tmp_path / "home"
    shutil.copytree(home, old)
    shutil.rmtree(old / "samples")
    assert run(old, tmp_path / "page.html", "small").exit_code == 0
    tree = html5lib.parse((tmp_path / "page.html").read_text(), namespaceHTMLElements=False)
    assert "per-sample columns of this evaluation are not in the results folder" in text_of(by_id(tree, "one"))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["rtn-w5a8-channel-token-vision", "--suite", "small"], UnknownNameError, "Did you mean 'rtn-w"),
        (["smal"], UnknownNameError, "unknown suite or run (of suite 'small') 'smal'. Did you mean 'small'?"),
        (["imagenet", "--suite", "small"], InputError, "`reliquant run imagenet`"),
        (["0" * 32, "--suite", "small"], InputError, "holds no MLflow store"),
    ],
)
def test_names_that_mean_nothing(
    home: Path, tmp_path: Path, arguments: list[str], error: type[Exception], message: str
) -> None:
    result = run(home, tmp_path / "page.html", *arguments)
    assert isinstance(result.exception, error), result.exception
    assert message in str(result.exception)
    assert not (tmp_path / "page.html").exists()


def test_folders_that_cannot_be_used(home: Path, tmp_path: Path) -> None:
    assert "holds no results" in str(run(tmp_path, tmp_path / "page.html", "small").exception)
    result = run(home, tmp_path / "missing" / "page.html", "small")
    assert isinstance(result.exception, StorageError)
    assert "cannot be written" in str(result.exception)


def test_a_damaged_spectral_study_is_named(home: Path, tmp_path: Path) -> None:
    old = tmp_path / "home"
    shutil.copytree(home, old)
    (old / "spectrum" / "tiny.scenes").mkdir(parents=True)
    (old / "spectrum" / "tiny.scenes" / "spectrum.json").write_text("{")
    assert "is damaged" in str(run(old, tmp_path / "page.html", "small").exception)
