"""Renderer and data sets of the demo: a coloured shape on a textured background, 64 x 64 RGB.

Image i of a split depends on (the split's seed, i) alone, so that a limit gives a prefix of the same images, and the
labels of any prefix are balanced to within one. Drawing is plain NumPy (PCG64 streams), anti-aliased by the shapes'
implicit functions; on other processors single grey levels may differ by rounding.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Mapping, Sequence
from importlib.metadata import distribution
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmark.demo.catalogue import (
    BACKGROUNDS,
    CLASS_NAMES,
    COLOUR_NAMES,
    COLOURS,
    DIGIT_NAMES,
    DIGIT_TEMPLATES,
    HELD_OUT,
    SEEN,
    SHAPE_NAMES,
    SPLITS,
    TEMPLATES,
    UNSEEN_NAMES,
    Split,
    Style,
    home_background,
)
from benchmark.demo.shapes import SHAPES, UNSEEN_SHAPES, Plane, Shape, as_plane
from benchmark.demo.textures import BACKGROUND_PATTERNS, FAR_PATTERNS, GRID_X, GRID_Y, SIDE, far_texture
from benchmark.errors import InputError, UnknownNameError

if TYPE_CHECKING:
    import datasets

__all__ = [
    "BACKGROUNDS",
    "CLASS_NAMES",
    "DIGIT_NAMES",
    "DIGIT_TEMPLATES",
    "HELD_OUT",
    "SPLITS",
    "TEMPLATES",
    "dataset",
    "described",
    "encoded",
    "render",
    "render_split",
]

Images = NDArray[np.uint8]
Ints = NDArray[np.int64]

_PALETTE = np.array(list(COLOURS.values()), np.float32)
_IMAGE, _LABELS, _DIGITS, _SCENERY = 0, 1, 2, 3  # second words of the seeds: what a stream of numbers is for


def _generator(*words: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(words)))


def _between(rng: np.random.Generator, limits: tuple[float, float]) -> np.float32:
    return np.float32(rng.uniform(*limits))


def split_labels(split: Split, count: int) -> Ints:
    """Blockwise shuffled labels: each block of len(classes) images holds every class once; -1 out of distribution."""
    if split.content not in ("seen", "all"):
        return np.full(count, -1, np.int64)
    classes = np.array(SEEN if split.content == "seen" else range(len(CLASS_NAMES)), np.int64)
    blocks = -(-count // len(classes))
    order = [_generator(split.seed, _LABELS, block).permutation(classes) for block in range(blocks)]
    return np.concatenate([np.empty(0, np.int64), *order])[:count]


def _distance(rng: np.random.Generator, shape: Shape, style: Style) -> Plane:
    """Signed distance to the shape's edge in pixels, negative inside: float32 (64, 64)."""
    radius = _between(rng, style.radius)
    centre = rng.uniform(-style.offset, style.offset, 2).astype(np.float32)
    angle = np.float32(np.deg2rad(rng.uniform(-style.tilt, style.tilt)))
    stretch = np.float32(np.exp(rng.uniform(-style.stretch, style.stretch)))
    cosine, sine = np.cos(angle), np.sin(angle)
    across, up = GRID_X - centre[0], GRID_Y - centre[1]
    x = (cosine * across + sine * up) / (radius * stretch)
    y = (cosine * up - sine * across) * (stretch / radius)
    return (shape(x, y) * radius).astype(np.float32)


def _background(rng: np.random.Generator, background: int, style: Style) -> Plane:
    """A muted two-tone pattern: float32 (64, 64, 3)."""
    weights = list(BACKGROUND_PATTERNS.values())[background](rng)
    base = rng.uniform(60, 195) + rng.normal(0, 18, 3)
    step = _between(rng, style.pattern_strength) * np.float32(rng.choice((-1.0, 1.0)))
    tint = (step + rng.normal(0, 10, 3) * (abs(step) > 0)).astype(np.float32)
    if style.paper:
        base, tint = 228 + 0.15 * (base - 128), tint * np.float32(0.2)
    return base.astype(np.float32) + (weights - np.float32(0.5))[..., None] * tint


def _coverage(distance: Plane, style: Style) -> Plane:
    """Share of each pixel's colour that is the shape's: all of it inside, for outlines only under the stroke."""
    inside = as_plane(np.clip(np.float32(0.5) - distance, 0, 1))
    if style.fill != "outline":
        return inside
    within = np.clip(np.float32(0.5 - style.stroke) - distance, 0, 1)
    return as_plane(inside - np.float32(1 - style.wash) * within)


