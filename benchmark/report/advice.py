"""What to deploy, in at most three sentences, and behind a fold how that was decided.

The rule is `benchmark.results.decide`: the cheapest quantization that is shown to be non-inferior as one of all of
them. Nothing is recommended where the evidence cannot tell, and nothing is said of a time that was not settled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmark.report.svg import signed_text
from benchmark.results.compare import Change
from benchmark.results.decide import (
    ALPHA,
    CANNOT_TELL,
    FEWEST,
    INFERIOR,
    NON_INFERIOR,
    Candidate,
    Choice,
    Decision,
    about,
    beyond,
    choose_quantization,
    images_needed,
    images_told,
    margins_told,
    told,
)
from benchmark.results.findings import Finding, counted
from benchmark.results.rows import Row, Settled, settled

RULE = (
    "A quantization is non-inferior if no headline metric loses more than its margin even at the worse end of its 95 % "
    "interval, and inferior if the whole interval of one lies beyond its margin. Else these images cannot tell; the "
    "number of images is one with which a quantization that loses nothing is shown so four times in five. Recommended "
    "is the one with the fewest effective bits that is non-inferior as one of all candidates: they are tested from the "
    f"most bits to the fewest, each at {100 * ALPHA:g} % divided by their number, and one that passes hands its level "
    f"on to the next (Wiens 2003), so that a worse one is recommended in at most {100 * ALPHA:g} % of sweeps. Nothing "
    f"is decided on fewer than {FEWEST} images or without an interval. A margin is a convention: judge by your own use "
    "whether that much is harmless, and set your own by `margins` in the suite."
)
NAMED = 3
"""Names in a sentence; more are counted."""


@dataclass(frozen=True)
class Line:
    """One candidate of the choice: verdict and reason, p value of an unacceptable loss and the level it is held to."""

    name: str
    bits: float
    verdict: str
    words: str
    p: float
    level: float
    passed: bool


@dataclass(frozen=True)
class Advice:
    """What to deploy of one model; names stand between backticks.

    Attributes:
        chosen: short name; None where nothing is recommended. title: one line. sentences: at most three.
        lines: the candidates from the most bits to the fewest. notes: what else the records say of it.
    """

    model: str
    chosen: str | None
    title: str
    sentences: tuple[str, ...]
    lines: tuple[Line, ...] = ()
    notes: tuple[str, ...] = ()


def losses(row: Row) -> list[Change]:
    """Headline metrics that are significantly worse."""
    return [change for change in row.headline.values() if change.stars and change.direction == "worse"]


def gains(row: Row) -> list[Change]:
    """Headline metrics that are significantly better."""
    return [change for change in row.headline.values() if change.stars and change.direction == "better"]


def advise(model: str, rows: Sequence[Row], missing: Sequence[str] = ()) -> Advice:
    """Apply the rule to the rows of one model, full precision among them.

    Args: missing: headline metrics of the suite that nobody evaluated; they are not judged, and named.
    """
    quantized = [row for row in rows if not row.full_precision and not row.control]
    if not quantized:
        return Advice(model, None, "Nothing to choose from", (f"The records hold no quantization of `{model}`.",))
    found = {row.quantization: row for row in quantized if row.size is not None}
    choice = choose_quantization(
        {name: row.size.effective_bits for name, row in found.items() if row.size is not None},
        {name: row.decision for name, row in found.items() if row.decision is not None},
    )
    unsized = [row.quantization for row in quantized if row.quantization not in found]
    notes = [f"Not considered, because their size is unknown: {_names(unsized)}."] if unsized else []
    notes += [f"Not evaluated, and so not judged: {', '.join(f'`{key}`' for key in missing)}."] if missing else []
    if not found:
        why = f"The results folder has no QuantizationReport of the quantizations of `{model}`."
        return Advice(model, None, "No recommendation", (why,), notes=tuple(notes))
    lines = tuple(_line(*each) for each in zip(choice.candidates, choice.levels, choice.passed, strict=True))
    if choice.recommended is None:
        title, sentences = _nothing(model, choice)
        return Advice(model, None, title, sentences, lines, tuple(notes))
    row = found[choice.recommended.name]
    told_of = (*_worst(row), *_significant(row), *_reliability(row), *notes)
    sentences = _recommended(row, bool(missing))
    return Advice(model, row.quantization, f"Deploy `{row.quantization}`", sentences, lines, told_of)


def about_row(row: Row) -> tuple[str, ...]:
    """What the records say of one quantization that was asked for."""
    words = [f"`{row.quantization}` of `{row.model}`:"]
    if row.size is not None:
        words.append(f"{row.size.effective_bits:.1f} effective bits per weight, {row.size.megabytes:.2f} MB.")
    if row.decision is None:
        return (*words, "Full precision is what the others are compared with.")
    verdict = told(row.decision)
    words.append(f"{verdict[0].upper()}{verdict[1:]}; margins: {margins_told(row.decision.judged)}.")
    return (*words, *_worst(row), *_significant(row), *_reliability(row))


def claims_sentence(findings: Sequence[Finding]) -> str:
    """How many of the study's claims hold here."""
    return f"Of the study's {len(findings)} claims: {counted(findings)}."


