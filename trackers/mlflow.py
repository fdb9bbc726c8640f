"""MLflow: a parent run per (model, quantization), a child run per task. A view of the ledger, never its source.

Layout: one experiment per suite; `sqlite:///<home>/mlflow.db` with artifacts in `<home>/artifacts`, unless
MLFLOW_TRACKING_URI or `--tracking-uri` say otherwise. Parent: numeric `quant.*` params, headline metrics with their
changes, the QuantizationReport. Child: keys `<dataset>/<metric>`, figures and per-sample tables as artifacts.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmark.analysis.compare import adjust
from benchmark.analysis.export import to_csv, to_json
from benchmark.analysis.tables import headline_metrics, sample_frames
from benchmark.engine.ledger import Record
from benchmark.spec import QuantSpec, SuiteSpec, digest
from benchmark.tracking import FinishedConfiguration, FinishedStudy, Tracker
from trackers.store import (
    CONTENT,
    KEY,
    SQLITE,
    complete_configurations,
    connect,
    default_uri,
    owner,
    owner_is_gone,
    renew_statistics,
)

OWNER = "reliquant.owner"


class MLflowTracker(Tracker):
    """Writes finished configurations to MLflow.

    Importing MLflow takes seconds, so a store that is known to be one is connected to at the first write only: a
    sweep that is complete there never does.
    """

    name = "mlflow"

    def __init__(self, home: Path = Path(), uri: str = "") -> None:
        self._home, self._uri = home, uri
        self._experiments: dict[str, str] = {}
        self._runs: dict[str, tuple[str, str]] = {}
        self._complete: dict[str, dict[str, str]] = {}

    @cached_property
    def _client(self) -> Any:
        return connect(self._uri)

    def open(self, home: Path, uri: str | None = None) -> MLflowTracker:
        """A tracker on `uri`, or on the default below `home`.

        Raises:
            StorageError: the tracking store cannot be reached.
        """
        opened = MLflowTracker(home, uri or default_uri(home))
        if complete_configurations(opened._uri, "") is None:
            opened.connect()
        return opened

    def connect(self) -> None:
        """Reach the store now.

        Raises:
            StorageError: it cannot be reached.
        """
        self._client  # noqa: B018 (connects on first use)

    def log(self, finished: FinishedConfiguration) -> None:
        """Write what is new of a configuration: the parent when anything changed, and the missing children."""
        speed = [digest(finished.efficiency)[:16]] if finished.efficiency else []
        content = ",".join([*sorted(r.key[:16] + r.status[0] for r in finished.records), *speed])
        if self._is_complete(finished.plan.suite.name, finished.configuration.key, content):
            return
        experiment = self._experiment(finished.plan.suite)
        parent, logged = self._runs.get(finished.configuration.key, ("", ""))
        if logged == content:
            return
        failed = [record for record in finished.records if record.status == "failed"]
        parent = parent or self._create_parent(experiment, finished)
        try:
            self._write_parent(finished, parent)
            for record in finished.records:
                if record.status == "done" and f"{parent}:{record.key}" not in self._runs:
                    self._write_child(experiment, finished, record, parent)
            self._client.set_tag(parent, CONTENT, content)
        except BaseException:
            self._client.set_terminated(parent, "FAILED")
            raise
        self._client.set_terminated(parent, "FAILED" if failed else "FINISHED")
        self._runs[finished.configuration.key] = (parent, content)
        renew_statistics(self._uri)

    def _is_complete(self, suite: str, key: str, content: str) -> bool:
        """Whether a configuration was written to its end before; asked of the file while MLflow is not needed."""
        if "_client" in self.__dict__:
            return False
        if suite not in self._complete:
            self._complete[suite] = complete_configurations(self._uri, suite) or {}
        return self._complete[suite].get(key) == content

    def log_study(self, study: FinishedStudy) -> None:
        """A run of its own, with numbers as metrics and files as artifacts."""
        experiment = self._experiment(study.suite)
        if study.key in self._runs:
            return
        tags = {KEY: study.key, "kind": study.kind, OWNER: owner(), **study.tags}
        run = self._client.create_run(experiment, tags=tags, run_name=study.name).info.run_id
        try:
            self._batch(run, {_metric(key): value for key, value in study.metrics.items()}, {}, {})
            self._client.log_artifacts(run, str(study.folder))
        except BaseException:
            self._client.set_terminated(run, "FAILED")
            raise
        self._client.set_terminated(run, "FINISHED")
        self._runs[study.key] = (run, "")

    def run_of(self, key: str) -> str | None:
        """MLflow's run id of a configuration or evaluation that was logged or found here."""
        return self._runs.get(key, (None, ""))[0]

    def _experiment(self, suite: SuiteSpec) -> str:
        name = suite.name
        if name not in self._experiments:
            found = self._client.get_experiment_by_name(name)
            if found is None:
                local = self._uri.startswith(SQLITE)
                place = (self._home / "artifacts" / name).resolve().as_uri() if local else None
                self._client.create_experiment(name, artifact_location=place)
                found = self._client.get_experiment_by_name(name)
                self._client.set_experiment_tag(found.experiment_id, "mlflow.note.content", _note(suite))
            self._experiments[name] = found.experiment_id
            self._read_runs(found.experiment_id)
        return self._experiments[name]

    def _read_runs(self, experiment: str) -> None:
        """All logged keys in one pass; runs that a killed process left RUNNING are ended as FAILED.

        A parent that was not completed is taken up again: its finished children name it.
        """
        token: str | None = None
        while True:
            page = self._client.search_runs([experiment], max_results=5000, page_token=token)
            for run in page:
                tags = run.data.tags
                if run.info.status == "RUNNING" and owner_is_gone(tags.get(OWNER, "")):
                    self._client.set_tag(run.info.run_id, "error", "the process that wrote this run was killed")
                    self._client.set_terminated(run.info.run_id, "FAILED")
                    mine = True
                else:
                    mine = run.info.status != "RUNNING"
                parent = tags.get("kind") == "configuration" and mine
                if KEY in tags and (run.info.status == "FINISHED" or parent):
                    above = tags.get("mlflow.parentRunId") if tags.get("kind") == "evaluation" else None
                    key = f"{above}:{tags[KEY]}" if above else tags[KEY]
                    self._runs[key] = (run.info.run_id, tags.get(CONTENT, ""))
            token = page.token
            if not token:
                return

    def _create_parent(self, experiment: str, finished: FinishedConfiguration) -> str:
        quant, model = finished.configuration.quant, finished.configuration.model
        tags = {
            KEY: finished.configuration.key,
            "kind": "configuration",
            "model": model.name,
            "model.family": model.family,
            "method": quant.method,
            "scope": quant.scope if quant.method != "fp32" else "none",
            "suite": finished.plan.suite.name,
            "suite.version": str(finished.plan.suite.version),
            OWNER: owner(),
            **finished.tags,
        }
        parent = str(self._client.create_run(experiment, tags=tags, run_name=quant.name).info.run_id)
        self._runs[finished.configuration.key] = (parent, "")
        return parent

    def _write_parent(self, finished: FinishedConfiguration, parent: str) -> None:
        failed = {r.task: r.error or "" for r in finished.records if r.status == "failed"}
        tags = {f"error.{task}": reason[:5000] for task, reason in failed.items()}
        tags |= {"kernel": finished.efficiency["kernel"]} if finished.efficiency else {}
        params = {"model": finished.configuration.model.name, **_params(finished.configuration.quant)}
        self._batch(parent, headline_metrics(finished), params, tags)
        if finished.changes:
            tested = adjust(finished.changes)
            self._client.log_text(parent, to_json(tested), "comparison.json")
            self._client.log_text(parent, to_csv(tested), "comparison.csv")
        if finished.report is not None:
            self._client.log_dict(parent, dict(finished.report), "quantization_report.json")
        self._log_inputs(parent, finished)

    def _write_child(self, experiment: str, finished: FinishedConfiguration, record: Record, parent: str) -> None:
        tags = {
            KEY: record.key,
            "kind": "evaluation",
            "task": record.task,
            "dataset": record.dataset,
            "quantization": record.quantization,
            "model": record.model,
            "mlflow.parentRunId": parent,
            OWNER: owner(),
        }
        name = f"{record.task}/{record.dataset}"
        run = self._client.create_run(experiment, tags=tags, run_name=name).info.run_id
        try:
            metrics = {key.split("/", 1)[1]: value for key, value in record.metrics.items()}
            self._batch(run, metrics, {}, {f"note.{_safe(k)}": v[:5000] for k, v in record.notes.items()})
            self._log_artifacts(run, finished, record)
        except BaseException:
            self._client.set_terminated(run, "FAILED")
            raise
        self._client.set_terminated(run, "FINISHED")
        self._runs[f"{parent}:{record.key}"] = (run, "")

    def _log_artifacts(self, run: str, finished: FinishedConfiguration, record: Record) -> None:
        outcome = finished.outcomes[record.key]
        name = f"{record.task}/{record.dataset}"
        evaluation = next(e for e in finished.configuration.evaluations if e.name == name)
        with tempfile.TemporaryDirectory() as folder:
            for title, frame in sample_frames(outcome).items():
                frame.to_csv(Path(folder) / f"{_safe(title)}.csv", index=False)
            try:
                figures = (
                    evaluation.task.drawing(outcome, finished.references.get(name)) if evaluation.task.drawing else {}
                )
                for title, figure in figures.items():
                    figure.savefig(Path(folder) / f"{_safe(title)}.png", dpi=90)
            except Exception as error:  # a stranger's drawing may raise anything; the numbers are worth more
                self._client.set_tag(run, "error.figures", f"{type(error).__name__}: {error}"[:5000])
            self._client.log_artifacts(run, folder)

    def _log_inputs(self, run: str, finished: FinishedConfiguration) -> None:
        from mlflow.entities import Dataset, DatasetInput

        plan = finished.plan
        names = sorted({n for e in finished.configuration.evaluations for r in e.roles.values() for n in r})
        plain = [name for name in names if plan.data[name].spec.corruption is None]
        sets = [
            Dataset(n, plan.data[n].digest[:36], plan.data[n].spec.source, plan.data[n].spec.model_dump_json())
            for n in plain
        ]
        self._client.log_inputs(run, [DatasetInput(dataset) for dataset in sets])

    def _batch(
        self, run: str, metrics: Mapping[str, float], params: Mapping[str, object], tags: Mapping[str, str]
    ) -> None:
        from mlflow.entities import Metric, Param, RunTag

        now = int(time.time() * 1000)
        entries = [Metric(key, float(value), now, 0) for key, value in metrics.items()]
        for start in range(0, max(len(entries), 1), 1000):  # MLflow's limit of metrics a batch
            first = start == 0
            self._client.log_batch(
                run,
                entries[start : start + 1000],
                [Param(key, str(value)) for key, value in params.items()] if first else [],
                [RunTag(key, value) for key, value in tags.items()] if first else [],
            )


def _params(quant: QuantSpec) -> dict[str, object]:
    """The quantization's fields, numbers as bare numbers, so that MLflow can plot and filter them."""
    fields = quant.model_dump(mode="json", exclude={"options", "overrides", "skip"})
    params = {f"quant.{key}": value for key, value in fields.items() if value is not None}
    params |= {f"quant.{key}": value for key, value in quant.options}
    if quant.skip:
        params["quant.skip"] = " ".join(quant.skip)
    if quant.overrides:
        params["quant.overrides"] = " ".join(f"{o.pattern}={o.bits}" for o in quant.overrides)
    return params


def _note(suite: SuiteSpec) -> str:
    return (
        f"{suite.description}\n\nOne run per quantization (open it for the report), with one nested run per task. "
        "Metric names are paths: task/dataset/metric; `change/...` is the change against fp32, "
        "`p/...` its p value; `comparison.csv` has every metric with interval and stars. "
        "Select runs and press Compare for parallel coordinates over `quant.weight_bits` and the metrics."
    )


def _metric(key: str) -> str:
    """A path with what MLflow refuses in names replaced."""
    return "/".join(_safe(part) for part in key.split("/"))


def _safe(name: str) -> str:
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in name)


tracker = MLflowTracker()
