"""An artifact in the place of a model's towers: what does not fit is refused, what it does to features is measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmark.data import Data
from benchmark.engine.embed import embed_images, embed_texts, filled_prompts
from benchmark.errors import ArtifactError
from benchmark.models.base import ClipModel
from benchmark.models.texts import whole_tokens
from benchmark.quantization.artifact_report import ArtifactFile, artifact_report
from benchmark.quantization.report import QuantizationReport
from benchmark.runtimes.artifact import KINDS, Artifact, TowerFile
from benchmark.runtimes.base import (
    FLOATS,
    INTEGERS,
    Features,
    FeatureTable,
    GraphRuntime,
    GraphTower,
    Port,
    Session,
    TowerEncoder,
)
from benchmark.spec import Tower

LOW_COSINE = 0.5
"""Mean cosine to full precision below which the file is most likely not the model, or gets other pixels."""


@dataclass(frozen=True)
class Probe:
    """A few images of the suite, with the ids by which features are found, and a few of its prompts.

    Attributes:
        pixels: (B, 3, H, W) uint8. ids: B names. texts: T prompts; none where no task has any.
    """

    pixels: NDArray[np.uint8]
    ids: Sequence[str]
    texts: Sequence[str]


@dataclass(frozen=True)
class Opened:
    """An artifact ready to run.

    Attributes:
        model: the full-precision model with the artifact's encoders in place of its own; its image encoder is unchanged
            where `given` has the features of images. given: features of images by id.
    """

    model: ClipModel
    given: Features | None = None


@dataclass(frozen=True)
class RowsOfTexts:
    """A tokenizer that gives each text its row in a table of features: B texts -> (B, 1) int64."""

    features: Features

    def __call__(self, texts: Sequence[str]) -> Tensor:
        return torch.from_numpy(self.features.positions(texts))[:, None]


@dataclass(frozen=True)
class FeaturesOfRows:
    """A text encoder that looks rows (B, 1) up."""

    features: Features

    def __call__(self, module: nn.Module, rows: Tensor) -> Tensor:
        return torch.from_numpy(self.features.features[rows[:, 0].cpu().numpy()]).to(rows.device)


@dataclass(frozen=True)
class WholeTokens:
    """The model's tokenizer, always with the whole context: a graph need not know where it may be cut."""

    inner: Any

    def __call__(self, texts: Sequence[str]) -> Tensor:
        return whole_tokens(self.inner, texts)


def feature_id(name: str, sample: object) -> str:
    """The id of an image in a file of features: data set and sample, `scenes/0012`."""
    return f"{name}/{sample}"


def open_artifact(artifact: Artifact, full: ClipModel, device: str, probe: Probe) -> Opened:
    """Open an artifact's towers, and run each once.

    Args:
        full: the model that it is made from; a tower that the artifact lacks is run as it is.
        device: `cpu` or `cuda`.

    Raises:
        ArtifactError: it cannot be run, or its inputs, outputs or features are not those of the model; one line with
            both values.
    """
    width = embed_images(full, [np.array(probe.pixels[:1])], lambda _: None)["image"].shape[1]
    try:
        opened = Opened(full)
        for tower, file in artifact.towers.items():
            opened = _with_tower(opened, tower, file, device, width)
        _run_once(opened, artifact, probe, width)
    except ArtifactError as error:
        raise ArtifactError(f"artifact '{artifact.name}': {error}") from error.__cause__
    return opened


def _with_tower(opened: Opened, tower: Tower, file: TowerFile, device: str, width: int) -> Opened:
    model = opened.model
    if isinstance(file.runtime, FeatureTable):
        features = file.runtime.read(file.path)[KINDS[tower]]
        _check_width(features.features.shape[1], width, model, features.where)
        if tower == "vision":
            return replace(opened, model=replace(model, taps={}), given=features)
        return replace(
            opened, model=replace(model, tokenizer=RowsOfTexts(features), text_encoder=FeaturesOfRows(features))
        )
    if not isinstance(file.runtime, GraphRuntime):
        raise ArtifactError(f"{file.path}: runtime '{file.runtime.name}' neither runs graphs nor reads features")
    session = file.runtime.open(file.path, device)
    encoder = TowerEncoder(GraphTower(session))
    if tower == "vision":
        check_pixels(session, model.preprocess.size, model.name)
        model = replace(model, image_encoder=encoder, taps={})
    else:
        check_tokens(session, whole_tokens(model.tokenizer, ["a"]).shape[1], model.name)
        model = replace(model, text_encoder=encoder, tokenizer=WholeTokens(model.tokenizer))
    if len(session.output.shape) == 2 and (given := session.output.shape[1]) is not None:
        _check_width(given, width, model, session.where)
    return replace(opened, model=model)


