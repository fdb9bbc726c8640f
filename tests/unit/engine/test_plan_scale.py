"""The plan of the `paper` suite: all configurations, work that grows with their number alone, bounded memory."""

from __future__ import annotations

import hashlib
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmark.engine import plan as planning
from benchmark.engine.plan import Plan, make_plan
from benchmark.models import ResolvedModel
from benchmark.models.base import Preprocess
from benchmark.spec import ModelSpec, SuiteSpec
from benchmark.spec.suite import load_suite, narrow
from tests.layouts import write_webdataset
from tests.published import write_cifar, write_imagenet

BYTES_PER_EVALUATION = 4_000
CHARACTERS_PER_EVALUATION = 4_000
"""Of JSON made for content hashes: what all evaluations share (75 corrupted data sets, ...) is written once."""


def stub(spec: ModelSpec) -> ResolvedModel:
    """A model that is not here, named and hashed by its reference."""
    sha = hashlib.sha256(spec.ref.encode()).hexdigest()
    preprocess = Preprocess((224, 224), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    return ResolvedModel(spec, spec.ref.replace("/", "."), "ViT", sha, (), None, preprocess, lambda device: None)  # type: ignore[arg-type, return-value]


@pytest.fixture(scope="module")
def paper(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SuiteSpec]:
    """The suite on a few files in every layout that it names."""
    folder: Path = tmp_path_factory.mktemp("paper") / "data"
    write_imagenet(folder)
    write_cifar(folder)
    write_webdataset(folder / "cc3m", None, 12, captions=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RELIQUANT_DATA", str(folder))
        yield load_suite("paper")


@pytest.fixture
def plan_of(monkeypatch: pytest.MonkeyPatch, paper: SuiteSpec) -> Callable[[int], Plan]:
    """The plan of so many of the suite's models, and of stand-ins where it has fewer."""
    monkeypatch.setattr(planning, "resolve", stub)
    refs = [model.ref for model in paper.models]

    def make(models: int) -> Plan:
        return make_plan(narrow(paper, models=[*refs, *(f"more/{i}" for i in range(models))][:models]))

    return make


@pytest.mark.slow
def test_every_evaluation_of_the_paper_suite_has_a_name_of_its_own(plan_of: Callable[[int], Plan]) -> None:
    plan = plan_of(10)
    assert len(plan.configurations) == 10 * 103
    keys = [e.key for c in plan.configurations for e in c.evaluations]
    assert len(keys) == len(set(keys)) == 10 * 103 * 8
    pairs = {e.comparison_key for c in plan.configurations for e in c.evaluations}
    assert len(pairs) == 10 * 8
    assert len({c.quantized_key for c in plan.configurations}) == 10 * 103


@pytest.mark.slow
def test_work_and_memory_grow_with_the_number_of_configurations(
    plan_of: Callable[[int], Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model more costs what the model before did, in JSON written for content hashes and in memory."""
    plan_of(1)  # opens the data
    written = 0
    canonical = planning.canonical

    def counted(value: object) -> str:
        nonlocal written
        written += len(text := canonical(value))
        return text

    monkeypatch.setattr(planning, "canonical", counted)
    texts, sizes = [], []
    for models in (2, 4, 8):
        written = 0
        tracemalloc.start()
        plan = plan_of(models)
        sizes.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        texts.append(written)
        evaluations = sum(len(c.evaluations) for c in plan.configurations)
        assert evaluations == models * 103 * 8
    assert texts[2] - texts[1] == pytest.approx(2 * (texts[1] - texts[0]), rel=0.01)
    assert (texts[2] - texts[1]) / (4 * 103 * 8) < CHARACTERS_PER_EVALUATION
    per_evaluation = (sizes[2] - sizes[1]) / (4 * 103 * 8)
    assert per_evaluation < BYTES_PER_EVALUATION
