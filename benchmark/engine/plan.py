"""The plan: every evaluation of a suite with its content hash, checked before any work is done."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any

from pydantic import BaseModel

from benchmark.data import Data, DataSets, expand, prompts
from benchmark.engine import embed
from benchmark.engine.execution import Precision
from benchmark.engine.label_spaces import check_captions, check_classes
from benchmark.errors import InputError, QuantizationError, SpecError, UnknownNameError
from benchmark.models import ResolvedModel, resolve
from benchmark.plugins import Task, TextList, tasks
from benchmark.quantization import calibrate, integer_engine, parse, quantizers, requires_calibration
from benchmark.runtimes.artifact import Artifact, resolve_artifact
from benchmark.spec import (
    FP32,
    ArtifactQuant,
    BindingSpec,
    DataSpec,
    QuantSpec,
    SuiteSpec,
    Tower,
    canonical,
    digest,
    digest_of,
)
from benchmark.spec.artifacts import artifacts_of, check_artifact_name
from benchmark.spec.published import published
from benchmark.spec.short_name import calibration_names
from benchmark.spec.suite import calibration_sets, limit_of, suite_names

Binding = tuple[Task, str, BindingSpec]


@dataclass(frozen=True)
class Settings:
    """How models are run. What can change a number is part of the content hashes.

    Attributes:
        device: torch device; its kind ("cpu", "cuda") is hashed.
        batch_size, workers, task_timeout: images a pass, decoding processes, seconds of a task; results depend on none.
        exact_float: evaluate simulated quantizations in float even where integer codes would do; hashed.
        precision: `bf16` and `fp16` run the models under autocast; hashed. compile: by torch.compile; hashed.
        keep_paths: whether trackers get this machine's absolute paths. allow_outside: whether paths inside parquet
            files and image lists may lead out of the data's folder.
        engine: integer engine of the machine that evaluated, to read its results elsewhere; None asks this one.
    """

    device: str = "cpu"
    batch_size: int = 64
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)
    exact_float: bool = False
    precision: Precision = "fp32"
    compile: bool = False
    engine: str | None = None
    task_timeout: float | None = None
    keep_paths: bool = False
    allow_outside: bool = False

    def hashed(self) -> dict[str, Any]:
        """The part that can change a number; the integer engine's rounding differs from float in the last bits."""
        return {
            "device": self.device.split(":")[0],
            "integer_engine": "none" if self.exact_float else self.engine or integer_engine(self.device),
            "embed": embed.VERSION,
            "precision": self.precision,
            "compile": self.compile,
        }


@dataclass(frozen=True)
class Evaluation:
    """One task on one binding under one configuration.

    `comparison_key` is equal for evaluations that differ in their quantization only: those can be compared.
    """

    key: str
    task: Task
    label: str
    roles: Mapping[str, tuple[str, ...]]
    options: BaseModel
    comparison_key: str = ""

    @property
    def taps(self) -> tuple[str, ...]:
        """Arrays needed besides pooled features: the task's own, and those that its options ask for."""
        return (*self.task.taps, *getattr(self.options, "taps", ()))

    @cached_property
    def texts(self) -> dict[str, tuple[str, ...]]:
        """Prompts whose text features the options ask for, by name.

        Raises:
            DataError, UnknownNameError: a file that is missing or empty, an unknown built-in list.
        """
        lists: Mapping[str, TextList] = getattr(self.options, "texts", {})
        return {
            name: tuple(prompts.fill(prompts.normalise(texts.template), label) for label in labels)
            for name, texts in lists.items()
            for labels in [prompts.class_names(texts.labels)]
        }

    @property
    def name(self) -> str:
        """`task/label`, the first two parts of its metric keys."""
        return f"{self.task.name}/{self.label}"


@dataclass(frozen=True)
class Configuration:
    """One model under one quantization, with its evaluations.

    Attributes:
        key: its identity among all runs: a hash of its content, the model's name, the suite with version and limit,
            and the data.
        quantized_key: hash of what determines the quantized model alone; names its QuantizationReport.
    """

    key: str
    quantized_key: str
    model: ResolvedModel
    quant: QuantSpec
    evaluations: tuple[Evaluation, ...]


