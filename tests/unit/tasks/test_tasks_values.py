"""Numbers of the tasks against scikit-learn, scipy, netcal, and small cases worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from sklearn import metrics as sk

from benchmark import Banks, FeatureBank, NoOptions
from benchmark.errors import DataError, InputError, ReliquantError
from benchmark.plugins import Columns
from benchmark.results.compare import compare
from benchmark.testing import make_bank
from tasks.calibration import calibration
from tasks.corruption import CorruptionOptions, corruption
from tasks.covariate_shift import covariate_shift
from tasks.ood import OodOptions, ood
from tasks.spurious import spurious
from tasks.zero_shot import zero_shot

SEEDS = [0, 1, 2]


def cosines(bank: FeatureBank, text: Any = None) -> Any:
    """Cosine similarities in float64, computed here."""
    weights = np.asarray(bank.text if text is None else text, np.float64)
    images = np.asarray(bank.image, np.float64)
    images = images / np.sqrt((images**2).sum(axis=1, keepdims=True))
    return images @ (weights / np.sqrt((weights**2).sum(axis=1, keepdims=True))).T


def probabilities(bank: FeatureBank, scale: float | None = None) -> Any:
    return scipy.special.softmax(cosines(bank) * (scale or bank.logit_scale) + bank.logit_bias, axis=1)


def hard_bank(seed: int, samples: int = 600, **fields: Any) -> FeatureBank:
    """A bank whose classifier is right about half the time."""
    bank = make_bank(seed=seed, samples=samples, **{"classes": 12, **fields})
    noise = np.random.default_rng(seed + 100).standard_normal(bank.image.shape)
    image = bank.image + 0.25 * noise
    image /= np.linalg.norm(image, axis=1, keepdims=True)
    return make_bank(seed=seed, samples=samples, **{"classes": 12, **fields, "image": image.astype(np.float32)})


def from_cosines(cos: Any, label: Any, scale: float = 1.0, **fields: Any) -> FeatureBank:
    """A bank with these cosines: the class weights are unit vectors, one further dimension takes up the rest."""
    cos = np.asarray(cos, np.float64)
    rest = np.sqrt(1.0 - (cos**2).sum(axis=1, keepdims=True))
    classes = cos.shape[1]
    defaults: dict[str, Any] = {
        "dataset": "by hand",
        "image": np.concatenate([cos, rest], axis=1).astype(np.float32),
        "label": np.asarray(label, np.int64),
        "sample_id": np.array([f"{i:03d}" for i in range(len(cos))]),
        "text": np.eye(classes, classes + 1, dtype=np.float32),
        "class_names": tuple(f"class {i}" for i in range(classes)),
        "logit_scale": scale,
    }
    return FeatureBank(**{**defaults, **fields})


# --- zero-shot ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_zero_shot_against_scikit_learn(seed: int) -> None:
    bank = hard_bank(seed)
    found = zero_shot.run(Banks({"test": [bank]})).metrics
    cos = cosines(bank)
    assert 0.2 < found["accuracy"] < 0.9
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(bank.label, cos.argmax(axis=1)))
    assert found["accuracy_top5"] == pytest.approx(sk.top_k_accuracy_score(bank.label, cos, k=5, labels=range(12)))
    assert found["mean_per_class_recall"] == pytest.approx(sk.balanced_accuracy_score(bank.label, cos.argmax(axis=1)))
    assert found["samples"] == 600


def test_recall_counts_only_classes_that_are_present() -> None:
    bank = from_cosines([[0.9, 0.1, 0], [0.9, 0.1, 0], [0.1, 0.9, 0], [0.9, 0.1, 0]], [0, 0, 1, 1])
    found = zero_shot.run(Banks({"test": [bank]})).metrics
    assert found["accuracy"] == 0.75
    assert found["mean_per_class_recall"] == pytest.approx((1.0 + 0.5) / 2)


@pytest.mark.parametrize(("classes", "defined"), [(2, False), (5, False), (6, True)])
def test_top_5_needs_more_than_5_classes(classes: int, defined: bool) -> None:
    outcome = zero_shot.run(Banks({"test": [make_bank(classes=classes)]}))
    assert ("accuracy_top5" in outcome.metrics) is defined
    assert ("accuracy_top5" in outcome.notes) is not defined


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_all_wrong_and_all_right(share: float) -> None:
    found = zero_shot.run(Banks({"test": [make_bank(accuracy=share)]})).metrics
    assert found["accuracy"] == found["mean_per_class_recall"] == share


def test_scale_and_bias_change_no_decision() -> None:
    plain, scaled = hard_bank(0), hard_bank(0, logit_scale=117.3, logit_bias=-12.9)
    first, second = (zero_shot.run(Banks({"test": [bank]})) for bank in (plain, scaled))
    assert first.metrics == second.metrics
    assert not np.array_equal(first.columns["test"]["confidence"], second.columns["test"]["confidence"])


@pytest.mark.parametrize("task", [zero_shot, calibration], ids=lambda t: t.name)
def test_out_of_distribution_labels_are_refused(task: Any) -> None:
    bank = make_bank(samples=10, label=np.array([0, 1, 2, -1, 0, 0, 0, 0, 0, 0]))
    with pytest.raises(InputError):
        task.run(Banks({"test": [bank]}))


# --- calibration -------------------------------------------------------------------------------------------------


def test_reference_probabilities_are_float64() -> None:
    """netcal falls apart on float32 and on logits; the references below must not."""
    p = probabilities(hard_bank(0))
    assert p.dtype == np.float64
    np.testing.assert_allclose(p.sum(axis=1), 1.0, atol=1e-12)


@pytest.mark.filterwarnings("ignore")  # of netcal and what it imports
@pytest.mark.parametrize("scale", [3.0, 20.0, 100.0])
@pytest.mark.parametrize("seed", SEEDS)
def test_calibration_against_netcal_and_scikit_learn(seed: int, scale: float) -> None:
    from netcal.metrics import ECE, MCE

    bank = hard_bank(seed, logit_scale=scale, logit_bias=-7.0)
    found = calibration.run(Banks({"test": [bank]})).metrics
    p = probabilities(bank)
    assert found["ece_15"] == pytest.approx(ECE(15).measure(p, bank.label), abs=1e-9)
    assert found["max_calibration_error_15"] == pytest.approx(MCE(15).measure(p, bank.label), abs=1e-9)
    log_p = scipy.special.log_softmax(cosines(bank) * scale - 7.0, axis=1)
    assert found["nll"] == pytest.approx(-log_p[np.arange(600), bank.label].mean(), rel=1e-9)
    if p.min() > 1e-15:  # below, scikit-learn clips
        assert found["nll"] == pytest.approx(sk.log_loss(bank.label, p, labels=range(12)), rel=1e-9)
    one_hot = np.eye(12)[bank.label]
    assert found["brier"] == pytest.approx(np.mean(((p - one_hot) ** 2).sum(axis=1)), rel=1e-12)
    correct = p.argmax(axis=1) == bank.label
    assert found["signed_calibration_error"] == pytest.approx(p.max(axis=1).mean() - correct.mean(), rel=1e-9)
    assert found["logit_scale"] == scale


@pytest.mark.parametrize("seed", SEEDS)
def test_adaptive_ece_has_bins_of_equal_mass(seed: int) -> None:
    bank = hard_bank(seed, samples=15 * 37)
    confidence = probabilities(bank).max(axis=1)
    correct = cosines(bank).argmax(axis=1) == bank.label
    assert len(np.unique(confidence)) == len(confidence)
    groups = np.array_split(np.argsort(confidence), 15)
    expected = sum(len(g) / len(correct) * abs(confidence[g].mean() - correct[g].mean()) for g in groups)
    assert calibration.run(Banks({"test": [bank]})).metrics["adaptive_ece_15"] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("initial", [2.0, 50.0])
@pytest.mark.parametrize("seed", SEEDS)
def test_tuning_finds_the_best_scale(seed: int, initial: float) -> None:
    test, fit = hard_bank(seed, logit_scale=initial), hard_bank(seed + 10, logit_scale=initial, samples=500)
    outcome = calibration.run(Banks({"test": [test], "fit": [fit]}))
    best = minimize(
        lambda log_scale: sk.log_loss(fit.label, probabilities(fit, float(np.exp(log_scale[0]))), labels=range(12)),
        x0=[1.0],
        method="Nelder-Mead",
        options={"xatol": 1e-8, "fatol": 1e-14},
    )
    scale = float(np.exp(best.x[0]))
    assert outcome.metrics["logit_scale_tuned"] == pytest.approx(scale, rel=1e-4)
    p = probabilities(test, scale)
    assert outcome.metrics["nll_tuned"] == pytest.approx(sk.log_loss(test.label, p, labels=range(12)), rel=1e-6)
    assert outcome.metrics["nll_tuned"] < outcome.metrics["nll"]


@pytest.mark.filterwarnings("ignore")  # of netcal and what it imports
def test_tuning_against_netcals_temperature_scaling() -> None:
    from netcal.scaling import TemperatureScaling

    test, fit = hard_bank(0), hard_bank(11, samples=500)
    outcome = calibration.run(Banks({"test": [test], "fit": [fit]}))
    scaling = TemperatureScaling()
    scaling.fit(probabilities(fit), fit.label)
    reference = fit.logit_scale * float(np.squeeze(scaling.temperature))  # netcal reports 1 / T
    assert outcome.metrics["logit_scale_tuned"] == pytest.approx(reference, rel=2e-2)


def test_tuning_only_uses_the_calibration_data() -> None:
    fit = hard_bank(11)
    scales = {
        calibration.run(Banks({"test": [hard_bank(s)], "fit": [fit]})).metrics["logit_scale_tuned"] for s in range(3)
    }
    assert len(scales) == 1


def test_without_calibration_data_the_tuned_values_are_noted() -> None:
    outcome = calibration.run(Banks({"test": [hard_bank(0)]}))
    assert not [key for key in outcome.metrics if key.endswith("_tuned")]
    assert "fit" in outcome.notes["logit_scale_tuned"]


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_scale_without_optimum_is_noted(share: float) -> None:
    """All right: the best scale is infinite. All wrong: it is zero."""
    outcome = calibration.run(Banks({"test": [hard_bank(0)], "fit": [make_bank(seed=3, accuracy=share)]}))
    assert "logit_scale_tuned" not in outcome.metrics
    assert "no minimum" in outcome.notes["logit_scale_tuned"]


def test_calibration_by_hand() -> None:
    """Two classes, logits (d, 0): confidence 1 / (1 + exp(-d)). 0.9 is right 3 of 4 times, 0.7 never of 2."""
    d9, d7 = float(np.log(9.0)), float(np.log(7.0 / 3.0))
    cos = np.array([[d9 / 10, 0.0]] * 4 + [[d7 / 10, 0.0]] * 2)
    found = calibration.run(Banks({"test": [from_cosines(cos, [0, 0, 0, 1, 1, 1], scale=10.0)]})).metrics
    assert found["ece_15"] == pytest.approx(4 / 6 * 0.15 + 2 / 6 * 0.7, abs=1e-6)
    assert found["max_calibration_error_15"] == pytest.approx(0.7, abs=1e-6)
    assert found["brier"] == pytest.approx((3 * 2 * 0.01 + 2 * 0.81 + 2 * 2 * 0.49) / 6, abs=1e-6)
    assert found["nll"] == pytest.approx(-(3 * np.log(0.9) + np.log(0.1) + 2 * np.log(0.3)) / 6, abs=1e-6)
    assert found["signed_calibration_error"] == pytest.approx((4 * 0.9 + 2 * 0.7) / 6 - 0.5, abs=1e-6)


def test_constant_features_are_at_chance() -> None:
    bank = from_cosines(np.zeros((8, 4)), [0, 1, 2, 3] * 2, scale=50.0)
    found = calibration.run(Banks({"test": [bank]})).metrics
    assert found["ece_15"] == pytest.approx(0.0, abs=1e-12)
    assert found["nll"] == pytest.approx(np.log(4))
    assert found["brier"] == pytest.approx(0.75)


def test_extreme_confidence_stays_finite() -> None:
    bank = from_cosines([[0.9, 0.0], [0.9, 0.0], [0.0, 0.9]], [0, 1, 1], scale=10_000.0)
    found = calibration.run(Banks({"test": [bank]})).metrics
    assert found["ece_15"] == pytest.approx(1 / 3)
    assert found["nll"] == pytest.approx(9000.0 / 3, rel=1e-6)


@pytest.mark.parametrize(("samples", "published"), [(1000, 0.034), (10_000, 0.011)])
def test_the_floor_at_known_sizes(samples: int, published: float) -> None:
    """A calibrated model's ECE at this N, drawn here; the order of magnitude is that of the conventions."""
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.2, 1.0, samples)
    cos = np.stack([np.log(confidence / (1 - confidence) + 1e-12) / 100, np.zeros(samples)], axis=1)
    right = rng.random(samples) < np.maximum(confidence, 1 - confidence)
    label = np.where(right, cos[:, 0] < 0, cos[:, 0] >= 0).astype(int)
    found = calibration.run(Banks({"test": [from_cosines(cos, label, scale=100.0)]})).metrics
    assert found["ece_15_floor"] == pytest.approx(published, rel=0.5)
    assert found["ece_15"] == pytest.approx(found["ece_15_floor"], rel=0.5)


