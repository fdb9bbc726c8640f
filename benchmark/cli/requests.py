"""The options of commands that evaluate nothing. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmark.engine.request import (
    DataPlaces,
    Device,
    Home,
    Json,
    Limit,
    Models,
    OfSuite,
    OnlyTasks,
    Pixels,
    Plugins,
    Quantizations,
    Quiet,
    Store,
    Suite,
)
from benchmark.utils.options import option


@dataclass(frozen=True, kw_only=True)
class ValidateRequest(Json, Plugins, Device, Limit, DataPlaces, OnlyTasks, Quantizations, Models):
    """Check a suite without running it: names, fields, data on disk, models; say what it would do and cost.

    Models that are on this machine run for a second or two: their speed is measured.
    """

    suite: str = option(
        ..., "A suite's name (`reliquant list suites`) or a YAML file.", argument=True, complete="suites"
    )
    quiet: bool = option(False, "Print only errors.")


@dataclass(frozen=True, kw_only=True)
class ListRequest(Json, Plugins):
    """Show what there is: tasks, quantizers, runtimes, models, data or suites."""

    what: Literal["tasks", "quantizers", "runtimes", "models", "data", "suites"] = option(
        ..., "Kind of thing to list.", argument=True
    )


@dataclass(frozen=True, kw_only=True)
class CompareRequest(Quiet, Plugins, Home, OfSuite):
    """Compare quantizations with full precision: change, 95 % interval, adjusted p. Reads results, runs no model.

    RUNS are short names as in the table of `reliquant run`: `reliquant compare 'rtn-*' bnb-nf4-vision --metric ood/`.
    """

    runs: Sequence[str] = option(
        (), "Quantizations: short names, {a,b} and *; default: all.", argument=True, complete="runs"
    )
    models: Sequence[str] = option(
        (), "Only this model, as `run` takes it or as tables name it; repeatable.", flag="--model", complete="models"
    )
    metrics: Sequence[str] = option((), "Only keys with this beginning, e.g. ood/; repeatable.", flag="--metric")
    all_metrics: bool = option(False, "Every metric, not only the headline.", flag="--all")
    by: str = option("", "Mean changes of groups: keys as in docs/comparisons.md, e.g. method_family,bits,scope.")
    claims: bool = option(False, "Print which of the study's claims hold, each with its numbers.")
    controls: bool = option(False, "Print which control reproduces which change, with intervals on the difference.")
    format: str = option("table", "table, md, csv, latex, json or jsonl.")
    output: Path | None = option(None, "Write here instead of stdout.", short="-o")
    json: bool = option(False, "One JSON object per change, one a line, on stdout.")

    @property
    def for_programs(self) -> bool:
        """Whether stdout is kept free of everything else."""
        return (self.json or self.format != "table") and self.output is None


@dataclass(frozen=True, kw_only=True)
class GateRequest(Json, Plugins, Home, OfSuite):
    """Exit with 0 if quantizations are non-inferior to full precision, 1 if inferior, 4 if the images cannot tell.

    For CI: reads results, runs no model. `reliquant gate rtn-w8a8-channel-token-vision --baseline model/record.json`.
    """

    configs: Sequence[str] = option(
        ..., "Quantizations: short names, {a,b} and *.", argument=True, metavar="CONFIG", complete="runs"
    )
    margin: Sequence[str] = option((), "KEY=VALUE: margin of a headline metric (* allowed); repeatable.")
    baseline: Path | None = option(
        None, "Full precision: another results folder, or record.json of an export (default: --home)."
    )
    model: str | None = option(None, "Only this model.")
    junit: Path | None = option(None, "Write the verdicts as JUnit XML, too.")


@dataclass(frozen=True, kw_only=True)
class ShowRequest(Json, Quiet, Plugins, Home, OfSuite):
    """Show one quantization: scheme, size, every metric with its interval, notes, failures, provenance."""

    run: str = option(..., "Short name, or MLflow run id.", argument=True, metavar="RUN", complete="runs")
    all_metrics: bool = option(False, "Also metrics of single corruptions, scores, data.", flag="--all")


@dataclass(frozen=True, kw_only=True)
class UiRequest(Store, Home):
    """Serve MLflow on the results (127.0.0.1; stop with Ctrl-C) and print where its tables of runs are."""

    port: int = option(5000, "Port to listen on.", minimum=1, maximum=65535)
    host: str = option("127.0.0.1", "Interface to listen on; there is no authentication.")
    browse: bool = option(False, "Open the browser on it, on this machine.", flag="--open")


@dataclass(frozen=True, kw_only=True)
class ArtifactInputsRequest(Json, Quiet, Home, Pixels, Plugins, Limit, DataPlaces, OnlyTasks, Models, Suite):
    """Write the pixels, prompts and ids of a suite: make features of them anywhere, then `run --artifact` them."""

    to: Path = option(..., "Folder to write.")


@dataclass(frozen=True, kw_only=True)
class DataPlace(Json, Quiet, Home):
    """The folder of all data."""

    to: Path | None = option(None, "Folder of all data.", metavar="FOLDER", envvar="RELIQUANT_DATA")
    catalogues: Sequence[Path] = option((), "Own data catalogue; repeatable.", flag="--catalogue")


@dataclass(frozen=True, kw_only=True)
class DataCheckRequest(DataPlace):
    """Say what suites and data sets need, what is here, bytes to fetch, free disk, terms. Exit 1: not all is here.

    `reliquant data check imagenet`. Where a suite and a data set have one name, the suite is meant; `data:NAME` means
    the data set.
    """

    names: Sequence[str] = option(
        (), "Suites, data sets or downloads; default: all.", argument=True, metavar="NAME...", complete="data_names"
    )


@dataclass(frozen=True, kw_only=True)
class DataFetchRequest(DataPlace):
    """Fetch data sets from where they are published; goes on where it was stopped. Exit 3 if anything is still missing.

    `reliquant data fetch cifar imagenet-c`. Each file is compared with its published size and sum.
    """

    names: Sequence[str] = option(
        ..., "Suites, data sets or downloads.", argument=True, metavar="NAME...", complete="data_names"
    )
    only: Sequence[str] = option((), "Only this file of them, e.g. noise.tar; repeatable, * allowed.", metavar="NAME")
    yes: bool = option(False, "Accept the terms that are shown.")
    from_archive: Sequence[Path] = option((), "A file that you have already; repeatable.", metavar="FILE")


@dataclass(frozen=True, kw_only=True)
class DataPrepareRequest(Json, Quiet, Home):
    """Make imagenet/val/<wnid>/ of the authors' tar: these folders pair with ImageNet-C, and serve all of ImageNet.

    `reliquant data prepare imagenet --from ILSVRC2012_img_val.tar --devkit ILSVRC2012_devkit_t12.tar.gz`. Both files
    come from image-net.org, with an account.
    """

    what: Literal["imagenet"] = option(..., "What to prepare: imagenet.", argument=True)
    tar: Path | None = option(None, "The tar; default: as `data fetch imagenet-archives` leaves it.", flag="--from")
    labels: Path | None = option(
        None, "The devkit, or a text file: a WordNet id a line. Default: the devkit beside the tar.", flag="--devkit"
    )
    to: Path | None = option(None, "Folder of all data.", envvar="RELIQUANT_DATA")
    catalogues: Sequence[Path] = option((), "Own data catalogue; repeatable.", flag="--catalogue")


@dataclass(frozen=True, kw_only=True)
class _New:
    """Name and folder of a new plugin."""

    name: str = option(..., "Name of the plugin.", argument=True)
    folder: Path = option(Path(), "Folder to write it to.")


@dataclass(frozen=True, kw_only=True)
class NewTaskRequest(_New):
    """Write NAME.py with a task, test_NAME.py with its contract test, and NAME.yaml that runs it on the demo."""


@dataclass(frozen=True, kw_only=True)
class NewQuantizerRequest(_New):
    """Write NAME.py with a quantizer and test_NAME.py with its contract test."""


@dataclass(frozen=True, kw_only=True)
class NewSourceRequest(_New):
    """Write NAME.py with a data source and test_NAME.py with its contract test."""


@dataclass(frozen=True, kw_only=True)
class NewRuntimeRequest(_New):
    """Write NAME.py with a runtime for artifacts and test_NAME.py with its contract test."""
