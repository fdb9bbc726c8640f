"""The contract suite on the built-in tasks, on friendly and on awkward banks, and their figures."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from typing import Any

import numpy as np
import pytest

from benchmark import Banks, FeatureBank, Task
from benchmark.plugins import NoOptions, tasks
from benchmark.testing import TaskContract, make_bank

BUILT_IN = ("zero_shot", "calibration", "ood", "corruption", "covariate_shift", "spurious", "selective", "retrieval")


def variant(corruption: str, severity: int, **fields: Any) -> FeatureBank:
    """The images of `make_bank(seed=3)` under a corruption: noise that grows with the severity."""
    base = make_bank(seed=3, **{k: v for k, v in fields.items() if k in ("samples", "classes")})
    noise = np.random.default_rng([severity, *corruption.encode()]).standard_normal(base.image.shape)
    image = base.image + 0.1 * severity * noise
    image /= np.linalg.norm(image, axis=1, keepdims=True)
    return make_bank(
        seed=3,
        **fields,
        image=image.astype(np.float32),
        dataset=f"c/{corruption}/{severity}",
        corruption=corruption,
        severity=severity,
    )


def retrieval_banks(captions: int = 2, **fields: Any) -> Banks:
    """Image-caption pairs, and what full precision makes of the same."""
    full = make_bank(seed=1, captions=captions, **fields)
    noise = np.random.default_rng(5).normal(0, 0.05, (2, *full.image.shape))
    image, caption = full.image + noise[0], full.caption + np.repeat(noise[1], captions, axis=0)
    image, caption = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (image, caption))
    bank = replace(full, image=image.astype(np.float32), caption=caption.astype(np.float32))
    return Banks({"test": [bank]}, full_precision={"test": [full]})


def banks_of(name: str, **fields: Any) -> Banks:
    """Banks that a built-in task is defined on."""
    options = tasks.get(name).options()
    group = np.arange(fields.get("samples", 200)) % 3
    roles: dict[str, list[FeatureBank]] = {
        "zero_shot": {"test": [make_bank(seed=1, **fields)]},
        "selective": {"test": [make_bank(seed=1, **fields)]},
        "calibration": {
            "test": [make_bank(seed=1, **fields)],
            "fit": [make_bank(seed=2, **{**fields, "samples": 150})],
        },
        "ood": {
            "id": [make_bank(seed=1, **fields)],
            "ood": [make_bank(seed=s, samples=90 + s, classes=5, dataset=f"ood{s}") for s in (7, 8)],
        },
        "corruption": {
            "clean": [make_bank(seed=3, **fields)],
            "corrupted": [variant(c, s, **fields) for c in ("fog", "snow") for s in (1, 3, 5)],
        },
        "covariate_shift": {
            "source": [make_bank(seed=1, **fields)],
            "shifted": [make_bank(seed=4, **{**fields, "samples": 120}, dataset="v2")],
        },
        "retrieval": {},
        "spurious": {
            "common": [make_bank(seed=1, **fields, group=group, dataset="common")],
            "counter": [make_bank(seed=5, **fields, group=group + 1, dataset="counter")],
        },
    }[name]
    if name == "retrieval":
        return retrieval_banks(**fields)
    return Banks(roles, options)


def test_all_built_in_tasks_are_covered() -> None:
    mine = [name for name in tasks.names() if tasks.origin(name).distribution == "reliquant"]
    assert sorted(mine) == sorted(BUILT_IN)


class TestZeroShot(TaskContract):
    task = tasks.get("zero_shot")
    banks = banks_of("zero_shot")


class TestSelective(TaskContract):
    task = tasks.get("selective")
    banks = banks_of("selective")


class TestRetrieval(TaskContract):
    """Without a picture as a query; the index keeps it."""

    task = tasks.get("retrieval")
    banks = banks_of("retrieval")
    subset_tolerance = 0.02


class TestRetrievalWithOneCaption(TestRetrieval):
    banks = retrieval_banks(captions=1, samples=60)
    subset_tolerance = 0.05


class TestRetrievalWithoutFullPrecision(TestRetrieval):
    banks = Banks({"test": [make_bank(seed=1, samples=30, captions=1)]})
    subset_tolerance = 0.1


class TestZeroShotTwoClasses(TaskContract):
    task = tasks.get("zero_shot")
    banks = banks_of("zero_shot", classes=2, samples=30)


class TestCalibration(TaskContract):
    """Without a picture of `fit` the scale is found by one Newton step: the exact one is nearer than 1 %."""

    task = tasks.get("calibration")
    banks = banks_of("calibration")
    subset_tolerance = 0.01


class TestCalibrationWithoutFit(TaskContract):
    task = tasks.get("calibration")
    banks = Banks({"test": [make_bank(seed=1, samples=20, classes=2)]})


class TestOod(TaskContract):
    task = tasks.get("ood")
    banks = banks_of("ood")


class TestCorruption(TaskContract):
    task = tasks.get("corruption")
    banks = banks_of("corruption")


class TestCovariateShift(TaskContract):
    task = tasks.get("covariate_shift")
    banks = banks_of("covariate_shift")


class TestSpurious(TaskContract):
    task = tasks.get("spurious")
    banks = banks_of("spurious")


@pytest.mark.parametrize("name", BUILT_IN)
def test_declarations(name: str) -> None:
    """What `list tasks`, the table and the trackers rely on."""
    task = tasks.get(name)
    assert sum(metric.headline for metric in task.metrics) >= 1 or name == "retrieval"  # it is no part of the verdict
    assert all(metric.better != "neither" for metric in task.metrics if metric.headline)
    assert {metric.unit for metric in task.metrics} <= {"fraction", "nats", "count", "scale", "ratio"}
    assert issubclass(task.options, NoOptions) or task.options()
    assert len(task.title) > 10


@pytest.mark.parametrize("name", BUILT_IN)
def test_everything_is_reported_or_noted(name: str) -> None:
    """Each declared metric comes out on friendly banks, or the comparison brings it, or a note says why not."""
    task, banks = tasks.get(name), banks_of(name)
    outcome = task.run(banks)
    compared = task.run_comparison(outcome.columns, outcome.columns, banks.options)
    keys = [*outcome.metrics, *outcome.notes, *compared.metrics, *compared.notes]
    missing = {m.name for m in task.metrics} - {key.rsplit("/", 1)[-1] for key in keys}
    assert missing <= ({"mean_corruption_error_alexnet"} if name == "corruption" else set())


@pytest.mark.parametrize("name", BUILT_IN)
def test_values_lie_within_their_unit(name: str) -> None:
    task, banks = tasks.get(name), banks_of(name)
    signed = {"signed_calibration_error", "signed_calibration_error_tuned", "gap", "relative_gap", "rsg"}
    for key, value in task.run(banks).metrics.items():
        metric = task.metric(key)
        if metric.unit == "fraction" and metric.name not in signed and not metric.name.startswith("brier"):
            assert 0.0 <= value <= 1.0, key
        if metric.unit == "count":
            assert value == int(value) or metric.name == "ties", key


@pytest.mark.parametrize("name", BUILT_IN)
def test_only_the_ids_name_the_samples(name: str) -> None:
    """Ids pair quantizations; renaming all of them changes no number."""
    task, banks = tasks.get(name), banks_of(name)
    renamed = banks.each(lambda bank: replace(bank, sample_id=np.char.add("other/", bank.sample_id)))
    assert task.run(renamed).metrics == task.run(banks).metrics


@pytest.mark.filterwarnings("ignore::DeprecationWarning:matplotlib.*")
@pytest.mark.parametrize("compared", [False, True], ids=["full precision", "quantized"])
@pytest.mark.parametrize("name", [n for n in BUILT_IN if tasks.get(n).drawing or tasks.get(n).drawing_all])
def test_figures_can_be_drawn(name: str, compared: bool) -> None:
    task: Task = tasks.get(name)
    summary = task.run(banks_of(name)).summary
    figures = {}
    if task.drawing is not None:
        figures = dict(task.drawing(summary, summary if compared else None))
        assert task.drawing.__doc__, "it is the caption"
    if task.drawing_all is not None:
        plain = replace(summary, tables={})
        figures |= task.drawing_all({"full precision": plain, "rtn": plain})
        assert task.drawing_all.__doc__
    assert figures
    for figure in figures.values():
        buffer = BytesIO()
        figure.savefig(buffer, dpi=40)
        assert buffer.getvalue().startswith(b"\x89PNG")


def test_the_headline_of_each_task() -> None:
    """What a verdict is made of."""
    found = {name: [m.name for m in tasks.get(name).metrics if m.headline] for name in tasks.names()}
    assert found == {
        "zero_shot": ["accuracy"],
        "calibration": ["ece_15"],
        "ood": ["auroc"],
        "corruption": ["accuracy"],
        "covariate_shift": ["accuracy"],
        "spurious": ["rsg"],
        "selective": ["aurc"],
        "retrieval": [],  # it describes
    }