def check_pixels(session: Session, size: tuple[int, int], model: str) -> None:
    """Refuse a graph that does not take a model's pixels (B, 3, H, W).

    Raises:
        ArtifactError: type, layout or size differ; gives both.
    """
    port, wanted = session.input, (3, *size)
    given = port.shape[1:]
    if port.dtype in INTEGERS and len(port.shape) == 2:
        raise ArtifactError(
            f"{session.where}: input {port} takes tokens, not pixels. Give a text tower with text=FILE."
        )
    _check_type(port, FLOATS, session.where, "normalised pixels, so export without the preprocessing")
    if not port.shape or given == wanted:
        return
    if given == (*size, 3):
        raise ArtifactError(f"{session.where}: input {port} has the layout NHWC, expected NCHW: {_shape(wanted)}.")
    if len(given) == 3 and None in given and all(a in (None, b) for a, b in zip(given, wanted, strict=True)):
        raise ArtifactError(
            f"{session.where}: input {port} has a free axis beside the batch. Fix it to {_shape(wanted)}, with "
            "onnxruntime.tools.make_dynamic_shape_fixed or OpenVINO's Model.reshape."
        )
    raise ArtifactError(f"{session.where}: input {port}, but {model} takes {_shape(wanted)}.")


def check_tokens(session: Session, length: int, model: str) -> None:
    """Refuse a graph that does not take a model's tokens (B, L); a free L is run at the whole context.

    Raises:
        ArtifactError: type or length differ; gives both.
    """
    port = session.input
    if port.dtype in FLOATS and len(port.shape) == 4:
        raise ArtifactError(
            f"{session.where}: input {port} takes pixels, not tokens. Give an image tower with file=FILE."
        )
    _check_type(port, INTEGERS, session.where, "tokens")
    if port.shape and (len(port.shape) != 2 or port.shape[1] not in (None, length)):
        raise ArtifactError(
            f"{session.where}: input {port}, but {model} has {length} tokens a text: (batch, {length})."
        )


def _check_type(port: Port, known: tuple[str, ...], where: str, what: str) -> None:
    if port.dtype not in known:
        raise ArtifactError(f"{where}: input {port} takes {port.dtype}; it gets {' or '.join(known)} {what}.")


def _check_width(given: int, wanted: int, model: ClipModel, where: str) -> None:
    if given != wanted:
        raise ArtifactError(
            f"{where}: its embeddings have {given} numbers, those of {model.name} {wanted}. "
            "Export the features behind the projection, of this very model."
        )


def _shape(sizes: Sequence[int]) -> str:
    return f"(batch, {', '.join(map(str, sizes))})"


def _run_once(opened: Opened, artifact: Artifact, probe: Probe, width: int) -> None:
    """One image and one text through what is new, so that what only shows there is said before any long work."""
    if "vision" in artifact.towers and opened.given is None:
        found = embed_images(opened.model, [np.array(probe.pixels[:1])], lambda _: None)["image"]
        _check_width(found.shape[1], width, opened.model, str(artifact.towers["vision"].path))
    if "text" in artifact.towers and probe.texts:
        found = embed_texts(opened.model, probe.texts[:1])
        _check_width(found.shape[1], width, opened.model, str(artifact.towers["text"].path))


