"""Every content key of a small suite on files, level by level: what a change must, and must not, alter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from benchmark.data import PixelCache
from benchmark.engine.banks import BankMaker
from benchmark.engine.plan import Plan, Settings, make_plan
from benchmark.ledger.records import Record
from benchmark.ledger.store import Entry
from benchmark.quantization.calibrate import Source
from benchmark.quantization.calibration import Calibration
from benchmark.quantization.observers import Observer, Range
from benchmark.spec import QuantSpec, SuiteSpec
from benchmark.utils.progress import Silent
from tests import layouts

CLASSES = ("ant", "bee", "cat")
QUANT = QuantSpec(method="gptq", weight_bits=4, activation_bits=8, scope="vision+text")
"""It uses calibration data and takes every field of a QuantSpec."""

PIXELS, FEATURES, WEIGHTS, TEXTS = "pixels", "features", "class weights", "texts of options"
STATISTICS, EVALUATION, PAIRING = "statistics", "evaluation", "pairing"
ANSWERS = frozenset({EVALUATION, PAIRING})
"""What is about one evaluation on its data: its result and what it is compared with."""

TOWERS = frozenset({FEATURES, WEIGHTS, TEXTS})
RESULT = frozenset({EVALUATION})
IMAGES = frozenset({PIXELS, FEATURES}) | ANSWERS
NAMES = frozenset({WEIGHTS}) | ANSWERS
CALIBRATION = frozenset({STATISTICS}) | TOWERS | RESULT


class Asked:
    """A store that has everything, and notes which key was asked for."""

    def __init__(self, entry: Entry) -> None:
        self.entry, self.keys = entry, list[str]()

    def get(self, key: str) -> Entry:
        """The same entry for every key."""
        self.keys.append(key)
        return self.entry


@dataclass
class Scene:
    """A suite on files below `root`: data sets `photos` (3 classes) and `others`, calibration pairs `pairs`."""

    root: Path
    suite: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        layouts.write_image_folder(self.root / "photos", CLASSES, 9)
        layouts.write_image_folder(self.root / "splits", CLASSES, 9, split="one")
        layouts.write_image_folder(self.root / "others", CLASSES, 6)
        layouts.write_webdataset(self.root / "pairs", None, 4, shards=1, captions=True)
        (self.root / "negatives.txt").write_text("chair\nlamp\n")
        (self.root / "photos" / "classnames.txt").write_text("Ant\nBee\nCat\n")
        (self.root / "photos" / "zeroshot_classification_templates.txt").write_text("a {c}.\n")
        options = {"scores": ["mcm", "neg_label"], "negatives": str(self.root / "negatives.txt")}
        self.suite = {
            "name": "small",
            "version": 1,
            "models": ["demo"],
            "quantizations": [QUANT.name],
            "calibration": "pairs",
            "data": {
                "photos": {"source": "image_folder", "path": str(self.root / "photos")},
                "others": {"source": "image_folder", "path": str(self.root / "others")},
                "pairs": {"source": "webdataset", "path": str(self.root / "pairs"), "text": "captions"},
            },
            "tasks": {"ood": {"far": {"roles": {"id": "photos", "ood": "others"}, "options": options}}},
        }

    def with_data(self, name: str, **fields: Any) -> SuiteSpec:
        """The suite with other fields of one data set; None takes a field away."""
        own = {k: v for k, v in {**self.suite["data"][name], **fields}.items() if v is not None}
        return self.with_fields(data={**self.suite["data"], name: own})

    def with_binding(self, roles: Mapping[str, Any] | None = None, label: str = "far", **options: Any) -> SuiteSpec:
        """The suite with other roles, another label or other options of its evaluation."""
        known = self.suite["tasks"]["ood"]["far"]
        binding = {"roles": roles or known["roles"], "options": {**known["options"], **options}}
        return self.with_fields(tasks={"ood": {label: binding}})

    def with_quant(self, **fields: Any) -> SuiteSpec:
        """The suite with other fields of its quantization."""
        spec = QuantSpec.model_validate({**QUANT.model_dump(), **fields})
        return self.with_fields(quantizations=[spec.name])

    def with_fields(self, **fields: Any) -> SuiteSpec:
        """The suite with other fields."""
        return SuiteSpec.model_validate({**self.suite, **fields})


def keys(suite: SuiteSpec, settings: Settings | None = None, of: str = "photos") -> dict[str, str]:
    """Level -> the key under which its numbers are kept, for one data set and the suite's last quantization."""
    plan = make_plan(suite, settings or Settings(engine="none"))
    configuration = plan.configurations[-1]
    data = plan.data[next(name for name in plan.data if name == of or name.startswith(f"{of}/"))]
    cache, evaluation = PixelCache(Path("unused"), 0), configuration.evaluations[0]
    maker, store = maker_of(plan)
    maker.classes(data, 4)
    weights = store.keys[-1] if store.keys else "none"
    maker.texts(evaluation.texts)
    return {
        PIXELS: cache.key(data, configuration.model.preprocess),
        FEATURES: maker.image_key(data, "image"),
        WEIGHTS: weights,
        TEXTS: store.keys[-1],
        STATISTICS: statistics_key(plan, cache),
        EVALUATION: evaluation.key,
        PAIRING: evaluation.comparison_key,
    }


