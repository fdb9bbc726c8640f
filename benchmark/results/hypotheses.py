"""Which of the study's claims hold on the user's own records: one paragraph with numbers and stars.

The study: "Less Precise Can Be More Reliable" (Bouguerra et al., ICML 2026, arXiv 2509.21173). Each claim has a rule
that the docstring of its function states. Where no change is significant, the records cannot tell.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from benchmark.errors import ReliquantError
from benchmark.quantization.registry import read
from benchmark.results.compare import Change, adjust
from benchmark.results.notation import STARS
from benchmark.spec import QuantSpec

Verdict = Literal["holds", "fails", "open"]
SIMPLE = ("rtn", "percentile", "mse")
KINDS = {
    "accuracy": ("zero_shot", "accuracy"),
    "ece": ("calibration", "ece_15"),
    "tuned": ("calibration", "ece_15_tuned"),
    "ood": ("ood", "mcm/auroc"),
    "corruption": ("corruption", "accuracy"),
    "shift": ("covariate_shift", "accuracy"),
    "delta_rsg": ("spurious", "delta_rsg"),
    "vuln_add": ("spurious", "vuln_add"),
}
"""What the claims are about: task and metric below `<task>/<data>/`, means over types and data sets."""
WIDTH = 100


@dataclass(frozen=True)
class Finding:
    """A claim, whether it holds on these records, and the numbers that say so."""

    claim: str
    verdict: Verdict
    evidence: str


@dataclass(frozen=True)
class Runs:
    """The changes that the claims look at: for each (model, quantization) and kind of metric those of its data sets."""

    found: dict[tuple[str, str], dict[str, list[Change]]]

    def of(self, kind: str) -> list[Change]:
        """All changes of a kind."""
        return [change for kinds in self.found.values() for change in kinds.get(kind, [])]

    def where(self, wanted: Callable[[QuantSpec], bool]) -> Runs:
        """The runs whose quantization is wanted."""
        return Runs({run: kinds for run, kinds in self.found.items() if wanted(read(run[1]))})


def paragraph(suite: str, changes: Sequence[Change]) -> str:
    """One paragraph: which claims hold on the records of a suite, which do not, which they cannot tell."""
    runs = runs_of(changes)
    models = len({model for model, _ in runs.found})
    findings = [claim(runs) for claim in CLAIMS]
    tests = sum(change.p is not None for kind in KINDS for change in runs.of(kind))
    text = [
        f"On suite {suite} ({models} {'model' if models == 1 else 'models'}, {len(runs.found)} quantizations against "
        f"full precision, {tests} tests adjusted together; {STARS})"
    ]
    titles: dict[Verdict, str] = {"holds": "hold", "fails": "do not hold", "open": "cannot be told from these records"}
    for verdict, title in titles.items():
        chosen = [f"{f.claim} ({f.evidence})" for f in findings if f.verdict == verdict]
        text.append(f"{len(chosen)} of the study's claims {title}" + (": " + "; ".join(chosen) if chosen else ""))
    text.append("The spectral mechanism is not among them: see `reliquant spectrum`")
    return textwrap.fill(". ".join(text) + ".", WIDTH, break_long_words=False, break_on_hyphens=False) + "\n"


def runs_of(changes: Sequence[Change]) -> Runs:
    """The changes that claims look at, adjusted together; controls and unreadable names are left out."""
    kind_of = {tuple_: kind for kind, tuple_ in KINDS.items()}
    chosen = [(c, kind_of.get((c.key.split("/")[0], c.key.split("/", 2)[2]))) for c in changes]
    kept = [(change, kind) for change, kind in chosen if kind and _is_quantization(change.quantization)]
    found: dict[tuple[str, str], dict[str, list[Change]]] = {}
    for change, (_, kind) in zip(adjust(change for change, _ in kept), kept, strict=True):
        found.setdefault((change.model, change.quantization), {}).setdefault(str(kind), []).append(change)
    return Runs(found)


def _is_quantization(name: str) -> bool:
    try:
        return not read(name).method.startswith("control")
    except ReliquantError:
        return False


def all_at_once(runs: Runs) -> Finding:
    """Holds when all changes of accuracy, ECE, OOD AUROC and corrupted accuracy of some run are significantly better.

    Fails when no run improves all four, each on average over its data sets; otherwise open.
    """
    claim = "accuracy, calibration, OOD detection and corruption robustness can improve at the same time"
    four = ("accuracy", "ece", "ood", "corruption")
    tested = {run: kinds for run, kinds in runs.found.items() if all(kinds.get(kind) for kind in four)}
    if not tested:
        return Finding(claim, "open", "no run has all four tasks")
    better = [run for run, kinds in tested.items() if all(_gain(kinds[kind]) > 0 for kind in four)]
    sure = [run for run in better if all(c.stars and c.direction == "better" for k in four for c in tested[run][k])]
    names = ", ".join(dict.fromkeys(name for _, name in better))
    evidence = f"{len(better)} of {len(tested)} runs{': ' + names if names else ''}; significantly so in {len(sure)}"
    return Finding(claim, "holds" if sure else "open" if better else "fails", evidence)


def share_calibrated(runs: Runs) -> Finding:
    """Holds when the 95 % interval (Clopper-Pearson) of the share of runs with a lower ECE has 40 % in it.

    Open when that interval is wider than 50 points, as with fewer than some 15 runs.
    """
    from scipy.stats import binomtest  # late: the import takes most of a second, a finished sweep needs none

    claim = "calibration improves in about 40 % of the runs"
    changes = runs.of("ece")
    if not changes:
        return Finding(claim, "open", "no calibration")
    better = sum(change.direction == "better" for change in changes)
    low, high = binomtest(better, len(changes)).proportion_ci()
    share = better / len(changes)
    evidence = f"{better} of {len(changes)}, {share:.0%}, interval {low:.0%} to {high:.0%}; {_significant(changes)}"
    return Finding(claim, "open" if high - low > 0.5 else "holds" if low <= 0.4 <= high else "fails", evidence)


def tuned_text(runs: Runs) -> Finding:
    """Holds when the mean tuned ECE of runs with both towers quantized lies below full precision's untuned one.

    Both are means over the same runs and data sets: those whose tuned ECE is defined. There is no test between the
    two: tuning changes both.
    """
    claim = "with both towers quantized and the logit scale tuned, ECE falls below full precision's"
    both = runs.where(lambda quant: quant.scope == "vision+text")
    tuned = {_place(change): change.value for change in both.of("tuned")}
    untuned = {_place(change): change.reference for change in both.of("ece")}
    undefined = [f"{place[1]} on {place[2]}" for place in untuned if place not in tuned]
    left_out = f"left out, tuned ECE undefined: {', '.join(undefined)}" if undefined else ""
    pairs = [(tuned[place], full) for place, full in untuned.items() if place in tuned]
    if not pairs:
        return Finding(claim, "open", left_out or "no run quantizes both towers and tunes the scale")
    mean, full = np.mean(pairs, axis=0)
    evidence = f"{mean:.3f} against {full:.3f}; the study: 0.011, 0.069" + (f"; {left_out}" if left_out else "")
    return Finding(claim, "holds" if mean < full else "fails", evidence)


def untuned_text(runs: Runs) -> Finding:
    """Holds when the ECE of some run with a quantized text tower rises; open when no such change is significant."""
    claim = "quantizing the text tower without tuning raises ECE"
    changes = runs.where(lambda quant: "text" in quant.towers).of("ece")
    relative = [change.relative for change in changes if change.relative is not None]
    if not relative:
        return Finding(claim, "open", "no run quantizes the text tower")
    evidence = f"largest relative change {max(relative):+.0%}, {_significant(changes)}; the study: up to +98 %"
    return Finding(claim, _verdict(max(relative) > 0, changes), evidence)


def corruption_gain(runs: Runs) -> Finding:
    """Holds when the mean relative change of corrupted accuracy is positive; open when no change is significant."""
    claim = "accuracy under synthetic corruptions rises on average"
    changes = _tested(runs.of("corruption"))
    if not changes:
        return Finding(claim, "open", "no corruptions")
    mean = _mean_relative(changes)
    return Finding(claim, _verdict(mean > 0, changes), f"{mean:+.1%}, {_significant(changes)}; the study: +8.9 %")


def no_help_under_shift(runs: Runs) -> Finding:
    """Holds when no run's accuracy on shifted data rises significantly and some falls; open when none changes so."""
    claim = "quantization does not help under covariate shift"
    changes = _tested(runs.of("shift"))
    if not changes:
        return Finding(claim, "open", "no covariate shift")
    helped = any(change.stars and change.direction == "better" for change in changes)
    evidence = f"mean relative change {_mean_relative(changes):+.1%}, {_significant(changes)}"
    return Finding(claim, _verdict(not helped, changes), evidence)


