"""What ends in other ways than it should, through the command line: each is recorded, and the rest goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path

from benchmark.ledger.records import Ledger, Record
from tests.e2e.vectors import Try

PLAIN = "rtn-w4a8-channel-token-vision"
LIMIT = 2
"""Seconds that a task may take in these runs."""

HEAD = """
import ctypes, gc, os, signal, subprocess, sys, threading, time
import numpy as np
import torch
from benchmark.errors import StorageError
from benchmark.models.base import ClipModel
from benchmark.plugins import Banks, Columns, Metric, Summary, Task
from benchmark.tracking import Tracker
from benchmark.quantization import COMMON_FIELDS, WEIGHT_FIELDS, Simulated, affine

class Unspeakable(Exception):
    def __str__(self):
        raise SystemExit(0)

class Own(BaseException):
    pass

def throw(error):
    raise error

def again(banks):
    return again(banks)

def stubborn():
    while True:
        try:
            while True:
                time.sleep(0.01)
        except BaseException:
            pass

def writable(array):
    array.flags.writeable = True
    array[...] = 0

def noise():
    print("noise by print")
    sys.__stdout__.write("noise by __stdout__\\n")
    os.write(1, b"noise by os.write\\n")
    ctypes.CDLL(None).puts(b"noise by puts")
    ctypes.CDLL(None).fflush(None)
    subprocess.run(["echo", "noise by a child"], check=True)

def odd(bank):
    return Columns({"test": {"sample_id": bank.sample_id, "what": np.array([object()] * len(bank))}})

def made(name, body, returns=None, then=lambda columns: None):
    def observe(banks: Banks, options) -> Columns:
        bank = banks["test"]
        body(banks)
        return returns(bank) if returns else Columns({"test": {"sample_id": bank.sample_id}})
    def summarise(columns: Columns, options) -> Summary:
        then(columns)
        return Summary({"n": float(len(columns["test"]["sample_id"]))})
    metrics = (Metric("n", "neither", unit="count", headline=True),)
    return Task(name, 1, ("test",), metrics, observe, summary_of=summarise)
"""
ENDS = {
    "sys_exit": ("sys.exit(0) in a task", "lambda b: sys.exit(0)", "SystemExit"),
    "generator_exit": ("GeneratorExit in a task", "lambda b: throw(GeneratorExit())", "GeneratorExit"),
    "keyboard": ("a KeyboardInterrupt of a task's own", "lambda b: throw(KeyboardInterrupt())", "KeyboardInterrupt"),
    "stop_iteration": ("StopIteration in a task", "lambda b: throw(StopIteration())", "StopIteration"),
    "recursion": ("endless recursion in a task", "again", "RecursionError"),
    "memory": ("MemoryError in a task", "lambda b: throw(MemoryError())", "out of memory"),
    "unspeakable": ("an exception whose text exits", "lambda b: throw(Unspeakable())", "Unspeakable"),
    "own_base": ("a BaseException of a task's own", "lambda b: throw(Own('x'))", "Own: x"),
    "group": ("a group with SystemExit", "lambda b: throw(BaseExceptionGroup('g', [SystemExit(0)]))", "ExceptionGroup"),
    "os_exit": ("os._exit(0) in a task", "lambda b: os._exit(0)", "os._exit(0)"),
    "storage": ("our own StorageError in a task", "lambda b: throw(StorageError('no room'))", "StorageError"),
    "writes": ("a task writes to features", "lambda b: b['test'].image.__setitem__(0, 0)", "read-only"),
    "sorts": ("a task sorts labels in place", "lambda b: b['test'].label.sort()", "read-only"),
    "text": ("a task writes to class weights", "lambda b: b['test'].text.fill(0)", "read-only"),
    "flag": ("a task sets writeable on features", "lambda b: writable(b['test'].image)", "read-only"),
    "flag_label": ("a task sets writeable on labels", "lambda b: writable(b['test'].label)", "read-only"),
    "torch": ("a task writes through torch", "lambda b: torch.from_numpy(b['test'].image).mul_(2)", "read-only"),
    "memset": ("a task writes by address", "lambda b: ctypes.memset(b['test'].image.ctypes.data, 0, 8)", "read-only"),
    "loop": ("a Python loop without end", "lambda b: [0 for _ in iter(int, 1)]", "timed out after 2 s"),
    "sleep": ("a sleep without end", "lambda b: time.sleep(10**6)", "timed out after 2 s"),
    "native": ("a native sleep without end", "lambda b: ctypes.CDLL(None).sleep(10**6)", "timed out after 2 s"),
    "child": ("a child without end", "lambda b: subprocess.run(['sleep', '1000000'])", "timed out after 2 s"),
    "stubborn": ("a loop that catches everything", "lambda b: stubborn()", "timed out after 2 s"),
    "late_exit": ("sys.exit(0) in summarise", "lambda b: None, then=lambda c: sys.exit(0)", "SystemExit"),
    "late_loop": ("summarise without end", "lambda b: None, then=lambda c: time.sleep(10**6)", "timed out after 2 s"),
    "odd": ("a column of objects", "lambda b: None, odd", "column 'what'"),
}
"""Task -> what is tried, its body, and what its reason must have."""

METHODS = """
def original(job):
    return next(o for o in gc.get_objects() if isinstance(o, ClipModel) and o.module is not job.model.module)

