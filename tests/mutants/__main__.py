"""Mutation testing: small changes of the code, each of which a quick test must notice. See docs/testing.md.

python -m tests.mutants [--room ROOM ...] [--sample N] [--processes N]   the sample: table, survivors
python -m tests.mutants --pinned                                        CI's thirty
python -m tests.mutants --pin                                           choose them anew from the last results
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.mutants import covering, running, trees
from tests.mutants.choosing import chosen
from tests.mutants.covering import ROOMS, Test
from tests.mutants.mutations import Mutant, Place, mutants, rank
from tests.mutants.running import Job, Result

SEED, SAMPLE, LEAST = 2024, 300, 30
"""The sample: so many mutants in all, at least so many of each room, otherwise by the rooms' sizes."""

PINNED_SECONDS = 15.0
FOLDER = Path(__file__).parent
EXPLAINED, PINNED = FOLDER / "explained.toml", FOLDER / "pinned.toml"
HEAD = "# Written by `python -m tests.mutants --pin`: mutants that CI tries, and the test that kills each.\n"


def main() -> None:
    """Run what is asked for; exit status 1 where a pinned mutant survives or is gone."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--room", nargs="+", choices=ROOMS, default=list(ROOMS))
    parser.add_argument("--sample", type=int, default=SAMPLE)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--tests", nargs="+", default=list(covering.TESTS))
    parser.add_argument("--pinned", action="store_true")
    parser.add_argument("--pin", type=int, nargs="?", const=30)
    asked = parser.parse_args()
    running.missing_folder()
    if asked.pin:
        pin(asked.pin)
        return
    trees.preload()
    if asked.pinned:
        sys.exit(check_pinned(asked.processes))
    report(score(sample(asked.room, asked.sample), asked.tests, asked.processes))


def room_of(file: str) -> str:
    """The room that a file lies in."""
    return next(room for room in ROOMS if file.startswith(f"{room}/"))


def sample(rooms: Sequence[str], size: int) -> list[Mutant]:
    """The fixed sample of these rooms: of each the first in `rank`, which other rooms' mutants do not change."""
    bytes_of = {room: sum(path.stat().st_size for path in (trees.ROOT / room).rglob("*.py")) for room in ROOMS}
    even = LEAST * len(ROOMS) / SAMPLE
    found: list[Mutant] = []
    for room in rooms:
        wanted = round(size * (even / len(ROOMS) + (1 - even) * bytes_of[room] / sum(bytes_of.values())))
        every = [m for file in covering.sources() if room_of(file) == room for m in mutants(trees.ROOT, file)]
        ordered = iter(sorted(every, key=lambda mutant: rank(SEED, mutant.place)))
        valid = (m for m in ordered if m.compiles((trees.ROOT / m.place.file).read_bytes()))
        found += [mutant for mutant, _ in zip(valid, range(wanted), strict=False)]
    return found


def score(drawn: Sequence[Mutant], places: Sequence[str], processes: int) -> list[Result]:
    """The result of each mutant: from earlier runs where its file is the same and a test killed it, else run now."""
    tests = covering.collect(places)
    known = running.kept()
    results = [known[m.place] for m in drawn if m.place in known and known[m.place].status in ("killed", "timeout")]
    done = {result.place for result in results}
    jobs = [job(mutant, tests) for mutant in drawn if mutant.place not in done]
    results += [Result(each.mutant.place, "uncovered") for each in jobs if not each.tests]
    jobs = [each for each in jobs if each.tests]
    for number, result in enumerate(running.run(jobs, processes), 1):
        if result.status == "lost":
            sys.exit(f"its tests could not be run (see {trees.HOME}/log-*): {result.place}")
        running.keep(result)
        results.append(result)
        print(
            f"{number}/{len(jobs)} {result.status} {result.seconds} s, {result.tests} tests: {result.place}", flush=True
        )
    return results


def job(mutant: Mutant, tests: Sequence[Test]) -> Job:
    """A mutant with its tests."""
    own = chosen(mutant, tests)
    return Job(mutant, tuple(test.name for test in own), sum(test.seconds for test in own))


def explained() -> dict[Place, str]:
    """Mutants that no test can or should notice -> why."""
    rows = tomllib.loads(EXPLAINED.read_text()).get("mutant", []) if EXPLAINED.exists() else []
    return {Place(**{key: value for key, value in row.items() if key != "why"}): row["why"] for row in rows}


def report(results: Sequence[Result]) -> None:
    """Survivors, then the table."""
    known = explained()
    for result in sorted(results, key=lambda result: result.place):
        if result.status in ("survived", "uncovered") and result.place not in known:
            print(f"{result.status}: {result.place}")
    print(running.table(results, known, room_of))


def pinned() -> list[tuple[Place, str]]:
    """The pinned mutants with the tests that kill them."""
    rows = tomllib.loads(PINNED.read_text())["mutant"]
    return [(Place(**{key: value for key, value in row.items() if key != "test"}), row["test"]) for row in rows]


def check_pinned(processes: int) -> int:
    """Try the pinned mutants, each on its own test; answers the exit status."""
    wanted = pinned()
    files = sorted({place.file for place, _ in wanted})
    found = {m.place: m for file in files if (trees.ROOT / file).exists() for m in mutants(trees.ROOT, file)}
    problems = [f"gone: {place}" for place, _ in wanted if place not in found]
    jobs = [Job(found[place], (test,), 0.0) for place, test in wanted if place in found]
    for result in running.run(jobs, processes, "pinned"):
        if result.status not in ("killed", "timeout"):
            problems += [f"{result.status}, by {dict(wanted)[result.place]}: {result.place}"]
    for problem in problems:
        print(problem)
    if problems:
        print(
            "Where the code was changed on purpose, choose again: `make mutants`, then `python -m tests.mutants --pin`."
        )
    print(f"{len(wanted) - len(problems)} of {len(wanted)} pinned mutants are killed")
    return int(bool(problems))


def pin(count: int) -> None:
    """Choose pinned mutants among those that a fast test killed: of each room the same number, by `rank`."""
    quick = [r for r in running.kept().values() if r.status == "killed" and r.test and r.seconds <= PINNED_SECONDS]
    chosen_by_room: Mapping[str, list[Result]] = {room: [] for room in ROOMS}
    for result in sorted(quick, key=lambda result: rank(SEED, result.place)):
        chosen_by_room[room_of(result.place.file)].append(result)
    turns = [own[turn] for turn in range(count) for own in chosen_by_room.values() if turn < len(own)][:count]
    PINNED.write_text(
        HEAD + "".join(entry(result.place, "test", result.test) for result in sorted(turns, key=lambda r: r.place))
    )
    print(f"{PINNED}: {len(turns)} mutants")


def entry(place: Place, key: str, value: str) -> str:
    """A place in TOML, with one more field."""
    fields = {"file": place.file, "function": place.function, "was": place.was, "becomes": place.becomes}
    lines = [f"{name} = {json.dumps(text, ensure_ascii=False)}" for name, text in {**fields, key: value}.items()]
    return "\n[[mutant]]\n" + "\n".join([*lines, *[f"nth = {place.nth}"] * bool(place.nth)]) + "\n"


if __name__ == "__main__":
    main()
