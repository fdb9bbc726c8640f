"""What must not change a result: workers, shards, batch size, the pixel cache; and what a limit may take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmark.data import open_data, pixels
from benchmark.engine.banks import BankMaker
from benchmark.engine.holding import ModelHolder
from benchmark.engine.plan import Settings, make_plan
from benchmark.engine.run import run
from benchmark.ledger.records import Ledger
from benchmark.ledger.store import Store
from benchmark.plugins import Columns
from benchmark.spec import SuiteSpec, parse_spec
from benchmark.utils.progress import Silent
from tests.layouts import Sample, samples, write_image_list, write_shards
from tests.models_zoo import write_checkpoint

CLASSES = ("ant", "bee", "cat", "dog", "elk", "fox")
COUNT = 30


@dataclass(frozen=True)
class Place:
    """Data, model and suite of these tests."""

    root: Path
    model: str
    samples: tuple[Sample, ...]

    def shards(self, name: str, parts: Sequence[Sequence[int]]) -> str:
        """A webdataset with the samples of each part in one shard."""
        root = self.root / name
        write_shards(root, [[self.samples[i] for i in part] for part in parts], CLASSES, ["a photo of a {c}."])
        return str(root)

    def suite(self, data: str, **changes: Any) -> SuiteSpec:
        """Four tasks in full precision and one quantization."""
        far = {"source": "image_list", "path": str(self.root / "benchmark_imglist" / "imagenet" / "test_ninco.txt")}
        fields = {
            "name": "invariance",
            "version": 1,
            "models": [self.model],
            "quantizations": ["fp32", "rtn-w4a8-channel-token-vision"],
            "data": {
                "scenes": {"source": "webdataset", "path": data},
                "scenes-c": {"base": "scenes", "corruptions": ["gaussian_noise", "frost"], "severities": [3]},
                "far": {**far, "text": "none", "options": {"root": str(self.root / "images_largescale")}},
            },
            "tasks": {
                "zero_shot": {"scenes": {"test": "scenes"}},
                "calibration": {"scenes": {"test": "scenes"}},
                "ood": {"scenes": {"id": "scenes", "ood": "far"}},
                "corruption": {"scenes": {"clean": "scenes", "corrupted": "scenes-c"}},
            },
        }
        return parse_spec(SuiteSpec, fields | changes, "test")

    def results(self, home: Path, data: str, budget: int = 10**9, **settings: Any) -> dict[str, Any]:
        """Every metric and every per-sample column by evaluation and quantization."""
        sweep = run(make_plan(self.suite(data), Settings(**settings)), home, pixel_budget=budget)
        assert not sweep.failed, [record.error for record in sweep.failed]
        assert sweep.forward_images == 2 * (COUNT + 20 + 2 * COUNT)  # clean, out of distribution, two corruptions
        ledger = Ledger(home)
        return {
            f"{record.quantization}/{record.name}": (dict(record.metrics), flat(ledger.outcome(record).columns))
            for record in sweep.records
        }


def flat(columns: Columns) -> dict[str, Any]:
    """Every column by group and name."""
    return {f"{group}/{name}": values for group, own in columns.groups.items() for name, values in own.items()}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    root = tmp_path_factory.mktemp("invariance")
    write_image_list(root, 20)
    return Place(root, write_checkpoint("ViT", root / "model"), tuple(samples(COUNT, len(CLASSES))))


@pytest.fixture(scope="module")
def plain(place: Place) -> str:
    return place.shards("plain", [range(15), range(15, 30)])


@pytest.fixture(scope="module")
def expected(place: Place, plain: str) -> dict[str, Any]:
    return place.results(place.root / "home", plain, workers=0)


def same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Bit for bit."""
    assert found.keys() == expected.keys()
    for name, (metrics, columns) in expected.items():
        assert found[name][0] == metrics, name
        assert found[name][1].keys() == columns.keys()
        for key, column in columns.items():
            np.testing.assert_array_equal(found[name][1][key], column, err_msg=f"{name} {key}")


