"""What a tracker is, and the frozen event it gets."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.plugins import Outcome
from benchmark.registry import Registry

if TYPE_CHECKING:
    from benchmark.analysis.compare import Change
    from benchmark.engine.ledger import Record
    from benchmark.engine.plan import Configuration, Plan
    from benchmark.spec import SuiteSpec


@dataclass(frozen=True)
class FinishedConfiguration:
    """One model under one quantization, all tasks evaluated or failed.

    Attributes:
        report: the QuantizationReport as JSON; None when quantizing failed.
        records: one per evaluation. outcomes: record key -> outcome, for the finished ones.
        references: evaluation name (`task/label`) -> full-precision outcome; empty for full precision itself.
        changes: every metric against full precision, without q values (`benchmark.analysis.compare.adjust` gives
            them over what is shown together); empty for full precision itself.
        tags: further tags, e.g. the Optuna trial.
        efficiency: size and speed (`benchmark.quantization.efficiency.Efficiency` as JSON); None where not measured.
    """

    plan: Plan
    configuration: Configuration
    report: Mapping[str, Any] | None
    records: tuple[Record, ...]
    outcomes: Mapping[str, Outcome]
    references: Mapping[str, Outcome]
    changes: tuple[Change, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    efficiency: Mapping[str, Any] | None = None


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


class Tracker(ABC):
    """Writes finished configurations somewhere. The driver alone calls it, one configuration at a time."""

    name: str

    @abstractmethod
    def open(self, home: Path, uri: str | None = None) -> Tracker:
        """A tracker that writes below `home`, or to `uri`."""

    def connect(self) -> None:  # noqa: B027 - nothing to reach, unless overridden
        """Reach what `open` may have left for the first write, so that a store that is gone is said before any work."""

    @abstractmethod
    def log(self, finished: FinishedConfiguration) -> None:
        """Write a configuration; one that is there already with the same content is left alone."""

    def log_study(self, study: FinishedStudy) -> None:  # noqa: B027 - a tracker of evaluations only leaves it out
        """Write a study; one that is there already under its key is left alone. Nothing, unless overridden."""


trackers: Registry[Tracker] = Registry("tracker", "reliquant.trackers", Tracker)
