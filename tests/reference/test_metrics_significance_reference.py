"""Significance against statsmodels, SciPy, MLstatkit, exact enumeration and plain index bootstraps."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from MLstatkit import Delong_test
from scipy.stats import binomtest, false_discovery_control, norm
from scipy.stats import bootstrap as scipy_bootstrap
from sklearn.metrics import roc_auc_score
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from benchmark.metrics import calibration, detection, robustness, selective
from benchmark.metrics import significance as sig


def outcomes(seed: int, n: int = 300) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    a = rng.random(n) < 0.7
    return a, np.where(a, rng.random(n) < 0.9, rng.random(n) < 0.15)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("n", [5, 40, 300, 20_000])
def test_mcnemar_equals_statsmodels_and_scipy(seed: int, n: int) -> None:
    a, b = outcomes(seed, n)
    table = [[np.sum(a & b), np.sum(a & ~b)], [np.sum(~a & b), np.sum(~a & ~b)]]
    assert sig.mcnemar_exact(a, b) == pytest.approx(mcnemar(table, exact=True).pvalue, rel=1e-10)
    if discordant := table[0][1] + table[1][0]:
        assert sig.mcnemar_exact(a, b) == pytest.approx(binomtest(table[0][1], discordant).pvalue, rel=1e-10)


@pytest.mark.parametrize("seed", range(4))
def test_benjamini_hochberg_equals_statsmodels_and_scipy(seed: int) -> None:
    p = np.random.default_rng(seed).random(37) ** 3
    p[5] = p[9]
    np.testing.assert_allclose(sig.benjamini_hochberg(p), multipletests(p, method="fdr_bh")[1], atol=1e-15)
    np.testing.assert_allclose(sig.benjamini_hochberg(p), false_discovery_control(p), atol=1e-15)


def paired_scores(seed: int, ties: bool) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    inside, outside = rng.normal(1.0, 1.0, 90), rng.normal(0.0, 1.0, 130)
    four = inside, outside, inside + rng.normal(0, 0.5, 90), outside + rng.normal(0.1, 0.5, 130)
    return tuple(x.round(1) for x in four) if ties else four


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_delong_equals_mlstatkit(seed: int, ties: bool) -> None:
    id_a, ood_a, id_b, ood_b = paired_scores(seed, ties)
    truth = np.r_[np.ones(90), np.zeros(130)]
    *_, auc_a, auc_b, info = Delong_test(truth, np.r_[id_a, ood_a], np.r_[id_b, ood_b])
    z, p = Delong_test(truth, np.r_[id_a, ood_a], np.r_[id_b, ood_b], return_ci=False, return_auc=False)
    ours = sig.delong(id_a, ood_a, id_b, ood_b)
    assert info["method"] == "delong"
    assert ours.delta == pytest.approx(auc_b - auc_a, abs=1e-13)
    assert ours.p == pytest.approx(p, rel=1e-9)
    assert (ours.high - ours.low) / 2 == pytest.approx(1.959963984540054 * abs((auc_b - auc_a) / z), rel=1e-9)
    assert ours.delta == pytest.approx(detection.auroc(id_b, ood_b) - detection.auroc(id_a, ood_a), abs=1e-13)


def test_delong_equals_the_quadratic_definition() -> None:
    id_a, ood_a, id_b, ood_b = paired_scores(9, ties=True)

    def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return (x[:, None] > y).astype(float) + 0.5 * (x[:, None] == y)

    gain = kernel(id_b, ood_b) - kernel(id_a, ood_a)
    error = np.sqrt(gain.mean(1).var(ddof=1) / 90 + gain.mean(0).var(ddof=1) / 130)
    ours = sig.delong(id_a, ood_a, id_b, ood_b, level=0.9)
    assert ours.low == pytest.approx(gain.mean() - 1.6448536269514722 * error, abs=1e-12)


def test_delong_mean_shares_the_id_samples_between_data_sets() -> None:
    """The interval of the mean over two data sets agrees with a bootstrap that resamples the ID samples once."""
    rng = np.random.default_rng(2)
    id_a, near_a, far_a = rng.normal(1, 1, 150), rng.normal(0.3, 1, 120), rng.normal(-0.5, 1, 80)
    id_b, near_b, far_b = (x + rng.normal(0.05, 0.6, len(x)) for x in (id_a, near_a, far_a))

    def statistic(ia: np.ndarray, ib: np.ndarray, na: np.ndarray, nb: np.ndarray, *far: np.ndarray) -> float:
        a = detection.auroc(ia, na) + detection.auroc(ia, far[0])
        return (detection.auroc(ib, nb) + detection.auroc(ib, far[1]) - a) / 2

    ours = sig.delong_mean(id_a, [near_a, far_a], id_b, [near_b, far_b])
    groups = [(id_a, id_b), (near_a, near_b), (far_a, far_b)]
    resampled = sig.bootstrap(statistic, groups, draws=1000, seed=0)
    assert ours.delta == pytest.approx(resampled.delta, abs=1e-12)
    assert ours.high - ours.low == pytest.approx(resampled.high - resampled.low, rel=0.15)
    single = sig.delong_mean(id_a, [near_a], id_b, [near_b])
    assert single == sig.delong(id_a, near_a, id_b, near_b)


def test_cells_have_the_exact_bootstrap_distribution() -> None:
    """All 4^4 resamples of four samples, enumerated, against 200,000 multinomial draws."""
    a, b = np.array([1, 1, 0, 1], bool), np.array([1, 0, 1, 0], bool)
    exact = [np.mean(b[list(i)].astype(int) - a[list(i)]) for i in itertools.product(range(4), repeat=4)]
    cells = sig.paired_cells(a, b).draw(np.random.default_rng(0), 200_000)
    drawn = (cells[:, 2] - cells[:, 1]) / 4
    values, counts = np.unique(exact, return_counts=True)
    for value, count in zip(values, counts, strict=True):
        assert np.mean(np.isclose(drawn, value)) == pytest.approx(count / 256, abs=5e-3)


def test_cell_intervals_equal_index_bootstraps() -> None:
    (a, b), (c, d) = outcomes(0, 400), outcomes(1, 400)

    def relative(x: np.ndarray, y: np.ndarray) -> float:
        return robustness.relative_change(x.mean(), y.mean())

    def rsg(a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray) -> float:
        return robustness.delta_rsg(a.mean(), c.mean(), b.mean(), d.mean())

    def vulnerability(a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray) -> float:
        return robustness.vuln_add(a.mean(), c.mean(), b.mean(), d.mean())

    pairs = [
        (
            sig.accuracy_difference_interval(a, b, draws=20_000),
            sig.paired_bootstrap(lambda x, y: y.mean() - x.mean(), (a, b), draws=2000),
        ),
        (sig.relative_change_interval(a, b, draws=20_000), sig.paired_bootstrap(relative, (a, b), draws=2000)),
        (
            sig.rsg_difference_interval((a, b), (c, d), draws=20_000),
            sig.bootstrap(rsg, [(a, b), (c, d)], draws=2000),
        ),
        (
            sig.vuln_add_interval((a, b), (c, d), draws=20_000),
            sig.bootstrap(vulnerability, [(a, b), (c, d)], draws=2000),
        ),
    ]
    for cells, index in pairs:
        assert cells.delta == pytest.approx(index.delta, abs=1e-12)
        assert cells.low == pytest.approx(index.low, abs=0.015)
        assert cells.high == pytest.approx(index.high, abs=0.015)


def test_paired_bootstrap_equals_scipys() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=200)
    y = x + rng.normal(0.1, 0.5, size=200)
    reference = scipy_bootstrap(
        (x, y), lambda x, y: np.median(y) - np.median(x), paired=True, method="percentile", n_resamples=2000, rng=1,
        vectorized=False,
    ).confidence_interval  # fmt: skip
    ours = sig.paired_bootstrap(lambda x, y: float(np.median(y) - np.median(x)), (x, y), draws=2000)
    assert ours.low == pytest.approx(reference.low, abs=0.03)
    assert ours.high == pytest.approx(reference.high, abs=0.03)


def test_ece_difference_equals_the_index_bootstrap_draw_by_draw() -> None:
    rng = np.random.default_rng(0)
    conf_a, conf_b = rng.random(250), rng.random(250)
    hit_a, hit_b = rng.random(250) < conf_a, rng.random(250) < conf_b * 0.8

    def difference(ca: np.ndarray, ha: np.ndarray, cb: np.ndarray, hb: np.ndarray) -> float:
        return calibration.ece(cb, hb) - calibration.ece(ca, ha)

    fast = sig.ece_difference_interval(conf_a, hit_a, conf_b, hit_b, draws=500, seed=3)
    slow = sig.paired_bootstrap(difference, (conf_a, hit_a, conf_b, hit_b), draws=500, seed=3)
    assert (fast.delta, fast.low, fast.high, fast.p) == pytest.approx((slow.delta, slow.low, slow.high, slow.p))


@pytest.mark.parametrize("convention", ["ood_positive", "id_positive"])
def test_fpr95_error_is_the_spread_of_repeated_experiments(convention: str) -> None:
    """The mean closed-form error against the standard deviation of the difference itself, over fresh samples."""
    rule = detection.fpr95_ood_positive if convention == "ood_positive" else detection.fpr95_id_positive
    rng, deltas, errors = np.random.default_rng(5), [], []
    for _ in range(400):
        inside, outside = rng.normal(2, 1, 800), rng.normal(0, 1, 600)
        other = inside + rng.normal(0, 0.4, 800), outside + rng.normal(0.2, 0.4, 600)
        found = sig.fpr95_difference_interval((inside, outside), other, convention)
        assert found.delta == rule(*other) - rule(inside, outside)
        deltas.append(found.delta)
        errors.append((found.high - found.low) / (2 * norm.ppf(0.975)))
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(np.std(deltas, ddof=1), rel=0.12)


def test_clustered_bootstrap_equals_resampling_rows() -> None:
    rng = np.random.default_rng(0)
    a = rng.random((60, 12)) < rng.random((60, 1))
    b = a & (rng.random((60, 12)) < 0.9)
    errors = {"x": (0, 6), "y": (6, 12)}

    def mce(acc_a: np.ndarray, acc_b: np.ndarray) -> float:
        own, reference = ({k: 1 - acc[lo:hi] for k, (lo, hi) in errors.items()} for acc in (acc_b, acc_a))
        return robustness.mean_corruption_error(own, reference) - 1.0

    fast = sig.clustered_bootstrap(mce, a, b, draws=300, seed=1)
    slow = sig.paired_bootstrap(lambda x, y: mce(x.mean(0), y.mean(0)), (a, b), draws=300, seed=1)
    assert (fast.delta, fast.low, fast.high, fast.p) == pytest.approx((slow.delta, slow.low, slow.high, slow.p))


def test_clustering_widens_the_interval_of_correlated_variants() -> None:
    rng = np.random.default_rng(0)
    a = np.repeat(rng.random((300, 1)) < 0.7, 75, axis=1)
    b = np.repeat(rng.random((300, 1)) < 0.7, 75, axis=1)
    clustered = sig.clustered_difference_interval(a, b, draws=1000)
    naive = sig.accuracy_difference_interval(a.ravel(), b.ravel())
    ratio = (clustered.high - clustered.low) / (naive.high - naive.low)
    assert ratio == pytest.approx(np.sqrt(75), rel=0.1)


@pytest.mark.parametrize("seed", range(4))
def test_selective_prediction_equals_its_definition(seed: int) -> None:
    """Geifman's AURC without ties; with ties the mean over all orders of the tied samples, enumerated."""
    rng = np.random.default_rng(seed)
    confidence, correct = rng.random(50), rng.random(50) < 0.7
    errors = ~correct[np.argsort(-confidence)]
    risks = [errors[: k + 1].mean() for k in range(50)]
    assert selective.aurc(confidence, correct) == pytest.approx(np.mean(risks), abs=1e-14)
    np.testing.assert_allclose(selective.risk_coverage(confidence, correct).risk, risks, atol=1e-14)
    assert selective.accuracy_at_coverage(confidence, correct, 0.9) == pytest.approx(1 - risks[44], abs=1e-14)

    tied = np.array([0.9, 0.5, 0.5, 0.5, 0.2])
    hits = rng.random(5) < 0.5
    orders = [[0, *middle, 4] for middle in itertools.permutations([1, 2, 3])]
    areas = [np.mean([(~hits[order][: k + 1]).mean() for k in range(5)]) for order in orders]
    assert selective.aurc(tied, hits) == pytest.approx(np.mean(areas), abs=1e-14)


def test_auroc_of_a_perfectly_separating_model_needs_the_bootstrap() -> None:
    inside, outside = np.arange(5.0) + 10, np.arange(5.0)
    assert roc_auc_score([1] * 5 + [0] * 5, np.r_[inside, outside]) == 1.0
    result = sig.bootstrap(
        lambda ia, ib, oa, ob: detection.auroc(ib, ob) - detection.auroc(ia, oa),
        [(inside, -inside), (outside, -outside)],
        draws=100,
    )
    assert (result.delta, result.low, result.high) == (-1.0, -1.0, -1.0)
