"""The engine's rungs: nested parts, no image embedded twice, replicates by hand."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.data.rows import take_part
from benchmark.engine import banks
from benchmark.engine.holding import ModelHolder
from benchmark.engine.plan import Settings
from benchmark.errors import DataError, SpecError
from benchmark.ledger.records import Ledger
from benchmark.metrics.uncertainty import GROUPS, groups_of
from benchmark.models.base import ClipModel
from benchmark.quantization import parse
from benchmark.spec import FP32, QuantSpec, SuiteSpec, parse_spec
from benchmark.spec.suite import load_suite
from search.evaluator import Engine
from search.objective import Metrics
from search.rungs import FEWEST, PartEngine, make_rungs, parse_shares, part_suite
from search.splits import suite_on_validation

ACCURACY, AUROC = "zero_shot/scenes/accuracy", "ood/scenes.far/mcm/auroc"
SUITE = {
    "name": "small",
    "version": 1,
    "models": ["demo"],
    "quantizations": ["fp32"],
    "validation": {"scenes": "scenes", "far": "far"},
    "data": {
        "scenes": {"source": "demo", "split": "validation", "limit": 120},
        "far": {"source": "demo", "split": "far_ood", "text": "none", "limit": 60},
    },
    "tasks": {
        "zero_shot": {"scenes": {"test": "scenes"}},
        "ood": {"scenes.far": {"id": "scenes", "ood": "far"}},
        "calibration": {"scenes": {"test": "scenes"}},
    },
    "headline": [ACCURACY, AUROC],
}


@given(st.lists(st.text(min_size=1, max_size=8), min_size=40, max_size=80, unique=True))
def test_parts_are_nested_and_depend_on_the_id_alone(names: list[str]) -> None:
    ids, rows = np.array(names), np.arange(len(names))
    try:
        small, labels = take_part(0.2, rows, rows * 2, ids)
        large, _ = take_part(0.6, rows, rows, ids)
        behind, _ = take_part(0.6, rows[:30], rows[:30], ids)
    except DataError:
        return
    assert set(small) <= set(large)
    assert labels.tolist() == (small * 2).tolist()
    assert behind.tolist() == [row for row in large if row < 30]
    assert take_part(None, rows, rows, ids)[0] is rows


def test_parts_have_about_their_share_and_groups_are_equal() -> None:
    ids, rows = np.array([f"scene-{i:05d}" for i in range(9000)]), np.arange(9000)
    assert 900 < len(take_part(1 / 9, rows, rows, ids)[0]) < 1100
    assert np.bincount(groups_of(ids)).min() > 100  # of 141 on average
    with pytest.raises(DataError, match="too few"):
        take_part(1e-9, rows, rows, ids)


def test_a_part_of_a_suite_leaves_what_is_calibrated_on_whole() -> None:
    suite = suite_on_validation(load_suite("demo"))
    sizes = dict.fromkeys(suite.data, 900) | {"scenes-c": 48}
    part = part_suite(suite, 1 / 9, sizes, ["calibration/scenes", "corruption/scenes"])
    assert {task: list(labels) for task, labels in part.tasks.items()} == {
        "calibration": ["scenes"],
        "corruption": ["scenes"],
    }
    assert part.data["calibration"] == suite.data["calibration"]
    assert part.tasks["calibration"]["scenes"].data("fit") == ("calibration.part",)
    assert part.data["calibration.part"].option("part") == pytest.approx(1 / 9, abs=1e-6)
    assert part.data["scenes-c"].option("part") == pytest.approx(FEWEST / 48, abs=1e-6)
    assert part.data["far"].option("half") == "a"
    assert part_suite(suite, 1 / 9, {**sizes, "far": 10}, []).data["far"] == suite.data["far"]
    assert part.name != suite.name


@pytest.mark.parametrize("text", ["1", "0", "x", "1/0", "-1/3", "2"])
def test_shares_of_another_form_are_refused(text: str) -> None:
    with pytest.raises(SpecError, match=f"--rungs: '{text}' is not a share"):
        parse_shares(["1/9", text])


def test_shares_are_sorted() -> None:
    assert parse_shares(["1/3", " 0.1", "1/3"]) == (0.1, pytest.approx(1 / 3))


def part_of(rung: object) -> PartEngine:
    engine = rung.evaluate.__self__  # type: ignore[attr-defined]
    assert isinstance(engine, PartEngine)
    return engine


def test_no_image_is_embedded_twice_and_the_numbers_are_those_of_all_at_once(tmp_path: Path) -> None:
    suite = parse_spec(SuiteSpec, SUITE, "test")
    spec = parse("rtn-w3-channel-vision")
    alone = Engine(suite, Settings(), tmp_path / "alone")
    expected = alone.evaluate(spec)
    whole = Engine(suite, Settings(), tmp_path / "raced")
    assert whole.problem.evaluate(FP32)[ACCURACY] > 0.5
    rungs = make_rungs(whole, (1 / 9, 1 / 3), (ACCURACY, AUROC, "effective_bits"))
    assert [rung.share for rung in rungs] == [1 / 9, 1 / 3]
    parts = [part_of(rung).engine for rung in rungs]
    before = whole.forward_images
    small, _ = (rung.evaluate(spec) for rung in rungs)
    assert [engine.forward_images for engine in parts] == [
        len(parts[0].plan.data["scenes"]) + len(parts[0].plan.data["far"]),
        sum(len(parts[1].plan.data[n]) - len(parts[0].plan.data[n]) for n in ("scenes", "far")),
    ]
    full = whole.evaluate(spec)
    assert whole.forward_images - before + sum(engine.forward_images for engine in parts) == 180
    assert {key: full[key] for key in expected} == pytest.approx(expected, abs=1e-6)
    assert not any(key.startswith("calibration/") for key in small)
    for rung in rungs:  # full precision was whole before: nothing to embed
        rung.evaluate(FP32)
        rung.replicates(FP32)
    assert sum(engine.forward_images for engine in parts) < 180
    _replicates_by_hand(Ledger(tmp_path / "raced"), parts[1], spec.name, rungs[1].replicates(spec))


def test_a_quantization_is_made_once_for_all_parts_of_the_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    quantize = banks.quantize

    def counted(model: ClipModel, spec: QuantSpec, *args: Any, **options: Any) -> Any:
        made.append(spec.name)
        return quantize(model, spec, *args, **options)

    loaded: list[str] = []
    holder_model = ModelHolder.__dict__["model"].func

    def counted_load(holder: ModelHolder) -> ClipModel:
        loaded.append(holder.resolved.name)
        return holder_model(holder)  # type: ignore[no-any-return]

    counting = cached_property(counted_load)
    counting.__set_name__(ModelHolder, "model")
    monkeypatch.setattr(banks, "quantize", counted)
    monkeypatch.setattr(ModelHolder, "model", counting)
    whole = Engine(parse_spec(SuiteSpec, SUITE, "test"), Settings(), tmp_path)
    rungs = make_rungs(whole, (1 / 9, 1 / 3), (ACCURACY, AUROC))
    for name in ("rtn-w3-channel-vision", "rtn-w4-channel-vision+text"):
        numbers = [rung.evaluate(parse(name))[ACCURACY] for rung in rungs]
        numbers.append(whole.evaluate(parse(name))[ACCURACY])
        assert len(set(numbers)) > 1  # other images, the same model
    assert [name for name in made if name != "fp32"] == ["rtn-w3-channel-vision", "rtn-w4-channel-vision+text"]
    assert loaded == ["demo"]


def _replicates_by_hand(ledger: Ledger, engine: Engine, name: str, replicates: Sequence[Metrics]) -> None:
    configuration = engine.plan_of(parse(name)).configurations[1]
    evaluation = next(e for e in configuration.evaluations if e.task.name == "zero_shot")
    samples = ledger.outcome(ledger.records[evaluation.key]).columns["test"]
    groups = groups_of(samples["base_id"])
    assert len(replicates) == GROUPS
    for group, found in enumerate(replicates):
        assert found[ACCURACY] == pytest.approx(samples["correct"][groups != group].mean())
        assert found["effective_bits"] < 32
        assert AUROC in found
