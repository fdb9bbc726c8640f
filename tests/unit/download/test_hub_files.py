"""Files of the hub through the command line, against the loopback hub and with the real client."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.hub import Hub
from tests.unit.download.server import sha256
from tests.unit.download.test_archives import contents

SHARDS = {f"test/{i}.tar": random.Random(i).randbytes(60_000 + i) for i in range(2)}
TEXTS = {"classnames.txt": b"cat\ndog\n", "test/nshards.txt": b"2", "zeroshot_classification_templates.txt": b"a {c}\n"}
Run = Callable[..., "subprocess.CompletedProcess[str]"]


def entries(revision: str) -> dict[str, Any]:
    """The layout of CLIP_benchmark's repositories, by patterns."""

    def source(path: str) -> dict[str, Any]:
        return {"sources": [{"hub": "org/wds", "revision": revision, "path": path}]}

    files = {path: source(path) for path in ("test/*.tar", "*.txt", "test/nshards.txt")}
    return {"wds": {"about": "a webdataset", "terms": "none", "folder": "wds", "files": files}}


@pytest.fixture
def run(loopback_hub: Hub, tmp_path: Path) -> Run:
    """Call `reliquant data` in a process of its own, which asks the loopback hub."""

    def call(*words: str, revision: str = "main", **variables: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "own.yaml").write_text(yaml.safe_dump(entries(revision)), encoding="utf-8")
        own = {"RELIQUANT_DATA": str(tmp_path / "data"), "RELIQUANT_DOWNLOADS": str(tmp_path / "own.yaml")}
        environment = {**os.environ, **loopback_hub.environment(tmp_path), **own, **variables}
        command = [sys.executable, "-m", "benchmark", "data", *words]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=100, env=environment)

    return call


def fetched(tmp_path: Path) -> dict[str, bytes]:
    found = contents(tmp_path / "data" / "wds")
    return {name: content for name, content in found.items() if not name.startswith(".")}


def test_a_repository_is_fetched_checked_and_moved(loopback_hub: Hub, run: Run, tmp_path: Path) -> None:
    repository = loopback_hub.dataset("org/wds")
    first = repository.commit({**SHARDS, **TEXTS, "README.md": b"not asked for"})
    (line,) = run("check", "wds", "--json").stdout.splitlines()
    assert json.loads(line)["bytes_to_fetch"] == sum(map(len, [*SHARDS.values(), *TEXTS.values()]))
    loopback_hub.cut(r"GET /cdn/", at=30_000)
    done = run("fetch", "wds", "--yes")
    assert done.returncode == 0, done.stderr
    assert fetched(tmp_path) == SHARDS | TEXTS
    assert [one.range for one in loopback_hub.requests(sha256(SHARDS["test/0.tar"]))] == [None, "bytes=30000-"]
    marker = json.loads((tmp_path / "data" / "wds" / ".reliquant" / "test" / "0.tar.json").read_text())
    assert (marker["commit"], marker["sums"]) == (first, {"sha256": sha256(SHARDS["test/0.tar"])})

    loopback_hub.forget()
    with loopback_hub.down():
        away = run("check", "wds")
    assert (away.returncode, loopback_hub.requests()) == (0, [])

    second = repository.commit({"test/0.tar": SHARDS["test/0.tar"][::-1]}, remove=["test/1.tar"])
    moved = run("fetch", "wds", "--yes")
    assert moved.returncode == 0, moved.stderr
    assert fetched(tmp_path) == {**TEXTS, "test/0.tar": SHARDS["test/0.tar"][::-1]}
    assert "test/1.tar: not in the revision that was asked for; removed" in moved.stderr
    assert len(loopback_hub.requests("GET /cdn/")) == 1  # what has not changed is not fetched again
    assert second != first


def test_what_the_hub_refuses_is_one_line_with_its_own_advice(loopback_hub: Hub, run: Run, tmp_path: Path) -> None:
    repository = loopback_hub.dataset("org/wds")
    repository.commit({**SHARDS, **TEXTS})
    repository.gated = True
    loopback_hub.granted.add("hf_token")
    gated = run("fetch", "wds", "--yes", "--only", "test/0.tar")
    assert gated.returncode == 3
    assert "accept its terms on its page of the hub, then run `hf auth login`" in gated.stderr
    assert "Traceback" not in gated.stderr
    allowed = run("fetch", "wds", "--yes", HF_TOKEN="hf_token")
    assert allowed.returncode == 0, allowed.stderr
    assert fetched(tmp_path) == SHARDS | TEXTS
    assert {one.token for one in loopback_hub.requests("GET /cdn/")} == {None}  # another host gets no token


@pytest.mark.parametrize("what", ["revision", "offline", "down"])
def test_a_hub_that_gives_nothing_is_told(loopback_hub: Hub, run: Run, what: str) -> None:
    loopback_hub.dataset("org/wds").commit({**SHARDS, **TEXTS})
    if what == "revision":
        found, said = run("fetch", "wds", "--yes", revision="none"), "no such revision"
    elif what == "offline":
        found, said = run("fetch", "wds", "--yes", HF_HUB_OFFLINE="1"), "HF_HUB_OFFLINE=1 forbids the download"
    else:
        with loopback_hub.down():
            found, said = run("fetch", "wds", "--yes", "--only", "test/1.tar"), "cannot be reached (Connection refused)"
    assert found.returncode == 3
    assert said in found.stderr
    assert "Traceback" not in found.stderr
