"""`reliquant list`: what there is, as a table or as JSON lines."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmark.include import include_files

TOKENS = {
    "weight_bits": "w",
    "activation_bits": "a",
    "weight_granularity": "tensor",
    "group_size": "g",
    "activation_granularity": "token",
    "symmetric": "asym",
    "activation_symmetric": "actasym",
    "options": "options",
}
"""Fields that not every method has -> what stands for them in a short name."""


def print_listing(what: str, include: Sequence[Path], as_json: bool) -> None:
    """Print one kind of thing."""
    include_files(include)
    rows = {"tasks": _tasks, "quantizers": _quantizers, "models": _models, "data": _data, "suites": _suites}[what]()
    if as_json:
        for row in rows:
            print(json.dumps(row))
        return
    from rich.console import Console
    from rich.table import Table

    rows = [_narrow(row, rows) for row in rows]
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    columns = list(rows[0]) if rows else []
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column in ("quantizer", "task", "suite"))
    for row in rows:
        table.add_row(*(_shown(row[column]) for column in columns))
    Console().print(table)


def _narrow(row: dict[str, Any], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A row for 80 columns: without the columns that say the same everywhere, fields as short names have them."""
    same = {key for key in ("from", "runs on") if all(other.get(key) == rows[0].get(key) for other in rows)}
    kept = {key: value for key, value in row.items() if key not in same}
    if "fields" in kept:
        kept["fields"] = [token for name, token in TOKENS.items() if name in row["fields"]] or None
    return kept


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(str(item) for item in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return "-" if value is None else str(value)


def _tasks() -> list[dict[str, Any]]:
    from benchmark.engine.plan import tasks

    return [
        {
            "task": name,
            "from": tasks.origin(name).distribution,
            "roles": [*task.needs, *(f"[{role}]" for role in task.optional)],
            "headline": [m.name for m in task.metrics if m.headline],
            "what it measures": task.summary,
        }
        for name, task in tasks
    ]


def _quantizers() -> list[dict[str, Any]]:
    from benchmark.quantization import quantizers

    return [
        {
            "quantizer": name,
            "from": quantizers.origin(name).distribution,
            "what": quantizer.title,
            "paper": quantizer.paper,
            "fields": sorted(quantizer.fields),
            "runs on": list(quantizer.runs_on),
            "kernel": quantizer.kernel,
        }
        for name, quantizer in quantizers
    ]


def _models() -> list[dict[str, Any]]:
    from benchmark.models import list_models

    return [
        {
            "model": info.ref,
            "family": info.family,
            "parameters": info.parameters,
            "local": info.cached,
            "group": info.group,
        }
        for info in list_models()
    ]


def _data() -> list[dict[str, Any]]:
    from benchmark.data import sources
    from benchmark.data.catalogue import load_catalogue

    rows: list[dict[str, Any]] = [
        {"data": f"demo:{split}", "source": "demo", "where": "embedded"} for split in _demo_splits()
    ]
    rows += [{"data": name, "source": spec.source, "where": spec.path} for name, spec in load_catalogue().items()]
    rows += [{"data": "(your own)", "source": name, "where": source.title} for name, source in sources]
    return rows


def _demo_splits() -> list[str]:
    from benchmark.demo.scenes import SPLITS

    return sorted({*SPLITS, "digits"})


def _suites() -> list[dict[str, Any]]:
    from benchmark.suite import load_suite, suite_names

    rows = []
    for name in suite_names():
        suite = load_suite(name)
        rows.append(
            {
                "suite": name,
                "version": suite.version,
                "models": len(suite.models),
                "quantizations": len(suite.quantizations),
                "tasks": list(suite.tasks),
                "what": suite.description.strip(),
            }
        )
    return rows
