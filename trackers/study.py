"""A study in MLflow: one parent run, below it one run for each trial, and the study's figures.

A trial's run holds its quantization, its objectives and headline metrics; the evaluations behind it are in the ledger.
What the study found is evaluated once more on the report data and tracked in full, as any other quantization.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmark.errors import StorageError
from trackers.mlflow import tracker as mlflow_tracker

KIND = "kind"
STUDY = "optuna.study"
TRIAL = "optuna.trial"
_PARAM_LENGTH = 6000


class StudyRun:
    """The parent run of one study; several processes find the same one."""

    def __init__(self, client: Any, experiment: str, run: str) -> None:
        self._client, self._experiment, self.run = client, experiment, run

    @classmethod
    def open(cls, home: Path, uri: str | None, suite: str, study: str, params: Mapping[str, str]) -> StudyRun:
        """Find or make the parent run in the experiment of the suite.

        Args:
            params: what the study was asked for.

        Raises:
            StorageError: the tracking store cannot be reached.
        """
        opened = mlflow_tracker.open(home, uri)
        client = opened._client
        found = client.get_experiment_by_name(suite)
        if found is None:
            local = opened._uri.startswith("sqlite:///")
            place = (home / "artifacts" / suite).resolve().as_uri() if local else None
            experiment = client.create_experiment(suite, artifact_location=place)
        else:
            experiment = found.experiment_id
        wanted = f"tags.`{STUDY}` = '{study}' and tags.{KIND} = 'study'"
        runs = client.search_runs([experiment], filter_string=wanted, max_results=1)
        if runs:
            run = runs[0].info.run_id
            client.update_run(run, status="RUNNING")
        else:
            tags = {KIND: "study", STUDY: study, "suite": suite}
            run = client.create_run(experiment, tags=tags, run_name=study).info.run_id
            for name, value in params.items():
                client.log_param(run, f"study.{name}", value[:_PARAM_LENGTH])
        return cls(client, experiment, run)

    def trial(
        self, number: int, name: str, params: Mapping[str, Any], metrics: Mapping[str, float], tags: Mapping[str, str]
    ) -> None:
        """Write one trial.

        Args:
            number: Optuna's. name: short name of the quantization.
            metrics: by key. tags: with `error` for a trial that failed.
        """
        from mlflow.entities import Metric, Param

        given = {KIND: "trial", TRIAL: str(number), "mlflow.parentRunId": self.run, **tags}
        run = self._client.create_run(self._experiment, tags=given, run_name=name).info.run_id
        try:
            now = int(time.time() * 1000)
            self._client.log_batch(
                run,
                [Metric(key, float(value), now, 0) for key, value in metrics.items()],
                [Param(key, str(value)) for key, value in params.items()],
            )
        except BaseException:
            self._client.set_terminated(run, "FAILED")
            raise
        self._client.set_terminated(run, "FAILED" if "error" in tags else "FINISHED")

    def logged(self) -> set[int]:
        """Numbers of the trials that have a run."""
        wanted = f"tags.`mlflow.parentRunId` = '{self.run}' and tags.{KIND} = 'trial'"
        numbers: set[int] = set()
        token = None
        while True:
            page = self._client.search_runs([self._experiment], wanted, max_results=5000, page_token=token)
            numbers |= {int(run.data.tags[TRIAL]) for run in page if run.info.status != "RUNNING"}
            token = page.token
            if not token:
                return numbers

    def finish(self, folder: Path, metrics: Mapping[str, float]) -> None:
        """Attach the files of a folder, write summary metrics and end the parent run.

        Raises:
            StorageError: the artifacts cannot be written.
        """
        try:
            self._client.log_artifacts(self.run, str(folder))
            for key, value in metrics.items():
                self._client.log_metric(self.run, key, value)
            self._client.set_terminated(self.run, "FINISHED")
        except OSError as error:
            raise StorageError(f"artifacts of the study cannot be written: {error}") from error

    def fail(self) -> None:
        """End the parent run as stopped."""
        self._client.set_terminated(self.run, "KILLED")
