"""What may stand in `files.yaml` and in a user's own file, and what each mistake says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmark.download.catalogue import catalogue, in_order, own_files
from benchmark.download.schema import Unpack
from benchmark.errors import SpecError

SUM = "0" * 64


def entry(**changes: Any) -> dict[str, Any]:
    """An entry that is right, with changes."""
    file = {"bytes": 3, "sha256": SUM, "sources": [{"url": "https://example.org/a.tar"}]}
    return {"about": "mine", "terms": "mine", "folder": "mine", "files": {"a.tar": file}} | changes


def written(tmp_path: Path, content: Any) -> Path:
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def test_what_ships_can_be_read() -> None:
    found = catalogue()
    assert found["imagenet-c"].files["noise.tar"].bytes == 22565673785
    assert {"cifar10-c", "imagenet", "counteranimal"} <= set(found)


def test_own_entries_are_laid_over_those_that_ship(tmp_path: Path) -> None:
    found = catalogue([written(tmp_path, {"mine": entry(), "imagenet-c": {"folder": "elsewhere"}})])
    assert found["mine"].files["a.tar"].sha256 == SUM
    assert found["imagenet-c"].folder == "elsewhere"
    assert found["imagenet-c"].files["noise.tar"].bytes == 22565673785


def test_where_own_entries_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert own_files(tmp_path) == []
    (tmp_path / "downloads.yaml").write_text("{}")
    assert own_files(tmp_path) == [tmp_path / "downloads.yaml"]
    monkeypatch.setenv("RELIQUANT_DOWNLOADS", str(tmp_path / "other.yaml"))
    assert own_files(tmp_path) == [tmp_path / "other.yaml"]
    with pytest.raises(SpecError, match=r"other\.yaml: no such file"):
        catalogue(own_files(tmp_path))


def a_file(**changes: Any) -> dict[str, Any]:
    file = {"sha256": SUM, "sources": [{"url": "https://example.org/a.tar"}]} | changes
    return {"files": {"a.tar": {name: value for name, value in file.items() if value is not None}}}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"folder": "../up"}, "folder: holds an empty part"),
        ({"folder": "/etc"}, "folder: expected a path relative"),
        ({"folder": "C:/x"}, "folder: expected a path relative"),
        ({"folder": ".reliquant"}, "folder: begins with .reliquant"),
        ({"files": {}}, "files: "),
        ({"files": {"a/../../b": {"sha256": SUM, "sources": [{"url": "https://x.org/"}]}}}, "holds an empty part"),
        ({"terms": ""}, "terms: "),
        ({"term": "x"}, "Did you mean 'terms'?"),
        (a_file(sha256="12"), "sha256: "),
        (a_file(sha256=None), "has no md5 or sha256"),
        (a_file(sources=[]), "sources: "),
        (a_file(sources=[{"url": "ftp://x.org/a"}]), "expected an address"),
        (a_file(sources=[{"url": "https:///a"}]), "expected an address"),
        (a_file(sources=[{"url": "https://x.org/a", "drive": "1SrPF0rgXKy_4z1"}]), "got hub"[:3]),
        (a_file(sources=[{}]), "expected one of hub, url, drive and manual, got none"),
        (a_file(sources=[{"hub": "a/b"}]), "hub needs revision"),
        (a_file(sources=[{"hub": "../b", "revision": "x", "path": "y"}]), "ORG/NAME"),
        (a_file(sources=[{"url": "https://x.org/a", "path": "y"}]), "path does not go with url"),
        (a_file(unpack={"strip": -1}), "unpack.strip"),
        (a_file(unpack={"to": "../x"}), "unpack.to"),
        ({"files": {"*.tar": {"sha256": SUM, "sources": [{"url": "https://x.org/a"}]}}}, "a pattern takes its files"),
        ({"needs": ["nothing"]}, "needs: unknown download 'nothing'"),
        ({"needs": ["mine"]}, "needs: it needs itself"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_field(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError) as raised:
        catalogue([written(tmp_path, {"mine": entry(**changes)})])
    assert said in str(raised.value)
    assert "mine" in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("content", [[1], "text", {"mine": 3}, {"a/b": {}}])
def test_what_is_no_catalogue_is_said(tmp_path: Path, content: Any) -> None:
    with pytest.raises(SpecError, match=r"own\.yaml"):
        catalogue([written(tmp_path, content)])


def test_what_is_needed_comes_first(tmp_path: Path) -> None:
    own = {"a": entry(needs=["b"]), "b": entry(needs=["c"]), "c": entry(), "d": entry(needs=["c", "a"])}
    known = catalogue([written(tmp_path, own)])
    assert in_order(["d", "c"], known) == ["c", "b", "a", "d"]
    with pytest.raises(SpecError, match="it needs itself"):
        catalogue([written(tmp_path, own | {"c": entry(needs=["a"])})])


def test_where_members_land() -> None:
    assert Unpack().place("a/b") == "a/b"
    assert Unpack(strip=1).place("a") is None
    assert Unpack(strip=1, to="x/y", only="*.png").place("a/b/c.png") == "x/y/b/c.png"
    assert Unpack(only=("a/*", "b/*")).place("c/d") is None
