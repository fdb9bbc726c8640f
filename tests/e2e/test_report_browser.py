"""The report of the demo in a real browser: it works, complains about nothing, asks the network for nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page
from typer.testing import CliRunner

from benchmark.cli.app import app
from tests.browser import open_page

pytestmark = pytest.mark.slow
LIMIT = "48"
MOST_BYTES = 5_000_000


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's report, of few images: all quantizations, all tasks, a spectral study, thumbnails."""
    folder = tmp_path_factory.mktemp("demo")
    home, out = folder / "home", folder / "report.html"
    common = ["--home", str(home), "--quiet", "--tracker", "jsonl"]
    for arguments in (
        ["run", "demo", "--limit", LIMIT, "--no-speed", *common],
        ["spectrum", "demo", "--limit", LIMIT, "--corruption", "none", "--quant", "rtn-w4a8", *common],
        ["report", "demo", "--home", str(home), "-o", str(out)],
    ):
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
    return out


@pytest.fixture
def page(browser: Browser, report: Path) -> Iterator[Page]:
    """The page, which must end without a console error and without a request."""
    with open_page(browser, report) as watched:
        yield watched.page
        assert watched.errors == []
        assert watched.requests == []


def column(page: Page, index: int) -> list[str]:
    return page.locator(f"#headline tbody.lines tr > :nth-child({index})").all_inner_texts()


def test_it_is_small_and_has_pictures(page: Page, report: Path) -> None:
    assert report.stat().st_size < MOST_BYTES
    shown = page.locator("#one .examples img")
    assert shown.count() > 0
    assert shown.evaluate_all("images => images.every(image => image.naturalWidth > 0)")
    assert page.locator("#spectrum svg").count() > 0


def test_a_heading_sorts_the_table_both_ways(page: Page) -> None:
    assert len(column(page, 2)) == 7
    button = page.locator("#headline thead button").nth(1)
    button.click()
    bits = [float(text) for text in column(page, 2)]
    assert bits == sorted(bits)
    assert page.locator("#headline thead th").nth(1).get_attribute("aria-sort") == "ascending"
    button.press("Enter")
    assert [float(text) for text in column(page, 2)] == bits[::-1]


def test_the_filter_hides_rows(page: Page) -> None:
    page.fill("#filter", "w4a8")
    assert page.locator("#headline tr[data-name]:visible").count() == 2
    assert page.inner_text("#shown") == "2 of 7 shown"
    page.fill("#filter", "")
    rows = page.locator("#headline tr[data-name]")
    rows.evaluate_all("rows => rows.forEach((row, n) => { row.dataset.safe = n % 3 ? 'no' : 'yes'; })")  # 3 of 7
    page.check("#safe")
    kept = page.locator("#headline tr[data-name]:visible")
    assert kept.evaluate_all("rows => rows.map(row => row.dataset.safe)") == ["yes"] * 3
    page.uncheck("#safe")
    assert kept.count() == 7


def test_a_legend_hides_a_series(page: Page) -> None:
    group = page.locator("#trade [data-group]:visible")
    series, button = group.locator('[data-series="rtn"]').first, group.locator('[data-toggle="rtn"]')
    assert series.is_visible()
    button.click()
    assert button.get_attribute("aria-pressed") == "false"
    assert not series.is_visible()
    button.click()
    assert series.is_visible()


def test_figures_of_another_quantization_and_of_another_metric(page: Page) -> None:
    assert page.locator("#one article:visible").count() == 1
    page.select_option("#run", label="rtn-w2-channel-vision")
    assert page.locator("#one article:visible h3").inner_text() == "rtn-w2-channel-vision"
    page.locator("#headline a", has_text="bnb-int8").click()
    assert page.locator("#one article:visible h3").inner_text() == "bnb-int8-vision"
    page.select_option("#trade select", index=1)
    assert page.locator("#trade [data-group]:visible").get_attribute("data-value") == "zero_shot/scenes/accuracy"


def test_a_tooltip_by_mouse_and_by_keyboard(page: Page) -> None:
    cell = page.locator("#headline tbody.lines td.heat").first
    cell.hover()
    assert "zero_shot/scenes/accuracy" in page.inner_text("#tip")
    cell.focus()
    page.keyboard.press("ArrowRight")
    assert "calibration/scenes/ece_15" in page.inner_text("#tip")
    page.keyboard.press("Escape")
    assert not page.locator("#tip").is_visible()


def test_light_and_dark(browser: Browser, report: Path) -> None:
    colour = "getComputedStyle(document.body).backgroundColor"
    with open_page(browser, report) as light, open_page(browser, report, dark=True) as dark:
        first, second = (watched.page.evaluate(colour) for watched in (light, dark))
        assert first != second
        toggle = dark.page.locator("#theme")
        toggle.click()
        assert dark.page.evaluate(colour) == first
        toggle.click()
        assert dark.page.evaluate(colour) == second
        assert light.errors + dark.errors == []


@pytest.mark.parametrize("width", [360, 480, 1600])
def test_no_width_needs_sideways_scrolling(browser: Browser, report: Path, width: int) -> None:
    with open_page(browser, report, width=width) as watched:
        assert watched.page.evaluate("document.documentElement.scrollWidth") <= width


def test_it_can_be_printed(page: Page) -> None:
    page.emulate_media(media="print")
    assert not page.locator("nav").is_visible()
    assert page.locator("#headline").is_visible()
    assert page.pdf(format="A4").startswith(b"%PDF")


def test_without_scripts_everything_is_shown(browser: Browser, report: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(report.as_uri())
    assert page.locator("#one article:visible").count() == 7
    context.close()
