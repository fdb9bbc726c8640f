"""The tests that can notice a mutant, and the pytest plugin that runs them in that order until one fails."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.mutants.covering import Test
from tests.mutants.mutations import Mutant

MOST_SECONDS = 40.0
"""Tests are added while they take no longer together, by the times of the run that collected them."""

CHOSEN, KILLER = "MUTANTS_CHOSEN", "MUTANTS_KILLER"


def chosen(mutant: Mutant, tests: Sequence[Test]) -> list[Test]:
    """Tests that run the closest lines which any test runs: the own room's first, then those that run least else."""
    file = mutant.place.file
    running = [test for test in tests if file in test.lines]
    for lines in mutant.lines:
        covering = [test for test in running if not test.lines[file].isdisjoint(lines)]
        if covering or lines == mutant.lines[-1]:
            running = covering
            break
    room = f"/{Path(file).parent.name}/"
    running.sort(key=lambda test: (room not in test.file, sum(map(len, test.lines.values())), test.name))
    kept, seconds = list[Test](), 0.0
    for test in running:
        if not kept or seconds + test.seconds <= MOST_SECONDS:
            kept.append(test)
            seconds += test.seconds
    return kept


def arguments(names: Sequence[str]) -> list[str]:
    """Of pytest, to run these tests in this order."""
    return [*dict.fromkeys(name.split("::")[0] for name in names), "-x", "-p", "tests.mutants.choosing"]


class Choosing:
    """Runs the chosen tests only, and writes down the first that fails."""

    def __init__(self, names: Sequence[str], killer: Path) -> None:
        self.order, self.killer = {name: place for place, name in enumerate(names)}, killer

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """The chosen ones, in their order."""
        items[:] = sorted((i for i in items if i.nodeid in self.order), key=lambda item: self.order[item.nodeid])

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """The first failure."""
        if report.failed and not self.killer.exists():
            self.killer.write_text(report.nodeid)


def pytest_configure(config: pytest.Config) -> None:
    """Choose where this module is asked to (`-p tests.mutants.choosing` in a forked process)."""
    if CHOSEN in os.environ:
        names = json.loads(Path(os.environ[CHOSEN]).read_text())
        config.pluginmanager.register(Choosing(names, Path(os.environ[KILLER])))
