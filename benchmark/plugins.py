"""The public interface of a task plugin: `@task`, `Metric`, `Banks`, `Columns`, `Summary`. See docs/add-a-task.md."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from benchmark.bank import FeatureBank, read_only
from benchmark.errors import DataError, PluginError, SpecError
from benchmark.registry import Registry
from benchmark.spec import Frozen, parse_spec
from benchmark.utils.checksums import checksum

Better = Literal["higher", "lower", "neither"]
Arrays = Mapping[str, NDArray[Any]]
IDS = ("sample_id", "base_id")
"""Columns that every group of samples has."""
MARGIN, POINT = 0.02, 0.01
"""Margin and point of a metric that is a fraction and declares none."""
_GROUP = re.compile(r"[A-Za-z0-9_.:/+-]+")
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*(/[A-Za-z0-9][A-Za-z0-9_.-]*)*")
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
        margin: what counts as equal, in the metric's unit: a smaller loss is none. 0.02 for a fraction that declares
            none; a metric in another unit has a margin only where it declares one. A suite may override it.
        point: what one point of `reliability` is: 0.01 for a fraction; in another unit None (it then stays out of
            `reliability`) unless declared.
        judged_by: the metric beside it whose change decides in its place (`ece_15_debiased` for `ece_15`).
        top1_of: the role of whose data set this is the plain top-1 accuracy; in full precision it is compared with what
            others have published. "" for all other metrics.
        no_interval: why its change has no interval; "" for metrics that have one.
        neutral: for metrics that only a comparison with full precision gives: the value when nothing changed (0 for
            a difference, 1 for a ratio). None for all others.
    """

    name: str
    better: Better
    unit: str = "fraction"
    headline: bool = False
    neutral: float | None = None
    margin: float | None = None
    point: float | None = None
    judged_by: str = ""
    no_interval: str = ""
    top1_of: str = ""

    def __post_init__(self) -> None:
        for name, usual in (("margin", MARGIN), ("point", POINT)):
            value = getattr(self, name)
            if value is None and self.unit == "fraction":
                object.__setattr__(self, name, usual)
            elif value is not None and not (math.isfinite(value) and value > 0):
                raise PluginError(f"metric '{self.name}': {name} {value} is not a positive number")
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
    `full_precision`: the same model's banks in full precision, of the roles that the task names in `full_precision`;
    those of full precision itself are its own. Empty for a model that was stored quantized: there is no other.
    """

    by_role: Mapping[str, Sequence[FeatureBank]]
    options: Any = field(default_factory=NoOptions)
    texts: Mapping[str, NDArray[np.floating[Any]]] = field(default_factory=dict)
    full_precision: Mapping[str, Sequence[FeatureBank]] = field(default_factory=dict)

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
        texts = {name: read_only(text) for name, text in self.texts.items()}
        return replace(self.each(FeatureBank.read_only), texts=texts)

    def each(self, change: Callable[[FeatureBank], FeatureBank]) -> Banks:
        """The same with every bank changed, in full precision too."""
        parts = [
            {role: tuple(map(change, banks)) for role, banks in some.items()}
            for some in (self.by_role, self.full_precision)
        ]
        return replace(self, by_role=parts[0], full_precision=parts[1])

    def checksums(self) -> dict[str, int]:
        """By role and data set, and by name of further texts."""
        found = {f"texts {name}": checksum(text) for name, text in self.texts.items()}
        for where, some in (("", self.by_role), ("full precision's ", self.full_precision)):
            for role, banks in some.items():
                found |= {f"{where}{role} {bank.dataset}": bank.checksum() for bank in banks}
        return found

    def __contains__(self, role: object) -> bool:
        return role in self.by_role

    def __iter__(self) -> Iterator[str]:
        return iter(self.by_role)


@dataclass(frozen=True)
class Columns:
    """What a task saw: named groups of samples, each a table with one row a sample. Nothing of it needs a model.

    Attributes:
        groups: group -> column -> (N,) or (N, V) array, one length a group. Samples of several kinds (in and out of
            distribution, source and shifted) are several groups; one that holds the images of a role has its name.
            `sample_id` pairs quantizations. `base_id` is the picture behind a sample, equal for all its corrupted
            versions and wherever it appears again; where it is missing it is the `sample_id`.
        about: small arrays that `summarise` needs and that belong to no sample (class names, the logit scale).
    """

    groups: Mapping[str, Arrays]
    about: Arrays = field(default_factory=dict)

    def __post_init__(self) -> None:
        groups = {
            name: group if "base_id" in group or "sample_id" not in group else {**group, "base_id": group["sample_id"]}
            for name, group in self.groups.items()
        }
        object.__setattr__(self, "groups", groups)

    def __getitem__(self, group: str) -> Arrays:
        """One group of samples."""
        return self.groups[group]

    def __contains__(self, group: object) -> bool:
        return group in self.groups

    def take(self, rows: Mapping[str, NDArray[Any]]) -> Columns:
        """The rows of some groups that an index or a boolean mask names, in that order; other groups stay whole."""
        taken = {
            name: {column: values[rows[name]] for column, values in group.items()} if name in rows else group
            for name, group in self.groups.items()
        }
        return replace(self, groups=taken)


@dataclass(frozen=True)
class Summary:
    """What columns say.

    Attributes:
        metrics: key below `<task>/<dataset>/` -> value; the last part of a key is the name of a declared Metric.
        tables: further small arrays for figures (reliability bins, severity curves).
        notes: metrics that are undefined here, and why. Nothing is left out in silence.
    """

    metrics: Mapping[str, float]
    tables: Arrays = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What a task found: its columns and what they say."""

    columns: Columns
    summary: Summary

    @property
    def metrics(self) -> Mapping[str, float]:
        """Those of the summary."""
        return self.summary.metrics

    @property
    def tables(self) -> Arrays:
        """Those of the summary."""
        return self.summary.tables

    @property
    def notes(self) -> Mapping[str, str]:
        """Those of the summary."""
        return self.summary.notes


