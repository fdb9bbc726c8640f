r"""Which control reproduces which change of a quantization: the answer to "is it the spectral filter?".

A control keeps one part of what a quantization does to the features (`benchmark.quantization.controls`). For a metric
with the values f in full precision, q under the quantization and c under the control, on the same images,

- the change to explain is q - f, and counts as shown where its 95 % interval leaves out 0;
- the difference is c - q, with its interval: 0 where the control does all that the quantization does;
- the control **reproduces** the change where the intervals say that it makes more than half of it and less than one and
  a half times: :math:`\sigma (c - f) > \sigma (q - f) / 2` and :math:`\sigma (c - f) < 3 \sigma (q - f) / 2`, with
  :math:`\sigma` the sign of q - f. It **does not** where the first is shown to be false, it **overshoots** where the
  second is, else the records **cannot tell**.

All are functions of the replicates of the three records together, so what q - f is not sure of is in the verdict. Each
verdict by itself is wrong with a probability of at most about 5 %; they are not adjusted for each other.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

import numpy as np

from benchmark.errors import DamagedSamplesError, ReliquantError, StorageError
from benchmark.ledger.records import Record
from benchmark.metrics.uncertainty import GROUPS, Estimate, Measured, estimate
from benchmark.plugins import Better, tasks
from benchmark.quantization.registry import read
from benchmark.results.compare import base_of
from benchmark.results.effects import asked_of
from benchmark.results.evidence import Evidence, change
from benchmark.results.group_formats import csv_lines, json_lines, json_object
from benchmark.results.groups import CONTROL
from benchmark.results.notation import ARROWS, interval
from benchmark.spec import FP32, QuantSpec
from benchmark.spec.short_name import undotted
from benchmark.utils.progress import Progress, shown

Verdict = Literal["reproduces", "does not", "overshoots", "cannot tell", "no change shown"]
Load: TypeAlias = Callable[[Record], Evidence]
LIKE = "like"
"""Option of a control that names the quantization it imitates."""
WIDTH = 80
NOTE = (
    "change: against full precision. difference: control minus quantization, 95 % interval, paired by image. A control "
    "reproduces a change if it makes more than half of it and less than one and a half times, shown at 95 %; a change "
    "whose own interval holds 0 is none to explain. Verdicts are not adjusted for each other."
)


@dataclass(frozen=True)
class Match:
    """One control beside the quantization that it imitates, in one metric.

    Attributes:
        control: its short name. key: of the metric that is judged. change: of the quantization against full precision,
            own: of the control; difference: control minus quantization. None where there is no interval, `reason` then
            says why.
    """

    model: str
    quantization: str
    control: str
    key: str
    better: Better
    verdict: Verdict
    change: Estimate | None = None
    own: Estimate | None = None
    difference: Estimate | None = None
    reason: str = ""

    @property
    def part(self) -> str:
        """The control without the quantization that it imitates: `control-gain`, `control-lowrank-rank_8`."""
        return part_of(self.control)


def part_of(control: str) -> str:
    """A control's short name without what it imitates and its scope."""
    spec = read(control)
    kept = tuple((name, value) for name, value in spec.options if name != LIKE)
    return spec.model_copy(update={"options": kept}).name.removesuffix(f"-{spec.scope}")


def imitated(control: str) -> str | None:
    """Short name of the quantization that a control imitates; None for one that imitates none (truncation)."""
    like = read(control).option(LIKE)
    return None if like is None else _vision(read(undotted(str(like))))


def _vision(spec: QuantSpec) -> str:
    return spec.for_tower("vision").name


