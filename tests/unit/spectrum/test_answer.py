"""The five sentences say what the numbers say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from benchmark.metrics.uncertainty import Estimate, paired_proportions
from benchmark.results.mechanism import Match, Verdict
from benchmark.spectrum.answer import answer, by_filter, damping
from benchmark.spectrum.layers import Readout, Samples, layer_bases, spectra
from benchmark.spectrum.model import Entry, Study, study_json

COUNT, DIMENSION, CLASSES = 600, 24, 6
W4, W2 = "rtn-w4-channel-vision", "rtn-w2-channel-vision"


def study(quantized: dict[str, Any]) -> Any:
    """A study of constructed features in the joint space: how each quantization changes them is given."""
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.standard_normal((DIMENSION, DIMENSION)))[0]
    prototypes = np.zeros((CLASSES, DIMENSION))
    prototypes[:, :8] = rng.standard_normal((CLASSES, 8))
    labels = np.arange(COUNT) % CLASSES
    scales = np.r_[np.ones(8), np.full(DIMENSION - 8, 0.1)]
    x = (2 * prototypes[labels] + scales * rng.standard_normal((COUNT, DIMENSION))) @ turn
    weights = prototypes @ turn
    readouts = {"image": Readout(weights.T, np.zeros(CLASSES), cosines=True)}
    samples = Samples(labels, np.arange(COUNT) % 64)
    bases = layer_bases([{"image": x}])
    vectors = bases["image"].vectors
    entries = [Entry("fp32", "clean", spectra([{"image": x}], bases, readouts, samples))]
    for name, change in quantized.items():
        q = change(x @ vectors, rng) @ vectors.T
        entries.append(Entry(name, "clean", spectra([{"image": q}], bases, readouts, samples, [{"image": x}])))
    return study_json(Study("m", "photos", COUNT, tuple(entries)))


def damp_strong(p: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return p * np.r_[np.full(8, 0.5), np.ones(DIMENSION - 8)]


def drown_weak(p: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    noise = 3 * np.sqrt((p * p).mean(0)) * rng.standard_normal(p.shape)
    return p + noise * np.r_[np.zeros(8), np.ones(DIMENSION - 8)]


def shrink(p: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return 0.97 * p


def test_damping_is_told_from_drowning() -> None:
    strong, weak, error, margins, _ = answer(study({W4: drown_weak, W2: damp_strong}), [], "s")
    assert f"keep their strength under {W4}" in strong
    assert f"are damped under {W2} (gain 0.500" in strong
    assert (
        f"Of the 16 weak directions quantization drowns none under {W2} and 16 under {W4} (the first is rank 9)" in weak
    )
    assert f"energy: 100.0% [100.0%, 100.0%] under {W2}, 0." in error or f"energy: 100.0% under {W2}, 0." in error
    assert margins.startswith("The margins of the true class become ")
    assert f"times under {W2}" in margins or f"times under {W4}" in margins


def test_quantizations_of_one_answer_are_named_together() -> None:
    _, weak, error, margins, last = answer(study({"a": drown_weak, "b": shrink, "c": shrink}), [], "s")
    assert "drowns none under b and c and 16 under a" in weak
    assert "energy: 100.0%" in error
    assert "under the others; the rest is no change of strength." in error
    assert "times under the others" in margins
    assert len(" ".join((weak, error, margins, last))) < 1200


def test_the_interval_decides_whether_a_direction_is_damped() -> None:
    def told(low: float | None, high: float | None, value: float | None = 1.0) -> str:
        return damping({"value": value, "low": low, "high": high})

    assert [told(0.5, 0.94), told(0.9, 0.97), told(0.96, 1.04), told(1.06, 1.1), told(None, None)] == [
        "damped", "cannot tell", "kept", "strengthened", "kept",
    ]  # fmt: skip
    assert told(None, None, None) == "cannot tell"


def made(control: str, key: str, verdict: Verdict) -> Match:
    change = Estimate(-0.1, 0.01, 60.0, -0.1)
    return Match("m", W4, f"control-{control}-like_rtn.w4-vision", key, "higher", verdict, change, change, change)


def test_the_filter_is_judged_by_the_controls_that_filter() -> None:
    matches = [
        made("gain", "a/d/x", "reproduces"), made("residual", "a/d/x", "does not"),
        made("gain", "b/d/x", "does not"), made("residual", "b/d/x", "reproduces"),
        made("shaped", "b/d/x", "overshoots"),
        made("gain", "c/d/x", "does not"), made("shaped", "c/d/x", "cannot tell"),
        made("gain", "d/d/x", "no change shown"), made("residual", "d/d/x", "no change shown"),
    ]  # fmt: skip
    shown = [each for each in matches if each.verdict != "no change shown"]
    assert list(by_filter(shown).values()) == ["explained", "not explained", "cannot tell"]
    last = answer(None, matches, "s")[-1]
    assert last.startswith(f"Of the 3 changes shown among 4 metrics under {W4}, the gain alone reproduces 1")
    assert last.endswith("explains 1 of 3 changes, does not explain 1, and for 1 these images cannot tell.")


def test_without_controls_the_study_tells_of_its_own_accuracy() -> None:
    """Noise in the strong directions costs answers; no gain does that."""

    def noisy(p: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return p + 1.5 * np.sqrt((p * p).mean(0)) * rng.standard_normal(p.shape)

    found = study({W4: noisy})
    parts = found["entries"][1]["layers"]["image"]["accuracy_of_parts"]
    assert (parts["gain"]["verdict"], parts["residual"]["verdict"]) == ("does not", "reproduces")
    last = answer(found, [], "s")[-1]
    assert last.startswith(f"Zero-shot accuracy on these images changes under {W4}, most under {W4}: by -0.")
    assert f"gain alone does not explain it under {W4}, the residual alone explains it under {W4};" in last
    assert "controls can tell: reliquant run s --quant" in last
    assert "No quantization changes" in answer(study({W4: lambda p, rng: p * 0.9}), [], "s")[-1]


def test_without_records_it_says_what_makes_them() -> None:
    [only] = answer(None, [], "s")
    assert "reliquant run s --quant rtn-w4a8" in only


@pytest.mark.parametrize("change", [lambda p, rng: p, drown_weak, damp_strong])
def test_the_parts_of_the_error_by_whole_arrays(change: Any) -> None:
    """Gain alone and residual alone, and accuracy in the model's own bands, from a singular value decomposition."""
    rng = np.random.default_rng(1)
    x, weights = rng.standard_normal((300, 20)) * np.linspace(3, 0.5, 20), rng.standard_normal((20, 5))
    labels = rng.integers(5, size=300)
    q = x + 0.7 * rng.standard_normal(x.shape) if change is drown_weak else x * (0.5 if change is damp_strong else 1.0)
    samples = Samples(labels, np.arange(300) % 50)
    readouts = {"image": Readout(weights, np.zeros(5), cosines=True)}
    cut = [{"image": q[:130]}, {"image": q[130:]}]
    before = [{"image": x[:130]}, {"image": x[130:]}]
    found = spectra(cut, layer_bases(before), readouts, samples, before)["image"]
    vectors = np.linalg.svd(x)[2].T
    p, r = x @ vectors, q @ vectors
    moved = p * ((p * r).sum(0) / (p * p).sum(0) - 1) @ vectors.T
    rights = {"full": x, "model": q, "gain": x + moved, "residual": q - moved}
    for part, features in rights.items():
        right = (features @ weights).argmax(1) == labels
        np.testing.assert_array_equal(found.part_answers[part], right)
    for part, told in found.parts().items():  # the one interval for a change of a share of right answers
        full, model, own = (found.part_answers[each] for each in ("full", "model", part))
        assert told.change == paired_proportions(full, model)
        assert told.own == paired_proportions(full, own)
        assert told.difference == paired_proportions(model, own)
    own = np.linalg.svd(q)[2].T
    for band, columns in (("0-8", own[:, :8]), ("8-64", own[:, 8:]), ("all", own)):
        right = (q @ columns @ columns.T @ weights).argmax(1) == labels
        assert found.accuracy_own_basis[band] == pytest.approx(right.mean())