class Answers(NamedTuple):
    """Right and wrong answers: the group of samples, (N,) bool with one answer a row, and which rows count (all)."""

    group: str
    right: NDArray[np.bool_]
    among: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class Errors:
    """What a task knows about the errors of its metrics besides what leaving samples out tells.

    Attributes:
        replicates: metric key -> (GROUPS,) its value without each group of pictures
            (`benchmark.metrics.uncertainty`), where the task makes them faster than one `summarise` a group does, or
            where leaving out would be wrong (a quantile).
        answers: metrics that are the share of right answers -> these.
        slack: metrics that are smooth functions of right and wrong answers -> mean over pictures of the squared weight
            of one picture's answer.
    """

    replicates: Arrays = field(default_factory=dict)
    answers: Mapping[str, Answers] = field(default_factory=dict)
    slack: Mapping[str, float] = field(default_factory=dict)


Observe = Callable[[Banks, Any], Columns]
Summarise = Callable[[Columns, Any], Summary]
Tabulate = Callable[[Columns, Any], Arrays]
Compare = Callable[[Columns, Columns, Any], Summary]
KnowErrors = Callable[[Columns, Any, Arrays], Errors]
Draw = Callable[[Summary, "Summary | None"], Mapping[str, Any]]
DrawAll = Callable[[Mapping[str, Summary]], Mapping[str, Any]]


