"""Which control reproduces which change: verdicts on records whose truth is known, and how they are written."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from typer.testing import CliRunner, Result

from benchmark.cli.app import app
from benchmark.metrics.uncertainty import GROUPS, Measured, estimate
from benchmark.results.mechanism import FORMATS, Match, imitated, judge, match, part_of
from benchmark.spec.short_name import dotted
from tests.ledgers import W4, Made, put_kinds

LIKE = f"like_{dotted('rtn-w4a8')}-vision"
GAIN, RESIDUAL, SHAPED = (f"control-{kind}-{LIKE}" for kind in ("gain", "residual", "shaped"))
RANK = "control-lowrank-rank_8-vision"
KEYS = ["zero_shot/d/accuracy", "ood/d/mcm/auroc", "calibration/d/ece_15", "spurious/d/rsg"]
CHANGES = {
    W4: {"accuracy": -0.08, "auroc": 0.05, "ece": 0.001},
    GAIN: {"accuracy": 0.0, "auroc": 0.05, "ece": 0.02},
    RESIDUAL: {"accuracy": -0.078, "auroc": 0.0, "ece": 0.02},
    SHAPED: {"accuracy": -0.04, "auroc": 0.051, "ece": 0.0},
    RANK: {"accuracy": -0.2, "auroc": 0.05, "ece": 0.0},
}


def made(changes: dict[str, dict[str, float]] | None = None, error: float = 0.003) -> Made:
    found = Made()
    for quantization, kinds in (changes or CHANGES).items():
        put_kinds(found, "m", quantization, {kind: (change, error) for kind, change in kinds.items()})
    return found


def matches(of: Made) -> list[Match]:
    found, failures = match(list(of.records.values()), lambda record: of.evidence[record.key], KEYS)
    assert not failures
    return found


def test_names_tell_what_is_imitated() -> None:
    assert imitated(GAIN) == W4
    assert imitated(RANK) is None
    assert (part_of(GAIN), part_of(RANK)) == ("control-gain", "control-lowrank-rank_8")


def test_verdicts_follow_the_truth() -> None:
    """Changes of -0.08 and +0.05 with errors of 0.003: each control makes all, none, half or more of them."""
    found = {(each.key.split("/")[0], each.part): each.verdict for each in matches(made())}
    assert found == {
        ("zero_shot", "control-gain"): "does not",
        ("zero_shot", "control-residual"): "reproduces",
        ("zero_shot", "control-shaped"): "cannot tell",
        ("zero_shot", "control-lowrank-rank_8"): "overshoots",
        ("ood", "control-gain"): "reproduces",
        ("ood", "control-residual"): "does not",
        ("ood", "control-shaped"): "reproduces",
        ("ood", "control-lowrank-rank_8"): "reproduces",
        **{("calibration", each): "no change shown" for each in map(part_of, (GAIN, RESIDUAL, SHAPED, RANK))},
    }


def test_the_difference_is_control_minus_quantization_paired_by_replicates() -> None:
    """Value and interval by NumPy from the replicates of the two records."""
    of = made()
    records = {record.quantization: record for record in of.records.values() if record.task == "ood"}
    [found] = [each for each in matches(of) if each.control == RESIDUAL and each.key == "ood/d/mcm/auroc"]
    control, quantized = (of.evidence[records[name].key].measured["mcm/auroc"] for name in (RESIDUAL, W4))
    value, replicates = control.value - quantized.value, control.replicates - quantized.replicates
    squares = (replicates - replicates.mean()) ** 2
    freedom = min(squares.sum() ** 2 / (squares**2).sum(), GROUPS - 1)
    expected = stats.t.interval(0.95, freedom, value, np.sqrt((GROUPS - 1) / GROUPS * squares.sum()))
    assert found.difference is not None
    assert found.difference.value == pytest.approx(value) == pytest.approx(-0.05)
    assert found.difference.interval() == pytest.approx(expected)


def test_few_images_cannot_tell() -> None:
    told = {each.verdict for each in matches(made(error=0.2))}
    assert told == {"no change shown"}
    middle = [each.verdict for each in matches(made(error=0.02)) if each.key == KEYS[0]]
    assert "reproduces" not in middle
    assert "cannot tell" in middle


@pytest.mark.slow
def test_verdicts_are_rarely_wrong() -> None:
    """At the very edge, where a control makes half of a change, it is called a reproduction 2.5 times in 100."""
    rng = np.random.default_rng(0)
    wrong = {"reproduces": 0, "does not": 0}
    for _ in range(1000):
        drawn = rng.normal(size=(3, GROUPS)) * 0.003
        f, q, c = (
            Measured(v + d.mean() * 8, v + d.mean() * 8 + (d - d.mean()) * np.sqrt(1 / 63))
            for v, d in zip((0.8, 0.7, 0.75), drawn, strict=True)
        )
        whole = estimate(lambda a, b: a - b, q, f, occupied=GROUPS)
        assert whole is not None
        verdict = judge(whole, f, q, c, GROUPS)
        if verdict in wrong:
            wrong[verdict] += 1
    assert max(wrong.values()) <= 45
    assert min(wrong.values()) >= 8


def test_a_quantization_that_nothing_imitates_is_left_out() -> None:
    other = {"rtn-w8-channel-vision": {"accuracy": -0.05}}
    assert {each.quantization for each in matches(made(CHANGES | other))} == {W4}
    alone = {**other, RANK: {"accuracy": -0.2}}
    assert {each.quantization for each in matches(made(alone))} == set(other)
    assert matches(made(other)) == []
    gone = {W4: {"accuracy": -0.05}, "control-gain-like_nobody.w4-vision": {"accuracy": -0.05}}
    assert matches(made(gone)) == []


def test_a_control_of_other_images_is_not_compared() -> None:
    of = made()
    for key, record in of.records.items():
        if record.quantization == GAIN:
            of.evidence[key] = type(of.evidence[key])(**{**vars(of.evidence[key]), "samples": "others"})
    found, failures = match(list(of.records.values()), lambda record: of.evidence[record.key], KEYS)
    assert GAIN not in {each.control for each in found}
    assert all(GAIN in name and "not the same" in reason for name, reason in failures.items())
    assert failures


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    made().write(folder)
    return folder


def run(home: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["compare", "--controls", *arguments, "--suite", "made", "--home", str(home)])


def test_the_table_of_the_command(home: Path) -> None:
    result = run(home)
    assert result.exit_code == 0, result.output
    assert f"m, {W4}" in result.stdout
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["control-residual", "-0.0780", "+0.0020"] in [line[:3] for line in lines]
    assert max(map(len, result.stdout.splitlines())) <= 100


@pytest.mark.parametrize("name", list(FORMATS))
def test_every_format(home: Path, name: str) -> None:
    result = run(home, "--format", name)
    assert result.exit_code == 0, result.output
    text = result.stdout
    if name == "json":
        text = json.dumps(json.loads(text)["rows"])
        assert len(json.loads(text)) == 12
    if name == "jsonl":
        assert {json.loads(line)["suite"] for line in text.splitlines()} == {"made"}
    if name == "csv":
        rows = list(csv.DictReader(io.StringIO(text)))
        assert float(rows[0]["difference_low"]) < float(rows[0]["difference"]) < float(rows[0]["difference_high"])
    assert "reproduces" in text
    assert "control-residual" in text


def test_without_controls_the_command_says_how_to_get_some(tmp_path: Path) -> None:
    made({W4: {"accuracy": -0.05}}).write(tmp_path)
    result = run(tmp_path)
    assert result.exit_code == 0
    assert "hold no quantization together with a control" in result.stdout.replace("\n", " ")
    refused = run(tmp_path, "--claims")
    assert "--by, --claims and --controls: one of them at a time" in str(refused.exception)
