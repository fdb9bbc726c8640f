"""What commands on results mean where no suite and no model is named, and every spelling of a model."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from benchmark.cli.app import app
from benchmark.errors import SpecError
from benchmark.export import choice
from benchmark.export.choice import choose_model
from benchmark.ledger.records import Ledger
from benchmark.models.identity import canonical_ref
from benchmark.models.references import demo_folder, resolve
from benchmark.results.answers import records_of_model
from benchmark.results.last import FILE, default_suite, remember
from benchmark.spec import SuiteSpec
from benchmark.spec.suite import load_suite
from tests.ledgers import LAION, W4, W8, WIT, Made, made_of

KINDS = {"accuracy": -0.02, "rsg": 0.05}
B32, B32_HUB = "ViT-B-32/laion2b_s34b_b79k", "hf-hub:laion/CLIP-ViT-B-32-laion2B-s34B-b79K"


def made_home(home: Path, *suites: str) -> Path:
    """A results folder with one evaluation of each suite, in this order."""
    for suite in suites:
        made = made_of(WIT[:1], {W8: KINDS})
        made.records = {k: replace(r, key=f"{suite}{k[:20]}", suite=suite) for k, r in made.records.items()}
        made.evidence = {f"{suite}{k[:20]}": e for k, e in made.evidence.items()}
        Made({r.key: r for r in made.records.values()}, made.evidence).write(home)
    return home


def call(home: Path, *words: str) -> Result:
    return CliRunner().invoke(app, [*words, "--home", str(home)])


# --- the suite ---------------------------------------------------------------------------------------------------


def test_the_last_that_ran_is_meant_and_said(tmp_path: Path) -> None:
    home = made_home(tmp_path / "home", "first", "second")
    assert default_suite(Ledger(home)).suite == "second", "nothing is noted: that of the newest record"
    remember(home, "first", "first")
    said = f"suite 'first', the last that ran in {home}; --suite names another (also here: second)"
    assert default_suite(Ledger(home)).told == said
    page = tmp_path / "page.html"
    for words in (("compare",), ("show", W8), ("report", "-o", str(page)), ("report", W8, "-o", str(page))):
        done = call(home, *words)
        assert done.exit_code == 0, done.output
        assert said in " ".join(done.stderr.split()), words
        quiet = call(home, *words, "--quiet")
        assert said not in " ".join(quiet.output.split())
        named = call(home, *words, "--suite", "second")
        assert (named.exit_code, said in " ".join(named.output.split())) == (0, False)
    assert "suite first" in call(home, "show", W8).stdout.replace("\n", " ")
    assert json.loads(call(home, "show", W8, "--json").stdout)["suite"] == "first"
    gated = call(home, "gate", W8)
    assert said in " ".join(gated.stderr.split())


def test_a_run_is_noted_also_where_everything_is_done(tmp_path: Path) -> None:
    """By its file, whose headline then counts; a file that is gone leaves the name."""
    content: dict[str, Any] = {
        "version": 1,
        "models": ["demo"],
        "quantizations": ["rtn-w8a8-channel-token-vision"],
        "data": {"scenes": {"source": "demo", "split": "test", "limit": 24}},
        "tasks": {"zero_shot": {"a": {"test": "scenes"}}},
        "headline": ["zero_shot/a/mean_per_class_recall"],
    }
    home = tmp_path / "home"
    for name in ("one", "two", "one"):
        path = tmp_path / f"{name}.yaml"
        path.write_text(json.dumps({"name": name, **content}), encoding="utf-8")
        done = call(home, "run", str(path), "--tracker", "jsonl", "--no-speed", "--quiet")
        assert done.exit_code == 0, done.output
    assert default_suite(Ledger(home)).suite == str((tmp_path / "one.yaml").resolve())
    compared = call(home, "compare")
    assert "suite 'one', the last that ran" in compared.stderr
    assert "mean_per_class_recall" in compared.stdout
    (tmp_path / "one.yaml").unlink()
    assert default_suite(Ledger(home)).suite == "one"


@pytest.fixture(scope="module")
def noted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_home(tmp_path_factory.mktemp("noted"), "first")


@given(st.binary(max_size=40) | st.sampled_from([b"[]", b"{}", b'{"suite": 1}', b'{"suite": "gone", "asked": "x"}']))
def test_a_damaged_note_is_none(noted: Path, content: bytes) -> None:
    (noted / FILE).write_bytes(content)
    assert default_suite(Ledger(noted)).suite == "first"


def test_a_folder_that_cannot_be_written_is_no_reason_to_stop(tmp_path: Path) -> None:
    remember(tmp_path / "nowhere", "first", "first")
    assert not (tmp_path / "nowhere").exists()


# --- the model ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spelling", [B32, B32_HUB, "laion/CLIP-ViT-B-32-laion2B-s34B-b79K"])
def test_compare_takes_the_reference_that_run_took(tmp_path: Path, spelling: str) -> None:
    made_of(LAION, {W4: KINDS}).write(tmp_path)
    done = call(tmp_path, "compare", "--suite", "made", "--model", spelling, "--format", "csv")
    assert done.exit_code == 0, done.output
    assert {line.split(",")[0] for line in done.stdout.splitlines()[1:]} == {B32}
    gated = call(tmp_path, "gate", W4, "--suite", "made", "--model", spelling, "--json")
    assert {json.loads(line)["model"] for line in gated.stdout.splitlines()} == {B32}


def test_a_model_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    made_of(LAION, {W4: KINDS}).write(tmp_path)
    done = call(tmp_path, "compare", "--suite", "made", "--model", "ViT-B-32/openai")
    assert done.exit_code != 0
    assert B32 in str(done.exception)


def test_paths_and_digests_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path, a link, and another copy of the same weights mean the model that ran."""
    folder = tmp_path / "models" / "mine"
    folder.mkdir(parents=True)
    for file in demo_folder().iterdir():
        if file.is_file():
            (folder / file.name).write_bytes(file.read_bytes())
    (tmp_path / "link").symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    made = made_of(WIT[:1], {W4: KINDS})
    identity = {"model": {"ref": f"local-dir:{folder}", "digest": resolve(f"local-dir:{folder}").digest}}
    records = [replace(record, model="mine", identity=identity) for record in made.records.values()]
    for spelling in ("mine", "local-dir:models/mine", "models/mine", "link", f"local-dir:{demo_folder()}", "demo"):
        assert records_of_model(records, spelling) == records, spelling
    for other in ("local-dir:models", "ViT-B-32/openai", "min", "nothing:like/this"):
        assert records_of_model(records, other) == [], other


