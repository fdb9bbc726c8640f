"""Whatever can change a number is in the key of that number, and nothing else is.

Each table lists the fields of one class or the version constants: how one is changed alone, and which keys must then be
others. All keys that a row does not name must stay. A field or a constant that no table lists fails its test: say how
it is changed, or why it is irrelevant.
"""

from __future__ import annotations

import ast
import re
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel

from benchmark.data import opening
from benchmark.engine import plan as planning
from benchmark.engine.plan import Settings
from benchmark.models import ResolvedModel, resolve
from benchmark.models.identity import model_digest
from benchmark.models.preprocess import Preprocess
from benchmark.models.references import Quantized
from benchmark.plugins import TextList, tasks
from benchmark.quantization import quantizers
from benchmark.quantization.calibrate import Source
from benchmark.quantization.calibration import Calibration
from benchmark.quantization.observers import Range
from benchmark.runtimes import Runtime, runtimes
from benchmark.spec import ArtifactSpec, BindingSpec, ModelSpec, Override, QuantSpec, SuiteSpec
from benchmark.spec.short_name import dotted
from tests.hash_keys import (
    ANSWERS,
    CALIBRATION,
    FEATURES,
    IMAGES,
    PIXELS,
    QUANT,
    RESULT,
    STATISTICS,
    TEXTS,
    TOWERS,
    WEIGHTS,
    Irrelevant,
    Row,
    Scene,
    Table,
    changed,
    keys,
    raised,
    rows,
    statistic,
)

ROOT = Path(__file__).parents[3]
BASE = Settings(engine="int8-gemm")


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return Scene(tmp_path_factory.mktemp("scene"))


@pytest.fixture
def own(tmp_path: Path) -> Scene:
    """A scene whose files may change."""
    return Scene(tmp_path)


# --- quantization ------------------------------------------------------------------------------------------------

GROUPS = {"weight_granularity": "group", "group_size": 64}
QUANT_FIELDS: Table = {
    "method": Row({"method": "rtn"}, TOWERS | RESULT),
    "weight_bits": Row({"weight_bits": 3}, TOWERS | RESULT),
    "activation_bits": Row({"activation_bits": 6}, TOWERS | RESULT),
    "weight_granularity": Row({"weight_granularity": "tensor"}, TOWERS | RESULT),
    "group_size": Row({**GROUPS, "group_size": 32}, TOWERS | RESULT, GROUPS),
    "activation_granularity": Row({"activation_granularity": "tensor"}, TOWERS | RESULT),
    "symmetric": Row({"symmetric": False}, TOWERS | RESULT),
    "activation_symmetric": Row({"activation_symmetric": False}, TOWERS | RESULT),
    "scope": Row({"scope": "vision"}, frozenset({WEIGHTS, TEXTS}) | RESULT),
    "skip": Row({"skip": ("*mlp*",)}, TOWERS | RESULT),
    "overrides": Row({"overrides": ({"pattern": "*", "bits": 8},)}, TOWERS | RESULT),
    "options": Row({"options": {"damp": 0.1}}, TOWERS | RESULT),
}
OVERRIDE_FIELDS: Table = {
    "pattern": Row({"pattern": "a*", "bits": 8}, TOWERS | RESULT, {"pattern": "b*", "bits": 8}),
    "bits": Row({"pattern": "b*", "bits": 6}, TOWERS | RESULT, {"pattern": "b*", "bits": 8}),
}


@pytest.mark.parametrize(("name", "row"), rows(QUANT_FIELDS))
@pytest.mark.parametrize("scope", ["vision+text", "vision", "text"])
def test_quantization(scene: Scene, name: str, row: Row, scope: str) -> None:
    """A tower's features depend on what is done to that tower alone."""
    before = keys(scene.with_quant(**{"scope": scope, **(row.before or {})}), BASE)
    after = keys(scene.with_quant(**{"scope": scope, **row.after}), BASE)
    left = {"vision+text": frozenset(), "vision": frozenset({WEIGHTS, TEXTS}), "text": frozenset({FEATURES})}[scope]
    if name == "scope":
        left = frozenset()
        must = {"vision+text": row.must, "vision": frozenset(), "text": TOWERS | RESULT}[scope]
        row = replace(row, must=must)
    replace(row, must=row.must - left).check(before, after)


