"""What a worker of a cluster does: some configurations of one model, from an order that travels to its answers.

The model is loaded once for an order. A worker process that lives on keeps the model of its last order, and a plan goes
model by model: it loads a model, and maps its pixels, about once.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmark.data import DataSets
from benchmark.engine.banks import Caches
from benchmark.engine.evaluate import Result, embed, evaluate, failure
from benchmark.engine.holding import ModelHolder
from benchmark.engine.plan import Configuration, Plan, Settings, make_plan
from benchmark.engine.provenance import provenance
from benchmark.errors import InputError, NonFiniteError, QuantizationError, ReliquantError, StorageError
from benchmark.spec import SuiteSpec
from benchmark.utils.guard import guarded
from benchmark.utils.progress import Silent
from benchmark.utils.signals import catch_interrupts


@dataclass(frozen=True)
class Job:
    """Some evaluations of one configuration, by their keys."""

    configuration: str
    evaluations: tuple[str, ...]
    with_report: bool


@dataclass(frozen=True)
class Order:
    """What a worker is to do: jobs of one model."""

    suite: SuiteSpec
    settings: Settings
    jobs: tuple[Job, ...]
    home: Path
    home_mark: str
    check_inputs: bool
    pixel_budget: int
    skip_broken: bool
    threads: int
    include: tuple[Path, ...]
    folder: Path
    environment: Mapping[str, str]


@dataclass(frozen=True)
class Answer:
    """What a worker found for a job: results by evaluation key.

    Attributes:
        refused: why no job can be done there: inputs that cannot be used, a cache that cannot be written.
    """

    results: Mapping[str, Result] = field(default_factory=dict)
    report: Mapping[str, Any] | None = None
    forward_images: int = 0
    damaged: tuple[str, ...] = ()
    refused: ReliquantError | None = None


_held: dict[str, ModelHolder] = {}
_included: set[Path] = set()
_sets = DataSets()


def work(order: Order) -> tuple[Answer, ...]:
    """Do the jobs of an order on a worker; an answer that refuses is the last.

    What makes all work impossible here is an answer that stops the sweep; what fails for one configuration is recorded.
    """
    import torch

    catch_interrupts()
    os.environ.update({name: value for name, value in order.environment.items() if name not in os.environ})
    if order.folder.is_dir():
        os.chdir(order.folder)  # where the suite's relative paths begin
    torch.set_num_threads(order.threads)
    try:
        _include(order.include)
        plan = guarded("reading the suite", lambda: make_plan(order.suite, order.settings, _sets))
    except ReliquantError as error:
        return (_refusal(error),)
    configurations = {c.key: c for c in plan.configurations}
    if any(job.configuration not in configurations for job in order.jobs):
        differ = "names this evaluation otherwise than the driver: its reliquant, its data, its weights or its kind of "
        return (Answer(refused=InputError(f"worker {platform.node()} {differ}device differ")),)
    answers: list[Answer] = []
    for job in order.jobs:
        answers.append(_evaluated(order, job, plan, configurations[job.configuration], first=not answers))
        if answers[-1].refused is not None:
            break
    return tuple(answers)


def _refusal(error: ReliquantError) -> Answer:
    kind = StorageError if isinstance(error, StorageError) else InputError
    return Answer(refused=kind(f"worker {platform.node()}: {error}"))


def _evaluated(order: Order, job: Job, plan: Plan, configuration: Configuration, first: bool) -> Answer:
    pending = [e for e in configuration.evaluations if e.key in job.evaluations]
    about = {**provenance(plan, configuration), "host": platform.node()}
    caches = Caches.open(_cache(order), order.pixel_budget, order.skip_broken)
    maker = caches.maker(plan, configuration, _holder(configuration, order.settings.device), Silent())
    report = None
    try:
        if order.check_inputs and first:
            names = {name for e in configuration.evaluations for r in e.roles.values() for name in r}
            guarded("checking the inputs", lambda: maker.check_inputs(names))
        report = embed(maker, pending, job.with_report)
        results = {e.key: evaluate(maker, e, about) for e in pending}
    except StorageError as error:
        return _refusal(error)
    except Exception as error:  # the rest of the sweep goes on; the reason is recorded
        if order.check_inputs and first and isinstance(error, InputError | QuantizationError | NonFiniteError):
            return _refusal(error)
        results = {e.key: failure(error, about, order.settings.batch_size) for e in pending}
    return Answer(results, report, maker.images_run, tuple(caches.damaged))


def _include(files: Sequence[Path]) -> None:
    from benchmark.engine.include import include_files

    include_files([path for path in files if path not in _included])
    _included.update(files)


def _cache(order: Order) -> Path:
    """The results folder's cache where this host sees that folder, else one of its own."""
    try:
        shared = (order.home / "leases" / "mark").read_text(encoding="utf-8") == order.home_mark
    except OSError:
        shared = False
    own = Path(os.environ.get("RELIQUANT_CACHE", "~/.cache/reliquant")).expanduser()
    return order.home / "cache" if shared else own


def _holder(configuration: Configuration, device: str) -> ModelHolder:
    digest = configuration.model.digest
    if digest not in _held:
        _held.clear()
        _held[digest] = ModelHolder(configuration.model, device)
    return _held[digest]
