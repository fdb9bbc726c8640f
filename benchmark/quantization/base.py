"""The quantizer interface: its declaration, its checks, and the job of quantizing one tower."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor, nn

from benchmark.errors import QuantizationError, SpecError, UnknownNameError
from benchmark.models.base import ClipModel
from benchmark.quantization.calibrate import Source, Store
from benchmark.quantization.calibration import Calibration
from benchmark.quantization.graphs.graph import Graph
from benchmark.quantization.state import LayerState, put
from benchmark.spec import QuantSpec, Tower
from benchmark.utils.progress import Progress

Granularity = Literal["tensor", "channel", "group"]
Kernel = Literal["simulated", "real"]
Kind = Literal["quantization", "control", "artifact"]
O = TypeVar("O", bound="Options")  # noqa: E741 - the usual name of a type variable for options

WEIGHT_FIELDS = frozenset({"weight_bits", "weight_granularity", "group_size", "symmetric", "overrides"})
ACTIVATION_FIELDS = frozenset({"activation_bits", "activation_granularity", "activation_symmetric"})
COMMON_FIELDS = frozenset({"scope", "skip"})


class Options(BaseModel):
    """A method's own options; subclasses add fields with lower-case alphanumeric names and defaults."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True)
class Target:
    """A layer that is to be quantized, with skip patterns and overrides already resolved.

    Attributes:
        name: full dotted name within the model.
        layer: the Linear or Conv2d.
        bits: bits of its weight, None where the weight stays in full precision.
        granularity: of its weight.
        group_size: consecutive input weights that share a scale, for granularity "group".
    """

    name: str
    layer: nn.Linear | nn.Conv2d
    bits: int | None
    granularity: Granularity
    group_size: int | None

    @property
    def rows(self) -> int:
        """Output channels."""
        return self.layer.weight.shape[0]

    @property
    def columns(self) -> int:
        """Weights per output channel (input features of a Linear)."""
        return self.layer.weight[0].numel()


