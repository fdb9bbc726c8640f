"""MLflow: a parent run per (model, quantization), a child run per task. A view of the ledger, never its source.

Layout: one experiment per suite; `sqlite:///<home>/mlflow.db` with artifacts in `<home>/artifacts`, unless
MLFLOW_TRACKING_URI or `--tracking-uri` say otherwise. Parent: numeric `quant.*` params, headline metrics with their
changes, the QuantizationReport. Child: keys `<dataset>/<metric>`, figures and per-sample tables as artifacts.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property, wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from benchmark.errors import StorageError, masked
from benchmark.ledger.records import Record
from benchmark.results.compare import adjust
from benchmark.results.formats import to_csv, to_json
from benchmark.results.speed import timing_state
from benchmark.results.tables import headline_metrics, narrow_metrics
from benchmark.spec import SuiteSpec, digest
from benchmark.tracking import VIEW, FinishedConfiguration, FinishedStudy, FinishedSweep, ServedModel, StudyLog, Tracker
from benchmark.utils.guard import described
from benchmark.utils.processes import owner
from benchmark.utils.sqlite import sqlite_path

from .mlflow_files import data_inputs, write_evaluation, write_sweep
from .mlflow_names import (
    commit_tags,
    data_tags,
    grouping,
    metric_name,
    quant_params,
    reliability_metric,
    safe_name,
    verdict_tags,
)
from .mlflow_notes import NOTE, configuration_note, evaluation_note, experiment_note, sweep_note
from .mlflow_view import renewed
from .model_registry import check_name, register
from .store import (
    CONTENT,
    ERROR,
    KEY,
    OWNER,
    Found,
    artifact_folder,
    complete_configurations,
    connect,
    default_uri,
    end_orphans,
    every_run,
    renew_statistics,
    set_aside_damaged,
    take_up,
    write_batch,
)
from .study import StudyRun

LAYOUT = "4"
"""Raise when more is written of a configuration than before: older runs are then completed when they are met again."""
P = ParamSpec("P")
T = TypeVar("T")
VIEW_TAG = f"mlflow.sharedViewState.{VIEW}"


def hiding(method: Callable[P, T]) -> Callable[P, T]:
    """A method of the tracker whose errors show no part of its address's password; drivers cut addresses up."""

    @wraps(method)
    def wrapped(*given: P.args, **named: P.kwargs) -> T:
        try:
            return method(*given, **named)
        except Exception as error:
            text, address = described(error), given[0]._uri  # type: ignore[attr-defined]
            if masked(text, address) == text:
                raise
            raise StorageError(masked(text, address)) from None

    return wrapped