def match(
    records: Sequence[Record], load: Load, keys: Sequence[str], progress: Progress | None = None
) -> tuple[list[Match], dict[str, str]]:
    """Every quantization of the vision tower with the controls of it, metric by metric.

    Args:
        records: finished ones, quantized and in full precision, none superseded. load: reads a record's evidence.
        keys: full metric keys; one that is judged by a companion counts by that.

    Returns:
        The matches, and evaluation -> why it could not be compared.
    """
    find_base = base_of(records)
    pairs = list(_pairs(records))
    found: list[Match] = []
    failures: dict[str, str] = {}
    with (progress or shown()).phase("controls", len(pairs)) as advance:
        for quantized, control in pairs:
            base = find_base(quantized)
            try:
                if base is not None and (asked := [each.now for each in asked_of(quantized, keys)]):
                    evidence = load(base), load(quantized), load(control)
                    found += [_match(quantized, control, key, *evidence) for key in asked]
            except ReliquantError as error:
                if isinstance(error, StorageError) and not isinstance(error, DamagedSamplesError):
                    raise  # a disk that cannot be read
                failures[f"{control.model}, {control.quantization}: {control.name}"] = str(error)
            advance(1)
    order = {key: at for at, key in enumerate(keys)}
    found.sort(key=lambda each: (each.model, each.quantization, _place(each.key, order)))
    return found, failures


def _place(key: str, order: Mapping[str, int]) -> int:
    """Of a judged key among those that were asked for: its own place, or that of its evaluation."""
    name = "/".join(key.split("/")[:2])
    return order.get(key, next((at for other, at in order.items() if other.startswith(f"{name}/")), len(order)))


def _pairs(records: Sequence[Record]) -> Iterable[tuple[Record, Record]]:
    """(quantized, control) records of one evaluation on the same images."""
    controls = [r for r in records if r.quantization.startswith(f"{CONTROL}-")]
    likes = {name: imitated(name) for name in dict.fromkeys(r.quantization for r in controls)}
    wanted = {like for like in likes.values() if like is not None}
    for record in records:
        if record.quantization == FP32.name or record.quantization in likes:
            continue
        if wanted and record.quantization not in wanted:
            continue  # truncation alone says little of a quantization that nothing imitates
        for control in controls:
            same = (control.model, control.name, control.comparison_key)
            own = likes[control.quantization] in (None, record.quantization)
            if own and same == (record.model, record.name, record.comparison_key):
                yield record, control


def _match(quantized: Record, control: Record, key: str, f: Evidence, q: Evidence, c: Evidence) -> Match:
    """One metric; `key` is relative to the evaluation."""
    names = quantized.model, quantized.quantization, control.quantization, f"{quantized.name}/{key}"
    better = tasks.get(quantized.task).metric(key).better
    moved = [change(q, f, key), change(c, f, key), _difference(c, q, key)]
    reason = next((each for each in moved[::2] if isinstance(each, str)), "")
    whole, own, difference = (None if isinstance(each, str) else each for each in moved)
    if whole is None:
        return Match(*names, better, "cannot tell", whole, own, difference, reason)
    low, high = whole.interval()
    if low <= 0.0 <= high:
        return Match(*names, better, "no change shown", whole, own, difference, reason)
    return Match(*names, better, _verdict(whole, f, q, c, key), whole, own, difference, reason)


def _difference(now: Evidence, before: Evidence, key: str) -> Estimate | str:
    """Control minus quantization, also of a metric that only a comparison with full precision gives."""
    if key in now.compared and key in before.compared:
        pair = now.compared[key], before.compared[key]
        found = estimate(lambda a, b: a - b, *pair, occupied=int(now.occupied.sum()))
        return found or f"it does not vary over the {now.images} images"
    return change(now, before, key)


def _verdict(whole: Estimate, f: Evidence, q: Evidence, c: Evidence, key: str) -> Verdict:
    """Of a change that is shown: does the control make between a half and one and a half of it?"""
    sign = 1.0 if whole.value > 0 else -1.0
    sides = [evidence.measured.get(key) or evidence.compared.get(key) for evidence in (c, q, f)]
    values = [each if each is not None else Measured(0.0, np.zeros(GROUPS)) for each in sides]
    occupied = int(q.occupied.sum())
    ends = []
    for share in (0.5, 1.5):
        beyond = estimate(lambda c, q, f, share=share: sign * (c - f - share * (q - f)), *values, occupied=occupied)
        if beyond is None:
            return "cannot tell"
        ends.append(beyond.interval())
    (half_low, half_high), (more_low, more_high) = ends
    if half_high < 0.0:
        return "does not"
    if more_low > 0.0:
        return "overshoots"
    return "reproduces" if half_low > 0.0 and more_high < 0.0 else "cannot tell"


