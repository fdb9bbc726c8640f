"""Out-of-distribution detection."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, Field

from benchmark import Banks, Columns, Errors, FeatureBank, Metric, Summary, TextList, task
from benchmark.errors import UndefinedMetric, UnknownNameError
from benchmark.metrics.detection import detection_measures
from benchmark.metrics.detection_replicates import detection_replicates
from benchmark.metrics.ood import SCORES, gl_mcm, neg_label
from benchmark.metrics.scores import normalise
from benchmark.spec import Frozen

from .figures import histograms

MEASURES = (
    "auroc",
    "fpr95_ood_positive",
    "fpr95_id_positive",
    "aupr_in",
    "aupr_out",
    "aupr_in_trapezoid",
    "aupr_out_trapezoid",
    "ties",
)

ALL_SCORES = (*SCORES, "gl_mcm", "neg_label")
"""Scores of pooled features; then one that needs patch features and one that needs negative labels."""

HISTOGRAM_BINS = 40
NOTE = "note:"
"""Before the metric key, in the columns' `about`: why it is undefined."""

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
    version=3,
    needs=("id", "ood"),
    classes=("id",),
    options=OodOptions,
    words={
        "ood": "out of distribution, images of unknown classes",
        "mcm": "maximum concept matching, an OOD score",
        "auroc": "area under the ROC curve",
    },
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
def ood(banks: Banks, options: OodOptions) -> Columns:
    """Are images of other things told apart by a score of the zero-shot classifier over the known classes?

    Scores (higher = in distribution): MSP, MCM, MaxLogit, Energy, negative entropy, on request GL-MCM (local features
    of the image tower) and NegLabel (negative labels). Keys: `<score>/<metric>` is the unweighted mean over the data
    sets of the role `ood`, `<data set>/<score>/<metric>` one of them; near and far groups are two bindings. The class
    weights are those of the in-distribution data. `ties`: how many scores are not distinct (an effect of low
    precision).
    """
    known = banks["id"]
    notes = _undefined(banks, options)
    names = tuple(name for name in dict.fromkeys(options.scores) if f"{name}/auroc" not in notes)
    if not names:
        raise UndefinedMetric(f"no score is left: {'; '.join(notes.values())}")
    negatives = _negatives(banks, options) if "neg_label" in names else None
    groups = {"id": known.columns(**_scores(known, known, names, negatives))}
    for bank in banks.all("ood"):
        groups[f"ood:{bank.dataset}"] = bank.columns(**_scores(bank, known, names, negatives))
    return Columns(groups, {f"{NOTE}{key}": np.array(why) for key, why in notes.items()})


@ood.summarise
def summarise(columns: Columns, options: OodOptions) -> Summary:
    """Every measure of every score on every data set, and the means over the data sets."""
    names, outside = _names(columns["id"]), _outside(columns)
    metrics: dict[str, float] = {}
    for dataset, group in outside.items():
        for score in names:
            found = detection_measures(columns["id"][score], group[score])
            metrics |= {f"{dataset}/{score}/{measure}": found[measure] for measure in MEASURES}
    for score in names:
        for measure in MEASURES:
            metrics[f"{score}/{measure}"] = float(np.mean([metrics[f"{s}/{score}/{measure}"] for s in outside]))
    tables = {"scores": np.array(names)}
    for score in names:
        tables |= _histogram(score, {"id": columns["id"][score], **{s: group[score] for s, group in outside.items()}})
    notes = {key.removeprefix(NOTE): str(why) for key, why in columns.about.items() if key.startswith(NOTE)}
    return Summary(metrics, tables, notes)


def _names(group: Mapping[str, NDArray[Any]]) -> list[str]:
    """The scores that a group of samples has, in the order they were asked for."""
    return [name for name in group if name not in ("sample_id", "base_id")]


def _outside(columns: Columns) -> dict[str, Mapping[str, NDArray[Any]]]:
    """Data set -> its samples, of those out of distribution."""
    return {name.removeprefix("ood:"): group for name, group in columns.groups.items() if name != "id"}


