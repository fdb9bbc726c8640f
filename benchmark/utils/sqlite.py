"""Addresses of SQLite databases, `sqlite:///PATH`, as SQLAlchemy reads them.

SQLAlchemy takes what follows a `?` for options and, from version 2.1 on, `%20` for a blank: a path with such characters
must be quoted, or another file is opened.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

from benchmark.errors import InputError

SQLITE = "sqlite:///"
NAMED = "sqlite+pysqlite:///"
"""The same with the driver's name: MLflow makes the folder that stands behind `sqlite:///`, quoted as it is."""


def sqlite_address(path: Path) -> str:
    """The address of a database file, which need not exist; the path is made absolute.

    Raises:
        InputError: no address names it for the installed SQLAlchemy.
    """
    plain = str(path.resolve())
    quoted = quote(plain)
    if quoted == plain:  # the usual path; SQLAlchemy's import takes a while
        return f"{SQLITE}{plain}"
    for text in (f"{NAMED}{quoted}", f"{SQLITE}{plain}"):
        if _read(text) == plain:
            return text
    raise InputError(f"{path}: SQLite databases cannot lie in a folder of this name; choose another one")


def sqlite_path(address: str) -> Path | None:
    """The file that an address names, which need not exist; None for addresses of another kind."""
    prefix = next((prefix for prefix in (SQLITE, NAMED) if address.startswith(prefix)), None)
    if prefix is None:
        return None
    rest = address.removeprefix(prefix)
    return Path(_read(address) if set(rest) & set("?%") else rest)


def _read(address: str) -> str:
    from sqlalchemy.engine import make_url

    return make_url(address).database or ""