@dataclass(frozen=True)
class Plan:
    """Everything a sweep will do, in order: for each model full precision first, its artifacts last.

    A stored quantized model has one configuration: its own quantization.

    Attributes:
        artifacts: by name, those that the configurations of artifacts run.
        unavailable: quantization -> why it cannot run here, for a suite that leaves such out.
        asked: the command line's, for provenance.
    """

    suite: SuiteSpec
    settings: Settings
    data: Mapping[str, Data]
    calibration: Data | None
    configurations: tuple[Configuration, ...]
    asked: Mapping[str, Any] = field(default_factory=dict)
    artifacts: Mapping[str, Artifact] = field(default_factory=dict)
    unavailable: Mapping[str, str] = field(default_factory=dict)

    def tower_key(self, model: ResolvedModel, quant: QuantSpec, tower: Tower) -> dict[str, Any]:
        """Everything that determines a tower's function: weights, its part of the quantization, settings."""
        return self.content(model, quant.for_tower(tower))

    def content(self, model: ResolvedModel, quant: QuantSpec) -> dict[str, Any]:
        """Everything that determines a quantized model; for a stored quantized model, its files."""
        own = {"stored": True} if model.quantized else self.quant_key(quant)
        return {"model": model.digest, **own, **self.settings.hashed()}

    def quant_key(self, quant: QuantSpec) -> dict[str, Any]:
        """Content of a quantization: its fields, its method's version, what it depends on; of an artifact its files.

        That is the calibration pairs and the version of their statistics if it looks at them, and for a control the
        content of the quantization that it imitates.
        """
        if isinstance(quant, ArtifactQuant):
            return self.artifacts[quant.name].content(quant.towers, self.settings.device.split(":")[0])
        quantizer = quantizers.get(quant.method)
        fields = quant.model_dump(mode="json", exclude={"calibration"})  # its pairs count, not what they are called
        content: dict[str, Any] = {"quant": fields, "version": quantizer.version}
        if quantizer.requires_calibration(quant):
            content["calibration"] = [self.calibration_data(quant).digest, calibrate.VERSION]
        if quantizer.graph_version is not None:
            content["graph"] = quantizer.graph_version
        if inner := quantizer.depends_on(quant):
            content["depends_on"] = [self.quant_key(other) for other in inner]
        return content

    def pairs_of(self, quant: QuantSpec) -> Data | None:
        """The calibration pairs of a quantization: those that it names, else the suite's; None where there are none.

        Raises:
            SpecError: it names a data set that the plan does not hold.
        """
        if quant.calibration is None:
            return self.calibration
        if quant.calibration not in self.data:
            problem = UnknownNameError(f"data set of suite '{self.suite.name}'", quant.calibration, self.data)
            raise SpecError(f"quantization '{quant.name}': calibration: {problem}")
        return self.data[quant.calibration]

    def calibration_data(self, quant: QuantSpec) -> Data:
        """The calibration pairs of a quantization that needs them.

        Raises:
            SpecError: the suite names none, or they have no captions and the text tower needs them; the message names
                the method.
        """
        return calibration_of(self.suite, quant, self.pairs_of(quant))


def calibration_of(suite: SuiteSpec, quant: QuantSpec, data: Data | None) -> Data:
    """The calibration pairs of a suite, for a quantization that looks at them; errors as `Plan.calibration_data`."""
    if data is None:
        raise SpecError(
            f"quantization '{quant.name}': method '{quant.method}' needs calibration data. "
            f"Add 'calibration: NAME' with image-caption pairs to suite '{suite.name}'."
        )
    if data.captions is None and "text" in quant.towers:
        raise SpecError(
            f"quantization '{quant.name}': method '{quant.method}' needs captions: calibration "
            f"'{data.name}' of suite '{suite.name}' has images alone. Use image-caption pairs, with "
            "'text: captions' ('options: {caption: COLUMN}' names the column or suffix), or the scope 'vision'."
        )
    return data


