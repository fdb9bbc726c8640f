"""How a hypothesis is judged on the user's own records: one rule for all, and how the findings are written.

A hypothesis names a quantity and the values of it that make the claim true: those from the *smallest effect of
interest* on. With the 95 % interval of the quantity (`benchmark.results.aggregate`), the claim

- **holds** if the interval lies within those values,
- **does not hold** if it lies outside,
- else the records **cannot tell**, and about how many models or images would do.

From three models on the interval is about models of this kind, with fewer about these models alone; the verdict says
which. A claim with several parts holds if all do, and does not hold if one does not. A claim of existence ("can improve
all four at once") holds or is **not shown**: a lack of evidence never refutes it. The probability of a wrong verdict is
at most 5 % for each hypothesis; they are not adjusted for each other.
"""

from __future__ import annotations

import math
import textwrap
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

from benchmark.results.group_formats import csv_lines, json_lines, json_object
from benchmark.results.groups import Run
from benchmark.results.quantities import Found, Frame, Shown, Terms, all_at_once

Verdict = Literal["holds", "does not hold", "cannot tell", "not shown"]
Unit = Literal["points", "%", "share"]
WORDS: Mapping[Unit, str] = {"points": "points", "%": "%", "share": "%"}
WIDTH = 80


@dataclass(frozen=True)
class Region:
    """The values of a quantity that make a claim true."""

    low: float = -math.inf
    high: float = math.inf

    def verdict(self, low: float, high: float) -> Verdict:
        """Of an interval."""
        if self.low <= low and high <= self.high:
            return "holds"
        return "does not hold" if high < self.low or low > self.high else "cannot tell"

    def distance(self, value: float) -> float:
        """Of a value to the nearer bound: what an interval around it may not exceed."""
        return min(abs(value - bound) for bound in (self.low, self.high) if math.isfinite(bound))


@dataclass(frozen=True)
class Quantity:
    """A part of a hypothesis. Args: measure: its value with the interval, or what is missing."""

    name: str
    unit: Unit
    region: Region
    measure: Callable[[Frame], Found | str]


@dataclass(frozen=True)
class Answer:
    """A quantity on the user's records, and what it says about its part of the claim. `needs`: what would tell."""

    quantity: Quantity
    verdict: Verdict
    found: Found | None
    needs: str = ""

    @property
    def text(self) -> str:
        """The quantity with its interval and bound, in words."""
        if self.found is None:
            return f"{self.quantity.name}: {self.needs}"
        unit = self.quantity.unit
        value, low, high = (_number(each, unit) for each in (self.found.value, *self.ends))
        needs = f"; to tell takes {self.needs}" if self.needs else ""
        left = self.found.left_out
        needs += f"; {left} evaluation{'s' * (left > 1)} without a value or an interval left out" if left else ""
        number = f"{self.quantity.name}: {value} [{low}, {high}] {WORDS[unit]} for {self.found.population}"
        return f"{number}; the claim needs {_bound(self.quantity.region, unit)} {WORDS[unit]}{needs}"

    @property
    def ends(self) -> tuple[float, float]:
        """Of the interval; (nan, nan) where there is none."""
        return (math.nan, math.nan) if self.found is None else (self.found.low, self.found.high)


@dataclass(frozen=True)
class Finding:
    """A claim, its verdict on these records, and the numbers that say so.

    `study` is what the study found. `evidence` is a sentence without a full stop.
    """

    claim: str
    verdict: Verdict
    evidence: str
    study: str = ""
    answers: tuple[Answer, ...] = ()


@dataclass(frozen=True)
class Hypothesis:
    """A claim about quantities, all of which have to lie where it says."""

    claim: str
    study: str
    quantities: tuple[Quantity, ...]

    def examine(self, frame: Frame) -> Finding:
        """What the records say."""
        answers = tuple(_answer(quantity, frame) for quantity in self.quantities)
        verdicts = [answer.verdict for answer in answers]
        verdict: Verdict = "cannot tell"
        if "does not hold" in verdicts:
            verdict = "does not hold"
        elif set(verdicts) == {"holds"}:
            verdict = "holds"
        return Finding(self.claim, verdict, "; ".join(answer.text for answer in answers), self.study, answers)


@dataclass(frozen=True)
class Existence:
    """A claim that some run improves in all terms; it holds or is not shown."""

    claim: str
    study: str
    terms: Terms

    def examine(self, frame: Frame) -> Finding:
        """What the records say."""
        shown = all_at_once(frame, self.terms)
        if shown is None:
            return Finding(self.claim, "not shown", "no run has all four tasks", self.study)
        return Finding(self.claim, "holds" if shown.shown else "not shown", _existence(shown), self.study)


Examined: TypeAlias = Hypothesis | Existence


def _existence(shown: Shown) -> str:
    """How many runs improve, and for how many that is shown."""
    text = f"{len(shown.better)} of {shown.tested} runs improve in all four, shown for {len(shown.shown)} "
    text += "(each at 2.5 %, Holm over the runs)"
    names = [" ".join(name) for name in shown.shown[:3]]
    more = f" and {len(shown.shown) - 3} more" if len(shown.shown) > 3 else ""
    return text + (
        f": {', '.join(names)}{more}" if names else f"; nearest is {' '.join(shown.nearest)}, p {shown.p:.2g}"
    )


