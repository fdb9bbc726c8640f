"""The engine as a search problem: each quantization is one plan, run with the shared caches and ledger."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmark.data import DataSets
from benchmark.engine.holding import Models
from benchmark.engine.plan import Plan, Settings, make_plan
from benchmark.engine.request import Timing
from benchmark.engine.run import PIXEL_BUDGET, Sweep, run
from benchmark.errors import QuantizationError, SpecError
from benchmark.ledger.records import Ledger, Record
from benchmark.models import resolve as resolve_model
from benchmark.models.base import ClipModel
from benchmark.models.references import refuse_quantized
from benchmark.plugins import Better
from benchmark.quantization import quantizers
from benchmark.quantization.report import tower_sizes
from benchmark.quantization.targets import resolve
from benchmark.results.compare import Comparer
from benchmark.results.sizes import effective_bits, size
from benchmark.results.speed import ratio_of, timing_state
from benchmark.results.tables import declared, headline_keys
from benchmark.spec import FP32, ArtifactQuant, QuantSpec, SuiteSpec, Tower, digest
from benchmark.utils.progress import Progress, Silent

from .objective import EFFECTIVE_BITS, LATENCY, OWN, POINTS, SIZE, Problem
from .standing import Standing, difference, stand


@dataclass
class Engine:
    """Evaluates quantizations of a suite's one model; evaluations that the ledger has are not run again.

    Attributes:
        quiet: for the trials, which follow each other quickly; full precision reports to `progress`.
        timed: whether `latency_ratio` is measured, of what real kernels run.
        models, sets: kept for all trials, so that full precision is loaded once, and files are looked at once.
    """

    suite: SuiteSpec
    settings: Settings
    home: Path
    progress: Progress = field(default_factory=Silent)
    quiet: Progress = field(default_factory=Silent)
    pixel_budget: int = PIXEL_BUDGET
    skip_broken: bool = False
    forward_images: int = 0
    computed: int = 0
    timed: bool = False
    models: Models = field(default_factory=lambda: Models(keep=True))
    sets: DataSets = field(default_factory=DataSets)
    _found: dict[str, list[Record]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.suite.models) != 1:
            raise SpecError(
                f"suite '{self.suite.name}': it names {len(self.suite.models)} models, a search takes one. "
                "Choose it with --model REF."
            )
        refuse_quantized([resolve_model(self.suite.models[0])], "search")

    @cached_property
    def plan(self) -> Plan:
        """Full precision alone: checks the suite before any work."""
        return self.plan_of(FP32)

    @cached_property
    def _ledger(self) -> Ledger:
        return Ledger(self.home)

    @cached_property
    def _comparer(self) -> Comparer:
        return Comparer(self._ledger)

    @cached_property
    def reference(self) -> Sweep:
        """Full precision, evaluated."""
        return self._run(self.plan, self.progress)

    @cached_property
    def model(self) -> ClipModel:
        """The model without weights (on the meta device): names and shapes of its layers."""
        model = self.plan.configurations[0].model.load("cpu")
        model.module.to("meta")
        return model

    @property
    def problem(self) -> Problem:
        """The search problem. Evaluates full precision."""
        return Problem(self.evaluate, self.better, self.headline, self.standing, self.known_objectives)

    @property
    def headline(self) -> tuple[str, ...]:
        """The metrics that `reliability` is the mean of, also those that full precision has no value for.

        They are the suite's headline metrics; if it names none, for each evaluation the headline metric with the fewest
        parts, or the one that its task declares.
        """
        if self.suite.headline:
            return tuple(self.suite.headline)
        found = headline_keys(self.plan, self.reference.records)
        for evaluation in self.plan.configurations[0].evaluations:
            declared_ones = [metric.name for metric in evaluation.task.metrics if metric.headline]
            if declared_ones and not any(key.startswith(f"{evaluation.name}/") for key in found):
                found.append(f"{evaluation.name}/{declared_ones[0]}")
        return tuple(found)

    @property
    def contents(self) -> dict[str, str]:
        """Content hashes of model, data and tasks, by name: what a study's numbers depend on besides its space."""
        plan, [full] = self.plan, self.plan.configurations
        found = {"model": full.model.digest, "headline metrics": digest([POINTS, *self.suite.headline])}
        found |= {f"data set {name}": digest([d.digest, d.text_digest]) for name, d in plan.data.items()}
        for e in full.evaluations:
            roles = {role: list(names) for role, names in e.roles.items()}
            texts = {name: list(prompts) for name, prompts in e.texts.items()}
            about = [e.task.version, e.options.model_dump(mode="json"), roles, texts]
            found[f"task {e.name}"] = digest(about)
        return {name: value[:16] for name, value in found.items()}

    def evaluate(self, quant: QuantSpec) -> dict[str, float]:
        """All metrics of a quantization.

        Raises:
            QuantizationError: it cannot be made, or a task failed; gives the first reason.
        """
        sweep = self.reference if quant == FP32 else self._run(self.plan_of(quant), self.quiet)
        own = [r for r in sweep.records if r.quantization == quant.name]
        if failed := [record for record in own if record.status == "failed"]:
            raise QuantizationError(f"{failed[0].task}/{failed[0].dataset}: {failed[0].error}")
        self._found[quant.name] = own
        metrics = {key: value for record in own for key, value in record.metrics.items()}
        metrics |= self.sizes(sweep.reports.get(own[0].configuration, {"towers": {}}))
        return metrics | (self._latency(quant, sweep, own[0].configuration) if self.timed and quant != FP32 else {})

    def standing(self, quant: QuantSpec) -> Standing:
        """How an evaluated quantization compares with full precision."""
        self._ledger.refresh()
        bases = {record.name: record for record in self.reference.records}
        return stand(self._found[quant.name], bases, self._comparer, self.headline, self.suite.margins)

    def apart(self, one: QuantSpec, other: QuantSpec) -> float:
        """p value of the hypothesis that two evaluated quantizations are equally reliable; 1 where unknown."""
        found = difference(self._found[one.name], self._found[other.name], self._comparer, self.headline)
        return 1.0 if found.estimate is None else found.estimate.p

    def _latency(self, quant: QuantSpec, sweep: Sweep, configuration: str) -> dict[str, float]:
        """`latency_ratio`, timed now where this machine has no good times.

        Raises:
            QuantizationError: no real kernel runs it, or its times did not settle.
        """
        efficiency = sweep.efficiencies.get(configuration)
        if timing_state(efficiency) in ("not measured", "noisy", "failed"):
            efficiency = self._run(self.plan_of(quant), self.quiet, "again").efficiencies.get(configuration)
        state = timing_state(efficiency)
        if efficiency is None or state != "measured":
            reasons = {"simulated": "nothing that is shipped runs this way", "noisy": "its times did not settle"}
            raise QuantizationError(f"{quant.name} has no latency_ratio: {reasons.get(state, state)}")
        return {LATENCY: ratio_of(efficiency["speed"]).value}

    def better(self, key: str) -> Better:
        """A metric's better direction, as its task declares it."""
        return declared(self.plan)[key.split("/", 1)[0]].metric(key).better

    def known(self, key: str) -> bool:
        """Whether a task of the suite may report this metric, by its first two parts and its last one."""
        parts = key.split("/")
        names = {e.name: e.task for e in self.plan.configurations[0].evaluations}
        task = names.get("/".join(parts[:2]))
        return key in OWN or (task is not None and any(m.name == parts[-1] for m in task.metrics))

    def check(self, quant: QuantSpec) -> None:
        """Refuse a quantization that this model, suite or machine cannot do, so that it never becomes a trial.

        Raises:
            ReliquantError: the reason.
        """
        method = quantizers.get(quant.method)
        method.check(quant)
        method.check_available(self.settings.device.split(":")[0])
        self.plan.quant_key(quant)  # calibration data
        for tower in quant.towers:
            if not resolve(method, self.model, tower, quant)[0]:
                raise QuantizationError(
                    f"quantization '{quant.name}': it matches no layer of the {tower} tower. Choose another --scope."
                )

    @cached_property
    def shapes(self) -> dict[str, Mapping[Tower, int]]:
        """Weights and parameters of the towers, as a QuantizationReport has them."""
        weights, parameters = tower_sizes(self.model)
        return {"weights": weights, "parameters": parameters}

    def sizes(self, report: Mapping[str, Any]) -> dict[str, float]:
        """`effective_bits` and `size_mb` (both towers' parameters, packed where quantized, float32 elsewhere)."""
        found = size({**report, **self.shapes})
        return {} if found is None else {EFFECTIVE_BITS: found.effective_bits, SIZE: found.megabytes}

    def known_objectives(self, quant: QuantSpec) -> dict[str, float]:
        """`effective_bits` computed from the shapes alone; empty for methods where the shapes do not determine it.

        Counts the codes, one float32 scale per row, group or tensor, and for asymmetric codes a zero point of as many
        bits as a code; methods without `symmetric` have others. Input transformations (AWQ, rotations) are not counted.
        """
        if quant.weight_bits is None or "symmetric" not in quantizers.get(quant.method).fields:
            return {}
        packed, done = 0, 0
        for tower in quant.towers:
            for target in resolve(quantizers.get(quant.method), self.model, tower, quant)[0].values():
                weights = target.rows * target.columns
                scales = {"tensor": 1, "channel": target.rows, "group": weights // (target.group_size or weights)}
                zero_point = 0 if quant.symmetric else target.bits or 0
                own = scales[target.granularity] * (32 + zero_point) + weights * (target.bits or 0)
                packed, done = packed + (own if target.bits else 32 * weights), done + weights
        return {EFFECTIVE_BITS: effective_bits(packed, done, sum(self.shapes["weights"].values()))}

    def plan_of(self, quant: QuantSpec) -> Plan:
        """Full precision and one quantization, or one artifact of the suite."""
        update: dict[str, Any] = {"quantizations": (quant.name,), "artifacts": {}, "further_calibration": ()}
        if isinstance(quant, ArtifactQuant):
            update = {"quantizations": (), "artifacts": {quant.name: self.suite.artifacts[quant.name]}}
        return make_plan(self.suite.model_copy(update=update), self.settings, self.sets)

    def _run(self, plan: Plan, progress: Progress, timing: Timing | None = None) -> Sweep:
        self._ledger.refresh()
        sweep = run(
            plan,
            self.home,
            progress=progress,
            pixel_budget=self.pixel_budget,
            skip_broken=self.skip_broken,
            compare=False,
            timing=timing or ("new" if self.timed else "never"),
            models=self.models,
            ledger=self._ledger,
        )
        self.forward_images += sweep.forward_images
        self.computed += sweep.computed
        return sweep
