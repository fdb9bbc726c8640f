"""The identity of an evaluation: from YAML alone, without torch, and the same as the one in its record."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from benchmark.ledger.records import Record
from benchmark.results.identity import found, identities, same
from benchmark.spec import SuiteSpec


def suite(**changes: Any) -> SuiteSpec:
    """One model, full precision and W4A8, two tasks."""
    content: dict[str, Any] = {
        "name": "s",
        "version": 1,
        "models": ["demo"],
        "quantizations": ["rtn-w4a8-vision"],
        "calibration": "pairs",
        "data": {
            "scenes": {"source": "demo", "split": "test", "templates": ["a {}."]},
            "far": {"source": "demo", "split": "far_ood", "text": "none"},
            "pairs": {"source": "demo", "split": "calibration"},
        },
        "tasks": {
            "zero_shot": {"a": {"test": "scenes"}},
            "ood": {"a": {"id": "scenes", "ood": ["far"]}},
        },
    }
    return SuiteSpec.model_validate({**content, **changes})


def test_of_every_evaluation_there_is_one() -> None:
    found_here = identities(suite())
    assert [(i["quantization"], i["task"]["name"]) for i in found_here] == [
        ("fp32", "zero_shot"),
        ("fp32", "ood"),
        ("rtn-w4a8-channel-token-vision", "zero_shot"),
        ("rtn-w4a8-channel-token-vision", "ood"),
    ]
    assert json.loads(json.dumps(found_here)) == found_here
    assert found_here[0]["data"] == {"test": [["scenes", {"source": "demo", "split": "test", "templates": ["a {}."]}]]}
    assert found_here[1]["options"]["scores"][1] == "mcm", "defaults are spelled out"
    assert (found_here[0]["calibration"], found_here[2]["calibration"][0]) == (None, "pairs")


def test_it_needs_no_torch_and_no_data() -> None:
    code = (
        "import sys\n"
        "from benchmark.results.identity import identities\n"
        "from benchmark.spec.suite import load_suite\n"
        "assert len(identities(load_suite('demo'))) > 50\n"
        "heavy = {'torch', 'datasets', 'open_clip', 'mlflow'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "changes",
    [
        {"models": ["ViT-B-32/openai"]},
        {"quantizations": ["rtn-w4-vision"]},
        {"limit": 10},
        {"data": {"scenes": {"source": "demo", "split": "v2"}, "far": {"source": "demo"}, "pairs": {"source": "demo"}}},
        {"tasks": {"zero_shot": {"b": {"test": "scenes"}}}},
        {"tasks": {"zero_shot": {"a": {"test": "far"}}}},
    ],
    ids=str,
)
def test_what_was_asked_for_changes_it(changes: dict[str, Any]) -> None:
    (mine,) = [i for i in identities(suite()) if i["task"]["name"] == "zero_shot" and i["quantization"] != "fp32"]
    others = [i for i in identities(suite(**changes)) if i["task"]["name"] == "zero_shot"]
    assert not any(same(mine, other) for other in others)


def test_what_does_not_belong_to_it_does_not() -> None:
    """Name, version, headline and margins of the suite; the place of its files."""
    plain = suite()
    data = {name: spec.model_copy(update={"path": f"/elsewhere/{name}"}) for name, spec in plain.data.items()}
    other = plain.model_copy(update={"name": "t", "version": 2, "margins": {"x": 0.5}, "data": data})
    assert identities(other) == identities(plain)


def test_the_newest_finished_record_is_found() -> None:
    wanted = identities(suite())[0]
    known = {**wanted, "model": {**wanted["model"], "digest": "d" * 64}}
    old = Record("k1", "c", "s", "demo", "fp32", "zero_shot", "a", "done", 0.0, identity=known)
    new, failed = replace(old, key="k2"), replace(old, key="k3", status="failed")
    assert found([old, new, failed], wanted) == new
    assert found([failed, replace(old, identity={})], wanted) is None
    assert not same(known, {**wanted, "model": {**wanted["model"], "digest": "e" * 64}}), "other weights"


def test_pairs_that_one_lacks_are_not_compared_and_other_pairs_are() -> None:
    quantized = identities(suite())[2]
    other = {**quantized, "calibration": ["others", {"source": "demo", "split": "train_small"}]}
    without = {**quantized, "calibration": None}
    assert same(quantized, dict(quantized))
    assert same(quantized, without)
    assert same(without, quantized)
    assert not same(quantized, other)
