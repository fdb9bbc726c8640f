"""The hypotheses of the study, as declarations: what is measured, and which values make the claim true.

The study: "Less Precise Can Be More Reliable" (Bouguerra et al., ICML 2026, arXiv 2509.21173). How a hypothesis is
judged says `benchmark.results.findings`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from benchmark.ledger.records import Record
from benchmark.plugins import tasks
from benchmark.results.effects import Asked, Effect, judged
from benchmark.results.findings import Examined, Existence, Finding, Hypothesis, Quantity, Region
from benchmark.results.groups import SIMPLE, Run
from benchmark.results.quantities import Terms, average, between, contrast, frame_of, share

KINDS: Mapping[str, tuple[str, str, str]] = {
    "accuracy": ("zero_shot", "accuracy", "accuracy"),
    "ece": ("calibration", "ece_15", "ece_15"),
    "tuned": ("calibration", "ece_15_tuned", "ece_15_tuned"),
    "tuned, untuned": ("calibration", "ece_15_tuned", "ece_15"),
    "auroc": ("ood", "mcm/auroc", "mcm/auroc"),
    "corruption": ("corruption", "accuracy", "accuracy"),
    "shift": ("covariate_shift", "accuracy", "accuracy"),
    "rsg": ("spurious", "rsg", "rsg"),
    "common": ("spurious", "accuracy_common", "accuracy_common"),
    "counter": ("spurious", "accuracy_counter", "accuracy_counter"),
}
"""Kind of effect -> task, its metric, and the metric of full precision that it is put beside.

