"""OOD scores and detection metrics against scikit-learn, SciPy, pytorch-ood and loops written from the definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import entropy, mannwhitneyu
from sklearn.metrics import auc, average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from benchmark.metrics import detection, ood, scores

Pair = tuple[np.ndarray, np.ndarray]


def draw(seed: int, decimals: int | None) -> Pair:
    rng = np.random.default_rng(seed)
    inside, outside = rng.normal(1.2, 1.0, int(rng.integers(20, 400))), rng.normal(0.0, 1.3, int(rng.integers(20, 400)))
    return (inside, outside) if decimals is None else (inside.round(decimals), outside.round(decimals))


CASES = [pytest.param(draw(seed, ties), id=f"{seed}-{ties}") for seed in range(12) for ties in (None, 1, 0)]


def joined(pair: Pair) -> tuple[np.ndarray, np.ndarray]:
    return np.concatenate(pair), np.r_[np.ones(len(pair[0]), int), np.zeros(len(pair[1]), int)]


@pytest.mark.parametrize("pair", CASES)
def test_areas_equal_scikit_learn(pair: Pair) -> None:
    score, is_id = joined(pair)
    assert detection.auroc(*pair) == pytest.approx(roc_auc_score(is_id, score), abs=1e-13)
    u = mannwhitneyu(*pair).statistic / (len(pair[0]) * len(pair[1]))
    assert detection.auroc(*pair) == pytest.approx(u, abs=1e-13)
    assert detection.aupr_in(*pair) == pytest.approx(average_precision_score(is_id, score), abs=1e-13)
    assert detection.aupr_out(*pair) == pytest.approx(average_precision_score(1 - is_id, -score), abs=1e-13)
    for ours, truth, values in (
        (detection.aupr_in_trapezoid, is_id, score),
        (detection.aupr_out_trapezoid, 1 - is_id, -score),
    ):
        precision, recall, _ = precision_recall_curve(truth, values)
        assert ours(*pair) == pytest.approx(auc(recall, precision), abs=1e-13)


@pytest.mark.parametrize("pair", CASES)
def test_all_equal_pytorch_ood(pair: Pair) -> None:
    from pytorch_ood.metrics import functional as reference

    score, is_id = joined(pair)
    outlier, label = torch.tensor(-score), torch.tensor(is_id - 1)
    assert detection.auroc(*pair) == pytest.approx(reference.auroc(outlier, label).item(), abs=1e-13)
    assert detection.aupr_in_trapezoid(*pair) == pytest.approx(
        reference.aupr(outlier, label, positive="id").item(), abs=1e-13
    )
    assert detection.aupr_out_trapezoid(*pair) == pytest.approx(reference.aupr(outlier, label).item(), abs=1e-13)
    assert detection.fpr95_ood_positive(*pair) == reference.fpr_at_tpr(outlier, label).item()


@pytest.mark.parametrize("pair", CASES)
def test_fpr95_ood_positive_equals_the_roc_curve(pair: Pair) -> None:
    """OpenOOD v1.5: the first point of the ROC curve of OOD with a true positive rate of at least 0.95."""
    score, is_id = joined(pair)
    false_rate, true_rate, _ = roc_curve(1 - is_id, -score, drop_intermediate=False)
    assert detection.fpr95_ood_positive(*pair) == pytest.approx(false_rate[np.argmax(true_rate >= 0.95)], abs=1e-15)


def mcm_convention(pair: Pair) -> float:
    """By the words of the definition, with exact integers: a loop over cut-offs from loose to strict."""
    inside, outside = pair
    best: tuple[float, float] | None = None
    complete = max(t for t in np.concatenate(pair) if (inside >= t).all())
    for cut in sorted(set(np.concatenate(pair))):
        if cut < complete:
            continue
        distance = abs((inside >= cut).sum() / len(inside) - 0.95)
        if best is None or distance < best[0]:
            best = (distance, (outside >= cut).sum() / len(outside))
    assert best is not None
    return best[1]


@pytest.mark.parametrize("pair", CASES)
def test_fpr95_id_positive_equals_mcms_definition(pair: Pair) -> None:
    assert detection.fpr95_id_positive(*pair) == pytest.approx(mcm_convention(pair), abs=1e-15)


def test_the_two_fpr95_differ_on_the_same_scores() -> None:
    rng = np.random.default_rng(0)
    pair = rng.normal(1.0, 0.4, 5000), rng.normal(0.0, 1.2, 5000)
    assert abs(detection.fpr95_ood_positive(*pair) - detection.fpr95_id_positive(*pair)) > 0.2


@pytest.fixture(scope="module")
def features() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(8)
    return {
        "image": rng.normal(size=(40, 16)).astype(np.float32),
        "text": rng.normal(size=(6, 16)).astype(np.float32),
        "negative": rng.normal(size=(53, 16)).astype(np.float32),
        "local": rng.normal(size=(40, 9, 16)).astype(np.float32),
    }


def unit(values: np.ndarray) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.tensor(values).double(), dim=-1)


def test_scores_equal_pytorch_ood(features: dict[str, np.ndarray]) -> None:
    from pytorch_ood.detector import MCM, EnergyBased, Entropy, MaxLogit, MaxSoftmax

    cos = scores.cosines(features["image"], features["text"])
    logit = torch.tensor(scores.logits(cos, 17.0, -2.0))
    expected = {
        "msp": MaxSoftmax.score(logit),
        "energy": EnergyBased.score(logit),
        "negative_entropy": Entropy.score(logit),
        "max_logit": MaxLogit.score(torch.tensor(cos)),
        "mcm": MCM(None, unit(features["text"])).predict_features(unit(features["image"])),
    }
    assert set(expected) == set(ood.SCORES)
    for name, outlier_score in expected.items():
        ours = ood.SCORES[name](cos, 17.0, -2.0)
        # pytorch-ood cuts small probabilities out of the entropy and computes MCM in float32.
        tolerance = {"negative_entropy": 1e-5, "mcm": 1e-7}.get(name, 1e-12)
        np.testing.assert_allclose(ours, -outlier_score.numpy(), rtol=1e-12, atol=tolerance, err_msg=name)


def test_mcm_and_negative_entropy_in_full_precision(features: dict[str, np.ndarray]) -> None:
    cos = scores.cosines(features["image"], features["text"])
    np.testing.assert_allclose(ood.mcm(cos, tau=0.3), torch.tensor(cos / 0.3).softmax(1).amax(1), atol=1e-14)
    expected = -entropy(scores.softmax(scores.logits(cos, 17.0)), axis=1)
    np.testing.assert_allclose(ood.negative_entropy(cos, 17.0, -2.0), expected, atol=1e-13)


def test_gl_mcm_equals_torch(features: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    image, text, local = (unit(features[k]) for k in ("image", "text", "local"))
    whole = (image @ text.T / 0.5).softmax(1).amax(1)
    parts = (local @ text.T / 0.5).softmax(2).amax((1, 2))
    cos = scores.cosines(features["image"], features["text"])
    for chunk in (1, 300, 1 << 22):  # one sample at a time, a few, all at once
        monkeypatch.setattr(ood, "_CHUNK_VALUES", chunk)
        ours = ood.gl_mcm(cos, features["local"], features["text"], weight=0.7, tau=0.5)
        np.testing.assert_allclose(ours, (whole + 0.7 * parts).numpy(), atol=1e-13)


@pytest.mark.parametrize("groups", [1, 5, 53])
def test_neg_label_equals_its_definition(
    features: dict[str, np.ndarray], groups: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, text, negative = (unit(features[k]) for k in ("image", "text", "negative"))
    order = np.random.default_rng(4).permutation(53)
    size = 53 // groups
    shares = []
    for g in range(groups):
        chosen = negative[order[g * size : (g + 1) * size]]
        joint = (torch.cat([image @ text.T, image @ chosen.T], dim=1) * 20.0).softmax(1)
        shares.append(joint[:, : len(text)].sum(1))
    expected = torch.stack(shares).mean(0).numpy()
    for chunk in (1, 200, 1 << 22):
        monkeypatch.setattr(ood, "_CHUNK_VALUES", chunk)
        ours = ood.neg_label(features["image"], features["text"], features["negative"], 20.0, groups=groups, seed=4)
        np.testing.assert_allclose(ours, expected, atol=1e-13)
