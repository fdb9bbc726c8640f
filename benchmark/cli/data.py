"""`reliquant data check` and `fetch`: what suites need, what is here, and the rest from where it is published."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmark.cli.requests import DataCheckRequest, DataFetchRequest, DataPlace
from benchmark.download.catalogue import catalogue, own_files
from benchmark.download.fetch import Missing, Outcome, fetch, matched
from benchmark.download.items import remembering
from benchmark.download.needs import Needs, is_there, needs
from benchmark.download.schema import Download
from benchmark.download.state import FileState, State, chosen, room, state
from benchmark.download.transfer import connected
from benchmark.download.writing import RESERVE, check_room, free
from benchmark.errors import PARTIAL, InputError
from benchmark.spec.suite import suite_names
from benchmark.utils.files import DATA_VARIABLE
from benchmark.utils.output import out
from benchmark.utils.progress import count, open_progress

MISSING = 1
"""Exit status of `check` when something is missing."""
LISTED = 5
"""Missing files that are listed by name."""


def check(request: DataCheckRequest) -> int:
    """Say what is needed, what is here, and how to get the rest; 1 if something is missing."""
    root, known = _root(request), catalogue(own_files(request.home))
    wanted = needs(request.names, known, request.catalogues)
    with open_progress(request.quiet):
        ask = remembering()
        states = [state(name, root, known, ask=ask) for name in wanted.downloads]
    complete = all(each.complete for each in states) and all(is_there(path, root) for path, _ in wanted.others.values())
    if request.json:
        for about in _as_json(states, wanted, root):
            print(json.dumps(about), file=out())
        return 0 if complete else MISSING
    for each in states:
        _print_state(each, wanted.downloads[each.name])
    for name, (path, purpose) in wanted.others.items():
        where = "found" if is_there(path, root) else "MISSING"
        print(f"{name}: {where} at {path}; it cannot be fetched from here (docs/data.md)" + _indented("for", purpose))
    _print_disk(states, root)
    left = [each.name for each in states if not each.complete]
    if left:
        print(f"Get it: {_command(map(_named, left), request)}")
    return 0 if complete else MISSING


def fetch_data(request: DataFetchRequest) -> int:
    """Get what is missing; 3 if something still is."""
    root, known = _root(request), catalogue(own_files(request.home))
    wanted = needs(request.names, known, request.catalogues)
    with open_progress(request.quiet) as progress:
        ask = remembering()
        asked = [state(name, root, known, request.only, fresh=True, ask=ask) for name in wanted.downloads]
        states = chosen(asked, request.only, known)
        archives = matched(request.from_archive, states)
        open_ones = [each for each in states if not each.complete]
        for each in states:
            if each.own:
                progress.message(f"{each.name}: {each.folder} is there and not from this command; it is left alone")
        itself = _by_itself(open_ones, archives)
        check_room(root, room(itself), ", ".join(each.name for each in open_ones))
    if open_ones:
        _accept(open_ones, request, needed=any(each.missing for each in itself))
    with open_progress(request.quiet), connected() as network:
        outcomes = [
            fetch(each.name, root, known, request.only, archives.get(each.name), network, ask)
            for each in states
            if not each.complete
        ]
    for outcome in outcomes:
        _print_outcome(outcome, request)
    if not request.json:
        _print_end(outcomes, states, wanted, root)
    return PARTIAL if any(each.missing for each in outcomes) else 0


def _root(request: DataPlace) -> Path:
    if request.to is None or not str(request.to).strip():
        raise InputError("no folder for data: set RELIQUANT_DATA to one, or give --to FOLDER")
    root = request.to.expanduser().absolute()
    if root.exists() and not root.is_dir():
        raise InputError(f"--to {root}: is a file; give a folder")
    return root


def _by_itself(states: Sequence[State], archives: dict[str, dict[str, Path]]) -> list[State]:
    """The states without the files that only the user can get, and has not given."""
    return [
        State(
            each.name,
            each.download,
            each.root,
            tuple(f for f in each.files if not f.item.by_hand or f.item.name in archives.get(each.name, {})),
        )
        for each in states
    ]


def _accept(states: Sequence[State], request: DataFetchRequest, needed: bool) -> None:
    """Show the terms, and ask whether they are accepted where nobody has said so.

    Args:
        needed: whether anything will be fetched, rather than told how to get it by hand.

    Raises:
        InputError: nobody can be asked, or the answer is no.
    """
    for each in states:
        lines = [f"{each.name}: {_amount(each)} to {each.folder}", f"  terms: {_terms(each.download)}"]
        print("\n".join(lines), file=sys.stderr)
    if request.yes or not needed:
        return
    if not _can_ask():
        command = _command(request.names, request, True)
        raise InputError(f"the terms above must be accepted, and nobody can be asked here; accept them with: {command}")
    print("Fetch under these terms? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise InputError("the terms were not accepted; nothing was fetched")


def _can_ask() -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty()


def _terms(download: Download) -> str:
    return " ".join(part for part in (download.terms, download.terms_url and f"({download.terms_url})") if part)


def _amount(each: State) -> str:
    if each.to_fetch is not None:
        return f"{count(each.to_fetch, 'B')} to fetch"
    known = sum(file.to_fetch or 0 for file in each.missing)
    return f"{count(known, 'B')} to fetch, and files of unknown size" if known else "unknown size to fetch"


def _print_state(each: State, purposes: Sequence[str]) -> None:
    if each.own:
        print(f"{each.name}: here, put into {each.folder} by yourself (not checked)")
        return
    here = sum(file.status == "here" for file in each.files)
    if each.complete:
        print(f"{each.name}: here ({_files(here)}, {each.folder})")
        return
    print(f"{each.name}: {here} of {len(each.files)} files here, {_amount(each)}")
    lines = [("what", each.download.about)]
    lines += [("for", "; ".join(purpose for purpose in purposes if purpose))]
    lines += [("missing", _file(file)) for file in each.missing[:LISTED]]
    if len(each.missing) > LISTED:
        lines += [("", f"and {len(each.missing) - LISTED} more")]
    lines += [("terms", _terms(each.download)), ("to", str(each.folder))]
    print("".join(_indented(*line) for line in lines if line[1]).lstrip("\n"))


def _files(number: int) -> str:
    return f"{number:,} file" + ("" if number == 1 else "s")


def _file(file: FileState) -> str:
    size = "unknown size" if file.item.sums.bytes is None else count(file.item.sums.bytes, "B")
    if file.status == "unknown":
        return f"{file.item.name}: {file.item.problem}"
    about = {"partial": f", {count(file.here, 'B')} of it here", "by hand": ", by hand"}.get(file.status, "")
    about += ", no sum published" if file.item.sums.best is None else ""
    return f"{file.item.name} ({size}{about})"


def _indented(label: str, text: str) -> str:
    return f"\n  {label:<8} {text}"


def _print_disk(states: Sequence[State], root: Path) -> None:
    needed, there = room(states), free(root)
    if not needed:
        print(f"{root}: {count(there, 'B')} free")
        return
    least = "at least " if any(file.item.sums.bytes is None for each in states for file in each.missing) else ""
    enough = "" if needed + RESERVE <= there else ": NOT ENOUGH"
    print(f"{root}: {count(there, 'B')} free, {least}{count(needed, 'B')} needed{enough}")


def _named(download: str) -> str:
    """The name of a download as an argument: where a suite has the same, the download is said to be meant."""
    return f"data:{download}" if download in suite_names() else download


def _command(names: Iterable[str], request: DataPlace, yes: bool = False) -> str:
    words = ["reliquant", "data", "fetch", *names, "--to", str(request.to)]
    if isinstance(request, DataFetchRequest):
        words += [word for name in request.only for word in ("--only", name)]
        words += [word for path in request.from_archive for word in ("--from-archive", str(path))]
    words += [word for path in request.catalogues for word in ("--catalogue", str(path))]
    return shlex.join([*words, *(["--yes"] if yes else [])])


def _as_json(states: Sequence[State], wanted: Needs, root: Path) -> Iterator[dict[str, Any]]:
    there = free(root)
    for each in states:
        files = [
            {"file": f.item.name, "status": f.status, "bytes": f.item.sums.bytes, "to_fetch": f.to_fetch}
            for f in each.files
        ]
        yield {
            **{"download": each.name, "complete": each.complete, "own": each.own, "files": files},
            **{"bytes_to_fetch": 0 if each.complete else each.to_fetch, "bytes_needed": room([each])},
            **{"bytes_free": there, "folder": str(each.folder), "provides": list(each.download.provides)},
            **{"for": [purpose for purpose in wanted.downloads[each.name] if purpose]},
            **{"terms": each.download.terms, "terms_url": each.download.terms_url},
        }
    for name, (path, purpose) in wanted.others.items():
        yield {"data": name, "complete": is_there(path, root), "path": path, "for": [purpose]}


def _print_outcome(outcome: Outcome, request: DataFetchRequest) -> None:
    each = outcome.state
    if request.json:
        left = [
            {"file": m.item.name, "why": list(m.why), "by_hand": [s.shown for s in m.by_hand]} for m in outcome.missing
        ]
        about = {"download": each.name, "folder": str(each.folder), "got": list(outcome.got), "missing": left}
        print(json.dumps(about), file=out())
        return
    if not outcome.missing:
        print(f"{each.name}: here ({_files(len(each.files))}, {each.folder})")
    for file in each.files:
        if file.item.name in outcome.got and file.item.sums.best is None:
            print(f"{each.name}: {file.item.name}: not verified: {file.item.unverified or 'no sum is known'}")
    for missing in outcome.missing:
        _print_missing(missing, each, request)


def _print_missing(missing: Missing, each: State, request: DataFetchRequest) -> None:
    item = missing.item
    for why in missing.why:
        print(f"{each.name}: {item.name}: {why}", file=sys.stderr)
    if not missing.by_hand:
        return
    size = "size not published" if item.sums.bytes is None else f"{item.sums.bytes:,} bytes"
    file = item.name.rpartition("/")[2]
    words = ["reliquant", "data", "fetch", _named(each.name), "--to", str(request.to), "--from-archive", file]
    lines = [*(("from", source.shown) for source in missing.by_hand), ("is", f"{size}, {item.sums.shown}")]
    lines += [("note", f"not verified: {item.unverified}")] if item.unverified else []
    lines += [("then", shlex.join(words)), ("or", f"put it into {each.folder}, under this name, and fetch again")]
    print(f"{each.name}: {item.name} has to be got by hand" + "".join(_indented(*line) for line in lines))


def _print_end(outcomes: Sequence[Outcome], states: Sequence[State], wanted: Needs, root: Path) -> None:
    if not outcomes:
        print(f"nothing to fetch, all of it is here: {', '.join(each.name for each in states) or 'no download'}")
    if os.environ.get(DATA_VARIABLE) != str(root):
        print(f"Suites look for data in {DATA_VARIABLE}: export {DATA_VARIABLE}={shlex.quote(str(root))}")
    for name, (path, _) in wanted.others.items():
        if not is_there(path, root):
            print(f"{name}: cannot be fetched from here; suites read it at {path} (docs/data.md)")
