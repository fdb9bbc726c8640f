"""Who may talk to the two servers of `reliquant ui`: real servers on loopback, asked as a browser would ask."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmark.utils.browser import answers
from search.storage import open_storage

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
ROOT = Path(__file__).resolve().parent.parent.parent
WRITE = "/api/2.0/mlflow/experiments/create"
AJAX = "/ajax-api/2.0/mlflow/experiments/create"
FOREIGN = (
    "http://127.0.0.1:1",
    "http://localhost:3000",
    "http://[::1]:3000",
    "https://evil.example",
    "null",
    "file://",
)


@dataclass(frozen=True)
class Server:
    """A running server."""

    port: int

    def ask(
        self, method: str, path: str, origin: str | None = None, host: str | None = None, content: object = None
    ) -> tuple[int, str]:
        """Status and body; `host` is the header's name without the port, where it is another."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        headers = {"Host": host or f"127.0.0.1:{self.port}", "Content-Type": "application/json"}
        if origin is not None:
            headers["Origin"] = origin
        connection.request(method, path, None if content is None else json.dumps(content), headers)
        answer = connection.getresponse()
        body = answer.read().decode("utf-8", "replace")
        connection.close()
        return answer.status, body


@contextmanager
def serving(name: str, *arguments: str) -> Iterator[Server]:
    """`reliquant ui` or `reliquant dashboard` on a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "benchmark", name, "--port", str(port), *arguments]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        assert answers("127.0.0.1", port, 180)
        yield Server(port)
    finally:
        process.terminate()
        process.wait(60)


@contextmanager
def empty_mlflow(home: Path) -> Iterator[Server]:
    """MLflow's server on a store with one empty experiment."""
    home.mkdir(exist_ok=True)
    make = f"from mlflow import MlflowClient; MlflowClient('sqlite:///{home / 'mlflow.db'}').create_experiment('one')"
    subprocess.run([sys.executable, "-W", "ignore", "-c", make], check=True, capture_output=True, timeout=180)
    with serving("ui", "--home", str(home)) as server:
        yield server


@contextmanager
def one_study(home: Path) -> Iterator[Server]:
    """optuna-dashboard on one study."""
    import optuna

    home.mkdir(exist_ok=True)
    optuna.create_study(storage=open_storage(home, None), study_name="kept")
    with serving("dashboard", "--home", str(home)) as server:
        yield server


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all tests."""
    with empty_mlflow(tmp_path_factory.mktemp("origins")) as server:
        yield server


@pytest.fixture(scope="module")
def dashboard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all tests."""
    with one_study(tmp_path_factory.mktemp("studies")) as server:
        yield server


def experiments(server: Server) -> set[str]:
    _, body = server.ask("GET", "/api/2.0/mlflow/experiments/search?max_results=100")
    return {found["name"] for found in json.loads(body)["experiments"]}


def studies(server: Server) -> list[str]:
    return [found["study_name"] for found in json.loads(server.ask("GET", "/api/studies")[1])["study_summaries"]]


def test_mlflow_answers_its_own_pages_and_programs(mlflow: Server) -> None:
    assert mlflow.ask("GET", "/")[0] == 200
    assert mlflow.ask("GET", "/", host=f"localhost:{mlflow.port}")[0] == 200
    own = f"http://127.0.0.1:{mlflow.port}"
    assert mlflow.ask("POST", WRITE, content={"name": "program"})[0] == 200
    assert mlflow.ask("POST", AJAX, own, content={"name": "page"})[0] == 200
    assert {"program", "page"} <= experiments(mlflow)


@pytest.mark.parametrize("origin", FOREIGN)
@pytest.mark.parametrize("path", [WRITE, AJAX])
def test_mlflow_refuses_pages_of_other_origins(mlflow: Server, origin: str, path: str) -> None:
    status, _ = mlflow.ask("POST", path, origin, content={"name": "foreign"})
    assert status == 403
    assert mlflow.ask("OPTIONS", path, origin)[0] == 403
    assert mlflow.ask("GET", "/api/2.0/mlflow/experiments/search?max_results=9", origin)[0] == 403
    assert mlflow.ask("POST", "/graphql", origin, content={"query": "{ __typename }"})[0] == 403
    assert "foreign" not in experiments(mlflow)


@pytest.mark.parametrize("host", ["evil.example", "evil.example:{port}", "127.0.0.1:1", "10.0.0.1:{port}", "localhost"])
def test_mlflow_refuses_other_names(mlflow: Server, host: str) -> None:
    named = host.format(port=mlflow.port)
    assert mlflow.ask("POST", WRITE, host=named, content={"name": "rebound"})[0] == 403
    assert mlflow.ask("POST", WRITE, f"http://{named}", named, {"name": "rebound"})[0] == 403
    assert mlflow.ask("GET", "/", host=named)[0] == 403
    assert "rebound" not in experiments(mlflow)


def test_the_dashboard_answers_its_own_pages(dashboard: Server) -> None:
    assert dashboard.ask("GET", "/dashboard")[0] == 200
    assert studies(dashboard)[:1] == ["kept"]
    own = f"http://127.0.0.1:{dashboard.port}"
    made, _ = dashboard.ask("POST", "/api/studies", own, content={"study_name": "mine", "directions": ["minimize"]})
    assert made == 201
    assert "mine" in studies(dashboard)


@pytest.mark.parametrize("origin", FOREIGN)
def test_the_dashboard_refuses_pages_of_other_origins(dashboard: Server, origin: str) -> None:
    assert dashboard.ask("DELETE", "/api/studies/0", origin)[0] == 403
    new = {"study_name": "foreign", "directions": ["minimize"]}
    assert dashboard.ask("POST", "/api/studies", origin, content=new)[0] == 403
    assert dashboard.ask("GET", "/api/studies", origin)[0] == 403
    assert "kept" in studies(dashboard)
    assert "foreign" not in studies(dashboard)


@pytest.mark.parametrize("host", ["evil.example", "evil.example:{port}", "127.0.0.1:1"])
def test_the_dashboard_refuses_other_names(dashboard: Server, host: str) -> None:
    named = host.format(port=dashboard.port)
    assert dashboard.ask("DELETE", "/api/studies/0", host=named)[0] == 403
    assert dashboard.ask("GET", "/api/studies", f"http://{named}", named)[0] == 403
    assert "kept" in studies(dashboard)
