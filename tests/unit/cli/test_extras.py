"""Without any extra everything lists, helps and runs; what needs an extra asks for it in one line."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from benchmark.cli.app import app
from tests.docs.markdown import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
MODULES = {"optuna-dashboard": "optuna_dashboard"}
"""Distributions whose module has another name."""


def distributions(extra: str) -> set[str]:
    return {re.split(r"[\[<>=;! ]", each)[0] for each in EXTRAS[extra]}


ABSENT = sorted({MODULES.get(name, name) for extra in EXTRAS if extra != "all" for name in distributions(extra)})
WITHOUT = f"""
import sys
from importlib.machinery import PathFinder

class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        absent = name.partition(".")[0] in {[*ABSENT, "bitsandbytes"]}
        return None if absent else PathFinder.find_spec(name, path, target)

sys.meta_path = [Without if each is PathFinder else each for each in sys.meta_path]
from benchmark.cli import main
"""
"""Python in which no extra is installed, and no bitsandbytes, as on a machine that has no wheel of it."""


def reliquant(folder: Path, *commands: tuple[str, ...]) -> list[tuple[int, str, str]]:
    """Commands in a process of its own without the extras: statuses, stdout, stderr."""
    code = f"""{WITHOUT}
import contextlib, io, json
for words in {commands!r}:
    sys.argv, out, err, status = ["reliquant", *words], io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as ended:
            status = ended.code or 0
    print(json.dumps([status, out.getvalue(), err.getvalue()]), file=sys.__stdout__)
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120"}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return [tuple(json.loads(line)) for line in result.stdout.splitlines()]


def test_all_is_all_of_them() -> None:
    [everything] = EXTRAS["all"]
    assert everything == f"reliquant[{','.join(sorted(EXTRAS.keys() - {'all'}))}]"


def test_every_extra_is_pinned() -> None:
    pinned = {line.partition("==")[0] for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()}
    assert {name for extra in EXTRAS if extra != "all" for name in distributions(extra)} <= pinned


def test_what_the_messages_offer_exists() -> None:
    asked = {
        extra
        for package in ("benchmark", "tasks", "trackers", "search")
        for path in (ROOT / package).rglob("*.py")
        for found in re.findall(r"reliquant\[([\w,-]+)\]", path.read_text(encoding="utf-8"))
        for extra in found.split(",")
    }
    assert asked <= EXTRAS.keys()
    assert {"ray", "search-ui", "testing", "torchao", "transformers"} <= asked


def test_lists_and_help_need_no_extra(tmp_path: Path) -> None:
    lists = [("list", what) for what in ("tasks", "quantizers", "models", "data", "suites")]
    helps = [(*each.name.split(), "--help") for each in app.registered_commands if each.name]
    new = [("new", kind, "--help") for kind in ("task", "quantizer", "source")]
    for words, (status, out, err) in zip(
        [*lists, *helps, *new, ("--help",)], reliquant(tmp_path, *lists, *helps, *new, ("--help",)), strict=True
    ):
        assert (status, err) == (0, ""), words
        assert out, words


SMALL = ("--limit", "12", "--task", "zero_shot", "--no-speed", "--tracker", "jsonl")
IN_ONE_LINE = {
    ("run", "demo", "--quant", "bnb-nf4-vision", *SMALL): "bnb-nf4: bitsandbytes is not installed",
    ("run", "demo", "--quant", "torchao-int8wo-vision", *SMALL): "pip install 'reliquant[torchao]'",
    ("run", "demo", "--quant", "rtn-w4-vision", "--engine", "ray", *SMALL): "pip install 'reliquant[ray]'",
    ("dashboard",): "pip install 'reliquant[search-ui]'",
}


def test_what_needs_one_asks_for_it_in_one_line(tmp_path: Path) -> None:
    answers = reliquant(tmp_path, *IN_ONE_LINE)
    for (words, says), (status, _, err) in zip(IN_ONE_LINE.items(), answers, strict=True):
        assert status == 2, (words, err)
        assert err.startswith("reliquant: error: "), words
        assert says in err, words
        assert err.count("\n") == 1, err


def test_a_run_needs_none_and_a_scaffold_names_what_its_test_needs(tmp_path: Path) -> None:
    run = ("run", "demo", "--quant", "rtn-w4-vision", *SMALL)
    (status, out, err), new = reliquant(tmp_path, run, ("new", "task", "blind_spot"))
    assert status == 0, err
    assert "4 evaluations: 4 computed" in out
    assert new[:2] == (
        0,
        "wrote blind_spot.py\nwrote test_blind_spot.py\nwrote blind_spot.yaml\nnext:\n"
        "  pip install 'reliquant[testing]'\n  pytest test_blind_spot.py\n"
        "  reliquant run blind_spot.yaml --include blind_spot.py\n",
    )


@pytest.mark.parametrize(
    ("system", "machine", "wanted"),
    [("darwin", "x86_64", False), ("darwin", "arm64", True), ("linux", "x86_64", True), ("win32", "AMD64", True)],
)
def test_bitsandbytes_is_asked_for_where_it_has_a_wheel(system: str, machine: str, wanted: bool) -> None:
    from packaging.requirements import Requirement

    [needed] = [r for line in PROJECT["dependencies"] if (r := Requirement(line)).name == "bitsandbytes"]
    assert needed.marker is not None
    assert needed.marker.evaluate({"sys_platform": system, "platform_machine": machine}) is wanted