# --- out-of-distribution -----------------------------------------------------------------------------------------


def reference_scores(cos: Any, scale: float, bias: float) -> dict[str, Any]:
    logits = scale * cos + bias
    p = scipy.special.softmax(logits, axis=1)
    return {
        "msp": p.max(axis=1),
        "mcm": scipy.special.softmax(cos, axis=1).max(axis=1),
        "max_logit": cos.max(axis=1),
        "energy": scipy.special.logsumexp(logits, axis=1),
        "negative_entropy": -scipy.special.entr(p).sum(axis=1),
    }


def openood_fpr95(inside: Any, outside: Any) -> float:
    """OOD positive: share of ID rejected at the first cut-off that catches 95 % of OOD."""
    truth = np.concatenate([np.zeros(len(inside)), np.ones(len(outside))])
    fpr, tpr, _ = sk.roc_curve(truth, -np.concatenate([inside, outside]), drop_intermediate=False)
    return float(fpr[np.argmax(tpr >= 0.95)])


def mcm_fpr95(inside: Any, outside: Any) -> float:
    """ID positive: share of OOD accepted where the share of ID kept is nearest to 95 % (no ties here)."""
    cuts = np.sort(np.concatenate([inside, outside]))
    kept = np.array([(inside >= cut).mean() for cut in cuts])
    nearest = np.flatnonzero(np.abs(kept - 0.95) == np.abs(kept - 0.95).min())
    return float((outside >= cuts[nearest[0]]).mean())