def _line(candidate: Candidate, level: float, passed: bool) -> Line:
    decision = candidate.decision
    words = told(decision).removeprefix(decision.verdict).lstrip(":; ")
    return Line(candidate.name, candidate.cost, decision.verdict, words, decision.p, level, passed)


def _recommended(row: Row, partly: bool) -> tuple[str, ...]:
    """Verdict, size, and speed where it is known. Args: partly: some headline metrics were never evaluated."""
    judged = row.decision.judged if row.decision else ()
    count = f"all {len(judged)} headline metrics" if len(judged) > 1 else "its headline metric"
    if partly:
        count = f"the {len(judged)} headline metrics that were evaluated"
    words = [
        f"It is non-inferior to full precision in {count}, on {images_told(judged)}: even at the worse end of its 95 % "
        f"interval none loses more than its margin ({margins_told(judged)})."
    ]
    if row.size is not None:
        words.append(
            f"It has the fewest effective bits of those that are shown to be so: {row.size.effective_bits:.1f} per "
            f"weight, {row.size.megabytes:.2f} MB instead of {row.size.float_megabytes:.2f} MB."
        )
    speed = settled(row.efficiency)
    return (*words, *([_speed(speed)] if speed else []))


def _speed(speed: Settled) -> str:
    ends = f"[{speed.low:.2f}, {speed.high:.2f}]"
    if speed.low <= 1.0 <= speed.high:
        return f"One image takes as long as in full precision: {speed.ratio:.2f} times, {ends}."
    word = "less" if speed.high < 1.0 else "more"
    return f"One image takes {word} time than in full precision: {speed.ratio:.2f} times, {ends}."


def _nothing(model: str, choice: Choice) -> tuple[str, tuple[str, ...]]:
    """Title and sentences where no candidate passed."""
    decisions = {each.name: each.decision for each in choice.candidates}
    by = {v: [n for n, d in decisions.items() if d.verdict == v] for v in (INFERIOR, CANNOT_TELL, NON_INFERIOR)}
    several = len(decisions) > 1
    if len(by[INFERIOR]) == len(decisions):
        closest = min(decisions, key=lambda name: _reach(decisions[name]))
        worst = decisions[closest].open[0]
        all_of = f"Each of the {len(decisions)} quantizations" if several else "The only quantization"
        first = f"{all_of} of `{model}` loses more than a margin in some headline metric."
        return "Stay with full precision", (first, f"The closest is `{closest}`: {beyond(worst)}.")
    title, words = "Not decided: these images cannot tell", []
    if by[NON_INFERIOR]:
        words.append(_alone(model, choice, by[NON_INFERIOR]))
    else:
        whole = f"None of the {len(decisions)} quantizations" if several else "The only quantization"
        words.append(f"{whole} of `{model}` is {'' if several else 'not '}shown to be non-inferior.")
    if by[INFERIOR]:
        words.append(f"Inferior: {_names(by[INFERIOR])}.")
    words.append(_choice_needs(choice) if by[NON_INFERIOR] else _undecided(decisions, by[CANNOT_TELL]))
    return title, tuple(words)


