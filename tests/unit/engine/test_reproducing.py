"""From a request to the words of a command and back, and from records to the command that gives them again."""

from __future__ import annotations

import json
import subprocess
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from benchmark.cli import run
from benchmark.cli.app import app
from benchmark.engine.include import include_files
from benchmark.engine.reproduce import arguments, in_lines, requests
from benchmark.engine.request import RunRequest, asked
from benchmark.engine.requested import requested_plan
from benchmark.ledger.records import Ledger, Record
from benchmark.spec.suite import load_suite
from benchmark.utils.options import options
from tests.report_home import write_home

EVERYTHING = RunRequest(
    suite="my suite.yaml",
    models=["demo", "ViT-B-32/openai"],
    quantizations=["rtn-w4a8-channel-token-bits_visual.%5B0%2D3%5D_8-vision+text", "bnb-{int8,nf4}-vision"],
    artifacts=["phone=visual int8.onnx,text=text.onnx", "tablet=features.npz"],
    tasks=["zero_shot", "ood"],
    overrides=["visual.blocks.[0-3].*=8"],
    data=["photos=a folder/it's --odd"],
    catalogues=[Path("mine.yaml")],
    limit=7,
    allow_outside=True,
    keep_paths=True,
    skip_broken=True,
    pixel_cache="20GB",
    device="cuda:1",
    batch_size=8,
    task_timeout=60.5,
    exact_float=True,
    precision="bf16",
    compile=True,
    trackers=["jsonl", "mlflow"],
    tracking_uri="sqlite:///x.db",
    home=Path("elsewhere"),
    include=[Path("a.py"), Path("b.py")],
    quiet=True,
    json=True,
    spectrum=["photos"],
    speed=False,
    engine="ray",
    address="auto",
    task_cpus=2.5,
    task_gpus=0.5,
)


def typed(script: str) -> list[str]:
    """What a shell gives `reliquant` for this text."""
    shell = ["bash", "-c", f"reliquant() {{ printf '%s\\0' \"$@\"; }}\n{script}"]
    return subprocess.run(shell, capture_output=True, text=True, check=True).stdout.split("\0")[:-1]


def asked_for(words: list[str], monkeypatch: pytest.MonkeyPatch) -> RunRequest:
    """The request that `reliquant WORDS` makes; nothing is run."""
    seen: list[RunRequest] = []
    monkeypatch.setattr(run, "run_suite", lambda request: seen.append(request) or 0)
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    [request] = seen
    return request


def test_the_example_changes_every_field_and_every_field_has_an_option() -> None:
    default = RunRequest()
    names = {field.name for field in fields(RunRequest)}
    assert {name for name in names if getattr(EVERYTHING, name) == getattr(default, name)} == set()
    assert {field.name for field, _ in options(RunRequest)} == names


