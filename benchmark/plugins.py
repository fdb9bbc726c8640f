"""The public interface of a task plugin: `@task`, `Metric`, `Banks`, `Outcome`. See docs/add-a-task.md."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal, Union, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from benchmark.bank import FeatureBank, read_only
from benchmark.errors import DataError, PluginError, SpecError
from benchmark.registry import Registry
from benchmark.spec import Frozen, parse_spec
from benchmark.utils.checksums import checksum

if TYPE_CHECKING:
    from benchmark.metrics.bootstrap import Comparison

_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*(/[A-Za-z0-9][A-Za-z0-9_.-]*)*")
Better = Literal["higher", "lower", "neither"]
_STORED = "biufcmMSU"
"""Kinds of numpy types that a file of samples holds."""


@dataclass(frozen=True)
class Metric:
    """One number that a task reports.

    Attributes:
        name: the last part of its key, e.g. `accuracy` in `zero_shot/scenes/accuracy`.
        better: which direction is an improvement ("neither": descriptive, e.g. a count).
        unit: "fraction", "nats", "count", "scale", ...
        headline: shown in the summary table.
        neutral: for metrics that only a comparison with full precision gives: the value when nothing changed (0 for
            a difference, 1 for a ratio). None for all others.
    """

    name: str
    better: Better
    unit: str = "fraction"
    headline: bool = False
    neutral: float | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_.-]+", self.name):
            raise PluginError(f"metric name '{self.name}': letters, digits, _ . - only")
        if self.better not in get_args(Better):
            raise PluginError(f"metric '{self.name}': better is higher, lower or neither, not '{self.better}'")


class NoOptions(Frozen):
    """Options of a task that has none."""


@dataclass(frozen=True)
class TextList:
    """Texts besides the class names whose features a task wants: its options' property `texts` names them.

    `labels`: a list, a built-in (`imagenet`, `vocabulary`), or a text file with one label a line; `template` has one
    `{}` for the label.
    """

    labels: str | tuple[str, ...]
    template: str = "a photo of a {}."


@dataclass(frozen=True)
class Banks:
    """The feature banks of one evaluation, by role. A role may hold one bank or several.

    `texts`: features (K, D) float32, L2-normalised, of each `TextList` that the options ask for.
    """

    by_role: Mapping[str, Sequence[FeatureBank]]
    options: Any = field(default_factory=NoOptions)
    texts: Mapping[str, NDArray[np.floating[Any]]] = field(default_factory=dict)

    def __getitem__(self, role: str) -> FeatureBank:
        """The single bank of a role.

        Raises:
            SpecError: the role is not bound, or holds several data sets.
        """
        banks = self.all(role)
        if len(banks) != 1:
            raise SpecError(f"role '{role}' takes one data set, {len(banks)} are bound to it")
        return banks[0]

    def all(self, role: str) -> Sequence[FeatureBank]:
        """All banks of a role, in the order of the suite."""
        if role not in self.by_role:
            raise SpecError(f"role '{role}' is not bound; bound are: {', '.join(self.by_role)}")
        return self.by_role[role]

    def read_only(self) -> Banks:
        """The same banks, none of whose arrays can be written."""
        roles = {role: tuple(bank.read_only() for bank in banks) for role, banks in self.by_role.items()}
        return replace(self, by_role=roles, texts={name: read_only(text) for name, text in self.texts.items()})

    def checksums(self) -> dict[str, int]:
        """By role and data set, and by name of further texts."""
        found = {f"{role} {bank.dataset}": bank.checksum() for role, banks in self.by_role.items() for bank in banks}
        return found | {f"texts {name}": checksum(text) for name, text in self.texts.items()}

    def __contains__(self, role: object) -> bool:
        return role in self.by_role

    def __iter__(self) -> Iterator[str]:
        return iter(self.by_role)


@dataclass(frozen=True)
class Outcome:
    """What a task found.

    Attributes:
        metrics: key below `<task>/<dataset>/` -> value; the last part of a key is the name of a declared Metric.
        samples: per-sample columns for paired statistics, (N,) or (N, V) arrays; `sample_id` names the rows.
            Columns of another length carry their own ids in `<column>.sample_id`.
        tables: further small arrays for figures (reliability bins, severity curves).
        notes: metrics that are undefined here, and why. Nothing is left out in silence.
    """

    metrics: Mapping[str, float]
    samples: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    tables: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)


Evaluate = Callable[[Banks], Outcome]
Compare = Callable[[Outcome, Outcome], Outcome]
Significance = Callable[[Outcome, Outcome], Mapping[str, Union["Comparison", str]]]
Draw = Callable[[Outcome, "Outcome | None"], Mapping[str, Any]]


@dataclass
class Task:
    """A registered task: a pure function of feature banks with its declaration.

    `version` rises whenever a number can change: it is part of the content hash of every evaluation.

    Label spaces (`benchmark.engine.label_spaces`): data sets of the roles in `classes` must have class names, those in
    `same_classes` the same ones, those in `shared_classes` one in common with the first.
    """

    name: str
    version: int
    needs: tuple[str, ...]
    metrics: tuple[Metric, ...]
    evaluate: Evaluate
    optional: tuple[str, ...] = ()
    taps: tuple[str, ...] = ()
    options: type[BaseModel] = NoOptions
    comparison: Compare | None = None
    inference: Significance | None = None
    drawing: Draw | None = None
    classes: tuple[str, ...] = ()
    same_classes: tuple[str, ...] = ()
    shared_classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.name):
            raise PluginError(f"task name '{self.name}': lower-case letters, digits and _ only")
        if self.version < 1 or not self.needs or not self.metrics:
            raise PluginError(f"task '{self.name}' needs a version >= 1, at least one role and one metric")
        names = [m.name for m in self.metrics]
        if len(set(names)) != len(names):
            raise PluginError(f"task '{self.name}' declares a metric twice")
        roles = (*self.needs, *self.optional)
        for role in roles:
            if not re.fullmatch(r"[a-z][a-z0-9_]*", role) or role in ("roles", "options"):
                raise PluginError(f"task '{self.name}': '{role}' cannot be the name of a role")
        if len(set(roles)) != len(roles):
            raise PluginError(f"task '{self.name}' names a role twice")
        for role in (*self.classes, *self.same_classes, *self.shared_classes):
            if role not in roles:
                raise PluginError(f"task '{self.name}' declares the classes of '{role}', which is none of its roles")

    @property
    def summary(self) -> str:
        """First line of the docstring."""
        return (self.evaluate.__doc__ or "").strip().split("\n")[0]

    def metric(self, key: str) -> Metric:
        """The declaration behind a metric key (its last part).

        Raises:
            PluginError: the task reports a metric that it does not declare.
        """
        last = key.rsplit("/", 1)[-1]
        for declared in self.metrics:
            if declared.name == last:
                return declared
        raise PluginError(f"task '{self.name}' reports '{key}', but declares no metric '{last}'")

    def run(self, banks: Banks) -> Outcome:
        """Evaluate, and check the outcome against the declaration.

        Raises:
            PluginError: an undeclared metric, a value that is not a finite number, or columns of unequal length.
        """
        return checked(self, self.evaluate(banks))

    def run_comparison(self, quantized: Outcome, reference: Outcome) -> Outcome:
        """Metrics against full precision, checked likewise; empty for a task without a comparison.

        Raises:
            DataError: the two were not evaluated on the same samples.
        """
        if self.comparison is None:
            return Outcome({})
        return checked(self, self.comparison(*paired(quantized, reference)))

    def parse_options(self, options: Mapping[str, Any], where: str) -> BaseModel:
        """Validate a binding's options; SpecError names the field."""
        return parse_spec(self.options, dict(options), where)

    def compare(self, function: Compare) -> Compare:
        """Decorator: metrics that need the quantized outcome and the full-precision one, `f(quantized, reference)`."""
        self.comparison = function
        return function

    def significance(self, function: Significance) -> Significance:
        """Decorator: `f(quantized, reference)` -> for each metric key its `Comparison`, or why there is none.

        Both outcomes have the same samples in the same order. See docs/comparisons.md; a task without one gets what
        `benchmark.results.compare.plain_significance` can tell from its columns.
        """
        self.inference = function
        return function

    def draw(self, function: Draw) -> Draw:
        """Decorator: figures, `f(outcome, reference or None) -> {name: matplotlib figure}`."""
        self.drawing = function
        return function


