"""`reliquant show RUN`: one quantization in the terminal, from the results folder alone."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from benchmark.cli.requests import ShowRequest
from benchmark.engine.include import include_files
from benchmark.engine.reproduce import arguments, in_lines, requests
from benchmark.engine.request import RunRequest
from benchmark.errors import ReliquantError, UnknownNameError
from benchmark.metrics.speed_ratio import WITHIN
from benchmark.plugins import tasks
from benchmark.quantization.registry import read
from benchmark.results import published
from benchmark.results.answers import mixed_versions, records_of
from benchmark.results.compare import Change, adjust
from benchmark.results.decide import images_told, margins_told, told
from benchmark.results.decide import to_json as decision_json
from benchmark.results.formats import rows as export_rows
from benchmark.results.load import find, open_ledger
from benchmark.results.notation import ARROWS, STARS, STYLES, interval
from benchmark.results.rows import Results, Row, better_of, read_results
from benchmark.results.speed import ratio_of, speed_sentence, timing_state, where
from benchmark.utils.output import out
from benchmark.utils.progress import open_progress

LEGEND = f"{STARS}: p adjusted over the metrics that are shown; intervals are 95 %"


def show_run(request: ShowRequest) -> None:
    """Print the runs that a name means; as JSON one object a line.

    Raises:
        ReliquantError: no results, or an unknown name (with a suggestion).
    """
    include_files(request.include)
    with open_progress(request.quiet):
        _show(request)


def _show(request: ShowRequest) -> None:
    ledger = open_ledger(request.home)
    asked = find(ledger, request.run, request.suite)
    if asked.told and not request.quiet:
        print(asked.told, file=sys.stderr)
    if not asked.runs:
        known = {record.quantization for record in records_of(ledger, asked.suite, asked.spec)}
        raise UnknownNameError("run", request.run, known)
    results = read_results(ledger, asked.suite, asked.spec)
    console = Console()
    if not request.quiet and (warning := mixed_versions(r for row in results.rows for r in row.records.values())):
        print(f"warning: {warning}", file=sys.stderr)
    shown = [r for row in results.rows if (row.model, row.quantization) in asked.runs for r in row.records.values()]
    for warning in () if request.quiet else published.warnings(shown):
        print(f"warning: {warning}", file=sys.stderr)
    for mended in () if request.quiet else ledger.mended:
        print(f"warning: {mended}", file=sys.stderr)
    for row in (row for row in results.rows if (row.model, row.quantization) in asked.runs):
        if request.json:
            words = [["reliquant", *arguments(each)] for each in _requests(results, row, asked.name)]
            print(json.dumps({**to_json(results, row), "reproduce": words}, allow_nan=False), file=out())
        else:
            print_row(console, results, row, request.all_metrics)
            _print_commands(console, _requests(results, row, asked.name))


def to_json(results: Results, row: Row) -> dict[str, Any]:
    """Everything in the results folder about a row, as plain values; q is adjusted over all its metrics."""
    return {
        "model": row.model,
        "quantization": row.quantization,
        "suite": results.suite,
        "scheme": scheme(row.quantization),
        "size": None if row.size is None else vars(row.size),
        "reliability": {"points": row.reliability.value, "interval": row.reliability.interval},
        "decision": None if row.decision is None else decision_json(row.decision),
        "report": row.report,
        "efficiency": row.efficiency,
        "metrics": row.metrics,
        "changes": export_rows(adjust(row.changes.values())),
        "notes": {key: note for record in row.records.values() for key, note in record.notes.items()},
        "failed": dict(row.failed),
        "provenance": {name: record.provenance for name, record in row.records.items()},
    }


def scheme(name: str) -> dict[str, Any] | None:
    """The fields of a quantization; None where its method is not installed here."""
    try:
        return read(name).model_dump(mode="json")
    except ReliquantError:
        return None


def print_row(console: Console, results: Results, row: Row, every: bool) -> None:
    """Scheme, report, speed, metrics by task, notes, failures, provenance."""
    console.print(Text(row.quantization, style="bold"), Text(f"model {row.model}, suite {results.suite}", style="dim"))
    facts = Table.grid(padding=(0, 2, 0, 0))
    facts.add_column(no_wrap=True, style="dim")
    facts.add_column(overflow="fold")
    for name, text in [*_scheme_facts(row), *_report_facts(row), *_result_facts(row), *_speed_facts(row)]:
        facts.add_row(name, escape(text))
    console.print(facts)
    shown = {key for key in row.metrics if every or _worth_showing(key)}
    changes = {c.key: c for c in adjust(change for key, change in row.changes.items() if key in shown)}
    for name, record in row.records.items():
        console.print(Text(f"\n{name}", style="bold"))
        keys = [key for key in record.metrics if key in shown]
        console.print(metric_table({key: record.metrics[key] for key in keys}, changes, f"{name}/"))
        if len(keys) < len(record.metrics):
            console.print(Text(f"  {len(record.metrics) - len(keys)} more: --all", style="dim"))
        for key, note in record.notes.items():
            console.print(Padding(Text(f"{key.removeprefix(f'{name}/')}: undefined: {note}"), (0, 0, 0, 2)))
    if changes:
        console.print(Text(LEGEND, style="dim"))
    for name, reason in row.failed.items():
        console.print(Text(f"failed: {name}: {reason}", style="red"))
    _print_provenance(console, row)


def _worth_showing(key: str) -> bool:
    """Whether a metric is shown without --all: the task's own, or a headline metric of one score, type or data set."""
    task, _, rest = key.split("/", 2)
    return "/" not in rest or (rest.count("/") == 1 and tasks.get(task).metric(rest).headline)