@pytest.mark.parametrize(("scope", "same"), [("text", {FEATURES}), ("vision", {WEIGHTS, TEXTS})])
def test_a_tower_that_is_left_alone_shares_full_precision(scene: Scene, scope: str, same: set[str]) -> None:
    full = keys(scene.with_fields(quantizations=["fp32"]))
    assert changed(full, keys(scene.with_quant(scope=scope))) == (TOWERS | RESULT) - same


@pytest.mark.parametrize(("name", "row"), rows(OVERRIDE_FIELDS))
def test_override(scene: Scene, name: str, row: Row) -> None:
    row.check(keys(scene.with_quant(overrides=(row.before,))), keys(scene.with_quant(overrides=(row.after,))))


def test_version_of_a_quantizer(scene: Scene) -> None:
    """Also of one that a control imitates."""
    like = scene.with_fields(quantizations=[f"control-noise-like_{dotted('rtn-w4-vision')}-vision"])
    suites = {"gptq": scene.with_fields(), "rtn": scene.with_quant(method="rtn"), "imitated": like}
    before = {name: keys(suite) for name, suite in suites.items()}
    with raised(quantizers.get("rtn")):
        after = {name: keys(suite) for name, suite in suites.items()}
    found = {name: changed(before[name], after[name]) for name in suites}
    assert found == {"gptq": set(), "rtn": TOWERS | RESULT, "imitated": {FEATURES} | RESULT}


# --- artifacts ---------------------------------------------------------------------------------------------------

ARTIFACT_FIELDS: Table = {
    "file": Row({"file": "other.npz"}, frozenset({FEATURES}) | RESULT),
    "text": Row({"text": "other.npz"}, frozenset({WEIGHTS, TEXTS}) | RESULT),
    "model": Row({"model": "demo"}, why="it is the model whose digest counts"),
    "runtime": Row({"runtime": "features"}, why="it is the one that reads such a file; see the next test for another"),
    "scope": Row({"scope": "vision"}, frozenset({WEIGHTS, TEXTS}) | RESULT),
}


def with_artifact(scene: Scene, name: str = "phone", **fields: Any) -> SuiteSpec:
    """The suite with an artifact of features for both towers, each in a file of its own."""
    for file, seed in (("image.npz", 0), ("text.npz", 1), ("other.npz", 2)):
        features = np.full((1, 4), seed + 1, np.float32)
        arrays = {f"{kind}{end}": each for kind in ("image", "text") for end, each in (("", features), ("_id", ["x"]))}
        np.savez(scene.root / file, **arrays)  # type: ignore[arg-type]
    given = {"file": "image.npz", "text": "text.npz", **fields}
    places = {key: str(scene.root / value) if key in ("file", "text") else value for key, value in given.items()}
    return scene.with_fields(artifacts={name: places})


@pytest.mark.parametrize(("name", "row"), rows(ARTIFACT_FIELDS))
def test_artifact(scene: Scene, name: str, row: Row) -> None:
    row.check(keys(with_artifact(scene)), keys(with_artifact(scene, **row.after)))


def test_an_artifact_is_its_bytes_and_its_name(own: Scene) -> None:
    """Where the file lies does not count; under another name it is evaluated again, on the same features."""
    before = keys(with_artifact(own))
    (own.root / "moved").mkdir()
    (own.root / "moved" / "b.npz").write_bytes((own.root / "image.npz").read_bytes())
    assert keys(with_artifact(own, file="moved/b.npz")) == before
    assert changed(before, keys(with_artifact(own, name="tablet"))) == RESULT


