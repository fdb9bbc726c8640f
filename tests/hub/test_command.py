"""The command line against the loopback hub: errors, records, repeated commands, moved revisions, kills, a hub away."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from benchmark.cli.app import main
from benchmark.ledger.records import Ledger
from benchmark.models import resolve
from benchmark.models.references import demo_folder
from benchmark.utils import hub_client
from tests import layouts
from tests.hub import Hub
from trackers.mlflow_names import commit_tags

WEIGHTS = "open_clip_model.safetensors"
RUN = ("run", "demo", "--model", "hf-hub:org/name", "--limit", "40", "--tracker", "jsonl", "--no-speed")
W4 = "rtn-w4a8-channel-token-vision"


def called(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of the command line, in this process."""
    monkeypatch.setattr(sys, "argv", ["reliquant", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    output = capsys.readouterr()
    assert isinstance(caught.value.code, int)
    return caught.value.code, output.out, output.err


def started(hub: Hub, folder: Path, *arguments: str, offline: bool = False) -> subprocess.Popen[str]:
    """The command line in a process of its own, which asks the hub."""
    folder.mkdir(exist_ok=True)
    environment = {**os.environ, **hub.environment(folder, offline=offline), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    command = [sys.executable, "-m", "benchmark", *arguments]
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment, cwd=folder, **pipes)


def done(hub: Hub, folder: Path, *arguments: str, offline: bool = False) -> tuple[str, float]:
    """Its output, and the seconds that it took."""
    start = time.monotonic()
    process = started(hub, folder, *arguments, offline=offline)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out + err, time.monotonic() - start


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (lambda hub: hub.repositories.clear(), "no such repository on the hub, or it is private"),
        (lambda hub: setattr(hub.model("org/name"), "gated", True), "gated: accept its terms at http"),
        (lambda hub: hub.fail("/api/models", 401), "the hub refuses the token (401): log in again"),
        (lambda hub: hub.fail("/cdn/", 500), f"{WEIGHTS} cannot be fetched: the hub answers 500 (its own fault)"),
        (lambda hub: hub.fail("/cdn/", 429, Retry_After="120"), "asks to wait 2 min; run the same command again then"),
        (lambda hub: hub.cut("/cdn/", at=50_000, times=None), "whole files are kept"),
        (lambda hub: hub.cut("/cdn/", at=50_000, times=None, reset=True), "Connection reset by peer"),
        (lambda hub: hub.cut("/api/models", at=3, times=None), "peer closed connection"),
        (lambda hub: hub.stop(), "cannot be reached (Connection refused)"),
    ],
    ids=["404", "gated", "401", "500", "429", "cut", "reset", "cut api", "down"],
)
def test_one_line_says_what_to_do(
    loopback_hub: Hub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    fault: Any,
    told: str,
) -> None:
    loopback_hub.model("org/name").commit_folder(demo_folder())
    with loopback_hub.asked_here(tmp_path):
        monkeypatch.setattr(time, "sleep", lambda _: None)
        fault(loopback_hub)
        status, _, err = called(monkeypatch, capsys, *RUN, "--task", "zero_shot", "--home", str(tmp_path / "home"))
    assert status == 2
    error = [line for line in err.splitlines() if line.startswith("reliquant: error: ")]
    assert len(error) == 1
    assert told in error[0]
    assert "Traceback" not in err


PAIRS = """
name: paired
version: 1
models: [demo]
quantizations: [gptq-w4-channel-vision+text]
calibration: pairs
data:
  scenes: {source: demo, split: test}
  pairs: {source: hub, path: org/pairs, split: train}
tasks:
  zero_shot:
    scenes: {test: scenes}
"""


