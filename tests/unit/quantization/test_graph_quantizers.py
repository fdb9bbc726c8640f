"""Towers as graphs of OpenVINO and onnxruntime, quantized there: coverage, equality, determinism, what is missing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmark.engine.plan import Plan, make_plan, unavailable_lines
from benchmark.errors import QuantizationError, SpecError
from benchmark.ledger.store import Store
from benchmark.models import resolve
from benchmark.models.base import ClipModel
from benchmark.quantization import parse, quantize, quantizers
from benchmark.quantization.apply import quantize_to_graphs
from benchmark.quantization.graphs import onnx, openvino
from benchmark.quantization.graphs.graph import Graph, made, remembered, written
from benchmark.quantization.graphs.quantizer import GraphQuantizer, in_runtime, opened
from benchmark.quantization.graphs.towers import INPUTS, inputs, with_session
from benchmark.quantization.graphs.weights import granularity, matched
from benchmark.spec.suite import load_suite, narrow
from benchmark.utils.progress import Silent
from tests.models_zoo import write_checkpoint
from tests.quant_models import calibration, toy

METHODS = [name for name, method in quantizers if isinstance(method, GraphQuantizer)]
FAMILIES = ("ViT", "SigLIP", "ConvNeXt")


def pixels(model: ClipModel, count: int = 5) -> torch.Tensor:
    height, width = model.preprocess.size
    return torch.from_numpy(np.random.default_rng(1).integers(0, 256, (count, 3, height, width), dtype=np.uint8))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Shared, so that a tower is converted once."""
    return Store(tmp_path_factory.mktemp("graphs"))


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Any:
    @cache
    def load(name: str) -> ClipModel:
        return resolve(write_checkpoint(name, tmp_path_factory.mktemp("models") / name)).load("cpu")

    return load


