"""The commands `reliquant report` and `reliquant show`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmark.cli import completion
from benchmark.cli.options import HOME, Catalogue, Home, Include, Json, Pointed, Quiet
from benchmark.utils.output import own_stdout

Of = Annotated[
    str | None,
    typer.Option(
        "--suite",
        help="Suite of the run: name or YAML file (default: demo).",
        autocompletion=completion.recorded_suites,
    ),
]


def report(
    what: Annotated[
        str | None,
        typer.Argument(
            metavar="[SUITE|RUN]",
            help="Suite, short name, or MLflow id.",
            autocompletion=completion.suites_and_runs,
        ),
    ] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="Where to write the page.")] = Path("report.html"),
    suite: Of = None,
    data: Pointed = None,
    catalogue: Catalogue = None,
    home: Home = HOME,
    include: Include = None,
    quiet: Quiet = False,
) -> None:
    """Write one self-contained HTML page: what to deploy and why, figures, worst images, how to reproduce it.

    A RUN (short names, {a,b} and *) gives the same page with the figures of that quantization alone. Runs no model.
    """
    from benchmark.report.command import ReportRequest, write_report

    request = ReportRequest(what, suite, output, home, data or [], catalogue or [], include or [], quiet)
    path = write_report(request)
    typer.echo(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB); open it in a browser")


def show(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="Short name, or MLflow run id.", autocompletion=completion.runs)
    ],
    suite: Of = None,
    home: Home = HOME,
    include: Include = None,
    all_: Annotated[bool, typer.Option("--all", help="Also metrics of single corruptions, scores, data.")] = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Show one quantization: scheme, size, every metric with its interval, notes, failures, provenance."""
    from benchmark.cli.show import show_run
    from benchmark.utils.progress import open_progress

    with own_stdout(json), open_progress(quiet):
        show_run(run, suite, home, include or [], json, all_)
