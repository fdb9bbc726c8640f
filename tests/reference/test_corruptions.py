"""Generated corruptions against the library `imagecorruptions` (the original code, packaged) and against arithmetic.

Our transforms take a RandomState, so they replay the library's draws: where the algorithm is the same, the result
must be the same to one grey level. What differs by design is compared in its statistics.
"""

from __future__ import annotations

import io

import cv2
import imagecorruptions
import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import map_coordinates
from skimage.filters import gaussian

from benchmark.data.corruption_names import COMMON, EXTRA, SEVERITIES
from benchmark.data.corruption_parameters import PARAMETERS, family
from benchmark.data.corruptions import TRANSFORMS, corrupt, corrupt_pixels, generator
from benchmark.errors import InputError, UnknownNameError
from tests import layouts

SAME = (
    "gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise", "gaussian_blur", "defocus_blur", "motion_blur",
    "zoom_blur", "fog", "brightness", "contrast", "saturate", "jpeg_compression", "pixelate",
)  # fmt: skip
"""Types whose algorithm is the library's: equal to one grey level, and nearly everywhere equal."""

ALIKE = {"snow": 0.5, "spatter": 3.0}
"""Types that differ in few pixels: mean absolute difference allowed, in grey levels."""


def library(image: np.ndarray, name: str, severity: int, seed: int = 7) -> np.ndarray:
    np.random.seed(seed)  # noqa: NPY002 the library draws from NumPy's global stream
    extra = {"seed": seed} if name in ("impulse_noise", "glass_blur") else {}
    return np.asarray(imagecorruptions.corrupt(image, severity, name, **extra))


