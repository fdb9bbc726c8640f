"""What a user asks for, as frozen pydantic models: YAML in, content hash out.

Nothing here reads data or loads a model; the registries are consulted by `benchmark.engine.plan`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from benchmark.errors import SpecError, UnknownNameError
from benchmark.spec.problems import first_problem
from benchmark.spec.scalars import Scalar, option_pairs, sorted_pairs
from benchmark.spec.short_name import format_short_name, read_short_name
from benchmark.utils.content_hash import digest

Scope = Literal["vision", "text", "vision+text"]
Tower = Literal["vision", "text"]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
"""A name that stands in metric keys and file names: no slash, no blank, at most 64 characters."""

HUB_ID = r"(?!buckets/)[A-Za-z0-9](?:[\w-]|\.(?!\.))*(?:/[A-Za-z0-9_](?:[\w-]|\.(?!\.))*)?(?<!\.py)(?<!\.)"
"""`NAME` or `ORG/NAME` on the hub; no path, no `..`, no script."""

S = TypeVar("S", bound=BaseModel)
OptionName = Annotated[str, Field(pattern=r"^[a-z0-9]+$")]
Text = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(ge=1, le=10**12)]


class Frozen(BaseModel):
    """Base of all specifications: immutable, unknown fields, NaN and infinity refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def digest(self) -> str:
        """Content hash of all fields."""
        return digest(self.model_dump(mode="json"))


class Override(Frozen):
    """Other weight bits for the layers whose name matches a glob pattern (mixed precision)."""

    pattern: Text
    bits: int = Field(ge=2, le=8)


class QuantSpec(Frozen):
    """One quantization. `name` is its short name and parses back to it (`benchmark.spec.short_name`).

    Bits of weights are 2-8 and of activations 4-8; None leaves them in full precision. Weights are quantized per
    tensor, per output channel, or per group of `group_size` consecutive input channels; activations per tensor
    (static, calibrated) or per token (dynamic). Fixed formats (bitsandbytes) take `scope` and `skip` only.
    `calibration` is the data set of the suite that it is calibrated on, None the suite's own.
    """

    method: str = Field(default="fp32", pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")
    weight_bits: int | None = Field(default=None, ge=2, le=8)
    activation_bits: int | None = Field(default=None, ge=4, le=8)
    weight_granularity: Literal["tensor", "channel", "group"] | None = None
    group_size: int | None = Field(default=None, ge=1, le=65536)
    activation_granularity: Literal["tensor", "token"] | None = None
    symmetric: bool = True
    activation_symmetric: bool = True
    scope: Scope = "vision"
    skip: tuple[Text, ...] = ()
    overrides: tuple[Override, ...] = ()
    options: Annotated[tuple[tuple[OptionName, Scalar], ...], BeforeValidator(option_pairs)] = ()
    calibration: Name | None = None

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, data: Any) -> Any:
        """Fill the granularity that the given bits imply, so that equal quantizations have equal hashes."""
        if isinstance(data, dict):
            data = dict(data)
            if data.get("weight_bits") is not None and data.get("weight_granularity") is None:
                data["weight_granularity"] = "group" if data.get("group_size") is not None else "channel"
            if data.get("activation_bits") is not None and data.get("activation_granularity") is None:
                data["activation_granularity"] = "token"
        return data

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.weight_granularity == "group") != (self.group_size is not None):
            raise ValueError("group_size and weight_granularity 'group' go together")
        if self.weight_bits is None and (self.weight_granularity or self.overrides or not self.symmetric):
            raise ValueError("weight_granularity, overrides and symmetric: false need weight_bits")
        if self.activation_bits is None and (self.activation_granularity or not self.activation_symmetric):
            raise ValueError("activation_granularity and activation_symmetric: false need activation_bits")
        if self.method == "fp32" and self != QuantSpec.model_construct(**_FP32):
            raise ValueError("method 'fp32' takes no other field")
        return self

    @property
    def name(self) -> str:
        """Short name, e.g. `rtn-w4a8-channel-token-vision`."""
        return format_short_name(self)

    @property
    def towers(self) -> tuple[Tower, ...]:
        """The towers that the scope names, none for full precision."""
        if self.method == "fp32":
            return ()
        return {"vision": ("vision",), "text": ("text",), "vision+text": ("vision", "text")}[self.scope]  # type: ignore[return-value]

    def option(self, key: str, default: Scalar | None = None) -> Scalar | None:
        """A method's own option, e.g. `alpha` of SmoothQuant."""
        return dict(self.options).get(key, default)

    def for_tower(self, tower: Tower) -> QuantSpec:
        """What this quantization does to one tower: full precision where the scope leaves it out.

        Methods treat the towers independently, so `...-vision` and `...-vision+text` share their image features.
        """
        return self.model_copy(update={"scope": tower}) if tower in self.towers else FP32


