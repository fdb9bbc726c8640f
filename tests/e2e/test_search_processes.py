"""Four processes on one study from the command line, one of them killed at a chosen moment: nothing lost or doubled."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from search.history import evaluated
from search.storage import open_storage
from tests.e2e.test_search import SUITE

VICTIM = "rtn-w4a8-channel-token-vision"
"""A customary configuration, so some process gets it: the first one dies in the middle of it."""
WORKER = """
import os, signal, sys
from pathlib import Path
from benchmark.engine import banks
folder, plain = Path(sys.argv.pop(1)), banks.quantize

def quantize(model, spec, *rest, **named):
    if spec.name == VICTIM and not (folder / "died").exists():
        (folder / "died").write_text(str(os.getpid()))
        os.kill(os.getpid(), signal.SIGKILL)
    return plain(model, spec, *rest, **named)

banks.quantize = quantize
from benchmark.cli import main
main()
""".replace("VICTIM", repr(VICTIM))
TRIALS = 14


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    common = ["--trials", str(TRIALS), "--home", str(folder / "home"), "--no-tracking", "--quiet"]
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, str(folder), "search", *arguments, *common],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def wait_for_trials(folder: Path, url: str | None, first: subprocess.Popen[str]) -> None:
    """Until the study has what it begins with."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and first.poll() is None:
        if (folder / "home" / "studies").is_dir():
            storage = open_storage(folder / "home", url)
            there = "one" in optuna.get_all_study_names(storage)
            if there and optuna.load_study(study_name="one", storage=storage).get_trials(deepcopy=False):
                return
        time.sleep(0.2)
    raise AssertionError(f"no study: {first.communicate()}")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["journal", "sqlite"])
def test_four_processes_of_which_one_is_killed(tmp_path: Path, kind: str) -> None:
    suite = tmp_path / "small.yaml"
    suite.write_text(SUITE)
    url = None if kind == "journal" else f"sqlite:///{tmp_path}/study.db"
    storage = [] if url is None else ["--storage", url]
    workers = [start(tmp_path, str(suite), "--method", "rtn", "--scope", "vision", "--name", "one", *storage)]
    try:
        wait_for_trials(tmp_path, url, workers[0])
        workers += [start(tmp_path, "--resume", "one", *storage) for _ in range(3)]
        said = [worker.communicate(timeout=400) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert sorted(worker.returncode for worker in workers) == [-signal.SIGKILL, 0, 0, 0], said
    died = int((tmp_path / "died").read_text())
    assert [worker.pid for worker in workers if worker.returncode] == [died]
    study = optuna.load_study(study_name="one", storage=open_storage(tmp_path / "home", url))
    trials = study.get_trials()
    assert not [t for t in trials if t.state in (TrialState.RUNNING, TrialState.WAITING)]
    done = evaluated(study)
    assert len(done) == len(set(done)) >= TRIALS
    (again,) = [t for t in trials if "retry_of" in t.user_attrs]
    (stale,) = [trials[number] for number in again.user_attrs["retry_of"]]
    assert (stale.state, again.state) == (TrialState.FAIL, TrialState.COMPLETE)
    assert stale.user_attrs["configuration"] == again.user_attrs["configuration"] == VICTIM
    finished = Counter(
        t.user_attrs["configuration"]
        for t in trials
        if t.state is TrialState.COMPLETE and "repeat_of" not in t.user_attrs
    )
    assert set(finished) == set(done)
    assert set(finished.values()) == {1}
    rows = [json.loads(line) for line in (tmp_path / "home" / "ledger.jsonl").read_text().splitlines()]
    written = Counter(row["key"] for row in rows if "key" in row)
    assert len(written) > TRIALS
    assert set(written.values()) == {1}
