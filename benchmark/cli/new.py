"""`reliquant new task|quantizer|source NAME`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

new_app = typer.Typer(help="Write a new plugin with its contract test.", no_args_is_help=True)
Folder = Annotated[Path, typer.Option("--folder", help="Where to write it.")]


@new_app.command("task")
def new_task(name: str, folder: Folder = Path()) -> None:
    """Write NAME.py with a task, test_NAME.py with its contract test, and NAME.yaml that runs it on the demo."""
    _write("task", name, folder)
    typer.echo(f"  reliquant run {folder / f'{name}.yaml'} --include {folder / f'{name}.py'}")


@new_app.command("quantizer")
def new_quantizer(name: str, folder: Folder = Path()) -> None:
    """Write NAME.py with a quantizer and test_NAME.py with its contract test."""
    _write("quantizer", name, folder)
    typer.echo(f"  reliquant run demo --include {folder / f'{name}.py'} --quant {name}-w4-vision")


@new_app.command("source")
def new_source(name: str, folder: Folder = Path()) -> None:
    """Write NAME.py with a data source and test_NAME.py with its contract test."""
    _write("source", name, folder)
    typer.echo(
        f"  reliquant run SUITE --include {folder / f'{name}.py'}   # data: {{mine: {{source: {name}, path: ...}}}}"
    )


def _write(kind: str, name: str, folder: Path) -> None:
    from benchmark.cli.scaffold import write_plugin

    for path in write_plugin(kind, name, folder):
        typer.echo(f"wrote {path}")
    typer.echo(f"next:\n  pytest {folder / f'test_{name}.py'}")
