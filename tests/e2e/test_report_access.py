"""The report without a mouse, and on paper: a small results folder in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page
from typer.testing import CliRunner

from benchmark.cli.app import app
from benchmark.results.palette import LIGHT
from tests.browser import open_page
from tests.report_home import NF4, W4, W8, write_home

pytestmark = pytest.mark.slow
MOST_TABS = 120
FOCUS = "document.activeElement"
ALONE = f"""() => {{  // shown, with an outline, under nothing else
  const box = {FOCUS}.getBoundingClientRect(), style = getComputedStyle({FOCUS});
  const top = document.elementFromPoint(box.left + box.width / 2, box.top + box.height / 2);
  return style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2 && {FOCUS}.contains(top);
}}"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("access")
    write_home(folder / "home")
    out = folder / "report.html"
    result = CliRunner().invoke(app, ["report", "small", "--home", str(folder / "home"), "-o", str(out)])
    assert result.exit_code == 0, result.output
    return out


@pytest.fixture(params=[1280, 420])
def page(request: pytest.FixtureRequest, browser: Browser, report: Path) -> Iterator[Page]:
    """A wide and a narrow window; no error may be told at the end."""
    with open_page(browser, report, width=request.param, height=640) as watched:
        yield watched.page
        assert watched.errors == []


def tab_to(page: Page, selector: str) -> None:
    """Press Tab until something of that kind has the focus."""
    for _ in range(MOST_TABS):
        page.keyboard.press("Tab")
        if page.evaluate(f"selector => {FOCUS}.matches(selector)", selector):
            return
    pytest.fail(f"the Tab key never reaches {selector}")


def tip(page: Page) -> str:
    """Text of the tooltip, which must be seen."""
    assert page.locator("#tip").is_visible()
    box = page.locator("#tip").bounding_box()
    assert box is not None
    assert box["y"] + box["height"] > 0
    return page.inner_text("#tip")


def test_cells_by_keys_alone(page: Page) -> None:
    tab_to(page, "#headline td[data-tip]")
    seen = []
    for key in ("ArrowRight", "ArrowRight", "ArrowRight", "ArrowDown", "ArrowDown", "ArrowLeft", "ArrowUp"):
        page.keyboard.press(key)
        page.wait_for_timeout(50)
        assert page.evaluate(ALONE), f"{key}: the focused cell is covered, or its focus cannot be seen"
        seen.append(tip(page))
    assert W8 in seen[0]
    assert W4 in seen[3]
    assert NF4 in seen[4]
    assert len(set(seen)) == len(seen)
    page.keyboard.press("Escape")
    assert not page.locator("#tip").is_visible()


def test_sorting_keeps_the_focus_where_it_was(page: Page) -> None:
    tab_to(page, "#headline thead th:nth-child(2) button")
    for way in ("ascending", "descending"):
        page.keyboard.press("Enter")
        assert page.evaluate(f"{FOCUS}.closest('th').getAttribute('aria-sort')") == way
    tab_to(page, "#headline td[data-tip]")
    before = page.evaluate(f"{FOCUS}.dataset.tip")
    page.evaluate("document.querySelector('#headline thead button').click()")
    assert page.evaluate(f"{FOCUS}.dataset.tip") == before
    assert tip(page) == before


def test_a_filter_leaves_a_stop_in_the_table(page: Page) -> None:
    """The row that held the only stop of the Tab key is hidden: another one takes its place."""
    tab_to(page, "#filter")
    page.keyboard.type("nf4")
    assert page.evaluate(f"{FOCUS}.id") == "filter"
    tab_to(page, "#headline td[data-tip]")
    assert NF4 in tip(page)
    assert page.locator('#headline td[tabindex="0"]:visible').count() == 1


def test_marks_of_a_chart_and_its_legend(page: Page) -> None:
    tab_to(page, "#trade svg .mark")
    assert "full precision" in tip(page) or "fp32" in tip(page)
    assert page.evaluate(f"getComputedStyle({FOCUS}).outlineStyle") != "none"
    page.keyboard.press("ArrowRight")
    assert "rtn" in tip(page)
    tab_to(page, '#trade [data-toggle="rtn"]')
    page.keyboard.press("Space")
    assert page.evaluate(f"{FOCUS}.getAttribute('aria-pressed')") == "false"
    charts = page.locator("#trade svg[role=group]:visible")
    for i in range(charts.count()):
        assert charts.nth(i).locator('[tabindex="0"]:visible').count() == 1