@dataclass(frozen=True)
class LayerRecord:
    """What was done to one layer.

    Attributes:
        name, kind, shape: the layer and its weight's shape.
        bits: bits per weight code; 32 where the weight stayed in full precision.
        granularity: "tensor", "channel", "group 64", "block 64", ... in words.
        packed_bits: bits of all codes, scales (float32), zero points and the transformation of the input together.
        relative_error: ||W_q - W||_F / ||W||_F, the input transformation undone.
        sqnr_db: 10 log10(||W||^2 / ||W_q - W||^2); None when the error is zero.
        engine: how its forward pass is computed.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    bits: float
    granularity: str
    packed_bits: int
    relative_error: float
    sqnr_db: float | None
    engine: str


@dataclass
class TowerJob:
    """The quantization of one tower: the model is a clone, `targets` are its layers that must be replaced.

    `notes` collects remarks for the report (a layer that could not be folded, ...); `kept`, if given, the states of the
    replaced layers by name, to store the model. A method that makes the tower a graph puts the changed model into
    `model` and the graph into `graphs`.
    """

    model: ClipModel
    tower: Tower
    spec: QuantSpec
    targets: dict[str, Target]
    calibration: Calibration | None
    progress: Progress
    exact_float: bool = False
    statistics: Store | None = None
    notes: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    kept: dict[str, LayerState] | None = None
    graphs: dict[Tower, Graph] = field(default_factory=dict)

    def source(self, stage: str = "plain", transforms: Mapping[str, nn.Module] | None = None) -> Source:
        """The source of this job's calibration statistics.

        Raises:
            QuantizationError: there is no calibration data.
        """
        if self.calibration is None:
            raise QuantizationError(f"quantization '{self.spec.name}' needs calibration data")
        return Source(self.model, self.tower, self.calibration, stage, transforms or {}, self.statistics)

    def linears(self) -> dict[str, nn.Linear]:
        """The target layers that are Linears, by name."""
        return {name: target.layer for name, target in self.targets.items() if isinstance(target.layer, nn.Linear)}

    def replace(self, name: str, module: nn.Module) -> None:
        """Replace the layer called `name` by a module, under all its names if it is shared."""
        put(self.model.module, name, module)


@dataclass(frozen=True)
class Quantizer(ABC):
    """A quantization method. Instances are registered under their `name` (entry points `reliquant.quantizers`).

    Attributes:
        name: the method's name in short names.
        version: raise it when the method's numbers can change.
        title, paper: one line each for `reliquant list quantizers`.
        fields: the QuantSpec fields that it takes, beside `method`.
        runs_on: device types.
        kernel: "real" where the quantized arithmetic itself runs, "simulated" where float arithmetic imitates it.
        needs_calibration: whether it always needs data; static activation ranges need them with any method.
    """

    name: str
    version: int
    title: str
    paper: str
    fields: frozenset[str]
    runs_on: tuple[str, ...] = ("cpu", "cuda")
    kernel: Kernel = "simulated"
    needs_calibration: bool = False
    required: frozenset[str] = frozenset()
    options: ClassVar[type[Options]] = Options
    layer_types: ClassVar[tuple[type[nn.Module], ...]] = (nn.Linear, nn.Conv2d)
    kind: ClassVar[Kind] = "quantization"
    keeps_taps: ClassVar[bool] = True
    """Whether features inside the quantized image tower can be read."""
    keeps: ClassVar[str] = "LayerNorm, softmax, residual sums, embeddings, logit scale and bias stay in float32"
    """What it leaves in full precision, for the report."""

    def check(self, spec: QuantSpec) -> None:
        """Refuse a quantization that this method cannot do, before any work.

        Raises:
            SpecError: names the field, and the fields that the method takes.
        """
        default = QuantSpec()
        asked = [f for f in QuantSpec.model_fields if f not in ("method", "calibration")]
        given = [f for f in asked if getattr(spec, f) != getattr(default, f)]
        takes = ", ".join(sorted(self.fields)) or "no field"
        for name in given:
            if name not in self.fields:
                raise SpecError(f"quantization '{spec.name}': {self.name} does not take {name}; it takes {takes}")
        for name in sorted(self.required):
            if getattr(spec, name) is None:
                raise SpecError(f"quantization '{spec.name}': {self.name} needs {name}")
        self.read_options(spec, self.options)
        if spec.calibration is not None and not self.requires_calibration(spec):
            raise SpecError(
                f"quantization '{spec.name}': {self.name} looks at no calibration data here. "
                f"Leave out calibration_{spec.calibration}."
            )

    def check_available(self, device: str) -> None:
        """Refuse a device (or a missing library) that the method cannot run on.

        Raises:
            QuantizationError: says where it can run.
        """
        if device not in self.runs_on:
            raise QuantizationError(f"{self.name} does not run on {device}; it runs on {', '.join(self.runs_on)}")

    @property
    def graph_version(self) -> int | None:
        """Version of the graph that a tower becomes before it is quantized; part of the content hash. None in torch."""
        return None

    def runtime_float(self, model: ClipModel, store: Store | None, progress: Progress) -> ClipModel | None:
        """The model in full precision on the runtime that this method quantizes for; None where that is torch."""
        return None

    def requires_calibration(self, spec: QuantSpec) -> bool:
        """Whether this quantization uses calibration data."""
        return self.needs_calibration or spec.activation_granularity == "tensor"

    def depends_on(self, spec: QuantSpec) -> tuple[QuantSpec, ...]:
        """Other quantizations whose result this one uses; their content is part of this one's hash."""
        return ()

    def read_options(self, spec: QuantSpec, kind: type[O]) -> O:
        """The method's own options, validated.

        Raises:
            SpecError: an option that the method does not know, or a value out of range.
        """
        try:
            return kind.model_validate(dict(spec.options))
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]
            name = str(problem["loc"][0]) if problem["loc"] else "options"
            if problem["type"] == "extra_forbidden":
                raise SpecError(
                    f"quantization '{spec.name}': {UnknownNameError('option', name, kind.model_fields)}"
                ) from None
            message = problem["msg"].removeprefix("Value error, ")
            raise SpecError(
                f"quantization '{spec.name}': option {name}: {message} (got {problem.get('input')!r})"
            ) from None

    @abstractmethod
    def quantize_tower(self, job: TowerJob) -> list[LayerRecord]:
        """Rewrite the target layers of one tower in place; one record per replaced layer.

        A target that the method cannot replace goes to `job.skipped` with the reason. The towers are independent
        of each other: nothing may depend on the other tower. Where `job.kept` is given, it gets each layer's state.
        """

    def rebuild(
        self, spec: QuantSpec, layer: nn.Linear | nn.Conv2d, state: LayerState, exact_float: bool = False
    ) -> tuple[nn.Module, str]:
        """Build a layer from its stored state; also returns its engine.

        Args:
            layer: the layer to replace, on its device; its bias is right, its weight may hold anything.

        Raises:
            QuantizationError: this method's layers cannot be stored. ModelError: the state is damaged.
        """
        raise QuantizationError(f"{self.name}: its layers have no stored form. Export another method.")

    @property
    def is_stored(self) -> bool:
        """Whether its layers have a stored form, so that `export` writes a model that runs as this one does."""
        return type(self).rebuild is not Quantizer.rebuild

    def describe(self) -> dict[str, Any]:
        """What `reliquant list quantizers` shows."""
        return {
            "name": self.name,
            "title": self.title,
            "paper": self.paper,
            "fields": sorted(self.fields),
            "options": {
                key: None if info.is_required() else info.default for key, info in self.options.model_fields.items()
            },
            "runs_on": list(self.runs_on),
            "kernel": self.kernel,
            "kind": self.kind,
            "needs_calibration": self.needs_calibration,
            "version": self.version,
        }