def no_help_against_bias(runs: Runs) -> Finding:
    """Holds when no run's relative spurious gap falls significantly and some rises; open when none changes so."""
    claim = "quantization does not help against spurious correlations"
    changes = runs.of("delta_rsg")
    if not changes:
        return Finding(claim, "open", "no spurious correlations")
    helped = any(change.stars and change.direction == "better" for change in changes)
    evidence = f"mean dRSG {_mean(changes):+.3f}, {_significant(changes)}"
    return Finding(claim, _verdict(not helped, changes), evidence)


def bias_grows(runs: Runs) -> Finding:
    """Holds when mean dRSG and mean Vuln_add of simple methods are larger at W4A8 than at W8A8, and positive there.

    Means over the models and data sets that have both. Open when none of these changes is significant.
    """
    claim = "with simple methods the bias grows as the weights get fewer bits"
    eight, four = (runs.where(lambda q, bits=bits: _is(q, SIMPLE, bits)) for bits in (8, 4))  # type: ignore[misc]
    found = {kind: _shared(eight.of(kind), four.of(kind)) for kind in ("delta_rsg", "vuln_add")}
    if not all(side for sides in found.values() for side in sides):
        return Finding(claim, "open", "needs rtn, percentile or mse at W8A8 and W4A8 on the same data")
    means = {kind: [_mean(side) for side in sides] for kind, sides in found.items()}
    grows = all(four > max(eight, 0.0) for eight, four in means.values())
    evidence = ", ".join(
        f"{name} {means[kind][0]:+.3f} at W8A8, {means[kind][1]:+.3f} at W4A8"
        for kind, name in (("delta_rsg", "dRSG"), ("vuln_add", "Vuln_add"))
    )
    changes = [change for sides in found.values() for side in sides for change in side]
    evidence += f"; {_significant(changes)}; the study's dRSG: +0.026, +0.125"
    return Finding(claim, _verdict(grows, changes), evidence)


