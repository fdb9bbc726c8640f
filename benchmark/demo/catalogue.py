"""What the demo scenes can show: the classes, their captions, and the splits with their seeds and styles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

from benchmark.demo.shapes import SHAPES, UNSEEN_SHAPES
from benchmark.demo.textures import BACKGROUND_PATTERNS

COLOURS: Mapping[str, tuple[int, int, int]] = MappingProxyType(
    {
        "red": (205, 45, 45),
        "orange": (236, 132, 40),
        "yellow": (236, 212, 62),
        "green": (62, 160, 70),
        "cyan": (70, 198, 204),
        "blue": (52, 84, 204),
        "purple": (138, 62, 172),
        "pink": (240, 132, 182),
    }
)
"""Colour name -> its mean sRGB value."""

SHAPE_NAMES: tuple[str, ...] = tuple(SHAPES)
COLOUR_NAMES: tuple[str, ...] = tuple(COLOURS)
BACKGROUNDS: tuple[str, ...] = tuple(BACKGROUND_PATTERNS)
"""The six backgrounds; a row's `group` is an index into them."""

CLASS_NAMES: tuple[str, ...] = tuple(f"{colour} {shape}" for shape in SHAPE_NAMES for colour in COLOUR_NAMES)
"""The 96 classes; label = 8 * shape + colour."""

HELD_OUT: tuple[int, ...] = tuple(8 * shape + (3 * shape + 1) % 8 for shape in range(len(SHAPE_NAMES)))
"""Labels of the 12 combinations, one of each shape, that never occur in training or calibration."""

SEEN: tuple[int, ...] = tuple(label for label in range(len(CLASS_NAMES)) if label not in HELD_OUT)
"""Labels of the 84 combinations that occur in training."""

TEMPLATES: tuple[str, ...] = (
    "a photo of a {}.",
    "a picture of a {}.",
    "a drawing of a {}.",
    "an image of one {}.",
    "there is a {} here.",
    "a {} on a background.",
)
DIGIT_NAMES: tuple[str, ...] = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
DIGIT_TEMPLATES: tuple[str, ...] = (
    "a photo of the handwritten digit {}.",
    "a picture of the handwritten digit {}.",
    "the digit {} written by hand.",
    "a scan of the digit {}.",
)


def home_background(label: int) -> int:
    """The background on which most training images of this class's shape stand: two shapes share each."""
    return label // len(COLOUR_NAMES) % len(BACKGROUNDS)


@dataclass(frozen=True)
class Style:
    """How scenes are drawn. Ranges are uniform; lengths in pixels, angles in degrees, grey levels in [0, 255].

    An outline's stroke runs along the inside of the edge; `wash` is how much of the colour lies within it.
    """

    radius: tuple[float, float] = (11.0, 22.0)
    offset: float = 11.0
    tilt: float = 25.0
    stretch: float = 0.15
    colour_jitter: float = 14.0
    contrast: tuple[float, float] = (0.5, 1.0)
    noise: tuple[float, float] = (3.0, 18.0)
    pattern_strength: tuple[float, float] = (15.0, 65.0)
    fill: Literal["plain", "outline", "pattern"] = "plain"
    stroke: float = 3.0
    wash: float = 0.35
    paper: bool = False


@dataclass(frozen=True)
class Split:
    """One split: `size` images drawn from `seed` in `style`, `home_share` of them on their home background."""

    size: int
    seed: int
    content: Literal["seen", "all", "near", "far", "digits"]
    style: Style = Style()
    home_share: float = 0.8
    captions: bool = False
    about: str = ""


SMALL = Style(radius=(8.0, 15.0), pattern_strength=(45.0, 95.0))
"""Small shapes on strong backgrounds, where the background tempts: `common`, `counter` and the last training stage."""

_V2 = Style(radius=(9.0, 24.0), offset=15.0, tilt=35.0)

SPLITS: Mapping[str, Split] = MappingProxyType(
    {
        "train": Split(40_000, 101, "seen", captions=True, about="training scenes; 12 combinations never occur"),
        "calibration": Split(1_000, 102, "seen", captions=True, about="image-caption pairs like training"),
        "validation": Split(2_000, 103, "all", about="like test, for choosing"),
        "test": Split(2_400, 104, "all", about="in distribution, with the held-out combinations"),
        "test_large": Split(4_800, 113, "all", about="like test, twice as many: a calibration error needs them"),
        "sketch": Split(
            1_000, 105, "all", Style(fill="outline", paper=True), about="outlines with a pale wash, on paper"
        ),
        "textured": Split(1_000, 106, "all", Style(fill="pattern"), about="patterned fill"),
        "v2": Split(1_000, 107, "all", _V2, about="drawn anew with looser framing"),
        "common": Split(1_000, 108, "all", SMALL, home_share=1.0, about="small shapes, each on its home background"),
        "counter": Split(1_000, 108, "all", SMALL, home_share=0.0, about="the images of common on other backgrounds"),
        "near_ood": Split(1_000, 109, "near", about="unseen shapes in the known colours and style"),
        "far_ood": Split(1_000, 110, "far", about="textures without any object"),
        "train_small": Split(12_000, 112, "seen", SMALL, captions=True, about="more training scenes: small shapes"),
        "digits_train": Split(897, 111, "digits", captions=True, about="scikit-learn's digits for training"),
        "digits": Split(900, 111, "digits", about="the rest of scikit-learn's digits, a second test set"),
    }
)

UNSEEN_NAMES: tuple[str, ...] = tuple(UNSEEN_SHAPES)


def easier(style: Style, difficulty: float) -> Style:
    """`style` with its jitter, noise and background scaled to `difficulty` in [0, 1]: the training curriculum."""
    low, high = style.radius
    return replace(
        style,
        radius=(low + (1 - difficulty) * 0.8 * (high - low), high),
        offset=style.offset * difficulty,
        tilt=style.tilt * difficulty,
        contrast=(1 - difficulty * (1 - style.contrast[0]), 1.0),
        noise=(style.noise[0] * difficulty, style.noise[1] * difficulty),
        pattern_strength=(style.pattern_strength[0] * difficulty, style.pattern_strength[1] * difficulty),
    )
