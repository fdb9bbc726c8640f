"""The options of `reliquant report`. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmark.engine.request import DataPlaces, Home, OfSuite, Paths, Plugins, Quiet
from benchmark.utils.options import option


@dataclass(frozen=True, kw_only=True)
class ReportRequest(Quiet, Paths, Plugins, Home, DataPlaces, OfSuite):
    """Write one self-contained HTML page: what to deploy and why, figures, worst images, how to reproduce it.

    A RUN (short names, {a,b} and *) gives the same page with the figures of that quantization alone. Runs no model.
    """

    what: str | None = option(
        None,
        "Suite, short name, or MLflow id.",
        argument=True,
        metavar="[SUITE|RUN]",
        complete="suites_and_runs",
    )
    output: Path = option(Path("report.html"), "Where to write the page.", short="-o")
