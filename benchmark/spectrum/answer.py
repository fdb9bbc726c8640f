"""What does quantization do to the features, and does that explain the changes? Five sentences, from records alone.

The first four are of a spectral study (`spectrum.json`), in the joint space, on clean images; the fifth is of the
controls in the ledger (`benchmark.results.mechanism`). A direction is *damped* or *kept* where the 95 % interval of its
gain says so, and *drowned* where that of its energy ratio lies above `DROWNED`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

from benchmark.results.groups import CONTROL
from benchmark.results.mechanism import Match, Verdict, command, nothing
from benchmark.spec import FP32
from benchmark.spectrum.model import CLEAN

Entry = Mapping[str, Any]
Namer = Callable[[str], str]
Explained = Literal["explained", "not explained", "cannot tell"]

EQUAL = 0.05
"""Gains within this distance of 1 leave a direction as it is."""
DROWNED = 2.0
"""Energy ratio from which on a direction holds at least as much error as signal, where its gain is 1."""
STRONG = 8
"""Directions that count as strong: the study's first band."""
FILTER = ("control-gain", "control-shaped", "control-lowrank")
"""What the spectral filter would do: change the strength of directions, add noise to the weak ones, take these away."""
SAID: Mapping[str, str] = {
    "reproduces": "explains it",
    "does not": "does not explain it",
    "overshoots": "makes more than that",
    "cannot tell": "leaves it open",
}
PARTS: Mapping[str, str] = {
    "control-gain": "the gain alone",
    "control-residual": "the residual alone",
    "control-margin": "a temperature",
    "control-noise": "isotropic noise",
    "control-shaped": "shaped noise",
    "control-lowrank": "truncation",
}


def answer(study: Mapping[str, Any] | None, matches: Sequence[Match], suite: str, name: Namer = str) -> list[str]:
    """The five sentences, or as many as there are records for.

    Args:
        study: of the joint space among others; None where there is none. matches: of the study's model. name: of a
            quantization, as it is to be read.
    """
    told = features(study, name) if study else []
    return [*told, explained(matches, suite, name) if matches or not study else by_parts(study, suite, name)]


def features(study: Mapping[str, Any], name: Namer = str) -> list[str]:
    """What quantization does to the features: strong directions, weak directions, the error, the margins."""
    named = _quantized(study, name)
    if not named:
        return [f"The study of {study['data']} holds controls alone and no quantization."]
    return [
        f"On {study['images']:,} images of {study['data']}, in the joint space, the strong directions (ranks "
        f"0-{STRONG}) {_strong(named)}.",
        _weak(named),
        _share(named),
        _margins(named),
    ]


def _quantized(study: Mapping[str, Any], name: Namer) -> dict[str, Entry]:
    """Quantization, as it is to be read -> its joint space on clean images; without controls."""
    clean = (e for e in study["entries"] if e["images"] == CLEAN and e["quantization"] != FP32.name)
    return {
        name(e["quantization"]): e["layers"]["image"] for e in clean if not e["quantization"].startswith(f"{CONTROL}-")
    }


def damping(gain: Mapping[str, float | None]) -> str:
    """What an interval of a gain shows: `damped`, `kept`, `strengthened`, or `cannot tell`."""
    value, low, high = gain["value"], gain["low"], gain["high"]
    if value is None:
        return "cannot tell"
    low, high = (value if low is None else low), (value if high is None else high)  # nothing changes
    if high < 1.0 - EQUAL:
        return "damped"
    if low > 1.0 + EQUAL:
        return "strengthened"
    return "kept" if low >= 1.0 - EQUAL and high <= 1.0 + EQUAL else "cannot tell"


def _strong(entries: Mapping[str, Entry]) -> str:
    gains = {name: entry["bands"]["0-8"]["gain"] for name, entry in entries.items()}
    words = {
        "kept": "keep their strength under",
        "damped": "are damped under",
        "strengthened": "gain strength under",
        "cannot tell": f"cannot be told within {EQUAL:.0%} under",
    }
    parts = []
    for verdict, text in words.items():
        found = {name: gain for name, gain in gains.items() if damping(gain) == verdict}
        if found:
            parts.append(f"{text} {_listed(found)} ({_numbers('gain', found.values())})")
    return _joined(parts)


