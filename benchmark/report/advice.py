"""What to deploy, and why: a paragraph that follows from the records by a stated rule.

The rule: among the quantizations that have every headline metric, at least one of them tested, and that are
non-inferior to full precision (`benchmark.results.decide` names the margin), the one with the fewest effective
bits; of equal ones the one with the higher reliability score. Where nothing qualifies, it says so. The worst observed
change, the worst that the intervals allow, and a slower speed are always told; a noisy timing is never used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmark.plugins import MARGIN
from benchmark.report.score import percent
from benchmark.report.svg import signed_text
from benchmark.results.compare import Change
from benchmark.results.decide import Judged, beyond, judged, noninferior
from benchmark.results.hypotheses import Finding
from benchmark.results.rows import Row
from benchmark.results.speed import is_slower, speed_sentence

RULE = (
    f"Rule: among quantizations that are non-inferior to full precision, the one with the fewest effective bits per "
    f"weight; of equal ones the one with the higher reliability score. Non-inferior: at the worse end of its 95 % "
    f"interval (where it has none: as observed) no headline metric is worse by more than its margin: {MARGIN}, two "
    f"points, unless its task or the suite declares another; for metrics that are no fractions {100 * MARGIN:g} % of "
    "the value in full precision. A margin is a convention: judge by your own use whether that much is harmless."
)


@dataclass(frozen=True)
class Advice:
    """What to deploy of one model.

    Attributes:
        chosen: short name; None where no quantization qualifies. title: one line. sentences: why, with numbers;
            names stand between backticks.
    """

    model: str
    chosen: str | None
    title: str
    sentences: tuple[str, ...]


def losses(row: Row) -> list[Change]:
    """Headline metrics that are significantly worse."""
    return [change for change in row.headline.values() if change.stars and change.direction == "worse"]


def gains(row: Row) -> list[Change]:
    """Headline metrics that are significantly better."""
    return [change for change in row.headline.values() if change.stars and change.direction == "better"]


def advise(model: str, rows: Sequence[Row], headline: Sequence[str]) -> Advice:
    """Apply the rule to the rows of one model, full precision among them."""
    quantized = [row for row in rows if not row.full_precision and not row.control]
    if not quantized:
        return Advice(model, None, "Nothing to choose from", (f"The records hold no quantization of `{model}`.",))
    complete = [row for row in quantized if headline and all(key in row.headline for key in headline)]
    tested = [row for row in complete if any(each.change.p is not None for each in judged(row))]
    left_out = _left_out(quantized, complete, tested)
    if not tested:
        why = f"No quantization of `{model}` has every headline metric with a test against full precision."
        return Advice(model, None, "No recommendation", (why, *left_out))
    kept = [row for row in tested if noninferior(row)]
    if not kept:
        return _none_kept(model, tested, left_out)
    ranked = sorted((row for row in kept if row.size is not None), key=_rank)
    if not ranked:
        why = (
            f"{_kept_of(model, len(kept), len(tested))}, but the ledger has no QuantizationReport of them: their "
            "effective bits are unknown, so that none can be preferred."
        )
        return Advice(model, None, "No recommendation", (why, *left_out))
    return _recommend(model, ranked, tested, left_out)


def about(row: Row) -> tuple[str, ...]:
    """What the records say of one quantization that was asked for."""
    tested = [each for each in judged(row) if each.change.p is not None]
    words = [f"`{row.quantization}` of `{row.model}`:"]
    if row.size is not None:
        words.append(f"{row.size.effective_bits:.1f} effective bits per weight, {row.size.megabytes:.2f} MB.")
    if not tested:
        return (*words, "No headline metric has a test against full precision.")
    failing = beyond(row)
    words.append(f"Not shown to be non-inferior: it {_reaches(failing)}." if failing else f"Non-inferior: {_within()}.")
    return (*words, *_worst(row), *_significant(row), *_untested(row))


def claims_sentence(findings: Sequence[Finding]) -> str:
    """How many of the study's claims hold here."""
    count = {verdict: sum(f.verdict == verdict for f in findings) for verdict in ("holds", "fails", "open")}
    return (
        f"Of the study's {len(findings)} claims, {count['holds']} hold on these records, {count['fails']} do not, "
        f"and {count['open']} cannot be told from them."
    )


def _rank(row: Row) -> tuple[float, float, str]:
    bits = row.size.effective_bits if row.size else float("inf")
    return (round(bits, 6), -(row.reliability or 0.0), row.quantization)


def _recommend(model: str, ranked: Sequence[Row], tested: Sequence[Row], left_out: Sequence[str]) -> Advice:
    chosen = ranked[0]
    kept = sum(noninferior(row) for row in tested)
    words = [f"{_kept_of(model, kept, len(tested))}: {_within()}.", *_size(chosen), speed_sentence(chosen.efficiency)]
    words += [*_worst(chosen), *_significant(chosen), *_untested(chosen), *_unmoved(chosen)]
    fewer = sorted((row for row in tested if row.size and _rank(row)[0] < _rank(chosen)[0]), key=_rank)
    if fewer:
        words.append(f"Fewer bits are not shown to be safe: `{fewer[-1].quantization}` {_reaches(beyond(fewer[-1]))}.")
    best = max(ranked, key=lambda row: row.reliability if row.reliability is not None else float("-inf"))
    if best is not chosen and best.reliability is not None and chosen.reliability is not None:
        words.append(
            f"If bits do not matter, `{best.quantization}` has the highest reliability score among them "
            f"({percent(best.reliability)} against {percent(chosen.reliability)}); differences of this score are not "
            "tested."
        )
    slower = " for its size: it is slower than full precision" if is_slower(chosen.efficiency) else ""
    return Advice(model, chosen.quantization, f"Deploy `{chosen.quantization}`{slower}", (*words, *left_out))


