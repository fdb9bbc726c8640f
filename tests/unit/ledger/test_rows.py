"""A row of the ledger counts only if it is whole: each other form is skipped, with its line and what is wrong."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmark.ledger import records
from benchmark.ledger.records import Alias, EfficiencyRow, Ledger, ReportRow
from benchmark.spec import digest
from tests.unit.ledger.test_ledger import EFFICIENCY, REPORT, record

QUICK = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
SLOW = settings(QUICK, max_examples=4_000)
PROFILES = [pytest.param(QUICK, id="quick"), pytest.param(SLOW, id="slow", marks=pytest.mark.slow)]
LAYER = {"name": "a", "shape": [2, 4], "packed_bits": 32, "bits": 4.0}
TOWER = {
    "layers": [LAYER], "skipped": {"b": "named"}, "weight_share": 1.0, "mac_share": 1.0, "bits_per_weight": 4.0,
    "packed_bytes": 4, "float_bytes": 32, "weight_relative_error": 0.1, "weight_sqnr_db": None, "cosine": 1.0,
    "embedding_sqnr_db": 20.0,
}  # fmt: skip
SPEED = {
    "engine": "float", "batch": 32, "images_per_second": 1.5, "latency_ms_p50": 1.0, "latency_ms_p95": 2.0,
    "full_ms_p50": 2.0, "latency_ratio": 0.5, "latency_ratio_low": 0.4, "latency_ratio_high": 0.6, "noisy": False,
    "rounds": 6, "passes": 60, "batches": 2, "threads": 1, "device": "cpu", "cpu": "AVX2",
}  # fmt: skip
IDENTITY = {"model": {"ref": "demo", "digest": None}, "task": {"name": "ood", "label": "x"}, "data": {}, "limit": 3}
PROVENANCE = {
    "versions": {}, "model": {"ref": "demo", "digest": "a", "quantized": False}, "data": {"a": "b"}, "limit": None,
    "skipped": {"a": {"count": 1, "images": ["x"]}}, "asked": {}, "settings": {},
    "counts": {"a": {"images": 4, "versions": 1, "classes": 2, "classes_present": 2, "roles": ["test"]}},
    "prompts": {"a": {"prompts": 2, "cut": 1, "example": "a photo", "equal": [[0, 1]]}},
}  # fmt: skip
ROWS: dict[str, dict[str, Any]] = {
    "record": {"kind": "record", **asdict(record("good", provenance=PROVENANCE, identity=IDENTITY, samples="0" * 64))},
    "report": {"kind": "report", **asdict(ReportRow("good", {**REPORT, "towers": {"vision": TOWER}}))},
    "timing": {"kind": "timing", **asdict(EfficiencyRow("good", "host", {**EFFICIENCY, "speed": SPEED}))},
    "alias": {"kind": "alias", **asdict(Alias("good", "c", "other", "other-model", IDENTITY))},
}
JUNK: list[Any] = [None, True, 7, -1, 0.5, "text", "", [], [1], {}, {"a": {"b": []}}, 2**70, "\ud800", "../../x"]


def line(row: dict[str, Any]) -> bytes:
    """A row with the checksum that belongs to it: what a forger writes, or a bug."""
    return json.dumps({**row, "sha256": digest(row)}).encode() + b"\n"


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of all values within a row, its own fields first."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, below in inner:
        yield (*path, key)
        yield from places(below, (*path, key))


def replaced(row: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(row)
    inner: Any = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return changed


def read(folder: Path, content: bytes) -> Ledger:
    (folder / "ledger.jsonl").write_bytes(content)
    return Ledger(folder)


@pytest.mark.parametrize("kind", ["record", "report", "timing"])
def test_a_whole_row_of_each_kind_counts(tmp_path: Path, kind: str) -> None:
    ledger = read(tmp_path, line(ROWS[kind]))
    assert ledger.damage is None
    assert len(ledger.records) + len(ledger.reports) + len(ledger.efficiencies) == 1


def test_a_further_name_counts_where_its_record_is_known(tmp_path: Path) -> None:
    ledger = read(tmp_path, line(ROWS["alias"]) + line(ROWS["record"]))
    assert [answer.suite for answer in ledger.answers()] == [ROWS["record"]["suite"]]
    ledger = read(tmp_path, line(ROWS["record"]) + line(ROWS["alias"]))
    assert ledger.damage is None
    assert [answer.suite for answer in ledger.answers()] == [ROWS["record"]["suite"], "other"]


def test_times_of_another_measurement_are_left_out_and_no_damage(tmp_path: Path) -> None:
    row = {**ROWS["timing"], "kind": "efficiency", "efficiency": {"speed": {"timed": "q"}}}
    ledger = read(tmp_path, line(row))
    assert (ledger.damage, ledger.efficiencies) == (None, {})
    assert read(tmp_path, line(row).replace(b"host", b"hos7")).broken == [(1, "its sha256 does not fit")]


def without(field: str) -> bytes:
    return line({key: value for key, value in ROWS["record"].items() if key != field})


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (json.dumps(ROWS["record"]).encode() + b"\n", "it has no sha256"),
        (json.dumps({**ROWS["record"], "sha256": "0" * 64}).encode() + b"\n", "its sha256 does not fit"),
        (json.dumps({**ROWS["record"], "sha256": None}).encode() + b"\n", "its sha256 does not fit"),
        (line(ROWS["record"])[:99] + b"\n", "not JSON, or cut off"),
        (b'{"kind": "record", "metrics": {"a": NaN}, "sha256": "0"}\n', "JSON"),
        (b"[1]\n", "no object"),
        (without("kind"), "kind: None, expected record, report, alias, timing"),
        (line({**ROWS["record"], "kind": "more"}), "kind: 'more'"),
        (line({**ROWS["record"], "kind": []}), "kind: a list"),
        (without("task"), "task: missing"),
        (line({**ROWS["record"], "more": 1}), "more: unknown field"),
        (line({**ROWS["record"], "metrics": [1]}), "metrics: expected an object, got a list"),
        (line({**ROWS["record"], "metrics": {"a": "0.5"}}), "metrics.a: expected a finite number, got '0.5'"),
        (line({**ROWS["record"], "metrics": {"a": True}}), "metrics.a: expected a finite number, got True"),
        (line({**ROWS["record"], "metrics": {"a": {"b": 1}}}), "metrics.a: expected a finite number, got an object"),
        (line({**ROWS["record"], "metrics": {"a": None}}), "metrics.a: expected a finite number, got None"),
        (line({**ROWS["record"], "status": "won"}), "status: 'won', expected done or failed"),
        (line({**ROWS["record"], "key": "../../etc/x"}), "key: expected a key, got '../../etc/x'"),
        (line({**ROWS["record"], "samples": "../x"}), "samples: expected a SHA-256"),
        (line({**ROWS["record"], "suite": "\ud800"}), "surrogates"),
        (line({"kind": "report", "configuration": "c", "report": {}}), "report.towers: missing"),
        (b"x" * 300 + b"\n", "not JSON"),
        (b"\xff\xfe\n", "not JSON"),
        (b"[" * 100_000 + b"\n", "nested too deeply"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_rows_are_skipped_with_line_and_reason(tmp_path: Path, content: bytes, says: str) -> None:
    ledger = read(tmp_path, line({**ROWS["record"], "key": "first"}) + content + line(ROWS["record"]))
    assert list(ledger.records) == ["first", "good"]
    assert (ledger.reports, ledger.efficiencies) == ({}, {})
    assert ledger.damage is not None
    assert ledger.damage.startswith(f"{ledger.file}: 1 damaged row is skipped (line 2: ")
    assert says in ledger.damage


def test_a_row_without_end_is_never_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "LARGEST_ROW", 5_000)
    huge = line({**ROWS["record"], "error": "x" * 20_000})
    ledger = read(tmp_path, huge + line(ROWS["record"]) + huge[:-1])
    assert list(ledger.records) == ["good"]
    assert ledger.broken == [(1, "more than 0 MB")]
    with ledger.file.open("ab") as file:
        file.write(b"\n" + line({**ROWS["record"], "key": "next"}))
    ledger.refresh()
    assert [number for number, _ in ledger.broken] == [1, 3]
    assert list(ledger.records) == ["good", "next"]


def test_many_damaged_rows_are_counted(tmp_path: Path) -> None:
    ledger = read(tmp_path, b"{}\n" * 10)
    assert str(ledger.damage).endswith(
        "10 damaged rows are skipped (line 1: it has no sha256; line 2: it has no sha256; "
        "line 3: it has no sha256; and 7 more)"
    )


VALUES = st.recursive(
    st.sampled_from(JUNK) | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.parametrize("profile", PROFILES)
def test_any_value_anywhere_in_a_row(profile: settings) -> None:
    """A forged row is believed or refused in one line; what is believed has the types that readers rely on."""
    chosen = st.sampled_from([(kind, path) for kind, row in ROWS.items() for path in places(row)])

    def check(where: tuple[str, tuple[Any, ...]], value: Any) -> None:
        kind, path = where
        try:
            found, row = records.read_row(line(replaced(ROWS[kind], path, value)))
        except ValueError:
            return
        assert found == kind
        json.dumps(row, ensure_ascii=False, allow_nan=False).encode()
        if kind == "record":
            made = records.Record(**row)
            assert not set(made.key) & set("/\\\0")
            assert made.key not in (".", "..")
            assert all(isinstance(metric, int | float) for metric in made.metrics.values())
            assert made.error is None or isinstance(made.error, str)

    profile(given(chosen, VALUES)(check))()


@pytest.mark.parametrize("profile", PROFILES)
def test_any_bytes_as_a_row(profile: settings) -> None:
    def check(content: bytes) -> None:
        with pytest.raises((ValueError, RecursionError)):
            records.read_row(content)

    settings(profile, max_examples=min(profile.max_examples, 2000))(given(st.binary(max_size=200))(check))()


def test_any_bytes_as_a_ledger(tmp_path: Path) -> None:
    def check(content: bytes) -> None:
        ledger = read(tmp_path, content)
        assert ledger.records == ledger.reports == ledger.efficiencies == {}
        assert ledger.damage is None or len(ledger.damage.splitlines()) == 1

    settings(QUICK, max_examples=20)(given(st.binary(max_size=200))(check))()
