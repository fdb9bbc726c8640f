"""Figures of one quantization: reliability diagram, OOD scores, corruptions; from per-sample columns and tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from benchmark.plugins import Outcome
from benchmark.report.looks import REFERENCE
from benchmark.report.overview import Figure, change_tip
from benchmark.report.svg import Axis, Key, Plot, arrow, axis, legend, marker, path, series, signed_text, tag, whisker
from benchmark.results.compare import Change, adjust
from benchmark.results.rows import Results, Row

UNIT = [(value / 5, f"{value / 5:.1f}") for value in range(6)]
BINS = 30
FULL, THIS, TUNED = (
    Key("fp32", "full precision", "ref", REFERENCE, "dotted"),
    Key("this", "this quantization", "c1", 1, "solid"),
    Key("tuned", "logit scale tuned", "c0", 2, "dashed"),
)
"""How full precision and a quantization look in figures of one quantization."""


@dataclass(frozen=True)
class Heat:
    """One cell of a heat map: what it shows, how strong (0-1), which side, and what a tooltip says."""

    text: str
    stars: str
    share: float
    side: str
    tip: str
    value: float


@dataclass(frozen=True)
class Grid:
    """A type x severity heat map: cells are None where there is no such evaluation."""

    title: str
    columns: tuple[str, ...]
    rows: Mapping[str, tuple[Heat | None, ...]]


def outcomes(results: Results, row: Row, task: str) -> list[tuple[str, Outcome, Outcome | None]]:
    """Evaluation name, outcome and full precision's on the same data, of a task."""
    found = []
    for name, record in row.records.items():
        if record.task == task:
            base = results.reference(record)
            reference = results.ledger.outcome(base, whole=False) if base is not None else None
            found.append((name, results.ledger.outcome(record, whole=False), reference))
    return found


def reliability(outcome: Outcome, reference: Outcome | None, name: str) -> Markup:
    """Trajectory reliability diagram: each confidence bin's way, full precision -> quantized -> tuned."""
    x, y = (Axis(text, 0.0, 1.0, UNIT) for text in ("mean confidence of the bin", "accuracy of the bin"))
    plot = Plot(x, y, 430, 400)
    marks = [path([plot.at((0, 0)), plot.at((1, 1))], "ideal")]
    before: NDArray[np.float64] | None = None
    for key, stage, suffix in ((FULL, reference, ""), (THIS, outcome, ""), (TUNED, outcome, "_tuned")):
        if stage is None or f"bin_count{suffix}" not in stage.tables:
            continue
        now = np.stack([stage.tables[f"bin_{part}{suffix}"] for part in ("confidence", "accuracy", "count")], axis=1)
        marks.append(series(key.series, *_moves(plot, before, now, key.css), *_bins(plot, now, key)))
        before = now
    return plot.svg(f"Reliability diagram of {name}: accuracy over confidence, bin by bin", *marks)


def _moves(plot: Plot, before: NDArray[np.float64] | None, now: NDArray[np.float64], css: str) -> list[Markup]:
    """Arrows from each bin's last place to its new one; bins that are empty at one end have none."""
    if before is None:
        return []
    ends = [(a, b) for a, b in zip(before, now, strict=True) if np.isfinite([*a, *b]).all() and not (a == b).all()]
    return [arrow(plot.at((a[0], a[1])), plot.at((b[0], b[1])), f"move {css}") for a, b in ends]


def _bins(plot: Plot, bins: NDArray[np.float64], key: Key) -> list[Markup]:
    """The line through the bins, and a point for each: its area is the bin's share of the images."""
    kept = bins[bins[:, 2] > 0]
    line = path([plot.at((c, a)) for c, a, _ in kept], f"line faint {key.line} {key.css}")
    return [line] + [
        marker(
            plot.at((c, a)),
            f"mark soft {key.css}",
            shape=key.shape or 0,
            size=2.0 + 9.0 * float(np.sqrt(n / kept[:, 2].sum())),
            tip=f"{key.text}: confidence {c:.3f}, accuracy {a:.3f}, {int(n)} images",
        )
        for c, a, n in kept
    ]


def reliability_legend(outcome: Outcome, reference: Outcome | None) -> Markup:
    """The stages with their ECE."""
    keys = []
    for key, stage, metric in (
        (FULL, reference, "ece_15"),
        (THIS, outcome, "ece_15"),
        (TUNED, outcome, "ece_15_tuned"),
    ):
        if stage is not None and metric in stage.metrics:
            keys.append(replace(key, text=f"{key.text}: ECE {stage.metrics[metric]:.3f}"))
    return legend(keys)


def score_histograms(outcome: Outcome, reference: Outcome | None) -> list[Markup]:
    """For each OOD score the densities in (filled) and out of distribution; full precision's as broken lines."""
    names = [str(name) for name in outcome.tables.get("scores", ())]
    return [_histogram(name, i, outcome, reference) for i, name in enumerate(names)]


def _histogram(name: str, column: int, outcome: Outcome, reference: Outcome | None) -> Markup:
    found = {"now": _scores(outcome, column)}
    if reference is not None:
        found["fp32"] = _scores(reference, column)
    every = np.concatenate([values for sides in found.values() for values in sides.values()])
    low, high = (float(end) for end in np.quantile(every, [0.001, 0.999]))
    edges = np.linspace(low, high if high > low else low + 1.0, BINS + 1)
    curves = {(g, side): _density(values, edges) for g, sides in found.items() for side, values in sides.items()}
    top = 1.05 * max(float(curve.max()) for curve in curves.values())
    plot = Plot(axis("score (→ known)", edges, count=3), Axis("density", 0.0, top), 204, 184, (22, 36, 14, 38))
    auroc = outcome.metrics.get(f"{name}/auroc")
    about = "AUROC undefined" if auroc is None else f"AUROC {auroc:.3f}"
    marks = [tag("text", name, x="22", y="12", class_="title"), tag("text", about, x="22", y="27", class_="tick")]
    for (group, side), curve in curves.items():
        points = [plot.at(point) for point in _outline(curve, edges)]
        css = next(key.css for key in HISTOGRAM_KEYS if key.series == f"{group}-{side}")
        marks.append(series(f"{group}-{side}", path(points, css if group == "now" else f"line {css}")))
    return plot.svg(f"Histogram of the OOD score {name}, {about}", *marks)