@pytest.mark.parametrize(
    "name",
    [
        "openvino-int8-preset_performance-smoothquantalpha_0.5-subsetsize_10-vision",
        "openvino-int8-ignoredscope_visual%2E%2A-vision+text",
        "openvino-int4wo-awq_true-groupsize_64-vision",
        "ort-int8-static-calibratemethod_Entropy-vision",
        "ort-int8-perchannel_false-vision",
    ],
)
def test_options_have_the_library_s_names(name: str) -> None:
    assert parse(parse(name).name) == parse(name)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("openvino-int8-smoothquantalpha_2-vision", "smoothquantalpha"),
        ("openvino-int8-presets_mixed-vision", "preset"),
        ("openvino-int4wo-groupsize_0-vision", "groupsize"),
        ("ort-int8-w8-vision", "weight_bits"),
        ("ort-int8-static-weighttype_int8-vision", "weighttype"),
    ],
)
def test_a_wrong_option_is_named(name: str, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        parse(name)


def test_only_methods_that_look_at_data_need_it() -> None:
    needing = {name for name in METHODS if quantizers.get(name).requires_calibration(parse(f"{name}-vision"))}
    assert needing == {"openvino-int8", "ort-int8-static"}
    spec = parse("openvino-int4wo-awq_true-vision")
    assert quantizers.get(spec.method).requires_calibration(spec)


def test_methods_are_listed_without_their_libraries() -> None:
    code = (
        "import sys; from benchmark.quantization import quantizers; [m.describe() for _, m in quantizers];"
        "print([n for n in ('openvino', 'nncf', 'onnx', 'onnxruntime', 'onnxscript') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", METHODS)
def test_a_missing_library_is_one_line(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    monkeypatch.setattr("benchmark.runtimes.base.find_spec", lambda _: None)
    with pytest.raises(QuantizationError, match=r"is not installed. Run pip install 'reliquant\[(onnx|openvino)\]'$"):
        quantizers.get(name).check_available("cpu")


def test_what_cannot_run_here_is_skipped_with_a_line_and_counted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("benchmark.runtimes.base.find_spec", lambda _: None)
    suite = load_suite("demo", (), ()).model_copy(
        update={"quantizations": ("fp32", "openvino-int8wo-vision", "ort-int8-vision"), "skip_unavailable": True}
    )
    plan = make_plan(suite)
    assert [c.quant.name for c in plan.configurations] == ["fp32"]
    lines = unavailable_lines(plan.unavailable)
    assert [line.split(":")[0] for line in lines[:2]] == ["skipped openvino-int8wo-vision", "skipped ort-int8-vision"]
    assert lines[2].startswith("2 quantizations of the suite skipped")
    with pytest.raises(QuantizationError, match="not installed"):  # asked for by name, it is an error
        make_plan(narrow(suite, quantizations=["openvino-int8wo-vision"]))


def test_nothing_is_said_where_nothing_is_skipped() -> None:
    assert unavailable_lines({}) == []


@pytest.mark.parametrize(("name", "form"), [("openvino-int8wo-vision", openvino), ("ort-int8-vision", onnx)])
def test_another_conversion_is_another_content(name: str, form: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    nobody: Any = None
    before = Plan.quant_key(nobody, parse(name))
    monkeypatch.setattr(form, "VERSION", 99)
    assert Plan.quant_key(nobody, parse(name)) != before


def test_nothing_is_sent_home() -> None:
    openvino.library()
    from openvino_telemetry.utils.opt_in_checker import ConsentCheckResult, OptInChecker

    assert OptInChecker().check(enable_opt_in_dialog=False) == ConsentCheckResult.DECLINED


def test_a_graph_is_its_files(tmp_path: Path) -> None:
    def write(folder: Path) -> Path:
        (folder / "visual.bin").write_bytes(b"\x00\x01")
        (folder / "visual.xml").write_bytes(b"<net/>")
        return folder / "visual.xml"

    graph = made(write)
    assert (graph.main, graph.size, set(graph.files)) == ("visual.xml", 8, {"visual.xml", "visual.bin"})
    with written(graph) as path:
        assert path.read_bytes() == b"<net/>"
        assert path.with_suffix(".bin").read_bytes() == b"\x00\x01"
    assert not path.exists()


def test_a_graph_is_made_once(tmp_path: Path) -> None:
    calls: list[int] = []

    def make() -> Graph:
        calls.append(1)
        return Graph("text.onnx", {"text.onnx": np.arange(9, dtype=np.uint8)})

    kept = Store(tmp_path)
    first, again = (remembered(kept, "ab" * 32, make) for _ in range(2))
    assert len(calls) == 1
    assert (first.main, first.size) == (again.main, again.size) == ("text.onnx", 9)


@given(st.integers(1, 6), st.integers(1, 5), st.data())
def test_weights_find_their_layers_through_a_folded_norm(rows: int, columns: int, data: Any) -> None:
    random = np.random.default_rng(rows * 7 + columns)
    layers = {f"layer{i}": random.normal(size=(rows, columns + 1)).astype(np.float32) for i in range(3)}
    order = data.draw(st.permutations(list(layers)))
    scales = random.uniform(0.1, 9, (rows, 1)).astype(np.float32)
    folded = [layers[name] * scales for name in order]
    assert matched(layers, [None] * 3, folded) == order
    assert matched(layers, order, folded[::-1]) == order  # a name that the graph gives is believed
    assert matched(layers, ["other"] * 3, folded) == order


def test_a_weight_of_no_layer_stays_without_a_name() -> None:
    weight = np.eye(3, dtype=np.float32)
    assert matched({"a": weight}, [None, None], [-weight[::-1], 2 * weight]) == [None, "a"]


def test_granularity_in_words() -> None:
    assert [granularity(n, 4, 64) for n in (1, 4, 8)] == ["tensor", "channel", "group 8"]


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_towers_in_full_precision_are_equal(name: str, runtime: str, family: Any, store: Store) -> None:
    model = family(name)
    other = in_runtime(model, ("vision", "text"), runtime, store, Silent())
    for count in (1, 5):
        found, expected = (each.encode_image(pixels(model, count)) for each in (other, model))
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    texts = ["a cat", "a photo of a rather long dog on a bench", "x"]
    torch.testing.assert_close(other.encode_text(texts), model.encode_text(texts), atol=1e-5, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("method", METHODS)
def test_every_family_is_quantized_whole_and_runs_again_from_its_file(
    name: str, method: str, family: Any, store: Store
) -> None:
    """The report, read from the graph, covers every layer; the file alone gives the same features."""
    model = family(name)
    size = model.preprocess.size[0]
    pairs = calibration(24, size)
    changed, report, graphs = quantize_to_graphs(model, parse(f"{method}-vision"), pairs, statistics=store)
    tower = report.towers["vision"]
    assert tower.weight_share > 0.9, tower.skipped
    assert set(tower.skipped) | {layer.name for layer in tower.layers} == set(model.layers("vision"))
    assert tower.packed_bytes == graphs["vision"].size
    assert max(layer.relative_error for layer in tower.layers) < 0.2
    assert tower.cosine > 0.9
    images = pixels(model)
    again = with_session(model, "vision", opened(graphs["vision"], quantizers.get(method).runtime))  # type: ignore[attr-defined]
    assert torch.equal(again.encode_image(images), changed.encode_image(images))
    assert torch.equal(changed.encode_text(["a cat"]), model.encode_text(["a cat"]))


@pytest.fixture(scope="module")
def int8(store: Store) -> Iterator[Path]:
    _, _, graphs = quantize_to_graphs(toy(), parse("openvino-int8-vision"), calibration(), statistics=store)
    with written(graphs["vision"]) as path:
        yield path


@pytest.mark.slow
def test_the_runtime_computes_in_int8(int8: Path) -> None:
    """What the report says of the file holds for what OpenVINO makes of it."""
    compiled = openvino.library().Core().compile_model(int8, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    about = [node.get_rt_info() for node in compiled.get_runtime_model().get_ordered_ops()]
    products = [a for a in about if a["layerType"].value in ("FullyConnected", "Convolution", "MatMul")]
    integer = [a for a in products if a["runtimePrecision"].value in ("i8", "u8")]
    assert len(integer) >= len(toy().layers("vision"))


@pytest.mark.slow
def test_numbers_are_those_of_nncf_by_hand(int8: Path, store: Store) -> None:
    """NNCF called on the same graph and data gives the same features."""
    ov = openvino.library()
    import nncf

    model, pairs = toy(), calibration()
    with written(made(lambda folder: openvino.convert(model, "vision", folder))) as source:
        graph = ov.Core().read_model(source)
        data = [{INPUTS["vision"]: each} for each in inputs(model, "vision", pairs, 300)]
        settings = {"model_type": nncf.ModelType.TRANSFORMER, "preset": nncf.QuantizationPreset.MIXED}
        by_hand = nncf.quantize(graph, nncf.Dataset(data), subset_size=len(data), **settings)
    images = model.normalise(pixels(model)).numpy()
    hints = {"INFERENCE_PRECISION_HINT": "f32"}
    mine, other = (ov.Core().compile_model(each, "CPU", hints)(images)[0] for each in (int8, by_hand))
    np.testing.assert_allclose(mine, other, atol=1e-5)


@pytest.mark.slow
def test_what_nncf_ignores_is_skipped(store: Store) -> None:
    spec = parse("openvino-int8-ignoredscope_visual%2Eblocks%2E0%2E%2A-vision")
    _, report = quantize(toy(), spec, calibration(), statistics=store)
    skipped = {"qkv", "out", "fc1", "fc2"}
    assert set(report.towers["vision"].skipped) == {f"visual.blocks.0.{name}" for name in skipped}
    assert "left it in full precision" in next(iter(report.towers["vision"].skipped.values()))


@pytest.mark.slow
def test_a_scope_that_leaves_nothing_is_an_error(store: Store) -> None:
    spec = parse("openvino-int8-ignoredscope_%2E%2A-vision")
    with pytest.raises(QuantizationError, match=r"replaced no layer|failed"):
        quantize(toy(), spec, calibration(), statistics=store)


@pytest.mark.slow
def test_a_mean_before_a_smoothed_layer_is_computed_right(int8: Path) -> None:
    """The toy's tower ends in a mean: OpenVINO 2026.4 gets one without its axes wrong (`_keep_reduced`)."""
    images = torch.from_numpy(calibration(8, seed=1).pixels)
    values = toy().normalise(images).numpy()
    compiled = openvino.library().Core().compile_model(int8, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    whole, alone = compiled(values)[0].copy(), [compiled(values[i : i + 1])[0].copy() for i in range(8)]
    np.testing.assert_allclose(whole, np.concatenate(alone), atol=1e-4)
    full = toy().encode_image(images).numpy()
    unit = whole / np.linalg.norm(whole, axis=1, keepdims=True)
    assert (unit * full).sum(1).mean() > 0.99


@pytest.mark.parametrize("name", ["bf16-vision+text"])
def test_sixteen_bits_round_weights_and_inputs(name: str) -> None:
    """A layer alone, against float64 on rounded operands."""
    model = toy()
    changed, report = quantize(model, parse(name), calibration())
    before = model.module.get_submodule("visual.blocks.0.fc1")
    after = changed.module.get_submodule("visual.blocks.0.fc1")
    x = torch.randn(7, 64, generator=torch.Generator().manual_seed(0))
    weight, bias = before.get_parameter("weight"), before.get_parameter("bias")
    expected = x.bfloat16().double() @ weight.bfloat16().double().T + bias.bfloat16().double()
    torch.testing.assert_close(after(x).double(), expected, atol=0, rtol=2**-7)
    assert report.towers["vision"].bits_per_weight == 16
    assert report.towers["vision"].weight_relative_error < 2**-8
