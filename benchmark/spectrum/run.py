"""What `reliquant spectrum` and `reliquant run --spectrum` do: check, measure, write figures and numbers, print."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from benchmark.engine.include import include_files
from benchmark.engine.plan import Settings
from benchmark.engine.requested import check_device, pixel_budget
from benchmark.errors import PARTIAL, StorageError
from benchmark.metrics.gain import Told
from benchmark.quantization import parse
from benchmark.results.notation import fold
from benchmark.spec import FP32, SuiteSpec
from benchmark.spec.suite import load_suite, narrow
from benchmark.spectrum.answer import features
from benchmark.spectrum.figures import draw
from benchmark.spectrum.measure import SpectrumPlan, measure_spectra, plan_spectrum
from benchmark.spectrum.model import CLEAN, FORMAT, Entry, LayerSpectrum, Study, study_json, study_metrics
from benchmark.spectrum.request import SpectrumRequest
from benchmark.tracking import FinishedStudy, Tracker, log_study, trackers
from benchmark.utils.output import out
from benchmark.utils.progress import open_progress

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

BANDS = ("0-8", "8-64", "64+", "all")
NO_CORRUPTION = "none"
FILE = "spectrum.json"


@dataclass(frozen=True)
class Prepared:
    """A request that has been checked, before any work."""

    request: SpectrumRequest
    suite: SuiteSpec
    asked: SpectrumPlan
    trackers: tuple[Tracker, ...]


def prepare(request: SpectrumRequest) -> Prepared:
    """Check names, data, quantizations, device and trackers.

    Raises:
        ReliquantError: the first problem, in one line.
    """
    check_device(request.device)
    suite = narrow(
        load_suite(request.suite, request.pointed, request.catalogues),
        models=request.models,
        quantizations=request.quantizations,
        limit=request.limit,
    )
    suite = suite.model_copy(update={"artifacts": {}})  # they have no layers to look into
    if request.only_vision:
        kept = tuple(name for name in suite.quantizations if "vision" in parse(name).towers)
        suite = suite.model_copy(update={"quantizations": kept})
    corruptions = [c for c in dict.fromkeys(request.corruptions) if c != NO_CORRUPTION and not request.joint]
    settings = Settings(
        request.device, request.batch_size, exact_float=request.exact_float, allow_outside=request.allow_outside
    )
    asked = plan_spectrum(suite, request.name, corruptions, settings, request.joint)
    chosen = tuple(trackers.get(name) for name in dict.fromkeys(request.trackers))
    return Prepared(request, suite, asked, chosen)


def measure(prepared: Prepared) -> int:
    """Measure, write, log and print; returns the exit status (0, or 3 when some quantizations failed).

    A suite's own study is not measured again while its file is of the same towers, images and texts.
    """
    request = prepared.request
    base, kind = request.output or request.home / "spectrum", f".{request.name}" + ".joint" * request.joint
    models = dict.fromkeys(configuration.model.name for configuration in prepared.asked.plan.configurations)
    folders = {model: base if request.output and len(models) == 1 else base / f"{model}{kind}" for model in models}
    stored = {model: content for model, place in folders.items() if request.silent and (content := read(place))}
    known = {model: str(content.get("key")) for model, content in stored.items()}
    with open_progress(request.quiet) as progress:
        asked, budget = prepared.asked, pixel_budget(request)
        studies = measure_spectra(asked, request.home, progress, budget, request.skip_broken, known)
    failed = False
    for model, study in studies.items():
        folder, content = folders[model], stored.get(model, {})
        if study is not None:
            content, failed = study_json(study), failed or bool(study.failed)
            write(study, folder, figures=not request.silent)
            print_study(study, folder, request.show)
        _track(prepared, content, folder)
    return PARTIAL if failed else 0


def read(folder: Path) -> dict[str, Any] | None:
    """The study in a folder, in the form of `study_json`; None where there is none of this format."""
    try:
        content = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) and content.get("format") == FORMAT else None


def run_spectrum(request: SpectrumRequest) -> int:
    """`reliquant spectrum`."""
    include_files(request.include)
    return measure(prepare(request))


def _track(prepared: Prepared, study: Mapping[str, Any], folder: Path) -> None:
    """Tell the trackers; one that fails is a warning, the files are there."""
    quantized = [name for name in dict.fromkeys(e["quantization"] for e in study["entries"]) if name != FP32.name]
    tags = {"model": study["model"], "dataset": study["data"], "quantizations": " ".join(quantized)}
    name, numbers = f"spectrum/{study['data']}", study_metrics(study)
    finished = FinishedStudy(prepared.suite, "spectrum", name, study["key"], tags, numbers, folder)
    request = prepared.request
    for line in log_study(finished, prepared.trackers, request.home, request.tracking_uri):
        print(f"warning: {line}", file=sys.stderr)


def write(study: Study, folder: Path, figures: bool = True) -> None:
    """`spectrum.json`, and one PNG for each figure.

    Raises:
        StorageError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FILE).write_text(json.dumps(study_json(study), allow_nan=False) + "\n", encoding="utf-8")
        for name, figure in draw(study).items() if figures else ():
            figure.savefig(folder / f"{name}.png", dpi=130)
    except OSError as error:
        raise StorageError(f"{folder} cannot be written ({error.strerror}); choose another with -o DIR") from error