def metric_table(values: Mapping[str, float], changes: Mapping[str, Change], prefix: str) -> Table:
    """Value, change, interval of each metric."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_edge=False, header_style="dim")
    table.add_column("  metric", overflow="fold")
    for header in ("value", "change", "interval"):
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column("")
    for key, value in values.items():
        name = f"  {key.removeprefix(prefix)} {ARROWS[better_of(key)]}".rstrip()
        table.add_row(escape(name), _number(value), *_change_cells(changes.get(key)))
    return table


def _change_cells(change: Change | None) -> tuple[Text, str, str]:
    """Change, interval and stars; nothing where there is no change and no test (counts)."""
    if change is None or (change.change == 0 and change.p is None):
        return Text(""), "", ""
    style = STYLES[change.direction] if change.stars else ""
    ends = interval(change.low, change.high, partial(_number, sign="+"))
    return Text(_number(change.change, "+"), style=style), ends, change.stars


def _number(value: float, sign: str = "") -> str:
    """Counts without decimals, the rest with four."""
    whole = float(value).is_integer() and abs(value) >= 2
    return f"{value:{sign}.0f}" if whole else f"{value:{sign}.4f}"


def _scheme_facts(row: Row) -> Iterator[tuple[str, str]]:
    if row.full_precision:
        yield "scheme", "full precision"
        return
    if (row.report or {}).get("kind") == "artifact":
        yield "scheme", "artifact: a file in the place of the model's own towers"
        return
    try:
        spec = read(row.quantization)
    except ReliquantError as error:
        yield "scheme", f"not readable here: {error}"
        return
    title = (row.report or {}).get("title")
    yield "method", f"{spec.method}: {title}" if title else spec.method
    if spec.weight_bits is not None:
        group = f" of {spec.group_size}" if spec.group_size else ""
        kind = "symmetric" if spec.symmetric else "asymmetric"
        yield "weights", f"{spec.weight_bits} bits per {spec.weight_granularity}{group}, {kind}"
    if spec.activation_bits is not None:
        kind = "symmetric" if spec.activation_symmetric else "asymmetric"
        yield "activations", f"{spec.activation_bits} bits per {spec.activation_granularity}, {kind}"
    yield "scope", spec.scope
    for item in spec.overrides:
        yield "override", f"{item.pattern}: {item.bits} bits"
    if spec.skip:
        yield "skip", ", ".join(spec.skip)
    if spec.options:
        yield "options", ", ".join(f"{key} {value}" for key, value in spec.options)


def _report_facts(row: Row) -> Iterator[tuple[str, str]]:
    if row.report is None:
        yield "report", "none in the results folder"
        return
    if row.report.get("kind") == "artifact":
        yield from _artifact_facts(row.report)
        return
    for name, tower in row.report["towers"].items():
        yield (
            name,
            (
                f"{len(tower['layers'])} layers replaced, {len(tower['skipped'])} skipped; "
                f"{tower['weight_share']:.1%} of the weights, {tower['mac_share']:.1%} of the multiply-adds"
            ),
        )
        if tower["layers"]:
            sqnr = tower["weight_sqnr_db"]
            decibel = "" if sqnr is None else f" ({sqnr:.1f} dB)"
            yield (
                "",
                (
                    f"{tower['bits_per_weight']:.2f} bits per weight, {tower['packed_bytes'] / 1e6:.2f} MB of "
                    f"{tower['float_bytes'] / 1e6:.2f}; weight error {tower['weight_relative_error']:.2%}{decibel}"
                ),
            )
        noise = tower["embedding_sqnr_db"]
        yield "", f"embeddings: cosine {tower['cosine']:.4f}" + ("" if noise is None else f", SQNR {noise:.1f} dB")
        for layer, reason in tower["skipped"].items():
            yield "", f"skipped {layer}: {reason}"
    for key, value in row.report.get("figures", {}).items():
        yield key, f"{value:.4g}"
    for note in row.report.get("notes", ()):
        yield "note", str(note)


def _artifact_facts(report: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Its files, and how far its features are from full precision."""
    for line in report["title"].split("; "):
        yield line.partition(": ")[0], line.partition(": ")[2]
    for name, tower in report["towers"].items():
        if tower["packed_bytes"] is not None:
            sizes = f"{tower['packed_bytes'] / 1e6:.2f} MB on disk, {tower['float_bytes'] / 1e6:.2f} in full precision"
            yield f"{name} size", sizes
        if tower["cosine"] is not None:
            noise = "" if tower["embedding_sqnr_db"] is None else f", SQNR {tower['embedding_sqnr_db']:.1f} dB"
            yield f"{name} features", f"cosine {tower['cosine']:.4f}{noise}"
    for note in report.get("notes", ()):
        yield "note", str(note)