_FP32: dict[str, Any] = {name: field.default for name, field in QuantSpec.model_fields.items()}
FP32 = QuantSpec.model_construct(**_FP32)


class ArtifactQuant(QuantSpec):
    """What an artifact is in the place of a quantization: `method` is its runtime, `scope` the towers that it has.

    Its name is the user's own and is no short name: it cannot be parsed.
    """

    label: Name

    @property
    def name(self) -> str:
        """The artifact's name."""
        return self.label


def _possible_path(text: str) -> str:
    """Refuse what the file system would answer with an error of its own."""
    if re.search(r"[\x00-\x1f\x7f]", text):
        raise ValueError("holds a control character")
    sizes = [len(part.encode("utf-8", "replace")) for part in text.split("/")]
    if sum(sizes) + len(sizes) > 4096 or max(sizes) > 255:
        raise ValueError("is too long: at most 255 bytes between slashes, and 4096 together")
    for part in (text, text.partition(":")[2], text.partition("/")[2]):
        try:
            Path(part).expanduser()
        except RuntimeError:
            raise ValueError("begins with ~ and no user of this machine; give the full path") from None
    return text


Place = Annotated[str, AfterValidator(_possible_path)]
"""A text that may be the path of a file."""
FilePlace = Annotated[Place, Field(min_length=1)]


class ModelFacts(Frozen):
    """What is known about a model besides its files; no number of an evaluation depends on it.

    `architecture` is that of the image tower, `pretraining` the source of the training data, `parameters` the number of
    weights, `top1` the published zero-shot accuracy on ImageNet-1k (a fraction). `benchmark.spec.models` knows them for
    many models; a suite says them of its own, for `reliquant compare --by`.
    """

    family: Text | None = None
    architecture: Literal["transformer", "convnet", "hybrid"] | None = None
    pretraining: Text | None = None
    parameters: Count | None = None
    top1: float | None = Field(default=None, ge=0, le=1)


class ModelSpec(ModelFacts):
    """A CLIP-like model: `demo`, `NAME/PRETRAINED`, `hf-hub:ORG/NAME[@REVISION]`, `local-dir:PATH` or a weight file."""

    ref: Place = Field(min_length=1)
    name: Name | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, data: Any) -> Any:
        return {"ref": data} if isinstance(data, str) else data


class ArtifactSpec(Frozen):
    """A file that somebody ships: another implementation of one or both towers of a model (`benchmark.runtimes`).

    `file` has the image tower, `text` the text tower; a file of features may have both. `model` is the suite's model
    (its reference or name) that it is made from, to be named where the suite has several; `runtime` is told by the
    file's suffix; `scope` defaults to the towers that there are.
    """

    file: FilePlace | None = None
    text: FilePlace | None = None
    model: Text | None = None
    runtime: Text | None = None
    scope: Scope | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, data: Any) -> Any:
        return {"file": data} if isinstance(data, str) else data

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.file is None and self.text is None:
            raise ValueError("it names no file; give file: PATH (image tower), text: PATH (text tower) or both")
        if self.file is None and self.scope in ("vision", "vision+text"):
            raise ValueError(f"scope {self.scope} needs the image tower; give file: PATH")
        return self


