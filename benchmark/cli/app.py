"""The command line and its commands; each handler's module is imported only when its command runs."""

from __future__ import annotations

import os
import sys
import warnings
from typing import Annotated

import typer

from benchmark.cli.parsing import callback
from benchmark.cli.requests import (
    ArtifactInputsRequest,
    CompareRequest,
    DataCheckRequest,
    DataFetchRequest,
    DataPrepareRequest,
    GateRequest,
    ListRequest,
    NewQuantizerRequest,
    NewRuntimeRequest,
    NewSourceRequest,
    NewTaskRequest,
    ShowRequest,
    UiRequest,
    ValidateRequest,
)
from benchmark.cli.stopping import Stoppable
from benchmark.engine.request import RunRequest, SyncRequest
from benchmark.errors import PluginError, ReliquantError
from benchmark.export.request import ExportRequest
from benchmark.registry import Registry
from benchmark.report.request import ReportRequest
from benchmark.sensitivity.request import SensitivityRequest
from benchmark.spectrum.request import SpectrumRequest
from benchmark.utils.guard import leave, text_of
from benchmark.utils.options import Command
from benchmark.utils.signals import catch_stops

COMMANDS = (
    Command("run", RunRequest, "benchmark.cli.run:run_suite"),
    Command("validate", ValidateRequest, "benchmark.cli.validate:validate_suite"),
    Command("list", ListRequest, "benchmark.cli.listing:print_listing"),
    Command("compare", CompareRequest, "benchmark.cli.compare:compare_runs"),
    Command("gate", GateRequest, "benchmark.cli.gate:gate"),
    Command("report", ReportRequest, "benchmark.cli.report:report"),
    Command("show", ShowRequest, "benchmark.cli.show:show_run"),
    Command("spectrum", SpectrumRequest, "benchmark.spectrum.run:run_spectrum"),
    Command("sensitivity", SensitivityRequest, "benchmark.sensitivity.run:run_sensitivity"),
    Command("export", ExportRequest, "benchmark.export.command:export"),
    Command("ui", UiRequest, "benchmark.cli.ui:serve"),
    Command("sync", SyncRequest, "benchmark.cli.sync:sync_suite"),
    Command("new task", NewTaskRequest, "benchmark.cli.new:new_task"),
    Command("new quantizer", NewQuantizerRequest, "benchmark.cli.new:new_quantizer"),
    Command("new source", NewSourceRequest, "benchmark.cli.new:new_source"),
    Command("new runtime", NewRuntimeRequest, "benchmark.cli.new:new_runtime"),
    Command("data check", DataCheckRequest, "benchmark.cli.data:check"),
    Command("data fetch", DataFetchRequest, "benchmark.cli.data:fetch_data"),
    Command("data prepare", DataPrepareRequest, "benchmark.cli.prepare:prepare_data"),
    Command("artifact inputs", ArtifactInputsRequest, "benchmark.cli.artifact:inputs"),
)
commands: Registry[Command] = Registry("command", "reliquant.commands", Command)
"""Entry points of commands that packages bring, our own `search` among them."""

GROUPS = {
    "new": "Write a new plugin with its contract test.",
    "data": "Get the data sets that suites read, and see what is missing.",
    "artifact": "Evaluate what somebody ships: see `run --artifact`.",
}


def _version(context: typer.Context, asked: bool) -> None:
    if asked:
        from benchmark.cli.versions import versions

        lines = versions()
        typer.echo("\n".join(lines) if context.params["verbose"] else next(lines))
        raise typer.Exit


def common(
    verbose: Annotated[bool, typer.Option("--verbose", help="With --version: of everything.", is_eager=True)] = False,
    version: Annotated[bool, typer.Option("--version", help="Show the version.", callback=_version)] = False,
) -> None:
    """What quantization does to the reliability of CLIP-like models."""


def make_app() -> typer.Typer:
    """The command line, with the commands of installed packages; one that cannot be loaded gives a warning."""
    made = typer.Typer(name="reliquant", cls=Stoppable, no_args_is_help=True, pretty_exceptions_enable=False)
    made.callback()(common)
    groups = {name: typer.Typer(help=text, no_args_is_help=True) for name, text in GROUPS.items()}
    for command in (*COMMANDS, *_installed()):
        group, _, name = command.name.rpartition(" ")
        (groups[group] if group else made).command(name)(callback(command))
    for name, group_app in groups.items():
        made.add_typer(group_app, name=name)
    return made


def _installed() -> list[Command]:
    found = []
    for name in commands.names():
        try:
            found.append(commands.get(name))
        except PluginError as error:
            print(f"warning: {error}", file=sys.stderr)
    return found


app = make_app()


def main() -> None:
    """Entry point: expected errors become one line on stderr and their exit status.

    Unless the user chose otherwise, OpenMP's threads spin only briefly and then sleep: on a busy machine, threads that
    spin for long make a small model several times slower. The setting must precede the import of torch.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "30000")
    catch_stops()
    warnings.filterwarnings("ignore", module=r"PIL\b")  # about broken metadata; a broken image is an error
    status: object = 0
    try:
        app()
    except ReliquantError as error:
        print(f"reliquant: error: {text_of(error)}", file=sys.stderr)
        status = error.exit_status
    except SystemExit as ended:
        status = ended.code
    leave(status if isinstance(status, int) else 0 if status is None else 1)
