"""`summarise` of each task on the largest column sets of the study; a hundred replicates cost a hundred times that."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmark.plugins import Columns, tasks
from tests.performance.setting import Result, Setting

NAME, TARGET = "summarise", 0.3
RUNS = 5


def measure(setting: Setting) -> Result:
    """Made-up columns: 50,000 images of 1,000 classes, OOD 50,000 + 50,000, corruption 2,000 x 75; fastest of 5."""
    images = 500 if setting.quick else 50_000
    seconds = {name: fastest(name, make(images)) for name, make in COLUMNS.items()}
    slowest = max(seconds, key=lambda name: seconds[name])
    return Result(
        NAME,
        f"`summarise` of {images:,} images, CPU seconds of the slowest task",
        f"{seconds[slowest]:.2f} s ({slowest})",
        "0",
        f"<= {TARGET} s each",
        seconds[slowest] <= TARGET,
        ("In CPU seconds: " + ", ".join(f"{name} {value:.3f}" for name, value in seconds.items()) + ".",),
        {"seconds": seconds, "images": images},
    )


def fastest(name: str, columns: Columns) -> float:
    """Processor seconds of the fastest of some runs, after one that imports what it needs."""
    task = tasks.get(name)
    options = task.options()
    task.run_summarise(columns, options)
    found = []
    for _ in range(RUNS):
        start = time.process_time()
        task.run_summarise(columns, options)
        found.append(time.process_time() - start)
    return min(found)


def group(count: int, **columns: Any) -> dict[str, Any]:
    """Samples with ids as ImageNet has them."""
    return {"sample_id": np.array([f"n{i % 1000:08d}/image_{i:08d}.JPEG" for i in range(count)]), **columns}


def hits(count: int, share: float = 0.6, width: int = 0) -> Any:
    return np.random.default_rng(count).random((count, width) if width else count) < share


def labels(count: int) -> Any:
    return np.random.default_rng(1).integers(0, 1000, count)


def confidence(count: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).beta(4.0, 2.0, count)


def zero_shot(count: int) -> Columns:
    top = {"correct": hits(count), "correct_top5": hits(count, 0.9)}
    test = group(count, **top, label=labels(count), prediction=labels(count))
    return Columns({"test": test}, {"classes": np.array(1000)})


def calibration(count: int) -> Columns:
    measures = ("confidence", "brier", "nll", "confidence_tuned", "brier_tuned", "nll_tuned")
    test = {name: confidence(count, seed) for seed, name in enumerate(measures)}
    test |= {f"{name}_tuned_slope": confidence(count) for name in ("confidence", "brier", "nll")}
    fit = group(count // 5, gradient=confidence(count // 5), curvature=confidence(count // 5))
    about = {"logit_scale": np.array(100.0), "logit_scale_tuned": np.array(90.0)}
    about["gradient"] = fit["gradient"].mean()[None]
    return Columns({"test": group(count, correct=hits(count), **test), "fit": fit}, about)


def ood(count: int) -> Columns:
    names = ("msp", "mcm", "max_logit", "energy", "negative_entropy")
    scores = {name: confidence(count, seed) for seed, name in enumerate(names)}
    others = {name: confidence(count, seed + 10) - 0.3 for seed, name in enumerate(names)}
    return Columns({"id": group(count, **scores), "ood:other": group(count, **others)})


def corruption(count: int) -> Columns:
    base = max(20, count // 25)
    names = [f"type{kind:02d}/{severity}" for kind in range(15) for severity in range(1, 6)]
    corrupted = group(base, correct=hits(base, width=75), correct_clean=hits(base))
    return Columns({"corrupted": corrupted}, {"variants": np.array(names)})


def covariate_shift(count: int) -> Columns:
    sizes = {"v2": count // 5, "sketch": count, "a": count // 7, "r": 3 * count // 5}
    label = np.stack([labels(count)] * len(sizes), axis=1)
    groups = {"source": group(count, correct=hits(count, width=len(sizes)), label=label)}
    groups |= {f"shifted:{name}": group(size, correct=hits(size), label=labels(size)) for name, size in sizes.items()}
    return Columns(groups, {"source": np.array("val")})


def spurious(count: int) -> Columns:
    side = group(count, correct=hits(count), label=labels(count), group=labels(count) % 4)
    return Columns({"common": side, "counter": side}, {"class_names": np.array([f"class {i}" for i in range(1000)])})


def selective(count: int) -> Columns:
    return Columns({"test": group(count, confidence=confidence(count), correct=hits(count))})


COLUMNS: dict[str, Callable[[int], Columns]] = {
    each.__name__: each for each in (zero_shot, calibration, ood, corruption, covariate_shift, spurious, selective)
}