def _quoted(value: Any) -> Any:
    """A list of texts as it is; YAML reads plain numbers, yes, no and {} as something else, which is said."""
    if isinstance(value, list | tuple):
        for place, entry in enumerate(value, 1):
            if not isinstance(entry, str):
                raise ValueError(f"entry {place} reads as {entry!r}, not as text; put entries in quotes: {_EXAMPLE}")
    elif not isinstance(value, str) and value is not None:
        raise ValueError(f"reads as {value!r}, neither a list nor a name; put entries in quotes: {_EXAMPLE}")
    return value


_EXAMPLE = '["0", "1"], ["yes", "no"]'
ClassList = Annotated[str | tuple[str, ...], Field(min_length=1), BeforeValidator(_quoted)]


class DataSpec(Frozen):
    """One data set, or a group of corrupted versions of one (`corruptions` x `severities`).

    `classes` and `templates`: None takes what comes with the data; a list gives them; a string names a built-in
    (`imagenet`) or a text file with one entry a line. Class names meet the data's own by name, in any order;
    `classes_by: position` pairs them in order instead. `allow_equal_prompts` accepts classes that the model cannot tell
    apart, `allow_empty_classes` classes whose images are all left out. `text: captions` makes every image's own caption
    its class (image-caption pairs). `published` names the published data set that this is: full precision is compared
    with the accuracies of `benchmark.spec.published`. `options` are the source's own fields.
    """

    source: str
    path: Place | None = None
    split: Place | None = None
    classes: ClassList | None = None
    classes_by: Literal["name", "position"] = "name"
    allow_equal_prompts: bool = False
    allow_empty_classes: bool = False
    templates: ClassList | None = None
    text: Literal["classes", "captions", "none"] = "classes"
    limit: Count | None = None
    corruptions: Annotated[tuple[str, ...], Field(min_length=1)] | Literal["all", "extra"] | None = None
    severities: Annotated[tuple[Annotated[int, Field(ge=1, le=5)], ...], Field(min_length=1)] = (1, 2, 3, 4, 5)
    corruption: str | None = None
    severity: int | None = Field(default=None, ge=1, le=5)
    published: Text | None = None
    options: Annotated[tuple[tuple[str, JsonValue], ...], BeforeValidator(sorted_pairs)] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.corruption is None) != (self.severity is None):
            raise ValueError("corruption and severity go together")
        if self.corruption is not None and self.corruptions is not None:
            raise ValueError("give either corruption (one) or corruptions (a group)")
        return self

    def option(self, key: str, default: Any = None) -> Any:
        """A source's own option."""
        return dict(self.options).get(key, default)


class BindingSpec(Frozen):
    """What a task is evaluated on: each role names one data set or several; `options` are the task's own."""

    roles: dict[str, Annotated[str | tuple[str, ...], Field(min_length=1)]]
    options: dict[str, JsonValue] = {}

    @model_validator(mode="before")
    @classmethod
    def _flat(cls, data: Any) -> Any:
        """`{test: scenes, options: {...}}` is short for `{roles: {test: scenes}, options: {...}}`."""
        if isinstance(data, dict) and "roles" not in data:
            data = dict(data)
            return {"options": data.pop("options", {}), "roles": data}
        return data

    def data(self, role: str) -> tuple[str, ...]:
        """Names of the data sets bound to a role."""
        bound = self.roles[role]
        return (bound,) if isinstance(bound, str) else bound