class MLflowTracker(Tracker):
    """Writes finished configurations to MLflow.

    Importing MLflow takes seconds, so a store that is known to be one is connected to at the first write only: a
    sweep that is complete there never does.
    """

    name = "mlflow"
    takes_uri = True

    def __init__(self, home: Path = Path(), uri: str = "") -> None:
        self._home, self._uri = home, uri
        self._experiments: dict[str, str] = {}
        self._places: dict[str, Path | None] = {}
        self._runs: dict[str, str] = {}
        self._complete, self._shown = dict[str, dict[str, str]](), set[str]()

    @cached_property
    def _client(self) -> Any:
        return connect(self._uri)

    def open(self, home: Path, uri: str | None = None) -> MLflowTracker:
        """A tracker on `uri`, or on the default below `home`, which is begun anew where it is damaged.

        Raises:
            StorageError: the tracking store cannot be reached.
        """
        opened = MLflowTracker(home, uri or default_uri(home))
        set_aside_damaged(home, opened._uri)
        if complete_configurations(opened._uri, "") is None:
            opened.connect()
        return opened

    def connect(self) -> None:
        """Reach the store now.

        Raises:
            StorageError: it cannot be reached.
        """
        self._client  # noqa: B018 (connects on first use)

    @hiding
    def log(self, finished: FinishedConfiguration) -> None:
        """Write what is new of a configuration: the parent when anything changed, and the missing children."""
        speed = [digest(finished.efficiency)[:16]] if finished.efficiency else []
        content = ",".join([LAYOUT, *sorted(r.key[:16] + r.status[0] for r in finished.records), *speed])
        if self._is_complete(finished.suite.name, finished.configuration.key, content):
            return
        experiment = self._experiment(finished.suite)
        self._show(experiment, finished)
        key = finished.configuration.key
        if self._runs.get(key) == content:
            return
        found = self._look(experiment, key)
        if found is not None and found.content == content:  # another process was faster
            self._runs[key] = content
            return
        errors = {f"{ERROR}.{r.task}": (r.error or "")[:5000] for r in finished.records if r.status == "failed"}
        parent = take_up(self._client, found.run, errors) if found else self._create_parent(experiment, finished)
        with self._ending(parent, failed=bool(errors)):
            self._write_parent(finished, parent, errors)
            for record in finished.records:
                child = found.children.get(record.key) if found else None
                if record.status == "done" and (child is None or child.info.status != "FINISHED"):
                    self._write_child(experiment, finished, record, parent, child)
            self._client.set_tag(parent, CONTENT, content)
        self._runs[key] = content
        renew_statistics(self._uri)

    def _is_complete(self, suite: str, key: str, content: str) -> bool:
        """Whether a configuration was written to its end before; asked of the file while MLflow is not needed."""
        if "_client" in self.__dict__:
            return False
        if suite not in self._complete:
            self._complete[suite] = complete_configurations(self._uri, suite) or {}
        return self._complete[suite].get(key) == content

    def _show(self, experiment: str, finished: FinishedConfiguration) -> None:
        """Keep the saved view of the runs table up to date; once for each experiment."""
        if experiment not in self._shown:
            self._shown.add(experiment)
            old = self._client.get_experiment(experiment).tags.get(VIEW_TAG)
            if (new := renewed(old, finished)) is not None:
                self._client.set_experiment_tag(experiment, VIEW_TAG, new)

    @hiding
    def log_sweep(self, sweep: FinishedSweep) -> None:
        """A run of its own for each set of quantizations, with the summary table, all changes, and two figures."""
        suite, content = sweep.suite, f"{LAYOUT},{sweep.content}"
        if self._is_complete(suite.name, sweep.key, content):
            return
        experiment = self._experiment(suite)
        if self._runs.get(sweep.key) == content:
            return
        wanted = f"tags.`{KEY}` = '{sweep.key}' and tags.kind = 'sweep'"
        there = next(iter(self._client.search_runs([experiment], wanted, max_results=1)), None)
        if there is None:
            tags = {KEY: sweep.key, "kind": "sweep", "model": sweep.model, "suite": suite.name, OWNER: owner()}
            tags |= {"suite.version": str(suite.version), NOTE: sweep_note(sweep)}
            name = f"sweep {sweep.model}, {len(sweep.configurations)} quantizations"
            run = self._client.create_run(experiment, tags=tags, run_name=name).info.run_id
        else:
            run = take_up(self._client, there, {})
        with self._ending(run), tempfile.TemporaryDirectory() as folder:
            write_sweep(Path(folder), sweep)
            self._client.log_artifacts(run, folder)
            self._client.set_tag(run, CONTENT, content)
        self._runs[sweep.key] = content

    @hiding
    def log_study(self, study: FinishedStudy) -> None:
        """A run of its own, with numbers as metrics and files as artifacts."""
        if self._is_complete(study.suite.name, study.key, LAYOUT):
            return
        experiment = self._experiment(study.suite)
        if study.key in self._runs:
            return
        tags = {KEY: study.key, "kind": study.kind, OWNER: owner(), **study.tags}
        run = self._client.create_run(experiment, tags=tags, run_name=study.name).info.run_id
        with self._ending(run):
            write_batch(self._client, run, {metric_name(key): value for key, value in study.metrics.items()}, {}, {})
            self._client.log_artifacts(run, str(study.folder))
            self._client.set_tag(run, CONTENT, LAYOUT)
        self._runs[study.key] = ""

    @hiding
    def open_study(self, suite: SuiteSpec, study: str, params: Mapping[str, str]) -> StudyLog:
        """The parent run of a study; one process of a machine at a time does this."""
        return StudyRun.open(self._client, self._experiment(suite), suite.name, study, params)

    def serve(self, home: Path, host: str, port: int, uri: str | None, browse: bool) -> None:
        """MLflow's server takes this process's place."""
        from .ui import serve  # with uvicorn, which a sweep never needs

        serve(home, host, port, uri, browse)

    def check_registry(self, name: str) -> None:
        """Look at the name, and connect."""
        check_name(name)
        self.connect()

    @hiding
    def register_model(self, model: ServedModel) -> str:
        """A version in MLflow's model registry, linked with the run of its configuration."""
        experiment = self._experiment(model.suite)
        found = self._look(experiment, model.configuration)
        return register(self._client, model, experiment, found.run.info.run_id if found else None)

    def _experiment(self, suite: SuiteSpec) -> str:
        name = suite.name
        if name not in self._experiments:
            found = self._client.get_experiment_by_name(name)
            if found is None:
                local = sqlite_path(self._uri) is not None
                place = (self._home / "artifacts" / name).resolve().as_uri() if local else None
                with suppress(Exception):  # another process may be faster; another reason shows below
                    self._client.create_experiment(name, artifact_location=place)
                found = self._client.get_experiment_by_name(name)
                self._client.set_experiment_tag(found.experiment_id, NOTE, experiment_note(suite))
            self._experiments[name] = found.experiment_id
            self._places[found.experiment_id] = artifact_folder(self._uri, found.artifact_location)
            end_orphans(self._client, found.experiment_id)
            self._read_runs(found.experiment_id)
        return self._experiments[name]

    def _read_runs(self, experiment: str) -> None:
        """What is logged of configurations and studies, in one pass."""
        for run in every_run(self._client, experiment, "tags.kind != 'evaluation'"):
            tags = run.data.tags
            ended = ("FINISHED", "FAILED") if tags["kind"] == "configuration" else ("FINISHED",)
            if KEY in tags and ERROR not in tags and run.info.status in ended:
                self._runs[tags[KEY]] = tags.get(CONTENT, "")

    def _look(self, experiment: str, key: str) -> Found | None:
        """A configuration's run as it is now: another process may have written it, or been killed writing it."""
        wanted = f"tags.`{KEY}` = '{key}' and tags.kind = 'configuration'"
        for run in self._client.search_runs([experiment], wanted, max_results=1):
            below = every_run(self._client, experiment, f"tags.`mlflow.parentRunId` = '{run.info.run_id}'")
            children = {child.data.tags.get(KEY, ""): child for child in below}
            whole = run.info.status != "RUNNING" and ERROR not in run.data.tags
            return Found(run, children, run.data.tags.get(CONTENT) if whole else None)
        return None

    @contextmanager
    def _ending(self, run: str, failed: bool = False) -> Iterator[None]:
        """Ends a run with the block: FAILED when that fails, or when its content says so."""
        try:
            yield
        except BaseException:
            with suppress(Exception):  # the server is gone: the next start ends it
                self._client.set_terminated(run, "FAILED")
            raise
        self._client.set_terminated(run, "FAILED" if failed else "FINISHED")

    def _create_parent(self, experiment: str, finished: FinishedConfiguration) -> str:
        quant = finished.configuration.quant
        tags = {
            KEY: finished.configuration.key,
            "kind": "configuration",
            **grouping(finished),
            "model.family": finished.configuration.family,
            "suite.version": str(finished.suite.version),
            OWNER: owner(),
            **finished.tags,
        }
        return str(self._client.create_run(experiment, tags=tags, run_name=quant.name).info.run_id)

    def _write_parent(self, finished: FinishedConfiguration, parent: str, errors: Mapping[str, str]) -> None:
        tags = {**errors, **({"kernel": finished.efficiency["kernel"]} if finished.efficiency else {})}
        tags["timing"] = timing_state(finished.efficiency)
        tags |= {NOTE: configuration_note(finished), **verdict_tags(finished)}
        params = {"model": finished.configuration.model, **quant_params(finished.configuration.quant)}
        tags |= data_tags(finished.records) | commit_tags(finished.records)
        metrics = {**reliability_metric(finished), **narrow_metrics(finished), **headline_metrics(finished)}
        write_batch(self._client, parent, metrics, params, tags)
        if finished.changes:
            tested = adjust(finished.changes)
            self._client.log_text(parent, to_json(tested), "comparison.json")
            self._client.log_text(parent, to_csv(tested), "comparison.csv")
        if finished.report is not None:
            self._client.log_dict(parent, dict(finished.report), "quantization_report.json")
        self._client.log_inputs(parent, data_inputs(finished))

    def _write_child(
        self, experiment: str, finished: FinishedConfiguration, record: Record, parent: str, begun: Any
    ) -> None:
        tags = {
            KEY: record.key,
            "kind": "evaluation",
            "task": record.task,
            "dataset": record.dataset,
            "quantization": record.quantization,
            **data_tags([record]),
            **commit_tags([record]),
            **grouping(finished),
            NOTE: evaluation_note(finished, record),
            "mlflow.parentRunId": parent,
            OWNER: owner(),
        }
        if begun is None:
            run = self._client.create_run(experiment, tags=tags, run_name=record.name).info.run_id
        else:
            run = take_up(self._client, begun, {})
        with self._ending(run):
            metrics = {key.split("/", 1)[1]: value for key, value in record.metrics.items()}
            write_batch(
                self._client, run, metrics, {}, {f"note.{safe_name(k)}": v[:5000] for k, v in record.notes.items()}
            )
            with tempfile.TemporaryDirectory() as folder:
                if reason := write_evaluation(Path(folder), finished, record):
                    self._client.set_tag(run, "error.figures", reason[:5000])
                if (place := self._places.get(experiment)) is None:
                    self._client.log_artifacts(run, folder)
                else:  # MLflow would read the run again to find its folder
                    shutil.copytree(folder, place / run / "artifacts", dirs_exist_ok=True)


tracker = MLflowTracker()