def task(
    name: str,
    *,
    version: int,
    needs: Sequence[str],
    metrics: Sequence[Metric],
    optional: Sequence[str] = (),
    taps: Sequence[str] = (),
    options: type[BaseModel] = NoOptions,
    classes: Sequence[str] = (),
    same_classes: Sequence[str] = (),
    shared_classes: Sequence[str] = (),
) -> Callable[[Evaluate], Task]:
    """Declare a task. The decorated function becomes a `Task`; registering is the entry point's business.

    Args:
        name: first part of all its metric keys.
        version: raise it when a number can change.
        needs: roles that must be bound. optional: roles that may be.
        metrics: everything it may report.
        taps: arrays besides pooled features, e.g. `local`.
        options: pydantic model of its options.
        classes, same_classes, shared_classes: what the label spaces of its roles must be; see `Task`.
    """

    label_spaces = {"classes": classes, "same_classes": same_classes, "shared_classes": shared_classes}
    for field_name, roles in {"needs": needs, "optional": optional, "taps": taps, **label_spaces}.items():
        if isinstance(roles, str):
            raise PluginError(f"task '{name}': {field_name}='{roles}' is text; write {field_name}=('{roles}',)")

    def declare(evaluate: Evaluate) -> Task:
        return Task(
            name, version, tuple(needs), tuple(metrics), evaluate, tuple(optional), tuple(taps), options,
            classes=tuple(classes), same_classes=tuple(same_classes), shared_classes=tuple(shared_classes),
        )  # fmt: skip

    return declare


