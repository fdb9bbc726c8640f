"""CITATION.cff has what the Citation File Format 1.2.0 asks for, and agrees with the package."""

from __future__ import annotations

import re
import tomllib
from typing import Any

import pytest
import yaml

from tests.docs.markdown import ROOT

KNOWN = {
    *("abstract", "authors", "cff-version", "commit", "contact", "date-released", "doi", "identifiers", "keywords"),
    *("license", "license-url", "message", "preferred-citation", "references", "repository", "repository-artifact"),
    *("repository-code", "title", "type", "url", "version"),
}
PERSON = {
    *("address", "affiliation", "alias", "city", "country", "email", "family-names", "fax", "given-names"),
    *("name-particle", "name-suffix", "orcid", "post-code", "region", "tel", "website"),
}
ENTITY = {
    *("address", "alias", "city", "country", "date-end", "date-start", "email", "fax", "location", "name", "orcid"),
    *("post-code", "region", "tel", "website"),
}
WORKS = {"article", "book", "conference", "conference-paper", "data", "dataset", "generic", "report", "software"}
"""Types of references, of the schema's list those that could be meant here."""


@pytest.fixture(scope="module")
def citation() -> dict[str, Any]:
    content = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert isinstance(content, dict)
    return content


def check_authors(authors: Any) -> None:
    """A list that is not empty, of persons or of entities with a name, without fields of both."""
    assert isinstance(authors, list)
    assert authors
    for author in authors:
        kind = ENTITY if "name" in author else PERSON
        assert set(author) <= kind, author
        assert "name" in author or "family-names" in author, author
        assert all(isinstance(value, str) and value for value in author.values())


def test_required_fields_are_there_and_no_unknown_ones(citation: dict[str, Any]) -> None:
    assert {"cff-version", "message", "title", "authors"} <= set(citation) <= KNOWN
    assert citation["cff-version"] == "1.2.0"
    assert citation["type"] in ("software", "dataset")
    assert all(isinstance(citation[name], str) and citation[name] for name in ("message", "title", "license"))
    check_authors(citation["authors"])


def test_it_agrees_with_the_package(citation: dict[str, Any]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert (str(citation["version"]), citation["license"]) == (project["version"], project["license"])
    assert project["name"] in citation["title"]


def test_the_study_is_cited_as_a_work_of_its_own(citation: dict[str, Any]) -> None:
    [study] = citation["references"]
    assert {"type", "title", "authors"} <= set(study)
    assert study["type"] in WORKS
    assert isinstance(study["year"], int)
    check_authors(study["authors"])
    for identifier in study["identifiers"]:
        assert set(identifier) <= {"type", "value", "description"}
        assert identifier["type"] in ("doi", "url", "swh", "other")
    assert re.fullmatch(r"arXiv:\d{4}\.\d{5}", study["identifiers"][0]["value"])


@pytest.mark.parametrize(
    "authors", [[], [{"given-names": "A"}], [{"name": "A group", "family-names": "B"}], [{"family-names": 3}], "A. B."]
)
def test_wrong_authors_are_refused(authors: Any) -> None:
    with pytest.raises(AssertionError):
        check_authors(authors)
