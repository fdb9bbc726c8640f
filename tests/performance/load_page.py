"""docs/scale.md: rates of the load test, and what they mean for 700,000 evaluations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.performance import page

GOAL = 700_000
Points = Sequence[Sequence[float]]


def write(output: Path, found: Mapping[str, Any], command: str) -> None:
    """Put the measured part into the page and print it."""
    text = "\n".join(lines(found, command))
    page.put(output, text)
    print(text)


def rate(points: Points, first: float = 0.0, last: float = 1.0) -> float:
    """Evaluations a second between two shares of a series of (evaluations, seconds)."""
    x, y = np.array(points, dtype=np.float64).T
    low, high = int(first * (len(x) - 1)), int(last * (len(x) - 1))
    begin = (0.0, 0.0) if first == 0.0 else (x[low], y[low])
    return float((x[high] - begin[0]) / (y[high] - begin[1]))


def projected(points: Points, goal: int = GOAL) -> tuple[float, float]:
    """Hours for `goal` evaluations: at the mean rate, and if seconds an evaluation go on growing as they did.

    The second is the integral of the straight line through the seconds an evaluation; where they do not grow it is
    the first.
    """
    x, y = np.array(points, dtype=np.float64).T
    steps = max(1, len(x) // 20)
    middle, cost = (x[steps:] + x[:-steps]) / 2, (y[steps:] - y[:-steps]) / (x[steps:] - x[:-steps])
    slope, intercept = np.polyfit(middle, cost, 1) if len(middle) > 2 else (0.0, y[-1] / x[-1])
    flat = goal * y[-1] / x[-1]
    grown = intercept * goal + slope * goal**2 / 2
    return float(flat / 3600), float(max(flat, grown) / 3600)


def lines(found: Mapping[str, Any], command: str) -> list[str]:
    """The measured part of the page."""
    about = page.machine("cpu")
    count = found["evaluations"]
    times = GOAL / count
    load, (_, half, whole) = found["load"], found["plan"]
    each, mib = ((whole[i] - half[i]) / (whole[0] - half[0]) for i in (1, 2))
    text = [
        f"Measured with `{command}` on {about['machine']}; {about['versions']}; {about['date']}: "
        f"{count:,} evaluations are {found['configurations']:,} configurations and "
        f"{count + found['configurations']:,} MLflow runs.",
        "",
        f"| step | {count:,} evaluations | projected to {GOAL:,} |",
        "|---|---|---|",
        f"| plan | {whole[0]:,} in {whole[1]:.1f} s ({half[0]:,} in {half[1]:.1f} s): {1e6 * each:.0f} µs and "
        f"{1024 * mib:.1f} KiB for each more | {GOAL * each:.0f} s, {GOAL * mib / 1024:.1f} GiB |",
    ]
    for title, key in (("ledger, with samples", "ledger"), ("MLflow, SQLite", "sqlite"), ("MLflow, server", "server")):
        points = found[key]
        flat, grown = projected(points)
        early, late = rate(points, 0.0, 0.25), rate(points, 0.75, 1.0)
        text.append(
            f"| {title} | {int(points[-1][0]):,} in {points[-1][1]:.0f} s: {rate(points):.1f} a second "
            f"(first quarter {early:.1f}, last {late:.1f}) | {flat:.1f} h at the mean rate, "
            f"{grown:.1f} h if it slows as measured |"
        )
    text += [
        f"| ledger, reading | {load['rows']:,} rows, {load['bytes'] / 1e6:.0f} MB in {load['seconds']:.1f} s, "
        f"{load['mib']:.0f} MiB | {load['seconds'] * times:.0f} s, {load['bytes'] * times / 1e9:.1f} GB, "
        f"{load['mib'] * times / 1024:.1f} GiB |",
        f"| complete configurations, asked of the file | {found['known']['configurations']:,} in "
        f"{found['known']['seconds']:.2f} s | {found['known']['seconds'] * times:.1f} s |",
        f"| first write of a new process | {found['reopened']['seconds']:.1f} s | "
        f"{found['reopened']['seconds'] * times:.0f} s |",
        f"| database | {found['database'] / 1e6:.0f} MB | {found['database'] * times / 1e9:.1f} GB |",
        "",
        f"The server's answers with {count + found['configurations']:,} runs in the file, and after "
        f"{int(found['server'][-1][0]):,} more evaluations through it (medians of five):",
        "",
        "| question | seconds | after |",
        "|---|---|---|",
        *(
            f"| {name} | {seconds:.2f} | {found['search_after'][name]:.2f} |"
            for name, seconds in found["search"].items()
        ),
    ]
    return text
