"""The options of `reliquant run` and those that other commands share. Imports nothing heavy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from benchmark.errors import InputError
from benchmark.tracking import DEFAULT_TRACKER
from benchmark.utils.options import option, options, plain

Timing = Literal["never", "new", "again"]
"""`new`: models in memory that this machine has not timed yet; `again`: all, loading them if necessary."""


@dataclass(frozen=True, kw_only=True)
class Home:
    """The results folder."""

    home: Path = option(Path("mlruns"), "Results folder.", envvar="RELIQUANT_HOME")


@dataclass(frozen=True, kw_only=True)
class Plugins:
    """Plugins from files."""

    include: Sequence[Path] = option((), "Python file with plugins; repeatable.", kept="asked")


@dataclass(frozen=True, kw_only=True)
class Quiet:
    """Progress output."""

    quiet: bool = option(False, "No progress.")


@dataclass(frozen=True, kw_only=True)
class Json:
    """Output for programs."""

    json: bool = option(False, "One JSON object a line on stdout.")

    @property
    def for_programs(self) -> bool:
        """Whether stdout is kept free of everything else."""
        return self.json


@dataclass(frozen=True, kw_only=True)
class Paths:
    """Paths of this machine in what leaves it."""

    keep_paths: bool = option(False, "Keep this machine's absolute paths.")


@dataclass(frozen=True, kw_only=True)
class Catalogues:
    """The user's own data sets."""

    catalogues: Sequence[Path] = option((), "Own data catalogue; repeatable.", flag="--catalogue", kept="asked")
    allow_outside: bool = option(False, "Follow paths in data files that leave their folder.", kept="asked")


@dataclass(frozen=True, kw_only=True)
class DataPlaces(Catalogues):
    """The places of data sets."""

    data: Sequence[str] = option((), "NAME=PATH: point a data set elsewhere; repeatable.", kept="asked")


@dataclass(frozen=True, kw_only=True)
class OfSuite:
    """The suite of recorded results."""

    suite: str | None = option(
        None, "Suite: name or YAML file (default: the last that ran here).", complete="recorded_suites"
    )


@dataclass(frozen=True, kw_only=True)
class Suite:
    """The suite to evaluate."""

    suite: str = option(
        "demo", "A suite's name (`reliquant list suites`) or a YAML file.", argument=True, complete="suites"
    )


@dataclass(frozen=True, kw_only=True)
class Models:
    """The models to evaluate."""

    models: Sequence[str] = option((), "Model instead of the suite's; repeatable.", flag="--model", complete="models")


@dataclass(frozen=True, kw_only=True)
class Quantizations:
    """The quantizations to evaluate."""

    quantizations: Sequence[str] = option(
        (), "Short name instead of the suite's; repeatable.", flag="--quant", complete="quantizations"
    )


@dataclass(frozen=True, kw_only=True)
class Artifacts:
    """Files that somebody ships."""

    artifacts: Sequence[str] = option(
        (), "NAME=FILE[,text=FILE]: evaluate a file too (docs/artifacts.md).", flag="--artifact", kept="asked"
    )


@dataclass(frozen=True, kw_only=True)
class OnlyTasks:
    """Which tasks."""

    tasks: Sequence[str] = option((), "Only this task of the suite; repeatable.", flag="--task", complete="tasks")


@dataclass(frozen=True, kw_only=True)
class Overrides:
    """Which layers in other bits."""

    overrides: Sequence[str] = option((), "PATTERN=BITS: other weight bits for layers.", flag="--override")


@dataclass(frozen=True, kw_only=True)
class Limit:
    """The number of images."""

    limit: int | None = option(None, "At most N images of each test set; calibration and fit sets stay whole.")


@dataclass(frozen=True, kw_only=True)
class Device:
    """The device for models."""

    device: str = option("cpu", "cpu, cuda, cuda:1 ...", kept="setting")


@dataclass(frozen=True, kw_only=True)
class Batches:
    """The batch size."""

    batch_size: int = option(64, "Images a forward pass.", minimum=1, kept="setting")


@dataclass(frozen=True, kw_only=True)
class TaskLimit:
    """The time limit of a task."""

    task_timeout: float | None = option(None, "Abandon a task after so many seconds (default: never).")


@dataclass(frozen=True, kw_only=True)
class ExactFloat:
    """Float instead of integer arithmetic."""

    exact_float: bool = option(False, "Compute in float, without integer GEMMs.", kept="setting")


@dataclass(frozen=True, kw_only=True)
class Pixels:
    """Reading and caching of images."""

    skip_broken: bool = option(False, "Leave out images that cannot be read.", kept="asked")
    pixel_cache: str | None = option(None, "Size on disk: 20GB, 0 for none.")


