"""Other packages called `tasks`, `trackers` or `search` exist: reliquant refuses to start among them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmark._siblings import HOME, SIBLINGS, check_siblings


def start(folder: Path, code: str = "import benchmark; print('started')") -> subprocess.CompletedProcess[str]:
    """Python with a folder before everything else on its path."""
    environment = {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{HOME}"}
    command = [sys.executable, "-c", code]  # from a folder where `-c` puts nothing of ours first on the path
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd="/", check=False)


@pytest.mark.parametrize("name", SIBLINGS)
@pytest.mark.parametrize("form", ["package", "module"])
def test_an_intruder_is_named_with_the_cure(tmp_path: Path, name: str, form: str) -> None:
    if form == "package":
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('the intruder was imported')")
    else:
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('the intruder was imported')")
    result = start(tmp_path)
    assert result.returncode != 0
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: ")
    assert f"'{name}'" in last
    assert str(tmp_path / name) in last
    assert "uninstall or rename" in last
    assert "the intruder was imported" not in result.stderr


def test_folders_of_data_with_such_names_do_no_harm(tmp_path: Path) -> None:
    """A folder without __init__.py does not come before a real package."""
    for name in SIBLINGS:
        (tmp_path / name).mkdir()
        (tmp_path / name / "data.txt").write_text("x")
    result = start(tmp_path)
    assert result.stdout == "started\n", result.stderr


def test_a_missing_sibling_is_said(tmp_path: Path) -> None:
    with pytest.raises(ImportError, match="reliquant needs its own package 'tasks'"):
        check_siblings(tmp_path)


def test_importing_benchmark_is_light() -> None:
    """`reliquant --help` stays under a second: no heavy module comes with the package."""
    heavy = "{'torch', 'numpy', 'pydantic', 'mlflow', 'open_clip', 'datasets', 'scipy'}"
    code = f"import sys, benchmark; print(sorted({heavy} & set(sys.modules)))"
    assert start(Path("nowhere"), code).stdout == "[]\n"


def test_the_public_names_load(tmp_path: Path) -> None:
    code = "import benchmark; print([n for n in benchmark.__all__ if getattr(benchmark, n, None) is None])"
    assert start(tmp_path, code).stdout == "[]\n"
