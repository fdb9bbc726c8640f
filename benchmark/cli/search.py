"""`reliquant search`: its command line."""

from __future__ import annotations

from typing import Annotated

import typer

from benchmark.cli import completion
from benchmark.cli.options import HOME, Catalogue, Home, Include, Many, Models, Pointed, Quiet, TaskTimeout, Uri
from benchmark.errors import SpecError
from benchmark.utils.output import own_stdout


def search(
    suite: Annotated[
        str | None,
        typer.Argument(help="A suite's name or a YAML file (default: demo).", autocompletion=completion.suites),
    ] = None,
    trials: Annotated[int | None, typer.Option("--trials", help="Configurations to evaluate (default 100).")] = None,
    sampler: Annotated[str | None, typer.Option("--sampler", help="ehvi tpe nsga2 nsga3 gp qmc grid random.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Same seed, same trials (default 0).")] = None,
    name: Annotated[str | None, typer.Option("--name", help="Name of the new study.")] = None,
    resume: Annotated[str | None, typer.Option("--resume", help="Go on with, or join, this study.")] = None,
    storage: Annotated[
        str | None,
        typer.Option("--storage", envvar="RELIQUANT_STORAGE", help="Optuna URL instead of the journal file."),
    ] = None,
    objective: Annotated[
        Many, typer.Option("--objective", help="Metric key, reliability, effective_bits, size_mb.")
    ] = None,
    constraint: Annotated[Many, typer.Option("--constraint", help="'KEY >= 0.99 * fp32'; repeatable.")] = None,
    method: Annotated[
        Many,
        typer.Option("--method", help="Only this quantizer; repeatable.", autocompletion=completion.methods),
    ] = None,
    scope: Annotated[Many, typer.Option("--scope", help="vision, text or vision+text; repeatable.")] = None,
    per_block: Annotated[bool, typer.Option("--per-block", help="Own weight bits for each block.")] = False,
    racing: Annotated[
        bool | None, typer.Option("--racing/--no-racing", help="Stop dominated trials early (default: yes).")
    ] = None,
    rungs: Annotated[str | None, typer.Option("--rungs", help="Shares of the images to stop at: 1/9,1/3.")] = None,
    model: Models = None,
    data: Pointed = None,
    limit: Annotated[int | None, typer.Option("--limit", help="At most N images of each data set.")] = None,
    catalogue: Catalogue = None,
    device: Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1 ...")] = "cpu",
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Images a forward pass.")] = 64,
    task_timeout: TaskTimeout = None,
    tracking_uri: Uri = None,
    no_tracking: Annotated[bool, typer.Option("--no-tracking", help="Leave MLflow out.")] = False,
    home: Home = HOME,
    include: Include = None,
    quiet: Quiet = False,
    json: Annotated[bool, typer.Option("--json", help="The front, one JSON object a line, on stdout.")] = False,
) -> None:
    """Find the quantizations with the best trade-off: an Optuna study; ends with the Pareto front."""
    from search.command import SearchRequest, run_search
    from search.rungs import SHARES
    from search.settings import Asked

    if racing is False and rungs is not None:
        raise SpecError("--no-racing and --rungs contradict each other")
    parts = rungs.split(",") if rungs is not None else None if racing is None else SHARES if racing else ()

    asked = Asked(
        suite=suite,
        models=model,
        data=data,
        limit=limit,
        methods=method,
        scopes=scope,
        per_block=per_block or None,
        objectives=objective,
        constraints=constraint,
        sampler=sampler,
        seed=seed,
        trials=trials,
        rungs=parts,
    )
    request = SearchRequest(
        asked,
        name=name,
        resume=resume,
        storage=storage,
        catalogues=catalogue or [],
        include=include or [],
        device=device,
        batch_size=batch_size,
        task_timeout=task_timeout,
        tracking_uri=tracking_uri,
        track=not no_tracking,
        home=home,
        quiet=quiet,
        json=json,
    )
    with own_stdout(json):
        status = run_search(request)
    raise typer.Exit(status)
