"""Small constructed ledgers: records with evidence of a chosen size and error, of models that the catalogue knows."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmark.ledger.records import Ledger, Record
from benchmark.metrics.uncertainty import GROUPS, Measured
from benchmark.plugins import tasks
from benchmark.results import hypotheses
from benchmark.results.effects import Effect, collect, judged
from benchmark.results.evidence import Evidence, pack
from benchmark.results.findings import Finding
from benchmark.results.groups import Run, facts_by_model, runs_of
from benchmark.spec import digest

WIT = ("ViT-B-32/openai", "ViT-B-16/openai", "ViT-L-14/openai")
LAION = ("ViT-B-32/laion2b_s34b_b79k", "ViT-B-16/laion2b_s34b_b88k", "ViT-L-14/laion2b_s32b_b82k")
CONVNETS = (
    "convnext_base/laion400m_s13b_b51k",
    "convnext_base_w/laion2b_s13b_b82k",
    "convnext_large_d/laion2b_s26b_b102k_augreg",
)
TEN = (*WIT, *LAION, *CONVNETS, "ViT-B-16/dfn2b")
"""Ten models: three convnets; six on LAION, four on WIT or DFN."""
W8, W4 = "rtn-w8a8-channel-token-vision", "rtn-w4a8-channel-token-vision"
W4_BOTH, ROTATED = "rtn-w4a8-channel-token-vision+text", "rotation-w4a8-channel-token-vision"
IMAGES = 2400
REFERENCE: Mapping[str, float] = {"ece_15_debiased": 0.08, "ece_15_debiased_tuned": 0.05, "rsg": 0.1}
"""Values in full precision; 0.6 for all others."""


def pattern(*names: object) -> NDArray[np.float64]:
    """(GROUPS,) deviations of replicates whose standard error is 1; another one for each name, uncorrelated."""
    rng = np.random.default_rng(zlib.crc32(" ".join(map(str, names)).encode()))
    drawn = rng.standard_normal(GROUPS)
    drawn -= drawn.mean()
    return np.asarray(drawn / np.sqrt((GROUPS - 1) / GROUPS * (drawn**2).sum()))


@dataclass
class Made:
    """A ledger that is made record by record: `put` a change, and what full precision has is put beside it."""

    records: dict[str, Record] = field(default_factory=dict)
    evidence: dict[str, Evidence] = field(default_factory=dict)

    def put(
        self,
        model: str,
        quantization: str,
        task: str,
        changes: Mapping[str, tuple[float, float]],
        data: str = "d",
        images: int = IMAGES,
    ) -> None:
        """One evaluation. Args: changes: metric -> change against full precision, and its standard error."""
        before = {
            key: Measured(REFERENCE.get(key, 0.6), REFERENCE.get(key, 0.6) + 0.01 * pattern(model, task, data, key))
            for key in changes
        }
        now = {
            key: Measured(
                before[key].value + change,
                before[key].replicates + change + error * pattern(model, quantization, task, data, key),
            )
            for key, (change, error) in changes.items()
        }
        for name, measured in (("fp32", before), (quantization, now)):
            self._add(model, name, task, data, measured, images)

    def _add(
        self, model: str, quantization: str, task: str, data: str, measured: Mapping[str, Measured], images: int
    ) -> None:
        record_key = digest([model, quantization, task, data])
        old = self.evidence.get(record_key)
        measured = {**(old.measured if old else {}), **measured}
        self.evidence[record_key] = Evidence(measured, {}, np.ones(GROUPS, dtype=bool), images, f"{task}|{data}")
        plain = {
            f"{task}/{data}/{key.replace('_debiased', '')}": each.value
            for key, each in measured.items()
            if "_debiased" in key
        }
        self.records[record_key] = Record(
            key=record_key,
            configuration=f"{model}|{quantization}",
            suite="made",
            model=model,
            quantization=quantization,
            task=task,
            dataset=data,
            status="done",
            seconds=0.0,
            metrics={f"{task}/{data}/{key}": each.value for key, each in measured.items()} | plain,
            comparison_key=f"{task}|{data}",
            identity={"model": {"ref": model, "digest": None}},
        )

    def runs(self) -> dict[tuple[str, str], Run]:
        """The quantized runs."""
        records = list(self.records.values())
        names = [(record.model, record.quantization) for record in records if record.quantization != "fp32"]
        return runs_of(names, facts_by_model(records, ()))

    def effects(self) -> list[Effect]:
        """What the hypotheses look at."""
        records = list(self.records.values())
        chosen = [record for record in records if record.quantization != "fp32"]
        found, failures = collect(chosen, records, lambda record: self.evidence[record.key], hypotheses.wanted)
        assert not failures
        return found

    def findings(self) -> dict[str, Finding]:
        """Claim -> finding."""
        return {finding.claim: finding for finding in hypotheses.examine(self.effects(), self.runs())}

    def write(self, home: Path) -> None:
        """As a results folder."""
        ledger = Ledger(home)
        for key, record in self.records.items():
            ledger.append(record, None, pack(self.evidence[key]))


def put_kinds(
    made: Made, model: str, quantization: str, kinds: Mapping[str, tuple[float, float]], data: str = "d"
) -> None:
    """Changes by the hypotheses' kinds (`hypotheses.KINDS`), each with its standard error."""
    by_task: dict[str, dict[str, tuple[float, float]]] = {}
    for kind, change in kinds.items():
        task, now, _ = hypotheses.KINDS[kind]
        by_task.setdefault(task, {})[judged(tasks.get(task), now)] = change
    for task, changes in by_task.items():
        made.put(model, quantization, task, changes, data)


def made_of(
    models: Sequence[str],
    kinds: Mapping[str, Mapping[str, float]],
    error: float = 0.001,
    spread: float = 0.001,
) -> Made:
    """A ledger in which every model shows the same changes, but for a spread between models.

    Args:
        kinds: quantization -> kind -> change. spread: between the first and the last model.
    """
    made = Made()
    for at, model in enumerate(models):
        off = spread * (at / max(len(models) - 1, 1) - 0.5)
        for quantization, changes in kinds.items():
            put_kinds(made, model, quantization, {kind: (change + off, error) for kind, change in changes.items()})
    return made
