"""The demo's renderer: determinism, prefixes, balance, what occurs in training and what does not."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from benchmark.demo import catalogue, scenes
from benchmark.demo.shapes import SHAPES, UNSEEN_SHAPES, Shape
from benchmark.demo.textures import BACKGROUND_PATTERNS, FAR_PATTERNS
from benchmark.errors import InputError, UnknownNameError
from tests.unit.demo.backgrounds import PLACE, drawn

GOLDEN = Path(__file__).parent / "demo_scenes_golden.npz"
SCENES = [name for name, split in scenes.SPLITS.items() if split.content in ("seen", "all")]


@pytest.mark.parametrize("name", list(scenes.SPLITS))
def test_images_agree_with_the_committed_ones_to_one_grey_level(name: str) -> None:
    images, labels, groups = scenes.render(name, 2)
    with np.load(GOLDEN) as golden:
        difference = np.abs(images.astype(np.int64) - golden[f"{name}/image"])
        np.testing.assert_array_equal(labels, golden[f"{name}/label"])
        if groups is not None:
            np.testing.assert_array_equal(groups, golden[f"{name}/group"])
    assert images.dtype == np.uint8
    assert images.shape == (2, 64, 64, 3)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.01


def test_labels_of_test_are_the_pinned_ones() -> None:
    labels = scenes.split_labels(scenes.SPLITS["test"], 2_400)
    assert hashlib.sha256(labels.astype("<i8").tobytes()).hexdigest() == (
        "4a1ffedab5ec5c7dd3b32c156fe796a6bb21a37eb640a84d387f4215957a51c3"
    )


@pytest.mark.parametrize("name", ["train", "test", "counter", "near_ood", "far_ood", "digits"])
def test_a_limit_gives_a_prefix(name: str) -> None:
    few, many = scenes.render(name, 7), scenes.render(name, 20)
    np.testing.assert_array_equal(few[0], many[0][:7])
    np.testing.assert_array_equal(few[1], many[1][:7])
    assert (few[2] is None) == (many[2] is None)
    if few[2] is not None and many[2] is not None:
        np.testing.assert_array_equal(few[2], many[2][:7])


def test_counter_shows_the_scenes_of_common_and_no_other_split_shares_any() -> None:
    bases = {name: scenes.described(name, 20)["base_id"] for name in scenes.SPLITS}
    assert bases["counter"] == bases["common"]
    others = [base for name, found in bases.items() if name != "counter" for base in found]
    assert len(set(others)) == len(others)


def test_a_limit_beyond_the_split_gives_the_split() -> None:
    assert len(scenes.render("digits", 10_000)[0]) == scenes.SPLITS["digits"].size == 900


@pytest.mark.parametrize("limit", [0, -3])
def test_a_limit_below_one_is_refused(limit: int) -> None:
    with pytest.raises(InputError, match=f"at least 1, got {limit}"):
        scenes.render("test", limit)


def test_an_unknown_name_is_refused_with_a_suggestion() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'validation'"):
        scenes.dataset("validatoin")


@pytest.mark.parametrize("name", SCENES)
@pytest.mark.parametrize("count", [50, 96, 500])
def test_labels_of_every_prefix_are_balanced(name: str, count: int) -> None:
    split = scenes.SPLITS[name]
    counts = np.bincount(scenes.split_labels(split, count), minlength=96)
    expected = catalogue.SEEN if split.content == "seen" else range(96)
    chosen = counts[list(expected)]
    assert chosen.sum() == count
    assert chosen.max() - chosen.min() <= 1


def test_one_combination_of_each_shape_is_held_out_of_training_and_calibration() -> None:
    assert len(scenes.HELD_OUT) == 12
    assert {label // 8 for label in scenes.HELD_OUT} == set(range(12))
    assert {label % 8 for label in scenes.HELD_OUT} == set(range(8))
    for name in ("train", "train_small", "calibration"):
        split = scenes.SPLITS[name]
        labels = scenes.split_labels(split, split.size)
        assert not np.isin(labels, scenes.HELD_OUT).any()
        assert set(labels.tolist()) == set(catalogue.SEEN)
    held_out_names = [scenes.CLASS_NAMES[label] for label in scenes.HELD_OUT]
    captions = scenes.dataset("calibration", 300)["caption"]
    assert not any(name in caption for name in held_out_names for caption in captions)


@pytest.mark.parametrize(("name", "share"), [("train", 0.8), ("test", 0.8), ("common", 1.0), ("counter", 0.0)])
def test_share_of_images_on_their_home_background(name: str, share: float) -> None:
    _, labels, groups = scenes.render(name, 1_000)
    home = np.array([catalogue.home_background(int(label)) for label in labels])
    assert groups is not None
    # Three standard errors of a binomial share of 1,000 images; exact for the shares 0 and 1.
    assert np.mean(groups == home) == pytest.approx(share, abs=3 * np.sqrt(share * (1 - share) / 1_000))


def test_common_and_counter_differ_in_the_background_alone() -> None:
    common, labels, _ = scenes.render("common", 40)
    counter, same_labels, _ = scenes.render("counter", 40)
    np.testing.assert_array_equal(labels, same_labels)
    split = scenes.SPLITS["common"]
    # A pixel well inside the shape must not change: compare where the shape covers it fully.
    for index in range(40):
        distance = scenes.draw(split, index, int(labels[index])).distance
        assert distance is not None
        inside, outside = distance < -1, distance > 1
        np.testing.assert_array_equal(common[index][inside], counter[index][inside])
        assert (common[index][outside] != counter[index][outside]).mean() > 0.3


def test_unseen_shapes_and_far_textures_are_not_those_of_training() -> None:
    assert not set(UNSEEN_SHAPES) & set(SHAPES)
    assert not set(FAR_PATTERNS) & set(BACKGROUND_PATTERNS)
    for name in ("near_ood", "far_ood"):
        assert set(scenes.render(name, 30)[1].tolist()) == {-1}
    assert scenes.render("far_ood", 2)[2] is None


def _silhouette(shape: Shape) -> NDArray[np.bool_]:
    steps = np.linspace(-1.2, 1.2, 60, dtype=np.float32)
    x, y = np.meshgrid(steps, -steps)
    return np.asarray(shape(x, y) < 0)


def test_all_shapes_are_distinct_and_fill_their_place() -> None:
    masks = {name: _silhouette(shape) for name, shape in {**SHAPES, **UNSEEN_SHAPES}.items()}
    assert len(masks) == 20
    for name, mask in masks.items():
        assert 0.1 < mask.mean() < 0.6, name
        assert not mask[[0, -1]].any(), f"{name} is cut off"
        assert not mask[:, [0, -1]].any(), f"{name} is cut off"
        for other, silhouette in masks.items():
            overlap = (mask & silhouette).sum() / (mask | silhouette).sum()
            assert other == name or overlap < 0.93, (name, other)


@pytest.mark.parametrize(("name", "shape"), list({**SHAPES, **UNSEEN_SHAPES}.items()))
def test_shapes_grow_like_a_distance_near_their_edge(name: str, shape: Shape) -> None:
    # |grad f| = 1 for a true distance; within a factor of about two the stroke of an outline keeps its width.
    steps = np.linspace(-1.2, 1.2, 241, dtype=np.float32)
    x, y = np.meshgrid(steps, -steps)
    values = shape(x, y).astype(np.float64)
    down, right = np.gradient(values, steps[1] - steps[0])
    slope = np.hypot(down, right)[np.abs(values) < 0.03]
    assert 0.5 < np.median(slope) < 2, name


def test_columns_of_the_data_sets() -> None:
    calibration = scenes.dataset("calibration", 5)
    assert set(calibration.column_names) == {"image", "label", "sample_id", "base_id", "group", "caption"}
    assert calibration["sample_id"] == [f"calibration/{index:06d}" for index in range(5)]
    assert set(scenes.dataset("test", 2).column_names) == {"image", "label", "sample_id", "base_id", "group"}
    assert set(scenes.dataset("far_ood", 2).column_names) == {"image", "label", "sample_id", "base_id"}
    assert set(scenes.dataset("digits", 2).column_names) == {"image", "label", "sample_id", "base_id"}
    for row in calibration:
        assert scenes.CLASS_NAMES[row["label"]] in row["caption"]


def test_images_of_the_data_set_are_the_rendered_pixels() -> None:
    rows = scenes.dataset("sketch", 4)
    images, labels, groups = scenes.render("sketch", 4)
    for row, image in zip(rows, images, strict=True):
        assert isinstance(row["image"], Image.Image)
        np.testing.assert_array_equal(np.asarray(row["image"]), image)
    assert groups is not None
    assert (rows["label"][:], rows["group"][:]) == (labels.tolist(), groups.tolist())
    buffer = io.BytesIO()
    rows[0]["image"].save(buffer, format="PNG")
    assert buffer.getvalue().startswith(b"\x89PNG")


def test_the_digits_are_scikit_learns_and_their_parts_do_not_meet() -> None:
    from sklearn.datasets import load_digits

    train, test = scenes.render("digits_train"), scenes.render("digits")
    assert len(train[0]) == 897
    assert len(test[0]) == 900
    pixels, target = load_digits(return_X_y=True)
    both = np.concatenate([train[1], test[1]])
    np.testing.assert_array_equal(np.bincount(both), np.bincount(target))
    # Linear interpolation keeps the mean ink but for the repeated border.
    ink = np.concatenate([train[0], test[0]]).mean() / 255
    assert ink == pytest.approx(pixels.mean() / 16, abs=0.02)
    seen = {image.tobytes() for image in train[0]}
    assert sum(image.tobytes() in seen for image in test[0]) == 0


@pytest.mark.parametrize("name", ["test", "counter", "calibration", "near_ood", "far_ood", "digits", "digits_train"])
def test_a_description_and_single_images_agree_with_the_whole_table(name: str) -> None:
    table = scenes.dataset(name, 12)
    assert {key: table[key][:] for key in table.column_names if key != "image"} == scenes.described(name, 12)
    pixels = [np.asarray(table[row]["image"]) for row in (7, 0, 11)]
    drawn = [np.asarray(Image.open(io.BytesIO(each))) for each in scenes.encoded(name, [7, 0, 11])]
    np.testing.assert_array_equal(drawn, pixels)
    np.testing.assert_array_equal(pixels, scenes.render(name, 12)[0][[7, 0, 11]])


def test_the_digits_are_scikit_learns() -> None:
    """Both parts together hold each image of `load_digits` once: same labels, same pixels."""
    from sklearn.datasets import load_digits

    pixels, target = load_digits(return_X_y=True)
    parts = [scenes.render(name)[:2] for name in ("digits", "digits_train")]
    labels = np.concatenate([part[1] for part in parts])
    assert labels.dtype == np.int64
    np.testing.assert_array_equal(np.bincount(labels), np.bincount(target))
    corners = np.concatenate([part[0][:, 0, 0, 0] for part in parts])
    assert sorted(corners.tolist()) == sorted(np.rint(pixels[:, 0] * (255 / 16)).astype(int).tolist())


def test_the_backgrounds_that_are_written_down_are_those_that_are_drawn() -> None:
    with np.load(PLACE, allow_pickle=False) as stored:
        written = {name: stored[name] for name in stored.files}
    again = drawn()
    assert list(written) == list(again)
    for name, groups in again.items():
        np.testing.assert_array_equal(written[name], groups)
