"""A tracking server on 127.0.0.1, started as `reliquant ui` starts it, and how fast it answers the UI's questions."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.performance.setting import ROOT, environment

START_SECONDS = 120.0


@contextmanager
def serving(home: Path, address: str) -> Iterator[str]:
    """The server's URL while it runs.

    Raises:
        SystemExit: it does not answer within two minutes.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "benchmark", "ui", "--home", str(home), "--port", str(port)]
    with (home / "server.log").open("wb") as log:
        server = subprocess.Popen(
            [*command, "--tracking-uri", address], cwd=ROOT, env=environment(), stdout=log, stderr=log
        )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait(server, url)
        yield url
    finally:
        server.terminate()
        server.wait(30)


def _wait(server: subprocess.Popen[bytes], url: str) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and server.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise SystemExit("the tracking server did not start; its output is in server.log")


def searches(url: str) -> dict[str, float]:
    """Seconds of what the UI asks, the median of five each, after one that warms the server up."""
    experiment = ask(url, "experiments/search", {"max_results": 100, "filter": "name = 'load'"})["experiments"][0]
    runs = {"experiment_ids": [experiment["experiment_id"]], "max_results": 100}
    configurations = "tags.kind = 'configuration'"
    questions = {
        "latest 100 runs": runs | {"order_by": ["attributes.start_time DESC"]},
        "latest 100 configurations": runs | {"filter": configurations, "order_by": ["attributes.start_time DESC"]},
        "100 best configurations by a metric": runs
        | {"filter": configurations, "order_by": ["metrics.`zero_shot/test/accuracy` DESC"]},
        "configurations with 8-bit weights": runs
        | {"filter": f"{configurations} and params.`quant.weight_bits` = '8'"},
    }
    found = {}
    for name, question in questions.items():
        times = []
        for _ in range(6):
            start = time.monotonic()
            answer = ask(url, "runs/search", question)
            times.append(time.monotonic() - start)
        if not answer.get("runs"):
            raise SystemExit(f"the server found no runs for '{name}'")
        found[name] = sorted(times[1:])[2]
    return found


def ask(url: str, path: str, content: dict[str, Any]) -> dict[str, Any]:
    """One request to MLflow's REST interface."""
    request = urllib.request.Request(
        f"{url}/api/2.0/mlflow/{path}", json.dumps(content).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=600) as answer:
        found: dict[str, Any] = json.loads(answer.read())
    return found
