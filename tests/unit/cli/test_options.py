"""Rule 4: an option of `run` is one dataclass field. `ExtendedRequest` adds one; everything below follows from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import pytest
import typer
from typer.testing import CliRunner

from benchmark.cli.parsing import callback
from benchmark.engine.request import RunRequest, asked
from benchmark.errors import InputError
from benchmark.utils.options import Command, option, words


@dataclass(frozen=True, kw_only=True)
class ExtendedRequest(RunRequest):
    """Evaluate a suite, and crop."""

    crops: int = option(1, "Crops of each image.", minimum=1, kept="asked")


SEEN: list[ExtendedRequest] = []
HANDLER = f"{__name__}:handle"


def handle(request: ExtendedRequest) -> int:
    """What the command calls."""
    SEEN.append(request)
    return 0


@pytest.fixture
def app() -> typer.Typer:
    """A command line with `run` alone."""
    SEEN.clear()
    made = typer.Typer()
    made.command("run")(callback(Command("run", ExtendedRequest, HANDLER)))
    return made


def parsed(app: typer.Typer, arguments: Sequence[str]) -> ExtendedRequest:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0, result.output
    return SEEN[-1]


def test_the_command_line_parses_it(app: typer.Typer) -> None:
    assert parsed(app, []).crops == 1
    assert parsed(app, ["demo", "--crops", "5", "--limit", "20"]) == ExtendedRequest(crops=5, limit=20)
    assert CliRunner().invoke(app, ["--crops", "0"]).exit_code == 2
    assert CliRunner().invoke(app, ["--crops", "many"]).exit_code == 2


def test_help_shows_it_with_its_default(app: typer.Typer) -> None:
    shown = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "160", "NO_COLOR": "1", "TERM": "dumb"}).output
    [line] = [line for line in shown.splitlines() if "--crops" in line]
    assert "Crops of each image." in line
    assert "[default: 1]" in line


def test_the_words_that_repeat_a_run_have_it(app: typer.Typer) -> None:
    assert words(ExtendedRequest(crops=5)) == ["demo", "--crops", "5"]
    assert words(ExtendedRequest()) == ["demo"]
    request = ExtendedRequest(crops=5, models=("demo",), speed=False)
    assert parsed(app, words(request)) == request


def test_records_keep_it() -> None:
    assert asked(ExtendedRequest(crops=5)) == {"suite": "demo", "crops": 5}
    assert asked(ExtendedRequest()) == {"suite": "demo"}


def test_python_has_it() -> None:
    assert ExtendedRequest(crops=5).ray is None
    with pytest.raises(InputError, match="--engine ray"):
        _ = ExtendedRequest(crops=5, address="auto").ray


def test_every_option_of_run_is_declared_in_one_place() -> None:
    """No class of the request repeats a field of another one."""
    places = {
        each.name: [kind.__name__ for kind in RunRequest.__mro__ if each.name in vars(kind).get("__annotations__", {})]
        for each in fields(RunRequest)
    }
    assert {name: found for name, found in places.items() if len(found) != 1} == {}