def report_of(artifact: Artifact, opened: Opened, full: ClipModel, probe: Probe) -> QuantizationReport:
    """What the artifact is and does: files, sizes, runtime, and how far its features are from full precision."""
    files = {
        tower: ArtifactFile(file.path.name, file.runtime.name, file.bytes) for tower, file in artifact.towers.items()
    }
    features: dict[Tower, tuple[NDArray[np.float32], NDArray[np.float32]]] = {}
    notes: list[str] = []
    if "vision" in artifact.towers:
        reference = embed_images(full, [np.array(probe.pixels)], lambda _: None)["image"]
        features["vision"] = (reference, images_of(opened, probe))
        notes += opened.given.notes if opened.given else _alone(opened.model.image_encoder)
    if "text" in artifact.towers:
        texts = [text for text in probe.texts if _known(opened.model, text)]
        features["text"] = (embed_texts(full, texts), embed_texts(opened.model, texts)) if texts else _nothing()
        notes += _alone(opened.model.text_encoder)
        if isinstance(opened.model.tokenizer, RowsOfTexts):
            notes += opened.model.tokenizer.features.notes
    report = artifact_report(full, artifact.quant, files, features, notes)
    return replace(report, notes=(*report.notes, *low_cosines(artifact.name, report)))


def needed_texts(data: Data) -> list[str]:
    """The texts of a data set, as the text tower gets them: every class in every template, or the captions."""
    if data.spec.text == "captions":
        return sorted({caption for captions in data.captions or () for caption in captions})
    if data.spec.text == "classes" and data.class_names:
        return filled_prompts(data.class_names, data.templates)
    return []


def check_features(artifact: Artifact, opened: Opened, ids: Sequence[str], texts: Sequence[str]) -> list[str]:
    """Check that features made elsewhere are there for every image and text.

    Returns:
        A line for features that belong to none of them.

    Raises:
        ArtifactError: some are missing; names the first.
    """
    tables: list[tuple[Features, Sequence[str]]] = [] if opened.given is None else [(opened.given, ids)]
    if isinstance(opened.model.tokenizer, RowsOfTexts):
        tables.append((opened.model.tokenizer.features, texts))
    lines = []
    for features, wanted in tables:
        try:
            features.positions(wanted)
        except ArtifactError as error:
            raise ArtifactError(f"artifact '{artifact.name}': {error}") from None
        known = set(wanted)
        if extra := [name for name in features.rows if name not in known]:
            lines.append(
                f"artifact '{artifact.name}': {features.where}: {len(extra)} of {len(features.rows)} features belong "
                f"to no {features.kind} of this run and are left out, first '{extra[0]}'"
            )
    return lines


def images_of(opened: Opened, probe: Probe) -> NDArray[np.float32]:
    """Features (B, D) of the probe's images by the artifact, L2-normalised."""
    if opened.given is not None:
        return unit(opened.given.of(probe.ids))
    return embed_images(opened.model, [np.array(probe.pixels)], lambda _: None)["image"]


def unit(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, D) -> (N, D) float32, L2-normalised as a ClipModel does it."""
    return nn.functional.normalize(torch.from_numpy(features), dim=-1).numpy()


def _known(model: ClipModel, text: str) -> bool:
    table = model.tokenizer
    return not isinstance(table, RowsOfTexts) or text in table.features.rows


def _nothing() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    return np.zeros((0, 1), np.float32), np.zeros((0, 1), np.float32)


def _alone(encoder: object) -> list[str]:
    """A note on a graph whose rows run one at a time."""
    tower = encoder.tower if isinstance(encoder, TowerEncoder) else None
    if not isinstance(tower, GraphTower) or not tower.session.alone:
        return []
    where = tower.session.where.rpartition("/")[2]
    return [f"{where} quantizes activations over the whole batch, so that each input is run alone"]


def low_cosines(name: str, report: QuantizationReport) -> list[str]:
    """One line for each tower whose features point elsewhere than full precision's."""
    return [
        f"the {tower} features of {name} have a mean cosine of {found.cosine:.2f} to full precision. This is usually a "
        "mistake in the export: other normalisation, BGR for RGB, or another model"
        for tower, found in report.towers.items()
        if found.cosine is not None and found.cosine < LOW_COSINE
    ]


def warnings(reports: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What the reports of artifacts warn of. Args: reports: QuantizationReports as JSON."""
    artifacts = [report for report in reports.values() if report.get("kind") == "artifact"]
    return [note for report in artifacts for note in report["notes"] if "mean cosine" in note]
