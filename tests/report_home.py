"""A small results folder for tests of the report: six tasks on synthetic banks, three quantizations, a failure."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmark import Banks, FeatureBank
from benchmark.ledger.records import EfficiencyRow, Ledger, Record, ReportRow
from benchmark.plugins import tasks
from tests.contract.test_tasks import banks_of

W8, W4, NF4 = "rtn-w8a8-channel-token-vision", "rtn-w4a8-channel-token-vision", "bnb-nf4-vision"
NOISE = {"fp32": 0.0, W8: 0.001, W4: 0.25, NF4: 0.02}
NASTY = "</script><img src=x onerror=alert(1)> & `code`"
TASKS = ("zero_shot", "calibration", "ood", "corruption", "covariate_shift", "spurious")


def disturbed(bank: FeatureBank, noise: float) -> FeatureBank:
    """A bank whose features are noisy, as a quantization would leave them."""
    image = bank.image + noise * np.random.default_rng(2).standard_normal(bank.image.shape)
    return replace(bank, image=(image / np.linalg.norm(image, axis=1, keepdims=True)).astype(np.float32))


def report_of(quantization: str, bits: int) -> dict[str, object]:
    """A QuantizationReport as JSON: one layer of 1,000 weights in the vision tower; none for full precision."""
    layer = {"name": "visual.fc", "shape": [10, 100], "packed_bits": bits * 1000, "bits": bits}
    tower = {
        "layers": [layer], "skipped": {"visual.conv1": "a stem"}, "weight_share": 1.0, "mac_share": 1.0,
        "bits_per_weight": float(bits), "packed_bytes": bits * 125, "float_bytes": 4000, "cosine": 0.99,
        "embedding_sqnr_db": 20.0, "weight_relative_error": 0.1, "weight_sqnr_db": 20.0,
    }  # fmt: skip
    towers = {} if quantization == "fp32" else {"vision": tower}
    shapes = {"weights": {"vision": 1000}, "parameters": {"vision": 1000}}
    return {"quantization": quantization, "model": "tiny", "towers": towers, "figures": {}, "notes": [], **shapes}


def write(ledger: Ledger, quantization: str, task_name: str) -> None:
    """One evaluation, as the engine writes it."""
    task, banks = tasks.get(task_name), banks_of(task_name)
    reference = task.run(banks)
    roles = {role: [disturbed(bank, NOISE[quantization]) for bank in banks.all(role)] for role in banks}
    outcome = task.run(Banks(roles, banks.options))
    options = banks.options
    quantized = quantization != "fp32"
    compared = task.run_comparison(outcome.columns, reference.columns, options) if quantized else None
    metrics = {**outcome.metrics, **(compared.metrics if compared else {})}
    record = Record(
        key=f"{task_name}-{quantization}",
        configuration=f"run-{quantization}",
        suite="small",
        model="tiny",
        quantization=quantization,
        task=task_name,
        dataset="scenes",
        status="done",
        seconds=0.0,
        metrics={f"{task_name}/scenes/{key}": value for key, value in metrics.items()},
        notes={f"{task_name}/scenes/{key}": note for key, note in outcome.notes.items()},
        provenance={
            "time": "2026-01-02T03:04:05+00:00",
            "versions": {"reliquant": "0.1.0", "torch": "2"},
            "device": "cpu",
            "cpu": "AVX2",
            "threads": 2,
            "model": {"ref": "tiny", "digest": "a" * 64},
            "quantized_model": f"content-{quantization}",
            "suite": "small",
            "suite_version": 1,
            "limit": None,
            "calibration": None,
            "data": {"scenes": "b" * 64},
            "skipped": {},
        },
        comparison_key=task_name,
        identity={"options": options.model_dump(mode="json")},
    )
    ledger.append(record, outcome)


def write_home(home: Path, names: tuple[str, ...] = TASKS) -> Ledger:
    """Fill a results folder; the task `selective` of one quantization has failed with a nasty reason."""
    ledger = Ledger(home)
    for quantization, bits in (("fp32", 32), (W8, 8), (W4, 4), (NF4, 5)):
        for task in names:
            write(ledger, quantization, task)
        ledger.append_report(ReportRow(f"content-{quantization}", report_of(quantization, bits)))
        speed = {
            "engine": "float", "batch": 32, "images_per_second": 100.0,
            "latency_ms_p50": 2.0 + bits, "latency_ms_p95": 50.0, "full_ms_p50": 34.0,
            "latency_ratio": (2.0 + bits) / 34, "latency_ratio_low": (2.0 + bits) / 36,
            "latency_ratio_high": (2.0 + bits) / 32, "noisy": False,
            "rounds": 6, "passes": 18, "batches": 2, "threads": 2, "device": "cpu", "cpu": "AVX2",
        }  # fmt: skip
        timed = {"quantization": quantization, "packed_bytes": 1, "float_bytes": 1, "kernel": "real", "error": None}
        simulated = quantization == W4
        row = {**timed, "kernel": "simulated" if simulated else "real", "speed": None if simulated else speed}
        ledger.append_efficiency(EfficiencyRow(f"content-{quantization}", "host", row))
    failed = ledger.records[f"{names[0]}-{W4}"]
    ledger.append(
        replace(
            failed,
            key="failed",
            task="selective",
            status="failed",
            error=NASTY,
            metrics={},
            notes={},
            comparison_key="selective",
        )
    )
    return ledger
