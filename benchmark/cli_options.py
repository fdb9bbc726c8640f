"""Options that several commands of the command line share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Suite = Annotated[str, typer.Argument(help="A suite's name (`reliquant list suites`) or a YAML file.")]
Home = Annotated[Path, typer.Option("--home", help="Results folder.", envvar="RELIQUANT_HOME")]
Include = Annotated[list[Path] | None, typer.Option("--include", help="Python file with plugins; repeatable.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object a line on stdout.")]
Many = list[str] | None
Pointed = Annotated[Many, typer.Option("--data", help="NAME=PATH: point a data set elsewhere; repeatable.")]
Catalogue = Annotated[list[Path] | None, typer.Option("--catalogue", help="Own data catalogue; repeatable.")]
HOME = Path("mlruns")
