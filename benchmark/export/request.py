"""The options of `reliquant export`. Imports nothing heavy."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from benchmark.engine.request import DataPlaces, Device, Home, Paths, Plugins, Quiet, Store
from benchmark.results.last import DEFAULT
from benchmark.utils.options import option

IN_FILE = re.compile(r"(.+\.ya?ml)(?::(\d+))?")
"""CONFIG as `FILE.yaml` or `FILE.yaml:NUMBER`."""


@dataclass(frozen=True, kw_only=True)
class ExportRequest(Quiet, Paths, Plugins, Home, Device, DataPlaces, Store):
    """Write a quantized model to a folder: packed weights, its QuantSpec, a model card; `run --model DIR` loads it."""

    config: str = option(
        ...,
        "Short name, or FILE.yaml[:NUMBER] as `reliquant search` writes it.",
        argument=True,
        complete="configurations",
    )
    to: Path = option(..., "Folder to write; it must not exist yet.")
    format: str | None = option(None, "Towers as files of a runtime, `onnx` or `openvino`, instead of packed weights.")
    suite: str | None = option(
        None,
        "Its model, calibration data, classes and results (default: the last suite that ran here).",
        complete="suites",
    )
    model: str | None = option(None, "Model instead of the suite's.", complete="models")
    classes: str | None = option(None, "Data set whose classes are served.")
    register: str | None = option(None, "A version of NAME in MLflow's registry.")
    limit: int | None = option(None, "The --limit of the run that evaluated it.")

    @property
    def used_suite(self) -> str:
        """The suite as `reliquant run` takes it: the file in CONFIG, where there is one."""
        match = IN_FILE.fullmatch(self.config)
        return match[1] if match else self.suite or DEFAULT

    @property
    def line(self) -> str:
        """The command, as it could be typed in the folder of its files: a card does not tell where they lie here."""
        in_file = IN_FILE.fullmatch(self.config)
        options: dict[str, object] = {
            "--suite": None if in_file else file_name(self.used_suite),
            "--model": self.model,
            "--classes": self.classes,
            "--limit": self.limit,
            "--format": self.format,
            "--to": self.to.name,
        }
        given = [word for key, value in options.items() if value is not None for word in (key, str(value))]
        given += [word for item in self.data for word in ("--data", item)]
        return shlex.join(["reliquant", "export", Path(self.config).name if in_file else self.config, *given])


def file_name(suite: str) -> str:
    """A suite's name, or its file without the folders."""
    return Path(suite).name if suite.endswith((".yaml", ".yml")) else suite
