"""The command line: the composition root. Heavy modules are imported inside the commands."""

from __future__ import annotations

import os
import sys
import warnings
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from benchmark.cli import completion
from benchmark.cli.export import export, serve
from benchmark.cli.new import new_app
from benchmark.cli.options import (
    HOME,
    Catalogue,
    Home,
    Include,
    Json,
    Many,
    Models,
    Pointed,
    Quants,
    Quiet,
    Suite,
    TaskTimeout,
    Trackers,
    Uri,
)
from benchmark.cli.report import report, show
from benchmark.cli.search import search
from benchmark.cli.spectrum import spectrum
from benchmark.cli.sync import sync
from benchmark.errors import ReliquantError
from benchmark.utils.guard import leave, text_of
from benchmark.utils.output import own_stdout
from benchmark.utils.signals import Stoppable, catch_stops

app = typer.Typer(
    name="reliquant",
    cls=Stoppable,
    help="What quantization does to the reliability of CLIP-like models.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(new_app, name="new")


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"reliquant {version('reliquant')}")
        raise typer.Exit


@app.callback()
def common(
    _: Annotated[bool, typer.Option("--version", help="Show the version.", callback=_version, is_eager=True)] = False,
) -> None:
    """What quantization does to the reliability of CLIP-like models."""


class Listing(StrEnum):
    """What `reliquant list` can show."""

    tasks = "tasks"
    quantizers = "quantizers"
    models = "models"
    data = "data"
    suites = "suites"


class Engine(StrEnum):
    """Where `reliquant run` evaluates."""

    local = "local"
    ray = "ray"