def _scores(outcome: Outcome, column: int) -> dict[str, NDArray[np.float64]]:
    """Scores of the images in distribution, and of all others together."""
    out = [v[:, column] for k, v in outcome.samples.items() if k.startswith("ood:") and not k.endswith(".sample_id")]
    return {"id": outcome.samples["id"][:, column], "ood": np.concatenate(out)}


def _density(values: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of all values over the width of the bin; the few beyond the ends are in the last bins."""
    counts, _ = np.histogram(values.clip(edges[0], edges[-1]), edges)
    return counts / len(values) / np.diff(edges)


def _outline(curve: NDArray[np.float64], edges: NDArray[np.float64]) -> list[tuple[float, float]]:
    points = [(float(edges[0]), 0.0)]
    for height, left, right in zip(curve, edges, edges[1:], strict=False):
        points += [(float(left), float(height)), (float(right), float(height))]
    return [*points, (float(edges[-1]), 0.0)]


HISTOGRAM_KEYS = (
    Key("now-id", "in distribution", "area c0", 1),
    Key("now-ood", "out of distribution", "area open c1", 1),
    Key("fp32-id", "in distribution, full precision", "dashed c0"),
    Key("fp32-ood", "out of distribution, full precision", "dotted c1"),
)


def severity_curves(row: Row, results: Results, name: str) -> Figure | None:
    """Accuracy over severity, mean over the types, full precision beside it, with the interval of the change."""
    record = row.records[name]
    base = results.reference(record)
    severities = sorted(
        {int(key.split("/severity_")[1].split("/")[0]) for key in record.metrics if "/severity_" in key}
    )
    if base is None or not severities:
        return None
    keys = [f"{name}/clean_accuracy", *(f"{name}/severity_{s}/accuracy" for s in severities)]
    levels = [0, *severities]
    values = {css: [r.metrics[key] for key in keys] for css, r in (("ref", base), ("c1", record))}
    spans = [_span(row.changes.get(key), value) for key, value in zip(keys, values["c1"], strict=True)]
    ticks = [(float(s), "clean" if s == 0 else str(s)) for s in levels]
    ends = [end for span in spans for end in span] + values["ref"]
    x = Axis("severity of the corruption", -0.3, max(levels) + 0.3, ticks)
    plot = Plot(x, axis("accuracy, mean over types (↑ better)", ends), 430, 300)
    marks = []
    for key in (FULL, THIS):
        css = key.css
        points = [plot.at(pair) for pair in zip(map(float, levels), values[css], strict=True)]
        parts = [path(points, f"line {key.line} {css}")]
        if css == "c1":
            parts += [
                whisker(plot.at((severity, low)), plot.at((severity, high)), "whisker c1")
                for severity, (low, high) in zip(levels, spans, strict=True)
            ]
        for point, metric, value in zip(points, keys, values[css], strict=True):
            change = row.changes.get(metric)
            tip = change_tip(change) if css == "c1" and change is not None else f"{key.text}: {metric} {value:.4f}"
            parts.append(marker(point, f"mark {css}", shape=key.shape or 0, tip=tip))
        marks.append(series(key.series, *parts))
    return Figure(name, plot.svg(f"{name}: accuracy over severity", *marks), legend([FULL, THIS]))


def _span(change: Change | None, value: float) -> tuple[float, float]:
    if change is None or change.low is None or change.high is None:
        return value, value
    return change.reference + change.low, change.reference + change.high


def corruption_grid(row: Row, name: str) -> Grid | None:
    """Type x severity: change of accuracy against full precision; stars over the cells of this grid."""
    prefix = f"{name}/"
    cells: dict[tuple[str, str], Change] = {}
    for change in adjust(c for key, c in row.changes.items() if key.startswith(prefix) and key.count("/") == 4):
        kind, severity, metric = change.key.removeprefix(prefix).split("/")
        if metric == "accuracy":
            cells[kind, severity] = change
    if not cells:
        return None
    severities = tuple(sorted({severity for _, severity in cells}))
    kinds = list(dict.fromkeys(kind for kind, _ in cells))
    rows = {
        kind: tuple(heat(cells[kind, s], absolute=True) if (kind, s) in cells else None for s in severities)
        for kind in kinds
    }
    return Grid(name, severities, rows)


FULL_RELATIVE, FULL_ABSOLUTE = 0.2, 0.2
"""Relative change, or change in points of accuracy, at which a cell has its full colour."""


def heat(change: Change, *, absolute: bool = False) -> Heat:
    """A cell: blue better, orange worse; paler where the change is not significant."""
    size = abs(change.change) if absolute or change.relative is None else abs(change.relative)
    share = min(1.0, size / (FULL_ABSOLUTE if absolute else FULL_RELATIVE))
    side = change.direction if change.direction in ("better", "worse") else ""
    strength = share if change.stars else 0.35 * share
    return Heat(
        signed_text(change.change, 3), change.stars, round(strength, 2), side, change_tip(change), change.change
    )
