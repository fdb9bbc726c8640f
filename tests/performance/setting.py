"""Where and at which size a row is measured, and how commands are run and watched."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parent.parent.parent
BUILD = ROOT / "build" / "performance"
CODE = ("benchmark", "tasks", "trackers")


@dataclass(frozen=True)
class Sizes:
    """Images of the test set by purpose; the other sets of a suite are fractions of it (`material.SHARES`).

    Attributes:
        loop: six tasks on one configuration beside the bare loop. sweep: 8 configurations of ViT-B/32.
        small: the same with the demo's checkpoint. memory: (N, 10 N). images, configurations: of the linear fit.
        rounds, batch: of the quantized forward pass. peer_runs: CLIP_benchmark runs of ViT-B/32 that are timed.
        vit: whether ViT-B/32 really has its size; otherwise all its parts are small.
    """

    loop: int
    sweep: int
    small: int
    memory: tuple[int, int]
    images: tuple[int, ...]
    configurations: tuple[int, ...]
    rounds: int
    batch: int
    peer_runs: int
    vit: bool


FULL = Sizes(1000, 1000, 300, (500, 5000), (60, 120, 180, 240), (2, 4, 6, 8), 15, 32, 2, True)
QUICK = Sizes(24, 16, 16, (16, 160), (16, 24, 32), (2, 3, 4), 2, 4, 1, False)


@dataclass(frozen=True)
class Result:
    """One row of the table.

    Attributes:
        measured: the ratio as text. limit, target: likewise. reached: None where this machine cannot tell.
        details: sentences below the table. command: what measures it.
    """

    name: str
    what: str
    measured: str
    limit: str
    target: str
    reached: bool | None
    details: tuple[str, ...] = ()
    values: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Used:
    """What a command took: wall and processor seconds (children counted), peak memory where it was watched."""

    wall: float
    cpu: float
    peak: int = 0
    stdout: str = ""
    report: Mapping[str, Any] = field(default_factory=dict)


class Setting:
    """Folders, sizes, device, and commands in a clean environment.

    Args:
        quick: small sizes, for CI. device: torch device of the sweeps.
    """

    def __init__(self, quick: bool, device: str) -> None:
        self.quick, self.device = quick, device
        self.sizes = QUICK if quick else FULL
        self.folder = BUILD / f"{'quick' if quick else 'full'}-{device.replace(':', '-')}"
        self.folder.mkdir(parents=True, exist_ok=True)

    def home(self, name: str, fresh: bool = True) -> Path:
        """A results folder; emptied first when `fresh`."""
        home = self.folder / "homes" / name
        if fresh:
            shutil.rmtree(home, ignore_errors=True)
        return home

    def code(self) -> str:
        """A digest of the code that is measured."""
        files = sorted(file for part in CODE for file in (ROOT / part).rglob("*.py"))
        return sha256(b"".join(file.read_bytes() for file in files)).hexdigest()

    def say(self, text: str) -> None:
        """One line of progress."""
        print(f"  {text}", file=sys.stderr, flush=True)

    def reliquant(self, *arguments: str | Path, watch: bool = False) -> Used:
        """The plain command, as a user starts it."""
        return run([sys.executable, "-m", "benchmark", *map(str, arguments)], watch=watch)

    def python(self, *arguments: str) -> Used:
        """A bare interpreter."""
        return run([sys.executable, *arguments])

    def sweep(self, suite: Path, home: Path, *more: str | Path, watch: bool = False, imported: bool = False) -> Used:
        """`reliquant run` with a report of what happened inside (`tests.performance.child`).

        Args:
            imported: libraries are imported before the command begins: their seconds vary from run to run.
        """
        report = home.parent / f"{home.name}.json"
        report.parent.mkdir(parents=True, exist_ok=True)
        report.unlink(missing_ok=True)
        command = [sys.executable, "-m", "tests.performance.child", report, "run", suite, "--home", home, "--quiet"]
        command += ["--imported"] * imported
        used = run([*map(str, command), "--device", self.device, *map(str, more)], watch=watch)
        return Used(used.wall, used.cpu, used.peak, used.stdout, json.loads(report.read_text()))


def environment() -> dict[str, str]:
    """The caller's, without what would slow a command down (no byte code) or let it ask the network."""
    kept = {key: value for key, value in os.environ.items() if key not in ("PYTHONDONTWRITEBYTECODE", "RELIQUANT_HOME")}
    return {**kept, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}


def run(command: Sequence[str], cwd: Path = ROOT, watch: bool = False, check: bool = True) -> Used:
    """Run a command to its end.

    Args:
        watch: note the peak of the memory of the process and its children, 20 times a second.

    Raises:
        SystemExit: it failed; with the end of what it said.
    """
    before = os.times()
    start = time.monotonic()
    process = subprocess.Popen(
        command, cwd=cwd, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    peak = watch_memory(process) if watch else 0
    out, err = process.communicate()
    wall, after = time.monotonic() - start, os.times()
    if check and process.returncode:
        raise SystemExit(f"{' '.join(command)} failed with {process.returncode}:\n{err[-3000:]}")
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return Used(wall, cpu, peak, out)


def watch_memory(process: subprocess.Popen[str]) -> int:
    """Peak bytes of a process and its children until it ends: memory of their own, not pages of mapped files."""
    peak, root = 0, psutil.Process(process.pid)
    while process.poll() is None:
        total = 0
        try:
            for each in (root, *root.children(recursive=True)):
                total += own_memory(each)
        except psutil.NoSuchProcess:
            continue
        peak = max(peak, total)
        time.sleep(0.05)
    return peak


def own_memory(process: psutil.Process) -> int:
    """Anonymous and shared memory of a process in bytes (Linux); elsewhere its resident set."""
    try:
        status = Path(f"/proc/{process.pid}/status").read_text()
    except OSError:
        return int(process.memory_info().rss) if process.is_running() and not Path("/proc").is_dir() else 0
    lines = (line.split() for line in status.splitlines())
    return sum(int(parts[1]) * 1024 for parts in lines if parts and parts[0] in ("RssAnon:", "RssShmem:"))