def open_of(suite: SuiteSpec, spec: DataSpec, name: str, sets: DataSets) -> Data:
    """Open a data set of a suite; for calibration pairs that are read as images with classes, say so.

    Raises:
        SpecError: the suite's calibration data open with `text: captions`, and not without.
        DataError, UnknownNameError: as `DataSets.open`.
    """
    try:
        return sets.open(spec, name)
    except InputError as error:
        if name not in calibration_sets(suite) or spec.text != "classes":
            raise
        try:
            sets.open(spec.model_copy(update={"text": "captions"}), name)
        except InputError:
            raise error from None
        raise SpecError(
            f"suite '{suite.name}': calibration '{name}' has image-caption pairs and no classes: add 'text: captions' "
            f"to data '{name}' ({error})"
        ) from error


def make_plan(suite: SuiteSpec, settings: Settings | None = None, sets: DataSets | None = None) -> Plan:
    """Check a suite against the registries, the disk and the models, and name every evaluation.

    No weight is loaded and no image decoded.

    Args:
        sets: for several plans on the same data, whose files are then looked at once.

    Raises:
        ReliquantError: the first problem found, in one line that names the field or file.
    """
    settings, (quants, bindings, groups) = settings or Settings(), check_suite(suite)
    unavailable = _unavailable(quants, settings.device.split(":")[0])
    if unavailable and not suite.skip_unavailable:
        raise next(iter(unavailable.values()))
    quants = [quant for quant in quants if quant.name not in unavailable]
    sets = (sets or DataSets()).allowing(settings.allow_outside)
    data = {name: open_of(suite, spec, name, sets) for group in groups.values() for name, spec in group.items()}
    for task, label, binding in bindings:
        roles = _bound(binding.roles, groups).items()
        names = {role: {name: data[name].class_names for name in bound} for role, bound in roles}
        where = f"suite '{suite.name}': tasks.{task.name}.{label}"
        check_classes(task, names, where)
        check_captions(task, {role: [data[name] for name in bound] for role, bound in roles}, where)
    plan = Plan(suite, settings, data, None if suite.calibration is None else data[suite.calibration], ())
    for quant in quants:
        plan.quant_key(quant)
    models = _models(suite)
    kind = settings.device.split(":")[0]
    plan = replace(plan, artifacts={name: resolve_artifact(name, one, kind) for name, one in suite.artifacts.items()})
    plan = replace(plan, unavailable={name: str(error) for name, error in unavailable.items()})
    shared = [suite.name, suite.version, suite.limit, {name: single.digest for name, single in data.items()}]
    unnamed = [_unnamed(plan, *binding, groups) for binding in bindings]
    hashed = settings.hashed()
    configurations = []
    for model in models:
        base = model.quantized.base if model.quantized else model.digest  # the model that a stored one is compared with
        about = _canonical({"model": base, **hashed})
        paired = [replace(e, comparison_key=digest_of({**about, **own})) for e, own in unnamed]
        full = {} if model.quantized else _canonical({"full_precision": plan.content(model, FP32)})
        own_artifacts = [plan.artifacts[name].quant for name in artifacts_of(suite, model.spec)]
        for quant in [*quants, *own_artifacts] if model.quantized is None else [model.quantized.quant]:
            content = plan.content(model, quant)
            if isinstance(quant, ArtifactQuant) or quant.calibration is not None:
                content["name"] = quant.name  # a record has one: the same under another is evaluated again
            parts = _canonical(content)
            evaluations = tuple(
                replace(e, key=digest_of({**parts, **own, **(full if e.task.full_precision else {})}))
                for e, (_, own) in zip(paired, unnamed, strict=True)
            )
            key = digest([shared, model.name, content])
            configurations.append(Configuration(key, digest(content), model, quant, evaluations))
    return replace(plan, configurations=tuple(configurations))