def _answer(quantity: Quantity, frame: Frame) -> Answer:
    measured = quantity.measure(frame)
    if isinstance(measured, str):
        return Answer(quantity, "cannot tell", None, measured)
    verdict = quantity.region.verdict(measured.low, measured.high)
    if verdict != "cannot tell":
        return Answer(quantity, verdict, measured)
    needs = measured.needs(quantity.region.distance(measured.value))
    return Answer(quantity, verdict, measured, needs or "more than can be had: it lies at the bound")


def _number(value: float, unit: Unit) -> str:
    return {"points": f"{100 * value:+.2f}", "%": f"{100 * value:+.1f}", "share": f"{100 * value:.0f}"}[unit]


def _bound(region: Region, unit: Unit) -> str:
    low, high = (_number(each, unit) for each in (region.low, region.high))
    if math.isinf(region.low):
        return f"at most {high}"
    return f"at least {low}" if math.isinf(region.high) else f"{low} to {high}"


# --- how findings are written --------------------------------------------------------------------------------------

TITLES: Mapping[Verdict, str] = {
    "holds": "hold",
    "does not hold": "do not hold",
    "cannot tell": "cannot be told from these records",
    "not shown": "not shown",
}


def counted(findings: Sequence[Finding]) -> str:
    """How many claims have which verdict, in words."""
    count = Counter(finding.verdict for finding in findings)
    return ", ".join(f"{count[verdict]} {title}" for verdict, title in TITLES.items() if count[verdict])


def to_text(suite: str, findings: Sequence[Finding], runs: Mapping[tuple[str, str], Run]) -> str:
    """For the terminal: how many hold, then each with its numbers."""
    models = len({model for model, _ in runs})
    count = f"{len(runs)} {'run' if len(runs) == 1 else 'runs'}"
    about = f"{models} {'model' if models == 1 else 'models'}, {count} beside full precision"
    lines = textwrap.wrap(
        f"Of the study's {len(findings)} claims on suite {suite} ({about}): {counted(findings)}.", WIDTH
    )
    for finding in sorted(findings, key=lambda each: list(TITLES).index(each.verdict)):
        lines += ["", *_wrapped(f"{finding.verdict}: {finding.claim}", "")]
        lines += _wrapped(f"{finding.evidence}. The study: {finding.study}.", "  ")
    lines += ["", *_wrapped("The spectral mechanism is not among them: see `reliquant spectrum`.", "")]
    return "\n".join(lines) + "\n"


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(
        text, WIDTH, initial_indent=indent, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )


def flat(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """One flat mapping a quantity: claim, verdict of the claim and of this part, numbers, bounds, what would tell."""
    rows: list[dict[str, Any]] = []
    for finding in findings:
        about = {"claim": finding.claim, "verdict": finding.verdict, "evidence": finding.evidence}
        if not finding.answers:
            rows.append(about | _numbers(None) | {"study": finding.study})
        rows += [about | _numbers(answer) | {"study": finding.study} for answer in finding.answers]
    return rows


def _numbers(answer: Answer | None) -> dict[str, Any]:
    found, quantity = (None, None) if answer is None else (answer.found, answer.quantity)
    region = None if quantity is None else quantity.region
    return {
        "quantity": quantity and quantity.name,
        "part": answer and answer.verdict,
        "estimate": found and found.value,
        "low": found and found.low,
        "high": found and found.high,
        "from": region.low if region and math.isfinite(region.low) else None,
        "to": region.high if region and math.isfinite(region.high) else None,
        "population": found and found.population,
        "models": sum(found.models) if found else None,
        "images": found and found.images,
        "left_out": found and found.left_out,
        "needs": answer.needs if answer else "",
    }


def to_markdown(suite: str, findings: Sequence[Finding], runs: Mapping[tuple[str, str], Run]) -> str:
    """One row a claim."""
    lines = ["| claim | verdict | numbers | the study |", "|---|---|---|---|"]
    lines += [f"| {f.claim} | {f.verdict} | {f.evidence} | {f.study} |" for f in findings]
    return "\n".join(lines) + "\n"


def to_latex(suite: str, findings: Sequence[Finding], runs: Mapping[tuple[str, str], Run]) -> str:
    """One booktabs `tabular`, one row a claim."""
    import pandas as pd

    rows = [(f.claim, f.verdict, f.evidence, f.study) for f in findings]
    frame = pd.DataFrame(rows, columns=["claim", "verdict", "numbers", "the study"])
    text: str = frame.to_latex(index=False, escape=True, column_format="llll")
    return text


Written: TypeAlias = Callable[[str, Sequence[Finding], Mapping[tuple[str, str], Run]], str]
FORMATS: Mapping[str, Written] = MappingProxyType(
    {
        "table": to_text,
        "md": to_markdown,
        "csv": lambda suite, findings, runs: csv_lines(flat(findings)),
        "latex": to_latex,
        "json": lambda suite, findings, runs: json_object(flat(findings), suite=suite, runs=len(runs)),
        "jsonl": lambda suite, findings, runs: json_lines([{"suite": suite, **row} for row in flat(findings)]),
    }
)