OUTSIDE = """() => [...document.querySelectorAll("main svg text")].filter((text) => {
  const box = text.getBoundingClientRect(), area = text.closest("svg").getBoundingClientRect();
  const across = box.left < area.left - 1 || box.right > area.right + 1;
  return box.width > 0 && (across || box.top < area.top - 1 || box.bottom > area.bottom + 1);
}).map((text) => text.textContent)"""


def test_no_text_leaves_its_chart(page: Page) -> None:
    assert page.locator("#trade svg text").count() > 10
    assert page.evaluate(OUTSIDE) == []


def test_every_chart_with_tooltips_can_be_reached(page: Page) -> None:
    """Charts of the shown quantization too; each has one stop."""
    charts = page.locator("main svg:visible").filter(has=page.locator("[data-tip]"))
    assert charts.count() > 8
    for i in range(charts.count()):
        assert charts.nth(i).locator('[data-tip][tabindex="0"]').count() == 1
    page.select_option("#run", index=1)
    assert page.locator('#one table.grid:visible [data-tip][tabindex="0"]:visible').count() > 0


# --- paper -------------------------------------------------------------------------------------------------------

A4_WIDTH = 702
"""Pixels of an A4 page between its margins."""
SECTIONS = ("deploy", "changes", "trade", "intervals", "tasks", "spectrum", "one", "claims", "reproduce")


@pytest.fixture(params=["light", "dark"])
def paper(request: pytest.FixtureRequest, browser: Browser, report: Path) -> Iterator[Page]:
    """The page as it is printed, of either scheme, after somebody filtered the table down to one row."""
    with open_page(browser, report, width=A4_WIDTH, dark=request.param == "dark") as watched:
        watched.page.fill("#filter", "nf4")
        watched.page.emulate_media(media="print", color_scheme=request.param)
        yield watched.page
        assert watched.errors == []


def test_paper_shows_all_text_of_all_sections(paper: Page) -> None:
    """What is rendered holds every word of the document but those of controls and of the screen."""
    for name in SECTIONS:
        assert paper.locator(f"#{name} h2").is_visible() or name == "deploy"
    missing = paper.evaluate("""() => {
      const aside = "nav, .tools, .filters, .skip, .screen, #tip, script, svg, option, .hidden, .legend";
      const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
      const missing = [];
      while (walker.nextNode()) {
        const holder = walker.currentNode.parentElement;
        const folded = holder.closest(".many thead, .many td:not([data-name])");
        if (!walker.currentNode.data.trim() || holder.closest(aside) || folded) continue;
        if (!holder.checkVisibility({ contentVisibilityAuto: true })) missing.push(walker.currentNode.data.trim());
      }
      return missing;
    }""")
    assert missing == []
    assert paper.locator("#headline tr[data-name]:visible").count() == 3
    assert paper.locator("#one article:visible").count() == 3
    assert paper.locator("#more .lines td:visible").count() > 3 * 8
    assert paper.locator("#trade [data-group]:visible").count() > 1


def test_paper_is_wide_enough(paper: Page) -> None:
    """Nothing sticks out of the page, and the words of a folded table stand beside its numbers."""
    wide = """() => [...document.querySelectorAll("main *")].filter((item) => item.checkVisibility()
      && !item.closest(".hidden") && item.getBoundingClientRect().right > innerWidth + 1)
      .map((item) => `${item.tagName}.${item.className} ${item.textContent.slice(0, 40)}`)"""
    assert paper.evaluate(wide) == []
    cell = paper.locator("#more td[data-name]:visible").first
    name = cell.get_attribute("data-name")
    assert name
    assert name in cell.evaluate("cell => getComputedStyle(cell, '::before').content")


def test_paper_is_white_in_either_scheme(paper: Page) -> None:
    assert paper.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert paper.evaluate("getComputedStyle(document.documentElement).getPropertyValue('--c0')") == LIGHT[0]
    pdf = paper.pdf(format="A4", print_background=True)
    assert pdf.startswith(b"%PDF")
    assert pdf.count(b"/Type /Page\n") > len(SECTIONS) / 2
