"""Copies of the source tree, in which tests run in forked processes: the working tree is never changed."""

from __future__ import annotations

import contextlib
import importlib
import os
import resource
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).parent.parent.parent
HOME = ROOT / ".mutants"
"""Everything that is not committed: copies of the tree, the coverage map, results."""

BROKEN = 99
"""Exit status of a forked process that could not start pytest."""

LEFT_OUT = (".*", "__pycache__", "mlruns", "build", "dist", "*.egg-info")
PRELOADED = (
    *("numpy", "scipy.stats", "scipy.optimize", "sklearn.metrics", "pandas", "pyarrow", "torch", "torchvision"),
    *("open_clip", "datasets", "optuna", "pytest", "coverage", "pydantic", "matplotlib"),
)
"""Libraries that nearly every test needs: imported once, before the forks. Nothing of this repository."""


@dataclass
class Tree:
    """A copy of the repository below `folder`."""

    folder: Path
    _changed: int = field(default=0, init=False)

    @classmethod
    def copied(cls, name: str) -> Tree:
        """A fresh copy of the working tree."""
        folder = HOME / name
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*LEFT_OUT))
        return cls(folder)

    def write(self, file: str, source: str) -> None:
        """Another content of a file. Its time is set by hand: compiled code is kept by whole seconds and size."""
        path = self.folder / file
        path.write_text(source, encoding="utf-8")
        self._changed += 1
        stamp = 1_000_000_000 + 2 * self._changed
        os.utime(path, (stamp, stamp))

    def restore(self, file: str) -> None:
        """The content of the working tree again."""
        self.write(file, (ROOT / file).read_text(encoding="utf-8"))

    def pytest(self, arguments: Sequence[str], limits: Limits, log: Path) -> Running:
        """Start pytest on this copy, in a process of its own."""
        process = os.fork()
        if process == 0:
            _become(self.folder, arguments, limits, log)
        return Running(process, time.monotonic() + limits.wall)


@dataclass(frozen=True)
class Limits:
    """Seconds after which tests are ended: of the processor, and in all."""

    cpu: int
    wall: float


@dataclass
class Running:
    """Tests in a forked process."""

    process: int
    deadline: float
    status: int | None = None

    def finished(self) -> bool:
        """Whether they have ended, or were ended; `status` is then set, negative where a signal did it."""
        found, status = os.waitpid(self.process, os.WNOHANG)
        if not found and time.monotonic() < self.deadline:
            return False
        self.end()
        if not found:
            os.waitpid(self.process, 0)
        self.status = os.waitstatus_to_exitcode(status) if found else -signal.SIGXCPU
        return True

    def end(self) -> None:
        """End it, with what the tests started and left behind."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process, signal.SIGKILL)

    def wait(self) -> int:
        """The exit status."""
        while not self.finished():
            time.sleep(0.02)
        return self.status or 0


def preload() -> None:
    """Import the libraries that the forked processes share."""
    os.environ["OMP_NUM_THREADS"] = "1"
    for name in PRELOADED:
        importlib.import_module(name)


def _pytest(folder: Path, arguments: Sequence[str]) -> int:
    import pytest

    os.chdir(folder)
    outside = [place for place in sys.path if Path(place or ".").resolve() != ROOT]
    sys.path[:] = [str(folder), *outside]
    for name in [name for name in sys.modules if name.split(".")[0] in ("tests", "benchmark", "tasks")]:
        del sys.modules[name]
    os.environ["PYTHONPATH"] = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    sys.modules["__main__"] = importlib.import_module("pytest.__main__")  # what processes of the tests start from
    quiet = ("-p", "no:cacheprovider", "-p", "_hypothesis_pytestplugin", "--hypothesis-seed=0", "--tb=short")
    return int(pytest.main([*quiet, "-m", "not slow", *arguments]))


def _become(folder: Path, arguments: Sequence[str], limits: Limits, log: Path) -> NoReturn:
    """The forked process: a group of its own with its output in `log`."""
    status = BROKEN
    try:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_CPU, (limits.cpu, limits.cpu + 5))
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(out, stream)
        status = _pytest(folder, arguments)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)
