"""What `reliquant export` does: quantize, store, check the stored model, write its card, register it."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from benchmark.engine import prompt_check
from benchmark.engine.banks import BankMaker, Caches
from benchmark.engine.embed import embed_classes
from benchmark.engine.holding import ModelHolder
from benchmark.engine.include import include_files
from benchmark.engine.plan import Configuration, Plan, Settings, make_plan
from benchmark.engine.provenance import provenance
from benchmark.engine.requested import check_device
from benchmark.engine.run import PIXEL_BUDGET
from benchmark.errors import QuantizationError, SpecError
from benchmark.export.card import CardFacts, card
from benchmark.export.choice import choose_model
from benchmark.export.folder import CARD, VERSION, WEIGHTS, Base, Classes, ExportConfig
from benchmark.export.graphs import check_can_be_graph, check_format, probe_images, write_graphs
from benchmark.export.request import IN_FILE, ExportRequest, file_name
from benchmark.export.results import Found, classes_data, find_results, tuned_scale
from benchmark.export.serving import COLUMN, columns, example
from benchmark.export.writing import (
    all_tensors,
    check_same,
    copy_base,
    new_folder,
    write_classes,
    write_config,
    write_report,
    write_weights,
)
from benchmark.ledger.records import Ledger
from benchmark.models import ResolvedModel
from benchmark.models.base import ClipModel
from benchmark.models.references import Recipe, refuse_quantized
from benchmark.quantization import LayerState, QuantizationReport, parse, quantizers, requires_calibration
from benchmark.quantization.graphs.quantizer import GraphQuantizer
from benchmark.results.baseline import RECORD, of_records, to_json
from benchmark.results.decide import decide
from benchmark.results.last import default_suite
from benchmark.spec import FP32, SuiteSpec
from benchmark.spec.suite import load_suite, narrow
from benchmark.tracking import DEFAULT_TRACKER, ServedModel, trackers
from benchmark.utils.portable import portable
from benchmark.utils.progress import open_progress


def export(request: ExportRequest) -> None:
    """Write the folder, say what is in it, and register it if asked to.

    Raises:
        ReliquantError: it cannot be exported as asked; nothing is left behind.
    """
    include_files(request.include)
    request = _with_suite(request)
    if request.format is not None:
        check_format(request.format, request.register)
    plan = _plan(request)
    configuration = plan.configurations[-1]
    chosen = classes_data(plan, configuration, request.classes)
    if request.register is not None and chosen is None:
        raise SpecError(f"--register: suite '{plan.suite.name}' has no zero_shot data; name its classes by --classes")
    tracker = None
    if request.register is not None:
        tracker = trackers.get(DEFAULT_TRACKER).open(request.home, request.tracking_uri)
        tracker.check_registry(request.register)
    Ledger(request.home)
    with new_folder(request.to) as folder, open_progress(request.quiet) as progress:
        caches = Caches.open(request.home / "cache", PIXEL_BUDGET, skip_broken=False)
        maker = caches.maker(plan, configuration, ModelHolder(configuration.model, request.device), progress)
        found = find_results(plan, configuration, request.home)
        if request.format is not None:
            said = write_graphs(folder, maker, request, chosen, found)
        else:
            config = _write(folder, maker, request, chosen, found)
    if request.format is not None:
        print(f"{request.to}: {configuration.model.ref}: {said}")
        _warn_unevaluated(request, configuration.quant.name, found)
        return
    size = (request.to / WEIGHTS).stat().st_size
    about = f"{configuration.model.ref} as {config.short_name}, {size / 1e6:.2f} MB of weights"
    print(f"{request.to}: {about}; checked: the stored model is identical")
    _warn_unevaluated(request, config.short_name, found)
    if tracker is not None and request.register is not None and config.classes is not None:
        print(
            tracker.register_model(_served(request.register, request.to, plan, configuration, config, config.classes))
        )
    print(f"Use it: reliquant run {shlex.quote(request.used_suite)} --model {shlex.quote(str(request.to))}")


def _warn_unevaluated(request: ExportRequest, name: str, found: Found) -> None:
    if not found.records:
        print(
            f"warning: {request.home} has no evaluation of it, so the card has no reliability table; run "
            f"`reliquant run {shlex.quote(request.used_suite)} --quant {shlex.quote(name)}` first",
            file=sys.stderr,
        )


def _plan(request: ExportRequest) -> Plan:
    check_device(request.device)
    suite, name = _suite_and_name(request)
    if name in suite.artifacts:
        raise SpecError(f"{name} is an artifact: its file is what is shipped already. Export a quantization.")
    quant = parse(name)
    if quant == FP32 and request.format is None:
        raise SpecError(
            "fp32 is the model as it is; export takes a quantization (`reliquant list quantizers`), or --format onnx"
        )
    method = quantizers.get(quant.method)
    if request.format is not None:
        check_can_be_graph(quant, method, request.format)
    elif isinstance(method, GraphQuantizer):
        raise QuantizationError(
            f"{quant.name} is a graph of {method.runtime}: export it with --format {method.runtime}"
        )
    if method.kind == "control":
        raise QuantizationError(f"{method.name} changes features, not weights: there is nothing to export")
    suite = suite.model_copy(update={"artifacts": {}})
    asked = [request.model] if request.model else []
    suite = narrow(suite, models=asked, quantizations=[quant.name], limit=request.limit)
    if not asked:
        suite = suite.model_copy(update={"models": (choose_model(suite, quant.name, request.home),)})
    plan = make_plan(suite, Settings(request.device, allow_outside=request.allow_outside))
    refuse_quantized([plan.configurations[-1].model], "export")
    return plan


def _with_suite(request: ExportRequest) -> ExportRequest:
    """The request with the last suite that ran, where none is named and there are results; it is said."""
    if request.suite is not None or IN_FILE.fullmatch(request.config) or not (request.home / "ledger.jsonl").is_file():
        return request
    default = default_suite(Ledger(request.home))
    if not request.quiet:
        print(default.told, file=sys.stderr)
    return replace(request, suite=default.suite)


def _suite_and_name(request: ExportRequest) -> tuple[SuiteSpec, str]:
    """The suite and the quantization's short name; CONFIG may be FILE.yaml or FILE.yaml:N, as a search writes it."""
    match = IN_FILE.fullmatch(request.config)
    if match is None:
        return load_suite(request.used_suite, request.data, request.catalogues), request.config
    suite = load_suite(match[1], request.data, request.catalogues)
    names = [name for name in suite.quantizations if parse(name) != FP32]
    number = int(match[2]) if match[2] else 1 if len(names) == 1 else 0
    if not 1 <= number <= len(names):
        listed = ", ".join(f"{i} {name}" for i, name in enumerate(names, 1))
        raise SpecError(f"{request.config}: name one of its quantizations by FILE:NUMBER; it has {listed or 'none'}")
    return suite, names[number - 1]


