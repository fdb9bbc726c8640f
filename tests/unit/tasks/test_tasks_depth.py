"""GL-MCM and NegLabel, tables for figures, prediction flips, corruption extras: the tasks beyond their main numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmark import Banks, Columns, FeatureBank, NoOptions, TextList
from benchmark.data import prompts
from benchmark.errors import ReliquantError, SpecError, UndefinedMetric
from benchmark.metrics.detection import auroc
from benchmark.metrics.ood import gl_mcm, neg_label
from benchmark.metrics.robustness import ALEXNET_ERROR
from benchmark.metrics.selective import accuracy_at_coverage
from benchmark.results.tables import sample_frames
from benchmark.testing import make_bank
from tasks.calibration import calibration
from tasks.corruption import CorruptionOptions, corruption
from tasks.ood import OodOptions, ood
from tasks.selective import selective
from tasks.spurious import spurious
from tasks.zero_shot import zero_shot

RNG = np.random.default_rng(0)


def unit(values: np.ndarray) -> np.ndarray:
    return (values / np.linalg.norm(values, axis=-1, keepdims=True)).astype(np.float32)


def with_local(bank: FeatureBank) -> FeatureBank:
    patches = np.random.default_rng(len(bank)).standard_normal((len(bank), 4, bank.image.shape[1]))
    return replace(bank, taps={"local": unit(bank.image[:, None] + patches)})


KNOWN, OTHER = with_local(make_bank(seed=1)), with_local(make_bank(seed=7, samples=90, dataset="other"))
NEGATIVES = unit(RNG.standard_normal((250, KNOWN.text.shape[1])))
ALL = OodOptions(scores=("mcm", "gl_mcm", "neg_label"))


def test_gl_mcm_and_neg_label_are_those_of_the_metrics() -> None:
    outcome = ood.run(Banks({"id": [KNOWN], "ood": [OTHER]}, ALL, {"negatives": NEGATIVES}))
    scores = [gl_mcm(bank.cosines(KNOWN.text), bank.taps["local"], KNOWN.text) for bank in (KNOWN, OTHER)]
    assert outcome.metrics["gl_mcm/auroc"] == auroc(*scores)
    scores = [neg_label(bank.image, KNOWN.text, NEGATIVES, KNOWN.logit_scale, groups=2) for bank in (KNOWN, OTHER)]
    assert outcome.metrics["neg_label/auroc"] == auroc(*scores)
    assert not outcome.notes


def test_a_model_without_local_features_gets_a_note() -> None:
    plain = replace(KNOWN, taps={})
    outcome = ood.run(Banks({"id": [plain], "ood": [OTHER]}, OodOptions(scores=("mcm", "gl_mcm"))))
    assert "no local (patch) features" in outcome.notes["gl_mcm/auroc"]
    assert "mcm/auroc" in outcome.metrics
    assert not [key for key in outcome.metrics if "gl_mcm" in key]
    with pytest.raises(UndefinedMetric, match="no score is left"):
        ood.run(Banks({"id": [plain], "ood": [OTHER]}, OodOptions(scores=("gl_mcm",))))


def test_the_options_ask_for_what_the_scores_need() -> None:
    assert (OodOptions().taps, OodOptions().texts) == ((), {})
    assert ALL.taps == ("local",)
    asked = OodOptions(scores=("neg_label",), negatives=("chair", "lamp"), negatives_template="the nice {}")
    assert asked.texts == {"negatives": TextList(("chair", "lamp"), "the nice {}")}


def test_the_share_of_negatives_keeps_the_farthest() -> None:
    near = unit(KNOWN.text + 0.01)
    both = np.concatenate([near, NEGATIVES])
    share = len(NEGATIVES) / len(both)
    options = OodOptions(scores=("neg_label",), negatives_share=share)
    kept = ood.run(Banks({"id": [KNOWN], "ood": [OTHER]}, options, {"negatives": both}))
    wanted = ood.run(Banks({"id": [KNOWN], "ood": [OTHER]}, ALL, {"negatives": NEGATIVES}))
    assert kept.metrics["neg_label/auroc"] == pytest.approx(wanted.metrics["neg_label/auroc"], abs=0.02)
    whole = OodOptions(scores=("neg_label",))
    spoilt = ood.run(Banks({"id": [KNOWN], "ood": [OTHER]}, whole, {"negatives": both}))
    assert spoilt.metrics["neg_label/auroc"] != kept.metrics["neg_label/auroc"]


def test_the_negatives_that_are_kept_lie_farthest_from_the_classes() -> None:
    """By hand: two classes along the axes 0 and 1, two negatives beside them, two along the axes 2 and 3."""
    axes = np.eye(4, dtype=np.float32)
    near = unit(axes[:2] + 0.2 * axes[2:])
    bank = make_bank(samples=4, classes=2, image=axes, text=axes[:2], label=np.array([0, 1, 0, 1]))
    negatives, options = np.stack([near[0], axes[2], near[1], axes[3]]), OodOptions(scores=("neg_label",))
    half = options.model_copy(update={"negatives_share": 0.5})
    kept = ood.run_observe(Banks({"id": [bank], "ood": [bank]}, half, {"negatives": negatives}))
    wanted = ood.run_observe(Banks({"id": [bank], "ood": [bank]}, options, {"negatives": axes[2:]}))
    np.testing.assert_array_equal(kept["id"]["neg_label"], wanted["id"]["neg_label"])
    known, other = kept["id"]["neg_label"][:2], kept["id"]["neg_label"][2:]
    assert known.min() > 0.9
    assert other.max() < 0.1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scores": ["gl_mcn"]}, "Did you mean 'gl_mcm'"),
        ({"scores": []}, "scores"),
        ({"negatives_share": 0}, "negatives_share"),
        ({"negative": "x"}, "Did you mean 'negatives'"),
    ],
)
def test_wrong_options_name_the_field(options: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        ood.parse_options(options, "suite 's': tasks.ood.x.options")


def test_the_built_in_vocabulary_is_seeded_and_a_file_is_read(tmp_path: Path) -> None:
    words = prompts.class_names("vocabulary")
    assert len(set(words)) == len(words) == prompts.VOCABULARY_SIZE
    assert words == prompts.vocabulary.__wrapped__()
    assert all(word.isalpha() and len(word) >= 4 for word in words)
    (tmp_path / "negatives.txt").write_text("chair\nlamp\n")
    assert prompts.class_names(str(tmp_path / "negatives.txt")) == ("chair", "lamp")
    with pytest.raises(ReliquantError, match=r"none\.txt"):
        prompts.class_names(str(tmp_path / "none.txt"))


def test_flips_by_hand() -> None:
    def columns(predictions: list[int]) -> Columns:
        label, now = np.array([0, 1, 2, 2]), np.array(predictions)
        return Columns({"test": {"sample_id": np.array(list("abcd")), "correct": now == label, "prediction": now}})

    compared = zero_shot.run_comparison(columns([0, 2, 2, 0]), columns([0, 1, 1, 1]), NoOptions()).metrics
    assert compared == {"agreement": 0.25, "flips_right_to_wrong": 0.25, "flips_wrong_to_right": 0.25}


def test_ece_is_the_sum_of_its_two_sides() -> None:
    metrics = calibration.run(Banks({"test": [make_bank(seed=1)], "fit": [make_bank(seed=2)]})).metrics
    for suffix in ("", "_tuned"):
        sides = metrics[f"overconfidence_15{suffix}"] + metrics[f"underconfidence_15{suffix}"]
        assert sides == pytest.approx(metrics[f"ece_15{suffix}"])


def test_per_class_table_by_hand() -> None:
    """Two classes; one of them has no image on counter backgrounds."""
    text = np.eye(2, dtype=np.float32)
    names = ("cat", "dog")

    def bank(images: list[int], labels: list[int], dataset: str) -> FeatureBank:
        ids = np.array([f"{dataset}{i}" for i in range(len(images))])
        return FeatureBank(dataset, text[images], np.array(labels), ids, text, names, 10.0)

    outcome = spurious.run(Banks({"common": [bank([0, 0, 1], [0, 0, 0], "c")], "counter": [bank([1, 0], [1, 1], "d")]}))
    table = sample_frames(outcome)["per_class"]
    assert table["class"].tolist() == ["cat", "dog"]
    assert table["samples_common"].tolist() == [3, 0]
    assert table["accuracy_common"].tolist() == pytest.approx([2 / 3, float("nan")], nan_ok=True)
    assert table["accuracy_counter"].tolist() == pytest.approx([float("nan"), 0.5], nan_ok=True)


def variant(kind: str, severity: int, **fields: object) -> FeatureBank:
    return make_bank(seed=3, dataset=f"c/{kind}/{severity}", corruption=kind, severity=severity, **fields)


def test_alexnet_is_for_the_standard_types_when_extra_ones_are_there() -> None:
    variants = [variant(kind, s) for kind in (*ALEXNET_ERROR, "saturate") for s in range(1, 6)]
    outcome = corruption.run(
        Banks({"clean": [make_bank(seed=3)], "corrupted": variants}, CorruptionOptions(alexnet=True))
    )
    error = 1.0 - outcome.metrics["accuracy"]
    assert outcome.metrics["mean_corruption_error_alexnet"] == pytest.approx(
        np.mean([error / e for e in ALEXNET_ERROR.values()])
    )
    assert outcome.metrics["saturate/accuracy"] == outcome.metrics["fog/accuracy"]


def test_clean_images_that_do_not_pair_have_their_own_ids() -> None:
    other = make_bank(seed=9)
    other = replace(other, sample_id=np.char.add("x", other.sample_id))
    outcome = corruption.run(Banks({"clean": [other], "corrupted": [variant("fog", 1)]}, CorruptionOptions()))
    assert outcome.columns["clean"]["sample_id"].tolist() == other.sample_id.tolist()
    assert "do not pair" in outcome.notes["clean_accuracy"]


def test_selective_prediction() -> None:
    bank = make_bank(seed=1)
    outcome = selective.run(Banks({"test": [bank]}))
    samples = outcome.columns["test"]
    assert outcome.metrics["accuracy_at_coverage_90"] == accuracy_at_coverage(samples["confidence"], samples["correct"])
    curve = sample_frames(outcome)["risk_coverage"]
    assert len(curve) == 100
    assert curve["coverage"].iloc[-1] == 1.0
    assert curve["risk"].iloc[-1] == pytest.approx(1.0 - samples["correct"].mean())
    perfect = selective.run(Banks({"test": [make_bank(accuracy=1.0)]})).metrics
    assert (perfect["aurc"], perfect["excess_aurc"], perfect["accuracy_at_coverage_90"]) == (0.0, 0.0, 1.0)