def _unavailable(quants: Sequence[QuantSpec], device: str) -> dict[str, QuantizationError]:
    """Short name -> why this machine cannot run it."""
    found = {}
    for quant in quants:
        try:
            quantizers.get(quant.method).check_available(device)
        except QuantizationError as error:
            found[quant.name] = error
    return found


def unavailable_here(quants: Sequence[QuantSpec], device: str = "cpu") -> dict[str, str]:
    """Short name -> why this machine cannot run it, in words."""
    return {name: str(error) for name, error in _unavailable(quants, device).items()}


def unavailable_lines(unavailable: Mapping[str, str]) -> list[str]:
    """One line for each quantization that is left out, and their number."""
    if not unavailable:
        return []
    count = len(unavailable)
    lines = [f"skipped {name}: {reason}" for name, reason in unavailable.items()]
    return [*lines, f"{count} quantization{'s' * (count > 1)} of the suite skipped: not available here"]


def _models(suite: SuiteSpec) -> list[ResolvedModel]:
    models = [resolve(spec) for spec in suite.models]
    for i, model in enumerate(models):
        for other in models[:i]:
            if model.name == other.name:
                raise SpecError(
                    f"suite '{suite.name}': models {other.ref} and {model.ref} are both called '{model.name}'. "
                    f"Give one a name: {{ref: '{model.ref}', name: OTHER}}."
                )
    return models


def check_suite(suite: SuiteSpec) -> tuple[list[QuantSpec], list[Binding], dict[str, dict[str, DataSpec]]]:
    """Check a suite without looking at files: names, roles, options and quantizations.

    Returns:
        The quantizations, full precision first; (task, label, binding) for each evaluation; and for each used data
        set the single data sets that it stands for.

    Raises:
        ReliquantError: the first problem, with its field.
    """
    bindings = [
        (task, label, binding)
        for name, labels in suite.tasks.items()
        for task in [tasks.get(name)]
        for label, binding in labels.items()
    ]
    for task, label, binding in bindings:
        where = f"suite '{suite.name}': tasks.{task.name}.{label}"
        _check_roles(task, binding.roles, where)
        task.parse_options(binding.options, f"{where}.options")
    _check_margins(suite, bindings)
    _check_artifacts(suite)
    _check_published(suite)
    used = {name for _, _, binding in bindings for role in binding.roles for name in binding.data(role)}
    return _quantizations(suite), bindings, expand_sets(suite, used)


def _quantizations(suite: SuiteSpec) -> list[QuantSpec]:
    """Full precision first: everything else is compared with it; on every calibration set of the suite."""
    quants = [each for name in suite.quantizations for each in calibrated(parse(name), suite.further_calibration)]
    for quant in quants:
        for name in sorted(calibration_names(quant.name) - suite.data.keys()):
            problem = UnknownNameError("data set", name, suite.data)
            raise SpecError(f"suite '{suite.name}': quantization '{quant.name}': calibration: {problem}")
    return [FP32, *dict.fromkeys(quant for quant in quants if quant != FP32)]


def calibrated(quant: QuantSpec, further: Sequence[str]) -> list[QuantSpec]:
    """A quantization on the suite's own calibration set and on each further one, if it looks at calibration data."""
    if quant.calibration is not None or not requires_calibration(quant):
        return [quant]
    return [quant, *(quant.model_copy(update={"calibration": name}) for name in further)]


def _check_artifacts(suite: SuiteSpec) -> None:
    """Names that are no short names, and a model of the suite for each."""
    for name in suite.artifacts:
        names = (suite.name, *suite_names())
        check_artifact_name(name, quantizers.names(), names, f"suite '{suite.name}': artifacts")
    for model in suite.models:
        artifacts_of(suite, model)


def _check_published(suite: SuiteSpec) -> None:
    """Published data sets that are known."""
    known = published()
    for name, spec in suite.data.items():
        if spec.published is not None and spec.published not in known:
            problem = UnknownNameError("published data set", spec.published, known)
            raise SpecError(f"suite '{suite.name}': data.{name}.published: {problem}")


