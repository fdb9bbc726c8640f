"""The command line against the oracle: random small suites, run again after each change in the same results folder.

Every metric must agree within what it moves when each feature moves by float32 rounding (`TINY`), so that an image at
the edge of a bin, or between two classes, is allowed for and nothing else is. `ece_15_floor` is drawn anew by both.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from benchmark.cli.app import app
from benchmark.demo import scenes
from benchmark.plugins import tasks
from tests.reference import oracle_features as oracle
from tests.reference import oracle_metrics as metrics
from tests.reference import oracle_retrieval
from tests.reference.random_suites import CHANGES, Suite

MODEL = f"local-dir:{Path(scenes.__file__).parent / 'checkpoint'}"
TINY = 2e-7
"""Four times the standard deviation by which float32 features differ from float64's here; features have length 1."""

SEEDS = (1, 2, 3)
"""Suites that differ in sources, scope, granularity, limit, fit data, corruptions, and whether pixels are stored."""

SHAKEN = 6
LEFT_OUT: Mapping[str, str] = {
    "mean_corruption_error_alexnet": "no suite here has the 75 variants that it needs",
    "ties": "counts scores that are equal to the last bit, which rounding decides",
}
"""Metrics that a record may have and the oracle does not compute, and why."""

Features = dict[str, dict[str, oracle.Seen]]


def run(suite: Suite, home: Path, capsys: pytest.CaptureFixture[str]) -> dict[tuple[str, str], dict[str, Any]]:
    """(quantization, task/binding) -> the row that `reliquant run --json` prints."""
    path = suite.root / "suite.yaml"
    path.write_text(yaml.safe_dump(suite.fields()))
    options = ["--home", str(home), "--tracker", "jsonl", "--json", "--quiet", "--skip-broken", "--no-speed"]
    options += ["--pixel-cache", "0"] if suite.streamed else []
    capsys.readouterr()
    status = app(["run", str(path), *options], standalone_mode=False)
    printed = capsys.readouterr()
    assert not status, printed.err
    rows = [json.loads(line) for line in printed.out.splitlines()]
    return {(row["quantization"], f"{row['task']}/{row['dataset']}"): row for row in rows}


def sets(suite: Suite) -> dict[str, list[str]]:
    """Data set -> the single ones it stands for."""
    return {
        name: [f"{name}/{kind}/{severity}" for kind in spec["corruptions"] for severity in spec["severities"]]
        if "corruptions" in spec
        else [name]
        for name, spec in suite.fields()["data"].items()
    }


def features(suite: Suite, loaded: tuple[Any, Any, Any]) -> dict[str, oracle.Seen]:
    """What a model sees of every single data set."""
    data, found = suite.fields()["data"], {}
    fitted_on = {roles["fit"] for bindings in suite.tasks.values() for roles in bindings.values() if "fit" in roles}
    for name, singles in sets(suite).items():
        spec = {**data.get(data[name].get("base", ""), {}), **data[name]}
        for single in singles:
            _, *variant = single.split("/")
            own = {"corruption": variant[0], "severity": int(variant[1])} if variant else {}
            found[single] = oracle.look({**spec, **own}, None if name in fitted_on else suite.limit, *loaded)
    return found


def expected(suite: Suite, task: str, roles: Mapping[str, Any], seen: Any, full: Any, negatives: Any) -> dict[str, Any]:
    """The metrics of one binding; `full`: what full precision sees, None for itself."""
    known = sets(suite)

    def bound(role: str, of: Any) -> list[Any]:
        names = roles[role] if isinstance(roles[role], list) else [roles[role]]
        return [of[single] for name in names for single in known[name]]

    def one(role: str, of: Any = seen) -> Any:
        return bound(role, of)[0]

    def by_name(role: str) -> dict[str, Any]:
        names = roles[role] if isinstance(roles[role], list) else [roles[role]]
        return {name: seen[name] for name in names}

    def variants(of: Any) -> dict[tuple[str, int], Any]:
        singles = [single.split("/") for name in roles["corrupted"] for single in known[name]]
        return {(kind, int(severity)): of[f"{name}/{kind}/{severity}"] for name, kind, severity in singles}

    options = roles.get("options", {})
    made: dict[str, Callable[[], dict[str, Any]]] = {
        "zero_shot": lambda: (
            metrics.zero_shot(one("test")) | (metrics.moved(one("test"), one("test", full)) if full else {})
        ),
        "calibration": lambda: metrics.calibration(one("test"), one("fit") if "fit" in roles else None),
        "ood": lambda: metrics.ood(
            one("id"), by_name("ood"), options["scores"], negatives, options.get("negatives_share", 1.0)
        ),
        "corruption": lambda: (
            metrics.corruption(one("clean"), variants(seen))
            | (metrics.corruption_error(variants(seen), variants(full)) if full else {})
        ),
        "covariate_shift": lambda: metrics.covariate_shift(one("source"), by_name("shifted")),
        "spurious": lambda: (
            metrics.spurious(one("common"), one("counter"))
            | (
                metrics.vulnerability(one("common"), one("counter"), (one("common", full), one("counter", full)))
                if full
                else {}
            )
        ),
        "retrieval": lambda: oracle_retrieval.retrieval(one("test"), one("test", full or seen)),
    }
    return made[task]()


