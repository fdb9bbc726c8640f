"""`reliquant list`: installed tasks, quantizers, runtimes, models, data and suites, as a table or as JSON lines."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from benchmark.cli.requests import ListRequest
from benchmark.engine.include import include_files
from benchmark.utils.output import out

if TYPE_CHECKING:
    from rich.table import Table

TOKENS = {
    "weight_bits": "wBITS",
    "activation_bits": "aBITS",
    "weight_granularity": "channel|tensor",
    "group_size": "gSIZE",
    "activation_granularity": "token|tensor",
    "symmetric": "asym",
    "activation_symmetric": "actasym",
    "skip": "skip_PATTERN",
    "overrides": "bits_PATTERN_BITS",
    "scope": "vision|text|vision+text",
}
"""Fields of a quantization -> their tokens in a short name; among alternatives the default comes first."""


ONLY_JSON = ("architecture", "pretraining", "top1")
"""What a table of 80 columns has no room for."""

LEGEND = """\
A short name is METHOD-TOKEN-TOKEN-...; options show their defaults. For other
tokens the first alternative is the default; without asym, codes are symmetric.
Activations per tensor have static ranges, which need calibration data."""


def print_listing(request: ListRequest) -> None:
    """Print one kind of thing."""
    what = request.what
    include_files(request.include)
    kinds = {"tasks": _tasks, "quantizers": _quantizers, "runtimes": _runtimes, "models": _models}
    rows = {**kinds, "data": _data, "suites": _suites}[what]()
    if request.json:
        for row in rows:
            print(json.dumps(row), file=out())
        return
    from rich.console import Console

    Console().print(_blocks(rows) if what == "quantizers" else _table(rows))
    if what == "quantizers":
        print(LEGEND)


def _table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """One line per row, without columns that are equal in all rows."""
    from rich.table import Table

    several = len({row.get("from") for row in rows}) > 1
    shown = [key for key in (rows[0] if rows else ()) if key not in ONLY_JSON]
    columns = [key for key in shown if key != "from" or several]
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column in ("task", "suite"))
    for row in rows:
        table.add_row(*(_shown(row[column]) for column in columns))
    return table


def _blocks(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Quantizers, a few lines each, since their facts do not fit into columns."""
    from rich.table import Table

    table = Table.grid(padding=(0, 2, 1, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    several = len({row["from"] for row in rows}) > 1
    for row in rows:
        facts = Table.grid(padding=(0, 2, 0, 0))
        facts.add_column(style="dim", no_wrap=True)
        facts.add_column(overflow="fold")
        for name, text in _facts(row, several):
            facts.add_row(name, escape(text))
        table.add_row(row["quantizer"], facts)
    return table


def _facts(row: Mapping[str, Any], several: bool) -> Iterator[tuple[str, str]]:
    """The facts about a quantizer; `several`: also name its package, since plugins of others are installed."""
    yield "what", row["what"]
    yield "paper", row["paper"]
    tokens = [token for field, token in TOKENS.items() if field in row["fields"]]
    yield "tokens", " ".join(tokens) or "none"
    if row["options"]:
        yield "options", " ".join(f"{name}_{'VALUE' if v is None else _plain(v)}" for name, v in row["options"].items())
        yield "", row["about options"]
    data = "; needs calibration data" if row["calibration"] else ""
    kernel = "real kernels" if row["kernel"] == "real" else "simulated"
    yield "runs on", f"{', '.join(device.upper() for device in row['runs on'])}: {kernel}{data}"
    if several:
        yield "from", row["from"]


def _plain(value: Any) -> str:
    """An option's value as written in short names."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(str(item) for item in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return "-" if value is None else str(value)


def _tasks() -> list[dict[str, Any]]:
    from benchmark.plugins import tasks

    return [
        {
            "task": name,
            "from": tasks.origin(name).distribution,
            "roles": [*task.needs, *(f"[{role}]" for role in task.optional)],
            "headline": [m.name for m in task.metrics if m.headline],
            "what it measures": task.title,
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
            "options": quantizer.describe()["options"],
            "about options": " ".join((quantizer.options.__doc__ or "").replace("`", "").split()),
            "runs on": list(quantizer.runs_on),
            "kernel": quantizer.kernel,
            "calibration": quantizer.needs_calibration,
        }
        for name, quantizer in quantizers
    ]


def _runtimes() -> list[dict[str, Any]]:
    from benchmark.runtimes import runtimes

    return [
        {
            "runtime": name,
            "from": runtimes.origin(name).distribution,
            "reads": [*runtime.suffixes, *(f"({suffix})" for suffix in runtime.also)],
            "runs on": list(runtime.runs_on),
            "extra": runtime.extra or None,
            "installed": runtime.installed,
            "what": runtime.title,
        }
        for name, runtime in runtimes
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
            "architecture": info.architecture,
            "pretraining": info.pretraining,
            "top1": info.top1,
        }
        for info in list_models()
    ]


def _data() -> list[dict[str, Any]]:
    from benchmark.data import sources
    from benchmark.spec.catalogue import load_catalogue

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
    from benchmark.spec.suite import load_suite, suite_names

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