@dataclass
class Task:
    """A registered task: two pure functions with their declaration.

    `observe(banks, options)` looks at feature banks and gives columns, one row a sample. `summarise(columns, options)`
    turns columns, perhaps of fewer samples, into metrics; it sees no bank, and is quick.
    `version` rises whenever a number or a column can change: it is part of the content hash of every evaluation.

    Label spaces (`benchmark.engine.label_spaces`): data sets of the roles in `classes` must have class names, those in
    `same_classes` the same ones, those in `shared_classes` one in common with the first. Those in `captions` must have
    a caption for each image; their banks have the captions' features. Of roles in `full_precision` the task also gets
    the banks of the same model in full precision.
    """

    name: str
    version: int
    needs: tuple[str, ...]
    metrics: tuple[Metric, ...]
    observe: Observe
    optional: tuple[str, ...] = ()
    taps: tuple[str, ...] = ()
    options: type[BaseModel] = NoOptions
    summary_of: Summarise | None = None
    tables_of: Tabulate | None = None
    comparison: Compare | None = None
    known_errors: KnowErrors | None = None
    drawing: Draw | None = None
    drawing_all: DrawAll | None = None
    classes: tuple[str, ...] = ()
    same_classes: tuple[str, ...] = ()
    shared_classes: tuple[str, ...] = ()
    captions: tuple[str, ...] = ()
    full_precision: tuple[str, ...] = ()
    words: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.name):
            raise PluginError(f"task name '{self.name}': lower-case letters, digits and _ only")
        if self.version < 1 or not self.needs or not self.metrics:
            raise PluginError(f"task '{self.name}' needs a version >= 1, at least one role and one metric")
        names = [m.name for m in self.metrics]
        if len(set(names)) != len(names):
            raise PluginError(f"task '{self.name}' declares a metric twice")
        if odd := [m for m in self.metrics if m.top1_of and m.top1_of not in (*self.needs, *self.optional)]:
            raise PluginError(f"task '{self.name}': '{odd[0].name}' is of a role it lacks: {odd[0].top1_of}")
        if odd := [m for m in self.metrics if m.judged_by and m.judged_by not in names]:
            raise PluginError(
                f"task '{self.name}': '{odd[0].name}' is judged by '{odd[0].judged_by}', which it does not declare"
            )
        roles = (*self.needs, *self.optional)
        for role in roles:
            if not re.fullmatch(r"[a-z][a-z0-9_]*", role) or role in ("roles", "options"):
                raise PluginError(f"task '{self.name}': '{role}' cannot be the name of a role")
        if len(set(roles)) != len(roles):
            raise PluginError(f"task '{self.name}' names a role twice")
        for what in ("classes", "same_classes", "shared_classes", "captions", "full_precision"):
            for role in getattr(self, what):
                if role not in roles:
                    raise PluginError(f"task '{self.name}' declares {what} of '{role}', which is none of its roles")

    @property
    def title(self) -> str:
        """First line of the docstring."""
        return (self.observe.__doc__ or "").strip().split("\n")[0]

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
        """Observe and summarise; both results are checked against the declaration."""
        columns = self.run_observe(banks)
        return Outcome(columns, self.run_summarise(columns, banks.options))

    def run_observe(self, banks: Banks) -> Columns:
        """The columns of banks.

        Raises:
            PluginError: a group without `sample_id`, or columns of unequal length.
        """
        columns = self.observe(banks, banks.options)
        if not isinstance(columns, Columns):
            raise PluginError(f"task '{self.name}' returned a {type(columns).__name__}, expected Columns")
        groups = {name: self._checked_group(name, group) for name, group in columns.groups.items()}
        about = {name: self._array(f"'about', '{name}'", values) for name, values in columns.about.items()}
        return Columns(groups, about)

    def _checked_group(self, name: str, group: Any) -> Arrays:
        where = f"task '{self.name}': group '{name}'"
        if not _GROUP.fullmatch(name) or name == "about":
            raise PluginError(f"{where}: a group has another name, of letters, digits, _ . : / + and -")
        if not isinstance(group, Mapping) or "sample_id" not in group:
            raise PluginError(f"{where} has no column 'sample_id'")
        arrays = {column: self._array(f"group '{name}': column '{column}'", values) for column, values in group.items()}
        for column, values in arrays.items():
            if np.ndim(values) == 0:
                raise PluginError(f"{where}: column '{column}' is one value, expected one row a sample")
            if len(values) != len(group["sample_id"]):
                raise PluginError(
                    f"{where}: column '{column}' has {len(values)} rows, its ids {len(group['sample_id'])}"
                )
        return arrays

    def run_summarise(self, columns: Columns, options: Any) -> Summary:
        """What columns say.

        Raises:
            PluginError: an undeclared metric, a value that is not a finite number, or no `summarise`.
        """
        if self.summary_of is None:
            raise PluginError(f"task '{self.name}' has no summarise; decorate a function with @{self.name}.summarise")
        return self._checked(self.summary_of(columns, options))

    def run_tables(self, columns: Columns, options: Any) -> Arrays:
        """The tables of `run_summarise`; a task with a function for them computes no metric."""
        if self.tables_of is None:
            return self.run_summarise(columns, options).tables
        return self._checked(Summary({}, self.tables_of(columns, options))).tables

    def run_comparison(self, quantized: Columns, reference: Columns, options: Any) -> Summary:
        """Metrics against full precision, checked likewise; empty for a task without a comparison.

        Raises:
            DataError: the two were not evaluated on the same samples.
        """
        if self.comparison is None:
            return Summary({})
        return self._checked(self.comparison(*paired(quantized, reference), options))

    def _checked(self, summary: Summary) -> Summary:
        if not isinstance(summary, Summary):
            raise PluginError(f"task '{self.name}' returned a {type(summary).__name__}, expected a Summary")
        metrics = {key: self._number(key, value) for key, value in summary.metrics.items()}
        tables = {name: self._array(f"table '{name}'", table) for name, table in summary.tables.items()}
        for key, note in summary.notes.items():
            if not isinstance(key, str) or not isinstance(note, str):
                raise PluginError(f"task '{self.name}': note {key!r} is {note!r}, expected a text")
        return Summary(metrics, tables, dict(summary.notes))

    def _number(self, key: str, value: Any) -> float:
        if not isinstance(key, str) or not _KEY.fullmatch(key):
            raise PluginError(f"task '{self.name}': metric key '{key}': names with letters, digits, _ . - and / only")
        self.metric(key)
        if not isinstance(value, Real) or not math.isfinite(value):
            raise PluginError(f"task '{self.name}': metric '{key}' is {value!r}; raise or note it instead")
        return float(value)

    def _array(self, what: str, values: Any) -> NDArray[Any]:
        array = np.asarray(values)
        if array.dtype.kind not in _STORED:
            raise PluginError(f"task '{self.name}': {what} holds {array.dtype}, expected numbers or texts")
        return array

    def parse_options(self, options: Mapping[str, Any], where: str) -> BaseModel:
        """Validate a binding's options; SpecError names the field."""
        return parse_spec(self.options, dict(options), where)

    def summarise(self, function: Summarise) -> Summarise:
        """Decorator: `f(columns, options) -> Summary`, quick enough to be called a hundred times.

        It also gets columns that lack some samples; what it then has to know of the others stands in the columns.
        """
        self.summary_of = function
        return function

    def tables(self, function: Tabulate) -> Tabulate:
        """Decorator: the tables of `summarise` alone, `f(columns, options) -> Arrays`, for one whose metrics are slow.

        Figures are drawn from stored columns: they need the tables again, and the metrics stand in the record.
        """
        self.tables_of = function
        return function

    def compare(self, function: Compare) -> Compare:
        """Decorator: metrics against full precision, `f(quantized, reference, options) -> Summary`.

        Both are columns of the same samples in the same order.
        """
        self.comparison = function
        return function

    def errors(self, function: KnowErrors) -> KnowErrors:
        """Decorator: what the task knows about errors, `f(columns, options, groups) -> Errors`; no task needs one.

        `groups` has, for each group of samples, the group of pictures (N,) int of every row. Without it every metric
        has the replicates that `summarise` gives, and metrics that are the mean of a boolean column of their name
        (`accuracy`: also `correct`) count as shares of right answers. See docs/statistics.md.
        """
        self.known_errors = function
        return function

    def draw(self, function: Draw) -> Draw:
        """Decorator: figures, `f(summary, full precision's or None) -> {title: matplotlib figure}`.

        The report and the trackers draw them; the function's docstring is their caption.
        """
        self.drawing = function
        return function

    def draw_all(self, function: DrawAll) -> DrawAll:
        """Decorator: figures of all quantizations, `f({name: summary}) -> {title: matplotlib figure}`.

        Full precision comes first. The summaries come from the records: their `tables` are empty. The function's
        docstring is the caption.
        """
        self.drawing_all = function
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
    captions: Sequence[str] = (),
    full_precision: Sequence[str] = (),
    words: Mapping[str, str] | None = None,
) -> Callable[[Observe], Task]:
    """Declare a task. The decorated `observe` becomes a `Task`; registering is the entry point's business.

    Args:
        name: first part of all its metric keys.
        version: raise it when a number or a column can change.
        needs: roles that must be bound. optional: roles that may be.
        metrics: everything it may report.
        taps: arrays besides pooled features, e.g. `local`.
        options: pydantic model of its options.
        classes, same_classes, shared_classes: what the label spaces of its roles must be; see `Task`.
        captions: roles whose captions it looks at. full_precision: roles of which it also gets full precision's banks.
        words: short words of its metric keys, spelled out for a reader.
    """

    of_roles = {
        "classes": classes, "same_classes": same_classes, "shared_classes": shared_classes,
        "captions": captions, "full_precision": full_precision,
    }  # fmt: skip
    for field_name, roles in {"needs": needs, "optional": optional, "taps": taps, **of_roles}.items():
        if isinstance(roles, str):
            raise PluginError(f"task '{name}': {field_name}='{roles}' is text; write {field_name}=('{roles}',)")

    def declare(observe: Observe) -> Task:
        return Task(
            name, version, tuple(needs), tuple(metrics), observe, tuple(optional), tuple(taps), options,
            classes=tuple(classes), same_classes=tuple(same_classes), shared_classes=tuple(shared_classes),
            captions=tuple(captions), full_precision=tuple(full_precision), words=dict(words or {}),
        )  # fmt: skip

    return declare