def _paint(rng: np.random.Generator, colour: int, style: Style) -> Plane:
    """The shape's colour at every pixel, float32 (64, 64, 3) or (3,): jittered, shaded, perhaps patterned."""
    paint = _PALETTE[colour] * np.float32(rng.uniform(0.78, 1.12)) + rng.normal(0, style.colour_jitter, 3)
    paint = np.clip(paint, 0, 255).astype(np.float32)
    if style.fill != "pattern":
        return as_plane(paint)
    pattern = list(BACKGROUND_PATTERNS.values())[int(rng.integers(4))](rng)
    return as_plane(paint * (1 - np.float32(0.55) * pattern[..., None]))


def _finish(rng: np.random.Generator, image: Plane, style: Style) -> Images:
    """Light falling from one side, contrast, sensor noise, and rounding to uint8."""
    slope = rng.uniform(-0.18, 0.18, 2).astype(np.float32) / np.float32(SIDE / 2)
    light = 1 + slope[0] * GRID_X + slope[1] * GRID_Y
    contrast = _between(rng, style.contrast)
    middle = np.float32(rng.uniform(90, 160))
    image = middle + contrast * (image * light[..., None] - middle)
    grain = rng.standard_normal((SIDE, SIDE, 3), dtype=np.float32)
    return np.clip(np.rint(image + _between(rng, style.noise) * grain), 0, 255).astype(np.uint8)


def _choose_background(rng: np.random.Generator, home: int, home_share: float) -> int:
    """`home` with probability `home_share`, else one of the other five; takes two draws either way."""
    luck, step = rng.random(), int(rng.integers(1, len(BACKGROUNDS)))
    return home if luck < home_share else (home + step) % len(BACKGROUNDS)


def render_split(split: Split, limit: int | None = None) -> tuple[Images, Ints, Ints | None]:
    """Draw the first `limit` images of a split (all without a limit); see `render`."""
    labels, groups = describe_split(split, limit)
    if split.content == "digits":
        return _digit_images(train=split.captions)[: len(labels)], labels, None
    images = np.empty((len(labels), SIDE, SIDE, 3), np.uint8)
    for index, label in enumerate(labels.tolist()):
        images[index] = draw(split, index, label).image
    return images, labels, groups


def describe_split(
    split: Split, limit: int | None = None, backgrounds: NDArray[np.uint8] | None = None
) -> tuple[Ints, Ints | None]:
    """Labels and groups of the first `limit` images, as `render_split` gives them; nothing is drawn.

    Args:
        backgrounds: those of the whole split, where they are known.
    """
    if limit is not None and limit < 1:
        raise InputError(f"limit must be at least 1, got {limit}")
    count = split.size if limit is None else min(limit, split.size)
    if split.content == "digits":
        return _digits(train=split.captions)[1][:count], None
    labels = split_labels(split, count)
    if split.content == "far":
        return labels, None
    if backgrounds is not None:
        return labels, backgrounds[:count].astype(np.int64)
    return labels, np.array([_cast(split, i, label).background for i, label in enumerate(labels.tolist())], np.int64)


class Drawing(NamedTuple):
    """One image, the background it shows, and the signed distance to the shape's edge in pixels (None: no shape)."""

    image: Images
    background: int
    distance: Plane | None


class Cast(NamedTuple):
    """What stands where: shape, colour and background of one image, and the stream for all that follows."""

    rng: np.random.Generator
    shape: Shape
    colour: int
    background: int


def _cast(split: Split, index: int, label: int) -> Cast:
    """The first draws of image `index` of a split of scenes."""
    rng = _generator(split.seed, _IMAGE, index)
    if split.content == "near":
        kind, colour = index % len(UNSEEN_NAMES), int(rng.integers(len(COLOUR_NAMES)))
        shape, home = UNSEEN_SHAPES[UNSEEN_NAMES[kind]], int(rng.integers(len(BACKGROUNDS)))
    else:
        kind, colour = divmod(label, len(COLOUR_NAMES))
        shape, home = SHAPES[SHAPE_NAMES[kind]], home_background(label)
    return Cast(rng, shape, colour, _choose_background(rng, home, split.home_share))


def draw(split: Split, index: int, label: int) -> Drawing:
    """Image `index` of a split of scenes or textures; `label` is its class, ignored out of distribution."""
    style = split.style
    if split.content == "far":
        rng = _generator(split.seed, _IMAGE, index)
        texture = far_texture(rng, list(FAR_PATTERNS)[index % len(FAR_PATTERNS)])
        return Drawing(_finish(rng, texture, style), 0, None)
    rng, shape, colour, background = _cast(split, index, label)
    # The scenery has a stream of its own, so that `common` and `counter` differ in nothing but the background.
    plane = _background(_generator(split.seed, _SCENERY, index), background, style)
    distance = _distance(rng, shape, style)
    cover = _coverage(distance, style)[..., None]
    image = _finish(rng, plane + cover * (_paint(rng, colour, style) - plane), style)
    return Drawing(image, background, distance)