@pytest.mark.parametrize(
    "request_",
    [
        EVERYTHING,
        RunRequest(),
        *(
            replace(
                RunRequest(models=[], quantizations=[], tasks=[], overrides=[]), **{f.name: getattr(EVERYTHING, f.name)}
            )
            for f in fields(RunRequest)
        ),
    ],
    ids=lambda request: " ".join(arguments(request)[1:])[:30],
)
def test_words_and_request_are_each_others_inverse(request_: RunRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    found = asked_for(typed("\n".join(in_lines(["reliquant", *arguments(request_)]))), monkeypatch)
    for field in fields(RunRequest):
        mine, theirs = getattr(request_, field.name), getattr(found, field.name)
        assert theirs == (tuple(mine) if isinstance(mine, list) else mine), field.name


def test_a_command_is_continued_within_80_columns() -> None:
    lines = in_lines(["reliquant", *arguments(replace(EVERYTHING, quantizations=["bnb-nf4-vision"] * 9))])
    assert max(map(len, lines)) <= 80
    assert len(lines) > 6
    assert all(line.endswith(" \\") for line in lines[:-1])


# --- from records -------------------------------------------------------------------------------------------------

BASE: dict[str, Any] = {
    "device": "cpu",
    "limit": None,
    "suite": "demo",
    "model": {"ref": "demo", "digest": "0", "quantized": False},
    "settings": {"device": "cpu", "batch_size": 64, "precision": "fp32", "exact_float": False, "compile": False},
    "asked": {"suite": "demo"},
}


def record(quantization: str, task: str = "zero_shot", **about: Any) -> Record:
    return Record(
        key="", configuration="", suite="demo", model="demo", quantization=quantization, task=task, dataset="scenes",
        status="done", seconds=0.0, provenance=BASE | about,
    )  # fmt: skip


def words(records: list[Record], suite: str = "demo", whole: bool = True) -> list[str]:
    return [" ".join(arguments(r)) for r in requests(records, suite, load_suite("demo") if whole else None)]


def test_what_the_suite_says_itself_is_left_out() -> None:
    suite = load_suite("demo")
    every = [record(name, task) for name in suite.quantizations for task in suite.tasks]
    assert words(every) == ["run demo"]
    assert words(every[: len(suite.tasks)]) == ["run demo --quant fp32"]
    assert words([record("rtn-w4-channel-vision", limit=24)]) == [
        "run demo --quant rtn-w4-channel-vision --task zero_shot --limit 24"
    ]
    assert words([record("fp32")], whole=False) == ["run demo --model demo --quant fp32 --task zero_shot"]


@pytest.mark.parametrize(
    ("about", "words_"),
    [
        ({"settings": BASE["settings"] | {"precision": "bf16", "compile": True}}, "--precision bf16 --compile"),
        ({"settings": BASE["settings"] | {"exact_float": True, "batch_size": 8}}, "--exact-float --batch-size 8"),
        ({"settings": BASE["settings"] | {"device": "cuda:1"}}, "--device cuda:1"),
        ({"asked": {"suite": "demo", "data": ["scenes=x"], "skip_broken": True}}, "--data scenes=x --skip-broken"),
        ({"asked": {"include": ["a.py"], "catalogues": ["c.yaml"]}}, "--catalogue c.yaml --include a.py"),
        ({"asked": {"suite": "demo", "engine": "ray", "task_cpus": 2}}, "--engine ray --task-cpus 2"),
    ],
)  # fmt: skip
def test_every_option_that_changes_numbers_or_times_comes_back(about: dict[str, Any], words_: str) -> None:
    assert words([record("fp32", **about)]) == [f"run demo --quant fp32 --task zero_shot {words_}"]


def test_records_of_several_requests_give_a_command_each() -> None:
    other = {"settings": BASE["settings"] | {"precision": "bf16"}}
    assert len(words([record("fp32"), record("bnb-nf4-vision"), record("fp32", **other)])) == 2


def test_a_model_that_was_stored_quantized_takes_no_quantization() -> None:
    model = {"ref": "local-dir:w4", "digest": "0", "quantized": True}
    [found] = words([record("rtn-w4-vision", model=model)])
    assert "--model local-dir:w4" in found
    assert "--quant" not in found


def test_a_record_that_says_nothing_of_its_origin_gives_its_quantization_and_task() -> None:
    bare = replace(record("rtn-w4-channel-vision"), provenance={})
    assert words([bare], whole=False) == ["run demo --quant rtn-w4-channel-vision --task zero_shot"]


def test_the_suite_is_the_file_that_was_run() -> None:
    mine = {"asked": {"suite": "folder/demo.yaml"}}
    assert words([record("fp32", **mine)])[0].startswith("run folder/demo.yaml ")
    assert words([record("fp32", **mine)], "here.yaml")[0].startswith("run here.yaml ")  # the caller's file
    assert words([record("fp32", suite="another", **mine)])[0].startswith("run demo ")  # shared with another suite


def test_records_of_earlier_versions_give_the_command_of_their_device(tmp_path: Path) -> None:
    write_home(tmp_path)
    old = [r for r in Ledger(tmp_path).records.values() if r.quantization == "bnb-nf4-vision"]
    assert "settings" not in old[0].provenance
    assert words([replace(old[0], provenance=old[0].provenance | {"device": "NVIDIA X"})], "small", whole=False) == [
        f"run small --model tiny --quant bnb-nf4-vision --task {old[0].task} --device cuda"
    ]


# --- the whole way --------------------------------------------------------------------------------------------------

PLUGIN = """
from benchmark import Banks, Columns, Metric, NoOptions, Summary, task

@task("counting", version=1, needs=("test",), metrics=[Metric("images", better="neither", unit="count")])
def counting(banks: Banks, options: NoOptions) -> Columns:
    "How many images there are."
    return Columns({"test": banks["test"].columns()})

@counting.summarise
def summarise(columns: Columns, options: NoOptions) -> Summary:
    return Summary({"images": float(len(columns["test"]["sample_id"]))})
"""
SUITE = """
name: again
version: 3
models: [demo]
quantizations: [fp32, rtn-w8a8-vision, rtn-w4a8-vision]
data:
  scenes: {source: demo, split: test, limit: 24}
tasks:
  zero_shot: {scenes: {test: scenes}}
  counting: {scenes: {test: scenes}}
"""


def test_the_command_that_show_prints_names_the_same_evaluations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parsed by the command line, planned anew: the same content hashes as the ledger's."""
    from tests.registries import restored

    monkeypatch.chdir(tmp_path)
    (tmp_path / "counting.py").write_text(PLUGIN)
    (tmp_path / "again.yaml").write_text(SUITE)
    given = ["run", "again.yaml", "--include", "counting.py", "--exact-float", "--precision", "bf16", "--limit", "12"]
    given += ["--batch-size", "6", "--override", "visual.*=6", "--quant", "rtn-w4a8-vision", "--no-speed"]
    with restored():
        result = CliRunner().invoke(app, [*given, "--tracker", "jsonl"])
    assert result.exit_code == 0, result.output
    ledger = Ledger(Path("mlruns"))
    [quantized] = {r.quantization for r in ledger.records.values()} - {"fp32"}
    wanted = {(r.key, r.configuration) for r in ledger.records.values()}
    environment = {"COLUMNS": "80", "NO_COLOR": "1"}
    with restored():
        shown = CliRunner().invoke(app, ["show", quantized, "--include", "counting.py"], env=environment)
    with restored():
        listed = CliRunner().invoke(app, ["show", quantized, "--include", "counting.py", "--json"])
    assert shown.exit_code == 0, shown.output
    assert "options precision bf16, exact float, batches of 6" in " ".join(shown.stdout.split())
    printed = typed(shown.stdout.split("\nreproduce\n")[1])
    assert [["reliquant", *printed]] == json.loads(listed.stdout)["reproduce"]
    request = asked_for(printed, monkeypatch)
    with restored():
        include_files(request.include)
        plan = requested_plan(request)
    assert {(e.key, c.key) for c in plan.configurations for e in c.evaluations} == wanted


def test_a_record_keeps_what_was_asked_for() -> None:
    kept = asked(EVERYTHING)
    assert json.loads(json.dumps(kept)) == kept
    assert kept["overrides"] == ["visual.blocks.[0-3].*=8"]
    assert (kept["engine"], kept["include"], kept["skip_broken"]) == ("ray", ["a.py", "b.py"], True)
    assert asked(RunRequest()) == {"suite": "demo"}
