"""What the package index shows: authors, addresses, a README whose links lead somewhere from there."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import yaml

from tests.docs.markdown import REPOSITORY, ROOT, links, local

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_every_link_of_the_readme_is_absolute() -> None:
    """The index knows no files of the repository; `test_links_and_images_exist` checks that ours exist."""
    found = links((ROOT / "README.md").read_text(encoding="utf-8"))
    assert len(found) > 20
    assert [link for link in found if not re.match(r"https://", link)] == []
    pictures = [link for link in found if link.endswith((".png", ".svg"))]
    assert pictures
    assert all(link.startswith(f"{REPOSITORY}/raw/HEAD/") for link in pictures)


def test_all_addresses_are_below_one_repository() -> None:
    urls = PROJECT["urls"]
    assert {"Repository", "Documentation", "Changelog", "Issues"} <= urls.keys()
    assert all(url.startswith(REPOSITORY) for url in urls.values())
    for name in ("Documentation", "Changelog"):
        assert (ROOT / local(urls[name]).removeprefix("/")).is_file()


def test_the_authors_are_those_to_cite() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["authors"]
    assert [author["name"] for author in PROJECT["authors"]] == [author["name"] for author in cited]


def test_the_classifiers_name_the_pythons() -> None:
    named = [c.rpartition(" ")[2] for c in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", c)]
    assert PROJECT["requires-python"] == f">={named[0]}"
    assert named == ["3.11", "3.12", "3.13", "3.14"]


def test_the_version_stands_in_one_place_and_where_a_citation_needs_it() -> None:
    """The changelog has a section of it, and no source repeats it."""
    version = PROJECT["version"]
    assert re.search(
        rf"^## \[{re.escape(version)}\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    tracked = subprocess.run(
        ["git", "grep", "-lF", f'"{version}"', "--", "benchmark", "tasks", "trackers", "search"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert tracked.stdout == ""


def test_issue_templates_ask_for_the_versions() -> None:
    folder = ROOT / ".github" / "ISSUE_TEMPLATE"
    bug = yaml.safe_load((folder / "bug.yml").read_text(encoding="utf-8"))
    asked = {each.get("id"): each for each in bug["body"]}
    assert "reliquant --version --verbose" in asked["versions"]["attributes"]["description"]
    assert asked["versions"]["validations"]["required"] is True
    for path in folder.glob("*.yml"):
        form = yaml.safe_load(path.read_text(encoding="utf-8"))
        if path.name != "config.yml":
            assert {"name", "description", "body"} <= form.keys()
            assert all(each["type"] in ("markdown", "textarea", "input", "dropdown") for each in form["body"])


def test_only_declared_pages_lie_at_the_root() -> None:
    assert {path.name for path in Path(ROOT).glob("*.md")} == {
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "README.md",
        "SECURITY.md",
    }
