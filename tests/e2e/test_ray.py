"""The Ray engine on a cluster of two workers on this machine: the records of the local engine, bit for bit."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.runs import EVALUATIONS, command, finish, leftovers, results, start

ROOT = Path(__file__).resolve().parent.parent.parent
ENVIRONMENT = {
    "PYTHONPATH": str(ROOT),
    "OMP_NUM_THREADS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
}
needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed (the extra `ray`)")
CLUSTER = """
import sys, time
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
for _ in range(2):
    cluster.add_node(num_cpus=1, num_gpus=1)  # said to be there, used by nobody
print(cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A head without CPUs and two nodes with one each."""
    with subprocess.Popen(
        [sys.executable, "-c", CLUSTER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, **ENVIRONMENT},
    ) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.communicate("", timeout=120)


def run(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """`reliquant run --engine ray` in a process of its own."""
    line = [sys.executable, "-m", "benchmark", *command(folder, "--engine", "ray", *arguments)]
    with (folder / "log").open("w") as log:
        return subprocess.Popen(line, stdout=log, stderr=log, text=True, env={**os.environ, **ENVIRONMENT})


def workers_at_work(home: Path) -> list[int]:
    """Processes that evaluate for this results folder: Ray names a worker after its task while it runs."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            title = (place / "cmdline").read_bytes().strip(b"\0 ")
            if title == b"ray::reliquant" and str(home) in (place / "maps").read_text():  # its pixels are mapped
                found.append(int(place.name))
        except OSError:  # it has just ended
            continue
    return found


@needs_ray
@pytest.mark.slow
def test_a_worker_killed_in_the_middle_changes_nothing(address: str, tmp_path: Path) -> None:
    for name in ("local", "ray"):
        (tmp_path / name).mkdir()
    assert finish(start(tmp_path / "local")) == 0
    home = tmp_path / "ray" / "home"
    process = run(tmp_path / "ray", "--address", address)
    killed: list[int] = []
    while process.poll() is None and not killed:
        for worker in workers_at_work(home)[:1]:
            os.kill(worker, signal.SIGKILL)
            killed.append(worker)
        time.sleep(0.05)
    assert process.wait(300) == 0, (tmp_path / "ray" / "log").read_text()
    assert killed
    log = (tmp_path / "ray" / "log").read_text()
    assert f"{EVALUATIONS} evaluations: {EVALUATIONS} computed, 0 from the ledger, 0 failed" in log
    assert "cluster: 3 nodes, " in log
    assert results(home) == results(tmp_path / "local" / "home")
    assert not leftovers(home)
    again = run(tmp_path / "ray", "--address", address)
    assert again.wait(300) == 0
    assert f"0 computed, {EVALUATIONS} from the ledger, 0 failed" in (tmp_path / "ray" / "log").read_text()


@needs_ray
@pytest.mark.slow
def test_workers_with_a_gpu_end_with_their_task(address: str, tmp_path: Path) -> None:
    """So that a GPU's memory is not held for a task that may never come; the nodes only say that they have one."""
    process = run(tmp_path, "--address", address, "--task-gpus", "0.5")
    seen: set[int] = set()
    while process.poll() is None:
        seen |= set(workers_at_work(tmp_path / "home"))
        time.sleep(0.02)
    assert process.returncode == 0, (tmp_path / "log").read_text()
    assert f"{EVALUATIONS} computed, 0 from the ledger, 0 failed" in (tmp_path / "log").read_text()
    assert len(seen) >= 2  # one for each group of two configurations
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in seen) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(Path(f"/proc/{pid}").exists() for pid in seen)


@needs_ray
@pytest.mark.slow
def test_no_cluster_there_is_one_clear_line(tmp_path: Path) -> None:
    process = run(tmp_path, "--address", "127.0.0.1:1")
    assert process.wait(300) == 2
    lines = (tmp_path / "log").read_text().splitlines()
    assert [line for line in lines if "--address 127.0.0.1:1: cannot connect to Ray" in line]
    assert "Traceback" not in "".join(lines)


def without_ray() -> None:
    """As where it is not installed."""
    sys.modules["ray"] = None  # type: ignore[assignment]


def test_without_ray_there_is_one_clear_line(tmp_path: Path) -> None:
    assert finish(start(tmp_path, "--engine", "ray", spoil=without_ray)) == 2
    [line] = (tmp_path / "log").read_text().splitlines()
    assert line == "reliquant: error: --engine ray: Ray is not installed; pip install 'reliquant[ray]'"


@pytest.mark.parametrize(
    "options", [["--address", "auto"], ["--task-gpus", "0.5"], ["--engine", "ray", "--task-cpus", "0"]]
)
def test_options_that_do_not_fit(tmp_path: Path, options: list[str]) -> None:
    assert finish(start(tmp_path, *options)) == 2
    assert "--task-cpus" in (tmp_path / "log").read_text()
