"""Several calibration sets in one suite: names, what is evaluated, groups, and what is refused."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from benchmark.cli.app import app
from benchmark.engine.plan import Settings, make_plan
from benchmark.errors import SpecError
from benchmark.ledger.records import Ledger
from benchmark.results.answers import records_of
from benchmark.results.identity import identities
from benchmark.spec import SuiteSpec
from benchmark.spec.suite import limit_of, narrow

STATIC, DYNAMIC = "rtn-w8a8-tensor-tensor-vision", "rtn-w4a8-channel-token-vision"
ON_FEW = "rtn-w8a8-tensor-tensor-calibration_few-vision"
SUITE: dict[str, Any] = {
    "name": "axis",
    "version": 1,
    "models": ["demo"],
    "quantizations": [DYNAMIC, STATIC],
    "calibration": ["pairs", "few"],
    "data": {
        "scenes": {"source": "demo", "split": "test", "limit": 60},
        "pairs": {"source": "demo", "split": "calibration", "text": "captions", "limit": 24},
        "few": {"base": "pairs", "limit": 4},
    },
    "tasks": {"zero_shot": {"scenes": {"test": "scenes"}}},
}


def suite(**changes: Any) -> SuiteSpec:
    return SuiteSpec.model_validate({**SUITE, **changes})


def names(spec: SuiteSpec) -> list[str]:
    return [c.quant.name for c in make_plan(spec, Settings(engine="none")).configurations]


def test_what_looks_at_calibration_data_is_quantized_on_each_set() -> None:
    assert names(suite()) == ["fp32", DYNAMIC, STATIC, ON_FEW]
    assert names(suite(calibration="pairs")) == ["fp32", DYNAMIC, STATIC]
    assert names(suite(calibration=["pairs"])) == ["fp32", DYNAMIC, STATIC]
    assert names(narrow(suite(), quantizations=[STATIC])) == ["fp32", STATIC], "a name on the command line is itself"
    assert names(narrow(suite(), quantizations=[ON_FEW])) == ["fp32", ON_FEW]


def test_the_first_set_gives_the_evaluations_of_a_suite_with_that_set_alone() -> None:
    """So a second set is added to a finished suite, and the first is not computed again."""
    both, one = (make_plan(suite(calibration=sets), Settings(engine="none")) for sets in (["pairs", "few"], "pairs"))
    keys = {e.key for c in both.configurations for e in c.evaluations}
    assert keys > {e.key for c in one.configurations for e in c.evaluations}
    assert len(keys) == 4


def test_identities_name_the_set_that_was_used() -> None:
    found = {one["quantization"]: one["calibration"] for one in identities(suite())}
    assert [found[name] and found[name][0] for name in ("fp32", STATIC, ON_FEW)] == [None, "pairs", "few"]
    planned = set(names(suite()))
    assert planned <= set(found), "the results of each evaluation are found from the YAML"


def test_every_set_stays_whole_under_a_limit() -> None:
    limited = narrow(suite(), limit=2)
    assert [limit_of(limited, name) for name in ("scenes", "pairs", "few")] == [2, 24, 4]
    named = narrow(suite(calibration="pairs"), quantizations=[ON_FEW], limit=2)
    assert limit_of(named, "few") == 4, "also one that only a short name names"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"calibration": ["pairs", "fwe"]}, "Did you mean 'few'"),
        ({"calibration": ["pairs", "pairs"]}, "names a data set twice"),
        ({"quantizations": [STATIC.replace("-vision", "-calibration_fwe-vision")]}, "Did you mean 'few'"),
        ({"quantizations": [DYNAMIC.replace("-vision", "-calibration_few-vision")]}, "looks at no calibration data"),
    ],
)
def test_what_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises((SpecError, ValueError), match=says):
        make_plan(suite(**changes), Settings(engine="none"))


def test_compare_groups_by_calibration_set(tmp_path: Path) -> None:
    """From a run: the set is in the records, in the groups, and in what `show` prints."""
    path, home = tmp_path / "axis.json.yaml", tmp_path / "home"
    path.write_text(json.dumps(SUITE), encoding="utf-8")

    def call(*words: str) -> str:
        done = CliRunner().invoke(app, [*words, "--home", str(home)])
        assert done.exit_code == 0, done.output
        return done.stdout

    call("run", str(path), "--tracker", "jsonl", "--no-speed", "--quiet")
    table = call("compare", "--suite", str(path), "--by", "method_family,calibration", "--format", "csv", "--quiet")
    rows = list(csv.DictReader(io.StringIO(table)))
    assert [(row["method_family"], row["calibration"], row["runs"]) for row in rows] == [
        ("simple", "few", "1"),
        ("simple", "pairs", "1"),
        ("simple", "-", "1"),
    ]
    records = {record.quantization: record for record in records_of(Ledger(home), "axis", suite())}
    digests = [records[name].provenance["calibration"] for name in (STATIC, ON_FEW)]
    assert len(set(digests)) == 2
    assert "calibrated_on" not in records[DYNAMIC].provenance
    assert f"few {digests[1][:16]}" in call("show", ON_FEW, "--suite", str(path))