def ood_banks(seed: int, scale: float = 20.0, bias: float = 0.0) -> Banks:
    known = hard_bank(seed, samples=310, logit_scale=scale, logit_bias=bias)
    unknown = [
        make_bank(
            seed=seed + 50 + i, samples=170 + 31 * i, classes=4, logit_scale=scale, logit_bias=bias, dataset=f"o{i}"
        )
        for i in range(2)
    ]
    return Banks({"id": [known], "ood": unknown}, OodOptions())


@pytest.mark.parametrize(("scale", "bias"), [(20.0, 0.0), (117.0, -12.9)])
@pytest.mark.parametrize("seed", SEEDS)
def test_ood_against_scikit_learn(seed: int, scale: float, bias: float) -> None:
    banks = ood_banks(seed, scale, bias)
    found = ood.run(banks).metrics
    known = banks["id"]
    inside = reference_scores(cosines(known), scale, bias)
    seen = set()
    for bank in banks.all("ood"):
        outside = reference_scores(cosines(bank, known.text), scale, bias)
        for score in inside:
            a, b = inside[score], outside[score]
            truth = np.concatenate([np.ones(len(a)), np.zeros(len(b))])
            both = np.concatenate([a, b])
            precision_in, recall_in, _ = sk.precision_recall_curve(truth, both)
            precision_out, recall_out, _ = sk.precision_recall_curve(1 - truth, -both)
            expected = {
                "auroc": sk.roc_auc_score(truth, both),
                "aupr_in": sk.average_precision_score(truth, both),
                "aupr_out": sk.average_precision_score(1 - truth, -both),
                "aupr_in_trapezoid": sk.auc(recall_in, precision_in),
                "aupr_out_trapezoid": sk.auc(recall_out, precision_out),
                "fpr95_ood_positive": openood_fpr95(a, b),
                "fpr95_id_positive": mcm_fpr95(a, b),
            }
            for measure, value in expected.items():
                key = f"{bank.dataset}/{score}/{measure}"
                seen.add(key)
                assert found[key] == pytest.approx(value, abs=1e-9), key
    assert len(seen) == 2 * 5 * 7