def _histogram(score: str, samples: Mapping[str, NDArray[np.float64]]) -> dict[str, NDArray[np.float64]]:
    """Table `histogram_<score>`: edges of bins of equal width, and the density of each set in them."""
    every = np.concatenate(list(samples.values()))
    edges = np.linspace(every.min(), every.max(), HISTOGRAM_BINS + 1)
    if not (np.diff(edges) > 0).all():  # constant scores, or nearly
        edges = np.linspace(every.min() - 0.5, every.max() + 0.5, HISTOGRAM_BINS + 1)
    table = {"low": edges[:-1], "high": edges[1:]}
    table |= {name: np.histogram(values, edges, density=True)[0] for name, values in samples.items()}
    return {f"histogram_{score}.{name}": values for name, values in table.items()}


def _undefined(banks: Banks, options: OodOptions) -> dict[str, str]:
    """Notes for the asked scores that these banks do not allow."""
    notes = {}
    if "gl_mcm" in options.scores and not all("local" in bank.taps for bank in (banks["id"], *banks.all("ood"))):
        notes["gl_mcm/auroc"] = "this model's image tower has no local (patch) features in the joint space"
    if "neg_label" in options.scores and "negatives" not in banks.texts:
        notes["neg_label/auroc"] = "there are no text features of negative labels"
    return notes


def _negatives(banks: Banks, options: OodOptions) -> NDArray[np.floating[Any]]:
    """(K, D) features of the negative labels, the share of them that lies farthest from the known classes.

    The nearness of a label is the 95th percentile of its cosines with the known classes (NegMining, Jiang et al. 2024).
    """
    features, share = banks.texts["negatives"], options.negatives_share
    if share == 1.0:
        return features
    cos = normalise(features, "negative labels") @ normalise(banks["id"].text, "class weights").T
    kept = np.argsort(np.quantile(cos, 0.95, axis=1), kind="stable")[: max(1, round(share * len(features)))]
    return np.asarray(features[np.sort(kept)])


def _scores(
    bank: FeatureBank, known: FeatureBank, names: tuple[str, ...], negatives: NDArray[np.floating[Any]] | None
) -> dict[str, NDArray[np.float64]]:
    """Score -> (N,) float64."""
    cos = bank.cosines(known.text)
    columns = {}
    for name in names:
        if name == "gl_mcm":
            columns[name] = gl_mcm(cos, bank.taps["local"], known.text)
        elif name == "neg_label" and negatives is not None:
            groups = max(1, len(negatives) // GROUP_SIZE)
            columns[name] = neg_label(bank.image, known.text, negatives, known.logit_scale, groups=groups)
        else:
            columns[name] = SCORES[name](cos, known.logit_scale, known.logit_bias)
    return columns


@ood.errors
def errors(columns: Columns, options: OodOptions, groups: Mapping[str, NDArray[Any]]) -> Errors:
    """Every measure without each group, from one sort; FPR95 by the influence of each sample."""
    names, outside = _names(columns["id"]), _outside(columns)
    found: dict[str, NDArray[np.float64]] = {}
    for score in names:
        sets = {}
        for dataset, group in outside.items():
            inside = columns["id"][score], groups["id"]
            sets[dataset] = detection_replicates(*inside, group[score], groups[f"ood:{dataset}"])
            found |= {f"{dataset}/{score}/{measure}": values for measure, values in sets[dataset].items()}
        for measure in next(iter(sets.values())):
            found[f"{score}/{measure}"] = np.mean([each[measure] for each in sets.values()], axis=0)
    return Errors(replicates=found)


@ood.draw
def draw(summary: Summary, reference: Summary | None) -> Mapping[str, Any]:
    """Scores of known (filled) and of unknown images; the less the two overlap, the better they are told apart (AUROC,
    the area under the ROC curve: 1 is no overlap, 0.5 no difference). Lines: full precision.
    """
    panels = {}
    for score in (str(name) for name in summary.tables["scores"]):
        title = f"{score}: AUROC {summary.metrics[f'{score}/auroc']:.3f}"
        prefix = f"histogram_{score}."
        panels[title] = [
            {key.removeprefix(prefix): table for key, table in stage.tables.items() if key.startswith(prefix)}
            for stage in (summary, reference)
            if stage is not None
        ]
    return {"score_histograms": histograms(panels, "score", {"id": "in distribution"})}