def rotation_protects(runs: Runs) -> Finding:
    """Holds when mean dRSG of rotation at W4A8 is below that of simple methods; open when none is significant.

    Means over the models and data sets that have both.
    """
    claim = "rotation adds less bias than simple methods at W4A8"
    methods = (SIMPLE, ("rotation",))
    groups = (runs.where(lambda q, some=some: _is(q, some, 4)).of("delta_rsg") for some in methods)  # type: ignore[misc]
    simple, rotated = _shared(*groups)
    if not simple or not rotated:
        return Finding(claim, "open", "needs rotation and a simple method at W4A8 on the same data")
    evidence = f"dRSG {_mean(rotated):+.3f} against {_mean(simple):+.3f}; the study: +0.040, +0.125"
    return Finding(claim, _verdict(_mean(rotated) < _mean(simple), [*simple, *rotated]), evidence)


CLAIMS = (
    all_at_once,
    share_calibrated,
    tuned_text,
    untuned_text,
    corruption_gain,
    no_help_under_shift,
    no_help_against_bias,
    bias_grows,
    rotation_protects,
)


def _verdict(holds: bool, changes: Sequence[Change]) -> Verdict:
    """Without a single significant change the direction may be chance."""
    return "open" if not any(change.stars for change in changes) else "holds" if holds else "fails"


def _is(quant: QuantSpec, methods: Sequence[str], bits: int) -> bool:
    return quant.method in methods and quant.weight_bits == bits and quant.activation_bits == 8


def _place(change: Change) -> tuple[str, str, str]:
    """Model, quantization and data set."""
    return change.model, change.quantization, change.key.split("/")[1]


def _shared(first: Sequence[Change], second: Sequence[Change]) -> tuple[list[Change], list[Change]]:
    """The changes of both groups on the models and metrics that both have: other means could not be compared."""
    both = {(c.model, c.key) for c in first} & {(c.model, c.key) for c in second}
    kept = [[change for change in group if (change.model, change.key) in both] for group in (first, second)]
    return kept[0], kept[1]


def _gain(changes: Sequence[Change]) -> float:
    """Mean change, positive for the better."""
    return float(np.mean([change.change if change.better == "higher" else -change.change for change in changes]))


def _mean(changes: Sequence[Change]) -> float:
    return float(np.mean([change.change for change in changes]))


def _mean_relative(changes: Sequence[Change]) -> float:
    """Mean relative change; `_tested` makes sure that there is one."""
    relative = [change.relative for change in changes if change.relative is not None]
    return float(np.mean(relative))


def _tested(changes: Sequence[Change]) -> list[Change]:
    """The changes whose full-precision value is not zero."""
    return [change for change in changes if change.relative is not None]


def _significant(changes: Sequence[Change]) -> str:
    """How many changes are significant in either direction, with the strongest stars."""
    parts = []
    for direction in ("better", "worse"):
        marked = [change for change in changes if change.stars and change.direction == direction]
        strongest = max((change.stars for change in marked), key=len, default="")
        parts.append(f"{len(marked)} {direction}{strongest}")
    return f"significantly {' and '.join(parts)} of {len(changes)}"