def edit(job):
    next(original(job).module.parameters()).data.mul_(2)

def later(job):
    victim = original(job)
    layer = next(m for m in job.model.module.modules() if isinstance(m, torch.nn.LayerNorm))
    layer.register_forward_pre_hook(lambda *_: [next(victim.module.parameters()).data.add_(1)] and None)

class Method(Simulated):
    def quantize_tower(self, job):
        BODIES[self.name](job)
        return super().quantize_tower(job)

    def quantize_weight(self, job, item, scheme, seen):
        weight = item.target.layer.weight.detach().float()
        return affine.quantize_weight(weight, scheme, affine.value_range(scheme.grouped(weight)))

BODIES = {
    "edits": edit,
    "hooks": lambda job: original(job).module.register_forward_hook(lambda m, a, out: None),
    "later": later,
    "quits": lambda job: sys.exit(0),
    "leaves": lambda job: os._exit(0),
}
for each in BODIES:
    globals()[each] = Method(name=each, version=1, title=each, paper="none", fields=WEIGHT_FIELDS | COMMON_FIELDS)
"""
CHANGES = "changes the full-precision model"
BAD_METHODS = {
    "edits": ("a quantizer edits the original by .data", CHANGES),
    "later": ("a quantized model edits the original while it runs", CHANGES),
    "hooks": ("a quantizer hooks the original", CHANGES),
    "quits": ("sys.exit(0) in a quantizer", "SystemExit"),
    "leaves": ("os._exit(0) in a quantizer", "os._exit(0)"),
}
IMPORTS = {
    "sys.exit(0)": "sys.exit(0)",
    "os._exit(0)": "os._exit(0)",
    "KeyboardInterrupt": "raise KeyboardInterrupt",
    "GeneratorExit": "raise GeneratorExit",
}
NOISY = ("list tasks", "validate SUITE", "run SUITE", "compare --suite small", "show fp32 --suite small", "sync SUITE")


def command(*words: str) -> list[str]:
    """A command line of this tree, for `subprocess`."""
    return [sys.executable, "-m", "benchmark", *words]


def call(folder: Path, *words: str, seconds: float = 300) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder until it ends."""
    return subprocess.run(
        command(*words), cwd=folder, env=environment(), capture_output=True, text=True, timeout=seconds, check=False
    )


def environment() -> dict[str, str]:
    """Of the commands: this tree, and nothing of the caller's choices."""
    root = Path(__file__).resolve().parents[2]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RELIQUANT_")}
    return {**kept, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}


def suite(tasks: Mapping[str, str], quants: str = "fp32") -> str:
    """A suite file: task -> data set."""
    bound = "".join(f"  {task}: {{{data}: {{test: {data}}}}}\n" for task, data in tasks.items())
    return (
        f"name: small\nversion: 1\nmodels: [demo]\nquantizations: [{quants}]\n"
        f"data:\n  scenes: {{source: demo, split: test}}\ntasks:\n{bound}"
    )


def folder_with(tmp: Path, name: str, code: str, text: str) -> Path:
    """A new folder with `plugins.py` and `suite.yaml`."""
    folder = tmp / name
    folder.mkdir(parents=True)
    (folder / "plugins.py").write_text(HEAD + code)
    (folder / "suite.yaml").write_text(text)
    return folder


RUN = ("run", "suite.yaml", "--limit", "24", "--home", "home", "--no-speed", "--include", "plugins.py")


def records(folder: Path) -> dict[tuple[str, str], Record]:
    """(quantization, task) -> its record."""
    return {(r.quantization, r.task): r for r in Ledger(folder / "home").records.values()}


