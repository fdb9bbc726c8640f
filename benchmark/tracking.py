"""What a tracker is, and the frozen event it gets."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.errors import InputError
from benchmark.registry import Registry
from benchmark.spec import DataSpec, QuantSpec, SuiteSpec, digest
from benchmark.utils.guard import guarded, text_of

if TYPE_CHECKING:
    from pydantic import BaseModel

    from benchmark.ledger.records import Record
    from benchmark.plugins import Outcome, Task
    from benchmark.results.compare import Change


VIEW = "reliquant"
"""Name of the saved view that a tracker of MLflow keeps at each experiment."""

STUDY = "optuna.study"
"""Tag of the runs of an Optuna study and its trials: the study's name."""

DEFAULT_TRACKER, STREAM_TRACKER = "mlflow", "stream"
"""Trackers that the command line uses by itself: without `--tracker`, and for `--json`."""

RUNS_FILTER = "tags.kind != 'evaluation' and tags.kind != 'trial'"
"""MLflow's filter for the runs that a reader begins with: quantizations, sweeps and studies."""


@dataclass(frozen=True)
class UsedData:
    """A data set that evaluations looked at."""

    spec: DataSpec
    digest: str


@dataclass(frozen=True)
class TrackedEvaluation:
    """One task on one binding.

    Attributes:
        name: `task/label`. options: of the binding, as the task parsed them.
        data: by name.
    """

    name: str
    task: Task
    options: BaseModel
    data: Mapping[str, UsedData]


@dataclass(frozen=True)
class TrackedConfiguration:
    """One model under one quantization.

    Attributes:
        key: names it among all runs. model: display name. family: of the model.
    """

    key: str
    model: str
    family: str
    quant: QuantSpec
    evaluations: tuple[TrackedEvaluation, ...]


