"""Options that several commands of the command line share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmark.cli import completion

Many = list[str] | None
SUITE_HELP = "A suite's name (`reliquant list suites`) or a YAML file."
Suite = Annotated[str, typer.Argument(help=SUITE_HELP, autocompletion=completion.suites)]
Home = Annotated[Path, typer.Option("--home", help="Results folder.", envvar="RELIQUANT_HOME")]
Include = Annotated[list[Path] | None, typer.Option("--include", help="Python file with plugins; repeatable.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object a line on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress.")]
Models = Annotated[
    Many, typer.Option("--model", help="Model instead of the suite's; repeatable.", autocompletion=completion.models)
]
Quants = Annotated[
    Many,
    typer.Option(
        "--quant", help="Short name instead of the suite's; repeatable.", autocompletion=completion.quantizations
    ),
]
TaskTimeout = Annotated[
    float | None,
    typer.Option("--task-timeout", help="Give a task up after so many seconds (default: never)."),
]
Trackers = Annotated[
    Many,
    typer.Option("--tracker", help="Where to log (default: mlflow); repeatable.", autocompletion=completion.trackers),
]
Uri = Annotated[str | None, typer.Option("--tracking-uri", help="MLflow store or server.")]
Pointed = Annotated[Many, typer.Option("--data", help="NAME=PATH: point a data set elsewhere; repeatable.")]
Catalogue = Annotated[list[Path] | None, typer.Option("--catalogue", help="Own data catalogue; repeatable.")]
HOME = Path("mlruns")