def maker_of(plan: Plan, configuration: int = -1) -> tuple[BankMaker, Asked]:
    """A maker of banks whose store has everything."""
    store = Asked(Entry({"text": np.zeros((len(CLASSES), 4), np.float32)}, {}))
    cache = PixelCache(Path("unused"), 0)
    holder: Any = None
    return BankMaker(plan, plan.configurations[configuration], holder, store, cache, Silent()), store  # type: ignore[arg-type]


def statistics_key(plan: Plan, cache: PixelCache) -> str:
    """Key of a statistic of one layer, on the plan's calibration pairs."""
    if plan.calibration is None:
        return "none"
    model = plan.configurations[-1].model
    pairs = Calibration(np.empty((0, 3, 1, 1), np.uint8), (), cache.key(plan.calibration, model.preprocess))
    return statistic(digest=model.digest, device=plan.settings.device, calibration=pairs)


def statistic(
    digest: str = "model",
    device: str = "cpu",
    layer: str = "layer",
    observer: Observer | None = None,
    calibration: Calibration | None = None,
    **fields: Any,
) -> str:
    """Key of a statistic, from the parts that name it; `fields` are those of `Source`."""
    model: Any = SimpleNamespace(digest=digest, device=torch.device(device))
    pairs = calibration or Calibration(np.empty((0, 3, 1, 1), np.uint8), (), "pairs")
    source: dict[str, Any] = {"tower": "vision", **fields}
    return Source(model=model, calibration=pairs, **source).key(layer, observer or Range())


def record(key: str, **fields: Any) -> Record:
    """A finished record under a key."""
    usual = {
        "configuration": "c",
        "suite": "small",
        "model": "demo",
        "quantization": "q",
        "task": "ood",
        "dataset": "far",
        "status": "done",
        "seconds": 1.0,
        "metrics": {"ood/far/mcm/auroc": 0.5},
    }
    return Record(key=key, **{**usual, **fields})


def changed(before: Mapping[str, str], after: Mapping[str, str]) -> set[str]:
    """The levels whose key differs."""
    return {level for level in before if before[level] != after[level]}


@contextmanager
def raised(plugin: object) -> Iterator[None]:
    """A plugin's version is another one."""
    own = vars(plugin)
    before = own.get("version")
    own["version"] = 99
    try:
        yield
    finally:
        if before is None:
            del own["version"]
        else:
            own["version"] = before


@dataclass(frozen=True)
class Row:
    """A field that is changed alone from `before` to `after`.

    Attributes:
        must: keys that must change; all others must stay, but for those in `may`, which hold more than they need.
        of: the data set that is meant.
        why: for a field that no key holds, the reason.
    """

    after: dict[str, Any]
    must: frozenset[str] = frozenset()
    before: dict[str, Any] | None = None
    may: frozenset[str] = frozenset()
    of: str = "photos"
    why: str = ""

    def check(self, before: dict[str, str], after: dict[str, str]) -> None:
        found = changed(before, after)
        assert not self.must - found, f"stale numbers: the same key at {sorted(self.must - found)}"
        assert not found - self.must - self.may, f"computed in vain: another key at {sorted(found - self.must)}"


@dataclass(frozen=True)
class Irrelevant:
    """A field that no key holds, or that another one stands for."""

    why: str


Table = dict[str, "Row | Irrelevant"]


def rows(table: Table) -> list[Any]:
    return [pytest.param(name, row, id=name) for name, row in table.items() if isinstance(row, Row)]
