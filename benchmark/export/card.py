"""The model card: what was done, what it changed, what may be claimed from it, and how to load it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import yaml

from benchmark.export.folder import WEIGHTS, ExportConfig
from benchmark.quantization import QuantizationReport
from benchmark.results.compare import Change, adjust
from benchmark.results.decide import Decision, images_told, margins_told, told
from benchmark.results.formats import to_markdown
from benchmark.results.speed import speed_sentence
from benchmark.results.tables import report_figures


@dataclass(frozen=True)
class CardFacts:
    """What a card is written from.

    Attributes:
        folder: name of the folder. weight_bytes: size of its weight file. suite: name and version.
        used_suite: as `reliquant run` takes it. command: that made the folder.
        headline: metric keys of the reliability table. changes: against full precision, unadjusted; empty where the
            ledger has no evaluation. decision: what they say; None without changes. values: metrics of the quantized
            model, where there is nothing to compare with.
        efficiency: size and speed as the ledger has them, as JSON.
    """

    folder: str
    config: ExportConfig
    report: QuantizationReport
    weight_bytes: int
    suite: str
    used_suite: str
    command: str
    headline: Sequence[str]
    changes: Sequence[Change]
    values: Mapping[str, float]
    decision: Decision | None = None
    efficiency: Mapping[str, Any] | None = None


def card(facts: CardFacts) -> str:
    """Markdown with the YAML front matter that model hubs read."""
    results = [reliability(facts), _sizes(facts), _speed(facts)]
    parts = [_front_matter(facts), _about(facts), *results, _use(facts), _provenance(facts)]
    return "\n\n".join(parts) + "\n"


def safe_claims(changes: Sequence[Change]) -> list[str]:
    """One sentence for each adjusted change with an interval: what the records support, and no more.

    Args:
        changes: with q values, i.e. after `benchmark.results.compare.adjust`.
    """
    lines = []
    for change in changes:
        if change.low is None or change.high is None or change.q is None:
            continue
        bounds = f"95 % interval {change.low:+.4f} to {change.high:+.4f}"
        if change.stars and change.direction in ("better", "worse"):
            lines.append(f"`{change.key}` is {change.direction} than in full precision: {change.change:+.4f}, {bounds}")
        else:
            lines.append(f"`{change.key}`: no significant change ({change.change:+.4f}, {bounds})")
    return lines


def _front_matter(facts: CardFacts) -> str:
    config = facts.config
    fields: dict[str, Any] = {
        "library_name": "reliquant",
        "pipeline_tag": "zero-shot-image-classification",
        "tags": ["clip", "quantization", config.quantization.method, config.short_name],
    }
    scheme, _, place = config.base.ref.partition(":")
    if scheme in ("hf-hub", "transformers") and place.partition("@")[0].count("/") == 1:
        fields |= {"base_model": place.partition("@")[0], "base_model_relation": "quantized"}
    results = [_result(facts, key, value) for key, value in facts.values.items() if key in facts.headline]
    if results:
        fields["model-index"] = [{"name": facts.folder, "results": results}]
    return f"---\n{yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)}---"


def _result(facts: CardFacts, key: str, value: float) -> dict[str, Any]:
    data = key.split("/")[1]
    return {
        "task": {"type": "zero-shot-image-classification"},
        "dataset": {"name": f"{facts.suite} {data}", "type": data},
        "metrics": [{"type": key, "value": value}],
    }


def _about(facts: CardFacts) -> str:
    config = facts.config
    how = (
        "It runs on the quantizing library's own kernels."
        if facts.report.kernel == "real"
        else "reliquant runs it on the machine's integer kernels where its codes fit them, else on dequantized floats."
    )
    licence = "The licence of the full-precision model applies to these weights; this card does not know it."
    return (
        f"# {facts.folder}\n\n`{config.base.ref}` quantized as `{config.short_name}` by reliquant, without training. "
        f"{how} {licence}"
    )


class Evaluated(Protocol):
    """What the section on reliability is written from: those attributes of `CardFacts`."""

    @property
    def suite(self) -> str: ...
    @property
    def headline(self) -> Sequence[str]: ...
    @property
    def changes(self) -> Sequence[Change]: ...
    @property
    def values(self) -> Mapping[str, float]: ...
    @property
    def decision(self) -> Decision | None: ...


def reliability(facts: Evaluated) -> str:
    """Verdict, table of changes and what may be claimed; or that nothing was evaluated."""
    title = f"## Reliability\n\nSuite {facts.suite}."
    tested = adjust(change for change in facts.changes if change.key in facts.headline)
    if tested:
        claims = "\n".join(f"- {line}." for line in safe_claims(tested))
        return (
            f"{title} {_verdict(facts.decision)}`+` better, `-` worse.\n\n{to_markdown(tested)}\n"
            "### What may be claimed\n\n"
            f"On these data sets and prompts only, against full precision of the same model:\n\n{claims}"
        )
    if facts.values:
        rows = "\n".join(f"| {key} | {facts.values[key]:.4f} |" for key in facts.headline if key in facts.values)
        return f"{title} No full-precision evaluation to compare with.\n\n| metric | value |\n|---|---:|\n{rows}"
    return f"{title} Not evaluated when this folder was written: nothing may be claimed about its reliability."


def _verdict(decision: Decision | None) -> str:
    """The verdict with images and margins, as a paragraph."""
    if decision is None:
        return ""
    about = f"on {images_told(decision.judged)}; margins: {margins_told(decision.judged)}"
    return f"\n\n**Against full precision: {told(decision)}** ({about}).\n\n"


def _sizes(facts: CardFacts) -> str:
    figures = report_figures(facts.report.to_json())
    towers = " and ".join(facts.report.towers)
    return (
        "## Size\n\n| | |\n|---|---:|\n"
        f"| effective bits per weight, both towers, scales included | {figures['effective_bits']:.2f} |\n"
        f"| bits per quantized weight, scales included | {figures['quantized_bits']:.2f} |\n"
        f"| share of the {towers} tower's Linear and Conv2d weights | {figures['weight_share']:.1%} |\n"
        f"| both towers, packed where quantized | {figures['size_mb']:.2f} MB |\n"
        f"| both towers, float32 | {figures['float_mb']:.2f} MB |\n"
        f"| the file `{WEIGHTS}` | {facts.weight_bytes / 1e6:.2f} MB |"
    )


def _speed(facts: CardFacts) -> str:
    return f"## Speed\n\n{speed_sentence(facts.efficiency)}"


def _use(facts: CardFacts) -> str:
    words = ["reliquant", "run", facts.used_suite, "--model", f"path/to/{facts.folder}"]
    config, text = facts.config, [f"## Use\n\n```bash\n{shlex.join(words)}\n```"]
    text.append(f"The model's own logit scale is {config.logit_scale:.4f}, its bias {config.logit_bias:g}.")
    if config.tuned is not None:
        text.append(
            f"Refitted on {', '.join(config.tuned.fit)} ({config.tuned.source}) it is {config.tuned.scale:.4f}; "
            "a served model uses the refitted one."
        )
    if config.classes is not None:
        text.append(f"Served, it tells the {len(config.classes.names)} classes of `{config.classes.dataset}` apart.")
    return "\n\n".join(text)


def _provenance(facts: CardFacts) -> str:
    config = facts.config
    known: dict[str, Any] = {
        "full-precision model": f"`{config.base.ref}`, digest `{config.base.sha256}`",
        "calibration data": f"`{config.calibration}`" if config.calibration else "none used",
        **config.provenance,
        "command": f"`{facts.command}`",
    }
    rows = "\n".join(f"| {key} | {_cell(value)} |" for key, value in known.items())
    return f"## Provenance\n\n| | |\n|---|---|\n{rows}"


def _cell(value: Any) -> str:
    text = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
    return text.replace("|", "\\|")
