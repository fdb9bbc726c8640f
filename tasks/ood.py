"""Out-of-distribution detection."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, Field

from benchmark import Banks, FeatureBank, Metric, Outcome, TextList, task
from benchmark.errors import InputError, UndefinedMetric, UnknownNameError
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
from benchmark.metrics.ood import SCORES, gl_mcm, neg_label
from benchmark.metrics.scores import normalise
from benchmark.metrics.significance import Comparison, attempt, delong, delong_mean, detection_differences
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


ALL_SCORES = (*SCORES, "gl_mcm", "neg_label")
"""Scores of pooled features; then one that needs patch features and one that needs negative labels."""

GROUP_SIZE = 100
"""Negative labels in a group of NegLabel, as its authors have it (10,000 labels in 100 groups)."""


def _known(name: str) -> str:
    if name not in ALL_SCORES:
        raise ValueError(str(UnknownNameError("OOD score", name, ALL_SCORES)))
    return name


class OodOptions(Frozen):
    """Which scores to compute, and the negative labels of `neg_label`.

    Attributes:
        scores: besides the five of pooled features, `gl_mcm` and `neg_label`.
        negatives: a list, a text file with one label a line, or a built-in (`vocabulary`: 1,000 words, a seeded
            choice from CLIP's own vocabulary). negatives_template: the prompt around each.
        negatives_share: keep this share of the negatives, those farthest from the known classes.
    """

    scores: Annotated[tuple[Annotated[str, AfterValidator(_known)], ...], Field(min_length=1)] = tuple(SCORES)
    negatives: Annotated[str | tuple[str, ...], Field(min_length=1)] = "vocabulary"
    negatives_template: str = "a photo of a {}."
    negatives_share: Annotated[float, Field(gt=0, le=1)] = 1.0

    @property
    def taps(self) -> tuple[str, ...]:
        """GL-MCM looks at the image tower's patch features."""
        return ("local",) if "gl_mcm" in self.scores else ()

    @property
    def texts(self) -> dict[str, TextList]:
        """NegLabel looks at the text features of the negative labels."""
        return {"negatives": TextList(self.negatives, self.negatives_template)} if "neg_label" in self.scores else {}


@task(
    "ood",
    version=2,
    needs=("id", "ood"),
    classes=("id",),
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

    Scores (higher = in distribution): MSP, MCM, MaxLogit, Energy, negative entropy, on request GL-MCM (local features
    of the image tower) and NegLabel (negative labels). Keys: `<score>/<metric>` is the unweighted mean over the data
    sets of the role `ood`, `<data set>/<score>/<metric>` one of them; near and far groups are two bindings. The class
    weights are those of the in-distribution data. `ties`: how many scores are not distinct (an effect of low
    precision).
    """
    known = banks["id"]
    notes: dict[str, str] = {}
    names = _defined(banks, notes)
    negatives = _negatives(banks) if "neg_label" in names else None
    inside = _scores(known, known, names, negatives)
    metrics: dict[str, float] = {}
    samples: dict[str, NDArray[Any]] = {"sample_id": known.sample_id, "id": inside}
    for bank in banks.all("ood"):
        outside = _scores(bank, known, names, negatives)
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
    return Outcome(metrics, samples, {"scores": np.array(names)}, notes)


def _defined(banks: Banks, notes: dict[str, str]) -> tuple[str, ...]:
    """The asked scores that these banks allow; a note for each other.

    Raises:
        UndefinedMetric: none is left.
    """
    asked = dict.fromkeys(banks.options.scores)
    if "gl_mcm" in asked and not all("local" in bank.taps for bank in (banks["id"], *banks.all("ood"))):
        notes["gl_mcm/auroc"] = "this model's image tower has no local (patch) features in the joint space"
        del asked["gl_mcm"]
    if "neg_label" in asked and "negatives" not in banks.texts:
        notes["neg_label/auroc"] = "there are no text features of negative labels"
        del asked["neg_label"]
    if not asked:
        raise UndefinedMetric(f"no score is left: {'; '.join(notes.values())}")
    return tuple(asked)


def _negatives(banks: Banks) -> NDArray[np.floating[Any]]:
    """(K, D) features of the negative labels, the share of them that lies farthest from the known classes.

    The nearness of a label is the 95th percentile of its cosines with the known classes (NegMining, Jiang et al. 2024).
    """
    features, share = banks.texts["negatives"], banks.options.negatives_share
    if share == 1.0:
        return features
    cos = normalise(features, "negative labels") @ normalise(banks["id"].text, "class weights").T
    kept = np.argsort(np.quantile(cos, 0.95, axis=1), kind="stable")[: max(1, round(share * len(features)))]
    return np.asarray(features[np.sort(kept)])


def _scores(
    bank: FeatureBank, known: FeatureBank, names: tuple[str, ...], negatives: NDArray[np.floating[Any]] | None
) -> NDArray[np.float64]:
    """(N, number of scores) float64."""
    cos = bank.cosines(known.text)
    columns = []
    for name in names:
        if name == "gl_mcm":
            columns.append(gl_mcm(cos, bank.taps["local"], known.text))
        elif name == "neg_label" and negatives is not None:
            groups = max(1, len(negatives) // GROUP_SIZE)
            columns.append(neg_label(bank.image, known.text, negatives, known.logit_scale, groups=groups))
        else:
            columns.append(SCORES[name](cos, known.logit_scale, known.logit_bias))
    return np.stack(columns, axis=1)


@ood.significance
def significance(quantized: Outcome, reference: Outcome) -> Mapping[str, Comparison | str]:
    """AUROC by DeLong, FPR95 by influences, AUPR by bootstrap; also for the mean over data sets, which share the ID."""
    names = [str(name) for name in reference.tables["scores"]]
    if [str(name) for name in quantized.tables["scores"]] != names:
        raise InputError("the two evaluations have other OOD scores")
    sets = [name for name in reference.samples if name.startswith("ood:") and not name.endswith(".sample_id")]
    found: dict[str, Comparison | str] = {}
    for column, score in enumerate(names):
        a, b = (outcome.samples["id"][:, column] for outcome in (reference, quantized))
        outs = [tuple(outcome.samples[name][:, column] for outcome in (reference, quantized)) for name in sets]
        found[f"{score}/auroc"] = attempt(delong_mean, a, [o[0] for o in outs], b, [o[1] for o in outs])
        means, singles = detection_differences(a, [o[0] for o in outs], b, [o[1] for o in outs])
        found |= {f"{score}/{measure}": comparison for measure, comparison in means.items()}
        for name, (first, second), single in zip(sets, outs, singles, strict=True):
            key = f"{name.removeprefix('ood:')}/{score}"
            found[f"{key}/auroc"] = attempt(delong, a, first, b, second)
            found |= {f"{key}/{measure}": comparison for measure, comparison in single.items()}
    for score in [*names, *(f"{name.removeprefix('ood:')}/{score}" for name in sets for score in names)]:
        found |= {f"{score}/aupr_{side}_trapezoid": f"see aupr_{side}" for side in ("in", "out")}
    return found


ood.draw(score_histograms)