def _result_facts(row: Row) -> Iterator[tuple[str, str]]:
    """Size, verdict and reliability."""
    if row.size is not None:
        size = f"{row.size.megabytes:.2f} MB of {row.size.float_megabytes:.2f}"
        yield "size", f"{size}, {row.size.effective_bits:.2f} effective bits per weight (both towers)"
    if row.decision is not None:
        yield "verdict", told(row.decision).replace("`", "")
        yield (
            "",
            f"on {images_told(row.decision.judged)}; margins: {margins_told(row.decision.judged)}".replace("`", ""),
        )
    if row.reliability.value is not None and not row.full_precision:
        ends = row.reliability.interval
        points = f"{row.reliability.value:+.2f} points" + (f" [{ends[0]:+.2f}, {ends[1]:+.2f}]" if ends else "")
        yield "reliability", f"{points} (mean signed change of the headline metrics over the tasks)"


def _speed_facts(row: Row) -> Iterator[tuple[str, str]]:
    """The measured speed, or why there is none; simulated quantizations have no speed."""
    state = timing_state(row.efficiency)
    if row.efficiency is None or row.efficiency["speed"] is None:
        words = speed_sentence(row.efficiency).removeprefix("Its speed ").removesuffix(".")
        yield "speed", words.removeprefix("was ")
        return
    speed = row.efficiency["speed"]
    yield (
        "speed",
        (
            f"{speed['latency_ms_p50']:.2f} ms for one image (p95 {speed['latency_ms_p95']:.2f}), "
            f"{speed['images_per_second']:.0f} images/s in batches of {speed['batch']} ({where(speed)})"
        ),
    )
    ratio = ratio_of(speed)
    noisy = f"; noisy: not known within {WITHIN:.0%}, measure on a quiet machine with --speed"
    yield (
        "",
        (
            f"{ratio.value:.2f} times full precision's latency, 95 % interval {ratio.low:.2f} to {ratio.high:.2f} "
            f"({ratio.rounds} rounds){noisy if state == 'noisy' else ''}"
        ),
    )


def _print_provenance(console: Console, row: Row) -> None:
    """Print what all records of a row share, taken from the last one."""
    if not row.records:
        return
    about = list(row.records.values())[-1].provenance
    console.print(Text("\nprovenance", style="bold"))
    facts = Table.grid(padding=(0, 2, 0, 0))
    facts.add_column(no_wrap=True, style="dim")
    facts.add_column(overflow="fold")
    versions = ", ".join(f"{name} {value}" for name, value in about.get("versions", {}).items())
    lines = {
        "evaluated": about.get("time"),
        "versions": versions or None,
        "device": _device(about),
        "options": _options(about),
        "model": _model(about),
        "calibration": _calibration(about),
        "limit": about.get("limit"),
    }
    lines |= {f"commit of {name}": commit for name, commit in about.get("model", {}).get("commits", {}).items()}
    lines |= {f"data {name}": _short(value) for name, value in about.get("data", {}).items()}
    lines |= {f"data {name} from": value for name, value in about.get("origins", {}).items()}
    lines["published"] = "; ".join(published.agreeing(row.records.values())) or None
    for name, value in lines.items():
        if value is not None:
            facts.add_row(f"  {name}", escape(str(value)))
    console.print(facts)


def _requests(results: Results, row: Row, suite: str) -> list[RunRequest]:
    return requests(row.records.values(), suite, results.spec)


def _print_commands(console: Console, asked: Sequence[RunRequest]) -> None:
    """Print the commands that reproduce the row's numbers, ready for a shell."""
    console.print(Text("\nreproduce", style="bold"))
    for each in asked:
        for line in in_lines(["reliquant", *arguments(each)], console.width - 2):
            console.print(Text(f"  {line}"), soft_wrap=True)


def _options(about: Mapping[str, Any]) -> str | None:
    """How the models were run; None where the record does not say."""
    known = about.get("settings")
    if known is None:
        return None
    flags = [name.replace("_", " ") for name in ("exact_float", "compile") if known[name]]
    facts = [f"precision {known['precision']}", *flags, f"batches of {known['batch_size']}"]
    return ", ".join([*facts, f"integer products: {known['integer_engine']}"])


def _device(about: Mapping[str, Any]) -> str | None:
    if "device" not in about:
        return None
    return f"{about['device']} ({about.get('cpu')}, {about.get('threads')} threads)"


def _calibration(about: Mapping[str, Any]) -> str | None:
    """The calibration set by name and digest, where the quantization looked at it; else the digest alone."""
    named = (about.get("calibrated_on"), _short(about.get("calibration")))
    return " ".join(filter(None, named)) or None


def _model(about: Mapping[str, Any]) -> str | None:
    model = about.get("model")
    return None if model is None else ", ".join([f"{model['ref']} {_short(model['digest'])}", *model.get("notes", ())])


def _short(digest: str | None) -> str | None:
    """The beginning of a digest; `--json` shows all of it."""
    return digest and digest[:16]