def test_group_values_are_unweighted_means() -> None:
    found = ood.run(ood_banks(0)).metrics
    for score in ("msp", "mcm", "max_logit", "energy", "negative_entropy"):
        for measure in ("auroc", "fpr95_id_positive", "fpr95_ood_positive", "aupr_in", "aupr_out"):
            mean = (found[f"o0/{score}/{measure}"] + found[f"o1/{score}/{measure}"]) / 2
            assert found[f"{score}/{measure}"] == pytest.approx(mean)


def test_the_two_fpr95_differ() -> None:
    found = ood.run(ood_banks(0)).metrics
    assert found["msp/fpr95_ood_positive"] != found["msp/fpr95_id_positive"]


def test_ood_by_hand() -> None:
    """MaxLogit scores ID .9 .8 .7 .2 and OOD .6 .1: 1 of 8 pairs is the wrong way round."""
    known = from_cosines([[0.9, 0], [0.8, 0], [0, 0.7], [0.2, 0]], [0, 0, 1, 0])
    unknown = from_cosines([[0.6, 0], [0.1, 0]], [-1, -1], dataset="far")
    found = ood.run(Banks({"id": [known], "ood": [unknown]}, OodOptions(scores=("max_logit",)))).metrics
    assert found["max_logit/auroc"] == pytest.approx(7 / 8)
    assert found["max_logit/fpr95_ood_positive"] == pytest.approx(1 / 4)
    assert found["max_logit/fpr95_id_positive"] == pytest.approx(1 / 2)
    assert found["max_logit/aupr_in"] == pytest.approx((3 * 1.0 + 4 / 5) / 4)
    assert found["max_logit/ties"] == 0


def test_perfect_worst_and_constant_scores() -> None:
    options = OodOptions(scores=("max_logit",))
    high, low, flat = ([[v, 0.0]] * 5 for v in (0.9, 0.1, 0.5))
    cases = [(high, low, 1.0, 0.0, 0.0), (low, high, 0.0, 1.0, 1.0), (flat, flat, 0.5, 1.0, 1.0)]
    for inside, outside, auroc, one, other in cases:
        banks = {"id": [from_cosines(inside, [0] * 5)], "ood": [from_cosines(outside, [-1] * 5, dataset="o")]}
        found = ood.run(Banks(banks, options)).metrics
        values = [found[f"max_logit/{m}"] for m in ("auroc", "fpr95_ood_positive", "fpr95_id_positive")]
        assert values == [auroc, one, other]


