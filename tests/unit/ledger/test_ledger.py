"""The ledger: what resuming reads survives kills, neighbours and hostile lines."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmark.errors import DamagedSamplesError, StorageError
from benchmark.ledger.records import EfficiencyRow, Ledger, Record, ReportRow
from benchmark.ledger.samples import digest_of, pack, unpack
from benchmark.plugins import Columns, Outcome, Summary


def record(key: str = "k1", **fields: Any) -> Record:
    """A finished record, with changes."""
    defaults: dict[str, Any] = {
        "configuration": "c1",
        "suite": "small",
        "model": "demo",
        "quantization": "rtn-w4a8-channel-token-vision",
        "task": "ood",
        "dataset": "scenes.far",
        "status": "done",
        "seconds": 0.5,
        "metrics": {"ood/scenes.far/mcm/auroc": 0.75},
        "notes": {"ood/scenes.far/msp/auroc": "undefined here"},
        "provenance": {"device": "cpu", "versions": {"torch": "2"}},
    }
    return Record(key=key, **{**defaults, **fields})


REPORT: dict[str, Any] = {"towers": {}, "weights": {"vision": 8}, "parameters": {"vision": 9}, "figures": {"x": 4.25}}
EFFICIENCY = {"quantization": "q", "packed_bytes": 8, "float_bytes": 9, "kernel": "real", "speed": None, "error": None}
OUTCOME = Outcome(
    Columns(
        {
            "id": {
                "sample_id": np.array(["a", "b/ü", ""]),
                "base_id": np.array(["a", "a", ""]),
                "score": np.arange(6.0).reshape(3, 2),
            },
            "ood:near/x": {"sample_id": np.array(["c", "d"]), "seen": np.array([True, False])},
        },
        {"scores": np.array(["msp", "mcm"]), "scale": np.array(20.5)},
    ),
    Summary({"mcm/auroc": 0.75}, notes={"msp/auroc": "undefined here"}),
)
NOTHING = Columns({})


def assert_whole(ledger: Ledger) -> None:
    """The samples of `OUTCOME` are there."""
    found = ledger.outcome(ledger.records["k1"]).columns["id"]["score"]
    np.testing.assert_array_equal(found, OUTCOME.columns["id"]["score"])


def small(ids: list[Any], kind: Any = str) -> Outcome:
    return Outcome(Columns({"test": {"sample_id": np.array(ids, dtype=kind)}}), Summary({}))


def test_a_record_is_there_after_restarting(tmp_path: Path) -> None:
    first = record()
    Ledger(tmp_path).append(first)
    again = Ledger(tmp_path)
    assert again.records == {"k1": first}
    assert again.done("k1") == first
    assert again.done("k2") is None
    assert again.broken_lines == 0


def test_texts_that_rows_have_in_common_are_held_once(tmp_path: Path) -> None:
    version = "2.15.0+cu132"
    for key in ("k1", "k2"):
        made = record(key, provenance={"versions": {"torch": version}})
        Ledger(tmp_path).append(made)
    first, second = Ledger(tmp_path).records.values()
    assert first.suite is second.suite
    assert next(iter(first.metrics)) is next(iter(second.metrics))
    assert first.provenance["versions"]["torch"] is second.provenance["versions"]["torch"]


def test_an_outcome_comes_back_as_it_was(tmp_path: Path) -> None:
    Ledger(tmp_path).append(record(), OUTCOME)
    again = Ledger(tmp_path)
    found = again.outcome(again.records["k1"])
    assert dict(found.metrics) == dict(OUTCOME.metrics)
    assert dict(found.notes) == dict(OUTCOME.notes)
    expected, got = OUTCOME.columns, found.columns
    assert got.groups.keys() == expected.groups.keys()
    for name, group in {**expected.groups, "about": expected.about}.items():
        own = got.about if name == "about" else got[name]
        assert own.keys() == group.keys()
        for column, values in group.items():
            np.testing.assert_array_equal(own[column], values)
            assert own[column].dtype == values.dtype


def test_an_outcome_without_samples_has_no_file(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.append(record(), Outcome(NOTHING, Summary({"mcm/auroc": 0.75})))
    assert not ledger.samples_path("k1").exists()
    assert dict(ledger.outcome(ledger.records["k1"]).metrics) == {"mcm/auroc": 0.75}
    assert not list((tmp_path / "samples").iterdir())


def test_samples_are_never_pickled(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="allow_pickle"):
        Ledger(tmp_path).append(record(), small([{}], object))
    assert Ledger(tmp_path).done("k1") is None


def test_a_failure_does_not_count_as_done_and_is_overtaken(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.append(record(status="failed", metrics={}, error="NaN in layer 'visual.conv1'"))
    assert ledger.done("k1") is None
    assert Ledger(tmp_path).records["k1"].error == "NaN in layer 'visual.conv1'"
    ledger.append(record())
    assert Ledger(tmp_path).done("k1") == record()


def test_reports_are_kept_apart(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.append_report(ReportRow("c1", REPORT))
    ledger.append(record())
    again = Ledger(tmp_path)
    assert again.reports["c1"].report == REPORT
    assert list(again.records) == ["k1"]


def test_the_newest_efficiency_of_a_configuration_counts(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    rows = [EfficiencyRow("c1", machine, EFFICIENCY) for machine in ("old", "new")]
    for row in rows:
        ledger.append_efficiency(row)
    assert ledger.efficiencies == {"c1": rows[1]}
    assert Ledger(tmp_path).efficiencies == {"c1": rows[1]}


@given(data=st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_killed_in_the_middle_of_a_row(tmp_path: Path, data: st.DataObject) -> None:
    """Whatever is left of the last row, the rows before it stay and the next one is whole."""
    (tmp_path / "ledger.jsonl").unlink(missing_ok=True)
    ledger = Ledger(tmp_path)
    ledger.append(record("k1"))
    before = ledger.file.stat().st_size
    ledger.append(record("k2"))
    whole = ledger.file.read_bytes()
    cut = data.draw(st.integers(before, len(whole) - 1))
    ledger.file.write_bytes(whole[:cut])
    again = Ledger(tmp_path)
    assert list(again.records) == ["k1"]
    again.append(record("k3"))
    last = Ledger(tmp_path)
    assert {"k1", "k3"} <= set(last.records) <= {"k1", "k2", "k3"}
    assert last.records["k3"] == record("k3")
    assert last.broken_lines <= 1


json_lines = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["kind", "key", "configuration", "report", "status", "metrics"]), inner, max_size=5
        ),
    ),
    max_leaves=8,
).map(json.dumps)


@given(
    lines=st.lists(
        st.one_of(
            json_lines,
            st.sampled_from(["record", "report"]).flatmap(lambda kind: json_lines.map(lambda x: f'{{"kind":"{kind}",')),
            st.text(max_size=10),
        ),
        max_size=5,
    )
)
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_hostile_lines_are_skipped_and_counted(tmp_path: Path, lines: list[str]) -> None:
    (tmp_path / "ledger.jsonl").unlink(missing_ok=True)
    ledger = Ledger(tmp_path)
    ledger.append(record("k1"))
    with ledger.file.open("ab") as file:
        file.writelines(line.replace("\n", " ").encode("utf-8", "surrogatepass") + b"\n" for line in lines)
    ledger.append(record("k3"))
    again = Ledger(tmp_path)
    assert again.records["k1"] == record("k1")
    assert again.records["k3"] == record("k3")
    assert again.broken_lines <= len(lines)


@pytest.mark.parametrize(
    "line",
    [
        "5",
        "null",
        "[]",
        '"text"',
        "{}",
        '{"kind": "record"}',
        '{"kind": "record", "key": "x"}',
        '{"kind": "record", "key": []}',
        '{"kind": "report", "configuration": "c"}',
        '{"kind": "report", "configuration": {}, "report": {}}',
        "[" * 100_000,
        "\x00",
        "{",
    ],
    ids=lambda line: line[:30],
)
def test_each_broken_line_is_counted(tmp_path: Path, line: str) -> None:
    ledger = Ledger(tmp_path)
    with ledger.file.open("a") as file:
        file.write(line + "\n")
    ledger.append(record())
    again = Ledger(tmp_path)
    assert list(again.records) == ["k1"]
    assert again.reports == {}
    assert again.broken_lines == 1


def test_a_row_that_is_being_written_is_read_later(tmp_path: Path) -> None:
    writer, reader = Ledger(tmp_path), Ledger(tmp_path)
    writer.append(record("k1"))
    content = writer.file.read_bytes()
    writer.file.write_bytes(content[:-5])
    reader.refresh()
    assert reader.records == {}
    writer.file.write_bytes(content)
    reader.refresh()
    assert list(reader.records) == ["k1"]
    assert reader.broken_lines == 0


def test_a_neighbours_rows_are_seen(tmp_path: Path) -> None:
    one, two = Ledger(tmp_path), Ledger(tmp_path)
    one.append(record("k1"))
    two.append(record("k2"))
    one.refresh()
    two.refresh()
    assert set(one.records) == set(two.records) == {"k1", "k2"}


def _append_many(home: Path, name: str, gate: Any) -> None:
    ledger = Ledger(home)
    gate.wait()
    for i in range(40):
        ledger.append(record(f"{name}{i}", notes={"ood/scenes.far/x": "y" * (i * 200)}))


def test_two_processes_append_without_mixing_rows(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    gate = context.Barrier(2)
    workers = [context.Process(target=_append_many, args=(tmp_path, name, gate)) for name in "ab"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0, 0]
    ledger = Ledger(tmp_path)
    assert len(ledger.records) == 80
    assert ledger.broken_lines == 0


def test_nothing_that_is_not_a_number_gets_in(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        Ledger(tmp_path).append(record(metrics={"x": float("nan")}))
    assert Ledger(tmp_path).records == {}


def test_an_unwritable_folder_is_said_at_once_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for home in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StorageError, match=r"cannot be written .*--home"):
            Ledger(home)


def test_a_ledger_that_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "ledger.jsonl").mkdir()
    with pytest.raises(StorageError, match="cannot be written"):
        Ledger(tmp_path)


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 not a zip", b"\x93NUMPY", None])
def test_damaged_samples_are_said(tmp_path: Path, damage: bytes | None) -> None:
    ledger = Ledger(tmp_path)
    ledger.append(record(), OUTCOME)
    path = ledger.samples_path("k1")
    whole = path.read_bytes()
    path.write_bytes(whole[:200] + b"\x00" * 50 + whole[250:] if damage is None else damage)
    with pytest.raises(StorageError, match="k1"):
        ledger.outcome(ledger.records["k1"])


def test_damaged_samples_are_computed_again_and_the_row_stays(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.append(record(), OUTCOME)
    path = ledger.samples_path("k1")
    path.write_bytes(b"PK\x03\x04 not a zip")
    with pytest.raises(DamagedSamplesError, match=r"k1.npz is damaged .*reliquant run"):
        ledger.outcome(ledger.records["k1"])
    assert ledger.done("k1") is None
    ledger.append(record(), OUTCOME)
    assert ledger.done("k1") == ledger.records["k1"]
    np.testing.assert_array_equal(
        ledger.outcome(ledger.records["k1"]).columns["id"]["score"], OUTCOME.columns["id"]["score"]
    )
    assert len(ledger.file.read_text().splitlines()) == 1


def test_any_flipped_bit_in_samples_is_found(tmp_path: Path) -> None:
    """Also in the archive's table of contents, where it may hide a column and no checksum of ZIP notices."""
    ledger = Ledger(tmp_path)
    ledger.append(record(), OUTCOME)
    whole = ledger.samples_path("k1").read_bytes()
    with zipfile.ZipFile(ledger.samples_path("k1")) as archive:
        assert archive.testzip() is None
    for position in range(len(whole)):
        for bit in range(8):
            content = bytearray(whole)
            content[position] ^= 1 << bit
            with pytest.raises(ValueError, match="digest"):
                unpack(bytes(content))
    content = bytearray(whole)
    content[100] ^= 1
    ledger.samples_path("k1").write_bytes(bytes(content))
    with pytest.raises(DamagedSamplesError, match="its digest does not fit"):
        ledger.outcome(ledger.records["k1"])


