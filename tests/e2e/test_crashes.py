"""Killed, stopped, out of disk, out of memory, damaged: the next run ends with the records of an undisturbed one."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest

from tests.e2e.runs import EVALUATIONS, QUANTS, command, finish, leftovers, main, results, start

KILLS = 20
MLFLOW = (3, 10, 17)
"""Which of the kills are of runs that log to MLflow."""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], float]:
    """A folder with a finished run, its records, and the seconds that it took."""
    folder = tmp_path_factory.mktemp("undisturbed")
    assert finish(main(folder, "--help")) == 0  # by now the server of processes has imported everything
    began = time.monotonic()
    assert finish(start(folder)) == 0, log(folder)
    seconds = time.monotonic() - began
    found = results(folder / "home")
    assert len(found) == EVALUATIONS
    return folder, found, seconds


def log(folder: Path) -> str:
    return (folder / "log").read_text()


def check_jsonl(home: Path, keys: set[str]) -> None:
    rows = [json.loads(line) for line in (home / "records.jsonl").read_text().splitlines()]
    assert Counter(row["key"] for row in rows) == dict.fromkeys(keys, 1)


def check_mlflow(home: Path, keys: set[str]) -> None:
    """Nothing is RUNNING; a parent for each configuration, below it one child for each of its evaluations."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{home / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("small").experiment_id], max_results=1000)
    assert {run.info.status for run in runs} == {"FINISHED"}
    parents = {run.info.run_id: run.info.run_name for run in runs if run.data.tags["kind"] == "configuration"}
    assert sorted(parents.values()) == sorted(["fp32", *QUANTS])
    children = [run for run in runs if run.data.tags["kind"] == "evaluation"]
    assert Counter(run.data.tags["eval.key"] for run in children) == dict.fromkeys(keys, 1)
    for run in children:
        assert parents[run.data.tags["mlflow.parentRunId"]] == run.data.tags["quantization"]
        assert run.data.metrics
    assert not any(tag.startswith("error") for run in runs for tag in run.data.tags)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # MLflow's own deprecations
def test_killed_at_random_moments_and_run_again(undisturbed: Any, tmp_path: Path) -> None:
    """SIGKILL at 20 moments spread over the whole run; each time the next run completes it."""
    _, expected, seconds = undisturbed
    rng, killed, part = np.random.default_rng(7), 0, 0
    began = time.monotonic()
    assert finish(start(tmp_path, tracker="mlflow")) == 0, log(tmp_path)
    whole = {"jsonl": seconds, "mlflow": time.monotonic() - began}
    for i in range(KILLS):
        folder, tracker = tmp_path / str(i), "mlflow" if i in MLFLOW else "jsonl"
        folder.mkdir()
        process = start(folder, tracker=tracker)
        process.join((i + rng.random()) / KILLS * whole[tracker])
        process.kill()
        killed += finish(process) == -signal.SIGKILL
        home = folder / "home"
        kept = len(results(home)) if (home / "ledger.jsonl").is_file() else 0
        written = sum(1 for _ in (home / "samples").rglob("*.npz"))
        assert 0 <= written - kept <= 1, "more than the evaluation under way was lost"
        part += 0 < kept < EVALUATIONS
        assert finish(start(folder, tracker=tracker)) == 0, log(folder)
        assert f"{EVALUATIONS} evaluations: {EVALUATIONS - kept} computed, {kept} from the ledger" in log(folder)
        assert results(home) == expected, f"killed at moment {i}"
        (check_mlflow if tracker == "mlflow" else check_jsonl)(home, set(expected))
        assert not leftovers(home)
        shutil.rmtree(folder)
    assert killed >= KILLS // 2
    assert part >= 3


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_and_run_again_as_it_says(undisturbed: Any, tmp_path: Path, number: int, status: int) -> None:
    process = start(tmp_path)
    samples = tmp_path / "home" / "samples"
    while process.is_alive() and not any(samples.rglob("*.npz")):
        time.sleep(0.01)
    assert process.pid is not None
    os.kill(process.pid, number)
    assert finish(process) == status, log(tmp_path)
    said = log(tmp_path).splitlines()[-1]
    assert said.startswith("stopped; what is finished is kept. Go on with: reliquant run ")
    assert said.endswith(" ".join(command(tmp_path)))
    assert not leftovers(tmp_path / "home")
    assert finish(start(tmp_path)) == 0, log(tmp_path)
    assert f"{EVALUATIONS} evaluations" in log(tmp_path)
    assert results(tmp_path / "home") == undisturbed[1]