def _none_kept(model: str, tested: Sequence[Row], left_out: Sequence[str]) -> Advice:
    words = [f"{_none_of(tested, model)} is shown to be non-inferior: by the rule, stay with full precision."]
    worse = [row for row in tested if any(each.shown_worse for each in judged(row))]
    unsure = [row for row in tested if row not in worse]
    if worse:
        words.append(f"Worse by more than the margin: {_names(worse)}.")
    if unsure:
        words.append(f"The intervals are too wide to tell, more images would narrow them: {_names(unsure)}.")
    closest = min(tested, key=lambda row: max(each.worst / each.margin for each in judged(row)))
    words.append(f"The closest is `{closest.quantization}`: it {_reaches(beyond(closest))}.")
    return Advice(model, None, "Stay with full precision", (*words, *_worst(closest), *left_out))


def _size(row: Row) -> list[str]:
    if row.size is None:
        return []
    return [
        f"Of these `{row.quantization}` has the fewest effective bits: {row.size.effective_bits:.1f} per weight over "
        f"both towers, {row.size.megabytes:.2f} MB instead of {row.size.float_megabytes:.2f} MB."
    ]


def _worst(row: Row) -> list[str]:
    """The worst change in the sample, and the worst that an interval leaves room for, both in margins."""
    observed = max(judged(row), key=lambda each: each.observed / each.margin)
    reach = max(judged(row), key=lambda each: each.worst / each.margin)
    told = f"Worst observed change: {_list([observed.change])}"
    told += "." if observed.observed > 0 else "; none is for the worse."
    room = f"The intervals leave most room for a loss in `{reach.change.key}`, up to a change of {_end(reach)}."
    return [told] + ([room] if reach.worst > max(0.0, reach.observed) else [])


def _significant(row: Row) -> list[str]:
    worse, better = losses(row), gains(row)
    words = [f"Significantly worse in {_list(worse)}."] if worse else []
    words += [f"Significantly better in {_list(better)}."] if better else []
    return words or ["No headline metric changes significantly, which is not the same as no change."]


def _untested(row: Row) -> list[str]:
    names = [f"`{each.change.key}`" for each in judged(row) if each.change.low is None]
    return [f"Without an interval, and so judged as observed: {', '.join(names)}."] if names else []


def _unmoved(row: Row) -> list[str]:
    """An interval from resampled images has no width where no image changed: it is no proof for other images."""
    names = [f"`{each.change.key}`" for each in judged(row) if each.change.low == each.change.high == 0.0]
    return [f"The same on every image, so that its interval is a point: {', '.join(names)}."] if names else []


def _reaches(failing: Sequence[Judged]) -> str:
    """What does not pass, the worst first."""
    worst = failing[0]
    told = f"`{worst.change.key}` {signed_text(worst.change.change, 3)}{worst.change.stars}"
    by = f"with an interval up to a loss of {worst.worst:.4f}" if worst.change.low is not None else "as observed"
    rest = f", and {len(failing) - 1} more" if len(failing) > 1 else ""
    return f"goes beyond the margin of {worst.margin:.3g} in {told}, {by}{rest}"


def _end(each: Judged) -> str:
    return signed_text(-each.worst if each.change.better == "higher" else each.worst, 3)


def _within() -> str:
    return "no headline metric is worse by more than its margin, even at the worse end of its interval"


def _left_out(quantized: Sequence[Row], complete: Sequence[Row], tested: Sequence[Row]) -> list[str]:
    found = []
    for reason, rows in (
        ("a headline metric is missing", [row for row in quantized if row not in complete]),
        ("no headline metric has a test", [row for row in complete if row not in tested]),
    ):
        if rows:
            found.append(f"Not considered, because {reason}: {', '.join(f'`{row.quantization}`' for row in rows)}.")
    return found


def _list(changes: Sequence[Change]) -> str:
    return ", ".join(
        f"`{c.key}` {c.reference:.3f} → {c.value:.3f} ({signed_text(c.change, 3)}{c.stars})" for c in changes
    )


def _kept_of(model: str, kept: int, tested: int) -> str:
    if tested == 1:
        return f"The only quantization of `{model}` is non-inferior to full precision"
    return (
        f"{kept} of {tested} quantizations of `{model}` {'is' if kept == 1 else 'are'} non-inferior to full precision"
    )


def _none_of(rows: Sequence[Row], model: str) -> str:
    return f"None of {len(rows)} quantizations of `{model}`" if len(rows) > 1 else f"No quantization of `{model}`"


def _names(rows: Sequence[Row]) -> str:
    return ", ".join(f"`{row.quantization}`" for row in rows)