@functools.cache
def _digits(train: bool) -> tuple[NDArray[np.float64], Ints]:
    """One part of scikit-learn's 1,797 handwritten digits: 8 x 8 values from 0 to 16 a row, and labels."""
    # The table of `sklearn.datasets.load_digits`, from its file: importing scikit-learn takes most of a second.
    file = distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")
    table = np.loadtxt(str(file), delimiter=",")
    order = _generator(SPLITS["digits"].seed, _DIGITS).permutation(len(table))
    size = SPLITS["digits_train"].size
    chosen = order[:size] if train else order[size:]
    return table[chosen, :-1], table[chosen, -1].astype(np.int64)


@functools.cache
def _digit_images(train: bool) -> Images:
    """The images of `_digits`, enlarged to 64 x 64 by linear interpolation."""
    place = np.clip((np.arange(SIDE) + 0.5) / (SIDE / 8) - 0.5, 0, 7)
    weights = np.maximum(0, 1 - np.abs(place[:, None] - np.arange(8)))
    large = weights @ (_digits(train)[0].reshape(-1, 8, 8) * (255 / 16)) @ weights.T
    return np.repeat(np.rint(large).astype(np.uint8)[..., None], 3, axis=3)


def _split(name: str) -> Split:
    if name not in SPLITS:
        raise UnknownNameError("demo data set", name, SPLITS)
    return SPLITS[name]


def render(name: str, limit: int | None = None) -> tuple[Images, Ints, Ints | None]:
    """Draw a split as plain arrays.

    Args:
        name: one of `SPLITS`.
        limit: draw only the first `limit` images, at least 1.

    Returns:
        images uint8 (N, 64, 64, 3) in sRGB; labels int64 (N,), indices into `CLASS_NAMES` (`DIGIT_NAMES` for the
        digits), -1 out of distribution; groups int64 (N,), indices into `BACKGROUNDS`, or None where there are none.

    Raises:
        UnknownNameError: for a name that is no split.
        InputError: for a limit below 1.
    """
    return render_split(_split(name), limit)


def _png(image: Images) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", compress_level=0)
    return buffer.getvalue()


def _scenes_of(name: str) -> str:
    """The first split with the same scenes: image i of splits with one seed shows the same scene."""
    split = SPLITS[name]
    if split.content == "digits":  # these share a seed to divide one set of digits between them
        return name
    return next(other for other, each in SPLITS.items() if each.seed == split.seed)


@functools.cache
def _backgrounds() -> Mapping[str, NDArray[np.uint8]]:
    """The backgrounds of all splits, written down: a generator for each image would take half of a second to ask."""
    with np.load(Path(__file__).with_name("backgrounds.npz"), allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


def _captions(split: Split, labels: Ints) -> list[str]:
    names, templates = (DIGIT_NAMES, DIGIT_TEMPLATES) if split.content == "digits" else (CLASS_NAMES, TEMPLATES)
    return [templates[index % len(templates)].format(names[label]) for index, label in enumerate(labels)]


def described(name: str, limit: int | None = None) -> dict[str, list[object]]:
    """The columns of a split without its images, by name; nothing is drawn. See `dataset`."""
    split = _split(name)
    labels, groups = describe_split(split, limit, _backgrounds().get(name))
    columns: dict[str, list[object]] = {
        "label": labels.tolist(),
        "sample_id": [f"{name}/{index:06d}" for index in range(len(labels))],
        "base_id": [f"{_scenes_of(name)}/{index:06d}" for index in range(len(labels))],
    }
    if groups is not None:
        columns["group"] = groups.tolist()
    if split.captions:
        columns["caption"] = list(_captions(split, labels))
    return columns


def encoded(name: str, rows: Sequence[int]) -> list[bytes]:
    """Some images of a split as PNG, in the order of `rows`; the others are not drawn."""
    split = _split(name)
    if split.content == "digits":
        images = _digit_images(train=split.captions)
        return [_png(images[row]) for row in rows]
    labels = split_labels(split, max(rows, default=0) + 1)
    return [_png(draw(split, row, int(labels[row])).image) for row in rows]


def dataset(name: str, limit: int | None = None) -> datasets.Dataset:
    """A split as a Hugging Face data set.

    Columns: `image` (PNG bytes, decoded to PIL on access), `label` int64 (-1: out of distribution), `sample_id` such
    as "test/000123", `base_id` (`counter` shows the scenes of `common`, so it has its ids), `group` int64 (index into
    `BACKGROUNDS`) where it has a meaning, and `caption` for splits made of image-caption pairs. Arguments and errors as
    for `render`.
    """
    import datasets

    columns = described(name, limit)
    features = {key: datasets.Value("int64" if key in ("label", "group") else "string") for key in columns}
    columns["image"] = [{"bytes": image, "path": None} for image in encoded(name, range(len(columns["label"])))]
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features | {"image": datasets.Image()}))
