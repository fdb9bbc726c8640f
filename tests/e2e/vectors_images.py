"""Hostile images given to the command line, one at a time: each must be one line, or one skip. And foreign pages."""

from __future__ import annotations

import functools
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests import layouts
from tests.e2e.test_origins import FOREIGN, WRITE, empty_mlflow, experiments, one_study, studies
from tests.e2e.vectors import Try
from tests.hostile_images import eps, hostile

ROOT = Path(__file__).resolve().parent.parent.parent
SUITE = """
name: hostile
version: 1
models: [demo]
quantizations: [fp32]
data:
  scenes: {source: image_folder, path: ./pictures, templates: simple}
tasks:
  zero_shot:
    scenes: {test: scenes}
"""
MEMORY, SECONDS = 2 << 30, 240
"""Bytes of resident memory that a run may take at its peak, and how long: one without a hostile image takes 0.7 GB."""


def tries(tmp: Path) -> list[Try]:
    """Each hostile image refused by `reliquant run`, and all of them left out by `--skip-broken`."""
    files: dict[str, Callable[[Path], bytes]] = {
        name: lambda _, content=content: content for name, content in hostile().items()
    }
    files["EPS named .png"] = lambda folder: eps(folder / "written")
    found = []
    for number, (name, make) in enumerate(files.items()):
        found.append(Try("images", f"{name}, refused", functools.partial(_refused, tmp / f"{number}", make)))
    together = functools.partial(_skipped, tmp / "together", tuple(files.values()))
    found.append(Try("images", f"these {len(files)} together, --skip-broken", together))
    found.append(Try("images", "MLflow's UI asked by foreign pages", functools.partial(_mlflow, tmp / "mlflow")))
    found.append(Try("images", "the dashboard asked by foreign pages", functools.partial(_dashboard, tmp / "studies")))
    return found


def _mlflow(home: Path) -> str:
    """Writes from other origins, and under another name."""
    with empty_mlflow(home) as server:
        asked = [server.ask("POST", WRITE, origin, content={"name": "foreign"})[0] for origin in FOREIGN]
        asked.append(server.ask("POST", WRITE, host=f"evil.example:{server.port}", content={"name": "foreign"})[0])
        assert "foreign" not in experiments(server), asked
    assert set(asked) == {403}, asked
    return f"refused: {len(asked)} times 403"


def _dashboard(home: Path) -> str:
    """Deletes from other origins, and under another name."""
    with one_study(home) as server:
        asked = [server.ask("DELETE", "/api/studies/0", origin)[0] for origin in FOREIGN]
        asked.append(server.ask("DELETE", "/api/studies/0", host=f"evil.example:{server.port}")[0])
        assert studies(server) == ["kept"], asked
    assert set(asked) == {403}, asked
    return f"refused: {len(asked)} times 403"


def _refused(folder: Path, make: Callable[[Path], bytes]) -> str:
    status, [line] = _tried(folder, [make])
    assert status == 2, line
    assert line.startswith("reliquant: error: data set 'scenes': image ")
    return f"refused: {line}"


def _skipped(folder: Path, makes: Sequence[Callable[[Path], bytes]]) -> str:
    status, [line] = _tried(folder, makes, "--skip-broken")
    assert status == 0, line
    assert f"{len(makes)} broken images left out" in line
    return f"skipped: {line}"


def _tried(folder: Path, makes: Sequence[Callable[[Path], bytes]], *options: str) -> tuple[int, list[str]]:
    """Exit status, and the lines of stderr that name a hostile image, of `reliquant run` beside good images."""
    folder.mkdir(parents=True)
    layouts.write_image_folder(folder / "pictures", ["cat", "dog"], 10)
    for number, make in enumerate(makes):
        (folder / "pictures" / "cat" / f"s99999{number:02}.png").write_bytes(make(folder))
    (folder / "hostile.yaml").write_text(SUITE)
    (folder / "bin").mkdir()
    (folder / "bin" / "gs").write_text(f"#!/bin/sh\ntouch {folder / 'started'}\n")
    (folder / "bin" / "gs").chmod(0o755)
    status, err, peak, seconds = _run(folder, list(options))
    assert not (folder / "started").exists(), "a program was started"
    assert not (folder / "written").exists(), "a program ran what the image holds"
    assert "Traceback" not in err, err[-2000:]
    assert peak < MEMORY, f"{peak / 1e9:.1f} GB"
    assert seconds < SECONDS, f"{seconds:.0f} s"
    lines = [line for line in err.splitlines() if "s99999" in line]
    shutil.rmtree(folder)
    assert len(lines) == 1, err[-2000:]
    return status, lines


def _run(folder: Path, more: list[str]) -> tuple[int, str, int, float]:
    """Status, stderr, peak of resident memory in bytes, seconds."""
    command = [sys.executable, "-m", "benchmark", "run", "hostile.yaml", "--home", "home", "--tracker", "jsonl"]
    environment = {
        **os.environ,
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    start = time.monotonic()
    with (folder / "err").open("w+") as err:
        process = subprocess.Popen(
            [*command, "--no-speed", "--quiet", *more],
            cwd=folder,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=err,
        )
        resource.prlimit(process.pid, resource.RLIMIT_CPU, (SECONDS, SECONDS))  # the end of what eats the machine
        peak = 0
        while process.poll() is None:
            peak = max(peak, _peak(process.pid))
            time.sleep(0.05)
        err.seek(0)
        return process.returncode, err.read(), peak, time.monotonic() - start


def _peak(process: int) -> int:
    """Bytes of resident memory that a process has taken at its peak; 0 where it has ended.

    Not what `wait4` tells: that counts the memory of the process that started it, until its program was loaded.
    """
    try:
        status = Path(f"/proc/{process}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")), 0)
