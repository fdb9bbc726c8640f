"""One check of everything that needs a GPU: `python -m tests.gpu`. Prints one table; 8 minutes at most.

What this machine cannot do is skipped with the reason. `--device cpu` rehearses the same checks without a GPU. Ends
with 1 if a check failed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import torch
from rich.console import Console
from rich.table import Table

from benchmark import Results, Settings, embed, load_model, load_suite, make_plan, narrow, parse, quantize, run
from benchmark.engine.request import Timing
from benchmark.quantization.kernels.int8 import _int_mm, int8_available
from benchmark.spec import DataSpec
from tests.docs.markdown import ROOT

BUDGET_S = 480.0
LIMIT = 400
"""Images of each data set in the checks of single methods."""
CLOSE = 0.05
"""By how much an accuracy may differ from the CPU's in full precision; 400 images have a standard error of 0.02."""
Reason = str


@dataclass(frozen=True)
class Check:
    """A check: `needs` gives the reason to skip it, or an empty text; `run` gives what it measured.

    `run` raises AssertionError where the measured is wrong.
    """

    name: str
    needs: Callable[[str], Reason]
    run: Callable[[str], str]


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    name: str
    state: str
    told: str
    seconds: float


def anything(device: str) -> Reason:
    """Only the device itself."""
    return "" if device == "cpu" or torch.cuda.is_available() else "no CUDA device"


def capability(major: int, minor: int) -> Callable[[str], Reason]:
    """A GPU of this compute capability or more."""

    def needs(device: str) -> Reason:
        if device == "cpu" or anything(device):
            return anything(device)
        found = torch.cuda.get_device_capability()
        return "" if found >= (major, minor) else f"compute capability {found[0]}.{found[1]} < {major}.{minor}"

    return needs


def library(name: str, more: Callable[[str], Reason] = anything) -> Callable[[str], Reason]:
    """An installed package, beside something else."""
    return lambda device: more(device) or ("" if find_spec(name) else f"{name} is not installed")


def int8_product(device: str) -> str:
    """The integer product is exact, at sizes with few rows and with uneven ones too."""
    assert int8_available(device) or device == "cpu", "no integer product on this device"
    made = torch.Generator().manual_seed(0)
    sizes = [(1, 64, 64), (17, 768, 3072), (64 * 50, 768, 768)]
    for rows, columns, outputs in sizes:
        left = torch.randint(-128, 128, (rows, columns), dtype=torch.int8, generator=made)
        right = torch.randint(-128, 128, (outputs, columns), dtype=torch.int8, generator=made)
        found = _int_mm(left.to(device), right.to(device)).cpu()
        wanted = left.double() @ right.double().t()  # exact below 2**53
        assert torch.equal(found.double(), wanted), f"{rows} x {columns} x {outputs} is not exact"
    return f"{len(sizes)} sizes exact"


def int8_layers(device: str) -> str:
    """W8A8 on the integer kernel embeds as the float simulation on the CPU does."""
    data = DataSpec(source="demo", split="test", limit=LIMIT)
    model, reference = load_model("demo", device), load_model("demo", "cpu")
    quantized, report = quantize(model, parse("rtn-w8a8-vision"))
    simulated, _ = quantize(reference, parse("rtn-w8a8-vision"))
    engines = {layer.engine for layer in report.towers["vision"].layers}
    assert any(name.startswith("int8") for name in engines), f"ran on {engines}"
    cosine = float((embed(quantized, data).image * embed(simulated, data).image).sum(1).min())
    assert cosine > 0.999, f"least cosine to the CPU {cosine:.5f}"
    return f"{', '.join(sorted(engines))}; least cosine to the CPU {cosine:.5f}"


def sweep(device: str, quantizations: Sequence[str], precision: str = "fp32", timing: Timing = "never") -> Results:
    """The demo's zero-shot task in a folder of its own."""
    suite = narrow(load_suite("demo"), quantizations=["fp32", *quantizations], tasks=["zero_shot"], limit=LIMIT)
    settings = Settings(device=device, precision=precision)  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as home:
        found = run(make_plan(suite, settings), home, quiet=True, timing=timing)
    failed = "; ".join(f"{record.quantization}: {record.error}" for record in found.failed)
    assert not failed, failed
    return found


def accuracies(found: Results) -> dict[str, float]:
    """Quantization -> accuracy on the scenes."""
    return {
        r.quantization: r.metrics["zero_shot/scenes/accuracy"] for r in found.records if r.name == "zero_shot/scenes"
    }


def close(found: dict[str, float]) -> str:
    """Told, and compared with full precision on the CPU."""
    wanted = accuracies(sweep("cpu", []))["fp32"]
    told = ", ".join(f"{name} {value:.3f}" for name, value in found.items()) + f"; fp32 on the CPU {wanted:.3f}"
    assert all(abs(value - wanted) <= CLOSE for value in found.values()), told
    return told


def half_precision(device: str) -> str:
    """Autocast to fp16 and bf16."""
    kinds = ("bf16",) if device == "cpu" else ("fp16", "bf16")
    return close({kind: accuracies(sweep(device, [], kind))["fp32"] for kind in kinds})


