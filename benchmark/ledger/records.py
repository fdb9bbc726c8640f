"""The ledger: an append-only JSONL file, one row per finished evaluation. The source of truth for resuming.

MLflow is a view of it. A row counts if its checksum fits and its fields have their types (`benchmark.ledger.forms`);
other rows are skipped and named by their line. The checksum guards against damage, not against forgery: whoever writes
a row can write its checksum.

Per-sample columns lie beside it in `samples/<key[:2]>/<key>.npz`, the metrics' replicates in `replicates/`, written
before their row, which has their digests.
"""

from __future__ import annotations

import json
import os
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from benchmark.errors import DamagedSamplesError, StorageError, why
from benchmark.ledger.forms import check_row
from benchmark.ledger.samples import digest_of, is_whole, pack, unpack
from benchmark.plugins import Columns, Outcome, Summary
from benchmark.spec import digest
from benchmark.utils.durable import sync_folder
from benchmark.utils.locking import exclusive

Status = Literal["done", "failed"]
SAMPLES, REPLICATES = "samples", "replicates"
"""Folders beside the rows."""
LARGEST_ROW = 1 << 24
"""Bytes; the report of a model with a thousand layers has a fiftieth of that."""
NAMED_ROWS = 3
"""So many skipped rows are named, the others counted."""


@dataclass(frozen=True)
class Record:
    """One finished evaluation: model x quantization x task x data binding.

    Attributes:
        key: content hash of everything that can change its numbers.
        configuration: key of its (model, quantization), shared by the tasks.
        metrics: full metric key (`ood/scenes.far/mcm/auroc`) -> value.
        notes: metric key -> why it is undefined here.
        error: the reason, where `status` is "failed".
        provenance: versions, device, digests, calibration, time.
        comparison_key: equal for records that differ in their quantization only, so that they can be compared.
        samples: SHA-256 of the file of its per-sample columns; None where it has none. replicates: the same for its
            metrics without each group of pictures (`benchmark.results.evidence`).
        identity: what it is by name (`benchmark.results.identity`): found from YAML alone, on any machine.
    """

    key: str
    configuration: str
    suite: str
    model: str
    quantization: str
    task: str
    dataset: str
    status: Status
    seconds: float
    metrics: Mapping[str, float] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)
    error: str | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    comparison_key: str = ""
    samples: str | None = None
    replicates: str | None = None
    identity: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """`task/dataset`, the first two parts of its metric keys."""
        return f"{self.task}/{self.dataset}"


@dataclass(frozen=True)
class Alias:
    """Names under which a finished evaluation was asked for again: by another suite, or of a model of another name.

    Attributes:
        key, configuration, suite, model, identity: as in a record.
    """

    key: str
    configuration: str
    suite: str
    model: str
    identity: Mapping[str, Any]


@dataclass(frozen=True)
class ReportRow:
    """The QuantizationReport of one quantized model (`Configuration.quantized_key`), as JSON."""

    configuration: str
    report: Mapping[str, Any]


@dataclass(frozen=True)
class EfficiencyRow:
    """Size and speed of one quantized model (`Configuration.quantized_key`) on one machine.

    Attributes:
        machine: the host's name.
        efficiency: `benchmark.quantization.efficiency.Efficiency` as JSON.
    """

    configuration: str
    machine: str
    efficiency: Mapping[str, Any]


