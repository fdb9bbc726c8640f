"""The positive control through the command line: what was planted is found, what was not is not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmark.spec.suite import FOLDER
from tests.e2e.test_cli import call
from tests.reference.planted_truth import sampled, truth

FILTER, ROWS, RANK_8 = "rtn-w4-tensor-vision", "rtn-w4-channel-vision", "control-lowrank-rank_8-vision"
AT_ONCE = "accuracy, calibration, OOD detection and corruption robustness can improve at the same time"
NOISE = "accuracy under synthetic corruptions rises on average"
SHIFT = "quantization does not help under covariate shift"
SPURIOUS = "quantization does not help against spurious correlations"
Reliquant = Callable[..., str]


@pytest.fixture
def reliquant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Reliquant:
    """The command line in an empty folder; returns stdout of a command that succeeded."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> str:
        status, out, err = call(monkeypatch, capsys, *arguments, "--home", "home", "--quiet")
        assert status == 0, err
        return out

    return run


@pytest.fixture
def gate(
    reliquant: Reliquant, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., int]:
    """Exit status of `reliquant gate`."""
    return lambda *arguments: call(monkeypatch, capsys, "gate", *arguments, "--home", "home")[0]


def write_suite(path: Path, seed: int, divisor: int, quantizations: list[str]) -> str:
    """The shipped suite with other images, each data set as large as there or smaller by a factor."""
    suite: dict[str, Any] = yaml.safe_load((FOLDER / "planted.yaml").read_text())
    del suite["validation"]
    for data in suite["data"].values():
        if "source" in data:
            data["options"] = {"seed": seed}
        if "limit" in data:
            data["limit"] //= divisor
    suite |= {"name": f"planted-{seed}-{divisor}", "quantizations": quantizations}
    path.write_text(yaml.safe_dump(suite, sort_keys=False))
    return str(path)


def verdicts(reliquant: Reliquant, suite: str, variant: str, runs: str = FILTER) -> dict[str, str]:
    asked = ("compare", runs, "--suite", suite, "--model", f"planted-{variant}", "--claims", "--format", "json")
    return {row["claim"]: row["verdict"] for row in json.loads(reliquant(*asked))["rows"]}


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_what_is_planted_is_found_and_nothing_else(
    reliquant: Reliquant, gate: Callable[..., int], tmp_path: Path, seed: int
) -> None:
    """All four improve at once, and none under shift and for backgrounds; the mirror; nothing in the null variant."""
    suite = write_suite(tmp_path / "planted.yaml", seed, 1, ["fp32", FILTER, ROWS, RANK_8])
    reliquant("run", suite, "--tracker", "jsonl")
    found = {variant: verdicts(reliquant, suite, variant) for variant in ("gain", "mirror", "null")}
    assert [found["gain"][claim] for claim in (AT_ONCE, NOISE, SHIFT, SPURIOUS)] == ["holds"] * 4
    assert [found["mirror"][c] for c in (AT_ONCE, NOISE, SHIFT, SPURIOUS)] == [
        *("not shown", "does not hold", "holds", "holds"),
    ]
    assert found["null"][AT_ONCE] == "not shown"
    assert found["null"][NOISE] in ("does not hold", "cannot tell")
    for variant in ("gain", "mirror", "null"):
        assert verdicts(reliquant, suite, variant, ROWS)[AT_ONCE] == "not shown"
    check_values(tmp_path / "home", suite)

    tenth = write_suite(tmp_path / "tenth.yaml", seed, 10, ["fp32", FILTER, RANK_8])
    reliquant("run", tenth, "--tracker", "jsonl")
    for variant in ("gain", "mirror", "null"):
        told = verdicts(reliquant, tenth, variant)
        assert told[AT_ONCE] == "not shown"
        for claim in (NOISE, SHIFT, SPURIOUS):  # it may tell a large effect; it must not tell a wrong one
            assert told[claim] in ("cannot tell", "does not hold" if variant == "null" else found[variant][claim])
    for name, statuses in ((suite, {"mirror": {1}, "null": {0, 4}}), (tenth, {"mirror": {1, 4}, "null": {4}})):
        for variant, expected in statuses.items():
            assert gate(RANK_8, "--suite", name, "--model", f"planted-{variant}") in expected


