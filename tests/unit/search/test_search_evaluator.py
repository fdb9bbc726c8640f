"""What the search sees of the engine: which metrics count, and what a study is bound to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmark.engine.plan import Settings
from benchmark.errors import SpecError, masked
from benchmark.spec import SuiteSpec, parse_spec
from search.evaluator import Engine
from search.objective import make_goals, make_objective
from search.request import SearchConfig
from search.settings import create_study, resume_study, with_defaults
from search.space import Space
from search.storage import open_storage
from tests.search_stub import SMALL

ACCURACY, AUROC = "zero_shot/scenes/accuracy", "ood/scenes.far/mcm/auroc"
GIVEN: dict[str, Any] = {
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


def engine(home: Path, **changes: Any) -> Engine:
    return Engine(parse_spec(SuiteSpec, {**GIVEN, **changes}, "test"), Settings(), home)


def give(engine: Engine, metrics: Mapping[str, float]) -> None:
    """As if full precision had been evaluated with these metrics."""
    vars(engine)["reference"] = SimpleNamespace(records=[SimpleNamespace(metrics=metrics)])


def test_a_headline_metric_that_full_precision_lacks_is_said_to_be_left_out(tmp_path: Path) -> None:
    found = engine(tmp_path, headline=[ACCURACY, AUROC, "ood/scenes.far/mcm/aurok"])
    give(found, {ACCURACY: 0.8, AUROC: 0.9})
    assert found.problem.headline == (ACCURACY, AUROC, "ood/scenes.far/mcm/aurok")
    known = {ACCURACY: 0.8, AUROC: 0.9, "effective_bits": 32.0}
    problem = replace(found.problem, evaluate=lambda _: known)
    goals = make_goals(problem, [make_objective("reliability", found.better, found.known)], [])
    assert goals.weights == {ACCURACY: 50, AUROC: 50}
    assert goals.left_out == {"ood/scenes.far/mcm/aurok": "full precision does not have it"}


def test_without_headline_every_evaluation_counts_even_one_that_has_no_value(tmp_path: Path) -> None:
    found = engine(tmp_path, headline=[])
    give(found, {ACCURACY: 0.8, AUROC: 0.9})
    assert found.problem.headline == (ACCURACY, AUROC, "calibration/scenes/ece_15")


FAR = {**GIVEN["data"], "far": {**GIVEN["data"]["far"], "limit": 59}}
FEWER = {name: labels for name, labels in GIVEN["tasks"].items() if name != "calibration"}


@pytest.mark.parametrize(
    ("changes", "differs"),
    [
        ({"data": FAR}, "data set far"),
        ({"headline": [ACCURACY]}, "headline metrics"),
        ({"tasks": FEWER}, "task calibration/scenes"),
    ],
)
def test_a_study_goes_on_with_what_it_was_created_with_only(tmp_path: Path, changes: Any, differs: str) -> None:
    storage, space = open_storage(tmp_path), Space(SMALL)
    before = engine(tmp_path)
    objectives = [make_objective("effective_bits", before.better, before.known)]
    create_study(storage, "one", with_defaults(SearchConfig()), space, objectives, before.contents)
    assert resume_study(storage, "one", space, engine(tmp_path).contents).study_name == "one"
    after = engine(tmp_path, **changes)
    with pytest.raises(SpecError, match=f"created with another content of {differs}, so its trials") as caught:
        resume_study(storage, "one", space, after.contents)
    assert "\n" not in str(caught.value)


def test_another_model_is_another_content(tmp_path: Path) -> None:
    before, other = engine(tmp_path).contents, engine(tmp_path)
    full = other.plan.configurations[0]
    changed = replace(full, model=replace(full.model, digest="another"))
    plan = replace(other.plan, configurations=(changed,))
    vars(other)["plan"] = plan
    assert {name for name, value in other.contents.items() if before[name] != value} == {"model"}


@pytest.mark.parametrize(
    ("text", "address", "shown"),
    [
        ("mysql://me:p%40ss@host/x", None, "mysql://me:***@host/x"),
        ("sqlite:///a/b.db", None, "sqlite:///a/b.db"),
        ("postgresql://host/x?user=a&password=tiger", None, "postgresql://host/x?user=a&password=***"),
        ("auth of 'tiger' failed", "postgresql://me:tiger@host/x", "auth of '***' failed"),
        ("x://me:a@b: a bad day", "x://me:a@b", "x://me:***@b: a bad day"),
        ("/data/studies.log", None, "/data/studies.log"),
    ],
)
def test_passwords_are_masked(text: str, address: str | None, shown: str) -> None:
    assert masked(text, address) == shown
