"""Run tests on mutants, several at a time, and keep what came out."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import pytest

from tests.mutants import choosing
from tests.mutants.covering import digest
from tests.mutants.mutations import Mutant, Place
from tests.mutants.trees import BROKEN, HOME, ROOT, Limits, Running, Tree

Status = Literal["killed", "timeout", "survived", "uncovered", "lost"]
"""`uncovered`: no quick test runs its lines. `lost`: its tests are not there any more, or could not be started."""

RESULTS = HOME / "results.jsonl"
UNSTARTED = (int(pytest.ExitCode.USAGE_ERROR), int(pytest.ExitCode.NO_TESTS_COLLECTED), BROKEN)
EVERYDAY, PER_SECOND = 25.0, 5.0
"""Seconds that any run may take, and those for each second that its tests took without a mutant."""


@dataclass(frozen=True)
class Job:
    """A mutant and the tests to run, with the seconds they take."""

    mutant: Mutant
    tests: tuple[str, ...]
    seconds: float


@dataclass(frozen=True)
class Result:
    """What came of one mutant: `test` is the one that failed, `digest` of its file then, `tests` how many ran."""

    place: Place
    status: Status
    test: str = ""
    seconds: float = 0.0
    digest: str = ""
    tests: int = 0


class Slot:
    """One copy of the tree, on which one mutant at a time is tested."""

    def __init__(self, name: str) -> None:
        self.tree = Tree.copied(f"tree-{name}")
        self.names, self.killer, self.log = (HOME / f"{what}-{name}" for what in ("chosen", "killer", "log"))
        self.job: Job | None = None
        self.running: Running | None = None
        self.started = 0.0

    def start(self, job: Job) -> None:
        """Write the mutant and run its tests."""
        file = job.mutant.place.file
        self.tree.write(file, job.mutant.applied((ROOT / file).read_bytes()))
        self.names.write_text(json.dumps(job.tests))
        self.killer.unlink(missing_ok=True)
        os.environ[choosing.CHOSEN], os.environ[choosing.KILLER] = str(self.names), str(self.killer)
        cpu = EVERYDAY + PER_SECOND * job.seconds
        self.job, self.started = job, time.monotonic()
        self.running = self.tree.pytest(choosing.arguments(job.tests), Limits(round(cpu), 6 * cpu), self.log)

    def result(self) -> Result | None:
        """The result, once there is one; the tree is then whole again."""
        if self.job is None or self.running is None or not self.running.finished():
            return None
        job, status = self.job, self.running.status
        self.job = self.running = None
        file = job.mutant.place.file
        self.tree.restore(file)
        known: dict[int | None, Status] = {0: "survived", -signal.SIGXCPU: "timeout"}
        if status in UNSTARTED and "ConftestImportFailure" not in self.log.read_text():
            known[status] = "lost"
        test = self.killer.read_text() if self.killer.exists() else ""
        seconds = round(time.monotonic() - self.started, 2)
        return Result(job.mutant.place, known.get(status, "killed"), test, seconds, digest(file), len(job.tests))


def run(jobs: Iterable[Job], processes: int, name: str = "sample") -> Iterator[Result]:
    """The result of each job, as they come; runs of different names may go on at the same time."""
    waiting = list(jobs)[::-1]
    slots = [Slot(f"{name}-{number}") for number in range(min(processes, len(waiting)))]
    try:
        while waiting or any(slot.job for slot in slots):
            for slot in slots:
                if slot.job is not None and (result := slot.result()) is not None:
                    yield result
                if slot.job is None and waiting:
                    slot.start(waiting.pop())
            time.sleep(0.01)
    finally:
        for slot in slots:
            if slot.running is not None:
                slot.running.end()


def keep(result: Result) -> None:
    """Append a result to those of earlier runs."""
    with RESULTS.open("a") as file:
        file.write(json.dumps(asdict(result)) + "\n")


def kept() -> dict[Place, Result]:
    """The results of earlier runs whose file is still the same."""
    if not RESULTS.exists():
        return {}
    rows = [json.loads(line) for line in RESULTS.read_text().splitlines()]
    results = [Result(**{**row, "place": Place(**row["place"])}) for row in rows]
    same = {file: digest(file) for file in {r.place.file for r in results} if (ROOT / file).exists()}
    return {result.place: result for result in results if same.get(result.place.file) == result.digest}


def table(results: Sequence[Result], explained: Mapping[Place, str], room_of: Callable[[str], str]) -> str:
    """The score of each room: killed, timed out or explained, of all."""
    heads = ("room", "mutants", "killed", "timeout", "explained", "survived", "no quick test", "score")
    rows = [list(heads), ["---"] * len(heads)]
    rooms = sorted({room_of(result.place.file) for result in results})
    for room in [*rooms, "all"]:
        own = [result for result in results if room in ("all", room_of(result.place.file))]
        excused = [r for r in own if r.place in explained and r.status in ("survived", "uncovered")]
        count = {
            status: sum(r.status == status for r in own) for status in ("killed", "timeout", "survived", "uncovered")
        }
        for result in excused:
            count[result.status] -= 1
        good = count["killed"] + count["timeout"] + len(excused)
        parts = (count["killed"], count["timeout"], len(excused), count["survived"], count["uncovered"])
        rows.append([f"`{room}`" if room != "all" else room, str(len(own)), *map(str, parts), f"{good / len(own):.0%}"])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def missing_folder() -> Path:
    """The folder of all that is not committed, made where it is missing."""
    HOME.mkdir(exist_ok=True)
    return HOME