class Ledger:
    """Records, reports and efficiencies below `home`; of one configuration the newest report and efficiency count.

    Raises:
        StorageError: `home` cannot be written (said at once, before any work).
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self.file = home / "ledger.jsonl"
        try:
            for folder in (SAMPLES, REPLICATES):
                (home / folder).mkdir(parents=True, exist_ok=True)
            new = not self.file.exists()
            with self.file.open("ab"):
                if new:
                    sync_folder(home)
        except OSError as error:
            reason = why(error)
            way = "" if "--home" in reason else "; choose another with --home DIR"
            raise StorageError(f"results folder {home} cannot be written ({reason}){way}") from error
        self._lock = home / ".ledger.lock"
        self.records: dict[str, Record] = {}
        self._names: dict[tuple[str, str, str], Alias] = {}
        self.reports: dict[str, ReportRow] = {}
        self.efficiencies: dict[str, EfficiencyRow] = {}
        self.broken: list[tuple[int, str]] = []
        self.mended: list[str] = []
        self._lines = 0
        self._unreadable: set[str] = set()
        self._offset = 0
        self.refresh()

    def refresh(self) -> None:
        """Read the rows that this or another process has appended since the last look."""
        with self.file.open("rb") as file:
            file.seek(self._offset)
            for line, length in _lines(file):
                self._offset += length
                self._lines += 1
                self._take(line)

    @property
    def broken_lines(self) -> int:
        """How many rows were skipped (`broken`: line number and reason)."""
        return len(self.broken)

    @property
    def damage(self) -> str | None:
        """One line on the rows that were skipped; None where all could be read."""
        if not self.broken:
            return None
        named = "; ".join(f"line {number}: {reason}" for number, reason in self.broken[:NAMED_ROWS])
        more = f"; and {len(self.broken) - NAMED_ROWS} more" if len(self.broken) > NAMED_ROWS else ""
        rows = "1 damaged row is" if len(self.broken) == 1 else f"{len(self.broken)} damaged rows are"
        return f"{self.file}: {rows} skipped ({named}{more})"

    def done(self, key: str) -> Record | None:
        """The finished record of an evaluation; failed ones and those whose samples are damaged are tried again."""
        record = self.records.get(key)
        return record if record is not None and record.status == "done" and key not in self._unreadable else None

    def append(
        self, record: Record, outcome: Outcome | None = None, replicates: Mapping[str, NDArray[Any]] | None = None
    ) -> None:
        """Write samples and replicates, then the row; a row is whole or is not there, and a finished one once."""
        packed = _packed(outcome.columns) if outcome is not None else None
        more = pack(replicates) if replicates else None
        record = replace(
            record, samples=digest_of(packed) if packed else None, replicates=digest_of(more) if more else None
        )
        with self._locked() as file:
            self.refresh()
            if self.done(record.key) is not None:
                return
            old = self.records.get(record.key)
            for folder, content in ((SAMPLES, packed), (REPLICATES, more)):
                if content is not None:
                    self._write_beside(self._path(folder, record.key), content)
            self._unreadable.discard(record.key)
            own = ("done", record.samples, record.replicates)
            if old is None or (old.status, old.samples, old.replicates) != own:  # else the old row is right again
                self._append(file, {"kind": "record", **asdict(record)})
                self._keep(record)

    def append_alias(self, alias: Alias) -> None:
        """Write under which names a finished evaluation was asked for, unless that is known."""
        if self._names.get((alias.suite, alias.model, alias.key)) == alias:
            return
        with self._locked() as file:
            self._append(file, {"kind": "alias", **asdict(alias)})
        self._name(alias)

    def answers(self) -> list[Record]:
        """Every record under every name that it was asked for, in the order in which it was."""
        return [_under(alias, self.records[alias.key]) for alias in self._names.values()]

    def _keep(self, record: Record) -> None:
        self.records[record.key] = record
        self._name(Alias(record.key, record.configuration, record.suite, record.model, record.identity))

    def _name(self, alias: Alias) -> None:
        place = (alias.suite, alias.model, alias.key)
        self._names.pop(place, None)
        self._names[place] = alias

    def append_report(self, row: ReportRow) -> None:
        """Write the report of a configuration."""
        with self._locked() as file:
            self._append(file, {"kind": "report", **asdict(row)})
        self.reports[row.configuration] = row

    def append_efficiency(self, row: EfficiencyRow) -> None:
        """Write the efficiency of a configuration."""
        with self._locked() as file:
            self._append(file, {"kind": "timing", **asdict(row)})
        self.efficiencies[row.configuration] = row

    def outcome(self, record: Record, whole: bool = True) -> Outcome:
        """The outcome of a finished record, read back; metric keys relative to the record's.

        It has no tables: they follow from the columns (`benchmark.results.summaries`).

        Args:
            whole: False where a record whose samples are not in the results folder is welcome without them.

        Raises:
            DamagedSamplesError: its samples are missing or altered; it does not count as done here any more.
            StorageError: its samples cannot be read.
        """
        prefix = f"{record.task}/{record.dataset}/"
        summary = Summary(
            metrics={key.removeprefix(prefix): value for key, value in record.metrics.items()},
            notes={key.removeprefix(prefix): note for key, note in record.notes.items()},
        )
        return Outcome(_unpacked(self._samples(record, whole)), summary)

    def outcomes(self, records: Mapping[str, Record]) -> Mapping[str, Outcome]:
        """The outcomes of finished records: checked now, unpacked when one is asked for.

        Raises:
            DamagedSamplesError, StorageError: as `outcome`, for the first that is not whole.
        """
        for record in records.values():
            if record.samples is not None:
                self._read(record)
        return _Outcomes(self, records)

    def _samples(self, record: Record, whole: bool) -> dict[str, NDArray[Any]]:
        if record.samples is None or (not whole and not self.samples_path(record.key).is_file()):
            return {}
        content = self._read(record)
        try:
            return unpack(content)
        except ValueError as error:
            raise self._damaged(record, str(error)) from None

    def _read(self, record: Record) -> bytes:
        """The bytes of a record's samples, whole and the ones that it names."""
        path = self.samples_path(record.key)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            raise self._damaged(record, "it is missing") from None
        except OSError as error:
            raise StorageError(f"{path} cannot be read: {why(error)}") from error
        if not is_whole(content):
            raise self._damaged(record, "its digest does not fit")
        if record.samples != digest_of(content):
            raise self._damaged(record, "it is not the one that its record names")
        return content

    def _damaged(self, record: Record, damage: str) -> DamagedSamplesError:
        self._unreadable.add(record.key)
        path = self.samples_path(record.key)
        return DamagedSamplesError(f"{path} is damaged ({damage}); `reliquant run` computes that evaluation again")

    def replicates(self, record: Record) -> dict[str, NDArray[Any]] | None:
        """What `append` was given; None where the file is missing or not the one that its record names.

        Raises:
            StorageError: it is there and cannot be read.
        """
        if record.replicates is None:
            return None
        path = self._path(REPLICATES, record.key)
        try:
            content = path.read_bytes()
            return unpack(content) if record.replicates == digest_of(content) else None
        except (FileNotFoundError, ValueError):
            return None
        except OSError as error:
            raise StorageError(f"{path} cannot be read: {why(error)}") from error

    def mend_replicates(self, record: Record, replicates: Mapping[str, NDArray[Any]]) -> None:
        """Put back a file of replicates that is missing or damaged; `mended` has a line on it.

        A results folder that cannot be written is only read: then the line alone remains.
        """
        path, content = self._path(REPLICATES, record.key), pack(replicates)
        self.mended.append(f"{path} is missing or damaged; it was made again from the samples")
        if record.replicates == digest_of(content):
            with suppress(StorageError):
                self._write_beside(path, content)

    def samples_path(self, key: str) -> Path:
        """Where the per-sample columns of an evaluation lie."""
        return self._path(SAMPLES, key)

    def _path(self, folder: str, key: str) -> Path:
        return self.home / folder / key[:2] / f"{key}.npz"

    def _write_beside(self, path: Path, packed: bytes) -> None:
        aside = path.with_suffix(f".{os.getpid()}-{uuid.uuid4().hex}.tmp")
        try:
            if not path.parent.is_dir():
                path.parent.mkdir(exist_ok=True)
                sync_folder(path.parent.parent)
            with aside.open("wb") as file:
                file.write(packed)
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
            sync_folder(path.parent)
        except OSError as error:
            raise StorageError(f"{path} cannot be written: {why(error)}") from error
        finally:
            aside.unlink(missing_ok=True)

    @contextmanager
    def _locked(self) -> Iterator[BinaryIO]:
        try:
            with exclusive(self._lock), self.file.open("r+b") as file:
                yield file
        except OSError as error:
            raise StorageError(f"{self.file} cannot be written: {why(error)}") from error

    def _append(self, file: BinaryIO, row: Mapping[str, Any]) -> None:
        line = json.dumps({**row, "sha256": digest(row)}, allow_nan=False).encode() + b"\n"
        end = file.seek(0, os.SEEK_END)
        if end and _last_byte(file, end) != b"\n":
            line = b"\n" + line  # a killed writer left half a row: close it, it is skipped on reading
        file.seek(0, os.SEEK_END)
        file.write(line)
        file.flush()
        os.fsync(file.fileno())

    def _take(self, line: bytes | None) -> None:
        try:
            kind, row = read_row(line)
        except (ValueError, TypeError, RecursionError) as error:
            reason = "nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())[:160]
            self.broken.append((self._lines, reason))
            return
        if kind == "record":
            new, old = Record(**row), self.records.get(row["key"])
            if old is None or old.samples != new.samples:  # else it is a row that was read or written before
                self._unreadable.discard(new.key)
            self._keep(new)
        elif kind == "alias" and row["key"] in self.records:
            self._name(Alias(**row))
        elif kind == "report":
            self.reports[row["configuration"]] = ReportRow(**row)
        elif kind == "timing":
            self.efficiencies[row["configuration"]] = EfficiencyRow(**row)


