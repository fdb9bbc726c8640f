"""What is released, tried as a stranger would: `python -m tests.release`.

Builds the wheel, looks into it, installs it into a fresh environment, and uses it beside a stranger's
`tasks.py`; then another package with a top-level `tasks` is installed, before and after.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from tests.docs.markdown import ROOT

UV = (sys.executable, "-m", "uv")
TWINE = "twine==7.0.0"
NOT_IN_THE_WHEEL = ("tests/", "docs/", "benchmark/demo/training/", ".log", ".ipynb", "mlruns/", "__pycache__")
THEIRS = "raise RuntimeError('their file was imported')\n"
FOREIGN = """
[build-system]
requires = ["uv_build>=0.8,<1"]
build-backend = "uv_build"
[project]
name = "todo-list"
version = "1.0"
[tool.uv.build-backend]
module-root = ""
module-name = ["tasks"]
"""
RUN = ("run", "demo", "--limit", "50", "--task", "zero_shot")


class ReleaseError(AssertionError):
    """Something that a stranger would stumble over."""


def call(command: Sequence[str | Path], folder: Path, status: int = 0, says: str = "") -> str:
    """Run a command without this repository on its path; returns stdout and stderr.

    Raises:
        ReleaseError: another exit status, or `says` is not in the output.
    """
    words = [str(word) for word in command]
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    ended = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=600)
    print(f"{ended.returncode}  {' '.join([Path(words[0]).name, *words[1:]])}", flush=True)
    text = ended.stdout + ended.stderr
    if ended.returncode != status or says not in text or "their file was imported" in text:
        raise ReleaseError(f"expected status {status} and {says!r}, found {ended.returncode}:\n{text[-4000:]}")
    return text


def build(folder: Path) -> Path:
    """The wheel, checked; the source archive lies beside it."""
    call([*UV, "build", "--quiet", "--out-dir", folder, ROOT], ROOT)
    [wheel], [source] = folder.glob("*.whl"), folder.glob("*.tar.gz")
    call([*UV, "tool", "run", "--quiet", TWINE, "check", "--strict", wheel, source], ROOT, says="PASSED")
    with zipfile.ZipFile(wheel) as content:
        names = content.namelist()
    if wrong := [name for name in names if any(part in name for part in NOT_IN_THE_WHEEL)]:
        raise ReleaseError(f"{wheel.name} holds {wrong}")
    for needed in (
        "benchmark/suites/demo.yaml",
        "benchmark/demo/checkpoint/open_clip_model.safetensors",
        "tasks/ood.py",
    ):
        if needed not in names:
            raise ReleaseError(f"{wheel.name} lacks {needed}")
    return wheel


def install(environment: Path, *what: str) -> None:
    """Into the environment, with the pinned versions."""
    python = environment / "bin" / "python"
    call([*UV, "pip", "install", "--quiet", "--python", python, "--constraint", ROOT / "constraints.txt", *what], ROOT)


def use(environment: Path, folder: Path) -> None:
    """What a newcomer does first, by both ways to start it."""
    reliquant, python = environment / "bin" / "reliquant", environment / "bin" / "python"
    for start in ([reliquant], [python, "-m", "benchmark"]):
        call([*start, "--help"], folder, says="spectrum")
        call([*start, "list", "tasks"], folder, says="zero_shot")
    call([python, "-m", "benchmark", *RUN], folder, says="0 failed")
    call([reliquant, *RUN], folder, says="0 computed")
    call([reliquant, "--version", "--verbose"], folder, says="extra ray: ray not installed")
    call([python, "-c", "import benchmark; print(*benchmark.tasks.names())"], folder, says="zero_shot")
    call([reliquant, "new", "task", "blind_spot"], folder, says="pytest test_blind_spot.py")
    call([environment / "bin" / "pytest", "-q", "-p", "no:cacheprovider", "test_blind_spot.py"], folder, says=" passed")


def beside_another(environment: Path, wheel: Path, folder: Path) -> None:
    """A package with a top-level `tasks`, installed after ours, and then before."""
    source = folder / "todo"
    (source / "tasks").mkdir(parents=True)
    (source / "tasks" / "__init__.py").write_text(THEIRS)
    (source / "pyproject.toml").write_text(FOREIGN)
    install(environment, str(source))
    told = call([environment / "bin" / "reliquant", "list", "tasks"], folder, status=2, says="'todo_list 1.0' installs")
    if len(told.splitlines()) != 1:
        raise ReleaseError(f"more than one line:\n{told}")
    install(environment, "--reinstall-package", "reliquant", "--no-deps", str(wheel))
    call([environment / "bin" / "reliquant", "list", "tasks"], folder, says="warning: 'todo_list 1.0' installs")


def main() -> None:
    """Everything, in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="release-") as name:
        place = Path(name)
        wheel, environment, folder = build(place / "dist"), place / "environment", place / "folder"
        folder.mkdir()
        for theirs in ("tasks", "trackers", "search"):
            (folder / f"{theirs}.py").write_text(THEIRS)
        call([*UV, "venv", "--quiet", "--python", sys.executable, environment], ROOT)
        install(environment, f"reliquant[testing] @ {wheel.as_uri()}")
        use(environment, folder)
        beside_another(environment, wheel, folder)
    print("the wheel works in a fresh environment")


if __name__ == "__main__":
    try:
        main()
    except ReleaseError as error:
        sys.exit(f"release: {error}")