def print_study(study: Study, folder: Path, show: Literal["table", "json", "path", "nothing"]) -> None:
    """The tables on stdout, or the JSON there on one line, or only where things are; notes and failures on stderr."""
    if show == "json":
        print(json.dumps(study_json(study), allow_nan=False), file=out())
    elif show == "table":
        from rich.console import Console

        console = Console()
        for layer in study.final_layers:
            tables = [layer_table, gain_table]
            tables += [accuracy_table] if study.entries[0].layers[layer].accuracy_full_basis else []
            tables += [margin_table] if any(entry.layers[layer].margins for entry in study.entries) else []
            for table in tables:
                _print(console, table(study, layer))
        if study.corruptions:
            _print(console, correlation_table(study))
        for sentence in features(study_json(study)):
            console.print(sentence, highlight=False)
        console.print("Whether that explains the changes: reliquant compare --controls", highlight=False)
    for note in study.notes if show != "nothing" else ():  # they stand in the study's file too
        print(f"note: {note}", file=sys.stderr)
    for quantization, reason in study.failed.items():
        print(f"failed: {quantization}: {reason}", file=sys.stderr)
    if show == "nothing":
        return
    print(f"figures and numbers: {folder}", file=sys.stdout if show == "table" else sys.stderr)


def _table(title: str, columns: Sequence[str]) -> Table:
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    for column in columns:
        words = column in ("quantization", "images", "ranks")
        table.add_column(column, justify="left" if words else "right", overflow="fold")
    return table


def _print(console: Console, table: Table) -> None:
    """A table under its title, which may be wider than the table."""
    title, table.title = str(table.title), None
    console.print(title, soft_wrap=True, style="italic")
    console.print(table)


def layer_table(study: Study, layer: str) -> Table:
    """One row for each model and version of the images."""
    spectrum = study.entries[0].layers[layer]
    title = f"{study.model}, {study.data}, layer '{layer}' ({len(spectrum.energy)} dimensions, {study.count} images)"
    table = _table(title, ["quantization", "images", *(f"SQNR\n{b}" for b in BANDS), "eff.\nrank", "angle\ntop 8"])
    for entry in study.entries:
        found = entry.layers[layer]
        bands = found.band_sqnr_db()
        table.add_row(
            *_named(entry),
            *(f"{bands[b]:.1f}" if b in bands else "-" for b in BANDS),
            f"{found.effective_rank:.1f}",
            _angle(found, entry.quantization == FP32.name and entry.images == CLEAN),
        )
    return table


def accuracy_table(study: Study, layer: str) -> Table:
    """Accuracy within bands of full precision's directions, and of each row's own."""
    full = study.entries[0].layers[layer].accuracy_full_basis
    title = f"zero-shot accuracy by band, layer '{layer}': full precision's directions, then the row's own"
    own = [band for band in full if band != "all"]
    table = _table(title, ["quantization", "images", *(f"full\n{b}" for b in full), *(f"own\n{b}" for b in own)])
    for entry in study.entries:
        found = entry.layers[layer]
        values = [*found.accuracy_full_basis.values(), *(found.accuracy_own_basis[band] for band in own)]
        table.add_row(*_named(entry), *(f"{value:.3f}" for value in values))
    return table


def gain_table(study: Study, layer: str) -> Table:
    """Damped or drowned: gain, energy ratio and systematic share of the error in each band, with intervals."""
    title = f"damped (gain below 1) or drowned (energy above 1), layer '{layer}' (95 % intervals)"
    table = _table(title, ["quantization", "images", "ranks", "gain", "energy ratio", "systematic share"])
    for entry in study.entries:
        for band, ratios in entry.layers[layer].bands().items():
            cells = [_told(ratios[name]) for name in ("gain", "energy_ratio", "systematic_share")]
            table.add_row(*_named(entry), band, *cells)
    return table


def margin_table(study: Study, layer: str) -> Table:
    """How the margins of the true class change, with intervals."""
    title = f"margin of the true class, layer '{layer}', against full precision's (95 % intervals)"
    table = _table(title, ["quantization", "images", "slope", "residual"])
    for entry in study.entries:
        if told := entry.layers[layer].margin():
            table.add_row(*_named(entry), *map(_told, told.values()))
    return table


def _named(entry: Entry) -> tuple[str, str]:
    return fold(entry.quantization, 20), entry.images.replace("/", "\n")


def _told(told: Told) -> str:
    """A number and its interval."""
    value, low, high = (float(each[0]) for each in (told.value, told.low, told.high))
    if not np.isfinite(value):
        return "-"
    digits = 3 if abs(value) < 10 else 1
    return f"{value:.{digits}f}" + (f" [{low:.{digits}f}, {high:.{digits}f}]" if np.isfinite(low) else "")


def _angle(found: LayerSpectrum, itself: bool) -> str:
    return "-" if itself or 8 not in found.angles else f"{found.angles[8][-1]:.1f}°"


def correlation_table(study: Study) -> Table:
    """Does quantization noise fall where a corruption's effect falls: at the last layers, and over the blocks."""
    title = "rank correlation over directions of quantization noise with the corruption's effect (partial)"
    layers = study.final_layers
    blocks = [name for name in study.layers if name not in layers]
    table = _table(title, ["quantization", "images", *layers, *(["blocks:\nmedian partial"] if blocks else [])])
    for name in study.quantizations:
        for corruption in study.corruptions:
            found = study.correlations(name, corruption)
            inner = sorted(found[b]["partial"] for b in blocks if "partial" in found[b])
            cells = [_pair(found[layer]) for layer in layers]
            middle = [f"{inner[len(inner) // 2]:.2f}" if inner else "-"] if blocks else []
            table.add_row(fold(name, 24), corruption, *cells, *middle)
    return table


def _pair(rhos: dict[str, float]) -> str:
    if "noise" not in rhos:
        return "-"
    return f"{rhos['noise']:.2f} ({rhos['partial']:.2f})" if "partial" in rhos else f"{rhos['noise']:.2f}"
