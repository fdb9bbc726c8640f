"""The driver of mutation testing: what is mutated, how a mutant is found again, which tests are chosen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.mutants import __main__ as program
from tests.mutants import running
from tests.mutants.choosing import chosen
from tests.mutants.covering import Test as Covering
from tests.mutants.mutations import Mutant, Place, mutants
from tests.mutants.running import Result, table

SOURCE = '''"""A module."""

from typing import Final

Names = tuple[str, ...]
LIMIT = 5


def clipped(value: int, low: int = 0) -> int:
    """At most LIMIT."""
    if value < low:
        raise ValueError("too low")
    return min(value, LIMIT)


class Counter:
    @property
    def next(self) -> int:
        return clipped(self.count + 1, low=2)
'''
FILE = "benchmark/metrics/invented.py"


def of(folder: Path, source: str) -> list[Mutant]:
    """The mutants of a source."""
    (folder / FILE).parent.mkdir(parents=True, exist_ok=True)
    (folder / FILE).write_text(source)
    return mutants(folder, FILE)


def changes(found: list[Mutant]) -> set[tuple[str, str, str]]:
    return {(m.place.function, m.place.was, m.place.becomes) for m in found}


def test_operators_arguments_numbers_and_decorated_functions_are_mutated(tmp_path: Path) -> None:
    found = changes(of(tmp_path, SOURCE))
    assert {
        ("clipped", "if value < low:", "if value <= low:"),
        ("clipped", "return min(value, LIMIT)", "return min(value, )"),
        ("clipped", "def clipped(value: int, low: int = 0) -> int:", "def clipped(value: int, low: int = 1) -> int:"),
        ("(module)", "LIMIT = 5", "LIMIT = 6"),
        ("Counter.next", "return clipped(self.count + 1, low=2)", "return clipped(self.count - 1, low=2)"),
        ("Counter.next", "return clipped(self.count + 1, low=2)", "return clipped(self.count + 1, )"),
    } <= found


def test_imports_types_docstrings_and_errors_are_not(tmp_path: Path) -> None:
    lines = {was for _, was, _ in changes(of(tmp_path, SOURCE))}
    assert not {line for line in lines if line.startswith(("from", "Names", "raise", '"""'))}


def test_each_mutant_is_python_and_another_file(tmp_path: Path) -> None:
    found, source = of(tmp_path, SOURCE), SOURCE.encode()
    assert len(found) == len({m.place for m in found}) > 10
    for mutant in found:
        assert mutant.compiles(source)
        assert mutant.applied(source) != SOURCE
        assert len(mutant.applied(source).splitlines()) == len(SOURCE.splitlines())


def test_a_mutant_is_found_again_after_edits_elsewhere(tmp_path: Path) -> None:
    before = {m.place for m in of(tmp_path, SOURCE)}
    moved = SOURCE.replace("LIMIT = 5\n", "LIMIT = 5\n\n\ndef other() -> int:\n    return LIMIT * 2\n")
    assert before < {m.place for m in of(tmp_path, moved)}
    changed = {m.place for m in of(tmp_path, SOURCE.replace("value < low", "value < low - 1"))}
    assert {p for p in before - changed if p.function != "clipped" or "value < low" not in p.was} == set()


def test_equal_changes_of_one_function_are_numbered(tmp_path: Path) -> None:
    found = of(tmp_path, "def two(a):\n    a.append(1)\n    b = 3\n    a.append(1)\n    return b\n")
    same = [m for m in found if m.place.becomes == "a.append(2)"]
    assert [m.place.nth for m in same] == [0, 1]
    assert same[0].start < same[1].start


def ran(name: str, lines: set[int], seconds: float = 0.1, also: int = 0) -> Covering:
    other = {"benchmark/metrics/other.py": frozenset(range(also))} if also else {}
    return Covering(name, seconds, {FILE: frozenset(lines), **other})


def test_tests_of_the_line_are_chosen_the_own_room_and_the_narrowest_first(tmp_path: Path) -> None:
    mutant = next(m for m in of(tmp_path, SOURCE) if m.place.becomes == "if value <= low:")
    tests = [
        ran("tests/unit/tasks/test_a.py::narrow", {11, 13}),
        ran("tests/unit/metrics/test_b.py::wide", {11, 13}, also=50),
        ran("tests/unit/metrics/test_b.py::narrow", {11}),
        ran("tests/unit/metrics/test_b.py::elsewhere", {13}),
        ran("tests/unit/metrics/test_b.py::slow", {11}, seconds=100.0, also=9),
    ]
    names = [test.name.rpartition("/")[2] for test in chosen(mutant, tests)]
    assert names == ["test_b.py::narrow", "test_b.py::wide", "test_a.py::narrow"]
    header = next(m for m in of(tmp_path, SOURCE) if m.place.becomes.endswith("low: int = 1) -> int:"))
    assert {test.name for test in chosen(header, tests)} == {t.name for t in tests if t.seconds < 1}
    constant = next(m for m in of(tmp_path, SOURCE) if m.place.becomes == "LIMIT = 6")
    assert len(chosen(constant, tests)) == 4


def test_a_test_that_alone_takes_too_long_is_still_run(tmp_path: Path) -> None:
    mutant = next(m for m in of(tmp_path, SOURCE) if m.place.becomes == "if value <= low:")
    assert len(chosen(mutant, [ran("tests/unit/metrics/test_b.py::slow", {11}, seconds=100.0)])) == 1
    assert chosen(mutant, []) == []


def test_the_table_counts_explained_survivors_as_good() -> None:
    places = [Place(FILE, "f", str(i), "x") for i in range(4)]
    states = ("killed", "survived", "survived", "uncovered")
    results = [Result(place, state) for place, state in zip(places, states, strict=True)]  # type: ignore[arg-type]
    rows = table(results, {places[1]: "equal"}, program.room_of).splitlines()
    assert rows[-1] == "| all | 4 | 1 | 0 | 1 | 1 | 1 | 50% |"
    assert rows[2].startswith("| `benchmark/metrics` | 4 |")


def test_results_hold_until_their_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = "benchmark/metrics/scores.py"
    monkeypatch.setattr(running, "RESULTS", tmp_path / "results.jsonl")
    current = Result(Place(file, "f", "a", "b"), "killed", "t", 1.0, running.digest(file), 3)
    for result in (current, replace(current, place=Place(file, "f", "a", "c"), digest="other")):
        running.keep(result)
    assert running.kept() == {current.place: current}


def test_a_pinned_mutant_that_is_gone_fails_and_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = Place("benchmark/metrics/scores.py", "softmax", "there was once a line", "there was no line")
    monkeypatch.setattr(program, "PINNED", tmp_path / "pinned.toml")
    program.PINNED.write_text(program.entry(gone, "test", "tests/unit/x.py::test_it"))
    assert program.pinned() == [(gone, "tests/unit/x.py::test_it")]
    assert program.check_pinned(1) == 1
    said = capsys.readouterr().out
    assert "gone: benchmark/metrics/scores.py softmax" in said
    assert "--pin" in said


def test_every_explanation_is_a_sentence_about_a_file_that_is_there() -> None:
    for place, why in program.explained().items():
        assert (program.trees.ROOT / place.file).exists(), place
        assert len(why) > 20, place
