"""Texts that leave the machine hold none of its absolute paths."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmark.utils.portable import all_portable, portable


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("home", "home/work", "data"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RELIQUANT_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path / "home" / "work")
    return tmp_path


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("ROOT/data/imagenet/val", "$RELIQUANT_DATA/imagenet/val"),
        ("reliquant run ROOT/home/work/my.yaml --home ROOT/home/results", "reliquant run my.yaml --home ~/results"),
        ("'ROOT/home/x': cannot be read", "'~/x': cannot be read"),
        ("file://ROOT/data/a.jpg", "$RELIQUANT_DATA/a.jpg"),
        ("sqlite:///ROOT/home/mlflow.db", "sqlite:///~/mlflow.db"),
        ("local-dir:/mnt/models/mine", "local-dir:mine"),
        ("ViT-B-32//mnt/w/best.pt", "ViT-B-32/best.pt"),
        ('{"path":"/mnt/My/x.parquet"}', '{"path":"x.parquet"}'),
        ("--data imagenet=/mnt/a/b", "--data imagenet=b"),
        (r"C:\Users\me\x.jpg: missing", "x.jpg: missing"),
    ],
)
def test_absolute_paths_become_relative(places: Path, text: str, shown: str) -> None:
    assert portable(text.replace("ROOT", str(places))) == shown


@pytest.mark.parametrize(
    "text",
    [
        *("zero_shot/scenes/top1", "http://127.0.0.1:5000/#/experiments/1", "https://hub/a/b", "hf-hub:org/name"),
        *("a and/or b", "$RELIQUANT_DATA/x/y", "~/x/y", "./a/b", "../a/b", "1/2", "/", "images/s", "tar.gz"),
    ],
)
def test_other_texts_stay(text: str) -> None:
    assert portable(text) == text


PARTS = st.lists(st.text(alphabet="abcXYZ019._+@=-", min_size=1, max_size=8), min_size=2, max_size=5)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(PARTS, st.sampled_from(["", "x: ", "(", "'", "--data a=", "ref:", '"']), st.booleans())
def test_no_root_is_left(places: Path, parts: list[str], before: str, known: bool) -> None:
    root = str(places / "data") if known else "/mntsecret/place"
    shown = portable(f"{before}{root}/{'/'.join(parts)}")
    assert str(places) not in shown
    assert "mntsecret" not in shown
    assert not re.search(r"(^|[ '\"(:])/\w", shown)
    assert shown.endswith(parts[-1])


@dataclass(frozen=True)
class Thing:
    text: str
    more: tuple[dict[str, list[str]], ...]
    number: int = 3


def test_at_any_depth() -> None:
    thing = Thing("/mnt/a/b", ({"/mnt/a/c": ["/mnt/a/d", "e"]},))
    assert all_portable(thing) == Thing("b", ({"c": ["d", "e"]},))
