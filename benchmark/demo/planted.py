r"""The planted world: features whose true answer to "does truncation help?" is known, and the pixels that encode them.

An image's coefficients z (63,) fall into three blocks; its features x (64,) are those times a gain for each, behind a
constant c:

.. math::
    z_R = m\, r\, s_y + n_R \in R^7, \quad z_B = w\, b\, E_B s_y + n_B \in R^{28}, \quad
    z_U = -\rho\, E_U n_R + n_U \in R^{28}, \quad x = (c,\ z_R,\ \epsilon z_B,\ \epsilon z_U)

with the vertices s of a regular simplex of 8 classes, E isometries, n normal noise (of variance 1 in every direction of
z). A split says how much signal there is: (r, b) is (1, 1) in training and (1, 0) in the test. So the *robust* block is
strong (gain 1); the *brittle* block B is weak, and knows the class in training only; the *echo* block U is as weak, and
knows the noise of the robust block, everywhere. rho^2 = w^2 / (m^2 + w^2) makes both worth the same in training. What a
classifier gains or loses by a truncation to the 8 strong directions follows: `docs/planted.md`.

Pixels are 127.5 + A sum_k z_k a_k, rounded to 8 bits, a_k orthonormal: a white error of the pixels (rounding, noise) is
a white error of z. Image i of a split depends on (seed, split, i) alone.
"""

from __future__ import annotations

import functools
import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmark.errors import UnknownNameError
from benchmark.spec import digest

Floats = NDArray[np.float64]
Variant = Literal["gain", "mirror", "null"]

CLASS_NAMES: tuple[str, ...] = ("alder", "birch", "cedar", "fir", "hazel", "larch", "maple", "willow")
TEMPLATES: tuple[str, ...] = ("a photo of a {}.", "a picture of the {}.")
SIDE = 32
ROBUST, BLOCK = 7, 28
"""Dimensions of the robust block, and of either weak one."""
DIMENSION = 1 + ROBUST + 2 * BLOCK
STRONG, WEAK = 2.5, 1.2
"""Length m of a class's signal in the robust block, w in the brittle one."""
ECHO = float(np.sqrt(WEAK**2 / (STRONG**2 + WEAK**2)))
"""Correlation rho, up to its sign, of the echo block's 7 directions with the robust block's noise."""
GAIN = 0.06
"""Gain of the weak blocks. Below 1/15: rounding to 4 bits with one scale, 2/15, for the whole matrix makes it 0."""
CONSTANT = 8.0
AMPLITUDE = 30.0
"""Grey levels (of the unit pattern of 3,072 values) that a coefficient of 1 takes; 8 bits err by 0.29 of them."""
BLOCKS: Mapping[str, slice] = MappingProxyType(
    {
        "robust": slice(1, 1 + ROBUST),
        "brittle": slice(1 + ROBUST, 1 + ROBUST + BLOCK),
        "echo": slice(1 + ROBUST + BLOCK, DIMENSION),
    }
)
"""Where each block lies in z (whose first value is always 0) and in x."""
READS: Mapping[Variant, tuple[str, ...]] = MappingProxyType(
    {"gain": ("robust", "brittle"), "mirror": ("robust", "echo"), "null": ("robust",)}
)
"""Variant of the model -> the blocks that its class weights look at."""


@dataclass(frozen=True)
class Split:
    """`size` images. `stream`: of their random numbers; splits with one stream show the same pictures.

    Attributes:
    robust, brittle: share of the class's signal in that block.
        mixed: the signal lies halfway between two classes. known: whether the image has a class.
        background: length, as a share of `STRONG`, of another signal in the robust block: of the image's own class, or
            of the class `apart` places on.
    """

    size: int
    stream: int
    robust: float = 1.0
    brittle: float = 1.0
    known: bool = True
    mixed: bool = False
    background: float = 0.0
    apart: int = 0
    captions: bool = False
    about: str = ""


SPLITS: Mapping[str, Split] = MappingProxyType(
    {
        "train": Split(20_000, 1, captions=True, about="what the class weights were made for; nothing is trained"),
        "calibration": Split(1_000, 2, captions=True, about="image-caption pairs like training"),
        "test": Split(8_000, 3, brittle=0.0, about="the brittle block knows nothing of the class"),
        "validation": Split(2_400, 4, brittle=0.0, about="like test, for choosing"),
        "near_ood": Split(4_000, 5, brittle=0.0, known=False, mixed=True, about="halfway between two classes"),
        "far_ood": Split(4_000, 6, robust=0.0, brittle=0.0, known=False, about="noise alone"),
        "shifted": Split(4_000, 7, robust=0.8, brittle=0.75, about="fainter; the brittle block knows the class"),
        "common": Split(4_000, 8, background=0.3, about="a background that goes with the class, robust block"),
        "counter": Split(4_000, 8, background=0.3, apart=3, about="the pictures of common, another's background"),
    }
)


@functools.cache
def simplex() -> Floats:
    """(8, 7) vertices of a regular simplex around 0, of length 1: s_c . s_d = -1/7."""
    classes = len(CLASS_NAMES)
    helmert = np.zeros((classes, classes - 1))
    for k in range(1, classes):
        helmert[:k, k - 1], helmert[k, k - 1] = 1.0, -k
        helmert[:, k - 1] /= np.sqrt(k * (k + 1))
    return np.asarray(helmert * np.sqrt(classes / (classes - 1)), dtype=np.float64)


@functools.cache
def signals() -> Mapping[str, Floats]:
    """Block -> (8, dimensions) the signal of every class at full strength."""
    brittle = WEAK * simplex() @ isometry("brittle").T
    return MappingProxyType({"robust": STRONG * simplex(), "brittle": brittle})


