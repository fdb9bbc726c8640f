"""The page: figures and tables of the results, put into the template."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from benchmark.data.opening import Data
from benchmark.metrics.uncertainty import Estimate
from benchmark.plugins import Summary, tasks
from benchmark.report import drawn, overview, score, spectral
from benchmark.report.advice import RULE, Advice, about_row, advise, claims_sentence
from benchmark.report.details import Grid, Heat, grids, heat
from benchmark.report.drawn import Drawn
from benchmark.report.examples import Examples, worst
from benchmark.report.overview import ARROWS, Figure
from benchmark.report.reproduce import Origin
from benchmark.results import published
from benchmark.results.compare import Change, adjust
from benchmark.results.decide import told
from benchmark.results.effects import collect, without_exported
from benchmark.results.evidence import evidence_of
from benchmark.results.findings import Finding
from benchmark.results.groups import calibrated_on, facts_by_model, runs_of
from benchmark.results.hypotheses import examine, wanted
from benchmark.results.images import grouped
from benchmark.results.mechanism import NOTE, Match, match
from benchmark.results.notation import interval
from benchmark.results.rows import Results, Row, better_of
from benchmark.results.speed import timing_state
from benchmark.results.tables import shallowest_headlines
from benchmark.spec import FP32
from benchmark.spectrum.answer import answer

MOST_COLUMNS = 8
"""Metrics of a table that fit on paper side by side; beyond that the cells are printed one after the other."""
MOST_DETAILS = 24
"""Quantizations that get their own figures and images; beyond that the page would grow too large."""


@dataclass(frozen=True)
class Column:
    """A metric of a heat map: its key in parts, and where better lies."""

    key: str
    parts: tuple[str, ...]
    arrow: str


@dataclass(frozen=True)
class Table:
    """A heat map over quantizations: columns, for each row its cells (None: undefined or failed), number of tests."""

    columns: tuple[Column, ...]
    lines: tuple[tuple[Row, tuple[Heat | None, ...]], ...]
    tests: int


@dataclass(frozen=True)
class Chapter:
    """The figures over all quantizations of one model."""

    model: str
    advice: Advice
    pareto: Sequence[Figure]
    forests: Sequence[Markup]
    tasks: Sequence[Drawn]
    spectra: Sequence[tuple[Any, Sequence[Figure]]]
    answer: Sequence[str]
    matches: Sequence[Match]


@dataclass(frozen=True)
class Panel:
    """The figures of one quantization."""

    row: Row
    figures: Sequence[Drawn]
    grids: Sequence[Grid]
    examples: Examples | None


def render(results: Results, origin: Origin, studies: Sequence[Any], focus: Sequence[tuple[str, str]] = ()) -> str:
    """The page as HTML.

    Args:
        studies: spectral studies. focus: (model, quantization) of the rows that get figures of their own; empty for
            as many as there is room for.
    """
    everything = [record for row in results.rows for record in row.records.values()]
    findings = _findings(results)
    matches = _matches(results)
    chapters = [_chapter(results, model, studies, matches) for model in results.models]
    chosen = _detailed(results, chapters, focus)
    opened: dict[str, Data | str] = {}
    bases: dict[str, Summary] = {}
    headline = _table(results, results.headline, [c for row in results.rows for c in row.headline.values()])
    script = _resource("page.js")
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            results=results,
            origin=origin,
            published=[published.warnings(everything), published.agreeing(everything)],
            data_sets=grouped(everything),
            chapters=chapters,
            findings=findings,
            claims=claims_sentence(findings),
            rule=RULE,
            headline=headline,
            more=_more(results),
            panels=[_panel(results, row, opened, bases) for row in chosen],
            left_out=sum(not row.full_precision for row in results.rows) - len(chosen),
            panel_ids={(row.model, row.quantization): i for i, row in enumerate(chosen, 1)},
            chosen_rows={(chapter.model, chapter.advice.chosen) for chapter in chapters},
            has_latency=any(row.efficiency and row.efficiency["speed"] for row in results.rows),
            timing_state=timing_state,
            latency_machine=overview.machine(results.rows),
            score_meaning=score.MEANING,
            score_tip=score.tip,
            glossary=_glossary(results.headline),
            about=[about_row(row) for row in results.rows if (row.model, row.quantization) in set(focus)],
            bases=[base for model in results.models if (base := results.base(model)) is not None],
            focus=set(focus),
            told=told,
            control_note=NOTE,
            most_columns=MOST_COLUMNS,
            style=Markup(_resource("page.css")),
            script=Markup(script),
            script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
            written=datetime.now(UTC).isoformat(timespec="minutes"),
        )
    )


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("benchmark.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["ticks"] = ticks
    environment.filters["number"] = number
    environment.filters["points"] = score.points
    environment.filters["estimate"] = estimate_text
    return environment


def ticks(text: str) -> Markup:
    """Names between backticks as <code>; everything is escaped.

    >>> ticks("`a` < b")
    Markup('<code>a</code> &lt; b')
    """
    parts = str(escape(text)).split("`")
    inner = "".join(f"<code>{part}</code>" if i % 2 else part for i, part in enumerate(parts))
    return Markup(inner)


def number(value: float | None, form: str = ".2f") -> str:
    """A number, or a dash."""
    return "–" if value is None else format(value, form)


def estimate_text(estimate: Estimate | None) -> str:
    """A change with its 95 % interval, or a dash."""
    return "–" if estimate is None else f"{estimate.value:+.3f} {interval(*estimate.interval(), '{:+.3f}'.format)}"


def _resource(name: str) -> str:
    return files("benchmark.report").joinpath(name).read_text(encoding="utf-8")


def _findings(results: Results) -> list[Finding]:
    records = [record for row in results.rows for record in row.records.values()]
    full = [record for record in records if record.quantization == FP32.name] + list(results.bases.values())
    own = without_exported([record for record in records if record.quantization != FP32.name], full)
    models = results.spec.models if results.spec else ()
    names = [(record.model, record.quantization) for record in own]
    runs = runs_of(names, facts_by_model(records, models), calibrated_on(own))
    chosen = [record for record in own if (record.model, record.quantization) in runs]
    effects, _ = collect(chosen, full, partial(evidence_of, results.ledger), wanted)
    return examine(effects, runs)


def _table(results: Results, keys: Sequence[str], changes: Sequence[Change]) -> Table:
    by_row = {(c.model, c.quantization, c.key): c for c in changes}
    lines = []
    for row in results.rows:
        if not row.full_precision:
            found = [by_row.get((row.model, row.quantization, key)) for key in keys]
            lines.append((row, tuple(None if change is None else heat(change) for change in found)))
    columns = tuple(Column(key, tuple(key.split("/")), ARROWS[better_of(key)][:1]) for key in keys)
    return Table(columns, tuple(lines), sum(change.p is not None for change in changes))


def _more(results: Results) -> Table:
    """The other headline metrics that the tasks declare: stars are adjusted over this table."""
    present = dict.fromkeys(key for row in results.rows for key in row.changes)
    declared = {key: tasks.get(key.split("/", 1)[0]).metric(key) for key in present}
    shallow = [key for key in present if declared[key].headline and key.count("/") <= 3]
    keys = tuple(dict.fromkeys([*shallowest_headlines(present, tasks.get), *shallow]))
    keys = tuple(key for key in sorted(keys) if key not in results.headline and declared[key].better != "neither")
    return _table(results, keys, adjust(row.changes[k] for row in results.rows for k in keys if k in row.changes))


def _glossary(keys: Sequence[str]) -> dict[str, str]:
    """Short words of metric keys, spelled out as their tasks do."""
    words = {key: tasks.get(key.split("/")[0]).words for key in keys}
    return {part: words[key][part] for key in keys for part in key.split("/") if part in words[key]}


def _matches(results: Results) -> list[Match]:
    """The controls beside the quantizations that they imitate, in the headline metrics."""
    records = [record for row in results.rows for record in row.records.values()]
    return match([*results.bases.values(), *records], partial(evidence_of, results.ledger), results.headline)[0]


def _chapter(results: Results, model: str, studies: Sequence[Any], matches: Sequence[Match]) -> Chapter:
    rows = results.of(model)
    own = [study for study in studies if study["model"] == model]
    matched = [each for each in matches if each.model == model]
    advice = advise(model, rows, results.missing)
    labels = {row.quantization: row.label for row in rows}
    return Chapter(
        model,
        advice,
        overview.pareto(rows, results.headline, advice.chosen),
        overview.forests([row for row in rows if not row.full_precision], results.headline),
        drawn.of_model(rows),
        [(study, spectral.draw(study, labels)) for study in own],
        answer(spectral.widest(own), matched, results.suite, lambda name: labels.get(name, name)),
        matched,
    )


def _detailed(results: Results, chapters: Sequence[Chapter], focus: Sequence[tuple[str, str]]) -> list[Row]:
    """Rows with figures of their own: those in focus; else the recommended ones first, then as in the ledger."""
    rows = [row for row in results.rows if not row.full_precision and row.records]
    if focus:
        return [row for row in rows if (row.model, row.quantization) in focus][:MOST_DETAILS]
    recommended = {(chapter.model, chapter.advice.chosen) for chapter in chapters}
    first = [row for row in rows if (row.model, row.quantization) in recommended]
    return [*first, *(row for row in rows if row not in first)][:MOST_DETAILS]


def _panel(results: Results, row: Row, opened: dict[str, Data | str], bases: dict[str, Summary]) -> Panel:
    return Panel(row, drawn.of_row(results, row, bases), grids(row), worst(results, row, opened))
