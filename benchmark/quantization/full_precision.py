"""fp32: the model as it is, the reference of every comparison."""

from __future__ import annotations

from benchmark.quantization.base import LayerRecord, Quantizer, TowerJob


class FullPrecision(Quantizer):
    """Takes no field and has no tower to quantize; `quantize` returns the model itself."""

    def quantize_tower(self, job: TowerJob) -> list[LayerRecord]:
        """Nothing to do."""
        return []


quantizer = FullPrecision(
    name="fp32",
    version=1,
    title="full precision (float32)",
    paper="none",
    fields=frozenset(),
    kernel="real",
)
