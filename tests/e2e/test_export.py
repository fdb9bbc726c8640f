"""A quantization that was evaluated, exported, evaluated again from its folder, registered and served."""

from __future__ import annotations

import base64
import json
import os
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

import numpy as np
import pytest

from benchmark.cli import main
from benchmark.engine.requested import with_overrides
from benchmark.export.serving import Predictor, example
from benchmark.ledger.records import Ledger
from tests.hostile_images import eps, hostile

ROOT = Path(__file__).resolve().parent.parent.parent
LIMIT = "40"
TOKEN, STATIC = "rtn-w4a8-channel-token-vision", "smoothquant-w6a8-channel-tensor-vision+text"
OVERRIDE = "visual.transformer.resblocks.0.*=8"
MIXED = with_overrides("rtn-w4-channel-vision", [OVERRIDE])
TORCHAO = "torchao-int8wo-vision"
SUITE = """
name: small
version: 1
models: [demo]
quantizations: [fp32, rtn-w4a8-channel-token-vision]
calibration: calibration
data:
  scenes: {source: demo, split: test}
  calibration: {source: demo, split: calibration}
  common: {source: demo, split: common}
  counter: {source: demo, split: counter}
tasks:
  zero_shot:
    scenes: {test: scenes}
  calibration:
    scenes: {test: scenes, fit: calibration}
  spurious:
    scenes: {common: common, counter: counter}
headline: [zero_shot/scenes/accuracy, calibration/scenes/ece_15]
"""


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small suite, evaluated under two quantizations in `home` beside it."""
    path = tmp_path_factory.mktemp("export") / "small.yaml"
    path.write_text(SUITE)
    assert call("run", str(path), "--quant", TOKEN, "--quant", STATIC, "--quant", TORCHAO, *common(path)) == 0
    assert call("run", str(path), "--quant", "rtn-w4-channel-vision", "--override", OVERRIDE, *common(path)) == 0
    return path


def common(suite: Path) -> list[str]:
    return ["--limit", LIMIT, "--home", str(suite.parent / "home"), "--quiet"]


def call(*arguments: str) -> int:
    """The command line, in this process, tracked by JSONL; its exit status."""
    with pytest.MonkeyPatch.context() as patch:
        extra = ["--tracker", "jsonl"] if arguments[0] == "run" else []
        patch.setattr(sys, "argv", ["reliquant", *arguments, *extra])
        with pytest.raises(SystemExit) as caught:
            main()
    return int(caught.value.code or 0)


def metrics(suite: Path, model: str, quantization: str) -> dict[str, float]:
    records = Ledger(suite.parent / "home").records.values()
    mine = [r for r in records if (r.model, r.quantization, r.status) == (model, quantization, "done")]
    return {key: value for record in mine for key, value in record.metrics.items()}


@pytest.mark.parametrize(
    ("name", "folder"), [(TOKEN, "token"), (STATIC, "static"), (MIXED, "mixed"), (TORCHAO, "torchao")]
)
def test_a_run_of_the_folder_gives_the_same_numbers(
    suite: Path, name: str, folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    to = suite.parent / folder
    assert call("export", name, "--suite", str(suite), "--to", str(to), *common(suite)) == 0
    capsys.readouterr()
    assert call("run", str(suite), "--model", str(to), *common(suite)) == 0
    out, err = capsys.readouterr()
    assert f"is quantized already ({name}), so it is not quantized again" in err
    assert "3 evaluations: 3 computed" in out
    expected = metrics(suite, "demo", name)
    assert len(expected) > 20
    assert metrics(suite, folder, name) == expected
    card = (to / "README.md").read_text()
    assert f"reliquant run {suite.name} --model path/to/{folder}" in card
    assert f"{expected['zero_shot/scenes/accuracy']:.4f}" in card
    assert "What may be claimed" in card
    tuned = json.loads((to / "reliquant.json").read_text())["tuned"]
    assert tuned["scale"] == expected["calibration/scenes/logit_scale_tuned"]
    assert call("compare", "--suite", "small", "--model", folder, "--home", str(suite.parent / "home")) == 0
    assert "zero_shot/scenes/accuracy" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "purpose"),
    [
        (["run", "{suite}", "--quant", "rtn-w8"], "--quant"),
        (["run", "{suite}", "--override", "visual.*=8"], "--override"),
        (["spectrum", "{suite}", "--data", "scenes", "--quant", "rtn-w8"], "spectrum"),
        (["search", "{suite}", "--trials", "2"], "search"),
        (["export", "rtn-w8-channel-vision", "--suite", "{suite}", "--to", "{never}"], "export"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_it_is_not_quantized_again(
    suite: Path, arguments: list[str], purpose: str, capsys: pytest.CaptureFixture[str]
) -> None:
    to, never = suite.parent / "once", suite.parent / "never"
    if not to.exists():
        assert call("export", TOKEN, "--suite", str(suite), "--to", str(to), *common(suite)) == 0
    given = [argument.format(suite=suite, never=never) for argument in arguments]
    capsys.readouterr()
    assert call(*given, "--model", str(to), *common(suite)) == 2
    err = capsys.readouterr().err
    assert f"is quantized already ({TOKEN}) and cannot be quantized again ({purpose})" in err
    assert err.count("\n") == 1
    assert not never.exists()


@pytest.mark.filterwarnings("ignore")  # MLflow's and SQLAlchemy's own deprecations
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--register", "x", "--tracking-uri", "http://127.0.0.1:9"], "http://127.0.0.1:9 cannot be reached"),
        (["--register", "a/b"], "--register 'a/b'"),
        (["--classes", "scens"], "Did you mean 'scenes'"),
    ],
)
def test_what_cannot_be_registered_is_said_before_any_work(
    suite: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    to = suite.parent / "unregistered"
    capsys.readouterr()
    assert call("export", TOKEN, "--suite", str(suite), "--to", str(to), *common(suite), *options) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert not to.exists()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def served(uri: str, store: str, log: Path) -> Iterator[str]:
    """`reliquant serve` on a free loopback port, ended at the end with the process group that it started."""
    port = free_port()
    command = [sys.executable, "-m", "benchmark", "serve", uri, "--tracking-uri", store]
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--port", str(port)],
            env=environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            wait_for(f"http://127.0.0.1:{port}/ping", process, log)
            yield f"http://127.0.0.1:{port}/invocations"
        finally:
            os.killpg(process.pid, 15)
            process.wait(timeout=60)


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(url, timeout=10):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(1)
    raise AssertionError(f"the server did not come up: {log.read_text()[-3000:]}")


def post(url: str, content: dict[str, Any]) -> Any:
    body = json.dumps(content).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.loads(answer.read())


def refused() -> dict[str, tuple[int, str, dict[str, str], bytes]]:
    """What is sent, in words -> status, a part of the message, further headers, body."""

    def table(*images: bytes) -> bytes:
        data = [[base64.b64encode(image).decode()] for image in images]
        return json.dumps({"dataframe_split": {"columns": ["image"], "data": data}}).encode()

    return {
        "EPS": (400, "row 1: EPS is not read; convert it to PNG", {}, table(example((9, 9)), eps(Path("never")))),
        "narrow": (400, "row 0: 5000000 x 1 pixels", {}, table(hostile()["PNG of 5,000,000 x 1"])),
        "a large body": (413, "the body has more than", {"Content-Length": str(65 << 20)}, b"{"),
        "many rows": (413, "send fewer rows", {}, table(*[b""] * 20_000)),
        "deep": (400, "nested deeper than 8", {}, b"[" * 100_000),
        "no JSON": (400, "", {}, b"{"),
        "not base64": (400, "", {}, b'{"dataframe_split": {"columns": ["image"], "data": [[7]]}}'),
        "other columns": (400, "", {}, b'{"dataframe_split": {"columns": ["picture"], "data": [["eA=="]]}}'),
        "another format": (415, "must be JSON", {"Content-Type": "application/vnd.apache.parquet"}, b"PAR1"),
        "a foreign page": (403, "another origin", {"Origin": "http://localhost:3000"}, table(example((9, 9)))),
        "another name": (403, "that Host", {"Host": "evil.example"}, table(example((9, 9)))),
    }


@pytest.mark.slow
def test_a_registered_model_is_served(suite: Path, tmp_path: Path) -> None:
    """In a process of its own, since MLflow keeps its store open: registered, served, asked over HTTP."""
    home, to = suite.parent / "home", tmp_path / "served"
    command = [sys.executable, "-m", "benchmark"]
    export = ["export", TOKEN, "--suite", str(suite), "--to", str(to), *common(suite), "--register", "small-w4"]
    track = ["run", str(suite), "--quant", TOKEN, *common(suite)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    said = ""
    for arguments in (track, export):
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 0, done.stderr
        said = done.stdout
    assert "registered models:/small-w4/1, linked with its run" in said
    files = [p for p in (home / "artifacts" / "small" / "models").rglob("*") if p.is_file()]
    assert {p.name for p in files} >= {"MLmodel", "model.safetensors", "classes.safetensors", "reliquant.json"}
    assert {p.suffix for p in files} <= {"", ".json", ".md", ".safetensors", ".txt", ".yaml"}  # no pickle, no code
    images = [example((64, 64)), example((80, 48))]
    expected = Predictor(to).probabilities(images)
    rows = [[base64.b64encode(image).decode()] for image in images]
    with served("models:/small-w4/1", f"sqlite:///{home / 'mlflow.db'}", tmp_path / "log") as url:
        answer = post(url, {"dataframe_split": {"columns": ["image"], "data": rows}})["predictions"]
        with pytest.raises(urllib.error.HTTPError) as caught:
            post(url, {"dataframe_split": {"columns": ["image"], "data": [["bm8gaW1hZ2U="]]}})
        assert caught.value.code == 400
        assert "row 0: broken image" in caught.value.read().decode()
        for name, (status, message, headers, body) in refused().items():
            request = urllib.request.Request(url, body, {"Content-Type": "application/json", **headers})
            with pytest.raises(urllib.error.HTTPError) as caught:
                urllib.request.urlopen(request, timeout=120)
            said = caught.value.read().decode()
            assert (caught.value.code, message in said) == (status, True), (name, caught.value.code, said)
            assert "Traceback" not in said, name
            assert "stack_trace" not in said, name
            assert len(said.splitlines()) == 1, name
            assert len(said) < 500, name
        assert post(url, {"dataframe_split": {"columns": ["image"], "data": rows}})["predictions"] == answer
    assert list(answer[0]) == list(Predictor(to).names)
    assert np.allclose([list(row.values()) for row in answer], expected, atol=1e-9)