def test_the_class_weights_are_those_of_the_known_data() -> None:
    """OOD data may have classes of its own, or none: they do not count."""
    known = hard_bank(0)
    unknown = make_bank(seed=9, classes=5, dataset="o")
    bare = make_bank(
        seed=9,
        classes=5,
        dataset="o",
        text=np.zeros((0, 32), np.float32),
        class_names=(),
        label=np.full(200, -1),
    )
    first, second = (ood.run(Banks({"id": [known], "ood": [b]}, OodOptions())).metrics for b in (unknown, bare))
    assert first == second


def test_scores_in_float64_hardly_tie() -> None:
    assert ood.run(ood_banks(0)).metrics["mcm/ties"] == 0


# --- corruption --------------------------------------------------------------------------------------------------


def corrupted(hits: dict[tuple[str, int], list[int]], clean: list[int]) -> Banks:
    """Banks whose classifier is right exactly where told."""

    def bank(right: list[int], **fields: Any) -> FeatureBank:
        cos = [[0.9, 0.1] if hit else [0.1, 0.9] for hit in right]
        return from_cosines(cos, [0] * len(right), **fields)

    variants = [
        bank(h, corruption=kind, severity=severity, dataset=f"c/{kind}/{severity}")
        for (kind, severity), h in hits.items()
    ]
    return Banks({"clean": [bank(clean, dataset="clean")], "corrupted": variants}, CorruptionOptions())


GRID = {
    ("fog", 1): [1, 1, 1, 1],
    ("fog", 5): [1, 0, 0, 0],
    ("snow", 1): [1, 1, 0, 0],
    ("snow", 5): [0, 0, 0, 0],
}


def test_corruption_by_hand() -> None:
    found = corruption.run(corrupted(GRID, [1, 1, 1, 0])).metrics
    assert found["fog/1/accuracy"] == 1.0
    assert found["fog/accuracy"] == pytest.approx(0.625)
    assert found["snow/accuracy"] == pytest.approx(0.25)
    assert found["severity_1/accuracy"] == pytest.approx(0.75)
    assert found["severity_5/accuracy"] == pytest.approx(0.125)
    assert found["accuracy"] == pytest.approx(0.4375)
    assert found["clean_accuracy"] == 0.75
    assert found["relative_robustness"] == pytest.approx(0.4375 / 0.75)
    assert found["samples"] == 4


def test_a_type_counts_once_however_many_severities_it_has() -> None:
    """fog: (1 + 1/4) / 2; snow, at one severity: 0. Their mean is not that of the three variants."""
    variants = {name: hits for name, hits in GRID.items() if name != ("snow", 1)}
    found = corruption.run(corrupted(variants, [1, 1, 1, 0])).metrics
    assert (found["fog/accuracy"], found["snow/accuracy"]) == (0.625, 0.0)
    assert found["accuracy"] == pytest.approx(0.625 / 2)


def test_mce_is_relative_to_full_precision() -> None:
    """CE per type: sum of errors over severities against the same sum of full precision, then the mean."""
    reference = corruption.run(corrupted(GRID, [1, 1, 1, 0]))
    worse = {**GRID, ("fog", 1): [1, 1, 0, 0]}
    quantized = corruption.run(corrupted(worse, [1, 1, 1, 0]))
    fog = (0.5 + 0.75) / (0.0 + 0.75)
    assert corruption.run_comparison(quantized.columns, reference.columns, CorruptionOptions()).metrics[
        "mean_corruption_error_fp32"
    ] == pytest.approx((fog + 1.0) / 2)
    assert (
        corruption.run_comparison(reference.columns, reference.columns, CorruptionOptions()).metrics[
            "mean_corruption_error_fp32"
        ]
        == 1.0
    )


def test_undefined_ratios_are_noted() -> None:
    perfect = {key: [1, 1, 1, 1] for key in GRID}
    outcome = corruption.run(corrupted(perfect, [0, 0, 0, 0]))
    assert "relative_robustness" not in outcome.metrics
    assert outcome.notes["relative_robustness"]
    compared = corruption.run_comparison(outcome.columns, outcome.columns, CorruptionOptions())
    assert dict(compared.metrics) == {}
    assert compared.notes["mean_corruption_error_fp32"]


def test_clean_accuracy_is_over_the_same_images() -> None:
    """Corrupted images 1 and 2 only; the clean set has four in another order."""
    banks = corrupted(GRID, [1, 1, 0, 0])
    index = np.array([2, 1])
    small = [bank.take(index) for bank in banks.all("corrupted")]
    shuffled = banks["clean"].take(np.array([3, 2, 1, 0]))
    outcome = corruption.run(Banks({"clean": [shuffled], "corrupted": small}, CorruptionOptions()))
    assert outcome.metrics["clean_accuracy"] == 0.5
    assert outcome.columns["corrupted"]["correct_clean"].tolist() == [False, True]
    assert outcome.columns["corrupted"]["sample_id"].tolist() == ["002", "001"]


