"""Orthogonal matrices that spread outliers: Hadamard where one exists, a seeded random rotation elsewhere."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from benchmark.quantization.linear import Transform


@lru_cache(maxsize=64)
def hadamard(order: int) -> Tensor | None:
    """Hadamard matrix (order, order) of +-1 in float64, or None where this construction has none.

    Sylvester doubling of order 1 or of Paley's matrices of order q + 1 (prime q = 3 mod 4) and 2 (q + 1) (prime
    q = 1 mod 4). Source: Paley, "On orthogonal matrices", 1933.
    """
    power = order & -order
    if power == order:
        return _sylvester(order)
    for core in (order // 2**k for k in range(power.bit_length())):
        base = _paley(core)
        if base is not None:
            return torch.kron(_sylvester(order // core), base)
    return None


def _sylvester(order: int) -> Tensor:
    """The matrix of +-1 for a power of two."""
    pair = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    base = torch.ones(1, 1, dtype=torch.float64)
    for _ in range(order.bit_length() - 1):
        base = torch.kron(pair, base)
    return base


def _paley(order: int) -> Tensor | None:
    if order % 4:
        return None
    q = order - 1
    if _is_prime(q) and q % 4 == 3:
        skew = _bordered(q, -1)
        return torch.eye(order, dtype=torch.float64) + skew
    q = order // 2 - 1
    if _is_prime(q) and q % 4 == 1:
        conference = _bordered(q, 1)
        plus = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
        minus = torch.tensor([[1.0, -1.0], [-1.0, -1.0]], dtype=torch.float64)
        return torch.kron(conference, plus) + torch.kron(torch.eye(q + 1, dtype=torch.float64), minus)
    return None


def _bordered(q: int, sign: int) -> Tensor:
    """Paley's core of quadratic residues mod q with a border of ones (first column times `sign`)."""
    squares = {i * i % q for i in range(1, q)}
    character = torch.tensor([0.0] + [1.0 if i in squares else -1.0 for i in range(1, q)], dtype=torch.float64)
    index = (torch.arange(q).unsqueeze(0) - torch.arange(q).unsqueeze(1)) % q
    bordered = torch.zeros(q + 1, q + 1, dtype=torch.float64)
    bordered[1:, 1:] = character[index]
    bordered[0, 1:], bordered[1:, 0] = 1, sign
    return bordered


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % d for d in range(2, math.isqrt(number) + 1))


def factors(size: int) -> tuple[Tensor, Tensor]:
    """Orthonormal left (a, a) and right (b, b) float64 whose Kronecker product rotates `size` = a * b features.

    The product costs a + b multiplications per feature instead of a * b. Both are Hadamard; where the odd part of the
    size has no Hadamard matrix, `left` is a random orthogonal matrix seeded by its size, so that features still mix.
    """
    power = size & -size
    odd = size // power
    shared = [2**k for k in range(power.bit_length())]
    choices = [(left, right) for right in shared if (left := hadamard(size // right)) is not None]
    if choices:
        left, right = min(choices, key=lambda pair: len(pair[0]) + pair[1])
        return left / math.sqrt(len(left)), _sylvester(right) / math.sqrt(right)
    return random_orthogonal(odd), _sylvester(power) / math.sqrt(power)


@lru_cache(maxsize=16)
def random_orthogonal(size: int) -> Tensor:
    """Haar-distributed orthogonal matrix (size, size) float64, the same for every call with this size."""
    generator = torch.Generator().manual_seed(size)
    gaussian = torch.randn(size, size, dtype=torch.float64, generator=generator)
    q, r = torch.linalg.qr(gaussian)
    rotation: Tensor = q * r.diagonal().sign()
    return rotation


class Rotation(Transform):
    """x -> x R with R = (diag(s) left) kron (diag(t) right): orthonormal, applied in two small products.

    Args:
        size: number of features.
        seed: of the random signs s and t, which keep a constant input from gathering in one feature.
    """

    left: Tensor
    right: Tensor

    def __init__(self, size: int, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        for name, matrix in zip(("left", "right"), factors(size), strict=True):
            signs = torch.randint(0, 2, (len(matrix), 1), generator=generator) * 2 - 1
            self.register_buffer(name, (signs * matrix).float().contiguous())

    @property
    def packed_bits(self) -> int:
        """One sign a row: the matrices themselves follow from the size."""
        return len(self.left) + len(self.right)

    def forward(self, x: Tensor) -> Tensor:
        """Rotate the last dimension."""
        folded = x.reshape(-1, len(self.left), len(self.right)) @ self.right
        return torch.matmul(self.left.t(), folded).reshape(x.shape)

    def rotate(self, weight: Tensor) -> Tensor:
        """weight (O, K) @ R, computed in float64."""
        left, right = self.left.double(), self.right.double()
        folded = weight.double().reshape(-1, len(left), len(right))
        return torch.matmul(left.t(), folded @ right).reshape(weight.shape)

    def undo(self, weight: Tensor) -> Tensor:
        """`unrotate`."""
        return self.unrotate(weight)

    def unrotate(self, weight: Tensor) -> Tensor:
        """weight (O, K) @ R^T, computed in float64."""
        left, right = self.left.double(), self.right.double()
        folded = weight.double().reshape(-1, len(left), len(right))
        return torch.matmul(left, folded @ right.t()).reshape(weight.shape)
