"""Out-of-distribution detection."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator

from benchmark import Banks, FeatureBank, Metric, Outcome, task
from benchmark.errors import UnknownNameError
from benchmark.metrics.detection import (
    aupr_in,
    aupr_in_trapezoid,
    aupr_out,
    aupr_out_trapezoid,
    auroc,
    fpr95_id_positive,
    fpr95_ood_positive,
    tie_count,
)
from benchmark.metrics.ood import SCORES
from benchmark.spec import Frozen
from tasks.figures import score_histograms

MEASURES = {
    "auroc": auroc,
    "fpr95_ood_positive": fpr95_ood_positive,
    "fpr95_id_positive": fpr95_id_positive,
    "aupr_in": aupr_in,
    "aupr_out": aupr_out,
    "aupr_in_trapezoid": aupr_in_trapezoid,
    "aupr_out_trapezoid": aupr_out_trapezoid,
}


def _known(name: str) -> str:
    if name not in SCORES:
        raise ValueError(str(UnknownNameError("OOD score", name, SCORES)))
    return name


class OodOptions(Frozen):
    """Which scores to compute."""

    scores: tuple[Annotated[str, AfterValidator(_known)], ...] = tuple(SCORES)


@task(
    "ood",
    version=1,
    needs=("id", "ood"),
    options=OodOptions,
    metrics=[
        Metric("auroc", "higher", headline=True),
        Metric("fpr95_ood_positive", "lower"),
        Metric("fpr95_id_positive", "lower"),
        Metric("aupr_in", "higher"),
        Metric("aupr_out", "higher"),
        Metric("aupr_in_trapezoid", "higher"),
        Metric("aupr_out_trapezoid", "higher"),
        Metric("ties", "neither", unit="count"),
    ],
)
def ood(banks: Banks) -> Outcome:
    """Are images of other things told apart by a score of the zero-shot classifier over the known classes?

    Scores (higher = in distribution): MSP, MCM, MaxLogit, Energy, negative entropy. Keys: `<score>/<metric>` is the
    unweighted mean over the data sets of the role `ood`, `<data set>/<score>/<metric>` one of them. The class weights
    are those of the in-distribution data. `ties`: how many scores are not distinct (an effect of low precision).
    """
    known = banks["id"]
    names: tuple[str, ...] = banks.options.scores
    inside = _scores(known, known, names)
    metrics: dict[str, float] = {}
    samples: dict[str, NDArray[Any]] = {"sample_id": known.sample_id, "id": inside}
    for bank in banks.all("ood"):
        outside = _scores(bank, known, names)
        samples |= {f"ood:{bank.dataset}": outside, f"ood:{bank.dataset}.sample_id": bank.sample_id}
        for column, score in enumerate(names):
            first, second = inside[:, column], outside[:, column]
            for measure, function in MEASURES.items():
                metrics[f"{bank.dataset}/{score}/{measure}"] = function(first, second)
            metrics[f"{bank.dataset}/{score}/ties"] = float(tie_count(np.concatenate([first, second])))
    sets = [bank.dataset for bank in banks.all("ood")]
    for score in names:
        for measure in (*MEASURES, "ties"):
            metrics[f"{score}/{measure}"] = float(np.mean([metrics[f"{s}/{score}/{measure}"] for s in sets]))
    return Outcome(metrics, samples, {"scores": np.array(names)})


def _scores(bank: FeatureBank, known: FeatureBank, names: tuple[str, ...]) -> NDArray[np.float64]:
    """(N, number of scores) float64."""
    cos = bank.cosines(known.text)
    return np.stack([SCORES[name](cos, known.logit_scale, known.logit_bias) for name in names], axis=1)


ood.draw(score_histograms)
