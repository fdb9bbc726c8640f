"""Efficiency beside reliability: once per configuration and machine, while its model is in memory anyway."""

from __future__ import annotations

import platform

from benchmark.engine.banks import BankMaker
from benchmark.engine.request import Timing
from benchmark.ledger.records import EfficiencyRow, Ledger
from benchmark.models.base import ClipModel
from benchmark.quantization import quantizers
from benchmark.quantization.efficiency import efficiency
from benchmark.utils.guard import guarded, text_of

BUDGET_S = 1.5
"""Seconds at most for the alternating rounds of a configuration; a quiet machine needs a fraction of it."""


def time_configuration(maker: BankMaker, ledger: Ledger, timing: Timing) -> None:
    """Measure size and speed of a configuration and write them to the ledger, where `timing` asks for it.

    A failure is said, or stands in the row, and stops nothing.
    """
    content = maker.configuration.quantized_key
    if timing == "never" or (timing == "new" and not (maker.in_memory and _unknown(ledger, content))):
        return
    if maker.configuration.model.quantized is not None:
        return  # the ratio is to full precision, and that model is not here
    quant = maker.configuration.quant
    with maker.progress.phase(f"time {quant.name}", 1) as advance:
        try:
            quantized, report = guarded(f"quantization method '{quant.method}'", lambda: maker.quantized)
            if any(tower.packed_bytes is None for tower in report.towers.values()):
                return  # features alone: neither size nor speed is theirs
            model = maker.holder.model
            own = None if maker.artifact or "vision" not in quant.towers else _runtime_float(maker)
            found = guarded("timing", lambda: efficiency(model, quant, quantized, report, 32, BUDGET_S, own))
        except Exception as error:  # asked for again, and its evaluations have not needed the model, or have failed
            maker.progress.message(f"{quant.name} could not be timed: {text_of(error)}")
            return
        advance(1)
    ledger.append_efficiency(EfficiencyRow(content, platform.node(), found.to_json()))


def _runtime_float(maker: BankMaker) -> ClipModel | None:
    """Full precision on the runtime that the configuration's method quantizes for."""
    method = quantizers.get(maker.configuration.quant.method)
    return method.runtime_float(maker.holder.model, maker.statistics, maker.progress)


def _unknown(ledger: Ledger, content: str) -> bool:
    """Whether this machine has no good times of a configuration: those that failed or were noisy are taken again."""
    row = ledger.efficiencies.get(content)
    if row is None or row.machine != platform.node() or row.efficiency["error"] is not None:
        return True
    speed = row.efficiency["speed"]
    return speed is not None and bool(speed["noisy"])
