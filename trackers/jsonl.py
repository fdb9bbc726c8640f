"""JSONL: one line per finished record, in a file or on a stream."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock

from benchmark.results.tables import report_figures
from benchmark.tracking import FinishedConfiguration, Tracker
from benchmark.utils.output import out


def rows(finished: FinishedConfiguration) -> list[dict[str, Any]]:
    """One JSON object per record: names, status, metrics by full path, changes against full precision, notes.

    `p` and `interval` (95 %) belong to `change`; `p` is not adjusted, a reader knows what is shown together.
    """
    found = []
    for record in finished.records:
        reference = finished.references.get(f"{record.task}/{record.dataset}")
        prefix = f"{record.task}/{record.dataset}/"
        base = {prefix + key: value for key, value in reference.metrics.items()} if reference else {}
        row = {
            "kind": "record",
            "suite": record.suite,
            "model": record.model,
            "quantization": record.quantization,
            "task": record.task,
            "dataset": record.dataset,
            "status": record.status,
            "error": record.error,
            "metrics": dict(record.metrics),
            "change": {key: value - base[key] for key, value in record.metrics.items() if key in base},
            "p": {
                change.key: change.p
                for change in finished.changes
                if change.p is not None and change.key in record.metrics
            },
            "interval": {
                change.key: [change.low, change.high]
                for change in finished.changes
                if change.low is not None and change.key in record.metrics
            },
            "notes": dict(record.notes),
            "quantized": report_figures(finished.report) if finished.report else None,
            "efficiency": dict(finished.efficiency) if finished.efficiency else None,
            "key": record.key,
        }
        found.append(row)
    return found


class JsonlTracker(Tracker):
    """Appends to `<home>/records.jsonl`, or to the file given as URI; a record is written once."""

    name = "jsonl"

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self._written: set[str] = set()
        self._offset = 0

    def open(self, home: Path, uri: str | None = None) -> JsonlTracker:
        """A tracker on `<home>/records.jsonl` or on the file `uri`."""
        return JsonlTracker(Path(uri) if uri else home / "records.jsonl")

    def log(self, finished: FinishedConfiguration) -> None:
        """Append the records that are not there yet, whoever wrote them."""
        if self.path is None:
            raise RuntimeError("JsonlTracker.log before open")
        with FileLock(self.path.with_name(f".{self.path.name}.lock")), self.path.open("a+b") as file:
            self._read(file)
            new = [row for row in rows(finished) if row["status"] == "done" and row["key"] not in self._written]
            file.write(b"".join(json.dumps(row, allow_nan=False).encode() + b"\n" for row in new))
            file.flush()
            os.fsync(file.fileno())

    def _read(self, file: BinaryIO) -> None:
        """Take in the rows since the last look; half a row that a killed writer left is closed."""
        file.seek(self._offset)
        text = file.read()
        if text and not text.endswith(b"\n"):
            text += b"\n"
            file.write(b"\n")
        self._offset += len(text)
        self._written |= {key for key in map(_key, text.splitlines()) if key}


def _key(line: bytes) -> str | None:
    """Key of the record on a line; None for a line that is damaged or not ours."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row.get("key") if isinstance(row, dict) else None


class StreamTracker(Tracker):
    """Prints each record as one JSON line: what `--json` is."""

    name = "stream"

    def __init__(self, write: Callable[[str], object] | None = None) -> None:
        self._write = write

    def open(self, home: Path, uri: str | None = None) -> StreamTracker:
        """Itself: there is nothing to open."""
        return self

    def log(self, finished: FinishedConfiguration) -> None:
        """Print the records."""
        for row in rows(finished):
            (self._write or out().write)(json.dumps(row, allow_nan=False) + "\n")
        out().flush()


tracker = JsonlTracker()
stream = StreamTracker()
