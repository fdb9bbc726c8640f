"""Change against full precision, spurious gaps, corruption error and groups.

f = full precision, q = quantized, A = accuracy (or another score where a higher value is better). A zero denominator
raises UndefinedMetric: there is no number to give.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Literal

import numpy as np
import numpy.typing as npt

from benchmark.errors import InputError, UndefinedMetric
from benchmark.metrics.arrays import as_bools, as_vector, require_finite, require_same_length

ALEXNET_ERROR: Mapping[str, float] = MappingProxyType(
    {
        "gaussian_noise": 0.886428,
        "shot_noise": 0.894468,
        "impulse_noise": 0.922640,
        "defocus_blur": 0.819880,
        "glass_blur": 0.826268,
        "motion_blur": 0.785948,
        "zoom_blur": 0.798360,
        "snow": 0.866816,
        "frost": 0.826572,
        "fog": 0.819324,
        "brightness": 0.564592,
        "contrast": 0.853204,
        "elastic_transform": 0.646056,
        "pixelate": 0.717840,
        "jpeg_compression": 0.606500,
    }
)
"""AlexNet's top-1 error, mean over 5 severities, on ImageNet-C at 224 px (published with ImageNet-C, Hendrycks &
Dietterich 2019). Only comparable with ImageNet-C at 224 px."""


def _ratio(numerator: float, denominator: float, what: str) -> float:
    require_finite([numerator, denominator], what)
    if denominator == 0.0:
        raise UndefinedMetric(f"{what}: its denominator is zero.")
    return float(numerator / denominator)


def relative_change(reference: float, value: float) -> float:
    """`delta = (A_f - A_q) / A_f`: positive when the quantized model is lower, 0 when equal, 1 when it is at zero.

    The study's delta(D), for accuracy and AUROC.

    >>> relative_change(0.5, 0.25)
    0.5
    """
    return _ratio(reference - value, reference, "relative change against full precision")


def signed_relative_change(reference: float, value: float, better: Literal["higher", "lower"]) -> float:
    """`(q - f) / |f|`, with the sign turned for metrics where lower is better: positive always means improved."""
    if better not in ("higher", "lower"):
        raise InputError(f"better: expected 'higher' or 'lower', got '{better}'.")
    change = _ratio(value - reference, abs(reference), "relative change against full precision")
    return change if better == "higher" else 0.0 - change


def rsg(common: float, counter: float) -> float:
    """Relative spurious gap of a model, `(A(common) - A(counter)) / A(common)`: 0 without a gap, 1 with all lost."""
    return _ratio(common - counter, common, "relative spurious gap (accuracy on common backgrounds)")


def delta_rsg(
    reference_common: float, reference_counter: float, quantized_common: float, quantized_counter: float
) -> float:
    """`RSG(q) - RSG(f)`: positive when quantization makes the model lean more on the spurious cue."""
    return rsg(quantized_common, quantized_counter) - rsg(reference_common, reference_counter)


def vuln_add(
    reference_common: float, reference_counter: float, quantized_common: float, quantized_counter: float
) -> float:
    """Added vulnerability `delta(counter) - delta(common)`: the loss on counter backgrounds beyond the plain loss.

    Related by `dRSG = (1 - RSG(f)) * Vuln_add / (1 - delta(common))`.
    """
    on_counter = relative_change(reference_counter, quantized_counter)
    return on_counter - relative_change(reference_common, quantized_common)


def corruption_errors(
    errors: Mapping[str, Sequence[float]], reference_errors: Mapping[str, Sequence[float]]
) -> dict[str, float]:
    """`CE_c = sum_s E(c, s) / sum_s E_ref(c, s)` for each corruption type, in the order of `errors`.

    Args: error rates in [0, 1] by type, one per severity; both mappings have the same types and severities.
    """
    if set(errors) != set(reference_errors):
        different = ", ".join(sorted(set(errors) ^ set(reference_errors)))
        raise InputError(f"corruption errors and their reference have different types: {different}.")
    result = {}
    for kind, values in errors.items():
        own = as_vector(values, f"errors of {kind}")
        reference = as_vector(reference_errors[kind], f"reference errors of {kind}")
        require_same_length(errors=own, reference=reference)
        result[kind] = _ratio(float(own.sum()), float(reference.sum()), f"corruption error of {kind}")
    return result


def mean_corruption_error(
    errors: Mapping[str, Sequence[float]], reference_errors: Mapping[str, Sequence[float]]
) -> float:
    """mCE (Hendrycks & Dietterich 2019): mean over types of `corruption_errors`; 1 means as bad as the reference.

    With full precision as reference this is the suite's standard mCE. Raises UndefinedMetric when the reference makes
    no error at all on a type.
    """
    if not errors:
        raise UndefinedMetric("mean corruption error: no corruption types.")
    return float(np.mean(list(corruption_errors(errors, reference_errors).values())))


def mean_corruption_error_alexnet(errors: Mapping[str, Sequence[float]]) -> float:
    """mCE with AlexNet's published errors as reference. ImageNet-C at 224 px, all 15 types, all 5 severities only."""
    wrong = sorted(set(errors) ^ set(ALEXNET_ERROR)) + [k for k, v in errors.items() if len(v) != 5]
    if wrong:
        names = ", ".join(wrong)
        raise InputError(f"mCE relative to AlexNet needs the 15 ImageNet-C types at 5 severities each; see {names}.")
    return mean_corruption_error(errors, {kind: [error] * 5 for kind, error in ALEXNET_ERROR.items()})


def relative_robustness(corrupted: float, clean: float) -> float:
    """Corrupted over clean accuracy: 1 when nothing is lost."""
    return _ratio(corrupted, clean, "relative robustness (clean accuracy)")


def group_accuracies(correct: npt.ArrayLike, group: npt.ArrayLike) -> dict[int, float]:
    """Accuracy in each group that is present, by group number in ascending order.

    Args: correct (N,) bool; group (N,) integers.
    """
    hit, groups = as_bools(correct, "correct"), np.asarray(group)
    if groups.dtype.kind not in "iu" or groups.ndim != 1:
        raise InputError(f"group: expected one-dimensional integers, got {groups.dtype} of shape {groups.shape}.")
    require_same_length(correct=hit, group=groups)
    present, index, counts = np.unique(groups, return_inverse=True, return_counts=True)
    shares = np.bincount(index, weights=hit) / counts
    return {int(name): float(share) for name, share in zip(present, shares, strict=True)}
