"""How fast models run: measured in a second or two where a model is on this machine, estimated elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np

from benchmark.engine.embed import embed_texts, stream_features
from benchmark.errors import ReliquantError
from benchmark.models import ResolvedModel
from benchmark.models.base import ClipModel
from benchmark.quantization import parse, quantize

SECONDS = 0.6
"""Of passes over each tower: enough for a rate that is right within a quarter on a quiet machine."""
MOST = 64
"""Images or texts a pass at most: a run's own batch size."""
EXAMPLE = "rtn-w8a8-channel-token-vision+text"
"""What stands for all quantizations with quantized activations: they run on the same kernels."""
SHARE = 0.6
"""Of the speed of a large float32 matrix product, what towers reach: where no model could be measured."""
ASSUMED_GPU, ASSUMED_FLOPS = "24 GB GPU", 15e12
"""An assumption, not a measurement: float32 operations a second that towers with fake quantization sustain on a GPU of
24 GB (RTX 3090, A10, L4 and the like; their peaks are 30 to 36e12)."""


@dataclass(frozen=True)
class Rates:
    """Images and texts a second in full precision, and how many times as fast quantized activations make it."""

    images: float
    texts: float
    quantized: float = 1.0


def measured(resolved: ResolvedModel, device: str, with_quantized: bool) -> Rates:
    """The rates of a model on this machine; loads it.

    Args: with_quantized: also quantize it once, to know what the integer or fake-quantized arithmetic does.

    Raises:
        ReliquantError: it cannot be loaded.
    """
    model = resolved.load(device)
    rates = Rates(_images(model, resolved.preprocess.size), _texts(model))
    if not with_quantized:
        return rates
    try:
        changed = quantize(model, parse(EXAMPLE))[0]
    except ReliquantError:  # a model without such layers: then nothing is known of its quantizations
        return rates
    return replace(rates, quantized=_images(changed, resolved.preprocess.size) / rates.images)


def _images(model: ClipModel, size: tuple[int, int]) -> float:
    pixels = np.random.default_rng(0).integers(0, 256, (MOST, 3, *size), dtype=np.uint8)
    return _rate(lambda count: [*stream_features(model, [pixels[:count]], lambda _: None)])


def _texts(model: ClipModel) -> float:
    texts = [f"a photo of the number {number}." for number in range(MOST)]
    return _rate(lambda count: embed_texts(model, texts[:count]))


def _rate(run: Callable[[int], object]) -> float:
    """Items a second: one pass to warm up, whose time chooses the batch, then passes for `SECONDS`."""
    run(2)
    start = perf_counter()
    run(2)
    count = int(np.clip(SECONDS / 3 / max((perf_counter() - start) / 2, 1e-9), 1, MOST))
    done, start = 0, perf_counter()
    while (passed := perf_counter() - start) < SECONDS or done < 2 * count:
        run(count)
        done += count
    return done / passed


def flops_per_second(device: str) -> float:
    """Measured FLOP/s of a float32 matrix product, about a third of a second."""
    import torch

    first = torch.randn(1024, 1024, device=device)

    def product() -> float:
        return float((first @ first)[0, 0])  # reading it waits for the device

    product()
    start, count = perf_counter(), 0
    while perf_counter() - start < 0.3:
        product()
        count += 1
    return 2 * 1024**3 * count / (perf_counter() - start)
