"""What a gate compares with: full precision as this ledger, an earlier one, or an exported folder has it.

`record.json` in an exported folder holds metrics and evidence of the full-precision evaluations, and nothing else: a
gate on another machine needs no model, no images and no ledger of then.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmark.errors import DataError, InputError, ReliquantError
from benchmark.ledger import samples
from benchmark.ledger.records import Ledger, Record
from benchmark.plugins import tasks
from benchmark.results.answers import of_model_name
from benchmark.results.compare import Change
from benchmark.results.decide import judging
from benchmark.results.evidence import Evidence, change, evidence_of, pack, unpack
from benchmark.results.load import newest, open_ledger
from benchmark.spec import FP32

FORMAT = 1
"""Of `record.json`; raise it when its fields change."""
RECORD = "record.json"


@dataclass(frozen=True)
class Evaluated:
    """One full-precision evaluation: metrics by key relative to it, the task's version, and the evidence."""

    metrics: Mapping[str, float]
    version: int
    evidence: Evidence


@dataclass(frozen=True)
class Baseline:
    """Full precision of one model. Attributes: where: for the reader. evaluations: by name (`task/dataset`)."""

    where: str
    model: str
    evaluations: Mapping[str, Evaluated]


def of_records(where: str, records: Iterable[Record], ledger: Ledger) -> Baseline:
    """The baseline that full-precision records of one model are. Args: records: at least one."""
    found = {record.name: record for record in records}
    evaluations = {name: _evaluated(record, ledger) for name, record in found.items()}
    return Baseline(where, next(iter(found.values())).model, evaluations)


def _evaluated(record: Record, ledger: Ledger) -> Evaluated:
    prefix = f"{record.name}/"
    metrics = {key.removeprefix(prefix): value for key, value in record.metrics.items()}
    return Evaluated(metrics, _version(record), evidence_of(ledger, record))


def _version(record: Record) -> int:
    """Of the task that made a record."""
    return int(record.identity.get("task", {}).get("version", tasks.get(record.task).version))


def to_json(baseline: Baseline) -> str:
    """The content of `record.json`."""
    evaluations = {
        name: {
            "metrics": dict(each.metrics),
            "task_version": each.version,
            "evidence": base64.b64encode(samples.pack(pack(each.evidence))).decode("ascii"),
        }
        for name, each in baseline.evaluations.items()
    }
    content = {"format": FORMAT, "model": baseline.model, "quantization": FP32.name, "evaluations": evaluations}
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def read(path: Path) -> Baseline:
    """A `record.json`, or the one in an exported folder.

    Raises:
        InputError: it cannot be read, or is no such file.
    """
    file = path / RECORD if path.is_dir() else path
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise InputError(f"--baseline {file}: format {content['format']!r}, this reliquant reads {FORMAT}")
        evaluations = {name: _read(each) for name, each in content["evaluations"].items()}
        return Baseline(str(file), str(content["model"]), evaluations)
    except OSError as error:
        raise InputError(f"--baseline {file}: cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError, AttributeError, DataError) as error:
        raise InputError(
            f"--baseline {file}: no {RECORD} of `reliquant export` ({error}). Export again, or name a results folder."
        ) from None


def _read(each: Mapping[str, Any]) -> Evaluated:
    evidence = unpack(samples.unpack(base64.b64decode(each["evidence"], validate=True)))
    return Evaluated({key: float(value) for key, value in each["metrics"].items()}, int(each["task_version"]), evidence)


def find(asked: Path | None, ledger: Ledger, suite: str, records: Sequence[Record]) -> Baseline:
    """The baseline for the records of one quantization.

    Args:
        asked: None for the same results folder; another results folder; a `record.json`, or a folder with one.

    Raises:
        InputError: there is none.
    """
    if asked is not None and not (asked / "ledger.jsonl").is_file():
        if not asked.exists():
            raise InputError(f"--baseline {asked}: no such file or folder; name a results folder or a {RECORD}")
        if asked.is_dir() and not (asked / RECORD).is_file():
            raise InputError(f"--baseline {asked}: neither a results folder nor an exported one with a {RECORD}")
        return read(asked)
    other, model = ledger if asked is None else open_ledger(asked), records[0].model
    full = [r for r in newest(other.records.values()) if r.suite == suite and r.quantization == FP32.name]
    models = sorted({r.model for r in full})
    if asked is None:
        pairs = {(r.name, r.comparison_key) for r in records}
        own = [r for r in full if of_model_name(model) == r.model and (r.name, r.comparison_key) in pairs]
    else:
        own = _of_one_model(full, records[0], f"--baseline {asked}")
    if not own:
        has = f"; it has {', '.join(models)}" if models and asked is not None else ""
        raise InputError(
            f"{other.home} has no full-precision evaluation of '{model}' in suite '{suite}' to compare with{has}. "
            "Run the suite, or name one with --baseline FILE|HOME."
        )
    return of_records(str(other.home), own, other)


def _of_one_model(full: Sequence[Record], record: Record, where: str) -> list[Record]:
    """Those of the record's model; of several weights under its name those of its own.

    Raises:
        InputError: there are several weights under its name, and none is its own.
    """
    names = {r.model for r in full}
    named = [r for r in full if r.model == of_model_name(record.model) or len(names) == 1]
    versions: dict[str, list[Record]] = {}
    for each in named:
        versions.setdefault(_weights(each), []).append(each)
    if len(versions) > 1 and _weights(record) not in versions:
        listed = ", ".join(digest[:8] for digest in versions)
        raise InputError(
            f"{where}: full precision of '{named[0].model}' was evaluated there with several weights ({listed}), none "
            f"of them those of '{record.model}'; name a folder with one of them"
        )
    return versions.get(_weights(record), named)


def _weights(record: Record) -> str:
    """Digest of the model in full precision; "" where the record does not say."""
    return str(record.identity.get("model", {}).get("digest") or "")


def changes_from(
    baseline: Baseline, records: Iterable[Record], ledger: Ledger, headline: Iterable[str]
) -> dict[str, Change]:
    """The changes of headline metrics, and of the metrics that judge them, against a baseline.

    Raises:
        InputError: baseline and records were not evaluated on the same images, or by another version of the task.
    """
    by_name = {record.name: record for record in records}
    found: dict[str, Change] = {}
    for key in dict.fromkeys(each for name in headline for each in (name, judging(name))):
        record = by_name.get("/".join(key.split("/")[:2]))
        base = None if record is None else baseline.evaluations.get(record.name)
        if record is not None and base is not None and key in record.metrics:
            made = _change(key, record, base, ledger, baseline.where)
            if made is not None:
                found[key] = made
    return found


def _change(key: str, record: Record, base: Evaluated, ledger: Ledger, where: str) -> Change | None:
    task, inner = tasks.get(record.task), key.split("/", 2)[2]
    metric = task.metric(inner)
    reference = base.metrics.get(inner, metric.neutral)
    if reference is None:
        return None
    if base.version != _version(record):
        raise InputError(
            f"--baseline {where}: {record.name} was evaluated by version {base.version} of task '{task.name}', the "
            f"quantization by version {_version(record)}; evaluate both again"
        )
    own = evidence_of(ledger, record)
    try:
        estimate = change(own, base.evidence, inner)
    except ReliquantError as error:
        raise InputError(f"{record.name} of {record.quantization} against {where}: {error}") from None
    value = record.metrics[key]
    made = Change(
        record.model,
        record.quantization,
        record.configuration,
        key,
        metric.better,
        value,
        reference,
        value - reference,
        images=own.images,
    )
    return replace(made, reason=estimate) if isinstance(estimate, str) else replace(made, estimate=estimate)
