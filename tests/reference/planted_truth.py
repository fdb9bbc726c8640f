"""What is true of the planted model, without its code: one-dimensional integrals over the differences of scores.

With 8 classes at the vertices of a regular simplex and white noise the scores are those of independent noise, but for
what all classes share: accuracy = int phi(t) prod_j Phi(t + d_j) dt, d_j the gap to class j in deviations.
Block after block a classifier has a weight (a on R, c on the other block, along the classes' vertices).
"""

from __future__ import annotations

import math

import numpy as np

M, W, CLASSES = 2.5, 1.2, 8
RHO = math.sqrt(W**2 / (M**2 + W**2))
K = CLASSES / (CLASSES - 1)
T, STEP = np.linspace(-9, 9, 20_001, retstep=True)


def normal(x: np.ndarray) -> np.ndarray:
    return np.array([0.5 * math.erfc(-v / math.sqrt(2)) for v in x])


def accuracy(near: float, rest: float | None = None) -> float:
    """`near`: gap in standard deviations to one wrong class, `rest` to the other six (None: the same)."""
    rest = near if rest is None else rest
    density = np.exp(-(T**2) / 2) / math.sqrt(2 * math.pi)
    return float(np.sum(density * normal(T + near) * normal(T + rest) ** (CLASSES - 2)) * STEP)


def weights(variant: str, cut: bool) -> tuple[float, float]:
    """Bayes weights of training on (the robust block, the weak block); a cut leaves the first."""
    robust, weak = {
        "gain": (M, W),
        "mirror": (M / (1 - RHO**2), RHO * M / (1 - RHO**2)),
        "null": (M, 0.0),
    }[variant]
    return robust, 0.0 if cut else weak


def truth(variant: str, cut: bool, noise: float = 0.0) -> dict[str, float]:
    """Accuracies by split, and rsg. `noise`: standard deviation of further white noise of the coefficients."""
    a, c = weights(variant, cut)
    cross = -2 * RHO * a * c if variant == "mirror" else 0.0
    deviation = math.sqrt(K * ((a**2 + c**2) * (1 + noise**2) + cross))

    def gap(robust: float, brittle: float) -> float:
        """Of the right class's score to another's, over its standard deviation: signal lengths in R and in B."""
        return K * (a * robust + (c * brittle if variant == "gain" else 0.0)) / deviation

    common = accuracy(gap(1.3 * M, W))
    counter = accuracy(gap(M - 0.3 * M, W), gap(M, W))
    found = {"train": (M, W), "test": (M, 0.0), "shifted": (0.8 * M, 0.75 * W)}
    return {name: accuracy(gap(*lengths)) for name, lengths in found.items()} | {"rsg": (common - counter) / common}
