"""Checks and runs what the documentation shows: commands of the shell, Python, suites in YAML."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer.main
import yaml

from benchmark.cli.app import app, main
from benchmark.engine.plan import check_suite
from benchmark.spec import SuiteSpec, parse_spec
from benchmark.spec.suite import load_suite
from tests.docs.markdown import ROOT, Block, commands
from tests.registries import restored

STAND_INS = {"ViT-B-32/laion2b_s34b_b79k": "demo"}
"""Models that the docs name and a machine without a network lacks -> the model that is run in their place."""

SMALL: Mapping[str, Sequence[str]] = {
    "run": ("--limit", "20", "--no-speed", "--tracker", "jsonl"),
    "search": ("--limit", "20", "--trials", "5", "--no-tracking"),
    "spectrum": ("--limit", "20"),
    "export": ("--limit", "20"),
    "sensitivity": ("--limit", "20", "--tracker", "jsonl"),
    "artifact": ("--limit", "20"),
}
"""Options that are added to a command; of two the last one counts. MLflow's figures would take most of the time."""

OUTSIDE = {
    "git",
    "ray",
    "sbatch",
    "srun",
    "ssh",
    "rsync",
    "scp",
    "docker",
    "curl",
    "mlflow",
    "huggingface-cli",
    "hf",
    "psql",
}
"""Programs that only blocks that are not run may call."""

EXTRAS = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


class DocsError(AssertionError):
    """Something in the documentation is wrong."""


def check_command(words: Sequence[str]) -> None:
    """What can be known of a command without running it.

    Raises:
        DocsError: an unknown subcommand, option, make target, extra, module, file or program.
    """
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    program, *rest = words or [""]
    name = Path(program).name
    if name == "reliquant":
        check_reliquant(rest)
    elif name == "make":
        for target in [word for word in rest if "=" not in word and not word.startswith("-")]:
            if target not in TARGETS:
                raise DocsError(f"make {target}: no such target")
    elif name in ("python", "python3"):
        check_python(rest)
    elif name in ("pip", "uv", "pipx"):
        check_extras(" ".join(rest))
    elif name == "pytest":
        for path in [word for word in rest if word.startswith("tests/")]:
            if not (ROOT / path).exists():
                raise DocsError(f"pytest {path}: no such file")
    elif name not in {*OUTSIDE, ".", "source", "cd", "export", "mkdir", "echo", ""}:
        raise DocsError(f"{program}: neither run nor known")


def check_reliquant(arguments: Sequence[str], partial: bool = False) -> None:
    """The subcommand exists and takes these options and arguments; `partial`: more arguments may be needed."""
    command: Any = typer.main.get_command(app)
    rest, parent = list(arguments), None
    try:
        while hasattr(command, "commands") and (rest or not partial):
            if rest and rest[0] in {option for each in command.params for option in each.opts} | {"--help"}:
                return  # an option of the program or of a group of commands, e.g. --version
            parent = command.make_context("reliquant", [], parent=parent, resilient_parsing=True)
            _, command, rest = command.resolve_command(parent, rest)
        if "--help" not in rest and not hasattr(command, "commands"):
            command.make_context(command.name, rest, parent=parent)
    except Exception as error:  # the parser's own exceptions
        if partial and type(error).__name__ == "MissingParameter":
            return
        message = getattr(error, "message", None) or str(error) or type(error).__name__
        raise DocsError(f"reliquant {' '.join(arguments)}: {message}") from None


def check_python(arguments: Sequence[str]) -> None:
    """`-m MODULE` can be found, FILE exists."""
    if arguments[:1] == ["-m"]:
        if not (ROOT / Path(*arguments[1].split("."))).exists() and importlib.util.find_spec(arguments[1]) is None:
            raise DocsError(f"python -m {arguments[1]}: no such module")
    elif arguments and not arguments[0].startswith("-") and not (ROOT / arguments[0]).is_file():
        raise DocsError(f"python {arguments[0]}: no such file")


def check_extras(text: str) -> None:
    """Each `reliquant[EXTRA]` names an extra of pyproject."""
    for found in re.findall(r"reliquant\[([^\]]*)\]|(?<!\w)\.\[([^\]]*)\]", text):
        for extra in (found[0] or found[1]).split(","):
            if extra.strip() not in EXTRAS:
                raise DocsError(f"extra '{extra.strip()}': there is {', '.join(sorted(EXTRAS))}")


