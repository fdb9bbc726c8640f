"""The options of `reliquant sensitivity`. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmark.engine.request import (
    Batches,
    DataPlaces,
    Device,
    ExactFloat,
    Home,
    Json,
    Limit,
    Models,
    Pixels,
    Plugins,
    Quiet,
    Store,
    Suite,
    Trackers,
)
from benchmark.utils.options import option


@dataclass(frozen=True, kw_only=True)
class SensitivityRequest(
    Json, Quiet, Plugins, Home, Store, Trackers, Pixels, Batches, ExactFloat, Device, DataPlaces, Limit, Models, Suite
):
    """Show which layers cost reliability when quantized, and check the --override line that protects the worst.

    Each layer is quantized alone, and left out alone. One half of each test set's images ranks, the other one checks.
    """

    bits: int = option(4, "Weight bits.", minimum=2, maximum=8)
    by: Literal["layer", "block", "kind"] = option("layer", "Quantize by layer, block or kind of layer.")
    quant: str = option(
        "rtn-w4-channel-vision", "Short name of the quantization; --bits sets its bits.", complete="quantizations"
    )
    tasks: Sequence[str] = option((), "Only this task of the suite; repeatable.", flag="--task", complete="tasks")
    protect: int = option(3, "Number of layers (blocks, kinds) that the line protects.", minimum=1)
    protected_bits: int = option(8, "Weight bits of what it protects.", minimum=2, maximum=8)
    cache: str = option("2GB", "Memory for inputs of blocks, so that early ones run once; 0 for none.")
    output: Path | None = option(None, "Folder for figure, CSV and JSON.", short="-o")
    format: Literal["table", "csv", "json"] = option("table", "What to print.")

    @property
    def show(self) -> Literal["table", "csv", "json"]:
        """What is printed on stdout."""
        return "json" if self.json else self.format

    @property
    def for_programs(self) -> bool:
        """Whether stdout is kept free of everything else."""
        return self.show != "table"