@pytest.mark.parametrize("workers", [1, 2])
def test_workers(
    workers: int, place: Place, plain: str, expected: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pixels, "POOL_AFTER", 0.0)  # so that processes are started for this little work too
    same(place.results(tmp_path, plain, workers=workers), expected)


def test_no_pixel_cache(place: Place, plain: str, expected: Any, tmp_path: Path) -> None:
    same(place.results(tmp_path, plain, budget=0, workers=0), expected)
    assert not [path for path in (tmp_path / "cache" / "pixels").rglob("*") if path.is_file()]


@pytest.mark.parametrize("seed", [0, 1])
def test_shards_in_any_order(seed: int, place: Place, expected: Any, tmp_path: Path) -> None:
    order = np.random.default_rng(seed).permutation(COUNT).tolist()
    parts = [order[start : start + 7] for start in range(0, COUNT, 7)]
    same(place.results(tmp_path, place.shards(f"mixed {seed}", parts), workers=0), expected)


def test_shards_renumbered(place: Place, expected: Any, tmp_path: Path) -> None:
    data = place.shards("renumbered", [range(15, 30), range(15)])
    same(place.results(tmp_path, data, workers=0), expected)


def test_batch_sizes(place: Place, plain: str, tmp_path: Path) -> None:
    """Features agree to 1e-6; matrix products of other shapes round differently."""
    found: dict[int, list[np.ndarray]] = {}
    for size in (1, 7, 64):
        plan = make_plan(place.suite(plain), Settings(batch_size=size, workers=0))
        cache = pixels.PixelCache(tmp_path / "pixels", 10**9)
        for configuration in plan.configurations:
            store = Store(tmp_path / str(size))
            maker = BankMaker(plan, configuration, ModelHolder(configuration.model, "cpu"), store, cache, Silent())
            banks = [maker.bank(name) for name in ("scenes", "far", "scenes-c/frost/3")]
            found.setdefault(size, []).extend(np.asarray(a) for bank in banks for a in (bank.image, bank.text))
    for size in (1, 7):
        for ours, reference in zip(found[size], found[64], strict=True):
            np.testing.assert_allclose(ours, reference, atol=1e-6, rtol=0)
    assert len(found[64][0]) == COUNT


def test_limits_nest(place: Place, plain: str) -> None:
    """A smaller limit takes a part of a larger one; corrupted versions keep the images of their base."""
    kept: dict[int, dict[str, set[str]]] = {}
    for limit in (3, 8, 20, 99):
        plan = make_plan(place.suite(plain, limit=limit), Settings(workers=0))
        kept[limit] = {name: set(data.sample_ids.tolist()) for name, data in plan.data.items()}
        assert {len(kept[limit][name]) for name in ("scenes", "far")} <= {min(limit, COUNT), min(limit, 20)}
        assert kept[limit]["scenes"] == kept[limit]["scenes-c/frost/3"]
        assert len({plan.data["scenes"].labels[i] for i in range(min(limit, COUNT))}) == min(limit, len(CLASSES))
    for small, large in ((3, 8), (8, 20), (20, 99)):
        for name, ids in kept[small].items():
            assert ids <= kept[large][name]
    assert kept[99]["scenes"] == set(open_data(place.suite(plain).data["scenes"], "scenes").sample_ids.tolist())


def test_a_task_on_cached_features_needs_no_model_and_no_pixels(
    place: Place, plain: str, expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a model was loaded, or pixels were opened")

    monkeypatch.setattr(ModelHolder, "model", property(refuse))
    monkeypatch.setattr(pixels.PixelCache, "open", refuse)
    suite = place.suite(plain, tasks={"selective": {"scenes": {"test": "scenes"}}})
    sweep = run(make_plan(suite, Settings(workers=0)), place.root / "home")
    assert (sweep.computed, sweep.forward_images, sweep.failed) == (2, 0, [])
