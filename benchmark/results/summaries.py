"""Summaries made again from the columns that the ledger keeps: no bank and no model is needed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from benchmark.ledger.records import Ledger, Record
from benchmark.plugins import Outcome, Task, tasks


def with_tables(task: Task, outcome: Outcome, options: Any) -> Outcome:
    """The outcome of a record with the tables that its columns give; without columns as it is.

    Metrics and notes stay the record's, which also has those of the comparison with full precision.
    """
    if not outcome.columns.groups:
        return outcome
    tables = task.run_tables(outcome.columns, options)
    return replace(outcome, summary=replace(outcome.summary, tables=tables))


def outcome_of(ledger: Ledger, record: Record, whole: bool = True) -> Outcome:
    """The outcome of a finished record with its tables, by the task that made it, under the options it had.

    Args:
        whole: as for `Ledger.outcome`.

    Raises:
        UnknownNameError: its task is not installed.
    """
    task = tasks.get(record.task)
    options = task.parse_options(record.identity.get("options", {}), f"record {record.key[:12]}: options")
    return with_tables(task, ledger.outcome(record, whole), options)
