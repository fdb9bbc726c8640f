"""Processes that are killed, and two that want the same: the folder ends the same."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from benchmark.download.catalogue import catalogue
from benchmark.download.state import state
from tests.unit.download.server import Server, sha256
from tests.unit.download.test_archives import contents, tar

CODE = """
import sys
from pathlib import Path
from benchmark.download.catalogue import catalogue
from benchmark.download.fetch import fetch
from benchmark.utils.progress import open_progress
known = catalogue([Path(sys.argv[1])])
print("ready", flush=True)
with open_progress(False):
    outcome = fetch("it", Path(sys.argv[2]), known)
print("got", *outcome.got, flush=True)
sys.exit(bool(outcome.missing))
"""
CONTENT = {f"top/{i % 7}/{i}.bin": random.Random(i).randbytes(20_000) for i in range(60)}
PLAIN = random.Random(9).randbytes(300_000)


@pytest.fixture
def own(server: Server, tmp_path: Path) -> Path:
    """A catalogue of one archive, one file and one archive that is kept, from a slow server."""
    made = tar(tmp_path / "made.tar", CONTENT, "w:gz").read_bytes()
    files = {
        "a.tar.gz": {"bytes": len(made), "sha256": sha256(made), "unpack": {"strip": 1}},
        "b/plain.bin": {"sha256": sha256(PLAIN)},
        "c.tar.gz": {"sha256": sha256(made), "unpack": {"to": "again", "keep": True}},
    }
    for name, content in (("a.tar.gz", made), ("b/plain.bin", PLAIN), ("c.tar.gz", made)):
        server.put(name, content, delay=0.004)
        files[name]["sources"] = [{"url": server.at(name)}]
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump({"it": {"about": "a", "terms": "t", "folder": "it", "files": files}}))
    return path


def started(own: Path, root: Path) -> subprocess.Popen[str]:
    """A process that fetches, past its imports."""
    words = [sys.executable, "-c", CODE, str(own), str(root)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def finished(process: subprocess.Popen[str]) -> tuple[str, str]:
    out, error = process.communicate(timeout=100)
    assert process.returncode == 0, error
    return out.strip(), error


def tree(root: Path) -> dict[str, bytes]:
    """All files but locks; of markers, whose times differ, the names."""
    found = contents(root)
    return {n: b"" if n.endswith(".json") else c for n, c in found.items() if not n.endswith(".lock")}


def test_the_second_process_waits_and_finds_it_done(own: Path, tmp_path: Path, server: Server) -> None:
    first, second = started(own, tmp_path / "data"), started(own, tmp_path / "data")
    told = [finished(first), finished(second)]
    assert sorted(name for out, _ in told for name in out.split()[1:]) == ["a.tar.gz", "b/plain.bin", "c.tar.gz"]
    assert any("another process is getting it; waiting for that" in error for _, error in told)
    assert len(server.log) == 3
    assert state("it", tmp_path / "data", catalogue([own])).complete


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_in_the_same_tree(own: Path, tmp_path: Path) -> None:
    began = time.monotonic()
    finished(started(own, tmp_path / "whole"))
    length = time.monotonic() - began
    wanted, draw, root = tree(tmp_path / "whole"), random.Random(7), tmp_path / "cut"
    assert len(wanted) == 2 * len(CONTENT) + 2 + 3
    killed = 0
    for _ in range(60):
        process = started(own, root)
        try:
            process.wait(draw.uniform(0, length / 4))
        except subprocess.TimeoutExpired:
            process.kill()
            killed += 1
        process.communicate(timeout=100)
        if process.returncode == 0 or time.monotonic() - began > 25:
            break
    finished(started(own, root))
    assert killed >= 3
    assert tree(root) == wanted
    assert state("it", root, catalogue([own])).complete