def check_values(home: Path, suite: str) -> None:
    """Every metric lies where the closed form, or 400,000 drawn features, put it: within 4.5 standard errors."""
    rows = [json.loads(line) for line in (home / "ledger.jsonl").read_text().splitlines()]
    metrics: dict[tuple[str, bool], dict[str, float]] = {}
    for row in rows:
        if row["kind"] == "record" and row["quantization"] in ("fp32", FILTER):
            metrics.setdefault((row["model"], row["quantization"] == FILTER), {}).update(row["metrics"])
    assert len(metrics) == 6
    for (model, cut), own in metrics.items():
        variant = model.removeprefix("planted-")
        exact, drawn = truth(variant, cut), sampled(variant, cut, 100_000)
        share = 4.5 * (0.25 / 1600) ** 0.5
        assert own["zero_shot/planted/accuracy"] == pytest.approx(exact["test"], abs=share)
        assert own["covariate_shift/planted/accuracy"] == pytest.approx(exact["shifted"], abs=share)
        assert own["spurious/planted/rsg"] == pytest.approx(exact["rsg"], abs=2 * share)
        assert own["ood/planted.far/mcm/auroc"] == pytest.approx(drawn["far"], abs=share)
        assert own["ood/planted.near/mcm/auroc"] == pytest.approx(drawn["near"], abs=share)
        assert own["calibration/planted/ece_15_debiased"] == pytest.approx(drawn["ece_15"], abs=0.015)


@pytest.mark.slow
def test_controls_find_the_filter(reliquant: Reliquant, tmp_path: Path) -> None:
    """The gain alone reproduces what the filter does, the residual, noise and a temperature do not."""
    like = FILTER.replace("-", ".")
    names = [f"control-{kind}-like_{like}" for kind in ("gain", "residual", "noise", "margin")]
    suite = write_suite(tmp_path / "planted.yaml", 1, 1, ["fp32", FILTER, *names])
    reliquant("run", suite, "--tracker", "jsonl", "--task", "zero_shot", "--task", "ood", "--model", "planted:gain",
              "--model", "planted:mirror")  # fmt: skip
    for variant, sign in (("gain", 1), ("mirror", -1)):
        asked = ("compare", "--suite", suite, "--model", f"planted-{variant}", "--json")
        rows = [json.loads(line) for line in reliquant(*asked).splitlines()]
        change = {(row["quantization"].split("-like")[0], row["metric"]): row["change"] for row in rows}
        for metric in ("zero_shot/planted/accuracy", "ood/planted.far/mcm/auroc"):
            whole = change[FILTER, metric]
            assert sign * whole > 0.02
            assert change["control-gain", metric] == pytest.approx(whole, abs=0.3 * abs(whole))
            assert abs(change["control-noise", metric] - whole) > 0.1
            assert abs(change["control-residual", metric]) < 0.5 * abs(whole)
            assert abs(change["control-margin", metric]) < 1e-9


def test_every_task_runs_on_a_few_images(reliquant: Reliquant, tmp_path: Path) -> None:
    suite = write_suite(tmp_path / "planted.yaml", 0, 40, ["fp32", FILTER])
    reliquant("run", suite, "--model", "planted:mirror", "--limit", "16", "--tracker", "jsonl")
    rows = [json.loads(line) for line in (tmp_path / "home" / "ledger.jsonl").read_text().splitlines()]
    records = [row for row in rows if row["kind"] == "record"]
    assert {row["status"] for row in records} == {"done"}
    assert len(records) == 2 * 7