def test_a_runtime_counts(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its version, its library's, and what it computes with."""
    suite = with_artifact(scene)
    before = keys(suite)
    with raised(runtimes.get("features")):
        assert changed(before, keys(suite)) == TOWERS | RESULT
    for name in ("library_version", "provider"):
        with monkeypatch.context() as patch:
            patch.setattr(Runtime, name, lambda *_: "other")
            assert changed(before, keys(suite)) == TOWERS | RESULT


# --- settings ----------------------------------------------------------------------------------------------------

SETTINGS: Table = {
    "device": Row({"device": "cuda"}, TOWERS | ANSWERS | {STATISTICS}),
    "exact_float": Row({"exact_float": True}, TOWERS | ANSWERS),
    "precision": Row({"precision": "bf16"}, TOWERS | ANSWERS),
    "compile": Row({"compile": True}, TOWERS | ANSWERS),
    "engine": Row({"engine": "int8-onednn"}, TOWERS | ANSWERS),
    "batch_size": Row({"batch_size": 3}, why="features agree up to rounding"),
    "workers": Row({"workers": 3}, why="who decodes changes no pixel"),
    "task_timeout": Row({"task_timeout": 3.0}, why="a task that is given up has no result"),
    "keep_paths": Row({"keep_paths": True}, why="trackers alone see it"),
    "allow_outside": Row({"allow_outside": True}, why="images are read or refused; their files are in the data digest"),
}


@pytest.mark.parametrize(("name", "row"), rows(SETTINGS))
def test_setting(scene: Scene, name: str, row: Row) -> None:
    row.check(keys(scene.with_fields(), BASE), keys(scene.with_fields(), replace(BASE, **row.after)))


def test_the_number_of_a_device_does_not_count(scene: Scene) -> None:
    one, two = (keys(scene.with_fields(), replace(BASE, device=f"cuda:{i}")) for i in range(2))
    assert one == two


# --- suite, binding, options -------------------------------------------------------------------------------------

SUITE_FIELDS: Table = {
    "name": Row({"name": "other"}, why="results of one suite serve another"),
    "version": Row({"version": 2}, why="it is for people; what changed is hashed itself"),
    "description": Row({"description": "words"}, why="it is for people"),
    "models": Irrelevant("see MODEL_FIELDS"),
    "quantizations": Irrelevant("see QUANT_FIELDS"),
    "artifacts": Irrelevant("see ARTIFACT_FIELDS"),
    "skip_unavailable": Row({"skip_unavailable": True}, why="what is left out changes no other"),
    "calibration": Row({"calibration": "fewer"}, CALIBRATION),
    "validation": Row({"validation": {"photos": "others"}}, why="a search makes other data sets of it"),
    "data": Irrelevant("see test_hash_of_data.py"),
    "tasks": Irrelevant("see BINDING_FIELDS"),
    "headline": Row({"headline": ("ood/*",)}, why="it chooses what is shown"),
    "margins": Row({"margins": {"*": 0.5}}, why="a decision is made anew whenever it is shown"),
    "spectrum": Row({"spectrum": ("photos",)}, why="a study beside the evaluations, with a key of its own"),
    "limit": Row({"limit": 3}, IMAGES, why="calibration sets stay whole"),
}


@pytest.mark.parametrize(("name", "row"), rows(SUITE_FIELDS))
def test_suite(scene: Scene, name: str, row: Row) -> None:
    data = {**scene.suite["data"], "fewer": {**scene.suite["data"]["pairs"], "limit": 3}}
    row.check(keys(scene.with_fields(data=data)), keys(scene.with_fields(data=data, **row.after)))


BINDING_FIELDS: Table = {
    "roles": Row({"roles": {"id": "photos", "ood": ("others", "photos")}}, ANSWERS),
    "options": Row({"scores": ["mcm", "msp", "neg_label"]}, ANSWERS),
}
OPTIONS: Table = {
    "scores": Row({"scores": ["neg_label"]}, ANSWERS),
    "negatives": Row({"negatives": ["chair", "desk"]}, ANSWERS | {TEXTS}),
    "negatives_template": Row({"negatives_template": "the {}"}, ANSWERS | {TEXTS}),
    "negatives_share": Row({"negatives_share": 0.5}, ANSWERS),
}


@pytest.mark.parametrize(("name", "row"), [*rows(BINDING_FIELDS), *rows(OPTIONS)])
def test_binding(scene: Scene, name: str, row: Row) -> None:
    row.check(keys(scene.with_fields()), keys(scene.with_binding(**row.after)))


def test_label_and_version_of_a_task(scene: Scene) -> None:
    before = keys(scene.with_fields())
    assert changed(before, keys(scene.with_binding(label="near"))) == ANSWERS
    with raised(tasks.get("ood")):
        assert changed(before, keys(scene.with_fields())) == ANSWERS


def test_a_task_that_gets_full_precision_depends_on_it_and_on_all_captions(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other tasks on the same data do not."""
    bindings = {"retrieval": {"pairs": {"test": "pairs"}}, "ood": {"far": {"id": "photos", "ood": "pairs"}}}
    suite = scene.with_quant(method="rtn", scope="text").model_copy(
        update={"tasks": scene.with_fields(tasks=bindings).tasks}
    )

    def moved(before: list[str]) -> set[str]:
        """Tasks of the quantization whose keys have changed."""
        return {e.task.name for e, key in zip(evaluations(), before, strict=True) if e.key != key}

    def evaluations() -> Any:
        return planning.make_plan(suite, BASE).configurations[-1].evaluations

    before = [each.key for each in evaluations()]
    assert moved(before) == set()
    with raised(quantizers.get("fp32")):
        assert moved(before) == {"retrieval"}
    monkeypatch.setattr(opening, "_caption_lines", lambda text: (text, "another caption"))
    assert moved(before) == {"retrieval"}


def test_texts_in_a_file_count_and_its_name_does_not(own: Scene) -> None:
    before = keys(own.with_fields())
    (own.root / "negatives.txt").write_text("chair\ndesk\n")
    assert changed(before, keys(own.with_fields())) == ANSWERS | {TEXTS}


# --- models ------------------------------------------------------------------------------------------------------

SMALL = Preprocess((32, 32), (0.5,) * 3, (0.5,) * 3)


def never(device: str, exact_float: bool) -> Any:
    """A plan loads no model."""
    raise AssertionError("a model was loaded")


MODEL_FIELDS: Table = {
    "ref": Irrelevant("what is in the files counts: RESOLVED_FIELDS"),
    "name": Row({"name": "mine"}, why="it is for people"),
    "family": Row({"family": "ViT"}, why="it groups results"),
    "architecture": Row({"architecture": "convnet"}, why="it groups results"),
    "pretraining": Row({"pretraining": "LAION"}, why="it groups results"),
    "parameters": Row({"parameters": 1}, why="it describes the model"),
    "top1": Row({"top1": 0.5}, why="it describes the model"),
}
RESOLVED_FIELDS: Table = {
    "spec": Row({"spec": ModelSpec(ref="local-dir:elsewhere")}, why="where the files lie"),
    "name": Row({"name": "mine"}, why="it is for people"),
    "family": Row({"family": "other"}, why="the digest holds the architecture"),
    "digest": Row({"digest": "other"}, TOWERS | ANSWERS | {STATISTICS}),
    "files": Row({"files": ()}, why="the digest holds their bytes"),
    "parameters": Row({"parameters": 1}, why="the digest holds the weights"),
    "preprocess": Row({"preprocess": SMALL}, frozenset({PIXELS, STATISTICS})),  # the digest holds it too
    "loader": Irrelevant("the digest holds what it builds, ADAPTER_VERSION how"),
    "recipe": Irrelevant("the digest holds the architecture and the files"),
    "notes": Row({"notes": ("built so",)}, why="the digest holds the architecture"),
    "commits": Row({"commits": {"org/name": "0" * 40}}, why="the digest holds the files: a commit names them"),
    "quantized": Row({"quantized": Quantized(QUANT, "base", never)}, TOWERS | ANSWERS),
}


@pytest.mark.parametrize(("name", "row"), rows(MODEL_FIELDS))
def test_model(scene: Scene, name: str, row: Row) -> None:
    after = scene.with_fields(models=[{"ref": "demo", **row.after}])
    row.check(keys(scene.with_fields()), keys(after))


@pytest.mark.parametrize(("name", "row"), rows(RESOLVED_FIELDS))
def test_resolved_model(scene: Scene, name: str, row: Row, monkeypatch: pytest.MonkeyPatch) -> None:
    suite = scene.with_fields()
    before = keys(suite)
    monkeypatch.setattr(planning, "resolve", lambda spec: replace(resolve(spec), **row.after))
    row.check(before, keys(suite))


PREPROCESS: dict[str, tuple[object, bool]] = {
    "size": ((32, 24), True),
    "mean": ((0.1, 0.2, 0.3), False),
    "std": ((0.1, 0.2, 0.3), False),
    "interpolation": ("bilinear", True),
    "resize": ("squash", True),
    "fill": (7, True),
    "scaled": ((40, 40), True),
    "alpha": ("white", True),
}
"""Field -> another value, and whether the stored pixels depend on it; the model's digest holds all."""


def test_preprocess() -> None:
    assert set(PREPROCESS) == {field.name for field in fields(Preprocess)}
    for name, (value, pixels) in PREPROCESS.items():
        other = replace(SMALL, **{name: value})  # type: ignore[arg-type]
        assert (other.pixel_digest() != SMALL.pixel_digest()) == pixels, name
        assert model_digest({}, other, ()) != model_digest({}, SMALL, ()), name


def test_the_digest_of_a_model(tmp_path: Path) -> None:
    """Architecture and bytes count, names and places do not."""
    (tmp_path / "a").write_bytes(b"weights")
    (tmp_path / "b").write_bytes(b"weights")
    (tmp_path / "c").write_bytes(b"Weights")
    one, same, other = (model_digest({"width": 1}, SMALL, [tmp_path / name]) for name in "abc")
    assert one == same != other
    assert one != model_digest({"width": 2}, SMALL, [tmp_path / "a"])


# --- statistics and comparisons ----------------------------------------------------------------------------------


class Other(Range):
    """Another statistic."""

    kind = "other"


class Newer(Range):
    """The same statistic, computed otherwise."""

    version = 99


PAIRS = np.empty((0, 3, 1, 1), np.uint8)
STATISTIC: dict[str, dict[str, Any]] = {
    "model": {"digest": "other"},
    "its device": {"device": "cuda"},
    "tower": {"tower": "text"},
    "calibration": {"calibration": Calibration(PAIRS, (), "other")},
    "stage": {"stage": "rotated"},
    "layer": {"layer": "other"},
    "kind of observer": {"observer": Other()},
    "version of observer": {"observer": Newer()},
}


@pytest.mark.parametrize("name", STATISTIC)
def test_statistic(name: str) -> None:
    assert statistic(**STATISTIC[name]) != statistic()


def test_statistics_of_one_device_kind_are_shared() -> None:
    assert statistic(device="cuda:0") == statistic(device="cuda:1")
    assert statistic(calibration=Calibration(PAIRS[:, :, :0], ("x",), "pairs")) == statistic()  # its digest counts


# --- versions ----------------------------------------------------------------------------------------------------

VERSIONS: dict[tuple[str, str], frozenset[str] | Irrelevant] = {
    ("benchmark/engine/embed.py", "VERSION"): TOWERS | ANSWERS,
    ("benchmark/models/identity.py", "ADAPTER_VERSION"): TOWERS | ANSWERS | {STATISTICS},
    ("benchmark/data/decode.py", "DECODER_VERSION"): IMAGES | CALIBRATION,
    ("benchmark/data/corruption_names.py", "GENERATOR_VERSION"): IMAGES,
    ("benchmark/data/opening.py", "LIMIT_VERSION"): IMAGES | CALIBRATION,
    ("benchmark/quantization/calibrate.py", "VERSION"): CALIBRATION,
    ("benchmark/results/evidence.py", "VERSION"): Irrelevant("replicates of another version are made again"),
    ("benchmark/spectrum/layers.py", "VERSION"): Irrelevant("a key of its own, of spectra"),
    ("benchmark/quantization/graphs/openvino.py", "VERSION"): Irrelevant("test_graph_quantizers raises it"),
    ("benchmark/quantization/graphs/onnx.py", "VERSION"): Irrelevant("test_graph_quantizers raises it"),
    ("benchmark/export/graphs.py", "VERSION"): Irrelevant("nothing reads the folder"),
    ("benchmark/sensitivity/measure.py", "VERSION"): Irrelevant("a key of its own, of studies of layers"),
    ("benchmark/export/folder.py", "VERSION"): Irrelevant("a folder of another format is refused"),
}


def in_contributing() -> set[tuple[str, str]]:
    """(file, constant) of the table in CONTRIBUTING.md."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    return {(file, name) for name, file in re.findall(r"\| `(\w+)` in `([^`]+)` \|", text)}


def in_the_source() -> set[tuple[str, str]]:
    """(file, constant) of all module constants whose name ends in VERSION."""
    found = set()
    for package in ("benchmark", "tasks", "search", "trackers"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                for target in node.targets if isinstance(node, ast.Assign) else ():
                    if isinstance(target, ast.Name) and target.id.endswith("VERSION"):
                        found.add((path.relative_to(ROOT).as_posix(), target.id))
    return found


def test_every_version_is_listed() -> None:
    assert in_contributing() == in_the_source() == set(VERSIONS)


@pytest.mark.parametrize("place", [k for k, v in VERSIONS.items() if not isinstance(v, Irrelevant)], ids="-".join)
def test_version(scene: Scene, place: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Raised where it is defined, and in the modules that have imported it."""
    file, name = place
    suite = scene.with_data("photos", corruption="fog", severity=1)
    before, module = keys(suite), file.removesuffix(".py").replace("/", ".")
    for user in list(sys.modules.values()):
        imported = name != "VERSION" and user.__name__.startswith("benchmark.") and hasattr(user, name)
        if imported or user.__name__ == module:
            monkeypatch.setattr(user, name, 99)
    must = VERSIONS[place]
    assert not isinstance(must, Irrelevant)
    Row({}, must).check(before, keys(suite))


# --- completeness ------------------------------------------------------------------------------------------------

MODELS: dict[type[BaseModel], Table] = {
    QuantSpec: QUANT_FIELDS,
    Override: OVERRIDE_FIELDS,
    SuiteSpec: SUITE_FIELDS,
    ArtifactSpec: ARTIFACT_FIELDS,
    BindingSpec: BINDING_FIELDS,
    tasks.get("ood").options: OPTIONS,
    ModelSpec: MODEL_FIELDS,
}
SOURCE_FIELDS = ("model", "tower", "calibration", "stage", "transforms", "store")
"""`stage` names `transforms`; `store` is where it is kept."""
DATACLASSES: dict[type, set[str]] = {
    Settings: set(SETTINGS),
    ResolvedModel: set(RESOLVED_FIELDS),
    Source: set(SOURCE_FIELDS),
    Calibration: {"pixels", "captions", "digest"},
    TextList: {"labels", "template"},
}


@pytest.mark.parametrize("kind", MODELS, ids=lambda kind: kind.__name__)
def test_every_field_is_listed(kind: type[BaseModel]) -> None:
    assert set(MODELS[kind]) == set(kind.model_fields)


@pytest.mark.parametrize("kind", DATACLASSES, ids=lambda kind: kind.__name__)
def test_every_attribute_is_listed(kind: Any) -> None:
    assert DATACLASSES[kind] == {field.name for field in fields(kind) if not field.name.startswith("_")}


def test_what_no_key_holds_has_a_reason() -> None:
    every: list[Table] = [*MODELS.values(), SETTINGS, RESOLVED_FIELDS]
    assert not [
        name for table in every for name, row in table.items() if not (row.why or (isinstance(row, Row) and row.must))
    ]


@pytest.mark.parametrize("name", tasks.names())
def test_every_option_of_every_task_is_dumped(name: str) -> None:
    """Keys hold options as they are dumped."""
    options = tasks.get(name).options
    assert set(options().model_dump(mode="json")) == set(options.model_fields)