@dataclass(frozen=True, kw_only=True)
class Store:
    """MLflow's store."""

    tracking_uri: str | None = option(None, "MLflow store or server.")


@dataclass(frozen=True, kw_only=True)
class Trackers:
    """The trackers to log to."""

    trackers: Sequence[str] = option(
        (DEFAULT_TRACKER,),
        f"Where to log (default: {DEFAULT_TRACKER}); repeatable.",
        flag="--tracker",
        complete="trackers",
    )


@dataclass(frozen=True, kw_only=True)
class Evaluations(
    Plugins, ExactFloat, Device, Limit, DataPlaces, OnlyTasks, Overrides, Artifacts, Quantizations, Models, Suite
):
    """What names evaluations: whoever asks for the same gets the same records. (Later bases come first in help.)"""

    precision: str = option("fp32", "fp32; bf16 or fp16: autocast.", kept="setting")
    compile: bool = option(False, "torch.compile the models.", kept="setting")


@dataclass(frozen=True)
class RayOptions:
    """How to use a cluster.

    Attributes:
        address: `auto`, `ray://HOST:PORT` or `HOST:PORT`; None starts Ray on this machine.
        cpus: CPU cores of a task, and threads of its arithmetic. gpus: GPUs of a task, e.g. 0.5 for two on one.
        include: files with plugins, which must exist on the workers too.
    """

    address: str | None = None
    cpus: float = 1
    gpus: float = 0
    include: tuple[Path, ...] = ()


@dataclass(frozen=True, kw_only=True)
class RunRequest(Json, Quiet, Paths, Home, Store, Trackers, Pixels, TaskLimit, Batches, Evaluations):
    """Evaluate a suite; finished evaluations are not done again."""

    spectrum: Sequence[str] = option((), "Spectral study of this data too; repeatable.")
    speed: bool | None = option(None, "Time again / never; default: what is new here.")
    engine: Literal["local", "ray"] = option("local", "In this process, or on a Ray cluster.", kept="asked")
    address: str | None = option(None, "With ray: auto, ray://HOST:PORT.")
    task_cpus: float = option(1.0, "With ray: CPUs of a configuration.", kept="asked")
    task_gpus: float | None = option(None, "With ray: GPUs, e.g. 0.5.", kept="asked")

    @property
    def ray(self) -> RayOptions | None:
        """How to use a cluster; None for this process.

        Raises:
            InputError: options of Ray without `--engine ray`, or invalid resources.
        """
        if self.engine == "local":
            if self.address is not None or self.task_gpus is not None or self.task_cpus != 1:
                raise InputError("--address, --task-cpus and --task-gpus need --engine ray. Add it, or leave them out.")
            return None
        gpus = float(self.device.startswith("cuda")) if self.task_gpus is None else self.task_gpus
        if not (0 < self.task_cpus < math.inf and 0 <= gpus < math.inf):
            raise InputError("--task-cpus, --task-gpus: out of range. Give a number above 0, and a number from 0.")
        return RayOptions(self.address, self.task_cpus, gpus, tuple(self.include))

    @property
    def timing(self) -> Timing:
        """Which configurations to time."""
        timings: dict[bool | None, Timing] = {None: "new", True: "again", False: "never"}
        return timings[self.speed]


@dataclass(frozen=True, kw_only=True)
class SyncRequest(Json, Quiet, Paths, Home, Store, Evaluations):
    """Bring a suite's finished evaluations from the ledger to MLflow; evaluates nothing.

    The options must be those of the run, because they are part of a configuration's key.
    """


SETTINGS = tuple(each.name for each, about in options(RunRequest) if about.kept == "setting")
"""Options that records keep as settings of how models are run."""

ASKED = tuple(each.name for each, about in options(RunRequest) if about.kept == "asked")
"""Options that records keep as they were asked for, beside the choices of models, quantizations and tasks."""

FILES = ("catalogues", "include")
"""Those of them that are paths."""


CHOICES = ("models", "quantizations", "overrides", "tasks")
"""What chooses evaluations; which ones follows from the records themselves."""


def asked(request: Evaluations) -> dict[str, Any]:
    """The options of a command line that a record keeps beside its settings, as JSON; defaults are left out."""
    kept = [each for each, about in options(type(request)) if about.kept == "asked" or each.name in CHOICES]
    given = {each.name: plain(getattr(request, each.name)) for each in kept}
    return {"suite": request.suite} | {e.name: given[e.name] for e in kept if given[e.name] != plain(e.default)}
