"""The spectrum against a full singular value decomposition (NumPy, torch) and hand-built rotations."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
from scipy.stats import entropy

from benchmark.metrics import controls, scores, spectrum


@pytest.fixture(scope="module")
def data() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    decay = np.exp(-np.arange(40) / 6.0)
    rotation, _ = np.linalg.qr(rng.normal(size=(40, 40)))
    x = ((rng.normal(size=(700, 40)) * decay + np.eye(40)[0]) @ rotation).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    q = x + rng.normal(scale=0.01, size=x.shape).astype(np.float32)
    return {"x": x, "q": q, "text": rng.normal(size=(7, 40)), "labels": rng.integers(7, size=700)}


@pytest.mark.parametrize("center", [False, True])
def test_eigen_basis_equals_the_svd(data: dict[str, np.ndarray], center: bool) -> None:
    x = data["x"].astype(np.float64)
    basis = spectrum.eigen_basis(data["x"], center=center)
    mean = x.mean(0) if center else np.zeros(40)
    _, sigma, vectors = torch.linalg.svd(torch.tensor(x - mean), full_matrices=False)
    np.testing.assert_allclose(basis.singular_values, sigma.numpy(), rtol=1e-8)
    overlap = np.abs(np.sum(basis.vectors * vectors.numpy().T, axis=0))
    np.testing.assert_allclose(overlap, 1.0, atol=1e-9)
    np.testing.assert_allclose(basis.mean, mean, atol=1e-15)
    np.testing.assert_allclose(basis.vectors.T @ basis.vectors, np.eye(40), atol=1e-12)


def test_streaming_merging_and_stored_moments_give_the_same(data: dict[str, np.ndarray]) -> None:
    whole = spectrum.GramAccumulator(40)
    whole.update(data["x"])
    parts = [spectrum.GramAccumulator(40), spectrum.GramAccumulator(40)]
    for start in range(0, 700, 37):
        parts[start % 2].update(data["x"][start : start + 37])
    parts[0].merge(parts[1])
    stored = spectrum.GramAccumulator.from_moments(parts[0].gram, parts[0].sum, parts[0].count)
    assert stored.count == whole.count == 700
    np.testing.assert_allclose(stored.gram, whole.gram, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(stored.mean, whole.mean, rtol=1e-12)


@pytest.mark.parametrize("center", [False, True])
def test_sqnr_equals_its_formula_and_the_second_moments(data: dict[str, np.ndarray], center: bool) -> None:
    x, q = data["x"].astype(np.float64), data["q"].astype(np.float64)
    basis = spectrum.eigen_basis(x, center=center)
    expected = [
        10 * np.log10(np.sum(((x - basis.mean) @ v) ** 2) / np.sum(((q - x) @ v) ** 2)) for v in basis.vectors.T
    ]
    ours = spectrum.sqnr_db(data["x"], data["q"], basis)
    np.testing.assert_allclose(ours, expected, rtol=1e-9)
    assert ours[0] > ours[20] > ours[39]  # white noise drowns the weak directions
    from_moments = spectrum.sqnr_db_from_moments(x.T @ x, (q - x).T @ (q - x), basis)
    np.testing.assert_allclose(from_moments, expected, rtol=1e-6)


def test_effective_rank_and_energy(data: dict[str, np.ndarray]) -> None:
    sigma = np.linalg.svd(data["x"].astype(np.float64), compute_uv=False)
    assert spectrum.effective_rank(sigma) == pytest.approx(np.exp(entropy(sigma)), rel=1e-12)
    assert spectrum.effective_rank([3.0, 3.0, 3.0, 0.0]) == pytest.approx(3.0)
    assert spectrum.effective_rank([5.0, 0.0]) == pytest.approx(1.0)
    np.testing.assert_allclose(spectrum.energy_spectrum([3.0, 1.0]), [0.9, 0.1])


def test_subspace_angles_of_a_known_rotation() -> None:
    angle = 0.3
    turned = np.eye(5)[:, :2].copy()
    turned[:, 1] = np.cos(angle) * np.eye(5)[:, 1] + np.sin(angle) * np.eye(5)[:, 4]
    np.testing.assert_allclose(spectrum.subspace_angles(np.eye(5)[:, :2], turned), [0.0, angle], atol=1e-12)
    rng = np.random.default_rng(0)
    a, b = (np.linalg.qr(rng.normal(size=(20, 4)))[0] for _ in range(2))
    expected = np.sort(np.arccos(np.linalg.svd(a.T @ b, compute_uv=False)))
    np.testing.assert_allclose(spectrum.subspace_angles(a, b), expected, atol=1e-9)


def test_bands_rebuild_the_features_and_their_accuracies_equal_the_projection(data: dict[str, np.ndarray]) -> None:
    for center in (False, True):
        basis = spectrum.eigen_basis(data["x"], center=center)
        edges = ((0, 8), (8, 24), (24, None))
        parts = [spectrum.project_band(data["x"], basis, low, high) for low, high in edges]
        np.testing.assert_allclose(sum(parts) + basis.mean, data["x"], atol=1e-12)
        ours = spectrum.subspace_accuracy(data["x"], data["text"], data["labels"], basis, edges)
        for part, band in zip(parts, edges, strict=True):
            expected = np.mean((part @ data["text"].T).argmax(1) == data["labels"])
            assert ours[band] == expected
        truncated = controls.truncate_rank(data["x"], basis, 8)
        np.testing.assert_allclose(truncated, parts[0] + basis.mean, atol=1e-12)
        assert np.linalg.matrix_rank(truncated - basis.mean) == 8
    text = scores.normalise(data["text"])
    ours = spectrum.subspace_accuracy(data["x"], text, data["labels"], basis, ((0, 64), (64, None)))
    assert list(ours) == [(0, 64)]


def test_controls_match_what_they_copy(data: dict[str, np.ndarray]) -> None:
    x, q = data["x"].astype(np.float64), data["q"].astype(np.float64)
    basis = spectrum.eigen_basis(x)
    quantized = x + (q - x) @ basis.vectors * np.linspace(3, 0.1, 40) @ basis.vectors.T
    isotropic = controls.isotropic_noise_like(x, quantized, seed=1)
    lengths = np.linalg.norm(quantized - x, axis=1)
    np.testing.assert_allclose(np.linalg.norm(isotropic - x, axis=1), lengths, rtol=1e-10)
    wanted = np.sqrt(np.mean(((quantized - x) @ basis.vectors) ** 2, axis=0))
    flat = np.sqrt(np.mean(((isotropic - x) @ basis.vectors) ** 2, axis=0))
    shaped = np.sqrt(np.mean(((controls.shaped_noise_like(x, quantized, basis) - x) @ basis.vectors) ** 2, axis=0))
    np.testing.assert_allclose(shaped, wanted, rtol=0.12)
    assert flat[0] < 0.7 * wanted[0]
    assert flat[-1] > 2 * wanted[-1]
    np.testing.assert_array_equal(isotropic, controls.isotropic_noise_like(x, quantized, seed=1))
    assert not np.array_equal(isotropic, controls.isotropic_noise_like(x, quantized, seed=2))


def test_memory_does_not_grow_with_the_number_of_samples() -> None:
    def peak(samples: int) -> int:
        x = np.random.default_rng(0).random((samples, 64), dtype=np.float32)
        tracemalloc.start()
        spectrum.sqnr_db(x, x + np.float32(0.01), spectrum.eigen_basis(x))
        _, high = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return high - x.nbytes  # the copy x + 0.01 is the test's own

    assert peak(80_000) < 1.1 * peak(20_000)
