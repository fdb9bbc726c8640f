"""What `validate` counts is what the engine runs; what it times is this machine; what it cannot know it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from benchmark.cli import validate
from benchmark.cli.app import app
from benchmark.cli.validate import duration, number, size, to_fetch
from benchmark.engine import survey as surveying
from benchmark.engine import throughput
from benchmark.engine.banks import Caches
from benchmark.engine.evaluate import _wanted
from benchmark.engine.holding import ModelHolder
from benchmark.engine.model_cost import ModelCost, cost_of
from benchmark.engine.plan import Settings, check_suite, make_plan
from benchmark.engine.survey import survey, times
from benchmark.engine.throughput import ASSUMED_FLOPS, Rates
from benchmark.engine.towers import distinct_towers
from benchmark.spec import FP32, ModelSpec, SuiteSpec
from benchmark.spec.suite import load_suite, narrow
from benchmark.utils.progress import Silent

RTN, BOTH = "rtn-w4a8-channel-token-vision", "rtn-w4a8-channel-token-vision+text"
STATIC, WEIGHTS = "rtn-w8a8-tensor-tensor-vision", "rtn-w4-channel-vision"


def suite(**changes: Any) -> SuiteSpec:
    content: dict[str, Any] = {
        "name": "s",
        "version": 1,
        "models": ["demo"],
        "quantizations": [RTN, BOTH, STATIC, WEIGHTS, "control-noise-like_rtn.w4.vision-vision"],
        "calibration": ["pairs", "few", "same"],
        "data": {
            "scenes": {"source": "demo", "split": "test", "limit": 20},
            "twin": {"source": "demo", "split": "test", "limit": 20},
            "far": {"source": "demo", "split": "far_ood", "text": "none", "limit": 10},
            "pairs": {"source": "demo", "split": "calibration", "text": "captions", "limit": 12},
            "few": {"base": "pairs", "limit": 4},
            "same": {"base": "pairs"},
        },
        "tasks": {
            "zero_shot": {"a": {"test": "scenes"}, "b": {"test": "twin"}},
            "ood": {"a": {"id": "scenes", "ood": "far"}},
        },
    }
    return SuiteSpec.model_validate({**content, **changes})


@pytest.mark.parametrize(
    "spec", [suite(), load_suite("demo"), suite(quantizations=["fp32"])], ids=["s", "demo", "fp32"]
)
def test_towers_are_those_that_the_plan_tells_apart(spec: SuiteSpec) -> None:
    plan = make_plan(spec, Settings(engine="none"))
    quants = [configuration.quant for configuration in plan.configurations]
    assert quants == check_suite(spec)[0]
    for tower, found in distinct_towers(spec, quants).items():
        keys = {str(plan.tower_key(c.model, c.quant, tower)) for c in plan.configurations}
        assert len(found) == len(keys), tower


def test_the_towers_of_the_study() -> None:
    """103 quantizations; both towers and the vision tower alone share their image features."""
    paper = load_suite("paper")
    found = distinct_towers(paper, check_suite(paper)[0])
    assert {tower: len(each) for tower, each in found.items()} == {"vision": 52, "text": 52}


def test_the_images_of_a_tower_are_those_that_are_embedded(tmp_path: Path) -> None:
    """Counted by the engine itself: a data set with two names once, the calibration set not at all."""
    spec = suite(quantizations=["fp32"], calibration="pairs")
    plan = make_plan(spec, Settings(workers=1))
    configuration = plan.configurations[0]
    caches = Caches.open(tmp_path, 10**9, skip_broken=False)
    maker = caches.maker(plan, configuration, ModelHolder(configuration.model, "cpu"), Silent())
    maker.prepare(_wanted(configuration.evaluations))
    assert maker.forward_images == survey(spec).images == 20 + 10


def test_prompts_are_counted_once_for_each_list() -> None:
    data = make_plan(suite(), Settings(engine="none")).data["scenes"]
    assert survey(suite()).prompts == len(data.class_names) * len(data.templates)


def rates(monkeypatch: pytest.MonkeyPatch, found: Rates) -> list[str]:
    """Every model runs at these rates; returns the devices that were asked."""
    devices: list[str] = []

    def measured(resolved: Any, device: str, with_quantized: bool) -> Rates:
        devices.append(device)
        return found

    monkeypatch.setattr(surveying, "measured", measured)
    return devices


def test_time_is_passes_over_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Full precision and weights alone at one rate, quantized activations at another."""
    devices = rates(monkeypatch, Rates(images=10.0, texts=100.0, quantized=2.0))
    found = survey(suite(calibration="pairs"), devices=("cpu",))
    towers = {"float": 2, "quantized": 2}  # fp32, WEIGHTS; RTN (BOTH shares it), STATIC; the control comes on top
    [control] = [q for q in check_suite(suite(calibration="pairs"))[0] if q.method.startswith("control")]
    assert control.activation_bits is None
    images = found.images * ((towers["float"] + 1) / 10.0 + towers["quantized"] / 20.0)
    texts = found.prompts * (1 / 100.0 + 1 / 200.0)
    [cpu, gpu] = found.times
    assert cpu.seconds == pytest.approx(images + texts)
    assert (cpu.device, cpu.how, devices) == ("cpu", "measured", ["cpu"])
    assert gpu.device == "24 GB GPU"
    assert "assumed" in gpu.how
    assert (found.image_towers, found.text_towers) == (5, 2)
    assert found.image_passes == 5 * found.images


