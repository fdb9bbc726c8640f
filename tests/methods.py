"""All methods at all precisions on the demo, as a page of Markdown: `python -m tests.methods`.

Runs the suite `methods` (what is finished is taken from the ledger), then writes `docs/results-demo.md`: accuracy of
each method at W8A8, W6A8, W4A8, W4, W3 and W2, and, at 4 bits or less, where a method is below plain rounding.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from benchmark.spec import FP32, QuantSpec

if TYPE_CHECKING:
    from benchmark.engine.plan import Plan
    from benchmark.ledger.records import Ledger

SUITE = "methods"
BASELINE = "rtn"
LOW_BITS = 4
LEVEL = 0.05

Cell = tuple[str, str]
"""Method and precision, e.g. ("gptq", "W4A8")."""


@dataclass(frozen=True)
class Result:
    """Which images of one data set a quantization classified correctly, in the order of `sample_id`."""

    correct: NDArray[np.bool_]

    @property
    def accuracy(self) -> float:
        """Share of correct images."""
        return float(self.correct.mean())


@dataclass(frozen=True)
class Below:
    """A method that is less accurate than plain rounding at the same precision; `p` of McNemar's exact test."""

    method: str
    precision: str
    dataset: str
    difference: float
    p: float


PRECISIONS = ("W8A8", "W6A8", "W4A8", "W4", "W3", "W2")
FORMATS = {"bnb-int8": "W8A8", "bnb-nf4": "W4", "bnb-fp4": "W4"}
"""Precision of the methods whose format is fixed."""


def precision_of(spec: QuantSpec) -> str:
    """E.g. `W4A8`, `W3`."""
    if spec.method in FORMATS:
        return FORMATS[spec.method]
    activations = f"A{spec.activation_bits}" if spec.activation_bits else ""
    return f"W{spec.weight_bits}{activations}"


def below_baseline(results: Mapping[str, Mapping[Cell, Result]]) -> list[Below]:
    """Methods below plain rounding at 4 bits or less, by data set; worst first.

    Args:
        results: data set -> cell -> result, the baseline's among them.
    """
    found = []
    for dataset, cells in results.items():
        for (method, precision), result in cells.items():
            base = cells[BASELINE, precision]
            bits = int(precision[1:].split("A")[0])
            if bits <= LOW_BITS and result.accuracy < base.accuracy:
                p = mcnemar_exact(result.correct, base.correct)
                found.append(Below(method, precision, dataset, result.accuracy - base.accuracy, p))
    return sorted(found, key=lambda item: item.difference)


def mcnemar_exact(now: NDArray[np.bool_], before: NDArray[np.bool_]) -> float:
    """Two-sided p value that two models are equally accurate: the answers that differ, against a fair coin."""
    gained, lost = int(np.sum(now & ~before)), int(np.sum(~now & before))
    return float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def page(full: Mapping[str, float], results: Mapping[str, Mapping[Cell, Result]], origin: str) -> str:
    """The page.

    Args:
        full: data set -> full-precision accuracy.
        results: data set -> cell -> result.
        origin: one line on model, data and versions.
    """
    lines = ["# Every method at every precision, on the demo model", "", origin, ""]
    lines += ["Zero-shot accuracy in percent; the vision tower is quantized, weights per channel and symmetric,"]
    lines += ["activations per token; bitsandbytes' formats and `fp8` are as their libraries define them. Written by"]
    lines += ["`python -m tests.methods`.", ""]
    for dataset, cells in results.items():
        count = len(next(iter(cells.values())).correct)
        lines += [f"## {dataset} ({count} images, full precision {100 * full[dataset]:.1f})", ""]
        lines += [*_table(cells), ""]
    lines += ["## Where a method is below plain rounding (4 bits or less)", ""]
    return "\n".join([*lines, *_remarks(below_baseline(results)), ""])


def _table(cells: Mapping[Cell, Result]) -> list[str]:
    methods = list(dict.fromkeys(method for method, _ in cells))
    precisions = [precision for precision in PRECISIONS if any(precision == found for _, found in cells)]
    rows = [
        f"| {method} | "
        + " | ".join(f"{100 * cells[method, p].accuracy:.1f}" if (method, p) in cells else "-" for p in precisions)
        + " |"
        for method in methods
    ]
    return ["| method | " + " | ".join(precisions) + " |", "|---|" + "---:|" * len(precisions), *rows]