def check_only(block: Block) -> None:
    """A block that is not run: languages other than the shell's must at least be well-formed."""
    if block.language == "bash":
        for words in commands(block.text):
            check_command(words)
    elif block.language == "python":
        compile(block.text, block.place, "exec")
    elif block.language == "yaml":
        read_yaml(block)
    elif block.language == "toml":
        tomllib.loads(block.text)


def read_yaml(block: Block) -> Any:
    """The content; a suite must keep the schema, unless a catalogue of the reader's fills it in."""
    content = yaml.safe_load(block.text)
    if is_suite(content) and "catalogue:" not in block.text:
        parse_spec(SuiteSpec, {**content, "models": ["demo"], "quantizations": ["fp32"]}, block.place)
    return content


def is_suite(content: Any) -> bool:
    """Whether YAML is a suite, and not a part of one or a catalogue."""
    return isinstance(content, dict) and {"name", "models", "tasks"} <= set(content)


class Reader:
    """Somebody who follows one page from its beginning, in an empty folder, with one Python session."""

    def __init__(self, folder: Path, monkeypatch: Any) -> None:
        self.folder, self.monkeypatch = folder, monkeypatch
        self.session: dict[str, Any] = {"__name__": "page"}
        self.wrote_plugins = False

    def follow(self, block: Block) -> None:
        """Run a block.

        Raises:
            DocsError: a command failed.
        """
        if block.language == "bash":
            for words in commands(block.text):
                self.command(words)
        elif block.language == "python":
            self.python(block)
        elif block.language == "yaml":
            self.yaml(block)
        else:
            check_only(block)

    def python(self, block: Block) -> None:
        """Run in the page's session; a block that begins with `# FILE.py` is also written to that file."""
        if name := re.match(r"# (\w+\.py)\n", block.text):
            (self.folder / name[1]).write_text(block.text + "\n")
            self.wrote_plugins = True
        exec(compile(block.text, block.place, "exec"), self.session)

    def yaml(self, block: Block) -> None:
        """A suite is written to `NAME.yaml` and checked against the registries; other YAML is only read.

        A block that begins with `# FILE.yaml` is written to that file.
        """
        content = read_yaml(block)
        name = re.match(r"# (\w+\.yaml)\n", block.text)
        if name or is_suite(content):
            path = self.folder / (name[1] if name else f"{content['name']}.yaml")
            path.write_text(block.text)
            own = self.wrote_plugins or "catalogue:" in block.text  # checked by the commands that follow
            if is_suite(content) and not own:
                check_suite(load_suite(str(path)))

    def command(self, words: Sequence[str]) -> None:
        """Run a command of the shell, small."""
        check_command(words)
        program, *rest = words
        if program == "reliquant":
            self.reliquant(rest)
        elif program in ("pytest", "python"):
            self.process(["-m", "pytest", "-p", "no:cacheprovider"] * (program == "pytest") + rest)
        elif program == "export":
            name, _, value = rest[0].partition("=")
            self.monkeypatch.setenv(name, value)
        elif program not in (".", "source"):
            raise DocsError(f"'{' '.join(words)}' cannot be run here: mark the block with <!-- not run: why -->")

    def reliquant(self, arguments: Sequence[str]) -> None:
        """In this process: starting another one for each command would take most of the time."""
        words = [STAND_INS.get(word, word) for word in arguments]
        words += SMALL.get(words[0], ())
        self.monkeypatch.setattr(sys, "argv", ["reliquant", *words])
        try:
            with restored():
                main()
        except SystemExit as end:
            if end.code not in (0, None):
                raise DocsError(f"reliquant {' '.join(words)}: exit status {end.code}") from None

    def process(self, arguments: Sequence[str]) -> None:
        """A script or module of the repository, or a test that the reader has written."""
        arguments = [str(ROOT / word) if (ROOT / word).is_file() else word for word in arguments]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        result = subprocess.run(
            [sys.executable, *arguments],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        if result.returncode:
            raise DocsError(f"python {' '.join(arguments)}: {result.stdout[-2000:]}{result.stderr[-2000:]}")
