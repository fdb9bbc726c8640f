"""What `reliquant export --format` writes: both towers as files of a runtime, checked in that runtime, and a card.

visual.onnx, text.onnx       or visual.xml with visual.bin, ...: the very files that were measured
artifact.json                inputs, preprocessing, logit scale, classes, digests
classes.safetensors          `text` (C, D): class weights, where the suite has classes
quantization_report.json     the QuantizationReport, of a quantization
record.json                  full precision's metrics and evidence, for `reliquant gate`, where there are any
README.md                    the model card

Nothing in it needs reliquant.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.engine import prompt_check
from benchmark.engine.banks import BankMaker
from benchmark.engine.embed import embed_classes, embed_images, embed_texts
from benchmark.engine.provenance import provenance
from benchmark.errors import InputError, QuantizationError, SpecError
from benchmark.export.card import reliability
from benchmark.export.folder import CARD
from benchmark.export.request import ExportRequest, file_name
from benchmark.export.results import Found
from benchmark.export.writing import PROBE_TEXTS, write_classes, write_report
from benchmark.ledger.records import Ledger
from benchmark.models.base import ClipModel
from benchmark.quantization import QuantizationReport, Quantizer, quantizers
from benchmark.quantization.graphs import onnx
from benchmark.quantization.graphs.graph import FEATURES, Graph, made
from benchmark.quantization.graphs.qdq import with_qdq
from benchmark.quantization.graphs.quantizer import FORMATS, GraphQuantizer, full_graph, opened, runtime_of
from benchmark.quantization.graphs.towers import INPUTS, example, with_session
from benchmark.results.baseline import RECORD, of_records, to_json
from benchmark.results.compare import Change
from benchmark.results.decide import Decision, decide
from benchmark.results.speed import speed_sentence
from benchmark.spec import FP32, QuantSpec, Tower
from benchmark.utils.digests import file_digest
from benchmark.utils.portable import portable

ABOUT = "artifact.json"
VERSION = 1
PROBE = 8
"""Images on which what is written is compared with what was measured."""
EQUAL = 1e-5
"""Largest difference of L2-normalised float features between runtimes."""


def check_format(name: str, register: str | None) -> None:
    """Refuse a format that nobody writes, and one that cannot be registered.

    Raises:
        SpecError, InputError, QuantizationError: says what there is, or what to install.
    """
    if name not in FORMATS:
        raise SpecError(f"--format '{name}': expected one of {', '.join(sorted(FORMATS))}")
    if register is not None:
        raise InputError("--register serves packed weights; export without --format to register a model")
    runtime_of(name)


def check_can_be_graph(quant: QuantSpec, method: Quantizer, name: str) -> None:
    """Refuse a quantization that is no graph of this runtime.

    Raises:
        QuantizationError: says which format it has.
    """
    if quant == FP32:
        return
    if isinstance(method, GraphQuantizer):
        if method.runtime != name:
            raise QuantizationError(
                f"quantization '{quant.name}' is no graph for {name}: give --format {method.runtime}"
            )
    elif method.kernel == "real" or name != "onnx":
        raise QuantizationError(
            f"quantization '{quant.name}' has no form for --format {name}: full precision has one, openvino-* and "
            "ort-* have one for their own runtime, static W8A8 of a simulated method has one for onnx, as QDQ nodes"
        )


def probe_images(maker: BankMaker) -> NDArray[np.uint8]:
    """A few calibration images where there are any, else seeded noise: (B, 3, H, W) uint8."""
    if maker.plan.calibration is not None:
        return np.array(maker.pixels_of(maker.plan.calibration).array[:PROBE])
    shape = (PROBE, 3, *maker.configuration.model.preprocess.size)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@dataclass(frozen=True)
class Exported:
    """Towers as graphs.

    Attributes:
        model: that was measured. report: of its quantization. graphs: of both towers. rounded: towers whose integer
            codes another runtime computes (QDQ), so that features may differ by flips of a rounding.
    """

    model: ClipModel
    report: QuantizationReport
    graphs: Mapping[Tower, Graph]
    rounded: frozenset[Tower] = frozenset()


def write_graphs(folder: Path, maker: BankMaker, request: ExportRequest, chosen: str | None, found: Found) -> str:
    """Write all files of the folder; returns a sentence on what was written and checked.

    Raises:
        QuantizationError: a tower has no such form, or its features are not those that were measured.
    """
    runtime, quant = request.format or "", maker.configuration.quant
    exported = _exported(maker, runtime)
    for graph in exported.graphs.values():
        graph.write(folder)
    differences = _check(exported, runtime, maker)
    if chosen is not None:
        data = maker.plan.data[chosen]
        prompt_check.check(data, prompt_check.examine(exported.model, data.class_names, data.templates))
        write_classes(folder, embed_classes(exported.model, data.class_names, data.templates))
    if quant != FP32:
        write_report(folder, exported.report)
    if found.bases:
        baseline = of_records(str(request.home), found.bases, Ledger(request.home))
        (folder / RECORD).write_text(to_json(baseline), encoding="utf-8")
    size = sum(graph.size for graph in exported.graphs.values())
    about = _about(exported, maker, runtime, chosen, differences)
    (folder / CARD).write_text(_card(exported, maker, request, found, about, differences), encoding="utf-8")
    about["files"] = {
        path.name: file_digest(path) for path in sorted(folder.iterdir()) if not path.name.startswith(".")
    }
    (folder / ABOUT).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    names = " and ".join(graph.main for graph in exported.graphs.values())
    return f"{names}, {quant.name}, {size / 1e6:.2f} MB; checked: {_told(differences, exported)}"


def _exported(maker: BankMaker, runtime: str) -> Exported:
    quant, full = maker.configuration.quant, maker.holder.model
    method = quantizers.get(quant.method)
    if isinstance(method, GraphQuantizer) or quant == FP32:
        model, report, graphs = maker.quantize_to_graphs()
        return Exported(
            model, report, {tower: graphs.get(tower) or _full(maker, tower, runtime) for tower in full.towers}
        )
    model, report, kept = maker.quantize_to_store()
    changed = with_qdq(full, model, quant, method, kept)
    qdq = {t: made(lambda place, t=t: onnx.convert(changed, t, place, full)) for t in quant.towers}  # type: ignore[misc]
    graphs = {tower: qdq.get(tower) or _full(maker, tower, runtime) for tower in full.towers}
    return Exported(model, report, graphs, frozenset(qdq))


def _full(maker: BankMaker, tower: Tower, runtime: str) -> Graph:
    return full_graph(maker.holder.model, tower, runtime, maker.statistics, maker.progress)


def _check(exported: Exported, runtime: str, maker: BankMaker) -> dict[Tower, float]:
    """Tower -> largest difference of its L2-normalised features from those measured, on a few images and texts.

    Raises:
        QuantizationError: features of a float graph, or of the quantized graph itself, differ by more than 1e-5; those
            of QDQ nodes by more than the quantization.
    """
    pixels, found = probe_images(maker), {}
    for tower, graph in exported.graphs.items():
        loaded = with_session(maker.holder.model, tower, opened(graph, runtime))
        one, other, full = (_features(model, tower, pixels) for model in (loaded, exported.model, maker.holder.model))
        difference, allowed = np.abs(one - other).max(), EQUAL
        if tower in exported.rounded:
            allowed = max(EQUAL, float(np.abs(full - other).max()))
        if not difference <= allowed:
            raise QuantizationError(
                f"{graph.main}: its features differ by up to {difference:.2g} from those measured, over {allowed:.2g}"
            )
        found[tower] = float(difference)
    return found


def _features(model: ClipModel, tower: Tower, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    if tower == "vision":
        return embed_images(model, [pixels], lambda _: None)["image"]
    return embed_texts(model, PROBE_TEXTS)


def _told(differences: Mapping[Tower, float], exported: Exported) -> str:
    """E.g. `vision features equal to 2.1e-07`."""
    parts = []
    for tower, difference in differences.items():
        equal = "identical" if difference == 0 else f"equal to {difference:.1e}"
        parts.append(f"{tower} features {equal}" + (" (same weight codes)" if tower in exported.rounded else ""))
    return ", ".join(parts)


def _about(
    exported: Exported, maker: BankMaker, runtime: str, chosen: str | None, differences: Mapping[Tower, float]
) -> dict[str, Any]:
    model, full = maker.configuration.model, maker.holder.model
    towers = {}
    for tower, graph in exported.graphs.items():
        kind, shape = ("float32" if tower == "vision" else "int64"), list(example(full, tower).shape[1:])
        port = {"name": INPUTS[tower], "shape": ["batch", *shape], "dtype": kind}
        towers[tower] = {"file": graph.main, "input": port, "output": FEATURES, "difference": differences[tower]}
    data = maker.plan.data[chosen] if chosen is not None else None
    return {
        "format": VERSION,
        "runtime": runtime,
        "short_name": maker.configuration.quant.name,
        "model": {"ref": portable(model.ref), "sha256": model.digest},
        "towers": towers,
        "preprocess": asdict(full.preprocess),
        "logit_scale": full.logit_scale,
        "logit_bias": full.logit_bias,
        "classes": None if data is None else {"dataset": chosen, "names": list(data.class_names)},
        "versions": provenance(maker.plan, maker.configuration)["versions"],
    }


@dataclass(frozen=True)
class _Told:
    """`benchmark.export.card.Evaluated`."""

    suite: str
    headline: tuple[str, ...]
    changes: tuple[Change, ...]
    values: Mapping[str, float]
    decision: Decision | None


def _card(
    exported: Exported,
    maker: BankMaker,
    request: ExportRequest,
    found: Found,
    about: Mapping[str, Any],
    differences: Mapping[Tower, float],
) -> str:
    """The model card, in Markdown."""
    plan, name = maker.plan, maker.configuration.quant.name
    changes = {change.key: change for change in found.changes}
    decision = decide(found.headline, changes, plan.suite.margins) if found.changes else None
    suite = f"{plan.suite.name} (version {plan.suite.version})"
    told = _Told(suite, tuple(found.headline), tuple(found.changes), found.values, decision)
    rows = "\n".join(f"| `{graph.main}` | {graph.size / 1e6:.2f} MB |" for graph in exported.graphs.values())
    used = file_name(request.used_suite)
    again = shlex.join(["reliquant", "run", used, "--artifact", f"shipped={about['towers']['vision']['file']}"])
    runtime = str(about["runtime"])
    command = request.line if request.keep_paths else portable(request.line)
    versions = ", ".join(f"{key} {value}" for key, value in about["versions"].items())
    rounding = (
        "\n\nIts weights have the codes that were measured. Inputs are rounded by QuantizeLinear, which divides by the "
        "scale where reliquant multiplies by its inverse, and the runtime sums in another order: a value between two "
        "codes may get the other one, and later roundings with it."
    )
    return (
        "\n\n".join(
            [
                f"# {request.to.name}",
                f"`{about['model']['ref']}` as `{name}` for {runtime}, written by reliquant, without training. "
                "The licence of the full-precision model applies to these weights; this card does not know it.",
                reliability(told),
                f"## Files\n\n| | |\n|---|---:|\n{rows}",
                f"## Features\n\nAgainst those that were measured, on {PROBE} images and {len(PROBE_TEXTS)} texts: "
                f"{_told(differences, exported)}.{rounding if exported.rounded else ''}",
                f"## Speed\n\n{speed_sentence(found.efficiency)}",
                "## Use\n\nInputs, preprocessing, logit scale and classes are in `artifact.json`; embeddings are not "
                f"normalised. To evaluate the file again:\n\n```bash\n{again}\n```",
                f"## Provenance\n\n| | |\n|---|---|\n| versions | {versions} |\n| command | `{command}` |",
            ]
        )
        + "\n"
    )