def _remarks(below: Sequence[Below]) -> list[str]:
    if not below:
        return ["Nowhere."]
    beyond = [item for item in below if item.p < LEVEL / len(below)]
    lines = [
        f"In {len(below)} places, {len(beyond)} of them beyond chance (McNemar's exact test on the same images, "
        f"p < {LEVEL} after Bonferroni's correction for these places).",
        "",
        "| method | precision | data | difference (points) | p | beyond chance |",
        "|---|---|---|---:|---:|---|",
    ]
    lines += [
        f"| {i.method} | {i.precision} | {i.dataset} | {100 * i.difference:+.2f} | {i.p:.2g} | "
        f"{'yes' if i in beyond else 'no'} |"
        for i in below
    ]
    why = {item.method for item in beyond}
    if len(beyond) < len(below):
        lines += ["", "Differences within chance say nothing about the method."]
    return [*lines, *(f"\n{_WHY[method]}" for method in sorted(why & _WHY.keys()))]


_WHY = {
    "mse": "`mse` minimises the error of weights, not of outputs: it clips the largest weights, which can carry more "
    "of the output than their number says.",
    "percentile": "`percentile` clips the largest weights whatever they do to the output.",
    "awq": "`awq` fits each layer's output on full-precision inputs; at few bits the inputs have changed by then.",
    "hqq": "`hqq` fits weights without looking at data.",
    "rotation": "`rotation` makes all weight distributions alike; where a layer has no outliers there is nothing to "
    "gain, and structure (exact zeros, few large weights) is lost.",
    "smoothquant": "`smoothquant` moves the range of activations into weights, which is a loss where only the "
    "weights have few bits.",
    "gptq": "`gptq` fits the calibration inputs, which differ from this data set's.",
}


def collect(home: Path) -> tuple[dict[str, float], dict[str, dict[Cell, Result]], str]:
    """Run the suite (or read what is finished) and gather results from the ledger."""
    from benchmark.cli.run import run_suite
    from benchmark.engine.plan import make_plan
    from benchmark.engine.request import RunRequest
    from benchmark.ledger.records import Ledger
    from benchmark.spec.suite import load_suite

    run_suite(RunRequest(suite=SUITE, home=home, trackers=("jsonl",), speed=False))
    plan, ledger = make_plan(load_suite(SUITE)), Ledger(home)
    full: dict[str, float] = {}
    results: dict[str, dict[Cell, Result]] = {}
    for configuration in plan.configurations:
        for evaluation in configuration.evaluations:
            record = ledger.done(evaluation.key)
            if record is None:
                raise SystemExit(f"{configuration.quant.name}: {evaluation.name} did not finish")
            result = Result(ledger.outcome(record).columns["test"]["correct"].astype(bool))
            if configuration.quant.method == "fp32":
                full[record.dataset] = result.accuracy
            else:
                cell = (configuration.quant.method, precision_of(configuration.quant))
                results.setdefault(record.dataset, {})[cell] = result
    return full, results, _origin(plan, ledger)


def _origin(plan: Plan, ledger: Ledger) -> str:
    """Model, suite, versions of the methods, and what computed them."""
    from benchmark.quantization import quantizers

    methods = dict.fromkeys(c.quant.method for c in plan.configurations if c.quant != FP32)
    versions = ", ".join(f"{name} {quantizers.get(name).version}" for name in methods)
    reports = [
        r.report for c in plan.configurations if (r := ledger.reports.get(c.quantized_key)) and r.report["towers"]
    ]
    engines, cpus = ({str(report[key]) for report in reports} for key in ("engine", "cpu"))
    return (
        f"Model `demo`, weights {plan.configurations[0].model.digest[:12]}; suite `{SUITE}` version "
        f"{plan.suite.version}; versions of the methods: {versions}; engines {', '.join(sorted(engines))} on "
        f"{', '.join(sorted(cpus))}."
    )


def main() -> None:
    """Run, then write the page."""
    parser = argparse.ArgumentParser(prog="python -m tests.methods", description=__doc__)
    parser.add_argument("--home", type=Path, default=Path("mlruns"), help="results folder")
    parser.add_argument("--out", type=Path, default=Path("docs/results-demo.md"))
    options = parser.parse_args()
    text = page(*collect(options.home))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(text, encoding="utf-8")
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
