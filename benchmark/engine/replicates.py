"""Evaluations repeated without some of the images, from which the error of any metric is estimated."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmark.bank import FeatureBank
from benchmark.engine.banks import Caches
from benchmark.engine.evaluate import run_comparison, run_task
from benchmark.engine.holding import Models
from benchmark.engine.plan import Evaluation, Plan
from benchmark.errors import PluginError, ReliquantError
from benchmark.plugins import Banks, Outcome
from benchmark.spec import FP32, QuantSpec
from benchmark.utils.guard import described
from benchmark.utils.progress import Silent

GROUPS = 10


@dataclass
class Replicates:
    """Leave-one-group-out metrics, computed from the cached features of an evaluation.

    Attributes:
        models: shared with the evaluating runs, to recompute features that the cache has lost.
    """

    home: Path
    models: Models
    pixel_budget: int
    skip_broken: bool
    _groups: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    _full: dict[tuple[str, int], Outcome] = field(default_factory=dict)

    def of(self, plan: Plan, quant: QuantSpec) -> list[dict[str, float]]:
        """For each group the metrics without it, by full key; compared with full precision where that came before.

        Args:
            plan: the same evaluations each time.

        Raises:
            ReliquantError: a metric has no value without some group.
        """
        configuration = next(c for c in plan.configurations if c.quant == quant)
        caches = Caches.open(self.home / "cache", self.pixel_budget, self.skip_broken)
        holder = self.models.holder(configuration.model, plan.settings.device)
        maker = caches.maker(plan, configuration, holder, Silent())
        found: list[dict[str, float]] = [{} for _ in range(GROUPS)]
        for evaluation in configuration.evaluations:
            banks = {
                role: [maker.bank(name, evaluation.taps) for name in names] for role, names in evaluation.roles.items()
            }
            texts = maker.texts(evaluation.texts)
            for group in range(GROUPS):
                rest = {role: [self._without(bank, group) for bank in some] for role, some in banks.items()}
                given, seconds = Banks(rest, evaluation.options, texts), plan.settings.task_timeout
                found[group] |= self._metrics(evaluation, given, group, quant == FP32, seconds)
        return found

    def _metrics(
        self, evaluation: Evaluation, banks: Banks, group: int, full: bool, seconds: float | None
    ) -> dict[str, float]:
        try:
            outcome = run_task(evaluation.task, banks, seconds)
        except ReliquantError:
            raise
        except Exception as error:  # a plugin's task may raise anything
            raise PluginError(f"task '{evaluation.task.name}' raised {described(error)}") from error
        if full:
            self._full[evaluation.name, group] = outcome
        reference = self._full.get((evaluation.name, group))
        compared: Mapping[str, float] = {}
        if reference and not full:
            compared = run_comparison(evaluation, outcome, reference, seconds).metrics
        return {f"{evaluation.name}/{key}": float(value) for key, value in {**outcome.metrics, **compared}.items()}

    def _without(self, bank: FeatureBank, group: int) -> FeatureBank:
        """A bank without the images of a group; the corrupted versions of an image are in its group."""
        groups = self._groups.get(bank.dataset)
        if groups is None or len(groups) != len(bank):
            groups = self._groups[bank.dataset] = group_of(bank.sample_id)
        return bank.take(groups != group)


def group_of(ids: NDArray[np.str_], groups: int = GROUPS) -> NDArray[np.int64]:
    """(N,) group of each image, by a hash of its id alone."""
    return np.array(
        [int.from_bytes(hashlib.sha256(f"group {name}".encode()).digest()[:8], "big") % groups for name in ids]
    )