def test_clean_images_that_do_not_pair_are_noted() -> None:
    banks = corrupted(GRID, [1, 1, 0, 1])
    others = make_bank(accuracy=0.5, samples=10, dataset="other")
    outcome = corruption.run(Banks({"clean": [others], "corrupted": banks.all("corrupted")}, CorruptionOptions()))
    assert outcome.metrics["clean_accuracy"] == 0.5
    assert "do not pair" in outcome.notes["clean_accuracy"]


def test_alexnets_mce_wants_imagenet_c() -> None:
    banks = Banks(corrupted(GRID, [1, 1, 0, 1]).by_role, CorruptionOptions(alexnet=True))
    with pytest.raises(InputError, match="15 ImageNet-C types"):
        corruption.run(banks)


def test_banks_that_are_not_corrupted_variants_are_refused() -> None:
    banks = corrupted(GRID, [1, 1, 0, 1])
    with pytest.raises(DataError, match="is not corrupted"):
        corruption.run(Banks({"clean": banks.all("clean"), "corrupted": banks.all("clean")}, CorruptionOptions()))
    twice = [*banks.all("corrupted"), banks.all("corrupted")[0]]
    with pytest.raises(DataError, match="twice"):
        corruption.run(Banks({"clean": banks.all("clean"), "corrupted": twice}, CorruptionOptions()))
    turned = [banks.all("corrupted")[0], banks.all("corrupted")[1].take(np.array([3, 2, 1, 0]))]
    with pytest.raises(DataError, match="another order"):
        corruption.run(Banks({"clean": banks.all("clean"), "corrupted": turned}, CorruptionOptions()))


# --- covariate shift ---------------------------------------------------------------------------------------------


def test_shift_on_a_subset_of_the_classes_in_another_order() -> None:
    """Source over 20 classes, shifted over 6 of them in another order: as with ImageNet-R's 200 of 1,000."""
    source = hard_bank(0, samples=800, classes=20, dataset="source")
    chosen = np.array([17, 3, 8, 0, 11, 5])
    rng = np.random.default_rng(1)
    label = rng.integers(0, 6, 240)
    image = source.text[chosen][label] + 0.35 * rng.standard_normal((240, 32))
    shifted = make_bank(
        samples=240,
        image=(image / np.linalg.norm(image, axis=1, keepdims=True)).astype(np.float32),
        label=label,
        text=source.text[chosen],
        class_names=tuple(source.class_names[c] for c in chosen),
        dataset="r",
    )
    found = covariate_shift.run(Banks({"source": [source], "shifted": [shifted]})).metrics
    rows = np.isin(source.label, chosen)
    guesses = chosen[cosines(source)[rows][:, chosen].argmax(axis=1)]
    on_source = sk.accuracy_score(source.label[rows], guesses)
    on_shifted = sk.accuracy_score(label, cosines(shifted).argmax(axis=1))
    assert found["r/source_accuracy"] == pytest.approx(on_source)
    assert found["r/accuracy"] == pytest.approx(on_shifted)
    assert found["gap"] == pytest.approx(on_source - on_shifted)
    assert found["relative_gap"] == pytest.approx(1 - on_shifted / on_source)
    assert on_source > sk.accuracy_score(source.label, cosines(source).argmax(axis=1))  # fewer classes are easier


def test_shift_means_are_unweighted() -> None:
    source = hard_bank(0)
    shifted = [hard_bank(0, samples=n, dataset=f"s{n}", image=hard_bank(n, samples=n).image) for n in (50, 400)]
    found = covariate_shift.run(Banks({"source": [source], "shifted": shifted})).metrics
    for name in ("accuracy", "source_accuracy", "gap", "relative_gap"):
        assert found[name] == pytest.approx((found[f"s50/{name}"] + found[f"s400/{name}"]) / 2)
    assert found["s50/samples"] == 50


def test_the_same_data_has_no_gap() -> None:
    bank = hard_bank(0)
    found = covariate_shift.run(Banks({"source": [bank], "shifted": [bank]})).metrics
    assert found["gap"] == 0.0
    assert found["relative_gap"] == 0.0


def test_two_classes_of_one_name_stay_two() -> None:
    """The usual ImageNet class list holds 'missile' and 'sunglasses' twice; the same list gives the same accuracy."""
    names = ("missile", "crane", "missile", "sunglasses")
    bank = make_bank(samples=80, classes=4, accuracy=1.0, class_names=names, dataset="v2")
    found = covariate_shift.run(Banks({"source": [bank], "shifted": [bank]})).metrics
    assert found["source_accuracy"] == found["accuracy"] == 1.0


