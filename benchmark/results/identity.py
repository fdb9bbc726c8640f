"""What an evaluation is by name: its results are found again from YAML alone, without torch, data or this machine.

The content hash (`Record.key`) knows every byte that can change a number, and so needs files and models. The identity
is what a user asked for: model, quantization, task with version and options, data, limit. Two records of one identity
answer the same question; the newer one counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel

from benchmark.errors import SpecError, UnknownNameError
from benchmark.ledger.records import Record
from benchmark.plugins import Task, tasks
from benchmark.registry import Registry
from benchmark.spec import FP32, ArtifactQuant, DataSpec, ModelSpec, QuantSpec, SuiteSpec, canonical, parse_short_name
from benchmark.spec.artifacts import artifacts_of


def identity(
    suite: SuiteSpec,
    model: ModelSpec,
    quantization: QuantSpec,
    task: Task,
    label: str,
    options: BaseModel,
    digest: str | None = None,
) -> dict[str, Any]:
    """The identity of one evaluation, as JSON.

    Args:
        label: names the binding of the task in the suite. options: the binding's, parsed.
        digest: the model's, where it is known.
    """
    binding = suite.tasks[task.name][label]
    names = {role: binding.data(role) for role in binding.roles}
    pairs = (quantization.calibration or suite.calibration) if quantization != FP32 else None
    if pairs is not None and pairs not in suite.data:
        problem = UnknownNameError("data set", pairs, suite.data)
        raise SpecError(f"quantization '{quantization.name}': calibration: {problem}")
    return {
        "model": {"ref": model.ref, "digest": digest},
        "quantization": quantization.name,
        "calibration": None if pairs is None else [pairs, _canonical(suite.data[pairs])],
        "task": {"name": task.name, "version": task.version, "label": label},
        "options": options.model_dump(mode="json"),
        "data": {role: [[name, _canonical(suite.data[name])] for name in own] for role, own in names.items()},
        "limit": suite.limit,
    }


def _canonical(spec: DataSpec) -> dict[str, Any]:
    """What was asked of a data set: fields at their default go without saying, and its path is this machine's."""
    return spec.model_dump(mode="json", exclude={"path", "published"}, exclude_defaults=True)


def identities(suite: SuiteSpec) -> list[dict[str, Any]]:
    """Of every evaluation of a suite: for each model full precision first, then its quantizations.

    Raises:
        UnknownNameError: a task or a method. SpecError: a quantization or an option that is not understood.
    """
    methods = Registry[Any]("quantizer", "reliquant.quantizers", object).names()
    named = [parse_short_name(text, methods) for text in suite.quantizations]
    further = [q.model_copy(update={"calibration": n}) for q in named if q != FP32 for n in _further(suite, q)]
    quants = [FP32, *named, *further]
    return [
        identity(suite, model, quant, task, label, task.parse_options(binding.options, f"tasks.{name}.{label}.options"))
        for model in suite.models
        for quant in [*dict.fromkeys(quants), *_artifacts(suite, model)]
        for name, labels in suite.tasks.items()
        for task in [tasks.get(name)]
        for label, binding in labels.items()
    ]


def _further(suite: SuiteSpec, quant: QuantSpec) -> tuple[str, ...]:
    """Further calibration sets; whether the method looks at one is not asked: what was not evaluated is not found."""
    return () if quant.calibration is not None else suite.further_calibration


def _artifacts(suite: SuiteSpec, model: ModelSpec) -> list[QuantSpec]:
    """Those of a model, by name: what is in their files is not part of what was asked."""
    return [ArtifactQuant(label=name, method="artifact") for name in artifacts_of(suite, model)]


def same(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether two identities ask the same; a digest that one of them does not know is not compared.

    Nor are calibration pairs that one of them lacks: its suite runs without, so the method does not look at them.
    """
    both = (first, second)
    if not question(first) or question(first) != question(second):
        return False
    digests = {each["model"].get("digest") for each in both} - {None}
    pairs = {canonical(each["calibration"]) for each in both if each.get("calibration") is not None}
    return len(digests) < 2 and len(pairs) < 2


def question(one: Mapping[str, Any]) -> str:
    """What an identity asks, without what `same` compares by itself: equal for identities that may ask the same."""
    return canonical({**one, "model": one["model"]["ref"], "calibration": None}) if "model" in one else ""


def found(records: Iterable[Record], wanted: Mapping[str, Any]) -> Record | None:
    """The newest finished record of an identity; None where there is none.

    Args: records: in the order of the ledger.
    """
    done = [r for r in records if r.status == "done" and r.identity and same(r.identity, wanted)]
    return done[-1] if done else None
