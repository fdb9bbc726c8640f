"""Images and classes of data sets, in the words of tables, reports and tags."""

from __future__ import annotations

from typing import Any

from benchmark.results.images import by_evaluation, data_sets, grouped
from tests.hash_keys import record
from trackers.mlflow_names import data_tags


def about(images: int, versions: int = 1, classes: int = 3, present: int = 3) -> dict[str, Any]:
    return {"images": images, "versions": versions, "classes": classes, "classes_present": present}


def test_data_sets_of_records_in_words() -> None:
    first = record("a", provenance={"counts": {"photos": about(1200), "far": about(1200, classes=0)}})
    second = record(
        "b", task="corruption", provenance={"counts": {"photos": about(1200), "photos-c": about(96, 2, 4, 3)}}
    )
    odd = record("c", task="odd", provenance={"counts": {"photos-c": about(95, 2), "photos": about(1100)}})
    assert data_sets([first, second]) == {
        "photos": "1,200 images, 3 classes",
        "far": "1,200 images",
        "photos-c": "2 x 48 images, 4 classes (1 without images)",
    }
    assert data_sets([first, odd])["photos"] == "1,200 images, 3 classes or 1,100 images, 3 classes"
    assert data_sets([odd])["photos-c"] == "95 images, 3 classes"
    assert by_evaluation([first])["ood/far"] == "photos: 1,200 images, 3 classes; far: 1,200 images"
    same = record("d", provenance={"counts": {"near": about(5, classes=0), "far": about(5, classes=0)}})
    assert grouped([same]) == ["near, far: 5 images"]
    assert data_tags([second])["data.photos-c"] == "2 x 48 images, 4 classes (1 without images)"
    assert data_sets([record("e")]) == {}