def test_a_name_that_stands_once_on_one_side_takes_all_of_the_other() -> None:
    source = from_cosines([[0.9, 0, 0], [0, 0.9, 0], [0, 0, 0.9]], [0, 1, 2], class_names=("missile", "cat", "missile"))
    shifted = make_bank(
        samples=2,
        image=source.image[[1, 0]],
        label=np.array([0, 1]),
        text=source.text[[1, 0]],
        class_names=("cat", "missile"),
        dataset="s",
    )
    outcome = covariate_shift.run(Banks({"source": [source], "shifted": [shifted]}))
    assert (outcome.columns["source"]["label"] >= 0).sum() == 3


def test_shift_without_a_common_class_is_refused() -> None:
    other = make_bank(class_names=tuple("abcdefgh"), dataset="other")
    with pytest.raises(DataError, match="share no class"):
        covariate_shift.run(Banks({"source": [make_bank()], "shifted": [other]}))


def test_shift_without_images_of_a_common_class_leaves_the_gap_open() -> None:
    """A small limit: both know all classes, but have images of different ones."""
    bank = make_bank(samples=40, accuracy=1.0, dataset="s")
    low, high = bank.take(bank.label < 2), bank.take(bank.label >= 2)
    outcome = covariate_shift.run(Banks({"source": [low], "shifted": [high, replace(low, dataset="same")]}))
    assert (
        outcome.metrics["s/accuracy"] == outcome.metrics["accuracy"] == outcome.metrics["same/source_accuracy"] == 1.0
    )
    for measure in ("source_accuracy", "gap", "relative_gap"):
        assert f"s/{measure}" not in outcome.metrics
        assert measure not in outcome.metrics
        assert {measure, f"s/{measure}"} <= set(outcome.notes)
    compared = compare(covariate_shift, outcome, outcome)
    assert {"s/accuracy", "accuracy", "same/gap"} <= set(compared)
    assert not {"s/gap", "gap"} & set(compared)


def test_source_images_out_of_distribution_belong_to_no_class() -> None:
    bank = make_bank(samples=40, accuracy=1.0)
    label = bank.label.copy()
    label[:5] = -1
    marked = make_bank(samples=40, accuracy=1.0, label=label, dataset="source")
    found = covariate_shift.run(Banks({"source": [marked], "shifted": [bank]})).metrics
    assert found["source_accuracy"] == 1.0


def test_a_source_at_zero_leaves_the_relative_gap_open() -> None:
    wrong = make_bank(samples=40, accuracy=0.0, dataset="source")
    outcome = covariate_shift.run(Banks({"source": [wrong], "shifted": [make_bank(samples=40, dataset="s")]}))
    assert "relative_gap" not in outcome.metrics
    assert {"relative_gap", "s/relative_gap"} <= set(outcome.notes)


# --- spurious ----------------------------------------------------------------------------------------------------


def spurious_outcome(common: float, counter: float, samples: int = 100, **fields: Any) -> Any:
    banks = {
        "common": [make_bank(seed=1, samples=samples, accuracy=common, dataset="common", **fields)],
        "counter": [make_bank(seed=2, samples=samples, accuracy=counter, dataset="counter", **fields)],
    }
    return spurious.run(Banks(banks))


def test_spurious_by_hand() -> None:
    full, quantized = spurious_outcome(0.8, 0.6), spurious_outcome(0.7, 0.42)
    assert full.metrics["rsg"] == pytest.approx(0.25)
    assert full.metrics["gap"] == pytest.approx(0.2)
    assert quantized.metrics["rsg"] == pytest.approx(0.4)
    compared = spurious.run_comparison(quantized.columns, full.columns, NoOptions()).metrics
    assert compared["delta_rsg"] == pytest.approx(0.15)
    assert compared["vuln_add"] == pytest.approx((0.6 - 0.42) / 0.6 - (0.8 - 0.7) / 0.8)


counts = st.integers(1, 50)


@given(counts, counts, counts, counts)
@settings(max_examples=60, deadline=None)
def test_the_identity_of_the_study(f_common: int, f_counter: int, q_common: int, q_counter: int) -> None:
    """dRSG = (1 - RSG(f)) * Vuln_add / (1 - delta(common)), whatever the accuracies."""
    full = spurious_outcome(f_common / 50, f_counter / 50, samples=50, classes=3, dimension=4)
    quantized = spurious_outcome(q_common / 50, q_counter / 50, samples=50, classes=3, dimension=4)
    compared = spurious.run_comparison(quantized.columns, full.columns, NoOptions()).metrics
    delta_common = (f_common - q_common) / f_common
    left, right = compared["delta_rsg"], (1 - full.metrics["rsg"]) * compared["vuln_add"] / (1 - delta_common)
    assert left == pytest.approx(right, rel=1e-9, abs=1e-9)
    assert left == pytest.approx(f_counter / f_common - q_counter / q_common, abs=1e-9)