@pytest.mark.parametrize("kept", [0, 1, 63, 64, 65, 500])
def test_samples_cut_short_are_damaged(kept: int) -> None:
    with pytest.raises(ValueError, match="digest"):
        unpack(pack({"a": np.arange(200.0)})[:kept])


@given(data=st.data())
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_a_flipped_bit_in_a_row_never_changes_a_number(tmp_path: Path, data: st.DataObject) -> None:
    (tmp_path / "ledger.jsonl").unlink(missing_ok=True)
    ledger = Ledger(tmp_path)
    wanted = {f"k{i}": record(f"k{i}", seconds=i / 7) for i in range(3)}
    for one in wanted.values():
        ledger.append(one)
    ledger.append_report(ReportRow("c1", REPORT))
    content = bytearray(ledger.file.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    ledger.file.write_bytes(content)
    again = Ledger(tmp_path)
    assert again.records.items() <= wanted.items()
    assert len(again.records) >= 1
    assert all(row.report == REPORT for row in again.reports.values())


def test_a_record_that_a_neighbour_has_finished_is_not_written_again(tmp_path: Path) -> None:
    one, two = Ledger(tmp_path), Ledger(tmp_path)
    one.append(record(seconds=1.0))
    two.append(record(seconds=2.0))
    two.append(record(status="failed", metrics={}, error="out of memory"))
    assert two.done("k1") == Ledger(tmp_path).done("k1") == record(seconds=1.0)
    assert len(one.file.read_text().splitlines()) == 1


@pytest.mark.parametrize("harm", ["missing", "another evaluation's"])
def test_samples_that_are_not_the_records_are_computed_again(tmp_path: Path, harm: str) -> None:
    """Also whole files: the record has their digest."""
    ledger = Ledger(tmp_path)
    ledger.append(record(), OUTCOME)
    path = ledger.samples_path("k1")
    right = path.read_bytes()
    assert ledger.records["k1"].samples == digest_of(right)
    path.unlink()
    if harm != "missing":
        path.write_bytes(pack({"samples|sample_id": np.array(["a"])}))
    again = Ledger(tmp_path)
    with pytest.raises(DamagedSamplesError, match=r"k1.npz is damaged \(it is"):
        again.outcome(again.records["k1"])
    assert again.done("k1") is None
    again.append(record(), OUTCOME)
    assert path.read_bytes() == right
    assert again.done("k1") is not None
    assert len(again.file.read_text().splitlines()) == 1


def test_other_numbers_after_damage_are_a_new_row(tmp_path: Path) -> None:
    """Another machine computes other last bits: the row that counts names the file that is there."""
    ledger, other = Ledger(tmp_path), Ledger(tmp_path)
    ledger.append(record(), OUTCOME)
    other.refresh()
    ledger.samples_path("k1").unlink()
    with pytest.raises(DamagedSamplesError):
        ledger.outcome(ledger.records["k1"])
    ledger.append(record(seconds=2.0), small(["a"]))
    with pytest.raises(DamagedSamplesError):  # it has not seen the new row yet
        other.outcome(other.records["k1"])
    for reader in (other, Ledger(tmp_path)):
        reader.refresh()
        assert reader.done("k1") == ledger.records["k1"]
        assert list(reader.outcome(reader.records["k1"]).columns.groups) == ["test"]


def test_a_neighbours_samples_are_left_alone(tmp_path: Path) -> None:
    one, two = Ledger(tmp_path), Ledger(tmp_path)
    one.append(record(), OUTCOME)
    two.append(record(), small(["other"]))
    assert_whole(two)


@pytest.mark.parametrize("code", [errno.EIO, errno.EACCES, errno.EMFILE])
def test_samples_that_cannot_be_read_are_not_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    ledger = Ledger(tmp_path)
    ledger.append(record(), OUTCOME)

    def refuse(*_: object) -> bytes:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", refuse)
        with pytest.raises(StorageError, match=f"k1.npz cannot be read: {os.strerror(code)}") as caught:
            ledger.outcome(ledger.records["k1"])
    assert not isinstance(caught.value, DamagedSamplesError)
    assert ledger.done("k1") is not None


def test_names_are_brought_to_the_disk_with_their_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rename survives a power failure only when the folder is synced after it."""
    done: list[tuple[str, str]] = []
    fsync, replace = os.fsync, Path.replace

    def synced(handle: int) -> None:
        done.append(("sync", Path(f"/proc/self/fd/{handle}").readlink().name))
        fsync(handle)

    def renamed(path: Path, target: Path) -> Path:
        done.append(("rename", target.name))
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", renamed)
    Ledger(tmp_path).append(record("abc"), OUTCOME)
    aside = next(name for kind, name in done if kind == "sync" and name.endswith(".tmp"))
    order = [("sync", "samples"), ("sync", aside), ("rename", "abc.npz"), ("sync", "ab"), ("sync", "ledger.jsonl")]
    assert done == [("sync", tmp_path.name), *order]
