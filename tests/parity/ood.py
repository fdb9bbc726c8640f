"""OOD detection by another road: open_clip and pytorch-ood for the scores, OpenOOD's and pytorch-ood's measures."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import open_clip
import torch
from PIL import Image
from sklearn.metrics import auc, precision_recall_curve, roc_curve
from torch.nn.functional import normalize

from tests.layouts import Sample

Scores = dict[str, np.ndarray]


class Scorer:
    """open_clip's model, transform and tokenizer as its documentation uses them; pytorch-ood's detectors on top."""

    def __init__(self, checkpoint: Path, classes: list[str], templates: list[str]) -> None:
        reference = f"local-dir:{checkpoint}"
        self.model, _, self.transform = open_clip.create_model_and_transforms(reference)
        self.model.eval()
        tokenize = open_clip.get_tokenizer(reference)
        with torch.inference_mode():
            texts = [normalize(self.model.encode_text(tokenize([t.format(c=c) for t in templates]))) for c in classes]
            self.weights = torch.stack([normalize(text.mean(0), dim=0) for text in texts]).double()
            self.scale = self.model.logit_scale.exp().double()

    @torch.inference_mode()
    def scores(self, samples: list[Sample]) -> Scores:
        """Outlier scores (higher = out of distribution) by the names that reliquant uses."""
        from pytorch_ood.detector import MCM, EnergyBased, Entropy, MaxLogit, MaxSoftmax

        images = [self.transform(Image.open(io.BytesIO(sample.encoded)).convert("RGB")) for sample in samples]
        parts = [self.model.encode_image(batch) for batch in torch.stack(images).split(64)]
        features = normalize(torch.cat(parts)).double()
        cosines = features @ self.weights.T
        logits = self.scale * cosines
        found = {
            "msp": MaxSoftmax.score(logits),
            "mcm": MCM(None, self.weights).predict_features(features),
            "max_logit": MaxLogit.score(cosines),
            "energy": EnergyBased.score(logits),
            "negative_entropy": Entropy.score(logits),
        }
        return {name: value.double().numpy() for name, value in found.items()}


def openood(outlier: np.ndarray, is_out: np.ndarray) -> dict[str, float]:
    """OpenOOD v1.5: OOD is positive; areas by trapezoids; FPR where the true positive rate first reaches 0.95."""
    false, true, _ = roc_curve(is_out, outlier)
    inside_precision, inside_recall, _ = precision_recall_curve(~is_out, -outlier)
    outside_precision, outside_recall, _ = precision_recall_curve(is_out, outlier)
    return {
        "auroc": float(auc(false, true)),
        "aupr_in_trapezoid": float(auc(inside_recall, inside_precision)),
        "aupr_out_trapezoid": float(auc(outside_recall, outside_precision)),
        "fpr95_ood_positive": float(false[true >= 0.95][0]),
    }


def pytorch_ood(outlier: np.ndarray, is_out: np.ndarray) -> dict[str, float]:
    """pytorch-ood's own measures; labels below 0 are out of distribution."""
    from pytorch_ood.metrics import functional

    scores, labels = torch.tensor(outlier), torch.tensor(np.where(is_out, -1, 0))
    return {
        "auroc": functional.auroc(scores, labels).item(),
        "aupr_in_trapezoid": functional.aupr(scores, labels, positive="id").item(),
        "aupr_out_trapezoid": functional.aupr(scores, labels).item(),
        "fpr95_ood_positive": functional.fpr_at_tpr(scores, labels).item(),
    }