# --- how matches are written ---------------------------------------------------------------------------------------


def to_text(suite: str, matches: Sequence[Match]) -> str:
    """For the terminal: a block for each quantization and metric, a line for each control."""
    if not matches:
        return "\n".join(textwrap.wrap(nothing(suite), WIDTH)) + "\n"
    lines = [f"Which control reproduces which change, suite {suite}"]
    for model, name in dict.fromkeys((m.model, m.quantization) for m in matches):
        chosen = [m for m in matches if (m.model, m.quantization) == (model, name)]
        lines += ["", f"{model}, {name}"]
        width = max(len(m.part) for m in chosen) + 2
        for key in dict.fromkeys(m.key for m in chosen):
            rows = [m for m in chosen if m.key == key]
            lines.append(f"  {key}{ARROWS[rows[0].better][:1]}: change {_written(rows[0].change)}")
            if rows[0].verdict != "no change shown":
                lines.append(f"    {'control':<{width}} {'change':>8}  {'difference':<28} verdict")
                lines += [
                    f"    {m.part:<{width}} {_value(m.own):>8}  {_written(m.difference):<28} {m.verdict}" for m in rows
                ]
    return "\n".join([*lines, "", *textwrap.wrap(NOTE, WIDTH)]) + "\n"


def nothing(suite: str) -> str:
    """What to do where there is nothing to match."""
    return (
        f"The results of suite {suite} hold no quantization together with a control of it. Evaluate some: reliquant "
        f"run {suite} --quant rtn-w4a8 --quant 'control-{{gain,residual,margin,noise,shaped}}-like_rtn.w4a8'"
    )


def _value(found: Estimate | None) -> str:
    return "-" if found is None else f"{found.value:+.4f}"


def _written(found: Estimate | None) -> str:
    return "-" if found is None else f"{found.value:+.4f} {interval(*found.interval(), '{:+.4f}'.format)}"


def flat(matches: Sequence[Match]) -> list[dict[str, Any]]:
    """One flat mapping a match."""
    return [
        {
            "model": m.model,
            "quantization": m.quantization,
            "control": m.control,
            "metric": m.key,
            "better": m.better,
            **_numbers("change", m.change),
            **_numbers("control_change", m.own),
            **_numbers("difference", m.difference),
            "verdict": m.verdict,
            "reason": m.reason,
        }
        for m in matches
    ]


def _numbers(name: str, found: Estimate | None) -> dict[str, float | None]:
    low, high = found.interval() if found else (None, None)
    return {name: found.value if found else None, f"{name}_low": low, f"{name}_high": high}


HEADS = ("model", "quantization", "metric", "change", "control", "its change", "difference", "verdict")


def _cells(matches: Sequence[Match]) -> list[tuple[str, ...]]:
    return [
        (m.model, m.quantization, m.key, _written(m.change), m.part, _value(m.own), _written(m.difference), m.verdict)
        for m in matches
    ]


def to_markdown(suite: str, matches: Sequence[Match]) -> str:
    """One row a match."""
    lines = [HEADS, ("---",) * len(HEADS), *_cells(matches)]
    return "\n".join(["| " + " | ".join(line) + " |" for line in lines] + ["", NOTE]) + "\n"


def to_latex(suite: str, matches: Sequence[Match]) -> str:
    """One booktabs `tabular`, one row a match."""
    import pandas as pd

    frame = pd.DataFrame(_cells(matches), columns=list(HEADS))
    return f"{frame.to_latex(index=False, escape=True, column_format='l' * len(HEADS))}% {NOTE}\n"


FORMATS: Mapping[str, Callable[[str, Sequence[Match]], str]] = MappingProxyType(
    {
        "table": to_text,
        "md": to_markdown,
        "csv": lambda suite, matches: csv_lines(flat(matches)),
        "latex": to_latex,
        "json": lambda suite, matches: json_object(flat(matches), suite=suite),
        "jsonl": lambda suite, matches: json_lines([{"suite": suite, **row} for row in flat(matches)]),
    }
)
