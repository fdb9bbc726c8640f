"""Report a study: its candidates as a table, for machines, and as a suite for `reliquant run`."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmark.results.decide import images_told, margins_told, to_json, verdicts_told
from benchmark.results.notation import ARROWS, fold
from benchmark.spec import SuiteSpec
from benchmark.spec.suite import with_quantizations

from .history import ERRORS
from .objective import COSTS, RELIABILITY, Goals
from .recommend import Member, validation_reliability

NARROWEST_NAME = 12


def print_members(members: Sequence[Member], goals: Goals) -> None:
    """Print one row per candidate: group, cost, objectives, and reliability on both splits with its interval."""
    console = Console()
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("quantization", no_wrap=True)
    others = [o for o in goals.objectives if o.key not in (RELIABILITY, *COSTS)]
    costs = [key for key in COSTS if key == goals.cost or any(o.key == key for o in goals.objectives)]
    heads = [key.replace("_", "\n") for key in costs]
    heads += [
        "\n".join(o.key.replace("_", "/").split("/")) + f" {ARROWS['higher' if o.direction == 'maximize' else 'lower']}"
        for o in others
    ]
    heads += ["reliability\nvalidation", "points ↑\ntest [95 %]", "group"]
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    rows = [_cells(each, costs, [o.key for o in others]) for each in members]
    widths = [max(map(len, [*head.split("\n"), *(row[i] for row in rows)])) for i, head in enumerate(heads)]
    room = max(NARROWEST_NAME, console.width - sum(width + 2 for width in widths) - 2)
    for each, cells in zip(members, rows, strict=True):
        table.add_row(fold(each.name, room), *cells)
    console.print(Text(_title(members, goals), style="bold"))
    console.print(table)


def _title(members: Sequence[Member], goals: Goals) -> str:
    count = sum(each.trial is not None for each in members)
    kind = "Pareto front" if goals.probability is None else f"Fewest {goals.cost.replace('_', ' ')} without a loss"
    return f"{kind}: {count} {'candidate' if count == 1 else 'candidates'}"


def _cells(each: Member, costs: Sequence[str], others: Sequence[str]) -> list[str]:
    own = [f"{each.metrics[key]:.4g}" if key in each.metrics else "-" for key in (*costs, *others)]
    before = None if each.trial is None else validation_reliability(each.trial)
    ends = each.reliability.interval
    after = "-" if each.reliability.value is None else f"{each.reliability.value:+.2f}"
    after += "" if ends is None else f" [{ends[0]:+.2f}, {ends[1]:+.2f}]"
    validation = "artifact" if each.trial is None else "-" if before is None else f"{before:+.2f}"
    return [*own, validation, after, str(each.group or "-")]


def print_verdicts(members: Sequence[Member], recommended: str | None) -> None:
    """Print one row per candidate: its verdict against full precision on the test split, and which is recommended."""
    decisions = {each.name: each.decision for each in members if each.decision.judged}
    if not decisions:
        return
    console = Console()
    judged = max((decision.judged for decision in decisions.values()), key=len)
    about = f"on {images_told(judged)}; margins: {margins_told(judged)}".replace("`", "")
    console.print(Text(f"Test split against fp32, {about}", style="bold"))
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, words in verdicts_told(decisions, recommended).items():
        table.add_row(fold(name, 2 * NARROWEST_NAME), Text(words))
    console.print(table)


def member_rows(members: Sequence[Member], goals: Goals, recommended: str | None) -> list[dict[str, Any]]:
    """The candidates as JSON rows: `quantization`, `trial`, the objectives on `validation` and `test`, `reliability` on
    both with its standard error and interval, `group`, the `decision` on the test split (or None), and whether it is
    `recommended`. `trial` and `validation` of an artifact are None.
    """
    keys = [objective.key for objective in goals.objectives]
    rows = []
    for each in members:
        ends = each.reliability.interval or (None, None)
        error = None if each.trial is None else each.trial.user_attrs.get(ERRORS, {}).get(RELIABILITY)
        own = {"value": each.reliability.value, "low": ends[0], "high": ends[1]}
        before = None if each.trial is None else {"value": validation_reliability(each.trial), "error": error}
        rows.append(
            {
                "quantization": each.name,
                "trial": each.trial.number if each.trial else None,
                "validation": dict(zip(keys, each.trial.values, strict=True)) if each.trial else None,
                "test": {key: each.metrics.get(key) for key in keys} if each.metrics else None,
                "reliability": {"validation": before, "test": own},
                "group": each.group or None,
                "decision": to_json(each.decision) if each.decision.judged else None,
                "recommended": each.name == recommended,
            }
        )
    return rows


def write_suite(path: Path, suite: SuiteSpec, names: Sequence[str], study: str) -> None:
    """Write the test suite with the candidates' short names, as YAML for `reliquant run`."""
    content = with_quantizations(suite, names).model_dump(mode="json", exclude_defaults=True, exclude_none=True)
    for spec in content["data"].values():
        if "options" in spec:
            spec["options"] = dict(spec["options"])
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=110)
    path.write_text(
        f"# The candidates of study '{study}': reliquant run {shlex.quote(path.name)}\n{text}", encoding="utf-8"
    )