def _write(folder: Path, maker: BankMaker, request: ExportRequest, chosen: str | None, found: Found) -> ExportConfig:
    """All files of the folder, the stored model checked against the one in memory."""
    plan, configuration = maker.plan, maker.configuration
    quantized, report, kept = maker.quantize_to_store()
    _check_kept(configuration, report, kept)
    tensors, same = all_tensors(maker.holder.model, quantized, kept)
    quant, recipe = configuration.quant, configuration.model.recipe
    if recipe is None:
        raise QuantizationError(f"model {configuration.model.ref} does not say what it is built from")
    copy_base(folder, recipe)
    write_weights(folder, tensors)
    write_report(folder, report)
    config = ExportConfig(
        format=VERSION,
        short_name=quant.name,
        quantization=quant,
        base=_base(configuration.model, recipe, request.keep_paths),
        layers={name: dict(state.about) for name, state in kept.items()},
        same=same,
        files={},
        logit_scale=quantized.logit_scale,
        logit_bias=quantized.logit_bias,
        tuned=tuned_scale(configuration.evaluations, found.records, chosen),
        classes=_classes(folder, plan, quantized, chosen),
        calibration=plan.calibration_data(quant).digest if requires_calibration(quant) else None,
        provenance=_provenance(plan, configuration),
    )
    suite = f"{plan.suite.name} (version {plan.suite.version})"
    size = (folder / WEIGHTS).stat().st_size
    decision = None
    if found.changes:
        decision = decide(found.headline, {change.key: change for change in found.changes}, plan.suite.margins)
    about = (found.headline, found.changes, found.values, decision, found.efficiency)
    if found.bases:
        baseline = of_records(str(request.home), found.bases, Ledger(request.home))
        (folder / RECORD).write_text(to_json(baseline), encoding="utf-8")
    used = file_name(request.used_suite)
    line = request.line if request.keep_paths else portable(request.line)
    facts = CardFacts(request.to.name, config, report, size, suite, used, line, *about)
    (folder / CARD).write_text(card(facts), encoding="utf-8")
    write_config(folder, config)
    check_same(folder, quantized, probe_images(maker), plan.settings.device)
    return config


