"""What a task returns, checked before anybody relies on it: all of it can be stored, compared and shown."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from benchmark.errors import PluginError

if TYPE_CHECKING:
    from benchmark.plugins import Outcome, Task

_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*(/[A-Za-z0-9][A-Za-z0-9_.-]*)*")
_STORED = "biufcmMSU"
"""Kinds of numpy types that a file of samples holds."""


def checked(task: Task, outcome: Outcome) -> Outcome:
    """The outcome with plain numbers, arrays and texts.

    Raises:
        PluginError: an undeclared metric, a value that is not a finite number, a column or table that is no array of
            numbers or texts, columns of unequal length, or a note that is no text.
    """
    from benchmark.plugins import Outcome

    if not isinstance(outcome, Outcome):
        raise PluginError(f"task '{task.name}' returned a {type(outcome).__name__}, expected an Outcome")
    metrics = {key: _number(task, key, value) for key, value in outcome.metrics.items()}
    samples = {name: _array(task, f"column '{name}'", column) for name, column in outcome.samples.items()}
    tables = {name: _array(task, f"table '{name}'", table) for name, table in outcome.tables.items()}
    _check_rows(task, samples)
    for key, note in outcome.notes.items():
        if not isinstance(key, str) or not isinstance(note, str):
            raise PluginError(f"task '{task.name}': note {key!r} is {note!r}, expected a text")
    return Outcome(metrics, samples, tables, dict(outcome.notes))


def _number(task: Task, key: str, value: Any) -> float:
    if not isinstance(key, str) or not _KEY.fullmatch(key):
        raise PluginError(f"task '{task.name}': metric key '{key}': names with letters, digits, _ . - and / only")
    task.metric(key)
    if not isinstance(value, Real) or not math.isfinite(value):
        raise PluginError(f"task '{task.name}': metric '{key}' is {value!r}; raise or note it instead")
    return float(value)


def _array(task: Task, what: str, values: Any) -> NDArray[Any]:
    array = np.asarray(values)
    if array.dtype.kind not in _STORED:
        raise PluginError(f"task '{task.name}': {what} holds {array.dtype}, expected numbers or texts")
    return array


def _check_rows(task: Task, samples: Mapping[str, NDArray[Any]]) -> None:
    for name, column in samples.items():
        if np.ndim(column) == 0:
            raise PluginError(f"task '{task.name}': column '{name}' is one value, expected one row per sample")
    if samples and "sample_id" not in samples:
        raise PluginError(f"task '{task.name}' returns samples without a column 'sample_id'")
    for name, column in samples.items():
        ids = samples.get(f"{name}.sample_id", samples["sample_id"])
        if not name.endswith(".sample_id") and len(column) != len(ids):
            raise PluginError(f"task '{task.name}': column '{name}' has {len(column)} rows, its ids {len(ids)}")
