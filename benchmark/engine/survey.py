"""What a suite would do and cost on this machine, and what is missing for it. It evaluates nothing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from statistics import median
from typing import Any

import numpy as np

from benchmark.data import Data, DataSets, prompts, sources
from benchmark.engine.label_spaces import check_captions
from benchmark.engine.model_cost import ModelCost, cost_of
from benchmark.engine.plan import Binding, calibration_of, check_suite, open_of, unavailable_here
from benchmark.engine.provenance import data_warnings
from benchmark.engine.throughput import ASSUMED_FLOPS, ASSUMED_GPU, SHARE, Rates, flops_per_second, measured
from benchmark.engine.towers import distinct_towers
from benchmark.errors import ReliquantError, SpecError
from benchmark.quantization import requires_calibration
from benchmark.results.images import described
from benchmark.runtimes.artifact import resolve_artifact
from benchmark.spec import DataSpec, QuantSpec, SuiteSpec, digest
from benchmark.spec.artifacts import artifacts_of
from benchmark.spec.catalogue import Entry, catalogue
from benchmark.spec.suite import limit_of
from benchmark.utils.files import walk

FEW = 5
"""Images of a class below which its accuracy says nothing."""


@dataclass(frozen=True)
class Time:
    """Seconds of forward passes on a device; `how`: measured, estimated or assumed."""

    device: str
    seconds: float
    how: str


@dataclass(frozen=True)
class Survey:
    """The result of a survey.

    Attributes:
        image_towers, text_towers: of each model, that differ: the engine runs each once over all images or texts.
        images: images that one image tower embeds, where data sets or the catalogue tell; `unknown` names the rest.
        captions, prompts: captions and filled prompt templates that one text tower embeds; of the data sets that are
            here.
        image_passes, text_passes: images through image towers and texts through text towers, of all models.
        missing: one line for each model and data set that is not on this machine, with the reason.
        data: data set -> its images and classes, for those that are here. warnings: classes with few images or none,
            files that are left out. unavailable: quantization -> why this machine cannot run it, if the suite skips
            such.
        times: rough times, of each device that was asked about; empty where no number of parameters is known.
        data_bytes, pixel_bytes, bank_bytes: the files that are here, decoded images, stored features.
    """

    suite: SuiteSpec
    models: int
    quantizations: int
    artifacts: int
    evaluations: int
    image_towers: int
    text_towers: int
    images: int
    captions: int
    prompts: int
    image_passes: int
    text_passes: int
    unknown: tuple[str, ...]
    missing: tuple[str, ...]
    data: Mapping[str, str]
    warnings: tuple[str, ...]
    unavailable: Mapping[str, str]
    times: tuple[Time, ...]
    data_bytes: int
    pixel_bytes: int
    bank_bytes: int

    @property
    def configurations(self) -> int:
        """Models x quantizations, and the artifacts."""
        return self.models * self.quantizations + self.artifacts

    def to_json(self) -> dict[str, Any]:
        """Its numbers and lists, the suite by name."""
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        times = [vars(time) for time in self.times]
        return {**own, "suite": self.suite.name, "configurations": self.configurations, "times": times}


@dataclass(frozen=True)
class _Sets:
    """The data sets of a suite: those that are here opened, of the others the number of images, where it is known."""

    opened: Mapping[str, Data]
    counts: Mapping[str, int]
    unknown: tuple[str, ...]
    missing: tuple[str, ...]


@dataclass(frozen=True)
class _Amount:
    """What one image tower and one text tower embed."""

    images: int
    captions: int
    prompts: int

    @property
    def texts(self) -> int:
        return self.captions + self.prompts


def survey(suite: SuiteSpec, allow_outside: bool = False, devices: Sequence[str] = ("cpu",)) -> Survey:
    """Check a suite and look for its models and data; decodes and evaluates nothing.

    Args: devices: of this machine, to say the time for; models that are here run there for a second or two.

    Raises:
        ReliquantError: the suite itself is wrong. Models and data that are only missing here are listed instead.
    """
    quants, bindings, groups = check_suite(suite)
    missing = _missing_artifacts(suite)
    models = [cost_of(spec) for spec in suite.models]
    sets = _look(suite, groups, allow_outside)
    for task, label, b in bindings:
        here = {role: [sets.opened[n] for n in b.data(role) if n in sets.opened] for role in b.roles}
        check_captions(task, here, f"suite '{suite.name}': tasks.{task.name}.{label}")
    _check_calibration(suite, quants, sets.opened)
    unavailable = unavailable_here(quants, devices[0].split(":")[0]) if suite.skip_unavailable else {}
    run = [quant for quant in quants if quant.name not in unavailable]
    towers = distinct_towers(suite, run)
    artifacts = sum(len(artifacts_of(suite, model)) for model in suite.models)
    amount = _amount(suite, sets, groups, bindings)
    image_towers, text_towers = len(towers["vision"]), len(towers["text"])
    found, problems = times(models, towers["vision"], towers["text"], amount.images, amount.texts, devices)
    image_runs, text_runs = (len(models) * count + artifacts for count in (image_towers, text_towers))
    return Survey(
        suite=suite,
        models=len(models),
        quantizations=len(quants),
        artifacts=artifacts,
        evaluations=(len(models) * len(quants) + artifacts) * len(bindings),
        image_towers=image_towers,
        text_towers=text_towers,
        images=amount.images,
        captions=amount.captions,
        prompts=amount.prompts,
        image_passes=amount.images * image_runs,
        text_passes=amount.texts * text_runs,
        unknown=tuple(name for name in sets.unknown if any(name in b.data(r) for _, _, b in bindings for r in b.roles)),
        missing=(*missing, *(each.missing for each in models if each.missing), *problems, *sets.missing),
        data={name: described(_about(data, len(groups[name]))) for name, data in sets.opened.items()},
        unavailable=unavailable,
        warnings=(*data_warnings(sets.opened), *_few(sets.opened)),
        times=found,
        data_bytes=_file_bytes(sets.opened.values()),
        pixel_bytes=sum(3 * h * w for h, w in {each.side for each in models}) * amount.images,
        bank_bytes=sum(
            4 * each.dimension * (amount.images * image_towers + amount.texts * text_towers) for each in models
        ),
    )


def _check_calibration(suite: SuiteSpec, quants: Sequence[QuantSpec], opened: Mapping[str, Data]) -> None:
    """Check that calibration data are named, and fit, where a quantization looks at them; absent ones are listed."""
    for quant in quants:
        name = quant.calibration or suite.calibration
        if requires_calibration(quant) and (name is None or name in opened):
            calibration_of(suite, quant, opened.get(name or ""))


def _missing_artifacts(suite: SuiteSpec) -> list[str]:
    """Why artifacts cannot be run here, on the CPU."""
    found = []
    for name, spec in suite.artifacts.items():
        try:
            resolve_artifact(name, spec, "cpu")
        except ReliquantError as error:
            found.append(str(error))
    return found


# --- amounts -----------------------------------------------------------------------------------------------------


def _look(suite: SuiteSpec, groups: Mapping[str, Mapping[str, DataSpec]], allow_outside: bool) -> _Sets:
    """Open what is here; count the rest by the catalogue."""
    opened, counts, unknown, missing = dict[str, Data](), dict[str, int](), [], []
    sets, known = DataSets(allow_outside), tuple[Entry, ...]()
    for name in groups:
        spec, limit = suite.data[name], limit_of(suite, name)
        count: int | None
        try:
            opened[name] = open_of(suite, next(iter(groups[name].values())), name, sets)
            count = len(opened[name])
        except SpecError:  # calibration pairs without `text: captions`: the suite is wrong
            raise
        except ReliquantError as error:
            known = known or tuple(catalogue().values())
            entries = [e for e in known if (e.spec.source, e.spec.path) == (spec.source, spec.path)]
            hub = next((f" (on the hub: {e.hub})" for e in entries if e.hub is not None), "")
            missing.append(f"{error}{hub}")
            count = next((e.images for e in entries if e.images is not None), None)
        if count is None:
            unknown.append(name)
        else:
            counts[name] = count if limit is None else min(count, limit)
    return _Sets(opened, counts, tuple(unknown), tuple(missing))


def _amount(
    suite: SuiteSpec, sets: _Sets, groups: Mapping[str, Mapping[str, DataSpec]], bindings: Sequence[Binding]
) -> _Amount:
    """Images and texts that tasks look at, each data set once: also one that has several names.

    The calibration set counts where a task looks at it too; to calibrate on it is little work beside the rest.
    """
    looked_at = dict.fromkeys(name for _, _, b in bindings for role in b.roles for name in b.data(role))
    digests: dict[str, str] = {}
    for name in looked_at:
        same = suite.data[name].model_dump_json(exclude={"published"})
        digests.setdefault(sets.opened[name].digest if name in sets.opened else same, name)
    images = sum(sets.counts.get(name, 0) * len(groups[name]) for name in digests.values())
    asked = {n for task, _, b in bindings for role in task.captions if role in b.roles for n in b.data(role)}
    captions = sum(len(groups[n]) * sum(map(len, sets.opened[n].captions or ())) for n in asked if n in sets.opened)
    filled = dict(_prompts(sets.opened.get(name), suite.data[name]) for name in looked_at)
    return _Amount(images, captions, sum(filled.values()))


def _prompts(data: Data | None, spec: DataSpec) -> tuple[str, int]:
    """What tells the prompts of a data set from others, and their number; of one that is not here as its fields say."""
    if spec.text == "captions":
        return (data.text_digest, len(set(data.class_names))) if data else ("", 0)
    if data is not None:
        return data.text_digest, len(data.class_names) * len(data.templates)
    if spec.text == "none" or spec.classes is None or spec.templates is None:
        return "", 0
    names, templates = prompts.class_names(spec.classes), prompts.templates(spec.templates)
    return digest([list(names), list(templates)]), len(names) * len(templates)


def _file_bytes(opened: Iterable[Data]) -> int:
    """Bytes of the files below the folders of these data sets, each folder once."""
    roots = {root for data in opened for root in sources.get(data.spec.source).roots(data.spec)}
    apart = [root for root in roots if not any(other in root.parents for other in roots)]
    return sum((root / entry.path).stat().st_size for root in apart for entry in walk(root))


# --- time --------------------------------------------------------------------------------------------------------


def times(
    models: Sequence[ModelCost],
    image_towers: Sequence[QuantSpec],
    text_towers: Sequence[QuantSpec],
    images: int,
    texts: int,
    devices: Sequence[str],
) -> tuple[tuple[Time, ...], tuple[str, ...]]:
    """Rough seconds on each device, and on an assumed GPU where none of them is one.

    A model that is neither here nor of known size is left out.

    Args:
        images, texts: that one tower embeds.

    Returns:
        the times, and one line for each model that is here and cannot be loaded.
    """
    found, problems = [], dict[str, None]()
    for device in devices:
        rates, failed = _measured(models, device)
        problems |= dict.fromkeys(failed)
        known = [each for each in models if each.image is not None or each.ref in rates]
        if not known:
            continue
        speed = None if len(rates) == len(known) else _speed(known, rates, device)
        ratio = next(iter(rates.values())).quantized if rates else 1.0
        seconds = sum(
            _seconds(rates.get(each.ref) or _rates(each, speed), ratio, image_towers, text_towers, images, texts)
            for each in known
        )
        found.append(Time(device, seconds, _how(len(rates), len(models))))
    flops = sum(
        (each.image or 0) * images * len(image_towers) + each.text * texts * len(text_towers) for each in models
    )
    if flops and not any(device.startswith("cuda") for device in devices):
        found.append(Time(ASSUMED_GPU, flops / ASSUMED_FLOPS, f"assumed: {ASSUMED_FLOPS / 1e12:.0f} TFLOP/s"))
    return tuple(found), tuple(problems)


def _how(count: int, models: int) -> str:
    """How the rates of so many of the models were found out."""
    if count == models:
        return "measured"
    return f"{count} of {models} models measured" if count else "estimated: none of its models is here"


def _measured(models: Sequence[ModelCost], device: str) -> tuple[dict[str, Rates], list[str]]:
    """The rates of the models that are here, and why one cannot be loaded.

    The smallest is quantized too, and stands for all.
    """
    found: dict[str, Rates] = {}
    failed = []
    for each in sorted(models, key=lambda each: each.image or 0):
        if each.resolved is not None and each.resolved.quantized is None:
            try:
                found[each.ref] = measured(each.resolved, device, with_quantized=not found)
            except ReliquantError as error:
                failed.append(f"model {each.ref}: {error}")
    return found, failed


def _speed(models: Sequence[ModelCost], rates: Mapping[str, Rates], device: str) -> float:
    """FLOP/s of towers on a device: of the models that were measured, else a share of a matrix product's."""
    achieved = [each.image * rates[each.ref].images for each in models if each.image and each.ref in rates]
    return median(achieved) if achieved else SHARE * flops_per_second(device)


