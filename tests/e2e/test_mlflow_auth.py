"""A remote MLflow server that asks for user and password: `mlflow server --app-name basic-auth` on the loopback."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

import pytest

from benchmark.errors import StorageError
from tests.e2e.test_cli import ROOT
from trackers.mlflow import MLflowTracker

pytest.importorskip("flask_wtf", reason="MLflow's extra `auth` is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # MLflow's own deprecations
USER, PASSWORD = "admin", "a-long-secret-1234"
USER_VARIABLE, PASSWORD_VARIABLE = "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"
CONFIGURATION = """
[mlflow]
default_permission = READ
database_uri = sqlite:///{folder}/basic_auth.db
admin_username = admin
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Its address; it keeps the artifacts too."""
    folder = tmp_path_factory.mktemp("server")
    (folder / "auth.ini").write_text(CONFIGURATION.format(folder=folder))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        **os.environ,
        "MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"),
        "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "signs the cookies of one test",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    command = [sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--workers", "1", "--backend-store-uri", f"sqlite:///{folder}/store.db"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
    try:
        _wait(f"http://127.0.0.1:{port}", process, folder / "log")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=30)


def _wait(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until the server answers."""
    direct, end = build_opener(ProxyHandler({})), time.monotonic() + 120
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text()
        try:
            direct.open(f"{address}/health", timeout=5).close()
        except (URLError, OSError):
            time.sleep(0.2)
        else:
            return
    pytest.fail(f"no answer: {log.read_text()[-2000:]}")


@pytest.fixture(autouse=True)
def _nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (USER_VARIABLE, PASSWORD_VARIABLE, "MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("password", [None, "not-the-secret-99"])
def test_without_the_right_password_one_line_names_the_variables(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, password: str | None
) -> None:
    if password is not None:
        monkeypatch.setenv(USER_VARIABLE, USER)
        monkeypatch.setenv(PASSWORD_VARIABLE, password)
    with pytest.raises(StorageError) as caught:
        MLflowTracker().open(tmp_path, server)
    assert str(caught.value).startswith(f"tracking store {server} cannot be reached: the server asks for a user")
    assert USER_VARIABLE in str(caught.value)
    assert PASSWORD_VARIABLE in str(caught.value)
    assert "not-the-secret-99" not in str(caught.value)


def test_a_run_is_tracked_there_and_the_password_stays_in_the_environment(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(USER_VARIABLE, USER)
    monkeypatch.setenv(PASSWORD_VARIABLE, PASSWORD)
    command = [sys.executable, "-m", "benchmark", "run", "demo", "--task", "zero_shot", "--quant", "rtn-w4-vision"]
    command += ["--limit", "12", "--no-speed", "--tracking-uri", server, "--home", str(tmp_path / "home")]
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "could not be written" not in ended.stderr
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=server)
    experiment = client.get_experiment_by_name("demo")
    runs = client.search_runs([experiment.experiment_id], "tags.kind = 'configuration'")
    assert {run.info.run_name for run in runs} == {"fp32", "rtn-w4-channel-vision"}
    assert all(client.list_artifacts(run.info.run_id) for run in runs)
    assert not (tmp_path / "home" / "mlflow.db").exists()
    written = [path.read_bytes() for path in (tmp_path / "home").rglob("*") if path.is_file()]
    assert written
    written.append(f"{ended.stdout}{ended.stderr}".encode())
    assert not any(PASSWORD.encode() in content for content in written)
