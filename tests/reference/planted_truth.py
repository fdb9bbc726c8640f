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


EPSILON, CONSTANT = 0.06, 8.0
_VALUES, _VECTORS = np.linalg.eigh(np.eye(CLASSES) - 1 / CLASSES)
VERTICES = _VECTORS[:, _VALUES > 0.5] * math.sqrt(K)
"""(8, 7) s, up to a rotation."""


def cosines(
    variant: str, cut: bool, robust: float, brittle: float, count: int, mixed: bool = False, lean: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """(N, 8) between features and class weights, and the classes (N,), drawn in the 14 directions that matter.

    `lean`: of a cut along the singular vectors of training in place of the axes, which multiplies the scores by 1.109.
    """
    rng = np.random.default_rng(11)
    label = rng.integers(CLASSES, size=count)
    signal = (VERTICES[label] + VERTICES[(label + 1) % CLASSES]) / 2 if mixed else VERTICES[label]
    noise, weak = rng.standard_normal((2, count, 7))
    strong = M * robust * signal + noise
    echo = variant == "mirror"
    weak = math.sqrt(1 - RHO**2) * weak - RHO * noise if echo else weak + W * brittle * signal
    rest = rng.chisquare(49, count) * (not cut)
    a, c = weights(variant, cut)
    scores = (a * strong + c * weak) @ VERTICES.T * (leaning(variant) if lean else 1.0)
    length = np.sqrt(CONSTANT**2 + (strong**2).sum(1) + EPSILON**2 * (rest + (weak**2).sum(1) * (not cut)))
    whole = weights(variant, False)
    return scores / length[:, None] / math.hypot(whole[0], whole[1] / EPSILON), label


def leaning(variant: str) -> float:
    """What a cut along singular vectors of training multiplies the scores by, as the strong ones lean."""
    return {"gain": 1 + W**2 / (7 + M**2), "mirror": 1 - 7 * RHO**2 / (7 + M**2), "null": 1.0}[variant]


def scale(variant: str) -> float:
    """The model's logit scale."""
    a, c = weights(variant, False)
    length = math.sqrt(CONSTANT**2 + M**2 + 7 + EPSILON**2 * (56 + W**2))
    return math.hypot(a, c / EPSILON) * length


def ece(cos: np.ndarray, label: np.ndarray, logit_scale: float) -> float:
    """15 bins, of so many samples that chance plays no part."""
    p = np.exp(logit_scale * (cos - cos.max(1, keepdims=True)))
    p /= p.sum(1, keepdims=True)
    confidence, right = p.max(1), p.argmax(1) == label
    bins = np.minimum((15 * confidence).astype(int), 14)
    return float(np.abs(np.bincount(bins, right - confidence, 15)).sum() / len(label))


def auroc(inside: np.ndarray, outside: np.ndarray) -> float:
    """Of the MCM score: the largest softmax of the cosines."""
    known, other = (np.sort(np.exp(c).max(1) / np.exp(c).sum(1)) for c in (inside, outside))
    return float(np.searchsorted(other, known).mean() / len(other))


def sampled(variant: str, cut: bool, count: int = 400_000, lean: bool = False) -> dict[str, float]:
    """ece_15 on the test, AUROC against far and near images."""
    test, label = cosines(variant, cut, 1.0, 0.0, count, lean=lean)
    far, near = (cosines(variant, cut, r, 0.0, count, mixed, lean)[0] for r, mixed in ((0.0, False), (1.0, True)))
    return {"ece_15": ece(test, label, scale(variant)), "far": auroc(test, far), "near": auroc(test, near)}


if __name__ == "__main__":
    print(
        f"{'':22}"
        + "".join(f"{name:>9}" for name in ("train", "test", "noise", "shifted", "rsg", "ece_15", "far", "near"))
    )
    for model in ("gain", "mirror", "null"):
        for what, short, leans in (("whole", False, False), ("cut", True, False), ("rank 8", True, True)):
            known = (
                truth(model, short) | {"noise": truth(model, short, 0.5)["test"]} | sampled(model, short, lean=leans)
            )
            order = ("train", "test", "noise", "shifted", "rsg", "ece_15", "far", "near")
            print(f"{model:7}{what:>15.15}" + "".join(f"{known[name]:9.3f}" for name in order))
