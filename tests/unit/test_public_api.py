"""A public name or signature changes only together with a line in the changelog."""

from __future__ import annotations

from pathlib import Path

import pytest

import benchmark
from tests import public_api
from tests.docs.markdown import ROOT
from tests.public_api import CHANGELOG, PAGE, changed, described, exported, listed, listing, section, stored, untold


def test_what_changed_since_the_last_release_is_told() -> None:
    changes = changed(stored(), listing())
    missing = untold(changes, section(CHANGELOG.read_text(encoding="utf-8"), "Unreleased"))
    lines = "\n".join(line for name in missing for line in changes[name])
    assert not missing, (
        f"the public API changed. Say it in CHANGELOG.md under [Unreleased], with the names in backticks; while "
        f"preparing a release, run `python -m tests.public_api`:\n{lines}"
    )


def test_the_page_lists_every_public_name_of_benchmark() -> None:
    named = set(listed(PAGE.read_text(encoding="utf-8")))
    assert {f"benchmark.{name}" for name in exported("benchmark")} <= named
    assert "search.request.SearchRequest" in named
    assert not [name for name in named if not list(described(name))]


def test_all_is_sorted_complete_and_loads() -> None:
    assert sorted(benchmark.__all__) == benchmark.__all__
    assert set(benchmark.__all__) == set(benchmark._MODULE_OF)
    assert all(getattr(benchmark, name) is not None for name in benchmark.__all__)


def test_a_new_parameter_a_new_type_and_a_name_that_went_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def embed(model: str, data: int = 3, *, name: str = "x") -> list[str]:
        raise NotImplementedError

    monkeypatch.setattr("benchmark.api.embed", embed)
    wanted = "(model: str, data: int = 3, *, name: str = 'x') -> list[str]"
    before, now = stored(), listing()
    del now["benchmark.adjust"]
    changes = changed(before, now)
    assert set(changes) == {"benchmark.adjust", "benchmark.embed"}
    assert changes["benchmark.embed"][1] == f"+ benchmark.embed{wanted}"
    assert changes["benchmark.adjust"][0].startswith("- benchmark.adjust(")


@pytest.mark.parametrize(
    ("told", "missing"),
    [
        ("", ["benchmark.embed"]),
        ("- embed takes a name.", ["benchmark.embed"]),
        ("- `embedding` is new.", ["benchmark.embed"]),
        ("- `embed` takes a name.", []),
        ("- `benchmark.embed(model, data, name)` takes a name.", []),
    ],
)
def test_told_is_what_stands_in_backticks(told: str, missing: list[str]) -> None:
    assert untold({"benchmark.embed": ["+"]}, told) == missing


def test_sections_of_the_changelog_are_told_apart() -> None:
    text = "# Changelog\n\n## [Unreleased]\n- `a`\n\n## [1.0.0] - 2026-01-01\n### Added\n- `b`\n\n## [0.9.0]\n- `c`\n"
    assert section(text, "Unreleased").strip() == "- `a`"
    assert section(text, "1.0.0").strip() == "### Added\n- `b`"
    assert section(text, "0.9.0").strip() == "- `c`"
    assert section(text, "2.0.0") == ""


def test_the_command_refuses_what_the_changelog_lacks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy, changelog = tmp_path / "public_api.txt", tmp_path / "CHANGELOG.md"
    lines = public_api.STORED.read_text().splitlines()
    copy.write_text("\n".join(line for line in lines if "benchmark.adjust" not in line))
    changelog.write_text("## [Unreleased]\n")
    monkeypatch.setattr(public_api, "STORED", copy)
    monkeypatch.setattr(public_api, "CHANGELOG", changelog)
    assert public_api.main() == 1
    assert "benchmark.adjust" in capsys.readouterr().err
    changelog.write_text("## [Unreleased]\n- `adjust` is new\n")
    assert public_api.main() == 0
    assert copy.read_text() == (ROOT / "tests" / "public_api.txt").read_text()