class _Outcomes(Mapping[str, Outcome]):
    """Outcomes of a ledger that are unpacked when they are asked for: a sweep that is complete needs none."""

    def __init__(self, ledger: Ledger, records: Mapping[str, Record]) -> None:
        self._ledger, self._records = ledger, dict(records)

    def __getitem__(self, key: str) -> Outcome:
        return self._ledger.outcome(self._records[key])

    def __iter__(self) -> Iterator[str]:
        return iter(self._records)

    def __len__(self) -> int:
        return len(self._records)


def _lines(file: BinaryIO) -> Iterator[tuple[bytes | None, int]]:
    """Whole lines with their lengths; None for one beyond `LARGEST_ROW`, which is never held in memory."""
    while line := file.readline(LARGEST_ROW):
        length, whole = len(line), line.endswith(b"\n")
        last = line
        while not last.endswith(b"\n"):
            if not (last := file.readline(LARGEST_ROW)):
                return  # another process is writing it, or was killed doing so
            length += len(last)
        yield line if whole else None, length


def read_row(line: bytes | None) -> tuple[str, dict[str, Any]]:
    """Kind and fields of a row; None: it was larger than `LARGEST_ROW`.

    Raises:
        ValueError, TypeError, RecursionError: it is damaged, or has another form.
    """
    if line is None:
        raise ValueError(f"more than {LARGEST_ROW >> 20} MB")
    try:
        row = json.loads(line, object_pairs_hook=_interned)
    except ValueError:
        raise ValueError("not JSON, or cut off") from None
    if not isinstance(row, dict):
        raise ValueError("no object")
    if "sha256" not in row:
        raise ValueError("it has no sha256")
    if row.pop("sha256") != digest(row):
        raise ValueError("its sha256 does not fit")
    if b"\\u" in line:
        json.dumps(row, ensure_ascii=False).encode()  # half a character (a lone surrogate) could not be printed
    kind = row.pop("kind", None)
    check_row(kind, row)
    return kind, row


