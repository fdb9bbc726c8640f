"""What `run`, `validate` and `sync` do: the pieces put together."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from benchmark.analysis.compare import adjust
from benchmark.analysis.tables import comparison_rows, headline_keys
from benchmark.engine.execution import check_precision
from benchmark.engine.ledger import Ledger, Record
from benchmark.engine.plan import Plan, Settings, make_plan
from benchmark.engine.provenance import skipped_warnings, template_warnings
from benchmark.engine.run import PIXEL_BUDGET, Sweep, replay
from benchmark.engine.run import run as run_plan
from benchmark.engine.timing import Timing
from benchmark.errors import InputError, SpecError
from benchmark.include import include_files
from benchmark.models.recipe import refuse_quantized
from benchmark.printing import print_efficiency, print_table
from benchmark.progress import open_progress
from benchmark.quantization import parse
from benchmark.spec import Override, QuantSpec, parse_spec
from benchmark.suite import load_suite, narrow
from benchmark.tracking import Tracker, trackers

if TYPE_CHECKING:
    from benchmark.spec import SuiteSpec

PARTIAL = 3
"""Exit status when some evaluations failed and the rest was done."""


@dataclass(frozen=True)
class RunRequest:
    """The command line of `reliquant run`."""

    suite: str = "demo"
    models: Sequence[str] = ()
    quantizations: Sequence[str] = ()
    tasks: Sequence[str] = ()
    overrides: Sequence[str] = ()
    data: Sequence[str] = ()
    catalogues: Sequence[Path] = ()
    limit: int | None = None
    skip_broken: bool = False
    pixel_cache: str | None = None
    device: str = "cpu"
    batch_size: int = 64
    exact_float: bool = False
    precision: str = "fp32"
    compile: bool = False
    trackers: Sequence[str] = ("mlflow",)
    tracking_uri: str | None = None
    home: Path = Path("mlruns")
    include: Sequence[Path] = field(default_factory=list)
    quiet: bool = False
    json: bool = False
    spectrum: Sequence[str] = ()
    speed: bool | None = None

    @property
    def timing(self) -> Timing:
        """What of the configurations is timed."""
        timings: dict[bool | None, Timing] = {None: "new", True: "again", False: "never"}
        return timings[self.speed]


def run_suite(request: RunRequest) -> int:
    """Run and report; returns the exit status (0, or 3 when some evaluations failed)."""
    chosen = _trackers(request)
    plan = _plan(request)
    _warn(template_warnings(plan))
    budget = pixel_budget(request)
    spectra = _spectra(request)
    ledger = Ledger(request.home)
    with open_progress(request.quiet) as progress:
        opened = [t.open(request.home, request.tracking_uri if t.name == "mlflow" else None) for t in chosen]
        if any(ledger.done(e.key) is None for c in plan.configurations for e in c.evaluations):
            for tracker in opened:
                tracker.connect()
        try:
            sweep = run_plan(
                plan,
                request.home,
                trackers=opened,
                progress=progress,
                pixel_budget=budget,
                skip_broken=request.skip_broken,
                timing=request.timing,
            )
        except KeyboardInterrupt:
            progress.message("stopped; what is finished is kept. Run the same command again to go on.")
            return 130
    _report(request, sweep)
    statuses = [measure() for measure in spectra]
    return PARTIAL if sweep.failed or any(statuses) else 0


def _spectra(request: RunRequest) -> list[Callable[[], int]]:
    """The spectral studies that were asked for beside the tasks: checked now, measured when called."""
    if not request.spectrum:
        return []
    from benchmark.spectrum import SpectrumRequest, measure, prepare

    show: Literal["table", "path"] = "path" if request.json else "table"
    asked = [SpectrumRequest(request, name, show=show, only_vision=True) for name in dict.fromkeys(request.spectrum)]
    return [partial(measure, prepare(each)) for each in asked]


def pixel_budget(request: RunRequest) -> int:
    """Bytes of decoded pixels to keep on disk.

    Raises:
        InputError: the size cannot be read.
    """
    return PIXEL_BUDGET if request.pixel_cache is None else parse_size(request.pixel_cache, "--pixel-cache")


def validate_suite(
    name: str, data: Sequence[str] = (), catalogues: Sequence[Path] = (), include: Sequence[Path] = ()
) -> None:
    """Check a suite, say what it would do and what of it is missing here."""
    from benchmark.survey import report, survey

    include_files(include)
    print(report(survey(load_suite(name, data, catalogues))))


def sync_suite(name: str, home: Path, tracking_uri: str | None, include: Sequence[Path]) -> int:
    """Log what the ledger has of a suite to MLflow."""
    include_files(include)
    plan = make_plan(load_suite(name))
    with open_progress(quiet=False) as progress:
        tracker = trackers.get("mlflow").open(home, tracking_uri)
        count = replay(plan, Ledger(home), tracker, progress)
    print(f"{count} configurations of suite '{name}' are in MLflow")
    return 0


def _plan(request: RunRequest) -> Plan:
    include_files(request.include)
    suite: SuiteSpec = narrow(
        load_suite(request.suite, request.data, request.catalogues),
        models=request.models,
        quantizations=request.quantizations,
        tasks=request.tasks,
        limit=request.limit,
    )
    check_device(request.device)
    if request.overrides:
        names = tuple(with_overrides(name, request.overrides) for name in suite.quantizations)
        suite = suite.model_copy(update={"quantizations": names})
    settings = Settings(
        request.device,
        request.batch_size,
        exact_float=request.exact_float,
        precision=check_precision(request.precision),
        compile=request.compile,
    )
    plan = make_plan(suite, settings)
    stored = {c.model.ref: c for c in plan.configurations if c.model.quantized}
    if request.quantizations or request.overrides:
        refuse_quantized((c.model for c in stored.values()), "--override" if request.overrides else "--quant")
    for ref, configuration in stored.items():
        print(f"{ref} is quantized already ({configuration.quant.name}): it is run as it is", file=sys.stderr)
    return plan


def with_overrides(name: str, overrides: Sequence[str]) -> str:
    """A short name with other weight bits for some layers; one without weight bits stays as it is.

    Args:
        overrides: `PATTERN=BITS`, e.g. `visual.blocks.[0-3].*=8`.

    Raises:
        SpecError: the form or the bits are wrong. A pattern that fits no layer is refused when the model is there.
    """
    spec = parse(name)
    if spec.weight_bits is None:
        return name
    added = []
    for item in overrides:
        pattern, _, bits = item.rpartition("=")
        if not pattern or not bits.isdigit():
            raise SpecError(f"--override '{item}': the form is PATTERN=BITS, e.g. 'visual.blocks.[0-3].*=8'")
        added.append(parse_spec(Override, {"pattern": pattern, "bits": int(bits)}, f"--override '{item}'"))
    changed: QuantSpec = spec.model_copy(update={"overrides": (*spec.overrides, *added)})
    return parse(changed.name).name


def failure_lines(failed: Sequence[Record]) -> list[str]:
    """One line for each reason: what failed under which quantization."""
    reasons: dict[tuple[str, str, str], list[str]] = {}
    for record in failed:
        reason = (record.model, record.quantization, record.error or "")
        reasons.setdefault(reason, []).append(f"{record.task}/{record.dataset}")
    return [
        f"failed: {model}, {quantization}: {', '.join(names)}: {error}"
        for (model, quantization, error), names in reasons.items()
    ]


def untimed_warnings(efficiencies: Iterable[Mapping[str, Any]]) -> list[str]:
    """One line for each configuration whose speed could not be measured."""
    return [f"{e['quantization']} could not be timed: {e['error']}" for e in efficiencies if e["error"]]


def parse_size(text: str, option: str) -> int:
    """`20GB`, `500MB`, `0` -> bytes (decimal units).

    Raises:
        InputError: names the option and the form.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(B|KB|MB|GB|TB)?", text.strip(), re.IGNORECASE)
    if match is None:
        raise InputError(f"{option} '{text}': expected a size such as 20GB, 500MB or 0")
    powers = {"B": 0, "KB": 1, "MB": 2, "GB": 3, "TB": 4}
    return int(float(match[1]) * 1000 ** powers[(match[2] or "B").upper()])