Where a metric is judged by a companion (an ECE by its debiased one), that is taken.
"""
FOUR: Terms = {"accuracy": 1.0, "ece": -1.0, "auroc": 1.0, "corruption": 1.0}
"""What is said to improve at the same time; an ECE improves downwards."""
VULNERABILITY: Terms = {"common": 1.0, "counter": -1.0}
"""`Vuln_add` = delta(counter) - delta(common), the relative losses, as relative changes."""


def wanted(record: Record) -> Iterable[Asked]:
    """What the hypotheses want of a record."""
    for kind, (task, now, before) in KINDS.items():
        if record.task == task:
            yield Asked(kind, judged(tasks.get(task), now), judged(tasks.get(task), before))


def _is(run: Run, methods: Sequence[str], bits: int) -> bool:
    return run.spec.method in methods and (run.spec.weight_bits, run.spec.activation_bits) == (bits, 8)


def _simple(bits: int) -> Callable[[Run], bool]:
    return lambda run: _is(run, SIMPLE, bits)


def _rotated(run: Run) -> bool:
    return _is(run, ("rotation",), 4)


def _both_towers(run: Run) -> bool:
    return run.spec.scope == "vision+text"


def _text_tower(run: Run) -> bool:
    return "text" in run.spec.towers


def _but_bits(run: Run) -> Any:
    return run.spec.model_copy(update={"weight_bits": None})


def _but_method(run: Run) -> Any:
    return run.spec.model_copy(update={"method": "", "options": ()})


def _trained_on(*sources: str) -> Callable[[Run], bool]:
    return lambda run: run.facts.pretraining in sources


def _built_as(architecture: str) -> Callable[[Run], bool]:
    return lambda run: run.facts.architecture == architecture


def _mean(kind: str, nothing: str, where: Callable[[Run], bool] | None = None, relative: bool = False) -> Any:
    return lambda frame: average(frame, {kind: 1.0}, nothing, where, relative)


BITS = (_simple(4), _simple(8))
NO_BITS = "needs rtn, percentile or mse at W8A8 and W4A8, all else equal, on the same data"
NO_ROTATION = "needs rotation and a simple method (rtn, percentile, mse) at W4A8, all else equal, on the same data"
NO_COMMON = "needs a quantization that all of these models have"
NO_TUNING = "needs runs with both towers quantized whose ECE after tuning the logit scale is defined"
GAIN: Terms = {kind: factor / len(FOUR) for kind, factor in FOUR.items()}

HYPOTHESES: tuple[Examined, ...] = (
    # Smallest effects of interest: half a point for an ECE and a gain, one point for dRSG and Vuln_add, 1 % for a
    # relative gain and 0.5 % for help that there should not be; a share is "about" 40 % within 15 points.
    Existence(
        "accuracy, calibration, OOD detection and corruption robustness can improve at the same time", "they do", FOUR
    ),
    Hypothesis(
        "calibration improves in about 40 % of the runs",
        "about 40 %",
        (
            Quantity(
                "share of a model's runs whose ECE falls",
                "share",
                Region(0.25, 0.55),
                lambda frame: share(frame, "ece", -1.0, "needs calibration"),
            ),
        ),
    ),
    Hypothesis(
        "with both towers quantized and the logit scale tuned, ECE falls below full precision's untuned one",
        "1.1 % against 6.9 %",
        (
            Quantity(
                "tuned ECE minus full precision's untuned ECE",
                "points",
                Region(high=-0.005),
                _mean("tuned, untuned", NO_TUNING, _both_towers),
            ),
        ),
    ),
    Hypothesis(
        "with both towers quantized, ECE falls below full precision's, both tuned",
        "not given",
        (
            Quantity(
                "change of the tuned ECE",
                "points",
                Region(high=-0.005),
                _mean("tuned", NO_TUNING, _both_towers),
            ),
        ),
    ),
    Hypothesis(
        "quantizing the text tower without tuning raises ECE",
        "by up to 98 %",
        (
            Quantity(
                "change of ECE",
                "points",
                Region(low=0.005),
                _mean("ece", "needs calibration and a run that quantizes the text tower", _text_tower),
            ),
        ),
    ),
    Hypothesis(
        "accuracy under synthetic corruptions rises on average",
        "+8.9 %",
        (
            Quantity(
                "relative change of the accuracy on corrupted images",
                "%",
                Region(low=0.01),
                _mean("corruption", "needs corruptions", relative=True),
            ),
        ),
    ),
    Hypothesis(
        "quantization does not help under covariate shift",
        "accuracy falls on ImageNet-A, -R and -Sketch",
        (
            Quantity(
                "relative change of the accuracy on shifted images",
                "%",
                Region(high=0.005),
                _mean("shift", "needs covariate shift", relative=True),
            ),
        ),
    ),
    Hypothesis(
        "quantization does not help against spurious correlations",
        "dRSG +2.6 points at W8A8, +12.5 at W4A8 with simple methods",
        (Quantity("dRSG", "points", Region(low=-0.01), _mean("rsg", "needs spurious correlations")),),
    ),
    Hypothesis(
        "with simple methods the bias grows as the weights get fewer bits",
        "dRSG +2.6 and +12.5 points, Vuln_add +3.0 and +10.3",
        (
            Quantity(
                "dRSG at W4A8 minus at W8A8",
                "points",
                Region(low=0.01),
                lambda frame: contrast(frame, {"rsg": 1.0}, NO_BITS, BITS, _but_bits),
            ),
            Quantity(
                "Vuln_add at W4A8 minus at W8A8",
                "points",
                Region(low=0.01),
                lambda frame: contrast(frame, VULNERABILITY, NO_BITS, BITS, _but_bits, relative=True),
            ),
        ),
    ),
    Hypothesis(
        "rotation adds less bias than simple methods at W4A8",
        "dRSG +4.0 and +12.5 points",
        (
            Quantity(
                "dRSG of rotation minus that of simple methods",
                "points",
                Region(high=-0.01),
                lambda frame: contrast(frame, {"rsg": 1.0}, NO_ROTATION, (_rotated, _simple(4)), _but_method),
            ),
        ),
    ),
    Hypothesis(
        "ECE rises more for models trained on LAION than for those trained on WIT or DFN",
        "+49 % on LAION, a fall on WIT and DFN",
        (
            Quantity(
                "change of ECE on LAION minus that on WIT and DFN",
                "points",
                Region(low=0.005),
                lambda frame: between(
                    frame,
                    {"ece": 1.0},
                    NO_COMMON,
                    (_trained_on("LAION"), _trained_on("WIT", "DFN")),
                    ("on LAION", "on WIT or DFN"),
                ),
            ),
        ),
    ),
    Hypothesis(
        "convolutional networks gain more than transformers",
        "said of ConvNeXt, no number known",
        (
            Quantity(
                "mean gain in accuracy, ECE, OOD AUROC and corrupted accuracy, convnets minus transformers",
                "points",
                Region(low=0.005),
                lambda frame: between(
                    frame,
                    GAIN,
                    NO_COMMON,
                    (_built_as("convnet"), _built_as("transformer")),
                    ("convnets", "transformers"),
                ),
            ),
        ),
    ),
)


def examine(effects: Iterable[Effect], runs: Mapping[tuple[str, str], Run]) -> list[Finding]:
    """What effects of `wanted` say about every hypothesis."""
    frame = frame_of(effects, runs)
    return [hypothesis.examine(frame) for hypothesis in HYPOTHESES]
