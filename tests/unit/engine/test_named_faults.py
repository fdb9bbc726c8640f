"""Rows that must stay together when broken images are left out: pixels with captions, features with labels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmark.data import PixelCache
from benchmark.engine import banks
from benchmark.engine.banks import BankMaker
from benchmark.engine.plan import Plan, Settings, make_plan
from benchmark.ledger.store import Entry
from benchmark.quantization.calibration import Calibration
from benchmark.utils.progress import Silent
from tests import layouts
from tests.hash_keys import Scene, maker_of

BROKEN = 1
"""The row of the pair whose image is cut off."""


class NoModel:
    """Lends no model: the quantizer is not run."""

    @contextmanager
    def lent(self, user: str) -> Iterator[None]:
        yield


def planned(scene: Scene) -> Plan:
    return make_plan(scene.with_fields(), Settings(engine="none", workers=0))


def calibration_of(plan: Plan, cache: PixelCache, monkeypatch: pytest.MonkeyPatch) -> Calibration:
    """What a quantizer is given."""
    given: list[Calibration] = []
    monkeypatch.setattr(banks, "quantize", lambda model, quant, pairs, *rest: given.append(pairs))
    holder, store = NoModel(), maker_of(plan)[1]
    made: Any = (plan, plan.configurations[-1], holder, store, cache, Silent())
    BankMaker(*made).quantize()
    return given[0]


@pytest.mark.parametrize("budget", [0, 10**8], ids=["streamed", "stored"])
def test_captions_stay_with_their_images_when_broken_ones_are_skipped(
    tmp_path: Path, budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Scene(tmp_path)
    whole = calibration_of(planned(scene), PixelCache(tmp_path / "whole", budget), monkeypatch)
    pairs = layouts.samples(4, 1)
    pairs[BROKEN] = replace(pairs[BROKEN], encoded=pairs[BROKEN].encoded[:60])
    layouts.write_shards(scene.root / "pairs", [pairs], None, None, captions=True)
    found = calibration_of(planned(scene), PixelCache(tmp_path / "part", budget, skip_broken=True), monkeypatch)
    assert len(set(whole.captions)) == 4
    assert list(found.captions) == [text for row, text in enumerate(whole.captions) if row != BROKEN]
    np.testing.assert_array_equal(found.pixels, np.delete(whole.pixels, BROKEN, axis=0))


def test_labels_and_ids_stay_with_their_features_when_broken_images_were_skipped(tmp_path: Path) -> None:
    plan = planned(Scene(tmp_path))
    maker, store = maker_of(plan)
    rows = np.array([0, 2, 3, 8])
    arrays = {"image": np.zeros((4, 4), np.float32), "rows": rows, "logit": np.array([10.0, 0.0])}
    store.entry = Entry({**store.entry, **arrays}, {})
    bank, data = maker.bank("photos"), plan.data["photos"]
    assert bank.label.tolist() == data.labels[rows].tolist()
    assert bank.sample_id.tolist() == data.sample_ids[rows].tolist()