def methods(*names: str) -> Callable[[str], str]:
    """These quantizations run, and keep the accuracy."""
    return lambda device: close(accuracies(sweep(device, names)))


def timing(device: str) -> str:
    """A measured pass cannot be faster than the device is busy with it: the clock waits for the device."""
    found = sweep(device, ["bnb-int8-vision"], timing="again")
    speeds = {each["quantization"]: each["speed"] for each in found.efficiencies.values() if each["speed"]}
    assert "fp32" in speeds, "full precision was not timed"
    model = load_model("demo", device)
    pixels = torch.zeros(speeds["fp32"]["batch"], 3, *model.preprocess.size, dtype=torch.uint8)
    busy = least_seconds(lambda: model.encode_image(pixels), device)
    rate = speeds["fp32"]["images_per_second"]
    told = f"fp32 {rate:,.0f} images/s; the device alone {len(pixels) / busy:,.0f}; timed: {', '.join(speeds)}"
    assert rate <= 1.25 * len(pixels) / busy, told
    return told


def least_seconds(work: Callable[[], object], device: str) -> float:
    """The fastest of ten passes, by the device's own events."""
    times = []
    for _ in range(12):
        if device == "cpu":
            start = time.perf_counter()
            work()
            times.append(time.perf_counter() - start)
        else:
            first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            first.record()
            work()
            last.record()
            torch.cuda.synchronize()
            times.append(first.elapsed_time(last) / 1000)
    return min(times[2:])


def whole_suite(device: str) -> str:
    """The six tasks on full precision, beside a bare loop over the same pixels."""
    with tempfile.TemporaryDirectory() as home:
        plan = make_plan(narrow(load_suite("demo"), quantizations=["fp32"]), Settings(device=device))
        start = time.perf_counter()
        found = run(plan, home, quiet=True)
        seconds = time.perf_counter() - start
        assert not found.failed, found.failed[0].error
        loops = [json.loads(bare_loop(home, device, part)) for part in (0, 1)]
    bare, images = sum(loop["seconds"] for loop in loops), sum(loop["images"] for loop in loops)
    return f"{len(found.records)} evaluations in {seconds:.1f} s; the bare loop {bare:.1f} s for {images:,} images"


def bare_loop(home: str, device: str, part: int) -> str:
    """The last line that the loop prints."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "tests.performance.loop", "demo", home, device, str(part)]
    ended = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-300:]
    return ended.stdout.splitlines()[-1]


CHECKS = (
    Check("int8 product", capability(8, 0), int8_product),
    Check("int8 layers", capability(8, 0), int8_layers),
    Check("fp16, bf16", capability(8, 0), half_precision),
    Check("bitsandbytes", library("bitsandbytes"), methods("bnb-int8-vision", "bnb-nf4-vision", "bnb-fp4-vision")),
    Check("torchao int8", library("torchao"), methods("torchao-int8wo-vision", "torchao-int8da-vision")),
    Check("torchao FP8 weights", library("torchao", capability(8, 9)), methods("torchao-fp8wo-vision")),
    Check(
        "torchao FP8 products",
        library("torchao", lambda device: "not on a CPU" if device == "cpu" else capability(8, 9)(device)),
        methods("torchao-fp8da-vision"),
    ),
    Check("timing waits for the device", library("bitsandbytes"), timing),
    Check("six tasks, bare loop", anything, whole_suite),
)


def tried(check: Check, device: str, left: float) -> Row:
    """The outcome of a check; one that fails in any way does not end the others."""
    if reason := check.needs(device) or ("" if left > 0 else f"{BUDGET_S:.0f} s are over"):
        return Row(check.name, "skipped", reason, 0.0)
    start = time.monotonic()
    try:
        state, told = "passed", check.run(device)
    except Exception as error:
        state, told = "FAILED", f"{type(error).__name__}: {error}"
    print(f"{check.name}: {state}", file=sys.stderr, flush=True)  # the table comes at the end
    return Row(check.name, state, told, time.monotonic() - start)


def shown(rows: Sequence[Row]) -> Table:
    """The table."""
    table = Table(box=None, pad_edge=False, show_edge=False, padding=(0, 2, 0, 0))
    for header in ("check", "state", "s", "found"):
        table.add_column(header, overflow="fold", justify="right" if header == "s" else "left")
    for row in rows:
        table.add_row(row.name, row.state, f"{row.seconds:.1f}", row.told)
    return table


def main(words: Sequence[str] | None = None) -> int:
    """Try all, print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.gpu", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    device = parser.parse_args(words).device
    start = time.monotonic()
    rows = [tried(check, device, BUDGET_S - (time.monotonic() - start)) for check in CHECKS]
    named = torch.cuda.get_device_name() if device == "cuda" and torch.cuda.is_available() else device
    console = Console()
    console.print(f"{named}; torch {torch.__version__}, Python {sys.version.split()[0]}", highlight=False)
    console.print(shown(rows))
    return int(any(row.state == "FAILED" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
