"""What a worker of a cluster does: some evaluations of one configuration, from an order that travels to an answer.

A worker process keeps the model of its last order, and a plan goes model by model: it loads a model, and maps its
pixels, about once.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmark.engine.banks import Caches
from benchmark.engine.evaluate import Result, embed, evaluate, failure
from benchmark.engine.holding import ModelHolder
from benchmark.engine.plan import Configuration, Plan, Settings, make_plan
from benchmark.engine.provenance import provenance
from benchmark.errors import InputError, NonFiniteError, QuantizationError, ReliquantError
from benchmark.progress import Silent
from benchmark.spec import SuiteSpec


@dataclass(frozen=True)
class Order:
    """What a worker is to do: some evaluations of one configuration."""

    suite: SuiteSpec
    settings: Settings
    configuration: str
    evaluations: tuple[str, ...]
    home: Path
    home_mark: str
    with_report: bool
    check_inputs: bool
    pixel_budget: int
    skip_broken: bool
    threads: int
    include: tuple[Path, ...]
    folder: Path
    environment: Mapping[str, str]


@dataclass(frozen=True)
class Answer:
    """What a worker found: results by evaluation key; `refused` where the inputs cannot be used at all."""

    results: Mapping[str, Result] = field(default_factory=dict)
    report: Mapping[str, Any] | None = None
    forward_images: int = 0
    damaged: tuple[str, ...] = ()
    refused: str | None = None


_held: dict[str, ModelHolder] = {}
_included: set[Path] = set()


def work(order: Order) -> Answer:
    """Evaluate on a worker.

    What makes all work impossible here is an answer that stops the sweep; what fails for one configuration is recorded.
    """
    import torch

    os.environ.update({name: value for name, value in order.environment.items() if name not in os.environ})
    if order.folder.is_dir():
        os.chdir(order.folder)  # where the suite's relative paths begin
    torch.set_num_threads(order.threads)
    try:
        _include(order.include)
        plan = make_plan(order.suite, order.settings)
    except ReliquantError as error:
        return Answer(refused=f"worker {platform.node()}: {error}")
    configuration = next((c for c in plan.configurations if c.key == order.configuration), None)
    if configuration is None:
        return Answer(
            refused=f"worker {platform.node()} names this evaluation otherwise than the driver: its reliquant, its "
            "data, its weights or its kind of device differ"
        )
    return _evaluated(order, plan, configuration)


def _evaluated(order: Order, plan: Plan, configuration: Configuration) -> Answer:
    pending = [e for e in configuration.evaluations if e.key in order.evaluations]
    about = {**provenance(plan, configuration), "host": platform.node()}
    caches = Caches.open(_cache(order), order.pixel_budget, order.skip_broken)
    maker = caches.maker(plan, configuration, _holder(configuration, order.settings.device), Silent())
    report = None
    try:
        if order.check_inputs:
            maker.check_inputs({name for e in configuration.evaluations for r in e.roles.values() for name in r})
        report = embed(maker, pending, order.with_report)
        results = {e.key: evaluate(maker, e, about) for e in pending}
    except Exception as error:  # the rest of the sweep goes on; the reason is recorded
        if order.check_inputs and isinstance(error, InputError | QuantizationError | NonFiniteError):
            return Answer(refused=f"worker {platform.node()}: {error}")
        results = {e.key: failure(error, about, order.settings.batch_size) for e in pending}
    return Answer(results, report, maker.forward_images, tuple(caches.damaged))


def _include(files: Sequence[Path]) -> None:
    from benchmark.include import include_files

    include_files([path for path in files if path not in _included])
    _included.update(files)


def _cache(order: Order) -> Path:
    """The results folder's cache where this host sees that folder, else one of its own."""
    try:
        shared = (order.home / "claims" / "mark").read_text(encoding="utf-8") == order.home_mark
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
