"""The command `reliquant spectrum`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import typer

from benchmark.cli.options import (
    HOME,
    Catalogue,
    Home,
    Include,
    Json,
    Many,
    Models,
    Quants,
    Quiet,
    Suite,
    Trackers,
    Uri,
)
from benchmark.utils.output import own_stdout


class Form(StrEnum):
    """How `reliquant spectrum` prints."""

    table = "table"
    json = "json"


def spectrum(
    suite: Suite = "demo",
    data: Annotated[str, typer.Option("--data", help="NAME of the suite's data, or NAME=PATH.")] = "scenes",
    model: Models = None,
    quant: Quants = None,
    corruption: Annotated[Many, typer.Option("--corruption", help="TYPE/SEVERITY or none; repeatable.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", help="At most N images.")] = None,
    catalogue: Catalogue = None,
    device: Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1 ...")] = "cpu",
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Images a forward pass.")] = 64,
    tracker: Trackers = None,
    tracking_uri: Uri = None,
    home: Home = HOME,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Folder for figures and numbers.")] = None,
    format_: Annotated[Form, typer.Option("--format", help="What to print.")] = Form.table,
    include: Include = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Show into which directions of the features quantization noise falls, layer by layer; corruptions beside it."""
    from benchmark.engine.request import RunRequest
    from benchmark.spectrum.run import SpectrumRequest, run_spectrum

    common = RunRequest(
        suite=suite,
        models=model or [],
        quantizations=quant or [],
        data=[data] if "=" in data else [],
        catalogues=catalogue or [],
        limit=limit,
        device=device,
        batch_size=batch_size,
        trackers=tracker or ["mlflow"],
        tracking_uri=tracking_uri,
        home=home,
        include=include or [],
        quiet=quiet,
    )
    corruptions = corruption or ["defocus_blur/3"]
    show: Literal["table", "json"] = "json" if json or format_ is Form.json else "table"
    request = SpectrumRequest(common, data.partition("=")[0], corruptions, output, show)
    with own_stdout(show == "json"):
        status = run_spectrum(request)
    raise typer.Exit(status)