def _rates(model: ModelCost, speed: float | None) -> Rates:
    """Estimated from the FLOPs of a pass. Args: speed: in FLOP/s; None is no time."""
    pace = speed or math.inf
    return Rates(pace / (model.image or 1.0), pace / (model.text or 1.0))


def _seconds(
    rates: Rates,
    ratio: float,
    image_towers: Sequence[QuantSpec],
    text_towers: Sequence[QuantSpec],
    images: int,
    texts: int,
) -> float:
    """Seconds of one model. Args: ratio: of the speed with quantized activations to that in full precision."""
    image = sum(images / (rates.images * _ratio(quant, ratio)) for quant in image_towers)
    return image + sum(texts / (rates.texts * _ratio(quant, ratio)) for quant in text_towers)


def _ratio(quant: QuantSpec, ratio: float) -> float:
    """Weights alone are multiplied as floats: as fast as full precision."""
    return ratio if quant.activation_bits is not None else 1.0


# --- data --------------------------------------------------------------------------------------------------------


def _about(data: Data, versions: int) -> dict[str, int]:
    """What `benchmark.results.images.described` wants."""
    present = len(np.unique(data.labels[data.labels >= 0])) if data.spec.text == "classes" else 0
    classes = data.classes if data.spec.text == "classes" else 0
    return {"images": versions * len(data), "versions": versions, "classes": classes, "classes_present": present}


def _few(opened: Mapping[str, Data]) -> list[str]:
    """One line that names the data sets with classes of few images; a limit that the suite asks for is no surprise."""
    found = []
    for name, data in opened.items():
        if data.spec.text != "classes" or data.spec.limit is not None:
            continue
        labels, counts = np.unique(data.labels[data.labels >= 0], return_counts=True)
        least = int(counts.argmin()) if len(counts) else 0
        if few := int((counts < FEW).sum()):
            example = f"{data.class_names[labels[least]]}: {counts[least]}"
            found.append(f"'{name}' ({few} of {data.classes}, e.g. {example})")
    return [f"classes with under {FEW} images, in data set {', '.join(found)}"] if found else []