def _check_kept(configuration: Configuration, report: QuantizationReport, kept: Mapping[str, LayerState]) -> None:
    """Every replaced layer must have said how it is stored."""
    replaced = {layer.name for tower in report.towers.values() for layer in tower.layers}
    if missing := sorted(replaced - set(kept)):
        raise QuantizationError(
            f"quantization '{configuration.quant.name}': method '{configuration.quant.method}' does not say how layer "
            f"'{missing[0]}' is stored, so it cannot be exported; a quantizer has to fill `TowerJob.kept`"
        )


def _base(model: ResolvedModel, recipe: Recipe, keep_paths: bool) -> Base:
    return Base(
        ref=model.ref if keep_paths else portable(model.ref),
        name=model.name,
        family=model.family,
        sha256=model.digest,
        parameters=model.parameters,
        library=recipe.library,
        architecture=dict(recipe.architecture),
        preprocess=model.preprocess,
        tokenizer=recipe.tokenizer is not None,
        text_model=recipe.text_model is not None,
    )


def _classes(folder: Path, plan: Plan, quantized: ClipModel, chosen: str | None) -> Classes | None:
    if chosen is None:
        return None
    data = plan.data[chosen]
    prompt_check.check(data, prompt_check.examine(quantized, data.class_names, data.templates))
    text = embed_classes(quantized, data.class_names, data.templates)
    write_classes(folder, text)
    return Classes(dataset=chosen, names=data.class_names, templates=data.templates)


def _provenance(plan: Plan, configuration: Configuration) -> dict[str, object]:
    known = provenance(plan, configuration)
    method = quantizers.get(configuration.quant.method)
    kept = {key: known[key] for key in ("time", "versions", "device", "cpu")}
    if commits := known["model"]["commits"]:
        kept["commits"] = commits
    return {**kept, "method": f"{method.name}, version {method.version}, {method.paper}"}


def _served(
    name: str, folder: Path, plan: Plan, configuration: Configuration, config: ExportConfig, classes: Classes
) -> ServedModel:
    return ServedModel(
        name=name,
        folder=folder,
        loader="benchmark.export.serving",
        column=COLUMN,
        example=example(configuration.model.preprocess.size),
        classes=columns(classes.names),
        suite=plan.suite,
        configuration=configuration.key,
        tags={
            "quantization": config.short_name,
            "model": config.base.ref,
            "model.digest": config.base.sha256,
            "classes": classes.dataset,
            "logit_scale": "tuned" if config.tuned else "own",
        },
        description=(folder / CARD).read_text(encoding="utf-8"),
    )