def fail_from(call: int, code: int) -> None:
    """From the n-th time on, bytes cannot be brought to the disk."""
    real, calls = os.fsync, 0

    def fsync(handle: int) -> None:
        nonlocal calls
        calls += 1
        if calls > call:
            raise OSError(code, os.strerror(code))
        real(handle)

    os.fsync = fsync


def limit_files(size: int) -> None:
    """No file may grow beyond `size` bytes: what a full disk does, done by the kernel."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


DISKS: dict[str, tuple[Callable[[], None], str]] = {
    "full at once": (partial(fail_from, 0, errno.ENOSPC), "No space left on device"),
    "full at a bank": (partial(fail_from, 8, errno.ENOSPC), "No space left on device"),
    "full at the results": (partial(fail_from, 20, errno.EDQUOT), "make room"),
    "read-only later": (partial(fail_from, 30, errno.EROFS), "choose another with --home DIR"),
    "no room for pixels": (partial(limit_files, 60_000), "File too large"),
    "no room for samples": (partial(limit_files, 4_000), "File too large"),
}


@pytest.mark.slow
@pytest.mark.parametrize("disk", DISKS)
def test_a_disk_that_takes_no_more(undisturbed: Any, tmp_path: Path, disk: str) -> None:
    spoil, says = DISKS[disk]
    if disk == "no room for samples":  # pixels and banks are there
        shutil.copytree(undisturbed[0] / "home" / "cache", tmp_path / "home" / "cache")
    assert finish(start(tmp_path, spoil=spoil)) == 2, log(tmp_path)
    errors = [line for line in log(tmp_path).splitlines() if line.startswith("reliquant: error:")]
    assert len(errors) == 1, log(tmp_path)
    assert says in errors[0]
    assert "what is finished is kept" in errors[0]
    assert "Traceback" not in log(tmp_path)
    kept = results(tmp_path / "home")
    assert kept.items() <= undisturbed[1].items()
    assert finish(start(tmp_path)) == 0, log(tmp_path)
    assert f"{EVALUATIONS - len(kept)} computed, {len(kept)} from the ledger" in log(tmp_path)
    assert results(tmp_path / "home") == undisturbed[1]


def no_memory_for_four_bits() -> None:
    """Embedding under 4 bits ends as on a device whose memory is full."""
    import torch

    from benchmark.engine import banks

    real = banks.BankMaker.prepare

    def prepare(self: Any, wanted: Any) -> None:
        if self.configuration.quant.weight_bits == 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has ...")
        real(self, wanted)

    banks.BankMaker.prepare = prepare  # type: ignore[method-assign]


@pytest.mark.slow
def test_out_of_memory_fails_a_configuration_and_the_rest_goes_on(undisturbed: Any, tmp_path: Path) -> None:
    assert finish(start(tmp_path, spoil=no_memory_for_four_bits)) == 3, log(tmp_path)
    said = [line for line in log(tmp_path).splitlines() if line.startswith("failed:")]
    assert len(said) == 2
    for line, name in zip(said, QUANTS[1:], strict=True):
        assert line.startswith(f"failed: demo, {name}: ")
        assert line.endswith("out of memory (CUDA out of memory); try a --batch-size below 64")
    assert f"{EVALUATIONS} evaluations: {EVALUATIONS} computed, 0 from the ledger, 6 failed" in log(tmp_path)
    assert finish(start(tmp_path)) == 0, log(tmp_path)
    assert results(tmp_path / "home") == undisturbed[1]


def nan_under_four_bits() -> None:
    """A vision tower under 4 bits gives NaN."""
    from benchmark.engine import banks

    real = banks.BankMaker.quantize

    def quantize(self: Any) -> Any:
        model, report = real(self)
        if self.configuration.quant.weight_bits == 4:
            plain = model.image_encoder
            model = replace(model, image_encoder=lambda module, pixels: plain(module, pixels) * float("nan"))
        return model, report

    banks.BankMaker.quantize = quantize  # type: ignore[method-assign]


@pytest.mark.slow
def test_nan_fails_a_configuration_and_the_rest_goes_on(undisturbed: Any, tmp_path: Path) -> None:
    assert finish(start(tmp_path, spoil=nan_under_four_bits)) == 3, log(tmp_path)
    said = [line for line in log(tmp_path).splitlines() if line.startswith("failed:")]
    assert len(said) == 2
    for line, name in zip(said, QUANTS[1:], strict=True):
        assert line.startswith(f"failed: demo, {name}: ")
        assert "features are not finite from image 0 on; first in layer '" in line
    assert f"{EVALUATIONS} evaluations: {EVALUATIONS} computed, 0 from the ledger, 6 failed" in log(tmp_path)
    assert finish(start(tmp_path)) == 0, log(tmp_path)
    assert results(tmp_path / "home") == undisturbed[1]


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 0x01
    path.write_bytes(content)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["bank", "pixels", "samples", "row", "replicates"])
def test_a_flipped_bit_is_found_said_and_mended(undisturbed: Any, tmp_path: Path, what: str) -> None:
    folder, expected, _ = undisturbed
    home = tmp_path / "home"
    shutil.copytree(folder / "home", home)
    again = EVALUATIONS
    if what in ("bank", "pixels"):  # looked at only where something is to be computed
        (home / "ledger.jsonl").unlink()
        where, name = ("banks", "image.bin") if what == "bank" else ("pixels", "pixels.bin")
        flip(next((home / "cache" / where).rglob(name)), -9)
        if what == "pixels":  # pixels are read only where features are missing
            shutil.rmtree(home / "cache" / "banks")
    elif what == "samples":
        flip(min((home / "samples").rglob("*.npz")), 100)  # within the first column
        again = 1
    elif what == "replicates":
        file = min((home / "replicates").rglob("*.npz"))
        flip(file, 100)
        again = 0
    else:
        line = (home / "ledger.jsonl").read_bytes().index(b'"metrics"')
        flip(home / "ledger.jsonl", (home / "ledger.jsonl").read_bytes().index(b": 0.", line) + 4)
        again = 1
    assert finish(start(tmp_path)) == 0, log(tmp_path)
    assert "damaged" in log(tmp_path)
    assert f"{again} computed" in log(tmp_path)
    assert results(home) == expected
    if what == "replicates":
        assert file.read_bytes() == (folder / file.relative_to(tmp_path)).read_bytes()


class Leaving(BaseHTTPRequestHandler):
    """A tracking server that answers once and is gone."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")
        Thread(target=self.server.shutdown, daemon=True).start()

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # MLflow's own deprecations
def test_a_tracking_server_that_goes_loses_nothing(undisturbed: Any, tmp_path: Path) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Leaving)

    def serve() -> None:
        with server:
            server.serve_forever(poll_interval=0.05)

    Thread(target=serve, daemon=True).start()
    uri = f"http://127.0.0.1:{server.server_address[1]}"
    assert finish(start(tmp_path, "--tracking-uri", uri, tracker="mlflow")) == 0, log(tmp_path)
    assert "warning: tracker 'mlflow' could not be written" in log(tmp_path)
    assert "`reliquant sync` with the same options brings it over" in log(tmp_path)
    home = tmp_path / "home"
    assert results(home) == undisturbed[1]
    assert not (home / "mlflow.db").exists()
    sync = ["sync", str(tmp_path / "small.yaml"), "--limit", "24", "--home", str(home)]
    assert finish(main(tmp_path, *sync, "--tracking-uri", uri)) == 2
    [line] = [line for line in log(tmp_path).splitlines() if line.startswith("reliquant: error:")]
    assert f"tracking store {uri} cannot be reached" in line
    assert "Traceback" not in log(tmp_path)
    for _ in range(2):
        assert finish(main(tmp_path, *sync)) == 0, log(tmp_path)
        assert f"{1 + len(QUANTS)} configurations of suite" in log(tmp_path)
        check_mlflow(home, set(undisturbed[1]))
    assert finish(start(tmp_path, "--tracking-uri", uri, tracker="mlflow")) == 2
    assert "cannot be reached" in log(tmp_path)