def in_a_task(sweep: Callable[[], Path], name: str, says: str) -> str:
    """One evaluation of a sweep that went on."""
    folder = sweep()
    record, good = records(folder)["fp32", name], records(folder)["fp32", "zero_shot"]
    assert (record.status, good.status) == ("failed", "done"), (record, good)
    assert says in str(record.error), record.error
    return f"failed evaluation: {str(record.error)[:90]}"


def bad_tasks(tmp: Path) -> Path:
    """Every bad task beside a good one, in one run."""
    code = "".join(f"task_{name} = made({name!r}, {body})\n" for name, (_, body, _) in ENDS.items())
    folder = folder_with(tmp, "tasks", code, suite(dict.fromkeys([*ENDS, "zero_shot"], "scenes")))
    done = call(folder, *RUN, "--tracker", "jsonl", "--task-timeout", str(LIMIT))
    assert done.returncode == 3, (done.returncode, done.stderr)
    return folder


def bad_methods(tmp: Path) -> Path:
    """Every bad method before a good one, in one run; the good one's numbers beside those of a run alone."""
    names = ", ".join(["fp32", *(f"{name}-w4-channel-vision" for name in BAD_METHODS), PLAIN])
    folder = folder_with(tmp, "methods", METHODS, suite({"zero_shot": "scenes"}, names))
    done = call(folder, *RUN, "--tracker", "jsonl")
    assert done.returncode == 3, (done.returncode, done.stderr)
    alone = folder_with(tmp, "alone", METHODS, suite({"zero_shot": "scenes"}, f"fp32, {PLAIN}"))
    assert call(alone, *RUN, "--tracker", "jsonl").returncode == 0
    return folder


def in_a_method(sweep: Callable[[], Path], name: str, says: str) -> str:
    """One method of a sweep that went on with a clean model."""
    folder = sweep()
    record = records(folder)[f"{name}-w4-channel-vision", "zero_shot"]
    assert record.status == "failed", record
    assert says in str(record.error), record.error
    for quant in ("fp32", PLAIN):
        found, expected = (records(each)[quant, "zero_shot"].metrics for each in (folder, folder.parent / "alone"))
        assert found == expected, quant
    return f"failed evaluation: {str(record.error)[:90]}"


def at_import(tmp: Path, name: str, statement: str) -> str:
    """An included file that ends the process when it is imported."""
    folder = folder_with(tmp, f"import-{name}", f"\n{statement}\n", "")
    done = call(folder, "list", "tasks", "--include", "plugins.py")
    assert done.returncode == 2, (done.returncode, done.stderr)
    [line] = done.stderr.splitlines()
    assert line.startswith("reliquant: error: --include plugins.py: "), line
    return f"refused: {line.removeprefix('reliquant: error: ')}"


def noisy(tmp: Path, words: str) -> str:
    """A plugin that writes to stdout in every way, under `--json`: stdout has JSON alone."""
    folder = tmp / "noisy"
    if not folder.exists():
        made = "\nnoise()\nloud = made('loud', lambda b: noise())\n"
        folder_with(tmp, "noisy", made, suite({"loud": "scenes", "zero_shot": "scenes"}, f"fp32, {PLAIN}"))
        assert call(folder, *RUN, "--tracker", "jsonl").returncode == 0
    first, *rest = words.replace("SUITE", "suite.yaml").split()
    options = [*rest, "--include", "plugins.py", "--json"]
    options += ["--home", "home"] if first not in ("list", "validate") else []
    options += ["--limit", "24"] if first in ("run", "sync") else []
    options += ["--no-speed", "--home", "another", "--tracker", "jsonl"] if first == "run" else []
    done = call(folder, first, *options)
    assert done.returncode == 0, (done.returncode, done.stderr)
    lines = done.stdout.splitlines()
    assert lines, "no output"
    for line in lines:
        json.loads(line)
    assert "noise by a child" in done.stderr
    return f"inert: {len(lines)} lines, all JSON"


def killed_by_itself(tmp: Path) -> str:
    """What nobody can catch: the status is not 0, and the next run goes on."""
    code = "die = made('die', lambda b: os.kill(os.getpid(), signal.SIGKILL))\n"
    folder = folder_with(tmp, "killed", code, suite({"zero_shot": "scenes", "die": "scenes"}))
    assert call(folder, *RUN, "--tracker", "jsonl").returncode == -signal.SIGKILL
    done = call(folder, *RUN, "--tracker", "jsonl", "--task", "zero_shot")
    assert done.returncode == 0, done.stderr
    return "status of the signal; the next run goes on"


SLOW = """
def slow_work(banks):
    open(f"began-{os.getpid()}", "w").close()
    for _ in range(40):
        time.sleep(0.1)
slow = made("slow", slow_work)
"""


