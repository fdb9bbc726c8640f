"""The terminal: 80 columns, colours, completion, versions, JSON lines."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from benchmark.cli import completion
from benchmark.cli.app import app
from benchmark.cli.tables import print_table
from benchmark.results.tables import Cell, TableRow
from benchmark.utils import progress
from benchmark.utils.progress import Terminal
from tests.report_home import NF4, W4, W8, write_home
from tests.unit.cli.test_printing import demo_plan
from tests.unit.trackers.test_trackers import finished
from trackers.mlflow import MLflowTracker

COLOUR = re.compile(r"\x1b\[[0-9;]*(?:3[0-9]|4[0-9]|9[0-7])[0-9;]*m")


@pytest.mark.parametrize("what", ["tasks", "quantizers", "models", "data", "suites"])
def test_listings_fit_80_columns(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    result = CliRunner().invoke(app, ["list", what])
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert max(len(line.rstrip()) for line in lines) <= 80
    assert "…" not in result.stdout
    assert len(lines) > 3


def test_a_quantizer_is_told_with_paper_options_defaults_and_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    told = CliRunner().invoke(app, ["list", "quantizers"]).stdout
    blocks = {block.split()[0]: " ".join(block.split()) for block in re.split(r"\n(?=\S)", told)}
    for part in (
        "Frantar et al. 2023, arXiv 2210.17323",
        "wBITS aBITS channel|tensor gSIZE token|tensor asym actasym",
        "options damp_0.01 actorder_false damp: share of the mean diagonal",
        "runs on CPU, CUDA: simulated; needs calibration data",
    ):
        assert part in blocks["gptq"]
    assert "options rank_VALUE rank: number" in blocks["control-lowrank"]
    assert "options" not in blocks["rtn"]
    assert "tokens skip_PATTERN vision|text|vision+text runs on CPU, CUDA: real kernels" in blocks["torchao-int8wo"]


def test_the_listed_options_are_tokens_of_a_short_name() -> None:
    """Each method's defaults, written as the listing shows them, parse back to them."""
    from benchmark.quantization import parse, quantizers

    rows = map(json.loads, CliRunner().invoke(app, ["list", "quantizers", "--json"]).stdout.splitlines())
    seen = 0
    for row in rows:
        given = {name: value for name, value in row["options"].items() if value is not None}
        if row["quantizer"].startswith(("fp32", "control")) or not given:
            continue
        bits = ["w4"] if "weight_bits" in row["fields"] else []
        tokens = [f"{n}_{str(value).lower() if isinstance(value, bool) else value}" for n, value in given.items()]
        method = quantizers.get(row["quantizer"])
        spec = parse("-".join([row["quantizer"], *bits, *tokens]))
        method.check(spec)
        assert method.read_options(spec, method.options) == method.options()
        seen += 1
    assert seen > 6


def test_what_validate_says_of_the_demo_fits_80_columns_and_machines_get_json() -> None:
    assert max(map(len, CliRunner().invoke(app, ["validate", "demo"]).stdout.splitlines())) <= 80
    found = json.loads(CliRunner().invoke(app, ["validate", "demo", "--json"]).stdout)
    assert (found["suite"], found["configurations"], found["missing"]) == ("demo", 8, [])
    assert CliRunner().invoke(app, ["validate", "demo", "--quiet"]).output == ""


def table(capsys: pytest.CaptureFixture[str]) -> str:
    """The table of a run with one change for the worse, as it is printed."""
    plan = demo_plan()
    key = plan.suite.headline[0]
    print_table(
        [TableRow("demo", c.quant.name, {key: Cell(0.5, -0.1, "higher")}) for c in plan.configurations], [key], {}, plan
    )
    return capsys.readouterr().out


