"""Commands that run no model import no heavy library: that is most of what they cost."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmark.cli.app import app
from tests.report_home import W4, write_home

HEAVY = ("torch", "datasets", "pandas", "sklearn", "scipy", "mlflow", "netcal", "open_clip", "optuna")
SMALL = ("demo", "--quant", "rtn-w4-vision", "--limit", "12", "--no-speed", "--tracker", "jsonl")
TASKS = ("--task", "zero_shot", "--task", "calibration", "--task", "ood")


def imported(*words: str) -> set[str]:
    """Which of `HEAVY` a command imports in a process of its own."""
    code = (
        "import atexit, sys\n"
        f"atexit.register(lambda: print('heavy:', *(m for m in {HEAVY} if m in sys.modules)))\n"
        "from benchmark.cli.app import app\n"
        f"sys.argv = ['reliquant', *{words}]\n"
        "app()\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert ended.returncode == 0, ended.stderr
    return set(ended.stdout.splitlines()[-1].removeprefix("heavy:").split())


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("light")
    write_home(folder)
    return folder


@pytest.mark.parametrize("what", ["tasks", "data", "suites"])
def test_a_list_imports_nothing_heavy(what: str) -> None:
    assert imported("list", what) - {"scipy"} == set()


@pytest.mark.parametrize(
    "words",
    [("compare", "--suite", "small"), ("show", W4, "--suite", "small"), ("report", "small", "-o", "OUT")],
    ids=" ".join,
)
def test_results_are_read_without_torch(words: tuple[str, ...], home: Path, tmp_path: Path) -> None:
    """netcal, which computes the calibration error of an evaluation, imports torch: figures do not need it."""
    words = tuple(str(tmp_path / "page.html") if word == "OUT" else word for word in words)
    assert imported(*words, "--home", str(home)) <= {"scipy"}


def test_an_unchanged_run_describes_the_demo_without_datasets(tmp_path: Path) -> None:
    """It needs torch, whose quantizers check the short names, and the demo's labels, which are computed."""
    words = (*SMALL, *TASKS, "--home", str(tmp_path))
    assert CliRunner().invoke(app, ["run", *words]).exit_code == 0
    assert imported("run", *words) <= {"torch", "scipy"}
    assert "datasets" not in imported("validate", "demo"), "it runs the model for a second, on no data"