@dataclass(frozen=True)
class Control:
    """A change of image features that is evaluated in place of a quantization.

    Attributes:
        change: (normalised pixels (B, 3, H, W), features before L2 normalisation (B, D)) -> features (B, D); what it
            does to one image must not depend on the others of its batch.
        figures: numbers for the report, e.g. `noise_to_signal`.
        notes: remarks for the report.
        temperature: factor of the logit scale, above 0; 1 leaves it.
    """

    change: Callable[[Tensor, Tensor], Tensor]
    figures: Mapping[str, float]
    notes: tuple[str, ...] = ()
    temperature: float = 1.0


class FeatureControl(Quantizer):
    """A control: weights stay as they are, the vision tower's pooled features are changed before normalisation.

    Or the logit scale is, where the control is a temperature.

    It is evaluated by the same tasks as a quantization, so that both can be compared.
    """

    kind: ClassVar[Kind] = "control"

    @abstractmethod
    def control(
        self,
        model: ClipModel,
        spec: QuantSpec,
        calibration: Calibration,
        quantized: Callable[[QuantSpec], ClipModel],
    ) -> Control:
        """The change of features, measured on calibration images; `quantized` returns the model to imitate."""

    def quantize_tower(self, job: TowerJob) -> list[LayerRecord]:
        """A control has no layers to replace.

        Raises:
            QuantizationError: always; `benchmark.quantization.quantize` calls `control` instead.
        """
        raise QuantizationError(
            f"{self.name}: a control changes features, not layers. Call benchmark.quantization.quantize."
        )


def named_tensors(layers: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Parameters and buffers of layers by full name."""
    found: dict[str, Tensor] = {}
    for name, layer in layers.items():
        for key, value in [*layer.named_parameters(), *layer.named_buffers()]:
            found[f"{name}.{key}"] = value
    return found