@app.command()
def run(
    suite: Suite = "demo",
    model: Models = None,
    quant: Quants = None,
    override: Annotated[Many, typer.Option("--override", help="PATTERN=BITS: other weight bits for layers.")] = None,
    task: Annotated[
        Many,
        typer.Option("--task", help="Only this task of the suite; repeatable.", autocompletion=completion.tasks),
    ] = None,
    data: Pointed = None,
    limit: Annotated[int | None, typer.Option("--limit", help="At most N images of each data set.")] = None,
    catalogue: Catalogue = None,
    skip_broken: Annotated[bool, typer.Option("--skip-broken", help="Leave out images that cannot be read.")] = False,
    pixel_cache: Annotated[str | None, typer.Option("--pixel-cache", help="Size on disk: 20GB, 0 for none.")] = None,
    device: Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1 ...")] = "cpu",
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Images a forward pass.")] = 64,
    task_timeout: TaskTimeout = None,
    exact_float: Annotated[bool, typer.Option("--exact-float", help="No integer GEMM: float reference.")] = False,
    precision: Annotated[str, typer.Option("--precision", help="fp32; bf16 or fp16: autocast.")] = "fp32",
    compile_: Annotated[bool, typer.Option("--compile", help="torch.compile the models.")] = False,
    spectra: Annotated[Many, typer.Option("--spectrum", help="Spectral study of this data too; repeatable.")] = None,
    tracker: Trackers = None,
    tracking_uri: Uri = None,
    engine: Annotated[Engine, typer.Option("--engine", help="In this process, or on a Ray cluster.")] = Engine.local,
    address: Annotated[str | None, typer.Option("--address", help="With ray: auto, ray://HOST:PORT.")] = None,
    task_cpus: Annotated[float, typer.Option("--task-cpus", help="With ray: CPUs of a configuration.")] = 1,
    task_gpus: Annotated[float | None, typer.Option("--task-gpus", help="With ray: GPUs, e.g. 0.5.")] = None,
    home: Home = HOME,
    include: Include = None,
    speed: Annotated[bool | None, typer.Option(help="Time again / never; default: what is new here.")] = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Evaluate a suite; finished evaluations are not done again."""
    from benchmark.cli.run import run_suite
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
        skip_broken=skip_broken,
        pixel_cache=pixel_cache,
        device=device,
        batch_size=batch_size,
        task_timeout=task_timeout,
        exact_float=exact_float,
        precision=precision,
        compile=compile_,
        trackers=tracker or ["mlflow"],
        tracking_uri=tracking_uri,
        home=home,
        include=include or [],
        speed=speed,
        engine=engine.value,
        address=address,
        task_cpus=task_cpus,
        task_gpus=task_gpus,
        quiet=quiet,
        json=json,
        spectrum=spectra or [],
    )
    with own_stdout(json):
        status = run_suite(request)
    raise typer.Exit(status)


@app.command()
def validate(
    suite: Suite,
    data: Pointed = None,
    catalogue: Catalogue = None,
    include: Include = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Say nothing unless the suite is wrong.")] = False,
    json: Json = False,
) -> None:
    """Check a suite without running it: names, fields, data on disk, models; say what it would do and cost."""
    from benchmark.cli.run import validate_suite

    with own_stdout(json):
        validate_suite(suite, data or [], catalogue or [], include or [], quiet, json)


@app.command("list")
def list_(what: Listing, include: Include = None, json: Json = False) -> None:
    """Show what there is: tasks, quantizers, models, data or suites."""
    from benchmark.cli.listing import print_listing

    print_listing(what.value, include or [], json)


@app.command()
def compare(
    runs: Annotated[
        Many,
        typer.Argument(help="Quantizations: short names, {a,b} and *; default: all.", autocompletion=completion.runs),
    ] = None,
    suite: Annotated[
        str, typer.Option("--suite", help="Suite: its name or YAML file.", autocompletion=completion.suites)
    ] = "demo",
    model: Annotated[Many, typer.Option("--model", help="Only this model; repeatable.")] = None,
    metric: Annotated[Many, typer.Option("--metric", help="Only keys that begin so: ood/, ...; repeatable.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="Every metric, not only the headline.")] = False,
    claims: Annotated[bool, typer.Option("--claims", help="Which of the study's claims hold: one paragraph.")] = False,
    format_: Annotated[str, typer.Option("--format", help="table, md, csv, latex, json or jsonl.")] = "table",
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write here instead of stdout.")] = None,
    home: Home = HOME,
    include: Include = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, no warnings.")] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a change, a line each, on stdout.")] = False,
) -> None:
    """Compare quantizations with full precision: change, 95 % interval, adjusted p. Reads results, runs no model.

    RUNS are short names as in the table of `reliquant run`: `reliquant compare 'rtn-*' bnb-nf4-vision --metric ood/`.
    """
    from benchmark.cli.compare import CompareRequest, compare_runs

    request = CompareRequest(
        runs=runs or [],
        suite=suite,
        models=model or [],
        metrics=metric or [],
        all_metrics=all_,
        claims=claims,
        format="jsonl" if json else format_,
        output=output,
        home=home,
        include=include or [],
        quiet=quiet,
    )
    with own_stdout(request.format != "table" and output is None):
        status = compare_runs(request)
    raise typer.Exit(status)


app.command()(report)
app.command()(show)
app.command()(search)
app.command()(spectrum)
app.command()(export)
app.command()(serve)


@app.command()
def ui(
    home: Home = HOME,
    port: Annotated[int, typer.Option("--port", min=1, max=65535)] = 5000,
    host: Annotated[str, typer.Option("--host", help="Interface; there is no authentication.")] = "127.0.0.1",
    tracking_uri: Annotated[str | None, typer.Option("--tracking-uri", help="MLflow store.")] = None,
    search: Annotated[bool, typer.Option("--search", help="optuna-dashboard on the studies instead.")] = False,
    storage: Annotated[
        str | None, typer.Option("--storage", envvar="RELIQUANT_STORAGE", help="With --search: Optuna URL.")
    ] = None,
    open_: Annotated[bool, typer.Option("--open", help="Open the browser on it, on this machine.")] = False,
) -> None:
    """Serve MLflow on the results (127.0.0.1; stop with Ctrl-C) and say where its runs tables are."""
    if search:
        from search.dashboard import serve as serve_dashboard

        serve_dashboard(home, host, port, storage, open_)
        return
    from trackers.ui import serve as serve_results

    serve_results(home, host, port, tracking_uri, open_)


app.command()(sync)


def main() -> None:
    """Entry point: expected errors become one line on stderr and their exit status.

    OpenMP's threads wait for a moment and then sleep, unless the user chose: on a machine with other work, threads
    that spin for long slow a small model down many times. It must be said before torch is loaded.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "30000")
    catch_stops()
    warnings.filterwarnings("ignore", module=r"PIL\b")  # of broken metadata; what matters of an image is an error
    status: object = 0
    try:
        app()
    except ReliquantError as error:
        print(f"reliquant: error: {text_of(error)}", file=sys.stderr)
        status = error.exit_status
    except SystemExit as ended:
        status = ended.code
    leave(status if isinstance(status, int) else 0 if status is None else 1)


if __name__ == "__main__":
    main()