def _check_margins(suite: SuiteSpec, bindings: Sequence[Binding]) -> None:
    """Each margin must belong to a metric of some task: of the suite, or of one that `--task` left out of it."""
    names = [(task.name, label, metric.name) for task, label, _ in bindings for metric in task.metrics]
    for pattern in suite.margins:
        if not any(_fits(pattern, name) for name in names) and not _fits_elsewhere(pattern, suite):
            where = f"suite '{suite.name}': margins"
            raise SpecError(f"{where}: {UnknownNameError('metric', pattern, ('/'.join(name) for name in names))}")


def _fits(pattern: str, name: Sequence[str]) -> bool:
    """Whether a pattern can be of a metric: of its key, or of one with parts between (a score, a corruption)."""
    parts = pattern.split("/")
    between = len(parts) > 3 and all(map(fnmatchcase, name, (parts[0], parts[1], parts[-1])))
    return fnmatchcase("/".join(name), pattern) or between


def _fits_elsewhere(pattern: str, suite: SuiteSpec) -> bool:
    """Whether it can be of a metric of an installed task that the suite does not ask for."""
    parts = pattern.split("/")
    others = [name for name in tasks.names() if name not in suite.tasks and fnmatchcase(name, parts[0])]
    metrics = [(name, metric.name) for name in others for metric in tasks.get(name).metrics]
    return len(parts) > 1 and any(_fits(pattern, (task, parts[1], metric)) for task, metric in metrics)


def _check_roles(task: Task, roles: Mapping[str, Any], where: str) -> None:
    known = (*task.needs, *task.optional)
    for role in roles:
        if role not in known:
            raise SpecError(f"{where}: {UnknownNameError(f'role of task {task.name}', role, known)}")
    for role in task.needs:
        if role not in roles:
            raise SpecError(f"{where}: role '{role}' is not bound to a data set")


def expand_sets(suite: SuiteSpec, used: set[str]) -> dict[str, dict[str, DataSpec]]:
    """Each used data set of the suite, and its calibration data -> the single data sets it stands for."""
    names = used | calibration_sets(suite)
    limited = {name: suite.data[name].model_copy(update={"limit": limit_of(suite, name)}) for name in names}
    return {name: expand(name, limited[name]) for name in suite.data if name in names}


def _bound(
    roles: Mapping[str, str | tuple[str, ...]], groups: Mapping[str, Mapping[str, DataSpec]]
) -> dict[str, tuple[str, ...]]:
    named = ((role, (bound,) if isinstance(bound, str) else bound) for role, bound in roles.items())
    return {role: tuple(single for name in bound for single in groups[name]) for role, bound in named}


def _unnamed(
    plan: Plan, task: Task, label: str, binding: BindingSpec, groups: Mapping[str, Mapping[str, DataSpec]]
) -> tuple[Evaluation, Mapping[str, str]]:
    """The part of an evaluation, and of its content hash, that all configurations share: computed once."""
    parsed = task.parse_options(binding.options, f"suite '{plan.suite.name}': tasks.{task.name}.{label}.options")
    evaluation = Evaluation("", task, label, _bound(binding.roles, groups), parsed)
    names = {name for bound in evaluation.roles.values() for name in bound}
    found = {name: [name, plan.data[name].digest, plan.data[name].text_digest] for name in names}
    content: dict[str, Any] = {
        "task": [task.name, task.version, label, parsed.model_dump(mode="json")],
        "roles": {role: [found[name] for name in bound] for role, bound in evaluation.roles.items()},
    }
    texts = {name: digest(prompts) for name, prompts in evaluation.texts.items()}
    looked_at = [name for role in task.captions for name in evaluation.roles.get(role, ())]
    captions = {name: plan.data[name].captions_digest for name in looked_at}
    parts = {"texts": texts, "captions": captions}
    return evaluation, _canonical(content | {name: part for name, part in parts.items() if part})


def _canonical(content: Mapping[str, Any]) -> dict[str, str]:
    return {key: canonical(value) for key, value in content.items()}
