"""The options of `reliquant spectrum`. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from benchmark.engine.request import (
    Batches,
    Catalogues,
    Device,
    ExactFloat,
    Home,
    Json,
    Limit,
    Models,
    Pixels,
    Plugins,
    Quantizations,
    Quiet,
    RunRequest,
    Store,
    Suite,
    Trackers,
)
from benchmark.utils.options import option


@dataclass(frozen=True, kw_only=True)
class SpectrumRequest(
    Json,
    Quiet,
    Plugins,
    Home,
    Store,
    Trackers,
    Pixels,
    Batches,
    ExactFloat,
    Device,
    Catalogues,
    Limit,
    Quantizations,
    Models,
    Suite,
):
    """Show into which directions of the features quantization noise falls, layer by layer; corruptions beside it.

    Attributes:
        places: `NAME=PATH` of further data, as `--data` of `reliquant run` has them.
        only_vision: leave out quantizations of the text tower alone, instead of refusing them.
        paths_only: print where figures and numbers are, and no table. silent: print nothing and draw nothing.
    """

    data: str = option("scenes", "NAME of the suite's data, or NAME=PATH.")
    corruptions: Sequence[str] = option(
        ("defocus_blur/3",), "TYPE/SEVERITY or none; repeatable (default: defocus_blur/3).", flag="--corruption"
    )
    joint: bool = option(False, "Only the joint space of the clean images, from features that a run has cached.")
    output: Path | None = option(None, "Folder for figures and numbers.", short="-o")
    format: Literal["table", "json"] = option("table", "What to print.")
    places: Sequence[str] = ()
    only_vision: bool = False
    paths_only: bool = False
    silent: bool = False

    @property
    def name(self) -> str:
        """Of the data set."""
        return self.data.partition("=")[0]

    @property
    def pointed(self) -> list[str]:
        """Every `NAME=PATH`."""
        return [*self.places, *([self.data] if "=" in self.data else [])]

    @property
    def for_programs(self) -> bool:
        """Whether stdout is kept free of everything else."""
        return self.show == "json"

    @property
    def show(self) -> Literal["table", "json", "path", "nothing"]:
        """What is printed on stdout."""
        if self.silent:
            return "nothing"
        if self.paths_only:
            return "path"
        return "json" if self.json or self.format == "json" else "table"


def beside(run: RunRequest, data: str, joint: bool = False) -> SpectrumRequest:
    """The spectral study that `reliquant run --spectrum DATA` asks for, or quietly a suite's field `spectrum`."""
    shared = {field.name for field in fields(SpectrumRequest)} & {field.name for field in fields(run)} - {"data"}
    given = {name: getattr(run, name) for name in shared}
    return SpectrumRequest(
        **given, data=data, places=run.data, only_vision=True, paths_only=run.json, joint=joint, silent=joint
    )