def check_device(device: str) -> None:
    """Refuse a device that is misspelt or not there.

    Raises:
        InputError: says what there is.
    """
    import torch

    try:
        kind = torch.device(device).type
    except RuntimeError:
        raise InputError(f"--device '{device}': expected cpu, cuda or cuda:N") from None
    if kind == "cuda" and not torch.cuda.is_available():
        raise InputError(f"--device {device}: this machine or this torch has no CUDA; use --device cpu")
    if kind not in ("cpu", "cuda"):
        raise InputError(f"--device '{device}': expected cpu, cuda or cuda:N")


def _trackers(request: RunRequest) -> list[Tracker]:
    """The asked trackers, not yet open; `--json` adds one that prints. Unknown names stop, before any work."""
    return [trackers.get(name) for name in dict.fromkeys([*request.trackers, *["stream"] * request.json])]


def _warn(lines: Sequence[str]) -> None:
    for line in lines:
        print(f"warning: {line}", file=sys.stderr)


def _report(request: RunRequest, sweep: Sweep) -> None:
    """The table (on stdout; on stderr beside --json), failures, and where to look."""
    plan = sweep.plan
    out = sys.stderr if request.json else sys.stdout
    keys = headline_keys(plan, sweep.records)
    if not request.json:
        tested = adjust(change for change in sweep.changes if change.key in keys)
        print_table(comparison_rows(plan, sweep.records, tested), keys, sweep.reports, plan)
        print_efficiency(sweep.efficiencies, plan)
    _warn(untimed_warnings(sweep.efficiencies.values()))
    for name, reason in sweep.uncompared.items():
        print(f"warning: {name} cannot be compared with full precision: {reason}", file=sys.stderr)
    for line in failure_lines(sweep.failed):
        print(line, file=sys.stderr)
    _warn(skipped_warnings(sweep.records))
    for name, reason in sweep.untracked.items():
        print(
            f"warning: tracker '{name}' could not be written ({reason}); the ledger {request.home / 'ledger.jsonl'} "
            f"has everything, `reliquant sync {request.suite}` brings it over",
            file=sys.stderr,
        )
    total = len(sweep.records)
    print(
        f"{total} evaluations: {sweep.computed} computed, {total - sweep.computed} from the ledger, "
        f"{len(sweep.failed)} failed. Results: {request.home}. Browse them: reliquant ui"
        + ("" if request.home == Path("mlruns") else f" --home {request.home}"),
        file=out,
    )
