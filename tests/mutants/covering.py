"""Which tests run which lines: collected test file by test file, each in a fresh process; kept until a file changes."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.mutants.trees import HOME, ROOT, Limits, Tree

ROOMS = (
    *("benchmark/metrics", "tasks", "benchmark/quantization", "benchmark/engine", "benchmark/ledger"),
    *("benchmark/results", "search"),
)
"""The folders whose code is mutated."""

TESTS = ("tests/unit", "tests/contract", "tests/reference", "tests/e2e")
"""Where the quick tests are looked for. Lines that run in other processes than pytest's are not seen."""

FOLDER = HOME / "coverage"
MOST = Limits(900, 3600.0)
_OUT, _TREE = "MUTANTS_COVERAGE_OUT", "MUTANTS_COVERAGE_TREE"


@dataclass(frozen=True)
class Test:
    """One test that passes: its id, its seconds, and the lines of each mutable file that it runs."""

    name: str
    seconds: float
    lines: Mapping[str, frozenset[int]] = field(repr=False)

    @property
    def file(self) -> str:
        """The test's file."""
        return self.name.split("::")[0]


def sources() -> list[str]:
    """All mutable files, relative to the repository."""
    found = (path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
    return sorted(str(path.relative_to(ROOT)) for path in found)


def files_of_tests(chosen: Iterable[str]) -> list[str]:
    """All test files below the chosen folders or files."""
    places = [ROOT / place for place in chosen]
    found = [path for place in places for path in ([place] if place.is_file() else place.rglob("test_*.py"))]
    return sorted({str(path.relative_to(ROOT)) for path in found})


def collect(chosen: Iterable[str] = TESTS) -> list[Test]:
    """The tests of the chosen files with their lines; files that have not changed since are not run again."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    stale = [file for file in files_of_tests(chosen) if not _fresh(file)]
    if stale:
        tree = Tree.copied("tree-coverage")
        for number, file in enumerate(stale, 1):
            _collect(tree, file)
            print(f"coverage {number}/{len(stale)} {file}: {len([*_tests(file)])} tests", flush=True)
    return [test for file in files_of_tests(chosen) for test in _tests(file)]


def _tests(file: str) -> Iterator[Test]:
    for name, about in _read(file)["tests"].items() if _path(file).exists() else ():
        lines = {source: frozenset(numbers) for source, numbers in about["lines"].items()}
        yield Test(name, about["seconds"], lines)


def _path(file: str) -> Path:
    return FOLDER / (file.replace("/", "+") + ".json")


def _read(file: str) -> dict[str, Any]:
    return dict(json.loads(_path(file).read_text()))


def _fresh(file: str) -> bool:
    """Whether neither the test file nor any source that it runs has changed."""
    if not _path(file).exists():
        return False
    known = _read(file)["digests"]
    return all((ROOT / name).exists() and digest(name) == value for name, value in known.items())


def digest(file: str) -> str:
    """Of a file's content."""
    return hashlib.sha256((ROOT / file).read_bytes()).hexdigest()[:16]


def _collect(tree: Tree, file: str) -> None:
    _path(file).unlink(missing_ok=True)
    os.environ[_OUT], os.environ[_TREE] = str(_path(file)), str(tree.folder)
    log = FOLDER / "log"
    status = tree.pytest([file, "-p", "tests.mutants.covering"], MOST, log).wait()
    if not _path(file).exists():
        print(f"{file}: not used, its tests ended with {status}:\n{log.read_text()[-2000:]}", flush=True)
        return
    found = _read(file)
    if found["failed"]:
        print(f"not used, they fail without any mutation: {', '.join(found['failed'])}", flush=True)
    ran = {source for about in found["tests"].values() for source in about["lines"]}
    found["digests"] = {name: digest(name) for name in sorted({file, *ran})}
    _path(file).write_text(json.dumps(found))


class Collecting:
    """The pytest plugin that runs in the forked process.

    What a test's setup runs counts for all tests of its file: they may share the fixture.
    """

    def __init__(self, out: Path, tree: Path) -> None:
        import coverage

        self.out, self.tree = out, tree
        include = [f"{tree / room}/*" for room in ROOMS]
        self.cov = coverage.Coverage(data_file=None, config_file=False, include=include, messages=False)
        self.cov.start()
        self.seconds: dict[str, float] = {}
        self.failed: list[str] = []

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Iterator[None]:
        """The context of all tests of the file."""
        self.cov.switch_context("setup")
        start = time.monotonic()
        yield
        self.seconds[item.nodeid] = time.monotonic() - start

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        """A context for each test."""
        self.cov.switch_context(item.nodeid)
        start = time.monotonic()
        yield
        self.seconds[item.nodeid] += time.monotonic() - start
        self.cov.switch_context("setup")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Tests that do not pass cannot kill."""
        if report.failed or report.skipped:
            self.seconds.pop(report.nodeid, None)
        if report.failed:
            self.failed.append(report.nodeid)

    def pytest_sessionfinish(self) -> None:
        """Write the lines of each test."""
        self.cov.stop()
        data = self.cov.get_data()
        lines: dict[str, dict[str, list[int]]] = {name: {} for name in self.seconds}
        for path in data.measured_files():
            source = str(Path(path).relative_to(self.tree))
            for line, contexts in data.contexts_by_lineno(path).items():
                every = "setup" in contexts
                for name in self.seconds if every else (c for c in contexts if c in self.seconds):
                    lines[name].setdefault(source, []).append(line)
        tests = {name: {"seconds": round(self.seconds[name], 3), "lines": lines[name]} for name in self.seconds}
        self.out.write_text(json.dumps({"tests": tests, "failed": self.failed}))


def pytest_configure(config: pytest.Config) -> None:
    """Collect where this module is asked to (`-p tests.mutants.covering` in a forked process)."""
    if _OUT in os.environ:
        config.pluginmanager.register(Collecting(Path(os.environ[_OUT]), Path(os.environ[_TREE])))
