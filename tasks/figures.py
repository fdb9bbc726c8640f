"""Figures of the built-in tasks: outcome (and full precision's, where there is one) -> matplotlib figures.

A sweep draws thousands of them, so they are cheap: margins and the places of titles, labels and legends are given (a
layout engine draws everything once more to find margins, titles and labels measure all tick labels first), and what
belongs together is one artist (40 bars are 40 artists, 15 arrows with text boxes still slower).
Colours are Okabe and Ito's palette, which colour-blind readers can tell apart; full precision is always grey.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from benchmark import Outcome

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#777777"
OTHERS = (ORANGE, GREEN, GREY, "#CC79A7", "#F0E442")


LETTER = 0.075
"""Inches that a letter of a tick label takes."""


def _axes(
    title: str, x: str, y: str, size: tuple[float, float] = (5.0, 4.0), left: float = 0.65, right: float = 0.15
) -> tuple[Figure, Axes]:
    """A figure with one pair of axes; `left` and `right` are margins in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size)
    axes = figure.add_subplot()
    _margins(figure, left, right)
    axes.set_title(title, fontsize=10, y=1.0)
    axes.grid(alpha=0.25)
    _labels(figure, axes, x, y)
    return figure, axes


def _labels(figure: Figure, axes: Axes, x: str, y: str) -> None:
    """Axis labels 0.08 inches from the figure's edge, in the middle of the axes."""
    from matplotlib.transforms import blended_transform_factory as blended

    width, height = figure.get_size_inches()
    axes.set_xlabel(x, verticalalignment="bottom")
    axes.set_ylabel(y, verticalalignment="top")
    axes.xaxis.set_label_coords(0.5, 0.08 / height, blended(axes.transAxes, figure.transFigure))
    axes.yaxis.set_label_coords(0.08 / width, 0.5, blended(figure.transFigure, axes.transAxes))


def _margins(figure: Figure, left: float, right: float, between: float = 0.0) -> None:
    width, height = figure.get_size_inches()
    bottom, top = 0.55 / height, 1 - 0.4 / height
    figure.subplots_adjust(left / width, bottom, 1 - right / width, top, wspace=between)


def reliability(outcome: Outcome, reference: Outcome | None) -> Mapping[str, Any]:
    """Trajectory reliability diagram: an arrow for each confidence bin's way, full precision -> quantized -> tuned.

    Bins that are empty at one end have no arrow; the area of a point is the bin's share of the images.
    """
    figure, axes = _axes("Reliability", "mean confidence in the bin", "accuracy in the bin", (5, 5))
    axes.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle=":", label="perfect")
    stages = [
        (reference, "", GREY, "full precision"),
        (outcome, "", ORANGE, "this"),
        (outcome, "_tuned", BLUE, "tuned"),
    ]
    before: NDArray[np.float64] | None = None
    for stage, suffix, colour, label in stages:
        if stage is None or f"bin_count{suffix}" not in stage.tables:
            continue
        count = stage.tables[f"bin_count{suffix}"]
        kept = count > 0
        confidence, accuracy = stage.tables[f"bin_confidence{suffix}"], stage.tables[f"bin_accuracy{suffix}"]
        now = np.stack([confidence, accuracy], axis=1)
        if before is not None and before.shape == now.shape:
            moved = np.isfinite(before).all(axis=1) & np.isfinite(now).all(axis=1)
            way: dict[str, Any] = {"angles": "xy", "scale_units": "xy", "scale": 1, "width": 0.003}
            axes.quiver(*before[moved].T, *(now - before)[moved].T, color=colour, alpha=0.6, **way)
        before = now
        sizes = 10 + 150 * count[kept] / count.sum()
        key = f"ece_15{suffix}"
        text = f"{label} (ECE {stage.metrics[key]:.3f})" if key in stage.metrics else label
        axes.plot(confidence[kept], accuracy[kept], color=colour, linewidth=1)
        axes.scatter(confidence[kept], accuracy[kept], s=sizes, color=colour, alpha=0.8, label=text)
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.legend(loc="upper left", fontsize=8)
    return {"reliability": figure}


def score_histograms(outcome: Outcome, reference: Outcome | None) -> Mapping[str, Any]:
    """Histograms of each OOD score, in and out of distribution, side by side."""
    from matplotlib.figure import Figure

    names = [str(name) for name in outcome.tables["scores"]]
    figure = Figure(figsize=(3.6 * len(names), 3.4))
    panels = np.atleast_1d(figure.subplots(1, len(names)))
    _margins(figure, 0.15, 0.15, between=0.08)
    for column, (name, axes) in enumerate(zip(names, panels, strict=True)):
        axes.set_title(f"{name}: AUROC {outcome.metrics[f'{name}/auroc']:.3f}", y=1.0)
        axes.set_yticks([])
        _labels(figure, axes, "score", "")
        axes.locator_params(axis="x", nbins=4)
        inside = outcome.samples["id"][:, column]
        others = {k.removeprefix("ood:"): v[:, column] for k, v in outcome.samples.items() if _is_ood(k)}
        edges = np.histogram_bin_edges(np.concatenate([inside, *others.values()]), bins=40)
        shown = [
            ("in distribution", inside, BLUE),
            *((n, v, c) for (n, v), c in zip(others.items(), OTHERS, strict=False)),
        ]
        for label, values, colour in shown:
            density = np.histogram(values, edges, density=True)[0]
            axes.stairs(density, edges, fill=True, color=colour, alpha=0.55, label=label)
        axes.set_ylim(0, None)
        if column == 0:
            axes.legend(fontsize=8)
    return {"score_histograms": figure}


