"""`reliquant new task|quantizer|source|runtime NAME`."""

from __future__ import annotations

import shlex
from pathlib import Path

from benchmark.cli.requests import NewQuantizerRequest, NewRuntimeRequest, NewSourceRequest, NewTaskRequest
from benchmark.cli.scaffold import write_plugin


def new_task(request: NewTaskRequest) -> None:
    """Write a task, its test, and a suite that runs it."""
    _write("task", request.name, request.folder)
    print(f"  reliquant run {_quoted(request.folder / f'{request.name}.yaml')} --include {_file(request)}")


def new_quantizer(request: NewQuantizerRequest) -> None:
    """Write a quantizer and its test."""
    _write("quantizer", request.name, request.folder)
    print(f"  reliquant run demo --include {_file(request)} --quant {request.name}-w4-vision")


def new_source(request: NewSourceRequest) -> None:
    """Write a data source and its test."""
    _write("source", request.name, request.folder)
    print(f"  reliquant run SUITE --include {_file(request)}   # data: {{mine: {{source: {request.name}, path: ...}}}}")


def new_runtime(request: NewRuntimeRequest) -> None:
    """Write a runtime and its test."""
    _write("runtime", request.name, request.folder)
    print(f"  reliquant run SUITE --include {_file(request)} --artifact phone=FILE.{request.name}")


def _file(request: NewTaskRequest | NewQuantizerRequest | NewSourceRequest | NewRuntimeRequest) -> str:
    return _quoted(request.folder / f"{request.name}.py")


def _quoted(path: Path) -> str:
    """A path for a shell."""
    return shlex.quote(str(path))


def _write(kind: str, name: str, folder: Path) -> None:
    for path in write_plugin(kind, name, folder):
        print(f"wrote {path}")
    print(f"next:\n  pytest {_quoted(folder / f'test_{name}.py')}")