def _weak(entries: Mapping[str, Entry]) -> str:
    """How many directions behind the strong ones are drowned, and how many damped; names with one answer together."""
    drowned: dict[tuple[int, int], list[str]] = {}
    damped: dict[str, int] = {}
    weak = 0
    for name, entry in entries.items():
        ratios, gains = (_each(entry["directions"][ratio]) for ratio in ("energy_ratio", "gain"))
        over = [k for k, each in enumerate(ratios) if k >= STRONG and (each["low"] or 0.0) > DROWNED]
        drowned.setdefault((len(over), over[0] + 1 if over else 0), []).append(name)
        damped[name] = sum(damping(each) == "damped" for each in gains[STRONG:])
        weak = max(weak, len(gains[STRONG:]))
    parts = [
        f"{count or 'none'} under {_listed(names)}" + f" (the first is rank {first})" * bool(count)
        for (count, first), names in sorted(drowned.items())
    ]
    most = max(damped.values())
    under = _listed(name for name, count in damped.items() if count == most)
    least = f"at most {most}, under {under}" if most else "none"
    return (
        f"Of the {weak} weak directions quantization drowns {_joined(parts)}; it damps {least} (drowned: energy more "
        f"than {DROWNED:g} times; damped: gain below {1.0 - EQUAL:g})."
    )


def _each(told: Mapping[str, Sequence[float | None]]) -> list[dict[str, float | None]]:
    return [dict(zip(told, values, strict=True)) for values in zip(*told.values(), strict=True)]


def _share(entries: Mapping[str, Entry]) -> str:
    shares = {name: entry["bands"]["all"]["systematic_share"] for name, entry in entries.items()}
    known = {name: share for name, share in shares.items() if share["value"] is not None}
    if not known:
        return "There is no error to explain."
    name = max(known, key=lambda each: known[each]["value"])
    told = f"{known[name]['value']:.1%} {_ends(known[name], '.1%')}".rstrip() + f" under {name}"
    others = [share["value"] for other, share in known.items() if other != name]
    rest = f", {min(others):.1%} to {max(others):.1%} under the others" if others else ""
    return (
        f"Gains of single directions explain this share of the error's energy: {told}{rest}; the rest is no change of "
        "strength."
    )


def _margins(entries: Mapping[str, Entry]) -> str:
    """The margins that change most, and the range of the others."""
    margins = {name: entry["margins"] for name, entry in entries.items() if entry["margins"]}
    if not margins:
        return "The data has no classes, so there are no margins."
    name = max(margins, key=lambda each: abs(margins[each]["slope"]["value"] - 1.0))
    slope, residual = margins[name]["slope"], margins[name]["residual"]["value"]
    told = f"{slope['value']:.3f} {_ends(slope, '.3f')}".rstrip() + f" times under {name} (residual {residual:.3f})"
    others = [each["slope"]["value"] for other, each in margins.items() if other != name]
    rest = f", and {min(others):.3f} to {max(others):.3f} times under the others" if others else ""
    return f"The margins of the true class become {told}{rest}."


def explained(matches: Sequence[Match], suite: str, name: Namer = str) -> str:
    """Does it explain the changes: which controls reproduce how many of those that are shown."""
    if not matches:
        return f"Whether that explains the changes is open. {nothing(suite)}"
    parts, verdicts = [], []
    for quantization in dict.fromkeys(m.quantization for m in matches):
        own = [m for m in matches if m.quantization == quantization]
        told = [m for m in own if m.verdict != "no change shown"]
        total, shown = (len({m.key for m in some}) for some in (own, told))
        verdicts += list(by_filter(told).values())
        if shown:
            parts.append(
                f"of the {shown} changes shown among {total} metrics under {name(quantization)}, {_counts(told)}"
            )
        else:
            parts.append(f"none of the {total} metrics changes measurably under {name(quantization)}")
    text = _joined(parts)
    return f"{text[0].upper()}{text[1:]}; {_filter(verdicts)}."


