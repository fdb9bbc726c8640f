"""The ledger: an append-only JSONL file, one row per finished evaluation. The source of truth for resuming.

MLflow is a view of it. Per-sample columns lie beside it in `samples/<key>.npz`, written before their row.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal

from filelock import FileLock
from numpy.typing import NDArray

from benchmark.engine.samples import pack, unpack
from benchmark.errors import DamagedSamplesError, StorageError, why
from benchmark.plugins import Outcome
from benchmark.spec import digest

Status = Literal["done", "failed"]


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
        pair: equal for records that differ in their quantization only, so that they can be compared.
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
    pair: str = ""

    @property
    def name(self) -> str:
        """`task/dataset`, the first two parts of its metric keys."""
        return f"{self.task}/{self.dataset}"


@dataclass(frozen=True)
class ReportRow:
    """The QuantizationReport of one quantized model (`Configuration.content`), as JSON."""

    configuration: str
    report: Mapping[str, Any]


@dataclass(frozen=True)
class EfficiencyRow:
    """Size and speed of one quantized model (`Configuration.content`) on one machine.

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
            (home / "samples").mkdir(parents=True, exist_ok=True)
            with self.file.open("ab"):
                pass
        except OSError as error:
            raise StorageError(
                f"results folder {home} cannot be written ({error.strerror}); choose another with --home DIR"
            ) from error
        self._lock = FileLock(home / ".ledger.lock")
        self.records: dict[str, Record] = {}
        self.reports: dict[str, ReportRow] = {}
        self.efficiencies: dict[str, EfficiencyRow] = {}
        self.broken_lines = 0
        self._unreadable: set[str] = set()
        self._offset = 0
        self.refresh()

    def refresh(self) -> None:
        """Read the rows that this or another process has appended since the last look."""
        with self.file.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    break  # another process is writing it, or was killed doing so
                self._offset += len(line)
                self._take(line)

    def done(self, key: str) -> Record | None:
        """The finished record of an evaluation; failed ones and those whose samples are damaged are tried again."""
        record = self.records.get(key)
        return record if record is not None and record.status == "done" and key not in self._unreadable else None

    def append(self, record: Record, outcome: Outcome | None = None) -> None:
        """Write the samples, then the row; a row is whole or is not there, and a finished one is there once."""
        if outcome is not None:
            self._write_samples(record.key, outcome)
            self._unreadable.discard(record.key)
        with self._locked() as file:
            self.refresh()
            if self.done(record.key) is None:
                self._append(file, {"kind": "record", **asdict(record)})
                self.records[record.key] = record

    def append_report(self, row: ReportRow) -> None:
        """Write the report of a configuration."""
        with self._locked() as file:
            self._append(file, {"kind": "report", **asdict(row)})
        self.reports[row.configuration] = row

    def append_efficiency(self, row: EfficiencyRow) -> None:
        """Write the efficiency of a configuration."""
        with self._locked() as file:
            self._append(file, {"kind": "efficiency", **asdict(row)})
        self.efficiencies[row.configuration] = row

    def outcome(self, record: Record) -> Outcome:
        """The outcome of a finished record, read back; metric keys relative to the record's.

        Raises:
            DamagedSamplesError: its samples cannot be read; they are taken away and it does not count as done here.
        """
        prefix = f"{record.task}/{record.dataset}/"
        arrays: dict[str, dict[str, NDArray[Any]]] = {"samples": {}, "tables": {}}
        path = self.samples_path(record.key)
        if path.is_file():
            try:
                for name, values in unpack(path.read_bytes()).items():
                    kind, _, column = name.partition("|")
                    arrays[kind][column] = values
            except (OSError, ValueError) as error:
                self._unreadable.add(record.key)
                raise DamagedSamplesError(
                    f"{path} is damaged ({error}); `reliquant run` computes that evaluation again"
                ) from error
        return Outcome(
            metrics={key.removeprefix(prefix): value for key, value in record.metrics.items()},
            notes={key.removeprefix(prefix): note for key, note in record.notes.items()},
            **arrays,
        )

    def samples_path(self, key: str) -> Path:
        """Where the per-sample columns and tables of an evaluation lie."""
        return self.home / "samples" / f"{key}.npz"

    def _write_samples(self, key: str, outcome: Outcome) -> None:
        columns = {f"samples|{name}": column for name, column in outcome.samples.items()}
        columns |= {f"tables|{name}": table for name, table in outcome.tables.items()}
        if not columns:
            return
        path = self.samples_path(key)
        aside = path.with_suffix(f".{os.getpid()}-{uuid.uuid4().hex}.tmp")
        try:
            with aside.open("wb") as file:
                file.write(pack(columns))
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
        except OSError as error:
            raise StorageError(f"{path} cannot be written: {why(error)}") from error
        finally:
            aside.unlink(missing_ok=True)

    @contextmanager
    def _locked(self) -> Iterator[BinaryIO]:
        try:
            with self._lock, self.file.open("r+b") as file:
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

    def _take(self, line: bytes) -> None:
        try:
            row = dict(json.loads(line))
            claimed = row.pop("sha256", None)  # rows of early versions have none
            if claimed is not None and claimed != digest(row):
                raise ValueError("a byte was changed")
            kind = row.pop("kind")
            if kind == "record":
                self.records[row["key"]] = Record(**row)
            elif kind == "report":
                self.reports[row["configuration"]] = ReportRow(**row)
            elif kind == "efficiency":
                self.efficiencies[row["configuration"]] = EfficiencyRow(**row)
        except (ValueError, KeyError, TypeError, RecursionError):
            self.broken_lines += 1


def _last_byte(file: BinaryIO, end: int) -> bytes:
    file.seek(end - 1)
    return file.read(1)