def _under(alias: Alias, record: Record) -> Record:
    """A record under a name that it was asked for; most have only their own."""
    own = (record.configuration, record.suite, record.model)
    if own == (alias.configuration, alias.suite, alias.model) and alias.identity is record.identity:
        return record
    configuration, suite, model = alias.configuration, alias.suite, alias.model
    return replace(record, configuration=configuration, suite=suite, model=model, identity=alias.identity)


def _interned(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of a row; its texts are those of all rows (versions, digests, metric keys): a third of the memory."""
    return {sys.intern(key): sys.intern(value) if isinstance(value, str) else value for key, value in pairs}


def _packed(columns: Columns) -> bytes | None:
    """Columns as the content of a file, without base ids that are the sample ids; None where there are none."""
    arrays = {f"about|{name}": values for name, values in columns.about.items()}
    for group, own in columns.groups.items():
        same = np.array_equal(own["base_id"], own["sample_id"])
        arrays |= {f"{group}|{name}": values for name, values in own.items() if not (same and name == "base_id")}
    return pack(arrays) if arrays else None


def _unpacked(arrays: Mapping[str, NDArray[Any]]) -> Columns:
    groups: dict[str, dict[str, NDArray[Any]]] = {"about": {}}
    for key, values in arrays.items():
        group, _, name = key.partition("|")
        groups.setdefault(group, {})[name] = values
    about = groups.pop("about")
    return Columns(groups, about)


def _last_byte(file: BinaryIO, end: int) -> bytes:
    file.seek(end - 1)
    return file.read(1)
