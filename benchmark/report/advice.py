"""What to deploy, and why: a paragraph that follows from the records by a stated rule.

The rule: among the quantizations that have every headline metric, at least one of them tested, and no significant
loss in any (q < 0.05, adjusted over all headline tests of the page), the one with the fewest effective bits; of equal
ones the one with the higher reliability score. Where nothing qualifies, it says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmark.analysis.claims import Finding
from benchmark.analysis.compare import Change
from benchmark.report.gather import Row
from benchmark.report.svg import signed_text

RULE = (
    "Rule: among quantizations without a significant loss (q < 0.05) in any headline metric, the one with the fewest "
    "effective bits per weight; of equal ones the one with the higher reliability score."
)
SHOWN_BOUNDS = 2


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
    tested = [row for row in complete if any(change.p is not None for change in row.headline.values())]
    left_out = _left_out(quantized, complete, tested)
    if not tested:
        why = f"No quantization of `{model}` has every headline metric with a test against full precision."
        return Advice(model, None, "No recommendation", (why, *left_out))
    safe = [row for row in tested if not losses(row)]
    if not safe:
        return _none_safe(model, tested, left_out)
    ranked = sorted((row for row in safe if row.size is not None), key=_rank)
    if not ranked:
        why = (
            f"{_safe_of(model, len(safe), len(tested))} no significant loss, but the ledger has no "
            "QuantizationReport of them: their effective bits are unknown, so that none can be preferred."
        )
        return Advice(model, None, "No recommendation", (why, *left_out))
    return _recommend(model, ranked, tested, next((row for row in rows if row.full_precision), None), left_out)


def about(row: Row) -> tuple[str, ...]:
    """What the records say of one quantization that was asked for."""
    tested = [change for change in row.headline.values() if change.p is not None]
    words = [f"`{row.quantization}` of `{row.model}`:"]
    if row.size is not None:
        words.append(f"{row.size.effective_bits:.1f} effective bits per weight, {row.size.megabytes:.2f} MB.")
    if not tested:
        return (*words, "No headline metric has a test against full precision.")
    worse, better = losses(row), gains(row)
    words.append(f"Significantly worse in {_list(worse)}." if worse else "No significant loss in a headline metric.")
    words += [f"Significantly better in {_list(better)}."] if better else []
    return (*words, *(_bounds(row) if not worse else []), *_untested(row))


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


def _recommend(
    model: str, ranked: Sequence[Row], tested: Sequence[Row], base: Row | None, left_out: Sequence[str]
) -> Advice:
    chosen = ranked[0]
    safe = _safe_of(model, sum(not losses(row) for row in tested), len(tested))
    words = [f"{safe} no significant loss in any headline metric.", *_size(chosen, base)]
    better = gains(chosen)
    words.append(
        "It is significantly better in " + _list(better) + "."
        if better
        else "No headline metric changes significantly under it."
    )
    words += _bounds(chosen)
    words += [*_untested(chosen), *_speed(chosen, base)]
    fewer = sorted((row for row in tested if row.size and _rank(row)[0] < _rank(chosen)[0]), key=_rank)
    if fewer:
        below = fewer[-1]
        words.append(f"Fewer bits cost something: `{below.quantization}` loses {_list(losses(below))}.")
    best = max(ranked, key=lambda row: row.reliability if row.reliability is not None else float("-inf"))
    if best is not chosen and best.reliability is not None and chosen.reliability is not None:
        words.append(
            f"If bits do not matter, `{best.quantization}` has the highest reliability score among them "
            f"({best.reliability:+.1%} against {chosen.reliability:+.1%}); differences of this score are not tested."
        )
    return Advice(model, chosen.quantization, f"Deploy `{chosen.quantization}`", (*words, *left_out))


def _none_safe(model: str, tested: Sequence[Row], left_out: Sequence[str]) -> Advice:
    with_score = [row for row in tested if row.reliability is not None]
    words = [
        f"{_all(tested)} of `{model}` {'loses' if len(tested) == 1 else 'lose'} significantly in at least one headline "
        "metric: by the rule, stay with full precision."
    ]
    if with_score:
        best = max(with_score, key=lambda row: row.reliability or 0.0)
        words.append(
            f"The least is lost by `{best.quantization}` (reliability score {best.reliability:+.1%}): "
            f"{_list(losses(best))}."
        )
    return Advice(model, None, "Stay with full precision", (*words, *left_out))


def _size(row: Row, base: Row | None) -> list[str]:
    if row.size is None:
        return []
    return [
        f"Of these `{row.quantization}` has the fewest effective bits: {row.size.effective_bits:.1f} per weight over "
        f"both towers, {row.size.megabytes:.2f} MB instead of {row.size.float_megabytes:.2f} MB."
    ]


def _speed(row: Row, base: Row | None) -> list[str]:
    """Measured latency against full precision's; nothing is said of a speed that nobody measured."""
    if row.latency is None:
        return ["Its speed was not measured: no real kernel of it was timed."]
    before = f" instead of {base.latency.milliseconds:.2f} ms" if base and base.latency else ""
    kernel = f", through the kernel of `{row.latency.timed}`" if row.latency.timed != row.quantization else ""
    return [f"Measured latency of one image: {row.latency.milliseconds:.2f} ms{before} ({row.latency.where}{kernel})."]


def _bounds(row: Row) -> list[str]:
    """The largest relative losses that the intervals of the headline metrics do not exclude."""
    bounds = []
    for change in row.headline.values():
        end = change.low if change.better == "higher" else change.high
        if end is None or change.better == "neither":
            continue
        loss = -end if change.better == "higher" else end
        if loss > 0:
            bounds.append((loss / abs(change.reference) if change.reference else float("inf"), change.key, end))
    if not bounds:
        return []
    worst = sorted(bounds, reverse=True)[:SHOWN_BOUNDS]
    room = " and ".join(f"`{key}` (a change of {signed_text(end, 3)})" for _, key, end in worst)
    return [f"Not significant is not zero: the 95 % intervals leave most room for a loss in {room}."]


def _untested(row: Row) -> list[str]:
    names = [f"`{key}`" for key, change in row.headline.items() if change.p is None]
    return [f"Without a test, and so outside the rule: {', '.join(names)}."] if names else []


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


def _safe_of(model: str, safe: int, tested: int) -> str:
    if tested == 1:
        return f"The only quantization of `{model}` shows"
    return f"{safe} of {tested} quantizations of `{model}` {'shows' if safe == 1 else 'show'}"


def _all(rows: Sequence[Row]) -> str:
    return f"All {len(rows)} quantizations" if len(rows) > 1 else "The only quantization"