def _is_ood(name: str) -> bool:
    return name.startswith("ood:") and not name.endswith(".sample_id")


def severity_curves(outcome: Outcome, reference: Outcome | None) -> Mapping[str, Any]:
    """Accuracy over severity, mean over types, and a type x severity heat map."""
    figure, axes = _axes("Accuracy under corruption", "severity (0: clean)", "accuracy")
    for stage, colour, label in ((reference, GREY, "full precision"), (outcome, ORANGE, "this")):
        if stage is not None:
            severities = sorted(int(k[9:].split("/")[0]) for k in stage.metrics if k.startswith("severity_"))
            values = [stage.metrics["clean_accuracy"], *(stage.metrics[f"severity_{s}/accuracy"] for s in severities)]
            axes.plot([0, *severities], values, marker="o", color=colour, label=label)
    axes.set_ylim(0, 1)
    axes.set_xticks([0, *severities])
    axes.legend(loc="lower left", fontsize=8)
    return {"severity_curves": figure, "corruption_heatmap": _heat_map(outcome)}


def _heat_map(outcome: Outcome) -> Figure:
    cells = [str(name).split("/") for name in outcome.tables["variants"]]
    kinds, severities = sorted({kind for kind, _ in cells}), sorted({int(s) for _, s in cells})
    values = np.full((len(kinds), len(severities)), np.nan)
    for kind, severity in cells:
        values[kinds.index(kind), severities.index(int(severity))] = outcome.metrics[f"{kind}/{severity}/accuracy"]
    left = 0.25 + LETTER * max(map(len, kinds))
    figure, axes = _axes("Accuracy by type and severity", "severity", "", (5, 0.32 * len(kinds) + 1.2), left, 0.05)
    axes.grid(visible=False)
    image = axes.imshow(values, vmin=0, vmax=1, cmap="cividis", aspect="auto")
    axes.set_xticks(range(len(severities)), [str(s) for s in severities])
    axes.set_yticks(range(len(kinds)), kinds)
    for (row, column), value in np.ndenumerate(values):
        colour = "black" if value > 0.5 else "white"
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=7, color=colour)
    figure.colorbar(image)
    return figure


def grouped_bars(groups: Mapping[str, Mapping[str, float]], title: str) -> Figure:
    """Bars of accuracy: one cluster for each outer name, one bar for each inner name."""
    figure, axes = _axes(title, "", "accuracy", (max(4.0, 1.4 * len(groups) + 1), 4))
    inner = list(next(iter(groups.values())))
    width = 0.8 / len(inner)
    for i, name in enumerate(inner):
        heights = [group[name] for group in groups.values()]
        bars = axes.bar(np.arange(len(groups)) + i * width, heights, width, label=name, color=(BLUE, ORANGE, GREEN)[i])
        axes.bar_label(bars, fmt="%.2f", fontsize=7)
    axes.set_xticks(np.arange(len(groups)) + 0.4 - width / 2, list(groups))
    axes.set_ylim(0, 1.05)
    axes.legend(fontsize=8)
    return figure


def shift_bars(outcome: Outcome, reference: Outcome | None) -> Mapping[str, Any]:
    """Accuracy on each shifted data set beside the source's on the same classes."""
    sets = sorted({key.split("/")[0] for key in outcome.metrics if "/" in key})
    groups = {
        name: {"source": outcome.metrics[f"{name}/source_accuracy"], "shifted": outcome.metrics[f"{name}/accuracy"]}
        for name in sets
    }
    return {"covariate_shift": grouped_bars(groups, "Source and shifted accuracy, same classes")}


def spurious_bars(outcome: Outcome, reference: Outcome | None) -> Mapping[str, Any]:
    """Accuracy on common and counter backgrounds, full precision beside."""
    stages = {"full precision": reference, "this": outcome}
    groups = {
        name: {"common": stage.metrics["accuracy_common"], "counter": stage.metrics["accuracy_counter"]}
        for name, stage in stages.items()
        if stage is not None
    }
    return {"spurious": grouped_bars(groups, "Accuracy on common and counter backgrounds")}


def risk_coverage_curve(outcome: Outcome, reference: Outcome | None) -> Mapping[str, Any]:
    """Error rate among the most confident answers, over the share of images that are answered."""
    figure, axes = _axes("Risk and coverage", "coverage (share answered)", "error rate among the answered")
    for stage, colour, label in ((reference, GREY, "full precision"), (outcome, ORANGE, "this")):
        if stage is not None:
            text = f"{label} (AURC {stage.metrics['aurc']:.3f})"
            coverage, risk = (stage.tables[f"risk_coverage.{name}"] for name in ("coverage", "risk"))
            axes.plot(coverage, risk, color=colour, label=text)
    axes.axvline(0.9, color="black", linewidth=0.8, linestyle=":")
    axes.set(xlim=(0, 1), ylim=(0, None))
    axes.legend(fontsize=8)
    return {"risk_coverage": figure}
