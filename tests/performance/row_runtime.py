"""OpenVINO + NNCF int8 through reliquant beside the same steps by hand, on the same tower, images and threads."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.performance.setting import Result, Setting, run

NAME, TARGET, EQUAL = "runtime-int8", 1.1, 1e-5
QUANT = "openvino-int8-vision"
ROUNDS, BATCH = 2, 32
CODE = "import sys; from tests.performance.row_runtime import child; child(*map(int, sys.argv[1:]))"


def measure(setting: Setting) -> Result:
    """Both in one process of their own, in alternation."""
    sizes = (1, 64, 512) if setting.sizes.vit else (0, 8, 32)
    found = json.loads(run([sys.executable, "-c", CODE, *map(str, sizes)]).stdout.splitlines()[-1])
    making, running = (min(found["ours"][i]) / min(found["by_hand"][i]) for i in (0, 1))
    worst = max(making, running)
    return Result(
        NAME,
        "OpenVINO + NNCF int8 through reliquant / by hand with NNCF's API: the slower of quantizing and evaluating",
        f"{worst:.2f}",
        "1.0",
        f"<= {TARGET}, equal numbers",
        worst <= TARGET and found["difference"] <= EQUAL,
        (
            f"Quantizing with {sizes[1]} images, the coverage report included: {making:.2f} "
            f"({min(found['ours'][0]):.1f} s / {min(found['by_hand'][0]):.1f} s).",
            f"Evaluating {sizes[2]} images: {running:.2f}. Largest difference of a feature: {found['difference']:.1e}.",
        ),
        found,
    )


def child(full_size: int, count: int, images: int) -> None:
    """Measure, and print JSON."""
    from benchmark.quantization import Calibration
    from tests.performance.bench_quantized_forward import vit_b_32

    model = vit_b_32() if full_size else small_vit()
    random = np.random.default_rng(0)
    shape = (3, *model.preprocess.size)
    pairs = Calibration(random.integers(0, 256, (count, *shape), dtype=np.uint8), (), "bench")
    pixels = random.integers(0, 256, (images, *shape), dtype=np.uint8)
    ways: dict[str, Callable[[Any, Any, Any], tuple[float, float, Any]]] = {"by_hand": by_hand, "ours": ours}
    times: dict[str, list[list[float]]] = {name: [[], []] for name in ways}
    features = {}
    for number in range(ROUNDS):
        for name in ways if number % 2 == 0 else reversed(ways):
            making, running, features[name] = ways[name](model, pairs, pixels)
            times[name][0].append(making)
            times[name][1].append(running)
    difference = float(np.abs(features["ours"] - features["by_hand"]).max())
    print(json.dumps({**times, "difference": difference}))


def small_vit() -> Any:
    """A small ViT of open_clip's."""
    from benchmark.models import resolve
    from tests.models_zoo import write_checkpoint

    with tempfile.TemporaryDirectory() as folder:
        return resolve(write_checkpoint("ViT", Path(folder) / "vit")).load("cpu")


def ours(model: Any, pairs: Any, pixels: NDArray[np.uint8]) -> tuple[float, float, NDArray[np.float32]]:
    """Seconds of quantizing and of evaluating, and features."""
    from benchmark.engine.embed import embed_images
    from benchmark.quantization import parse, quantize

    start = time.perf_counter()
    quantized, _ = quantize(model, parse(QUANT), pairs)
    made = time.perf_counter()
    batches = (pixels[i : i + BATCH] for i in range(0, len(pixels), BATCH))
    features = embed_images(quantized, batches, lambda _: None)["image"]
    return made - start, time.perf_counter() - made, features


def by_hand(model: Any, pairs: Any, pixels: NDArray[np.uint8]) -> tuple[float, float, NDArray[np.float32]]:
    """The same as NNCF's documentation has it: convert, quantize, save, compile, run."""
    import nncf
    import openvino as ov
    import torch

    from benchmark.quantization.graphs.towers import TowerModule

    about = model.preprocess
    mean, std = (np.array(each, np.float32).reshape(1, 3, 1, 1) for each in (about.mean, about.std))

    def ready(part: NDArray[np.uint8]) -> NDArray[np.float32]:
        return (part.astype(np.float32) / 255 - mean) / std

    start = time.perf_counter()
    inputs = torch.from_numpy(ready(pairs.pixels[:2]))
    graph = ov.convert_model(TowerModule(model, "vision").eval(), example_input=inputs)
    graph.reshape([-1, *inputs.shape[1:]])
    data = nncf.Dataset([ready(pairs.pixels[i : i + 1]) for i in range(len(pairs.pixels))])
    graph = nncf.quantize(graph, data, subset_size=len(pairs.pixels), model_type=nncf.ModelType.TRANSFORMER)
    with tempfile.TemporaryDirectory() as folder:
        ov.save_model(graph, Path(folder) / "int8.xml", compress_to_fp16=False)
        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
        compiled = ov.Core().compile_model(Path(folder) / "int8.xml", "CPU", settings)
    made = time.perf_counter()
    found = [compiled(ready(pixels[i : i + BATCH]))[0].copy() for i in range(0, len(pixels), BATCH)]
    features = np.concatenate(found)
    return made - start, time.perf_counter() - made, features / np.linalg.norm(features, axis=1, keepdims=True)