def checked(task: Task, outcome: Outcome) -> Outcome:
    """The outcome with plain numbers, arrays and texts.

    Raises:
        PluginError: an undeclared metric, a value that is not a finite number, a column or table that is no array of
            numbers or texts, columns of unequal length, or a note that is no text.
    """
    if not isinstance(outcome, Outcome):
        raise PluginError(f"task '{task.name}' returned a {type(outcome).__name__}, expected an Outcome")
    metrics = {key: _number(task, key, value) for key, value in outcome.metrics.items()}
    samples = {name: _array(task, f"column '{name}'", column) for name, column in outcome.samples.items()}
    tables = {name: _array(task, f"table '{name}'", table) for name, table in outcome.tables.items()}
    _check_rows(task, samples)
    for key, note in outcome.notes.items():
        if not isinstance(key, str) or not isinstance(note, str):
            raise PluginError(f"task '{task.name}': note {key!r} is {note!r}, expected a text")
    return Outcome(metrics, samples, tables, dict(outcome.notes))


def _number(task: Task, key: str, value: Any) -> float:
    if not isinstance(key, str) or not _KEY.fullmatch(key):
        raise PluginError(f"task '{task.name}': metric key '{key}': names with letters, digits, _ . - and / only")
    task.metric(key)
    if not isinstance(value, Real) or not math.isfinite(value):
        raise PluginError(f"task '{task.name}': metric '{key}' is {value!r}; raise or note it instead")
    return float(value)


def _array(task: Task, what: str, values: Any) -> NDArray[Any]:
    array = np.asarray(values)
    if array.dtype.kind not in _STORED:
        raise PluginError(f"task '{task.name}': {what} holds {array.dtype}, expected numbers or texts")
    return array


def _check_rows(task: Task, samples: Mapping[str, NDArray[Any]]) -> None:
    for name, column in samples.items():
        if np.ndim(column) == 0:
            raise PluginError(f"task '{task.name}': column '{name}' is one value, expected one row per sample")
    if samples and "sample_id" not in samples:
        raise PluginError(f"task '{task.name}' returns samples without a column 'sample_id'")
    for name, column in samples.items():
        ids = samples.get(f"{name}.sample_id", samples["sample_id"])
        if not name.endswith(".sample_id") and len(column) != len(ids):
            raise PluginError(f"task '{task.name}': column '{name}' has {len(column)} rows, its ids {len(ids)}")


def paired(quantized: Outcome, reference: Outcome) -> tuple[Outcome, Outcome]:
    """Both outcomes with their rows in the order of the sample ids, so that row i is the same image in both.

    The order is that of the ids and not of the data: what follows from it (random draws too) does not depend on the
    order in which images were read.

    Raises:
        DataError: the two hold other images, an id stands twice, or a set of samples is missing in one of them.
    """
    expected, found = _ids(reference), _ids(quantized)
    if expected.keys() != found.keys():
        odd = sorted(expected.keys() ^ found.keys())[0].removesuffix(".sample_id")
        raise DataError(f"the two evaluations cannot be paired: only one of them has samples of '{odd}'")
    first = {name: np.argsort(ids, kind="stable") for name, ids in found.items()}
    second = {name: np.argsort(ids, kind="stable") for name, ids in expected.items()}
    for name in expected:
        _require_same(expected[name][second[name]], found[name][first[name]], name)
    return _sorted(quantized, first), _sorted(reference, second)


def _ids(outcome: Outcome) -> dict[str, NDArray[Any]]:
    """Columns of sample ids: `sample_id`, and `<column>.sample_id` of columns with samples of their own."""
    return {name: ids for name, ids in outcome.samples.items() if name.split(".")[-1] == "sample_id"}


def _require_same(reference: NDArray[Any], quantized: NDArray[Any], name: str) -> None:
    """Sorted ids must be equal and unique."""
    what = "the samples" if name == "sample_id" else f"the samples of '{name.removesuffix('.sample_id')}'"
    if len(np.unique(reference)) != len(reference):
        raise DataError(f"{what} cannot be paired: an id stands twice")
    if not np.array_equal(reference, quantized):
        only = np.setxor1d(reference, quantized)
        example = f"'{only[0]}' is in one of them only" if len(only) else "an id stands twice"
        raise DataError(
            f"{what} cannot be paired: full precision has {len(reference)}, the quantized model {len(quantized)}, and "
            f"{example}; evaluate both on the same data (the same --limit and --skip-broken)"
        )


def _sorted(outcome: Outcome, orders: Mapping[str, NDArray[np.int64]]) -> Outcome:
    samples = {}
    for name, column in outcome.samples.items():
        ids = name if name in orders else f"{name}.sample_id"
        samples[name] = column[orders.get(ids, orders["sample_id"])]
    return replace(outcome, samples=samples)


tasks: Registry[Task] = Registry("task", "reliquant.tasks", Task)
