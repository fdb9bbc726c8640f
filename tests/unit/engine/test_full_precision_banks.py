"""Banks in full precision beside those of a quantization: the same arrays, made once, and counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmark import Banks, Columns, Metric, NoOptions, Summary, task
from benchmark.engine.banks import BankMaker, Caches
from benchmark.engine.evaluate import embed, evaluate
from benchmark.engine.holding import ModelHolder
from benchmark.engine.plan import Plan, make_plan
from benchmark.plugins import tasks
from benchmark.spec import SuiteSpec
from benchmark.utils.progress import Silent

IMAGES = 6


@pytest.fixture
def plan() -> Plan:
    """The demo's pairs under full precision and a quantization of the image tower."""
    pairs = {"source": "demo", "split": "calibration", "text": "captions", "limit": IMAGES}
    fields: dict[str, Any] = {"name": "s", "version": 1, "models": ["demo"], "quantizations": ["rtn-w3-tensor-vision"]}
    bindings = {"retrieval": {"pairs": {"test": "pairs"}}}
    return make_plan(SuiteSpec.model_validate({**fields, "data": {"pairs": pairs}, "tasks": bindings}))


def makers(plan: Plan, folder: Path) -> list[BankMaker]:
    """Of full precision and of the quantization, with the same caches."""
    caches, holder = Caches.open(folder, 10**8, False), ModelHolder(plan.configurations[0].model, "cpu")
    return [caches.maker(plan, configuration, holder, Silent()) for configuration in plan.configurations]


def test_they_are_those_of_full_precision_and_made_once(plan: Plan, tmp_path: Path) -> None:
    full, quantized = makers(plan, tmp_path)
    assert full.full_precision is full
    embed(quantized, quantized.configuration.evaluations, False)
    assert (quantized.forward_images, quantized.images_run) == (IMAGES, 2 * IMAGES)
    beside = quantized.full_precision
    assert beside is not None
    one, other = (maker.bank("pairs", captions=True) for maker in (full, beside))
    assert one.digest == other.digest != quantized.bank("pairs").digest
    for name in ("image", "caption", "caption_image"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert not np.array_equal(one.image, quantized.bank("pairs").image)
    _, again = makers(plan, tmp_path)
    embed(again, again.configuration.evaluations, False)
    assert (full.images_run, again.images_run) == (0, 0)


def test_a_task_gets_what_it_declares_and_nothing_else(plan: Plan, tmp_path: Path) -> None:
    """`captions` and `full_precision` are for the roles that they name."""
    seen: list[Banks] = []

    @task("curious", version=1, needs=("one", "two"), metrics=[Metric("x", "higher")], full_precision=("two",))
    def curious(banks: Banks, options: NoOptions) -> Columns:
        """Notes what it gets."""
        seen.append(banks)
        return Columns({"one": banks["one"].columns()})

    curious.summarise(lambda columns, options: Summary({"x": 0.0}))
    [known] = plan.configurations[1].evaluations
    fields = {**vars(known), "task": curious, "roles": {"one": ("pairs",), "two": ("pairs",)}}
    for maker in makers(plan, tmp_path):
        result = evaluate(maker, type(known)(**{k: v for k, v in fields.items() if k != "texts"}), {})
        assert result.error is None
    full, quantized = seen
    assert list(quantized.full_precision) == ["two"]
    np.testing.assert_array_equal(quantized.full_precision["two"][0].image, full["two"].image)
    assert quantized["one"].caption is None
    assert tasks.get("retrieval").captions == tasks.get("retrieval").full_precision == ("test",)