@dataclass(frozen=True)
class FinishedConfiguration:
    """One model under one quantization, all tasks evaluated or failed.

    Attributes:
        report: the QuantizationReport as JSON; None when quantizing failed.
        records: one per evaluation. outcomes: record key -> outcome, for the finished ones, as the ledger has them:
            `benchmark.results.summaries.with_tables` makes their tables, for a tracker that really writes them.
        references: evaluation name (`task/label`) -> full-precision outcome; empty for full precision itself.
        changes: every metric against full precision, without q values (`benchmark.results.compare.adjust` gives
            them over what is shown together); empty for full precision itself.
        tags: further tags, e.g. the Optuna trial.
        efficiency: size and speed (`benchmark.quantization.efficiency.Efficiency` as JSON); None where not measured.
    """

    suite: SuiteSpec
    configuration: TrackedConfiguration
    report: Mapping[str, Any] | None
    records: tuple[Record, ...]
    outcomes: Mapping[str, Outcome]
    references: Mapping[str, Outcome]
    changes: tuple[Change, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    efficiency: Mapping[str, Any] | None = None

    @property
    def configurations(self) -> tuple[TrackedConfiguration, ...]:
        """The one, as a sweep has them."""
        return (self.configuration,)


@dataclass(frozen=True)
class FinishedSweep:
    """The configurations of one model of a plan, full precision among them.

    Attributes:
        records: finished and failed ones, in the order of the plan.
        changes: every metric of every quantization against full precision, without q values.
        reports: configuration key -> QuantizationReport as JSON.
    """

    suite: SuiteSpec
    model: str
    configurations: tuple[TrackedConfiguration, ...]
    records: tuple[Record, ...]
    changes: tuple[Change, ...]
    reports: Mapping[str, Mapping[str, Any]]

    @property
    def key(self) -> str:
        """Names the sweep: the same suite, model and quantizations are the same sweep, whatever their numbers."""
        return digest(["sweep", self.suite.name, self.model, sorted(c.quant.name for c in self.configurations)])

    @property
    def content(self) -> str:
        """Changes whenever a number of it can have changed."""
        return digest(sorted(record.key + record.status for record in self.records))


def sweeps(finished: Sequence[FinishedConfiguration]) -> list[FinishedSweep]:
    """One for each model of which there is something to compare."""
    found = []
    for model in dict.fromkeys(each.configuration.model for each in finished):
        own = [each for each in finished if each.configuration.model == model]
        changes = tuple(change for each in own for change in each.changes)
        if changes:
            configurations = tuple(each.configuration for each in own)
            records = tuple(record for each in own for record in each.records)
            reports = {each.configuration.key: each.report for each in own if each.report is not None}
            found.append(FinishedSweep(own[0].suite, model, configurations, records, changes, reports))
    return found


@dataclass(frozen=True)
class FinishedStudy:
    """A finished piece of work that is no evaluation of tasks, e.g. of `reliquant spectrum`.

    Attributes:
        suite: whose data and models it looks at. kind: `spectrum`, ... name: for the reader.
        key: content hash of everything that can change its numbers.
        metrics: path -> number. folder: its files (figures, numbers), to be kept with it.
    """

    suite: SuiteSpec
    kind: str
    name: str
    key: str
    tags: Mapping[str, str]
    metrics: Mapping[str, float]
    folder: Path


@dataclass(frozen=True)
class ServedModel:
    """An exported folder to be registered, so that it can be served.

    Attributes:
        name: in the registry. loader: module whose `_load_pyfunc(folder)` gives an object with `predict(table)`.
        column: of the table that goes in: encoded images, e.g. `example`.
        classes: columns of the table that comes out: probabilities.
        configuration: key of the configuration that it is, to be linked with its run.
        tags, description: for the reader.
    """

    name: str
    folder: Path
    loader: str
    column: str
    example: bytes
    classes: tuple[str, ...]
    suite: SuiteSpec
    configuration: str
    tags: Mapping[str, str]
    description: str


class StudyLog(ABC):
    """What a tracker keeps of one Optuna study; several processes share it."""

    @abstractmethod
    def trial(
        self, number: int, name: str, params: Mapping[str, Any], metrics: Mapping[str, float], tags: Mapping[str, str]
    ) -> None:
        """Write one trial.

        Args:
            number: Optuna's. name: short name of the quantization.
            metrics: by key. tags: with `error` for a trial that failed.
        """

    @abstractmethod
    def logged(self) -> set[int]:
        """Numbers of the trials that were written to their end."""

    @abstractmethod
    def finish(self, folder: Path, metrics: Mapping[str, float]) -> None:
        """Attach the files of a folder, write summary metrics and end the study.

        Raises:
            StorageError: the artifacts cannot be written.
        """

    @abstractmethod
    def fail(self, stopped: bool = True) -> None:
        """End it: stopped by the user, or by an error."""


class Tracker(ABC):
    """Writes finished configurations somewhere. The driver alone calls it, one configuration at a time."""

    name: str
    takes_uri = False
    """Whether `--tracking-uri` is meant for it."""

    @abstractmethod
    def open(self, home: Path, uri: str | None = None) -> Tracker:
        """A tracker that writes below `home`, or to `uri`."""

    def connect(self) -> None:  # noqa: B027 - nothing to reach, unless overridden
        """Reach what `open` may have left for the first write, so that a store that is gone is said before any work."""

    @abstractmethod
    def log(self, finished: FinishedConfiguration) -> None:
        """Write a configuration; one that is there already with the same content is left alone."""

    def log_sweep(self, sweep: FinishedSweep) -> None:  # noqa: B027 - nothing, unless overridden
        """Write what is to be seen of all configurations of a model together; after each of them was logged."""

    def log_study(self, study: FinishedStudy) -> None:  # noqa: B027 - a tracker of evaluations only leaves it out
        """Write a study; one that is there already under its key is left alone. Nothing, unless overridden."""

    def open_study(self, suite: SuiteSpec, study: str, params: Mapping[str, str]) -> StudyLog | None:
        """Find or make the log of an Optuna study; None for a tracker that keeps none.

        Args:
            params: what the study was asked for.

        Raises:
            StorageError: the store cannot be reached.
        """
        return None

    def serve(self, home: Path, host: str, port: int, uri: str | None, browse: bool) -> None:
        """Serve what it wrote as pages, until the process is stopped.

        Args:
            browse: open a browser on them when the server answers.

        Raises:
            InputError: it has no pages, there are no results yet, or the port is taken.
            StorageError: the store cannot be read.
        """
        raise InputError(f"tracker '{self.name}' has no pages to serve")

    def check_registry(self, name: str) -> None:
        """Refuse, before any work, what `register_model` would refuse.

        Raises:
            InputError: this tracker has no registry, or the registry refuses the name.
            StorageError: the registry cannot be reached.
        """
        raise InputError(f"tracker '{self.name}' has no model registry")

    def register_model(self, model: ServedModel) -> str:
        """Make an exported folder a version in a model registry; one line that says which.

        Raises:
            InputError: this tracker has no registry. StorageError: it cannot be written.
        """
        raise InputError(f"tracker '{self.name}' has no model registry")


def log_study(study: FinishedStudy, chosen: Iterable[Tracker], home: Path, uri: str | None) -> list[str]:
    """Write a study to each tracker; a line for each that could not be written, the study's own files are there."""
    failed = []
    for tracker in chosen:

        def tell(tracker: Tracker = tracker) -> None:
            tracker.open(home, uri if tracker.takes_uri else None).log_study(study)

        try:
            guarded(f"tracker '{tracker.name}'", tell)
        except Exception as error:  # a stranger's tracker or a server may raise anything
            failed.append(f"tracker '{tracker.name}' could not be written ({text_of(error)})")
    return failed


trackers: Registry[Tracker] = Registry("tracker", "reliquant.trackers", Tracker)
