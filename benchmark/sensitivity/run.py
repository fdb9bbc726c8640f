"""`reliquant sensitivity`: check, measure, write figure, CSV and JSON, print."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from benchmark.engine.include import include_files
from benchmark.engine.plan import Settings
from benchmark.engine.requested import check_device, parse_size, pixel_budget
from benchmark.errors import SpecError, StorageError
from benchmark.quantization import parse
from benchmark.results.notation import fold
from benchmark.sensitivity import model
from benchmark.sensitivity.figures import heat_map
from benchmark.sensitivity.measure import Asked, Place, measure
from benchmark.sensitivity.model import OVERALL, Effects, Study
from benchmark.sensitivity.request import SensitivityRequest
from benchmark.spec import FP32, QuantSpec, SuiteSpec
from benchmark.spec.suite import load_suite, narrow
from benchmark.tracking import FinishedStudy, Tracker, log_study, trackers
from benchmark.utils.output import out
from benchmark.utils.progress import open_progress

SHOWN = 12
"""Units in the printed table at most."""


def run_sensitivity(request: SensitivityRequest) -> int:
    """Study each model of the suite; returns the exit status."""
    include_files(request.include)
    check_device(request.device)
    suite = narrow(
        load_suite(request.suite, request.data, request.catalogues),
        models=request.models,
        tasks=request.tasks,
        limit=request.limit,
    )
    suite = suite.model_copy(update={"headline": _headline(suite), "margins": {}})
    cache = parse_size(request.cache, "--cache")
    asked = Asked(_base(request), request.by, request.protect, request.protected_bits, cache)
    chosen = [trackers.get(name) for name in dict.fromkeys(request.trackers)]
    settings = Settings(
        request.device, request.batch_size, exact_float=request.exact_float, allow_outside=request.allow_outside
    )
    for spec in suite.models:
        with open_progress(request.quiet) as progress:
            place = Place(request.home, settings, progress, pixel_budget(request), request.skip_broken)
            study = measure(suite, spec, asked, place)
        folder = request.output or request.home / "sensitivity" / f"{study.model}.{suite.name}"
        if request.output and len(suite.models) > 1:
            folder = request.output / study.model
        _write(study, folder)
        _track(request, suite, study, folder, chosen)
        _print(study, folder, request)
    return 0


def _headline(suite: SuiteSpec) -> tuple[str, ...]:
    """Of the tasks that are left."""
    return tuple(key for key in suite.headline if key.split("/", 1)[0] in suite.tasks)


def _base(request: SensitivityRequest) -> QuantSpec:
    """The quantization of all layers.

    Raises:
        SpecError: it has no weight bits to choose.
    """
    spec = parse(request.quant)
    if spec.weight_bits is None or spec == FP32:
        raise SpecError(
            f"--quant {request.quant}: it has no weight bits to protect layers with; e.g. rtn-w4-channel-vision"
        )
    if request.protected_bits <= request.bits:
        raise SpecError(f"--protected-bits {request.protected_bits}: must be above --bits {request.bits}")
    changed = spec.model_copy(update={"weight_bits": request.bits})
    return parse(changed.name)


def _write(study: Study, folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(model.as_json(study), allow_nan=False)
        (folder / "sensitivity.json").write_text(text + "\n", encoding="utf-8")
        (folder / "sensitivity.csv").write_text(model.csv(study), encoding="utf-8")
        heat_map(study).savefig(folder / "sensitivity.png", dpi=130)
    except OSError as error:
        raise StorageError(f"{folder} cannot be written ({error.strerror}); choose another with -o DIR") from error


def _track(request: SensitivityRequest, suite: SuiteSpec, study: Study, folder: Path, chosen: list[Tracker]) -> None:
    """Tell the trackers; one that fails is a warning, the files are there."""
    tags = {"model": study.model, "quantization": study.base, "override": study.check.line}
    finished = FinishedStudy(
        suite, "sensitivity", f"sensitivity/{study.by}", study.key, tags, model.metrics(study), folder
    )
    for line in log_study(finished, chosen, request.home, request.tracking_uri):
        print(f"warning: {line}", file=sys.stderr)


def _print(study: Study, folder: Path, request: SensitivityRequest) -> None:
    if request.show == "json":
        print(json.dumps(model.as_json(study), allow_nan=False), file=out())
    elif request.show == "csv":
        out().write(model.csv(study))
    else:
        _print_table(study)
    where = sys.stdout if request.show == "table" else sys.stderr
    for note in study.notes:
        print(f"note: {note}", file=where)
    print(f"figure and numbers: {folder}", file=where)


def _print_table(study: Study) -> None:
    from rich.console import Console
    from rich.table import Table

    units = {"layer": "layer", "block": "block", "kind": "kind of layer"}[study.by]
    title = f"{study.suite}, {study.model}: {study.base}, by {units}, points of reliability on {study.images:,} images"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    for name in (units, "costs [95 %]", "alone", "all but it", *study.tasks):
        table.add_column(name.replace("_", " "), justify="left" if name == units else "right", overflow="fold")
    for row in study.ranked[:SHOWN]:
        cells = [f"{row.harm[task].value:+.2f}" if task in row.harm else "-" for task in study.tasks]
        spared = "-" if row.spared is None else f"{row.spared[OVERALL].value:+.2f}"
        table.add_row(
            fold(row.unit.name, 34), row.harm[OVERALL].text, f"{row.alone[OVERALL].value:+.2f}", spared, *cells
        )
    console = Console()
    console.print(table)
    if len(study.rows) > SHOWN:
        console.print(f"and {len(study.rows) - SHOWN} more, in the CSV")
    _print_check(study)


def _print_check(study: Study) -> None:
    check = study.check
    print(f"protect {', '.join(check.protected)}:")
    print(f"  --quant {study.base} {check.line}")
    print(f"checked on {check.images:,} other images, against full precision:")
    print(f"  without it  {_overall(check.unprotected)} points at {check.bits[0]:.1f} bits")
    print(f"  with it     {_overall(check.with_line)} points at {check.bits[1]:.1f} bits")
    print(f"  it gives    {_overall(check.gain)}: {_verdict(check.gain)}")
    if check.control is not None:
        print(f"  the {len(check.protected)} least harmful instead give {_overall(check.control)}")


def _overall(effects: Effects) -> str:
    return effects[OVERALL].text if OVERALL in effects else "undefined"


def _verdict(effects: Effects) -> str:
    found = effects.get(OVERALL)
    if found is None or found.low is None or found.high is None:
        return "cannot tell, it has no interval"
    return "it helps" if found.low > 0 else "it hurts" if found.high < 0 else "cannot tell on so few images"