def by_parts(study: Mapping[str, Any], suite: str, name: Namer = str) -> str:
    """The same without controls: of the study's own accuracy, which part of the error makes its change."""
    parts = {quantization: entry["accuracy_of_parts"] for quantization, entry in _quantized(study, name).items()}
    shown = {q: each for q, each in parts.items() if each and each["gain"]["verdict"] != "no change shown"}
    if not shown:
        about = "No quantization changes the zero-shot accuracy on these images measurably"
    else:
        worst = max(shown, key=lambda each: abs(shown[each]["gain"]["change"]["value"]))
        gain, residual = shown[worst]["gain"], shown[worst]["residual"]
        about = (
            f"Zero-shot accuracy on these images changes under {_listed(shown)}, most under {worst}: by "
            f"{_moved(gain['change'])}, by gain alone {_moved(gain['own'])}, by the residual alone "
            f"{_moved(residual['own'])}; gain alone {_verdicts(shown, 'gain')}, the residual alone "
            f"{_verdicts(shown, 'residual')}"
        )
    return f"{about}; what explains the other tasks, controls can tell: {command(suite)}."


def _verdicts(shown: Mapping[str, Entry], part: str) -> str:
    """What a part of the error does to the changes that are shown: verdicts with the quantizations they hold under."""
    found: dict[str, list[str]] = {}
    for name, each in shown.items():
        found.setdefault(SAID[each[part]["verdict"]], []).append(name)
    return _joined([f"{said} under {_listed(names)}" for said, names in found.items()])


def _moved(told: Mapping[str, float | None]) -> str:
    return "+0.000" if told["value"] is None else f"{told['value']:+.3f} {_ends(told, '+.3f')}"


def by_filter(matches: Sequence[Match]) -> dict[tuple[str, str], Explained]:
    """(quantization, metric) -> whether a control that does what the spectral filter would do reproduces its change."""
    found: dict[tuple[str, str], set[Verdict]] = {}
    for each in matches:
        if each.part.startswith(FILTER):
            found.setdefault((each.quantization, each.key), set()).add(each.verdict)
    return {
        at: "explained" if "reproduces" in own else "cannot tell" if "cannot tell" in own else "not explained"
        for at, own in found.items()
    }


def _filter(verdicts: Sequence[Explained]) -> str:
    if not verdicts:
        return "so nothing here tests the spectral filter"
    count = Counter(verdicts)
    yes, no, open_ = (count[each] for each in ("explained", "not explained", "cannot tell"))
    return (
        f"so the spectral filter explains {yes} of {len(verdicts)} changes, does not explain {no}, and for {open_} "
        "these images cannot tell"
    )


def _counts(matches: Sequence[Match]) -> str:
    parts = []
    for part in dict.fromkeys(m.part for m in matches):
        own = Counter(m.verdict for m in matches if m.part == part)
        word = next((text for control, text in PARTS.items() if part.startswith(control)), part)
        rank = f" to {part.rpartition('_')[2]}" if part.startswith("control-lowrank") else ""
        unsure = f" (cannot tell: {own['cannot tell']})" if own["cannot tell"] else ""
        parts.append(f"{word}{rank} reproduces {own['reproduces']}{unsure}")
    return _joined(parts)


def _listed(names: Iterable[str]) -> str:
    return _joined(list(names))


def _joined(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}" if parts else ""


def _numbers(what: str, told: Iterable[Mapping[str, float | None]]) -> str:
    """One number with its interval, or the range of several."""
    values = list(told)
    if len(values) == 1:
        return f"{what} {values[0]['value']:.3f} {_ends(values[0], '.3f')}".rstrip()
    known = [each["value"] for each in values if each["value"] is not None]
    return f"{what} {min(known):.3f} to {max(known):.3f}" if known else f"no {what}"


def _ends(told: Mapping[str, float | None], form: str) -> str:
    low, high = told["low"], told["high"]
    return "" if low is None or high is None else f"[{low:{form}}, {high:{form}}]"
