"""The options of `reliquant search` and `reliquant dashboard`. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from benchmark.engine.request import (
    Artifacts,
    Batches,
    DataPlaces,
    Device,
    Home,
    Models,
    Plugins,
    Quiet,
    Store,
    TaskLimit,
)
from benchmark.utils.options import Command, option


@dataclass(frozen=True)
class SearchConfig:
    """The settings of a study, stored in it. On resuming, None takes the stored value."""

    suite: str | None = None
    models: Sequence[str] | None = None
    data: Sequence[str] | None = None
    artifacts: Sequence[str] | None = None
    limit: int | None = None
    methods: Sequence[str] | None = None
    scopes: Sequence[str] | None = None
    per_layer: int | None = None
    minimize: str | None = None
    probability: float | None = None
    objectives: Sequence[str] | None = None
    constraints: Sequence[str] | None = None
    sampler: str | None = None
    seed: int | None = None
    trials: int | None = None


@dataclass(frozen=True, kw_only=True)
class SearchRequest(Quiet, Plugins, Home, Store, TaskLimit, Batches, Device, DataPlaces, Artifacts, Models):
    """Find the cheapest quantization that is not worse: an Optuna study; ends with a recommendation.

    The goal: fewest bits (or --minimize) while every headline metric stays within its margin. With --objective the
    study looks for a Pareto front instead. An artifact is no trial: it stands beside them on the same test split.
    """

    suite: str | None = option(None, "A suite's name or a YAML file (default: demo).", argument=True, complete="suites")
    trials: int | None = option(None, "Configurations to evaluate (default 40).")
    sampler: str | None = option(None, "tpe (default), gp nsga2 nsga3 qmc grid random.")
    seed: int | None = option(None, "Same seed, same trials (default 0).")
    name: str | None = option(None, "Name of the new study.")
    resume: str | None = option(None, "Go on with, or join, this study.")
    storage: str | None = option(None, "Optuna URL instead of the journal file.", envvar="RELIQUANT_STORAGE")
    minimize: str | None = option(None, "The goal's cost: effective_bits (default), size_mb, latency_ratio.")
    probability: float | None = option(
        None, "How probably each headline metric must stay within its margin to be a candidate (default 0.8)."
    )
    objectives: Sequence[str] = option(
        (),
        "No goal, but a Pareto front: metric key, reliability, effective_bits, size_mb, latency_ratio; repeatable.",
        flag="--objective",
    )
    constraints: Sequence[str] = option((), "'KEY >= 0.99 * fp32'; repeatable.", flag="--constraint")
    methods: Sequence[str] = option((), "Only this quantizer; repeatable.", flag="--method", complete="methods")
    scopes: Sequence[str] = option((), "vision, text or vision+text; repeatable.", flag="--scope")
    per_layer: int | None = option(None, "Up to K layers, those that cost most reliability, may get more bits.")
    limit: int | None = option(None, "At most N images of each test set; calibration and fit sets stay whole.")
    no_tracking: bool = option(False, "Do not log to MLflow.")
    json: bool = option(False, "Print the candidates on stdout, one JSON object a line.")

    @property
    def for_programs(self) -> bool:
        """Whether stdout is kept free of everything else."""
        return self.json

    @property
    def config(self) -> SearchConfig:
        """The settings of the study."""
        given: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(SearchConfig)}
        return SearchConfig(**{name: None if value in ((), []) else value for name, value in given.items()})


@dataclass(frozen=True, kw_only=True)
class DashboardRequest(Home):
    """Serve optuna-dashboard on the studies (127.0.0.1; stop with Ctrl-C)."""

    port: int = option(8080, "Where it listens.", minimum=1, maximum=65535)
    host: str = option("127.0.0.1", "An address of this machine; there is no authentication.")
    storage: str | None = option(None, "Optuna URL instead of the journal file.", envvar="RELIQUANT_STORAGE")
    browse: bool = option(False, "Open the browser on it, on this machine.", flag="--open")


search = Command("search", SearchRequest, f"{__package__}.command:run_search")
dashboard = Command("dashboard", DashboardRequest, f"{__package__}.dashboard:run_dashboard")