def test_calibration_pairs_must_say_that_their_text_is_captions(
    loopback_hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    layouts.write_webdataset(tmp_path / "pairs", None, captions=True, count=6, shards=1)
    loopback_hub.dataset("org/pairs").commit({"train/0.tar": tmp_path / "pairs" / "00000.tar"})
    suite = tmp_path / "suite.yaml"
    suite.write_text(PAIRS)
    home = ("--home", str(tmp_path / "home"), "--limit", "20", "--tracker", "jsonl", "--no-speed")
    with loopback_hub.asked_here(tmp_path):
        for command in (("validate", str(suite)), ("run", str(suite), *home)):
            status, out, err = called(monkeypatch, capsys, *command)
            assert status == 2
            assert "is valid" not in out
            assert "calibration 'pairs' has image-caption pairs and no classes: add 'text: captions' to data" in err
        suite.write_text(PAIRS.replace("split: train", "split: train, text: captions"))
        status, out, err = called(monkeypatch, capsys, "validate", str(suite))
        assert (status, "suite 'paired' is valid" in out) == (0, True), err
        suite.write_text(PAIRS.replace("calibration: pairs\n", ""))
        status, out, err = called(monkeypatch, capsys, "validate", str(suite))
        assert (status, "needs calibration data. Add 'calibration: NAME'" in err) == (2, True)


def moved(hub: Hub, folder: Path) -> str:
    """A second commit of the demo model, with other weights."""
    state = load_file(demo_folder() / WEIGHTS)
    name = next(name for name in sorted(state) if state[name].dim() == 2)
    save_file(state | {name: state[name] * 1.05}, folder / "moved.safetensors")
    return hub.model("org/name").commit({WEIGHTS: folder / "moved.safetensors"})


SMALL = """
name: small
version: 1
models: ["hf-hub:org/name"]
quantizations: [fp32, rtn-w4a8-channel-token-vision]
data:
  scenes: {source: demo, split: test}
  far: {source: demo, split: far_ood, text: none}
tasks:
  zero_shot:
    scenes: {test: scenes}
  ood:
    scenes.far: {id: scenes, ood: far}
"""


def small(folder: Path) -> tuple[str, ...]:
    """The arguments that run a small suite with the hub's model."""
    (folder / "small.yaml").write_text(SMALL)
    return ("run", "small.yaml", "--limit", "20", "--tracker", "jsonl", "--no-speed")


@pytest.mark.slow
def test_a_revision_that_moves_between_two_runs(
    loopback_hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def ran(*arguments: str) -> str:
        status, out, err = called(monkeypatch, capsys, *arguments)
        assert status in ((0, 1, 4) if arguments[0] == "gate" else (0,)), err
        return out + err

    first, run = loopback_hub.model("org/name").commit_folder(demo_folder()), small(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    with loopback_hub.asked_here(tmp_path):
        ran(*run)
        second = moved(loopback_hub, tmp_path)
        ran(*run, "--task", "zero_shot")
        pinned = ("--model", f"hf-hub:org/name@{first}", "--task", "zero_shot", "--home", "pinned")
        ran(*run, *pinned)
    records = Ledger(tmp_path / "mlruns").records.values()
    digests = {r.identity["model"]["digest"]: r.provenance["model"]["commits"] for r in records}
    assert list(digests.values()) == [{"org/name": first}, {"org/name": second}]
    assert commit_tags(records) == {"model.commit": f"org/name@{first}, org/name@{second}"}
    again = {r.key: r.metrics for r in Ledger(tmp_path / "pinned").records.values()}
    assert again == {r.key: r.metrics for r in records if r.key in again}
    old, new = (f"org.name (weights {digest[:8]})" for digest in digests)
    of_old, of_new = ran("compare", "--suite", "small.yaml").split(old)[1].split(new)
    assert ("ood/" in of_old, "ood/" in of_new) == (True, False)  # each as it was run
    for options in ((), ("--baseline", "mlruns")):
        told = ran("gate", W4, "--suite", "small.yaml", *options).splitlines()
        assert [line.split(" of ")[1].split(", on")[0] for line in told if line[0] != " "] == [old, new]
    about = ran("show", W4, "--suite", "small.yaml")
    for commit in (first, second):
        assert f"--model hf-hub:org/name@{commit}" in about
    page = ran("report", "small.yaml", "--output", "page.html") and (tmp_path / "page.html").read_text()
    assert all(name in page for name in (old, new, first, second))


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_stopped_during_the_download(loopback_hub: Hub, tmp_path: Path, how: signal.Signals) -> None:
    """Stopped at random moments of a slow download; the next command goes on to the same model."""
    loopback_hub.model("org/name").commit_folder(demo_folder())
    layouts.write_webdataset(tmp_path / "local", ["ant", "bee"], count=6, shards=1)
    suite = tmp_path / "suite.yaml"
    suite.write_text(
        PAIRS.replace("demo]", "hf-hub:org/name]").replace("gptq-w4-channel-vision+text", "rtn-w8-channel-vision")
    )
    layouts.write_webdataset(tmp_path / "pairs", None, captions=True, count=6, shards=1)
    loopback_hub.dataset("org/pairs").commit({"train/0.tar": tmp_path / "pairs" / "00000.tar"})
    suite.write_text(suite.read_text().replace("split: train", "split: train, text: captions"))
    random, command = Random(3), ("run", str(suite), "--limit", "6", "--tracker", "jsonl", "--no-speed")
    for _ in range(2):
        loopback_hub.fault("GET /cdn/", pause=0.003)
        process = started(loopback_hub, tmp_path, *command)
        limit = time.monotonic() + 60
        while not sum(r.sent for r in loopback_hub.requests("GET /cdn/")) > 50_000 and time.monotonic() < limit:
            time.sleep(0.02)
        time.sleep(random.random())
        process.send_signal(how)
        _, err = process.communicate(timeout=60)
        assert process.returncode in (-9, 130), err
        assert "Traceback" not in err
        loopback_hub.heal()
        loopback_hub.forget()
    done(loopback_hub, tmp_path, *command)
    out, _ = done(loopback_hub, tmp_path, "validate", str(suite))
    assert "all its models and data are on this machine" in out
    with loopback_hub.asked_here(tmp_path, offline=True):
        assert resolve("hf-hub:org/name").digest == resolve("demo").digest


@pytest.mark.slow
def test_a_hub_that_is_away_costs_at_most_one_timeout(loopback_hub: Hub, tmp_path: Path) -> None:
    loopback_hub.model("org/name").commit_folder(demo_folder())
    command = small(tmp_path)
    done(loopback_hub, tmp_path, *command)
    _, offline = done(loopback_hub, tmp_path, *command, offline=True)
    with loopback_hub.down():
        said, refused = done(loopback_hub, tmp_path, *command)
    assert "from the cache, since" in said
    with loopback_hub.silent():
        said, silent = done(loopback_hub, tmp_path, *command)
    assert "no answer in time" in said
    print(f"offline {offline:.1f} s, refused {refused:.1f} s, silent {silent:.1f} s")
    assert refused < 1.5 * offline + 1
    assert silent < 1.5 * offline + 1 + hub_client.PROBE
    shutil.rmtree(tmp_path / "hf")