@given(st.text(max_size=60))
def test_every_text_has_one_canonical_spelling(text: str) -> None:
    try:
        once = canonical_ref(text)
    except (ValueError, OSError, RuntimeError):  # no path of this system
        return
    assert canonical_ref(once) == once


# --- the model of an export --------------------------------------------------------------------------------------


def suite(*models: str) -> SuiteSpec:
    return SuiteSpec.model_validate({**load_suite("demo").model_dump(), "name": "made", "models": models or ["demo"]})


def test_the_model_with_results_is_exported(tmp_path: Path) -> None:
    made_of(WIT[:1], {W4: KINDS}).write(tmp_path)
    assert choose_model(suite(), W4, tmp_path).ref == WIT[0], "it ran under --model"
    assert choose_model(suite(), W8, tmp_path).ref == "demo", "no results: the suite's own"
    assert choose_model(suite(), W4, tmp_path / "nothing").ref == "demo"
    named = suite().model_copy(update={"models": (suite(WIT[0]).models[0].model_copy(update={"name": "mine"}),)})
    assert choose_model(named, W4, tmp_path).name == "mine", "as the suite names it"


def test_of_several_models_one_must_be_named(tmp_path: Path) -> None:
    made_of(WIT, {W4: KINDS}).write(tmp_path)
    with pytest.raises(SpecError) as refused:
        choose_model(suite(), W4, tmp_path)
    text = str(refused.value)
    assert all(ref in text for ref in WIT)
    assert f"--model {WIT[0]}" in text
    assert "\n" not in text


class Terminal(io.StringIO):
    """Somebody who types."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("typed", "chosen"), [("2\n", 1), (f"{WIT[2]}\n", 2), ("9\nx\n\n1\n", 0)])
def test_at_a_terminal_it_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typed: str, chosen: int) -> None:
    made_of(WIT, {W4: KINDS}).write(tmp_path)
    shown = Terminal()
    monkeypatch.setattr(choice.sys, "stdin", Terminal(typed))
    monkeypatch.setattr(choice.sys, "stderr", shown)
    assert choose_model(suite(), W4, tmp_path).ref == WIT[chosen]
    assert [line for line in shown.getvalue().splitlines() if line.startswith("  ")] == [
        f"  {number} {ref}" for number, ref in enumerate(WIT, 1)
    ]


def test_at_a_terminal_that_closes_it_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made_of(WIT, {W4: KINDS}).write(tmp_path)
    monkeypatch.setattr(choice.sys, "stdin", Terminal(""))
    monkeypatch.setattr(choice.sys, "stderr", Terminal())
    with pytest.raises(SpecError, match="name one by --model"):
        choose_model(suite(), W4, tmp_path)
