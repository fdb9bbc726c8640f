"""The folder in RELIQUANT_DATA as the shipped catalogue expects it, with a few images in each data set."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from benchmark.data.corruption_names import COMMON
from benchmark.data.prompts import imagenet_classes, imagenet_wnids
from benchmark.spec.catalogue import load_catalogue
from tests.layouts import (
    write_cifar_c,
    write_counteranimal,
    write_image_list,
    write_imagenet_folders,
    write_webdataset,
)

CIFAR_OOD = ("cifar100", "tin", "mnist", "svhn", "texture", "places365")
IMAGENET_OOD = ("ssb_hard", "ninco", "inaturalist", "openimage_o")
TEMPLATES = ("a photo of a {c}.", "a drawing of a {c}.")


def write_cifar(root: Path, count: int = 12) -> None:
    """What the suite `cifar` needs."""
    names = load_catalogue()["cifar10-c"].classes
    assert isinstance(names, Sequence)
    write_webdataset(root / "wds_vtab-cifar10", names, count, templates=TEMPLATES)
    write_cifar_c(root / "CIFAR-10-C", COMMON, count)
    for name in CIFAR_OOD:
        write_image_list(root / "openood", count, known="cifar10", name=name, images="images_classic")
    write_webdataset(root / "coco-pairs", None, count, captions=True)


def write_imagenet(root: Path, count: int = 12) -> None:
    """What the suite `imagenet` needs; ImageNet-A and -R have 200 classes of their own."""
    names = imagenet_classes()
    for folder, classes in (
        ("wds_imagenetv2", names),
        ("wds_imagenet_sketch", names),
        ("wds_imagenet-a", names[2:202]),
        ("wds_imagenet-r", names[1::5]),
    ):
        write_webdataset(root / folder, classes, count, templates=TEMPLATES)
    for name in IMAGENET_OOD:
        write_image_list(root / "openood", count, name=name)
    write_image_list(root / "openood", count, name="textures", images="images_classic", folder="texture")
    wnids = imagenet_wnids()[:3]
    write_imagenet_folders(root / "imagenet" / "val", wnids)
    for kind, severity in product(COMMON, "12345"):  # the same pictures everywhere: quick to write
        shutil.copytree(root / "imagenet" / "val", root / "imagenet-c" / kind / severity)
    write_counteranimal(root / "counteranimal" / "LAION-final")
    write_webdataset(root / "coco-pairs", None, count, captions=True)