def test_groups() -> None:
    """Groups 0 and 1 over both sets: group 0 has 3 of 4 right, group 1 has 1 of 4."""

    def bank(right: list[int], group: list[int], name: str) -> FeatureBank:
        cos = [[0.9, 0.1] if hit else [0.1, 0.9] for hit in right]
        return from_cosines(cos, [0] * 4, group=np.array(group), dataset=name)

    banks = {
        "common": [bank([1, 1, 0, 1], [0, 0, 0, 1], "common")],
        "counter": [bank([1, 0, 0, 0], [0, 1, 1, 1], "counter")],
    }
    found = spurious.run(Banks(banks)).metrics
    assert found["worst_group_accuracy"] == pytest.approx(1 / 4)
    assert found["mean_group_accuracy"] == pytest.approx((3 / 4 + 1 / 4) / 2)


def test_undefined_gaps_are_noted() -> None:
    nothing, full = spurious_outcome(0.0, 0.5), spurious_outcome(0.8, 0.6)
    assert "rsg" not in nothing.metrics
    assert nothing.notes["rsg"]
    for quantized, reference in ((nothing, full), (full, nothing)):
        compared = spurious.run_comparison(quantized.columns, reference.columns, NoOptions())
        assert "delta_rsg" not in compared.metrics
        assert compared.notes["delta_rsg"]
    assert "vuln_add" in spurious.run_comparison(nothing.columns, full.columns, NoOptions()).metrics
    assert "vuln_add" not in spurious.run_comparison(full.columns, nothing.columns, NoOptions()).metrics
    assert full.notes["worst_group_accuracy"]


# --- all ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "banks"),
    [
        (zero_shot, Banks({"test": [make_bank()]})),
        (calibration, Banks({"test": [make_bank()], "fit": [make_bank(seed=1)]})),
        (ood, ood_banks(0)),
        (corruption, corrupted(GRID, [1, 1, 0, 1])),
        (covariate_shift, Banks({"source": [make_bank()], "shifted": [make_bank(dataset="s")]})),
        (spurious, Banks({"common": [make_bank()], "counter": [make_bank(dataset="c")]})),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_nan_features_are_refused(task: Any, banks: Banks) -> None:
    """In whichever bank they are."""
    for role in banks:
        poisoned = {r: list(banks.all(r)) for r in banks}
        bank = poisoned[role][0]
        image = bank.image.copy()
        image[0, 0] = np.nan
        poisoned[role][0] = FeatureBank(**{**{f: getattr(bank, f) for f in bank.__dataclass_fields__}, "image": image})
        with pytest.raises(ReliquantError, match="NaN"):
            task.run(Banks(poisoned, banks.options))


# The errors that tasks declare ------------------------------------------------------------------------------------


def with_one_less(columns: Columns, group: str) -> Columns:
    """The columns with one right answer of a group wrong."""
    hits = columns[group]["correct"].copy()
    hits[int(np.flatnonzero(hits.reshape(len(hits), -1).all(axis=1))[0])] = False
    return replace(columns, groups={**columns.groups, group: {**columns[group], "correct": hits}})


def moved(task: Any, columns: Columns, group: str) -> dict[str, float]:
    """How far each metric moves when one right answer of a group becomes a wrong one."""
    after = task.run_summarise(with_one_less(columns, group), task.options()).metrics
    return {key: after[key] - value for key, value in task.run_summarise(columns, task.options()).metrics.items()}


def test_slack_is_what_an_answer_of_every_set_moves_a_metric_by() -> None:
    """The delta method against flipping an answer, of the metrics that are no plain share of right answers."""
    shifted = [hard_bank(2, 500, dataset="v2"), hard_bank(3, 700, dataset="r")]
    banks = {"source": [hard_bank(1, 900)], "shifted": shifted}
    sides = {"common": [hard_bank(4, 800, dataset="common")], "counter": [hard_bank(5, 600, dataset="counter")]}
    for task, roles in ((covariate_shift, banks), (spurious, sides)):
        columns = task.run_observe(Banks(roles, task.options()))
        slack = task.known_errors(columns, task.options(), {}).slack
        ways = [moved(task, columns, group) for group in columns.groups]
        compared = {"delta_rsg", "vuln_add", "mean_group_accuracy"}
        keys = [key for key in slack if key not in compared]
        assert keys
        for key in keys:
            assert slack[key] == pytest.approx(sum(way[key] ** 2 for way in ways), rel=0.05), (task.name, key)


def test_slack_of_a_comparison_counts_an_answer_of_either_model() -> None:
    sides = {"common": [hard_bank(4, 800, dataset="common")], "counter": [hard_bank(5, 600, dataset="counter")]}
    columns = spurious.run_observe(Banks(sides, NoOptions()))
    others = [with_one_less(columns, group) for group in columns.groups]
    pairs = [pair for other in others for pair in ((other, columns), (columns, other))]
    found = [spurious.run_comparison(now, before, NoOptions()).metrics for now, before in pairs]
    assert spurious.known_errors is not None
    slack = spurious.known_errors(columns, NoOptions(), {}).slack
    for key in ("delta_rsg", "vuln_add"):
        assert slack[key] == pytest.approx(sum(each[key] ** 2 for each in found), rel=0.05), key
