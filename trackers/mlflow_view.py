"""What MLflow's page shows first: a saved view of the runs table, kept as a tag of the experiment.

MLflow 3.17 shows no metric columns until they are chosen. A saved view (its "Views" menu) chooses columns, their order
and widths, filter and sort; `?viewStateShareKey=<name>` opens it. The tag's value is JSON: an envelope around a state.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence

from benchmark.results.tables import declared, headline_keys, narrow_metrics, short_names
from benchmark.tracking import RUNS_FILTER, FinishedConfiguration

TITLE = "Quantizations"
RUN_NAME, CREATED = "attributes.`Run Name`", "runDateAndNestInfo"
WIDEST = 175
"""Pixels; a longer heading is cut off, its tooltip has it whole."""


def column(metric: str) -> str:
    """MLflow's name of a metric's column, also what it sorts by."""
    return f"metrics.`{metric}`"


def columns(finished: FinishedConfiguration) -> list[str]:
    """The metrics that come first: effective bits, then each headline metric with its change beside it.

    The suite decides, so that a run of some of its tasks does not take columns away.
    """
    keys = finished.suite.headline or headline_keys(finished, finished.records)
    shown = [f"{name}{part}" for name in short_names(keys).values() for part in ("", "_change")]
    return ["effective_bits", *shown] if "effective_bits" in narrow_metrics(finished) else shown


def state(finished: FinishedConfiguration) -> dict[str, object]:
    """Filter, sort and columns, as MLflow's page keeps them. The best by the first headline metric comes first."""
    tasks = declared(finished)
    keys = finished.suite.headline or headline_keys(finished, finished.records)
    known = [key for key in keys if key.split("/")[0] in tasks]
    sort: Mapping[str, object] = {"orderByKey": "attributes.start_time", "orderByAsc": True}
    if known:
        task, _, rest = known[0].split("/", 2)
        lower = tasks[task].metric(rest).better == "lower"
        sort = {"orderByKey": column(short_names(keys)[known[0]]), "orderByAsc": lower}
    metrics = [column(name) for name in columns(finished)]
    widths = {name: min(WIDEST, 30 + 7 * (len(name) - len(column("")))) for name in metrics}
    return {
        "searchFilter": RUNS_FILTER,
        **sort,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "selectedColumns": metrics,
        "columnOrder": [RUN_NAME, CREATED, *metrics],
        "columnWidths": {RUN_NAME: 270, **widths},
    }


def renewed(old: str | None, finished: FinishedConfiguration) -> str | None:
    """The tag's new value; None where it is to be left alone.

    It is left alone where it says the same already, where somebody changed it on the page, and where this plan holds
    only some of the tasks that it shows.
    """
    new = state(finished)
    now = int(time.time() * 1000)
    made = json.dumps({"name": TITLE, "createdAt": now, "updatedAt": now, "state": json.dumps(new)})
    if old is None:
        return made
    try:
        there = json.loads(old)
        touched = there["updatedAt"] != there["createdAt"]
        same = json.loads(there["state"]) == new
    except (ValueError, KeyError, TypeError):
        return None  # not ours
    whole = _covers(finished.suite.headline, declared(finished))
    return None if touched or same or not whole else made


def _covers(keys: Sequence[str], tasks: Mapping[str, object]) -> bool:
    return {key.split("/")[0] for key in keys} <= set(tasks)