class SuiteSpec(Frozen):
    """A benchmark suite: models x quantizations x tasks on named data sets.

    `validation` names for a data set the one that a search chooses on in its stead (`search.splits`). `margins`:
    metric key, or a pattern of keys with `*`, -> what counts as equal in place of what the task declares. `artifacts`
    are configurations like the quantizations, each under its name. `skip_unavailable`: quantizations that this machine
    cannot run (no such kernel, an extra that is not installed) are left out, each with a line that says why.
    `spectrum`: data sets with a spectral study of the joint space after each run, from the features that the run made.
    `calibration: [A, B, C]` stands for the calibration set A and `further_calibration: [B, C]`: what looks at
    calibration data is quantized on each of them, under names with `calibration_B`.
    """

    name: Name
    version: int = Field(ge=1, le=10**9)
    description: str = ""
    models: tuple[ModelSpec, ...] = Field(min_length=1)
    quantizations: tuple[str, ...] = ()
    artifacts: dict[Name, ArtifactSpec] = {}
    skip_unavailable: bool = False
    calibration: Name | None = None
    further_calibration: tuple[Name, ...] = ()
    validation: dict[Name, Name] = {}
    data: dict[Name, DataSpec]
    tasks: dict[str, Annotated[dict[Name, BindingSpec], Field(min_length=1)]] = Field(min_length=1)
    headline: tuple[str, ...] = ()
    margins: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = {}
    spectrum: tuple[Name, ...] = ()
    limit: Count | None = None

    @model_validator(mode="before")
    @classmethod
    def _bases(cls, content: Any) -> Any:
        """`{base: NAME, ...}` stands for the fields of data set NAME with the others put over them."""
        if isinstance(content, dict) and isinstance(content.get("calibration"), list):
            first, *further = content["calibration"] or [None]
            content = {**content, "calibration": first, "further_calibration": further}
        sets = content.get("data") if isinstance(content, dict) else None
        if not isinstance(sets, dict):
            return content
        merged = {}
        for name, spec in sets.items():
            base = spec.get("base") if isinstance(spec, dict) else None
            if base is not None:
                if not isinstance(base, str) or not isinstance(sets.get(base), dict) or "base" in sets[base]:
                    raise ValueError(f"data.{name}.base: '{base}' is not a data set of this suite with its own source")
                merged[name] = {**sets[base], **{key: value for key, value in spec.items() if key != "base"}}
            else:
                merged[name] = spec
        return {**content, "data": merged}

    @property
    def calibrations(self) -> tuple[str, ...]:
        """The calibration sets that the suite names, its own first."""
        return (*([self.calibration] if self.calibration else []), *self.further_calibration)

    @model_validator(mode="after")
    def _references(self) -> Self:
        if len(set(self.calibrations)) < len(self.calibrations):
            raise ValueError(f"calibration: {', '.join(self.calibrations)} names a data set twice; name each once")
        if not self.quantizations and not self.artifacts:
            raise ValueError("quantizations: none given; name at least one, or an artifact")
        used: dict[str, tuple[str, ...]] = {"calibration": self.calibrations}
        for task, bindings in self.tasks.items():
            for label, binding in bindings.items():
                used |= {f"tasks.{task}.{label}.{role}": binding.data(role) for role in binding.roles}
        used |= {f"validation.{name}": (name, other) for name, other in self.validation.items()}
        used["spectrum"] = self.spectrum
        for where, names in used.items():
            for name in names:
                if name not in self.data:
                    raise ValueError(f"{where}: {UnknownNameError('data set', name, self.data)}")
        return self


def parse_spec(kind: type[S], data: Any, where: str, place: Callable[[str], str] | None = None) -> S:
    """Validate `data` as a specification; the first problem becomes one clear line.

    Args:
        place: field -> where it stands in the file that `data` comes from; empty where it is not known.

    Raises:
        SpecError: names `where` (a file or option), the field, and what would be right.
    """
    children: dict[str, type[BaseModel]] = {
        "data": DataSpec,
        "tasks": BindingSpec,
        "models": ModelSpec,
        "artifacts": ArtifactSpec,
    }
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        problem = first_problem(kind, children, error)
        found = place(problem.partition(": ")[0]) if place else ""
        raise SpecError(f"{where}: {problem.rstrip('.')} ({found})" if found else f"{where}: {problem}") from None


def check_name(text: str, where: str) -> str:
    """A name that becomes part of a path.

    Raises:
        SpecError: it could lead elsewhere, or is too long.
    """
    try:
        return TypeAdapter(Name).validate_python(text)
    except ValidationError:
        raise SpecError(f"{where} {text[:80]!r}: letters, digits, _ . - only, at most 64, no blank") from None


def parse_short_name(text: str, methods: Collection[str]) -> QuantSpec:
    """The quantization that a short name means.

    Args:
        text: e.g. `gptq-w4-g128-vision+text`.
        methods: the known methods (the quantizer registry's names).

    Raises:
        UnknownNameError: the method is not known. SpecError: a token is not understood or out of range.
    """
    return parse_spec(QuantSpec, read_short_name(text, methods), f"quantization '{text}'")
