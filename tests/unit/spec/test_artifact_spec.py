"""Artifacts in suites and on the command line."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.engine.plan import check_suite
from benchmark.errors import ReliquantError, SpecError
from benchmark.results.identity import identities
from benchmark.results.sizes import Size, size
from benchmark.spec import ArtifactQuant, SuiteSpec, parse_spec
from benchmark.spec.artifacts import artifacts_of, parse_artifacts
from benchmark.spec.suite import narrow

CONTENT: dict[str, Any] = {
    "name": "mine",
    "version": 1,
    "models": ["demo"],
    "quantizations": ["rtn-w4-vision"],
    "artifacts": {"phone": "visual.onnx", "tablet": {"file": "tablet.xml", "text": "text.xml"}},
    "data": {"scenes": {"source": "demo", "split": "test"}},
    "tasks": {"zero_shot": {"scenes": {"test": "scenes"}}},
}
TWO = [{"ref": "demo"}, {"ref": "demo", "name": "other"}]


def suite(**fields: Any) -> SuiteSpec:
    return parse_spec(SuiteSpec, {**CONTENT, **fields}, "mine.yaml")


def test_the_forms_of_the_command_line() -> None:
    found = parse_artifacts(["a=x,y.onnx", "b=x.onnx,text=t.onnx,model=demo", "c=text=t.onnx", "d=x=y.onnx"])
    assert (found["a"].file, found["a"].text) == ("x,y.onnx", None)
    assert (found["b"].file, found["b"].text, found["b"].model) == ("x.onnx", "t.onnx", "demo")
    assert (found["c"].file, found["c"].text) == (None, "t.onnx")
    assert found["d"].file == "x=y.onnx"


@given(st.lists(st.one_of(st.text(max_size=30), st.from_regex(r"[a-z]{1,3}=[a-z.,=]{0,20}", fullmatch=True))))
def test_any_text_is_read_or_refused_in_one_line(items: list[str]) -> None:
    try:
        found = parse_artifacts(items)
    except ReliquantError as error:
        told = str(error)
    else:
        told = ""
        assert len(found) == len(items)
    assert "\n" not in told


def test_names_that_mean_something_else_are_refused() -> None:
    for name, says in (
        ("rtn", "method 'rtn'"),
        ("rtn-w4-vision", "method 'rtn'"),
        ("fp32", "method"),
        ("demo", "suite"),
    ):
        with pytest.raises(SpecError, match=says):
            check_suite(suite(artifacts={name: "visual.onnx"}))
    check_suite(suite(artifacts={"rtnx": "visual.onnx", "my-rtn": "visual.onnx"}))


def test_a_suite_needs_a_quantization_or_an_artifact() -> None:
    assert suite(quantizations=[]).artifacts.keys() == {"phone", "tablet"}
    with pytest.raises(SpecError, match="name at least one, or an artifact"):
        suite(quantizations=[], artifacts={})
    with pytest.raises(SpecError, match=r"artifacts\.phone: it names no file"):
        suite(artifacts={"phone": {"model": "demo"}})
    with pytest.raises(SpecError, match=r"artifacts\.phone\.fiel: unknown field 'fiel'\. Did you mean 'file'"):
        suite(artifacts={"phone": {"fiel": "x.onnx"}})


def test_the_model_of_an_artifact() -> None:
    both = suite(models=TWO)
    with pytest.raises(SpecError, match=r"artifacts\.phone\.model: which of the suite's 2 models"):
        artifacts_of(both, both.models[0])
    named = suite(models=TWO, artifacts={"phone": {"file": "x.onnx", "model": "other"}})
    assert [artifacts_of(named, model) for model in named.models] == [[], ["phone"]]
    with pytest.raises(SpecError, match="unknown model of the suite 'nobody'"):
        check_suite(suite(artifacts={"phone": {"file": "x.onnx", "model": "nobody"}}))


def test_filters_name_artifacts_and_the_command_line_adds_them() -> None:
    assert narrow(suite(), quantizations=["tablet"]).artifacts.keys() == {"tablet"}
    assert narrow(suite(), quantizations=["tablet"]).quantizations == ()
    few = narrow(suite(), quantizations=["rtn-w8-vision"], artifacts=["watch=w.onnx"])
    assert (few.quantizations, few.artifacts.keys()) == (("rtn-w8-vision",), {"watch"})
    assert narrow(suite(), artifacts=["phone=new.onnx"]).artifacts["phone"].file == "new.onnx"
    assert narrow(suite()).artifacts == suite().artifacts


def test_identities_know_artifacts_by_name_alone() -> None:
    assert [one["quantization"] for one in identities(suite())] == ["fp32", "rtn-w4-channel-vision", "phone", "tablet"]


def test_an_artifact_stands_where_a_quantization_stands() -> None:
    quant = ArtifactQuant(label="phone", method="onnx", scope="vision")
    assert (quant.name, quant.towers) == ("phone", ("vision",))
    assert quant.for_tower("vision").name == "phone"
    assert quant.for_tower("text").name == "fp32"


def test_the_size_of_an_artifact_is_that_of_its_files() -> None:
    tower = {"packed_bytes": 1_000_000, "weight_share": 1.0, "layers": []}
    report: dict[str, Any] = {
        "kind": "artifact",
        "weights": {"vision": 900_000, "text": 100_000},
        "parameters": {"vision": 1_000_000, "text": 500_000},
        "towers": {"vision": tower},
    }
    found = size(report)
    assert isinstance(found, Size)
    assert found.megabytes == pytest.approx(1 + 2)
    assert found.effective_bits == pytest.approx(0.9 * 8 + 0.1 * 32)
    assert size({**report, "towers": {"vision": {**tower, "packed_bytes": None}}}) is None