def test_a_gpu_at_hand_is_measured_and_none_is_assumed(monkeypatch: pytest.MonkeyPatch) -> None:
    devices = rates(monkeypatch, Rates(10.0, 100.0))
    found = survey(suite(), devices=("cpu", "cuda"))
    assert devices == ["cpu", "cuda"]
    assert [time.device for time in found.times] == ["cpu", "cuda"]


def cost(ref: str, flops: float | None, here: bool) -> ModelCost:
    resolved: Any = cost_of(ModelSpec(ref="demo")).resolved if here else None
    return ModelCost(ref, flops, 0.0, (224, 224), 512, resolved)


def test_models_that_are_not_here_are_scaled_from_those_that_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model of twice the operations takes twice the time."""
    rates(monkeypatch, Rates(images=10.0, texts=100.0))
    models = [cost("a", 1e9, here=True), cost("b", 2e9, here=False), cost("c", None, here=False)]
    [cpu, gpu], problems = times(models, [FP32], [FP32], 100, 0, ["cpu"])
    assert cpu.seconds == pytest.approx(100 / 10 + 100 / 5)
    assert cpu.how == "1 of 3 models measured"
    assert gpu.seconds == pytest.approx(3e9 * 100 / ASSUMED_FLOPS)
    assert problems == ()
    assert times([cost("c", None, here=False)], [FP32], [FP32], 100, 0, ["cpu"]) == ((), ())


def test_a_model_that_cannot_be_loaded_is_said(tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    folder.mkdir()
    demo = cost_of(ModelSpec(ref="demo")).resolved
    assert demo is not None
    for file in demo.files[0].parent.iterdir():
        if file.is_file():
            (folder / file.name).write_bytes(file.read_bytes())
    config = folder / "open_clip_config.json"
    config.write_text(config.read_text().replace('"layers": ', '"layers": 1'))
    found = survey(suite(models=[f"local-dir:{folder}"]))
    assert any(str(folder) in line for line in found.missing), found.missing


def test_rates_are_measured_in_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throughput, "SECONDS", 0.02)
    demo = cost_of(ModelSpec(ref="demo")).resolved
    assert demo is not None
    found = throughput.measured(demo, "cpu", with_quantized=True)
    assert min(found.images, found.texts, found.quantized) > 0
    assert throughput.flops_per_second("cpu") > 1e8


def test_what_has_to_be_fetched_is_summed_from_published_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RELIQUANT_DATA", raising=False)
    only = narrow(load_suite("paper-small"), tasks=["corruption"])
    imagenet_c = only.model_copy(update={"data": {n: s for n, s in only.data.items() if n == "imagenet-c"}})
    found = survey(suite())
    assert to_fetch(found, ()) == (0, True)
    absent = found.__class__(**{**vars(found), "suite": imagenet_c, "data": {}})
    assert to_fetch(absent, ()) == (22565673785 + 12797438995 + 7112704951 + 7757510705, True)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (duration(0), "1 minute"),
        (duration(3599), "60 minutes"),
        (duration(20 * 3600), "20.0 hours"),
        (duration(100 * 86400), "100 days"),
        (duration(1.5e6 * 3600), "171 years"),
        (duration(400 * 86400), "1.1 years"),
        (size(999), "999 B"),
        (size(6.9e9), "6.9 GB"),
        (number(999_999), "999,999"),
        (number(2_500_000_000), "2.5 billion"),
    ],
)
def test_quantities_are_said_in_words(text: str, value: str) -> None:
    assert text == value


def test_the_command_takes_the_choices_of_run(monkeypatch: pytest.MonkeyPatch) -> None:
    rates(monkeypatch, Rates(10.0, 100.0))

    def said(*words: str) -> str:
        done = CliRunner().invoke(app, ["validate", "demo", *words])
        assert done.exit_code == 0, done.output
        return done.stdout

    small = said("--task", "zero_shot", "--quant", RTN, "--limit", "30")
    assert "1 models x 2 quantizations = 2 configurations" in small
    assert "2 different image towers of each model, 60 images for each" in small
    assert "scenes: 30 images" in small
    assert "model ViT-B-32/openai" in said("--model", "ViT-B-32/openai", "--task", "zero_shot")
    refused = CliRunner().invoke(app, ["validate", "demo", "--device", "cdua"])
    assert "--device 'cdua'" in str(refused.exception)
    assert validate.devices_of("cpu")[0] == "cpu"