def _alone(model: str, choice: Choice, names: Sequence[str]) -> str:
    """What passes taken alone and not as one of many."""
    count = len(choice.candidates)
    p, level = min(
        (e.decision.p, lv) for e, lv in zip(choice.candidates, choice.levels, strict=True) if e.name in names
    )
    verb = "is" if len(names) == 1 else "are"
    return (
        f"Of the {count} quantizations of `{model}` {_names(names)} {verb} non-inferior taken alone, but not as one of "
        f"{count} candidates (p {p:.2g}, needed {level:.2g})."
    )


def _choice_needs(choice: Choice) -> str:
    """How many images would let the first of them pass as one of many."""
    level = ALPHA / len(choice.candidates)
    passing = [e.decision.judged for e in choice.candidates if e.decision.verdict == NON_INFERIOR]
    needed = [count for judged in passing if (count := images_needed(judged, level)) is not None]
    return f"About {about(min(needed))} images would do, or fewer candidates." if needed else "Name fewer candidates."


def _undecided(decisions: dict[str, Decision], unsure: list[str]) -> str:
    first = min(unsure, key=lambda name: (decisions[name].images or float("inf"), _reach(decisions[name])))
    images = decisions[first].images
    need = f"about {about(images)} images would do" if images else beyond(decisions[first].open[0])
    if len(unsure) == 1:
        return f"Cannot tell of `{first}`: {need}."
    return f"Cannot tell of {_names(unsure)}; for `{first}` {need}."


def _reach(decision: Decision) -> float:
    """The largest loss that an interval allows, in margins."""
    return max((each.worst / each.margin for each in decision.judged if each.worst and each.margin), default=0.0)


def _worst(row: Row) -> list[str]:
    """The worst change in the sample, and the worst that an interval leaves room for, both in margins."""
    judged = [each for each in (row.decision.judged if row.decision else ()) if each.change and each.margin]
    if not judged:
        return []
    observed = max(judged, key=lambda each: (each.loss or 0.0) / (each.margin or 1.0))
    told_of = (
        "Largest loss for its margin" if (observed.loss or 0.0) > 0 else "No headline metric is worse; the closest"
    )
    return [f"{told_of}: {beyond(observed)}."]


def _significant(row: Row) -> list[str]:
    worse, better = losses(row), gains(row)
    words = [f"Significantly worse in {_list(worse)}."] if worse else []
    words += [f"Significantly better in {_list(better)}."] if better else []
    return words or ["No headline metric changes significantly, which is not the same as no change."]


def _reliability(row: Row) -> list[str]:
    if row.reliability.value is None:
        return [f"It has no reliability: {row.reliability.reason}."]
    ends = row.reliability.interval
    interval = f" [{signed_text(ends[0], 2)}, {signed_text(ends[1], 2)}]" if ends else ""
    return [f"Reliability: {signed_text(row.reliability.value, 2)} points{interval}, the mean change over the tasks."]


def _list(changes: Sequence[Change]) -> str:
    return ", ".join(
        f"`{c.key}` {c.reference:.3f} → {c.value:.3f} ({signed_text(c.change, 3)}{c.stars})" for c in changes
    )


def _names(names: Sequence[str]) -> str:
    shown = ", ".join(f"`{name}`" for name in names[:NAMED])
    return shown if len(names) <= NAMED else f"{shown} and {len(names) - NAMED} more"
