"""What is known about models: the catalogue, and what a suite says instead."""

from __future__ import annotations

import pytest

from benchmark.errors import SpecError
from benchmark.models.catalogue import published_parameters
from benchmark.spec.base import ModelFacts, ModelSpec, SuiteSpec, parse_spec
from benchmark.spec.groups import groups
from benchmark.spec.models import facts, known_model, known_models


def test_every_entry_names_who_published_it_and_has_a_number_of_weights() -> None:
    assert len(known_models()) > 30
    for ref, entry in known_models().items():
        assert entry.family, ref
        assert entry.architecture, ref
        assert entry.pretraining, ref
        assert entry.source, ref
        assert ref == "demo" or published_parameters(ref), ref
        assert entry.top1 is None or 0.3 < entry.top1 < 0.9, ref


def test_the_models_of_the_study_are_all_known() -> None:
    """Two of each class at least: what can be compared between models."""
    found = [facts(spec) for spec in groups()["paper"]]
    assert sorted({each.architecture for each in found if each.architecture}) == ["convnet", "transformer"]
    assert {"WIT", "LAION", "DFN", "WebLI", "COYO"} == {each.pretraining for each in found}


@pytest.mark.parametrize(
    "ref",
    ["ViT-B-32/laion2b_s34b_b79k", "hf-hub:laion/CLIP-ViT-B-32-laion2B-s34B-b79K", "ViT-B-32-quickgelu/openai"],
)
def test_a_model_is_found_by_each_of_its_references(ref: str) -> None:
    entry = known_model(ref)
    assert entry is not None
    assert (entry.family, entry.architecture) == ("ViT", "transformer")
    assert entry.pretraining == ("WIT" if "openai" in ref else "LAION")


def test_what_a_suite_says_counts_more_and_what_it_does_not_say_comes_from_the_catalogue() -> None:
    spec = ModelSpec(ref="RN50/openai", family="mine", top1=0.25)
    assert facts(spec) == ModelFacts(family="mine", architecture="convnet", pretraining="WIT", top1=0.25)
    assert facts(ModelSpec(ref="local-dir:here")) == ModelFacts()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("architecture", "cnn", "models.0.architecture: Input should be 'transformer', 'convnet' or 'hybrid'"),
        ("top1", 63.3, "models.0.top1: Input should be less than or equal to 1"),
        ("pretrained", "LAION", "models.0.pretrained: unknown field 'pretrained'"),
        ("parameters", 0, "models.0.parameters: Input should be greater than or equal to 1"),
    ],
)
def test_a_field_that_is_not_right_is_named(field: str, value: object, message: str) -> None:
    content = {"name": "s", "version": 1, "models": [{"ref": "demo", field: value}], "quantizations": ["fp32"]}
    content |= {"data": {"d": {"source": "demo"}}, "tasks": {"zero_shot": {"d": {"test": "d"}}}}
    with pytest.raises(SpecError) as error:
        parse_spec(SuiteSpec, content, "suite.yaml")
    assert str(error.value).startswith(f"suite.yaml: {message}")