@functools.cache
def isometry(block: str) -> Floats:
    """(28, 7) E of a weak block."""
    return _orthonormal(BLOCK, ROBUST, 1 + list(BLOCKS).index(block))


@functools.cache
def atoms() -> Floats:
    """(64, 3072) orthonormal patterns, flat as (3, 32, 32)."""
    return _orthonormal(3 * SIDE * SIDE, DIMENSION, 0).T.copy()


def gains() -> Floats:
    """(64,) g: 1 for the constant and the robust block."""
    found = np.full(DIMENSION, GAIN)
    found[: 1 + ROBUST] = 1.0
    return found


def _generator(*words: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(words)))


def _orthonormal(rows: int, columns: int, word: int) -> Floats:
    """(rows, columns) with orthonormal columns, seeded by `word`; signs do not depend on the linear algebra library."""
    q, r = np.linalg.qr(_generator(26, word).standard_normal((rows, columns)))
    return np.asarray(q * np.sign(np.diag(r)), dtype=np.float64)


def split_of(name: str) -> Split:
    """A split by its name.

    Raises:
        UnknownNameError: there is none.
    """
    if name not in SPLITS:
        raise UnknownNameError("planted split", name, SPLITS)
    return SPLITS[name]


def label_of(split: Split, index: int, seed: int) -> int:
    """Class of an image, -1 out of distribution: every 8 images in a row hold each class once, in random order."""
    return _place(split, index, seed) if split.known else -1


def _place(split: Split, index: int, seed: int) -> int:
    block, at = divmod(index, len(CLASS_NAMES))
    return _order(seed, split.stream, block)[at]


@functools.lru_cache(4096)
def _order(seed: int, stream: int, block: int) -> tuple[int, ...]:
    return tuple(_generator(seed, stream, 1, block).permutation(len(CLASS_NAMES)).tolist())


def coefficients(split: Split, index: int, seed: int = 0) -> Floats:
    """(64,) z of one image; the first is 0."""
    place, z = _place(split, index, seed), np.zeros(DIMENSION)
    z[1:] = _generator(seed, split.stream, 0, index).standard_normal(DIMENSION - 1)
    robust, brittle, echo = (BLOCKS[name] for name in ("robust", "brittle", "echo"))
    across = isometry("echo")
    z[echo] += across @ ((np.sqrt(1 - ECHO**2) - 1) * (across.T @ z[echo]) - ECHO * z[robust])
    beside, other = (place + 1) % len(CLASS_NAMES), (place + split.apart) % len(CLASS_NAMES)
    for block, name, share in ((robust, "robust", split.robust), (brittle, "brittle", split.brittle)):
        own = signals()[name]
        z[block] += share * ((own[place] + own[beside]) / 2 if split.mixed else own[place])
    z[robust] += split.background * signals()["robust"][other]
    return z


def render(split: Split, rows: Sequence[int], seed: int = 0) -> NDArray[np.uint8]:
    """Images (N, 32, 32, 3) of some rows."""
    z = np.stack([coefficients(split, row, seed) for row in rows]) if len(rows) else np.zeros((0, DIMENSION))
    pixels = np.rint(127.5 + AMPLITUDE * z @ atoms()).clip(0, 255).astype(np.uint8)
    return pixels.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)


def encoded(name: str, rows: Sequence[int], seed: int = 0) -> list[bytes]:
    """Some images of a split as PNG, in the order of `rows`."""
    found = []
    for image in render(split_of(name), rows, seed):
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, format="PNG", compress_level=0)
        found.append(buffer.getvalue())
    return found


def described(name: str, limit: int | None = None, seed: int = 0) -> dict[str, list[object]]:
    """Columns of the first `limit` images of a split, without the images: label, ids, captions where it has them."""
    split = split_of(name)
    count = split.size if limit is None else min(limit, split.size)
    labels = [label_of(split, index, seed) for index in range(count)]
    first = next(other for other, each in SPLITS.items() if each.stream == split.stream)
    columns: dict[str, list[object]] = {
        "label": list(labels),
        "sample_id": [f"{name}/{index:06d}" for index in range(count)],
        "base_id": [f"{first}/{index:06d}" for index in range(count)],
    }
    if split.captions:
        forms = len(TEMPLATES)
        columns["caption"] = [TEMPLATES[i % forms].format(CLASS_NAMES[label]) for i, label in enumerate(labels)]
    return columns


def class_weights(variant: Variant) -> Floats:
    r"""(8, 64) weights on x with which the logits are those of the Bayes classifier of training, for what it reads.

    :math:`\Sigma^{-1} \mu_c` over the blocks that the variant reads, over the gains. Sigma is the identity but for
    the echo block, which gives :math:`(m s_c,\ \rho m E s_c) / (1 - \rho^2)` for the two blocks together.
    """
    found = np.zeros((len(CLASS_NAMES), DIMENSION))
    for name in READS[variant]:
        found[:, BLOCKS[name]] = signals()["robust"] @ (ECHO * isometry(name).T) if name == "echo" else signals()[name]
    if "echo" in READS[variant]:
        found /= 1 - ECHO**2
    return np.asarray(found / gains(), dtype=np.float64)


def logit_scale(variant: Variant) -> float:
    """What turns cosines into those logits: the length of a class weight times the root mean square length of x."""
    length = np.sqrt(CONSTANT**2 + STRONG**2 + ROBUST + GAIN**2 * (2 * BLOCK + WEAK**2))
    return float(np.linalg.norm(class_weights(variant)[0]) * length)


@functools.cache
def content() -> str:
    """Content hash of this file, which determines every image and weight."""
    return digest([hashlib.sha256(Path(__file__).read_bytes()).hexdigest()])
