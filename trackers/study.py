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
from benchmark.tracking import STUDY, StudyLog
from benchmark.utils.processes import owner

from .store import ERROR, KILLED, OWNER, every_run, take_up

KIND = "kind"
TRIAL = "optuna.trial"
_PARAM_LENGTH = 6000


class StudyRun(StudyLog):
    """The parent run of one study; several processes find the same one."""

    def __init__(self, client: Any, experiment: str, run: str) -> None:
        self._client, self._experiment, self.run = client, experiment, run
        self._begun: dict[int, Any] = {}

    @classmethod
    def open(cls, client: Any, experiment: str, suite: str, study: str, params: Mapping[str, str]) -> StudyRun:
        """Find or make the parent run in an experiment.

        Args:
            params: what the study was asked for.
        """
        wanted = f"tags.`{STUDY}` = '{study}' and tags.{KIND} = 'study'"
        runs = client.search_runs([experiment], filter_string=wanted, max_results=1)
        if runs:
            run = take_up(client, runs[0], {})
        else:
            tags = {KIND: "study", STUDY: study, "suite": suite, OWNER: owner()}
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

        given = {KIND: "trial", TRIAL: str(number), "mlflow.parentRunId": self.run, OWNER: owner(), **tags}
        run = self._go_on(self._begun.pop(number), given) if number in self._begun else self._create(name, given)
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
        """Numbers of the trials whose run was written to its end; the others' runs are gone on with by `trial`."""
        wanted = f"tags.`mlflow.parentRunId` = '{self.run}' and tags.{KIND} = 'trial'"
        numbers: set[int] = set()
        for run in every_run(self._client, self._experiment, wanted):
            number = int(run.data.tags[TRIAL])
            if run.info.status == "RUNNING" or run.data.tags.get(ERROR) == KILLED:
                self._begun[number] = run
            else:
                numbers.add(number)
        return numbers

    def _create(self, name: str, tags: Mapping[str, str]) -> str:
        return str(self._client.create_run(self._experiment, tags=tags, run_name=name).info.run_id)

    def _go_on(self, begun: Any, tags: Mapping[str, str]) -> str:
        """Take up a run that a killed process began."""
        run = str(begun.info.run_id)
        if ERROR in begun.data.tags and ERROR not in tags:
            self._client.delete_tag(run, ERROR)
        for key, value in tags.items():
            self._client.set_tag(run, key, value)
        self._client.update_run(run, status="RUNNING")
        return run

    def finish(self, folder: Path, metrics: Mapping[str, float]) -> None:
        """Attach the files of a folder, write summary metrics and end the parent run.

        Raises:
            StorageError: the artifacts cannot be written.
        """
        try:
            self._client.log_artifacts(self.run, str(folder))
            for key, value in metrics.items():
                self._client.log_metric(self.run, key, value)
            if ERROR in self._client.get_run(self.run).data.tags:  # of a process of this study that was killed
                self._client.delete_tag(self.run, ERROR)
            self._client.set_terminated(self.run, "FINISHED")
        except OSError as error:
            raise StorageError(f"artifacts of the study cannot be written: {error}") from error

    def fail(self, stopped: bool = True) -> None:
        """End the parent run: stopped by the user, or by an error."""
        self._client.set_terminated(self.run, "KILLED" if stopped else "FAILED")
