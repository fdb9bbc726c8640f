"""Processor seconds of the spectral arithmetic at full size: `python tests/performance/bench_spectrum.py`.

Features of 50,000 images with 768 dimensions, as a memory-mapped file, in batches: the basis (full precision's
directions), and the meter of one quantization beside it (its own spectrum, gains with intervals, accuracy in
three rank bands of either basis).
"""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np

from benchmark.metrics.spectrum import EigenBasis
from benchmark.spectrum.layers import LayerMeter, Readout, layer_bases

IMAGES, DIMENSION, CLASSES, BATCH = 50_000, 768, 100, 4096
T = TypeVar("T")


def clocked(name: str, work: Callable[[], T]) -> T:
    """Run and print seconds of the clock and of all processors, and the peak memory of the process so far."""
    start, processor = time.perf_counter(), time.process_time()
    result = work()
    wall, spent = time.perf_counter() - start, time.process_time() - processor
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{name:<50} {wall:6.1f} s  {spent:6.1f} s CPU  peak {peak:,.0f} MiB", flush=True)
    return result


def main() -> None:
    """Print the table."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / name for name in ("full.npy", "quantized.npy")]
        for file, noise in zip(files, (0.0, 0.1), strict=True):
            array = np.lib.format.open_memmap(file, "w+", np.float32, (IMAGES, DIMENSION))
            for start in range(0, IMAGES, 5_000):
                x = np.random.default_rng(start).normal(size=(5_000, DIMENSION)) / np.arange(1, DIMENSION + 1) ** 0.5
                array[start : start + 5_000] = x + noise * rng.normal(size=x.shape)
            array.flush()
        full, quantized = (np.load(file, mmap_mode="r") for file in files)
        labels = rng.integers(CLASSES, size=IMAGES)
        groups = rng.integers(64, size=IMAGES)
        starts = range(0, IMAGES, BATCH)

        def basis_of(count: int) -> EigenBasis:
            return layer_bases({"image": full[start : start + BATCH]} for start in starts if start < count)["image"]

        basis_of(BATCH)  # what is done once
        basis = clocked(f"basis of {IMAGES:,} x {DIMENSION}", lambda: basis_of(IMAGES))

        def paired() -> object:
            meter = LayerMeter(
                basis, Readout(rng.normal(size=(DIMENSION, CLASSES)), np.zeros(CLASSES), cosines=True), True
            )
            for start in starts:
                part = slice(start, start + BATCH)
                meter.update(quantized[part], full[part], labels[part], groups[part])
            return meter.result(labels)

        clocked("a quantization: spectrum, gains, accuracy in bands", paired)


if __name__ == "__main__":
    main()