def shaken(seen: dict[str, oracle.Seen], rng: np.random.Generator) -> dict[str, oracle.Seen]:
    """The same with every feature a little moved; equal class weights and equal captions stay equal."""
    seed = int(rng.integers(1 << 31))

    def noise(words: str, size: int) -> Any:
        return np.random.default_rng([seed, *words.encode()]).normal(0, TINY, size)

    return {
        name: replace(
            bank,
            image=bank.image + rng.normal(0, TINY, bank.image.shape),
            text=bank.text + np.random.default_rng(len(bank.text)).normal(0, TINY, bank.text.shape),
            said=np.array([v + noise(words, len(v)) for v, words in zip(bank.said, bank.words, strict=True)]),
        )
        for name, bank in seen.items()
    }


def check(suite: Suite, rows: Mapping[tuple[str, str], Mapping[str, Any]], told: str) -> int:
    """Every row against the oracle; returns how many metrics agreed."""
    assert len(rows) == 2 * sum(map(len, suite.tasks.values())), told
    compared, full = 0, None
    words = suite.tasks["ood"]["both"]["options"]["negatives"]
    for quant in ("fp32", suite.quant):
        loaded = oracle.load(MODEL, quant)
        seen, negatives = features(suite, loaded), oracle.weights(words, ["a photo of a {}."], loaded[0], loaded[2])
        moved = [(shaken(seen, rng), full and shaken(full, rng)) for rng in map(np.random.default_rng, range(SHAKEN))]
        for task, bindings in suite.tasks.items():
            for label, roles in bindings.items():
                where = f"{told}: {quant} {task}/{label}"
                values = expected(suite, task, roles, seen, full, negatives)
                around = [expected(suite, task, roles, *each, negatives) for each in moved]
                compared += agree(where, rows[quant, f"{task}/{label}"], values, around)
        full = seen
    return compared


def agree(where: str, row: Mapping[str, Any], values: Mapping[str, Any], around: list[dict[str, Any]]) -> int:
    """One record: the same keys, and each value within its tolerance."""
    prefix = f"{row['task']}/{row['dataset']}/"
    found = {key.removeprefix(prefix): value for key, value in row["metrics"].items()}
    declared = {metric.name for metric in tasks.get(row["task"]).metrics}
    wanted = {key: value for key, value in values.items() if key.rsplit("/", 1)[-1] in declared}
    unknown = {key for key in set(found) - set(wanted) if key.rsplit("/", 1)[-1] not in LEFT_OUT}
    assert not unknown, f"{where}: neither known to the oracle nor left out with a reason: {sorted(unknown)}"
    assert not set(wanted) - set(found), f"{where}: no {sorted(set(wanted) - set(found))}; notes {row['notes']}"
    for key, value in wanted.items():
        spread = 2 * max(abs(each.get(key, value) - value) for each in around) + 1e-9
        spread = 0.15 * value + 0.005 if key == "ece_15_floor" else spread
        assert abs(found[key] - value) <= spread, f"{where}/{key}: {found[key]!r}, the oracle {value!r} +- {spread:.2g}"
    return len(wanted)


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_the_command_line_agrees_with_the_oracle(seed: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    suite, home = Suite(tmp_path / "data", np.random.default_rng(seed)), tmp_path / "home"
    compared = check(suite, run(suite, home, capsys), f"seed {seed}")
    changes = np.random.default_rng(100).permutation(len(CHANGES))[SEEDS.index(seed) :: len(SEEDS)]
    for change in (CHANGES[i] for i in changes):
        change(suite)
        compared += check(suite, run(suite, home, capsys), f"seed {seed}, after {change.__name__}")
    assert compared > 100


@pytest.mark.parametrize("module", [oracle, metrics, oracle_retrieval])
def test_the_oracle_is_short_and_shares_no_code(module: Any) -> None:
    source = Path(module.__file__).read_text()
    imported = {
        name.split(".")[0]
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
    }
    assert not imported & {"benchmark", "tasks", "search", "trackers"}
    assert len(source.splitlines()) <= 200
