"""The suite that ran last in a results folder: what commands on results mean where none is named.

It stands in a small file beside the ledger, which it is no part of: a run that finds everything done writes no record.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from benchmark.ledger.records import Ledger

FILE = "last_suite.json"
DEFAULT = "demo"
"""Where nothing has run."""


@dataclass(frozen=True)
class Default:
    """A suite that was not named: as the command line takes it (a name or a file), and a line that says so."""

    suite: str
    told: str


def remember(home: Path, suite: str, asked: str) -> None:
    """Note that a suite runs; a folder that cannot be written keeps what it has.

    Args: suite: its name. asked: as the command line named it: the name, or a file.
    """
    place = str(Path(asked).resolve()) if asked.endswith((".yaml", ".yml")) else asked
    path = home / FILE
    aside = path.with_suffix(f".{os.getpid()}.tmp")
    with suppress(OSError):
        aside.write_text(json.dumps({"suite": suite, "asked": place}), encoding="utf-8")
        aside.replace(path)


def default_suite(ledger: Ledger) -> Default:
    """The last suite that ran and has results; else that of the newest record; else the demo.

    Its file is named where it is still there: it knows headline metrics and margins.
    """
    recorded = list(dict.fromkeys(record.suite for record in reversed(ledger.answers())))
    name, place = _remembered(ledger.home)
    if name not in recorded:
        name, place = (recorded[0] if recorded else DEFAULT), ""
    asked = place if place.endswith((".yaml", ".yml")) and Path(place).is_file() else name
    others = sorted(set(recorded) - {name})
    more = f" (also here: {', '.join(others)})" if others else ""
    return Default(asked, f"suite '{name}', the last that ran in {ledger.home}; --suite names another{more}")


def _remembered(home: Path) -> tuple[str, str]:
    """Name and place of the suite in the file; empty where it is missing or damaged."""
    try:
        found = json.loads((home / FILE).read_text(encoding="utf-8"))
        return str(found["suite"]), str(found["asked"])
    except (OSError, ValueError, KeyError, TypeError):
        return "", ""
