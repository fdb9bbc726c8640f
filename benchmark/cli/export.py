"""The command `reliquant export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmark.cli import completion
from benchmark.cli.options import HOME, Catalogue, Home, Include, Pointed


def export(
    config: Annotated[
        str,
        typer.Argument(
            help="Short name, or FILE.yaml[:NUMBER] as `reliquant search` writes it.",
            autocompletion=completion.configurations,
        ),
    ],
    to: Annotated[Path, typer.Option("--to", help="Folder to write; it must not exist yet.")],
    suite: Annotated[
        str,
        typer.Option(
            "--suite", help="Its model, calibration data, classes and results.", autocompletion=completion.suites
        ),
    ] = "demo",
    model: Annotated[
        str | None,
        typer.Option("--model", help="Model instead of the suite's.", autocompletion=completion.models),
    ] = None,
    classes: Annotated[str | None, typer.Option("--classes", help="Data set whose classes are served.")] = None,
    register: Annotated[str | None, typer.Option("--register", help="A version of NAME in MLflow's registry.")] = None,
    tracking_uri: Annotated[str | None, typer.Option("--tracking-uri", help="MLflow store or server.")] = None,
    data: Pointed = None,
    limit: Annotated[int | None, typer.Option("--limit", help="The --limit of the run that evaluated it.")] = None,
    catalogue: Catalogue = None,
    device: Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1 ...")] = "cpu",
    home: Home = HOME,
    include: Include = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Write a quantized model to a folder: packed weights, its QuantSpec, a model card; `run --model DIR` loads it."""
    from benchmark.export.command import ExportRequest
    from benchmark.export.command import export as write

    request = ExportRequest(
        config=config,
        to=to,
        suite=suite,
        model=model,
        classes=classes,
        register=register,
        tracking_uri=tracking_uri,
        data=data or [],
        catalogues=catalogue or [],
        limit=limit,
        device=device,
        home=home,
        include=include or [],
        quiet=quiet,
    )
    write(request)


def serve(
    model: Annotated[str, typer.Argument(help="models:/NAME/VERSION, as `export --register NAME` prints it.")],
    port: Annotated[int, typer.Option("--port", min=1, max=65535)] = 5001,
    host: Annotated[str, typer.Option("--host", help="Interface; there is no authentication.")] = "127.0.0.1",
    tracking_uri: Annotated[str | None, typer.Option("--tracking-uri", help="MLflow store or server.")] = None,
    home: Home = HOME,
) -> None:
    """Serve a registered model over HTTP with MLflow, within limits on size, depth and time of a request."""
    from benchmark.export.server import serve as become

    become(model, home, host, port, tracking_uri)
