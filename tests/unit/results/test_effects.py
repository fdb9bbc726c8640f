"""Metrics of runs beside full precision's: what is taken of evidence, and what is missing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmark.errors import DataError
from benchmark.metrics.uncertainty import GROUPS, Measured
from benchmark.results.aggregate import by_model, changes, combine
from benchmark.results.effects import Asked, asked_of, collect, companion, effects_of
from benchmark.results.evidence import change
from tests.ledgers import W4, WIT, Made, pattern, put_kinds


def pair(made: Made, task: str) -> tuple[str, str]:
    """Keys of the quantized record of a task and of full precision's."""
    found = {r.quantization == "fp32": key for key, r in made.records.items() if r.task == task}
    return found[False], found[True]


@pytest.fixture
def made() -> Made:
    ready = Made()
    put_kinds(ready, WIT[0], W4, {"accuracy": (-0.02, 0.004), "ece": (0.01, 0.004), "corruption": (0.01, 0.004)})
    return ready


def test_an_ece_is_asked_by_its_companion(made: Made) -> None:
    now, _ = pair(made, "calibration")
    record = made.records[now]
    assert companion("calibration/d/ece_15") == "calibration/d/ece_15_debiased"
    assert companion("zero_shot/d/accuracy") == "zero_shot/d/accuracy"
    keys = ["zero_shot/d/accuracy", "calibration/d/ece_15", "calibration/d/ece_15_debiased"]
    assert asked_of(record, keys) == [Asked("calibration/d/ece_15_debiased", "ece_15_debiased", "ece_15_debiased")]
    older = replace(record, metrics={"calibration/d/ece_15": 0.1})
    assert [each.now for each in asked_of(older, keys[1:2])] == ["ece_15"]


def test_the_change_of_one_run_is_that_of_its_evidence(made: Made) -> None:
    now, base = pair(made, "zero_shot")
    records, evidence = (made.records[now], made.records[base]), (made.evidence[now], made.evidence[base])
    [effect] = effects_of(*records, *evidence, [Asked("a", "accuracy", "accuracy")])
    assert effect.alone == change(*evidence, "accuracy")
    assert (effect.full, effect.images, effect.reason) == (base, 2400, "")


def test_a_metric_that_only_a_comparison_gives_starts_at_its_neutral_value(made: Made) -> None:
    """Relative corruption error 1.10: a change of 0.10 with the error of its distance from 1."""
    key = "mean_corruption_error_fp32"
    now, base = pair(made, "corruption")
    moved = Measured(0.1, 0.1 + 0.02 * pattern("moved"))
    quantized = replace(made.evidence[now], compared={key: moved})
    record = replace(made.records[now], metrics={**made.records[now].metrics, f"corruption/d/{key}": 1.1})
    [effect] = effects_of(record, made.records[base], quantized, made.evidence[base], [Asked("a", key, key)])
    assert (effect.before.value, effect.now.value) == (1.0, 1.1)
    _, weights = by_model(["m"])
    mean = combine(changes([effect]), weights)
    assert mean is not None
    assert mean.these is not None
    assert mean.value == pytest.approx(0.1)
    assert mean.these.error == pytest.approx(0.02)
    assert effect.alone is not None
    assert effect.alone.error == pytest.approx(0.02)


def test_what_is_undefined_or_has_no_interval_says_why(made: Made) -> None:
    now, base = pair(made, "zero_shot")
    records, evidence = [made.records[now], made.records[base]], [made.evidence[now], made.evidence[base]]
    evidence[0] = replace(evidence[0], measured={}, reasons={"accuracy": "too few images moved"})
    asked = [Asked("a", "accuracy", "accuracy"), Asked("b", "accuracy_top5", "accuracy_top5")]
    records[0] = replace(records[0], notes={"zero_shot/d/accuracy_top5": "5 classes: top 5 holds all of them"})
    first, second = effects_of(records[0], records[1], evidence[0], evidence[1], asked)
    assert (first.reason, first.alone) == ("too few images moved", None)
    assert first.now.value == pytest.approx(0.58)
    assert np.isnan(first.now.replicates).all()
    assert second.reason == "5 classes: top 5 holds all of them"
    assert np.isnan(second.now.value)


def test_other_images_are_refused_and_the_others_go_on(made: Made) -> None:
    now, base = pair(made, "zero_shot")
    made.evidence[base] = replace(made.evidence[base], samples="others", occupied=np.zeros(GROUPS, dtype=bool))
    with pytest.raises(DataError, match="they are not the same"):
        effects_of(
            made.records[now],
            made.records[base],
            made.evidence[now],
            made.evidence[base],
            [Asked("a", *["accuracy"] * 2)],
        )
    records = list(made.records.values())
    chosen = [record for record in records if record.quantization == W4]
    found, failures = collect(chosen, records, lambda r: made.evidence[r.key], lambda r: asked_of(r, list(r.metrics)))
    assert list(failures) == [f"{WIT[0]}, {W4}: zero_shot/d"]
    assert {effect.key.split("/")[0] for effect in found} == {"calibration", "corruption"}


def test_full_precision_is_read_once(made: Made) -> None:
    for at in range(1, 4):
        put_kinds(made, WIT[0], f"hqq-w4-g{8 * at}-vision", {"accuracy": (-0.02, 0.004)})
    records, read = list(made.records.values()), []

    def load(record: object) -> object:
        read.append(record)
        return made.evidence[record.key]  # type: ignore[attr-defined]

    chosen = [record for record in records if record.quantization != "fp32"]
    collect(chosen, records, load, lambda r: asked_of(r, ["zero_shot/d/accuracy"]))  # type: ignore[arg-type]
    assert len(read) == 4 + 1