def test_colours_are_for_terminals_and_off_with_no_color(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    assert "\x1b" not in table(capsys)
    monkeypatch.setenv("FORCE_COLOR", "1")  # as in a terminal
    monkeypatch.setenv("TERM", "xterm-256color")
    assert COLOUR.search(table(capsys))
    monkeypatch.setenv("NO_COLOR", "1")
    assert not COLOUR.search(table(capsys))


def coloured(words: list[str], **environment: str) -> str:
    """What a command prints in a process of its own where colours are forced, as in a terminal."""
    kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
    return subprocess.run(
        [sys.executable, "-m", "benchmark", *words],
        env={**kept, "FORCE_COLOR": "1", "TERM": "xterm-256color", "COLUMNS": "80", **environment},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    ).stdout


@pytest.mark.parametrize("words", [["--help"], ["show", W4, "--suite", "small"]], ids=" ".join)
def test_no_color_holds_for_help_and_show(words: list[str], tmp_path: Path) -> None:
    write_home(tmp_path)
    words = words if words == ["--help"] else [*words, "--home", str(tmp_path)]
    assert COLOUR.search(coloured(words))
    assert not COLOUR.search(coloured(words, NO_COLOR="1"))


def test_no_color_holds_for_the_bars(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, setting in (("FORCE_COLOR", "1"), ("TERM", "xterm-256color"), ("COLUMNS", "80")):
        monkeypatch.setenv(name, setting)

    def bars() -> str:
        with Terminal() as terminal, terminal.phase("embed", 2) as advance:
            advance(1)
        return capsys.readouterr().err

    assert COLOUR.search(bars())
    monkeypatch.setenv("NO_COLOR", "1")
    assert not COLOUR.search(found := bars())
    assert "embed" in found


def test_a_quiet_run_says_nothing_but_its_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SHORT", 0.0)  # every phase gets its line
    words = ["run", "demo", "--quant", "rtn-w8a8-vision", "--task", "zero_shot", "--limit", "6", "--no-speed"]
    words += ["--tracker", "jsonl", "--home"]
    loud = CliRunner().invoke(app, [*words, str(tmp_path / "loud")])
    quiet = CliRunner().invoke(app, [*words, str(tmp_path / "quiet"), "--quiet"])
    assert (loud.exit_code, quiet.exit_code) == (0, 0)
    assert re.search(r"^pixels scenes: 6 in ", loud.stderr, re.MULTILINE)
    assert quiet.stderr == ""
    assert quiet.stdout.replace(str(tmp_path / "quiet"), str(tmp_path / "loud")) == loud.stdout


def started(words: list[str], monkeypatch: pytest.MonkeyPatch) -> tuple[Result, list[str]]:
    """The command `reliquant ui ...`, and the server's command line that takes its place."""
    became: list[list[str]] = []

    def become(_: str, command: list[str], __: object = None) -> None:
        became.append(command)
        raise SystemExit

    monkeypatch.setattr(os, "execve", become)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return CliRunner().invoke(app, ["ui", *words]), [word for command in became for word in command]


@pytest.mark.filterwarnings("ignore")  # MLflow's and SQLAlchemy's own deprecations
def test_a_server_that_others_can_reach_is_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    MLflowTracker().open(tmp_path).log(finished("seen"))
    for host, warned in (("127.0.0.1", False), ("0.0.0.0", True)):
        result, command = started(["--home", str(tmp_path), "--port", str(free_port()), "--host", host], monkeypatch)
        assert command[command.index("--host") + 1] == host
        assert ("no authentication and will be open to everybody who reaches 0.0.0.0" in result.stderr) == warned
    refused = CliRunner().invoke(app, ["dashboard", "--home", str(tmp_path), "--host", "0.0.0.0"])
    assert "has no authentication and serves this machine only" in str(refused.exception)


def complete(words: str) -> tuple[list[str], set[str]]:
    """What bash is offered for the last word, and which heavy packages were imported for it."""
    code = (
        "import sys, atexit\n"
        "heavy = ('torch', 'mlflow', 'open_clip', 'optuna', 'scipy', 'pandas')\n"
        "atexit.register(lambda: print(*(m for m in heavy if m in sys.modules), file=sys.stderr))\n"
        "from benchmark.cli.app import app\n"
        "sys.argv = ['reliquant']\n"
        "app(prog_name='reliquant')"
    )
    given = words.split(" ")
    environment = {
        **os.environ,
        "_RELIQUANT_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(given) - 1),
    }
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    return result.stdout.split(), set(result.stderr.split())


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("reliquant run d", {"demo", "deploy"}),
        ("reliquant run demo --quant rtn-w8", {"rtn-w8a8-vision"}),
        ("reliquant run demo --task zero", {"zero_shot"}),
        ("reliquant run demo --model ViT-B-32/o", {"ViT-B-32/openai"}),
        ("reliquant list mo", {"models"}),
    ],
)
def test_the_shell_completes_without_heavy_imports(words: str, expected: set[str]) -> None:
    offered, heavy = complete(words)
    assert set(offered) == expected
    assert heavy == set()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("show bnb", {NF4}),
        ("compare rtn-w", {W4, W8}),
        ("compare bnb-nf4-vision rtn-w4", {W4}),
        ("report s", {"small"}),
        ("report --suite s", {"small"}),
        ("report r", {W4, W8}),
        ("export rtn-w4", {W4}),
        ("export gptq-w8", {"gptq-w8a8-vision"}),
        ("export rtn-w4 --suite d", {"demo", "deploy"}),
    ],
)
def test_the_shell_completes_what_the_results_folder_has(
    words: str, expected: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_home(tmp_path)
    monkeypatch.setenv("RELIQUANT_HOME", str(tmp_path))
    assert complete(f"reliquant {words}") == (sorted(expected), set())


def test_the_shell_completes_from_the_folder_of_the_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_home(tmp_path)
    monkeypatch.delenv("RELIQUANT_HOME", raising=False)
    assert complete(f"reliquant show --home {tmp_path} bnb") == ([NF4], set())
    assert complete(f"reliquant show --home {tmp_path / 'none'} bnb") == ([], set())


@pytest.mark.parametrize("words", [["show", W4, "--suite", "small"], ["report", "small", "-o", "OUT"]], ids=" ".join)
def test_show_and_report_tell_how_far_they_are(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_home(tmp_path)
    monkeypatch.setattr(progress, "SHORT", 0.0)
    words = [str(tmp_path / "page.html") if word == "OUT" else word for word in words]
    loud, quiet = (CliRunner().invoke(app, [*words, "--home", str(tmp_path), *more]) for more in ([], ["--quiet"]))
    assert (loud.exit_code, quiet.exit_code, quiet.stderr) == (0, 0, "")
    assert re.search(r"^compare: 18 in ", loud.stderr, re.MULTILINE)
    assert ("draw the page: 1 in " in loud.stderr) == (words[0] == "report")
    assert loud.stdout == quiet.stdout


def test_completions_know_what_is_installed() -> None:
    from benchmark.plugins import tasks
    from benchmark.quantization import parse, quantizers
    from benchmark.spec.suite import suite_names

    assert completion.suites("") == suite_names()
    assert completion.tasks("") == tasks.names()
    assert completion.methods("") == quantizers.names()
    assert {"demo", "ViT-L-14/", "transformers:kakaobrain/align-base"} <= set(completion.models(""))
    for name in completion.quantizations("gptq-"):
        assert parse(name).method == "gptq"
    assert completion.quantizations("bnb-nf4-") == ["bnb-nf4-vision"]


def test_the_version_is_the_installed_one() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert result.stdout.split() == ["reliquant", importlib.metadata.version("reliquant")]


def test_all_versions_are_one_line_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """In either order of the two options; an extra that is not installed is said."""
    needed = ["torch>=2", "bitsandbytes; sys_platform != 'darwin'"]
    needed += ['typer>=0.1; extra == "two"', "rich; extra == 'two'", 'no-such-thing<2; extra == "one"']
    monkeypatch.setattr("benchmark.cli.versions.requires", lambda name: [*needed, 'reliquant[one,two]; extra == "all"'])
    out = CliRunner().invoke(app, ["--version", "--verbose"]).stdout
    lines = dict(line.rsplit(" ", 1) if not line.startswith("extra") else line.split(": ") for line in out.splitlines())
    for name in ("reliquant", "torch", "bitsandbytes"):
        assert lines[name] == importlib.metadata.version(name)
    assert f"Python {platform.python_version()} on " in out
    assert lines["extra one"] == "no-such-thing not installed"
    typed, drawn = (importlib.metadata.version(name) for name in ("typer", "rich"))
    assert lines["extra two"] == f"typer {typed}, rich {drawn}"
    assert len(lines) == len(out.splitlines()) == 6
    assert CliRunner().invoke(app, ["--verbose", "--version"]).stdout == out


def test_the_versions_that_bug_reports_need_are_among_them() -> None:
    project = tomllib.loads((Path(__file__).resolve().parents[3] / "pyproject.toml").read_text())["project"]
    assert {"torch", "open_clip_torch", "mlflow", "optuna", "bitsandbytes"} <= {
        re.split(r"[<>=; ]", line)[0] for line in project["dependencies"]
    }


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_browser_is_opened_when_the_server_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmark.errors import InputError
    from benchmark.utils.browser import open_later

    opened = tmp_path / "opened"
    script = tmp_path / "browser"
    script.write_text(f'#!/bin/sh\nprintf "%s" "$1" > {opened}\n')
    script.chmod(0o755)
    monkeypatch.setenv("BROWSER", f"{script} %s")
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        assert open_later("127.0.0.1", port, f"http://127.0.0.1:{port}/#/x?a=b").wait(60) == 0
    assert opened.read_text() == f"http://127.0.0.1:{port}/#/x?a=b"
    with pytest.raises(InputError, match=r"127\.0\.0\.1 only"):
        open_later("0.0.0.0", port, "http://x")
