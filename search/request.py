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
from benchmark.errors import SpecError
from benchmark.utils.options import Command, option

SHARES = ("1/9", "1/3")
"""Shares of the images on which a trial is measured before it is evaluated on all of them."""


@dataclass(frozen=True)
class SearchConfig:
    """The settings of a study, stored in it. On resuming, None takes the stored value.

    `rungs` are the shares of the images on which a trial may be pruned; empty: no trial is pruned.
    """

    suite: str | None = None
    models: Sequence[str] | None = None
    data: Sequence[str] | None = None
    artifacts: Sequence[str] | None = None
    limit: int | None = None
    methods: Sequence[str] | None = None
    scopes: Sequence[str] | None = None
    per_block: bool | None = None
    objectives: Sequence[str] | None = None
    constraints: Sequence[str] | None = None
    sampler: str | None = None
    seed: int | None = None
    trials: int | None = None
    rungs: Sequence[str] | None = None


@dataclass(frozen=True, kw_only=True)
class SearchRequest(Quiet, Plugins, Home, Store, TaskLimit, Batches, Device, DataPlaces, Artifacts, Models):
    """Find the quantizations with the best trade-off: an Optuna study; ends with the Pareto front.

    An artifact is no trial: it stands beside the front, measured on the same test split.
    """

    suite: str | None = option(None, "A suite's name or a YAML file (default: demo).", argument=True, complete="suites")
    trials: int | None = option(None, "Configurations to evaluate (default 100).")
    sampler: str | None = option(None, "ehvi tpe nsga2 nsga3 gp qmc grid random.")
    seed: int | None = option(None, "Same seed, same trials (default 0).")
    name: str | None = option(None, "Name of the new study.")
    resume: str | None = option(None, "Go on with, or join, this study.")
    storage: str | None = option(None, "Optuna URL instead of the journal file.", envvar="RELIQUANT_STORAGE")
    objectives: Sequence[str] = option(
        (), "Metric key, reliability, mean_relative_change, effective_bits, size_mb; repeatable.", flag="--objective"
    )
    constraints: Sequence[str] = option((), "'KEY >= 0.99 * fp32'; repeatable.", flag="--constraint")
    methods: Sequence[str] = option((), "Only this quantizer; repeatable.", flag="--method", complete="methods")
    scopes: Sequence[str] = option((), "vision, text or vision+text; repeatable.", flag="--scope")
    per_block: bool = option(False, "Choose the weight bits of each block separately.")
    racing: bool | None = option(None, "Prune dominated trials early (default: yes).")
    rungs: str | None = option(None, "Shares of the images to prune at: 1/9,1/3.")
    limit: int | None = option(None, "At most N images of each test set; calibration and fit sets stay whole.")
    no_tracking: bool = option(False, "Do not log to MLflow.")
    json: bool = option(False, "Print the front on stdout, one JSON object a line.")

    @property
    def for_programs(self) -> bool:
        """Whether stdout is kept free of everything else."""
        return self.json

    @property
    def config(self) -> SearchConfig:
        """The settings of the study.

        Raises:
            SpecError: `--no-racing` and `--rungs` contradict each other.
        """
        if self.racing is False and self.rungs is not None:
            raise SpecError("--no-racing and --rungs contradict each other. Leave one of them out.")
        parts = SHARES if self.racing else None if self.racing is None else ()
        given: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(SearchConfig)}
        given = {name: None if value in ((), [], False) and value != 0 else value for name, value in given.items()}
        given["per_block"] = self.per_block or None
        return SearchConfig(**{**given, "rungs": parts if self.rungs is None else self.rungs.split(",")})


@dataclass(frozen=True, kw_only=True)
class DashboardRequest(Home):
    """Serve optuna-dashboard on the studies (127.0.0.1; stop with Ctrl-C)."""

    port: int = option(8080, "Where it listens.", minimum=1, maximum=65535)
    host: str = option("127.0.0.1", "An address of this machine; there is no authentication.")
    storage: str | None = option(None, "Optuna URL instead of the journal file.", envvar="RELIQUANT_STORAGE")
    browse: bool = option(False, "Open the browser on it, on this machine.", flag="--open")


search = Command("search", SearchRequest, "search.command:run_search")
dashboard = Command("dashboard", DashboardRequest, "search.dashboard:run_dashboard")
