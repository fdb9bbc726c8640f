"""From a request to its plan on this machine."""

from __future__ import annotations

import re
import sys
from collections.abc import Container, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING

from benchmark.engine.execution import check_precision
from benchmark.engine.plan import Plan, Settings, make_plan
from benchmark.engine.request import SETTINGS, Evaluations, Pixels, asked
from benchmark.engine.run import PIXEL_BUDGET
from benchmark.errors import InputError, SpecError
from benchmark.models.references import refuse_quantized
from benchmark.quantization import parse
from benchmark.quantization.kernels.selection import ENGINES
from benchmark.spec import FP32, Override, QuantSpec, parse_spec
from benchmark.spec.suite import load_suite, narrow

if TYPE_CHECKING:
    from benchmark.spec import SuiteSpec


def requested_plan(request: Evaluations) -> Plan:
    """The plan that a command line asks for, on this machine; its plugins are included already.

    Raises:
        ReliquantError: the first problem, in one line that names the option, field or file.
    """
    suite = _requested_suite(request)
    check_device(request.device)
    plan = replace(make_plan(suite, _settings(request)), asked=asked(request))
    for ref, note in dict.fromkeys((c.model.ref, note) for c in plan.configurations for note in c.model.notes):
        print(f"{ref}: {note}", file=sys.stderr)
    stored = {c.model.ref: c for c in plan.configurations if c.model.quantized}
    if request.quantizations or request.overrides:
        refuse_quantized((c.model for c in stored.values()), "--override" if request.overrides else "--quant")
    if suite.artifacts:
        refuse_quantized((c.model for c in stored.values()), "--artifact")
    for ref, configuration in stored.items():
        print(f"{ref} is quantized already ({configuration.quant.name}), so it is not quantized again", file=sys.stderr)
    return plan


def recorded_plan(request: Evaluations, keys: Container[str]) -> Plan:
    """The plan that a command line asked for, on any machine: this one need not have its device.

    Args:
        keys: of the recorded evaluations; they reveal the integer engine of the machine that made them.

    Raises:
        ReliquantError: the first problem, in one line that names the option, field or file.
    """
    suite, settings = _requested_suite(request), _settings(request)
    _device_kind(request.device)
    engines = ENGINES[:1] if request.exact_float else ENGINES
    plans = (make_plan(suite, replace(settings, engine=engine)) for engine in engines)
    return max(plans, key=lambda plan: sum(e.key in keys for c in plan.configurations for e in c.evaluations))


def _requested_suite(request: Evaluations) -> SuiteSpec:
    suite: SuiteSpec = narrow(
        load_suite(request.suite, request.data, request.catalogues),
        models=request.models,
        quantizations=request.quantizations,
        tasks=request.tasks,
        limit=request.limit,
        artifacts=request.artifacts,
    )
    if request.overrides:
        suite = suite.model_copy(update={"quantizations": all_with_overrides(suite.quantizations, request.overrides)})
    return suite


def _settings(request: Evaluations) -> Settings:
    check_precision(request.precision)
    limit = check_seconds(getattr(request, "task_timeout", None), "--task-timeout")
    known = {name: getattr(request, name) for name in SETTINGS if hasattr(request, name)}
    keep = getattr(request, "keep_paths", False)
    return Settings(**known, task_timeout=limit, keep_paths=keep, allow_outside=request.allow_outside)


def all_with_overrides(names: Sequence[str], overrides: Sequence[str]) -> tuple[str, ...]:
    """Short names with other weight bits for some layers; names those without weight bits on stderr.

    Raises:
        SpecError: see `with_overrides`; or none of them quantizes weights to a number of bits.
    """
    changed = {name: with_overrides(name, overrides) for name in names}
    same = [name for name, new in changed.items() if name == new and parse(name).method != FP32.method]
    if all(name == new for name, new in changed.items()):
        raise SpecError(
            f"--override: none of {', '.join(names)} has weight bits; give it with e.g. --quant rtn-w4-vision"
        )
    if same:
        print(f"--override changes nothing of {', '.join(same)}: no weight bits", file=sys.stderr)
    return tuple(changed.values())


def with_overrides(name: str, overrides: Sequence[str]) -> str:
    """A short name with other weight bits for some layers; one without weight bits stays as it is.

    Args:
        overrides: `PATTERN=BITS`, e.g. `visual.blocks.[0-3].*=8`.

    Raises:
        SpecError: the form or the bits are wrong. A pattern that matches no layer is refused once the model is loaded.
    """
    spec = parse(name)
    if spec.weight_bits is None:
        return name
    added = []
    for item in overrides:
        pattern, _, bits = item.rpartition("=")
        if not pattern or not (bits.isascii() and bits.isdigit()):
            raise SpecError(f"--override '{item}': the form is PATTERN=BITS, e.g. 'visual.blocks.[0-3].*=8'")
        added.append(parse_spec(Override, {"pattern": pattern, "bits": int(bits)}, f"--override '{item}'"))
    changed: QuantSpec = spec.model_copy(update={"overrides": (*spec.overrides, *added)})
    return parse(changed.name).name


def pixel_budget(request: Pixels) -> int:
    """Bytes of decoded pixels to keep on disk.

    Raises:
        InputError: the size cannot be read.
    """
    return PIXEL_BUDGET if request.pixel_cache is None else parse_size(request.pixel_cache, "--pixel-cache")


def parse_size(text: str, option: str) -> int:
    """`20GB`, `500MB`, `0` -> bytes (decimal units).

    Raises:
        InputError: names the option and the form.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(B|KB|MB|GB|TB)?", text.strip(), re.IGNORECASE)
    if match is None:
        raise InputError(f"{option} '{text}': expected a size such as 20GB, 500MB or 0")
    powers = {"B": 0, "KB": 1, "MB": 2, "GB": 3, "TB": 4}
    return int(Decimal(match[1]) * 1000 ** powers[(match[2] or "B").upper()])


def check_seconds(seconds: float | None, option: str) -> float | None:
    """A time limit.

    Raises:
        InputError: it is not above 0.
    """
    if seconds is not None and not seconds > 0:
        raise InputError(f"{option} {seconds:g}: expected a number of seconds above 0")
    return seconds


def check_device(device: str) -> None:
    """Refuse a device that is misspelt or not there.

    Raises:
        InputError: says what there is.
    """
    import torch

    if _device_kind(device) == "cuda" and not torch.cuda.is_available():
        raise InputError(f"--device {device}: this machine or this torch has no CUDA; use --device cpu")


def _device_kind(device: str) -> str:
    import torch

    try:
        kind = torch.device(device).type
    except RuntimeError:
        kind = ""
    if kind not in ("cpu", "cuda"):
        raise InputError(f"--device '{device}': expected cpu, cuda or cuda:N")
    return kind
