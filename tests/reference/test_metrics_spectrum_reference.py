"""The spectrum against a full singular value decomposition (NumPy, torch) and hand-built rotations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import entropy

from benchmark.metrics import spectrum


@pytest.fixture(scope="module")
def data() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    decay = np.exp(-np.arange(40) / 6.0)
    rotation, _ = np.linalg.qr(rng.normal(size=(40, 40)))
    x = ((rng.normal(size=(700, 40)) * decay + np.eye(40)[0]) @ rotation).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    q = x + rng.normal(scale=0.01, size=x.shape).astype(np.float32)
    return {"x": x, "q": q}


def basis_of(features: np.ndarray) -> spectrum.EigenBasis:
    gram = spectrum.GramAccumulator(features.shape[1])
    for start in range(0, len(features), 37):
        gram.update(features[start : start + 37])
    return gram.eigen()


def test_the_basis_equals_the_svd(data: dict[str, np.ndarray]) -> None:
    basis = basis_of(data["x"])
    _, sigma, vectors = torch.linalg.svd(torch.tensor(data["x"].astype(np.float64)), full_matrices=False)
    np.testing.assert_allclose(basis.singular_values, sigma.numpy(), rtol=1e-8)
    overlap = np.abs(np.sum(basis.vectors * vectors.numpy().T, axis=0))
    np.testing.assert_allclose(overlap, 1.0, atol=1e-9)
    np.testing.assert_allclose(basis.vectors.T @ basis.vectors, np.eye(40), atol=1e-12)


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


def test_bands_rebuild_the_features(data: dict[str, np.ndarray]) -> None:
    basis = basis_of(data["x"])
    bands = [basis.band(low, high) for low, high in ((0, 8), (8, 24), (24, None))]
    np.testing.assert_allclose(sum(data["x"] @ columns @ columns.T for columns in bands), data["x"], atol=1e-12)