def paired(quantized: Columns, reference: Columns) -> tuple[Columns, Columns]:
    """Both with the rows of each group in the order of the sample ids: row i is the same image in both.

    The order is that of the ids and not of the data: what follows from it (random draws too) does not depend on the
    order in which images were read.

    Raises:
        DataError: the two hold other images, an id stands twice, or a group is missing in one of them.
    """
    if quantized.groups.keys() != reference.groups.keys():
        odd = sorted(quantized.groups.keys() ^ reference.groups.keys())[0]
        raise DataError(f"the two evaluations cannot be paired: only one of them has samples of '{odd}'")
    first, second = (
        {name: np.argsort(group["sample_id"], kind="stable") for name, group in columns.groups.items()}
        for columns in (quantized, reference)
    )
    for name in reference.groups:
        _require_same(reference[name]["sample_id"][second[name]], quantized[name]["sample_id"][first[name]], name)
    return quantized.take(first), reference.take(second)


def _require_same(reference: NDArray[Any], quantized: NDArray[Any], name: str) -> None:
    """Sorted ids must be equal and unique."""
    what = f"the samples of '{name}'"
    if len(np.unique(reference)) != len(reference):
        raise DataError(f"{what} cannot be paired: an id stands twice")
    if not np.array_equal(reference, quantized):
        only = np.setxor1d(reference, quantized)
        example = f"'{only[0]}' is in one of them only" if len(only) else "an id stands twice"
        raise DataError(
            f"{what} cannot be paired: full precision has {len(reference)}, the quantized model {len(quantized)}, and "
            f"{example}; evaluate both on the same data (the same --limit and --skip-broken)"
        )


tasks: Registry[Task] = Registry("task", "reliquant.tasks", Task)