def stopped_beside_working(tmp: Path) -> str:
    """SIGSTOP one of two processes in the middle of a task: the other ends; SIGCONT: the first ends too."""
    folder = folder_with(tmp, "stopped", SLOW, suite({"slow": "scenes", "zero_shot": "scenes"}, f"fp32, {PLAIN}"))
    words = command(*RUN, "--tracker", "jsonl")
    with (folder / "first.log").open("w") as log:
        first = subprocess.Popen(words, cwd=folder, env=environment(), stdout=log, stderr=log)
        try:
            wait_for((folder / f"began-{first.pid}").exists, 120)
            first.send_signal(signal.SIGSTOP)
            began = time.monotonic()
            second = call(folder, *RUN, "--tracker", "jsonl", seconds=140)
            seconds = time.monotonic() - began
            assert second.returncode == 0, second.stderr
            first.send_signal(signal.SIGCONT)
            assert first.wait(120) == 0, (folder / "first.log").read_text()
        finally:
            first.kill()
            first.wait()
    for file in ("home/ledger.jsonl", "home/records.jsonl"):
        rows = [json.loads(line) for line in (folder / file).read_text().splitlines()]
        keys = [row["key"] for row in rows if row.get("kind", "record") == "record"]
        assert len(keys) == len(set(keys)) == 4, (file, keys)
    assert not list((folder / "home" / "leases").glob("*.owner"))
    return f"inert: the other ended after {seconds:.0f} s, each record once"


def export_is_killed(tmp: Path) -> str:
    """SIGKILL in the middle of an export: the next one leaves nothing of it."""
    folder = tmp / "export"
    folder.mkdir()
    words = ("export", "rtn-w4-channel-vision", "--limit", "24", "--home", "home", "--to", "out/model")

    def left() -> list[Path]:
        return list((folder / "out").glob(".*"))

    killed = subprocess.Popen(
        command(*words), cwd=folder, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    wait_for(lambda: bool(left()) or killed.poll() is not None, 120)
    killed.kill()
    killed.wait()
    assert left(), "the kill came too late"
    done = call(folder, *words)
    assert done.returncode == 0, done.stderr
    assert not left(), left()
    assert {path.name for path in (folder / "out").iterdir()} == {"model"}
    assert not (folder / "out" / "model" / ".owner").exists()
    return "inert: removed by the next export"


def wait_for(true: Callable[[], bool], seconds: float) -> None:
    """Until it is true."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.02)


LEAVING = """
class Leaving(Tracker):
    name = "leaving"
    def open(self, home, uri=None):
        return self
    def log(self, finished):
        sys.exit(0)

leaving = Leaving()
"""


def leaving_tracker(tmp: Path) -> str:
    """A tracker from an included file that tries to end the command."""
    folder = folder_with(tmp, "tracker", LEAVING, suite({"zero_shot": "scenes"}))
    done = call(folder, *RUN, "--tracker", "leaving")
    assert done.returncode == 0, (done.returncode, done.stderr)
    assert records(folder)["fp32", "zero_shot"].status == "done"
    [line] = [line for line in done.stderr.splitlines() if "tracker 'leaving'" in line]
    assert "SystemExit" in line, line
    return line[:110]


def tries(tmp: Path) -> list[Try]:
    """All of them; those of one sweep share it."""
    tasks, methods = cache(partial(bad_tasks, tmp)), cache(partial(bad_methods, tmp))
    found = [Try("ends", title, partial(in_a_task, tasks, name, says)) for name, (title, _, says) in ENDS.items()]
    found += [Try("ends", title, partial(in_a_method, methods, n, says)) for n, (title, says) in BAD_METHODS.items()]
    found += [Try("ends", f"{name} in an included file", partial(at_import, tmp, *item)) for name, item in _numbered()]
    found += [Try("ends", f"a plugin prints: {words} --json", partial(noisy, tmp, words)) for words in NOISY]
    return [
        *found,
        Try("ends", "sys.exit(0) in a tracker of an included file", partial(leaving_tracker, tmp)),
        Try("ends", "a task kills its process", partial(killed_by_itself, tmp)),
        Try("ends", "an export is killed", partial(export_is_killed, tmp)),
        Try("ends", "a process is stopped beside a working one", partial(stopped_beside_working, tmp)),
    ]


def _numbered() -> list[tuple[str, tuple[str, str]]]:
    return [(name, (str(i), statement)) for i, (name, statement) in enumerate(IMPORTS.items())]