def ours(image: np.ndarray, name: str, severity: int, seed: int = 7) -> np.ndarray:
    """With the 224-pixel parameters whatever the size, and the library's draws."""
    rng = np.random.default_rng(seed) if name == "impulse_noise" else np.random.RandomState(seed)
    values = np.asarray(TRANSFORMS[name](image, PARAMETERS["imagenet"][name][severity - 1], rng), np.float64)
    return np.clip(values + 1e-4, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.asarray(layouts.picture(3, (96, 96)))


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("name", SAME)
def test_equal_to_the_library_to_one_grey_level(image: np.ndarray, name: str, severity: int) -> None:
    difference = np.abs(ours(image, name, severity).astype(int) - library(image, name, severity))
    assert difference.max() <= 1
    assert difference.mean() < 0.1


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("name", sorted(ALIKE))
def test_nearly_equal_to_the_library(name: str, severity: int) -> None:
    image = np.asarray(layouts.picture(3, (224, 224)))  # where the library's enlarged snow needs no trimming
    difference = np.abs(ours(image, name, severity).astype(int) - library(image, name, severity))
    assert difference.mean() < ALIKE[name]


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("name", ["glass_blur", "frost"])
def test_the_same_strength_as_the_library(name: str, severity: int) -> None:
    """Other random numbers (glass blur) or drawn crystals (frost): mean, spread and distance to the image agree."""
    pictures = [np.asarray(layouts.picture(seed, (224, 224))) for seed in (3, 4, 5, 6)]
    us = np.stack([ours(p, name, severity, seed) for seed, p in enumerate(pictures)]).astype(float)
    them = np.stack([library(p, name, severity, seed) for seed, p in enumerate(pictures)]).astype(float)
    clean = np.stack(pictures).astype(float)
    tolerance = 2.0 if name == "glass_blur" else 20.0
    assert abs(us.mean() - them.mean()) < tolerance
    assert abs(us.std() - them.std()) < tolerance
    assert abs(np.abs(us - clean).mean() - np.abs(them - clean).mean()) < tolerance


def published_elastic(image: np.ndarray, parameters: tuple[float, float, float], seed: int) -> np.ndarray:
    """The formula of ImageNet-C with OpenCV and scikit-image (the library has replaced it by another)."""
    reach, sigma, jitter = parameters
    rng = np.random.RandomState(seed)
    values = image.astype(np.float32) / 255
    centre, side = np.float32(values.shape[:2]) // 2, min(values.shape[:2]) // 3
    before = np.array([centre + side, [centre[0] + side, centre[1] - side], centre - side], np.float32)
    after = before + rng.uniform(-jitter, jitter, size=before.shape).astype(np.float32)
    matrix = cv2.getAffineTransform(before, after)
    values = cv2.warpAffine(values, matrix, values.shape[1::-1], borderMode=cv2.BORDER_REFLECT_101)
    shift = [
        gaussian(rng.uniform(-1, 1, size=values.shape[:2]), sigma, mode="reflect", truncate=3) * reach for _ in range(2)
    ]
    y, x = np.mgrid[: values.shape[0], : values.shape[1]]
    moved = [map_coordinates(values[..., c], [y + shift[1], x + shift[0]], order=1, mode="reflect") for c in range(3)]
    return np.clip(np.stack(moved, 2), 0, 1) * 255


@pytest.mark.parametrize("severity", SEVERITIES)
def test_elastic_transform_is_the_published_formula(severity: int) -> None:
    image = np.asarray(layouts.picture(3, (224, 224)).resize((56, 56)).resize((224, 224)))
    parameters = PARAMETERS["imagenet"]["elastic_transform"][severity - 1]
    expected = published_elastic(image, parameters, 5)
    got = TRANSFORMS["elastic_transform"](image, parameters, np.random.RandomState(5))  # type: ignore[arg-type]
    difference = np.abs(got - expected)
    assert difference.mean() < 1.0  # OpenCV interpolates in steps of 1/32 pixel, and mirrors without the edge
    assert np.quantile(difference, 0.95) < 4


@pytest.mark.parametrize(
    ("side", "whose"), [(32, "cifar"), (47, "cifar"), (64, "tiny_imagenet"), (127, "tiny_imagenet"), (224, "imagenet")]
)
def test_the_parameters_follow_the_size(side: int, whose: str) -> None:
    assert family(side) == whose


def test_every_family_has_five_severities_of_every_type() -> None:
    for table in PARAMETERS.values():
        assert set(table) == {*COMMON, *EXTRA}
        assert all(len(row) == 5 for row in table.values())


@pytest.mark.parametrize(
    ("side", "noise", "shots", "flips", "contrast", "quality"),
    [(32, 0.10, 50, 0.07, 0.15, 40), (64, 0.18, 15, 0.14, 0.05, 25), (224, 0.38, 3, 0.27, 0.05, 7)],
)
def test_the_strength_at_severity_5_is_the_published_one(
    side: int, noise: float, shots: int, flips: float, contrast: float, quality: int
) -> None:
    """Measured on the output: CIFAR-10-C is milder than Tiny-ImageNet-C, and that than ImageNet-C."""
    grey = np.full((side, side, 3), 102, np.uint8)
    many = np.stack([corrupt(grey, "gaussian_noise", 5, generator("g", 5, str(k))) for k in range(8)]) / 255
    inside = (many > 0) & (many < 1)
    upper = np.quantile(many[inside], 0.5 + 0.3 * inside.mean())  # clipping leaves the middle quantiles alone
    assert upper > 0.4
    rank = np.mean(many <= 0.4 + noise / 2)
    assert rank == pytest.approx(0.6915, abs=0.02)  # P(Z < 1/2)
    counts = np.stack([corrupt(grey, "shot_noise", 5, generator("s", 5, str(k))) for k in range(8)]) / 255 * shots
    assert np.abs(counts - np.rint(counts)).max() < shots / 255 + 1e-9
    middle = np.stack([corrupt(grey, "impulse_noise", 5, generator("i", 5, str(k))) for k in range(8)])
    assert np.mean(middle != 102) == pytest.approx(flips, abs=0.02)
    assert np.mean(middle == 255) == pytest.approx(flips / 2, abs=0.02)
    two = np.zeros((side, side, 3), np.uint8)
    two[: side // 2] = 200
    flat = corrupt(two, "contrast", 5, generator("c", 5, ""))
    assert int(flat.max()) - int(flat.min()) == pytest.approx(200 * contrast, abs=1)
    buffer = io.BytesIO()
    picture = layouts.picture(1, (side, side))
    picture.save(buffer, "JPEG", quality=quality)
    got = corrupt(np.asarray(picture), "jpeg_compression", 5, generator("j", 5, ""))
    np.testing.assert_array_equal(got, np.asarray(Image.open(buffer)))


@pytest.mark.parametrize("side", [32, 64, 224])
@pytest.mark.parametrize("name", [*COMMON, *EXTRA])
def test_works_at_every_size_and_gets_worse(name: str, side: int) -> None:
    """Severity 5 is further from the image than severity 1, in the mean over images, for nearly all types."""
    pictures = [np.asarray(layouts.picture(seed, (side, side))) for seed in range(3 if side == 224 else 8)]
    distance = []
    for severity in (1, 5):
        made = [corrupt(p, name, severity, generator(name, severity, str(k))) for k, p in enumerate(pictures)]
        assert all(m.shape == p.shape and m.dtype == np.uint8 for m, p in zip(made, pictures, strict=True))
        distance.append(np.mean([np.abs(m.astype(int) - p).mean() for m, p in zip(made, pictures, strict=True)]))
    assert distance[0] > 0.3
    if name not in ("elastic_transform", "frost", "saturate"):  # these change their kind with the severity
        assert distance[1] > distance[0]


@pytest.mark.parametrize("name", [*COMMON, *EXTRA])
def test_the_same_for_any_batch_order_and_repetition(name: str) -> None:
    batch = np.stack([np.asarray(layouts.picture(k, (32, 32))).transpose(2, 0, 1) for k in range(4)])
    ids = ["a", "b", "c", "d"]
    whole = corrupt_pixels(batch, ids, name, 3)
    np.testing.assert_array_equal(corrupt_pixels(batch[::-1], ids[::-1], name, 3)[::-1], whole)
    np.testing.assert_array_equal(corrupt_pixels(batch[2:3], ["c"], name, 3), whole[2:3])
    np.testing.assert_array_equal(corrupt_pixels(batch, ids, name, 3), whole)


def test_streams_differ_by_type_severity_id_and_seed() -> None:
    base = ("gaussian_noise", 1, "a", 0)
    others = [("shot_noise", 1, "a", 0), ("gaussian_noise", 2, "a", 0), ("gaussian_noise", 1, "b", 0)]
    first = {generator(*args).integers(2**60) for args in (base, *others, ("gaussian_noise", 1, "a", 1))}
    assert len(first) == 5


def test_non_square_images() -> None:
    image = np.asarray(layouts.picture(2, (80, 48)))
    for name in (*COMMON, *EXTRA):
        assert corrupt(image, name, 4, generator(name, 4, "x")).shape == image.shape


def test_flat_images_survive() -> None:
    for level in (0, 128, 255):
        flat = np.full((32, 32, 3), level, np.uint8)
        for name in (*COMMON, *EXTRA):
            assert corrupt(flat, name, 5, generator(name, 5, "x")).dtype == np.uint8
        for name in ("gaussian_blur", "defocus_blur", "zoom_blur", "motion_blur", "elastic_transform", "glass_blur"):
            np.testing.assert_array_equal(corrupt(flat, name, 2, generator(name, 2, "x")), flat)


def test_bad_input_is_named() -> None:
    image = np.zeros((32, 32, 3), np.uint8)
    rng = generator("", 1, "")
    with pytest.raises(UnknownNameError, match="Did you mean 'gaussian_noise'"):
        corrupt(image, "gausian_noise", 1, rng)
    for severity in (0, 6):
        with pytest.raises(InputError, match="1 to 5"):
            corrupt(image, "fog", severity, rng)
    for wrong in (image[:31], image[..., 0], image.astype(np.float32), np.zeros((32, 32, 4), np.uint8)):
        with pytest.raises(InputError, match="at least 32"):
            corrupt(wrong, "fog", 1, rng)
