"""Simulated integer configurations beside the full-precision forward pass of ViT-B/32's image tower."""

from __future__ import annotations

import json
import sys

from tests.performance.setting import Result, Setting, run

NAME, TARGET = "quantized-forward", 0.5
W8A8, STATIC = "rtn-w8a8-channel-token-vision", "rtn-w6a8-channel-tensor-vision"
CODE = """
import json, sys
from tests.performance.bench_quantized_forward import measure
from benchmark.quantization import cpu_capability
batch, rounds, device, *names = sys.argv[1:]
ratios, full = measure(names, int(batch), int(rounds), device)
print(json.dumps({"ratios": ratios, "full": full, "cpu": cpu_capability()}))
"""


def measure(setting: Setting) -> Result:
    """`bench_quantized_forward.measure` in its own process: side by side, one batch each per round."""
    sizes = setting.sizes
    command = [sys.executable, "-c", CODE, str(sizes.batch), str(sizes.rounds), setting.device, W8A8, STATIC]
    found = json.loads(run(command).stdout.splitlines()[-1])
    (wall, _, engine), (static, _, other) = found["ratios"][W8A8], found["ratios"][STATIC]
    integer = engine not in ("float-simulated", "dequantized")
    note = "" if integer else " This machine has no fast int8 matrix product for it: the codes are computed in float."
    return Result(
        NAME,
        f"simulated W8A8 / full-precision forward (engine: {engine})",
        f"{wall:.2f}",
        "0.3-0.43",
        f"<= {TARGET}",
        wall <= TARGET,
        (
            f"`{W8A8}`: {wall:.2f} on engine {engine}, {found['cpu']}.{note}",
            f"`{STATIC}`: {static:.2f} on engine {other}.",
            f"Full precision: {found['full']:.3f} s a batch of {sizes.batch}; medians of {sizes.rounds} rounds.",
        ),
        {"w8a8": wall, "engine": engine, "static": static, "static_engine": other, "cpu": found["cpu"]},
    )
