"""The command `reliquant sync`."""

from __future__ import annotations

from typing import Annotated

import typer

from benchmark.cli.options import HOME, Catalogue, Home, Include, Json, Many, Models, Pointed, Quants, Quiet, Suite, Uri
from benchmark.utils.output import own_stdout


def sync(
    suite: Suite = "demo",
    model: Models = None,
    quant: Quants = None,
    override: Annotated[Many, typer.Option("--override", help="As in the run; repeatable.")] = None,
    task: Annotated[Many, typer.Option("--task", help="As in the run; repeatable.")] = None,
    data: Pointed = None,
    limit: Annotated[int | None, typer.Option("--limit", help="As in the run.")] = None,
    catalogue: Catalogue = None,
    device: Annotated[str, typer.Option("--device", help="As in the run.")] = "cpu",
    exact_float: Annotated[bool, typer.Option("--exact-float", help="As in the run.")] = False,
    precision: Annotated[str, typer.Option("--precision", help="As in the run.")] = "fp32",
    compile_: Annotated[bool, typer.Option("--compile", help="As in the run.")] = False,
    tracking_uri: Uri = None,
    home: Home = HOME,
    include: Include = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Bring a suite's finished evaluations from the ledger to MLflow; evaluates nothing.

    What the options choose must be what the run was asked for: they are part of a configuration's key.
    """
    from benchmark.cli.run import sync_suite
    from benchmark.engine.request import RunRequest

    request = RunRequest(
        suite=suite,
        models=model or [],
        quantizations=quant or [],
        tasks=task or [],
        overrides=override or [],
        data=data or [],
        catalogues=catalogue or [],
        limit=limit,
        device=device,
        exact_float=exact_float,
        precision=precision,
        compile=compile_,
        tracking_uri=tracking_uri,
        home=home,
        include=include or [],
        quiet=quiet,
        json=json,
    )
    with own_stdout(json):
        status = sync_suite(request)
    raise typer.Exit(status)
