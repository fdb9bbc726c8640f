"""Addresses of SQLite databases: whatever the folder's name, SQLAlchemy opens that very file."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine, text

from benchmark.utils.sqlite import sqlite_address, sqlite_path

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=12).filter(
    lambda name: name not in (".", "..") and len(name.encode()) < 200
)


@settings(max_examples=60, deadline=None)
@given(NAMES)
@example("a%20b")
@example("a?mode=ro")
@example("a#b;c'd\"e&f=g+h@i:j \\%")
def test_the_file_of_that_name_is_opened_and_no_other(name: str) -> None:
    with TemporaryDirectory() as place:
        path = Path(place).resolve() / name / "x.db"
        path.parent.mkdir()
        address = sqlite_address(path)
        assert sqlite_path(address) == path
        engine = create_engine(address)
        with engine.begin() as connection:
            connection.execute(text("CREATE TABLE t (x)"))
        engine.dispose()
        assert [found for found in Path(place).rglob("*") if found.is_file()] == [path]


@pytest.mark.parametrize(
    ("address", "path"),
    [
        ("sqlite:////a b/x.db", "/a b/x.db"),
        ("sqlite:///x.db", "x.db"),
        ("sqlite:////a%20b/x.db?timeout=5", "/a b/x.db"),
        ("http://127.0.0.1:5000", None),
        ("postgresql://me@host/base", None),
    ],
)
def test_a_users_address_is_read_as_sqlalchemy_reads_it(address: str, path: str | None) -> None:
    assert sqlite_path(address) == (None if path is None else Path(path))
