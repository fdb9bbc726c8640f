"""From a finished study to a recommendation: candidates, groups that cannot be told apart, and two sentences.

The study chooses candidates on the validation split. They are judged on the test split, by the rule of
`benchmark.results.decide`: from the dearest to the cheapest, so that the probability of recommending one that loses its
margin stays at or below 2.5 %, however many there are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import optuna
from optuna.trial import FrozenTrial

from benchmark.results.decide import Candidate, Choice, Decision, about, choose, images_told, told
from benchmark.results.notation import short
from benchmark.results.reliability import Reliability

from .front import non_dominated
from .history import CONFIGURATION, METRICS, complete, front, is_feasible
from .objective import EFFECTIVE_BITS, LATENCY, SIZE, Goals, Metrics
from .standing import UNDECIDED, UNKNOWN

MOST = 8
"""Candidates of a goal at most: each costs a share of the level that a wrong recommendation is allowed."""
APART = 0.05
"""Probability of calling any two members different that are equal."""


@dataclass(frozen=True)
class Member:
    """A candidate, or an artifact of the suite, on the test split.

    Attributes:
        trial: Optuna's; None for an artifact, which nobody chose on the validation split.
        metrics: completed; empty where it failed on the test split. group: 1 is the most reliable; 0: none.
    """

    name: str
    trial: FrozenTrial | None
    metrics: Metrics
    decision: Decision = UNDECIDED
    reliability: Reliability = UNKNOWN
    group: int = 0


def candidates(study: optuna.Study, goals: Goals) -> list[FrozenTrial]:
    """What is taken to the test split.

    Without a goal the Pareto front. With one the trials that reach it, as far as none is both cheaper and surer, from
    the dearest to the cheapest; of many some, evenly, the first and the last among them. Where no trial reaches the
    goal, the one that comes closest.
    """
    if goals.probability is None:
        return front(study)
    own = {constraint.text for constraint in goals.constraints}
    allowed = [t for t in complete(study) if all(v <= 0 for text, v in t.constraints.items() if text in own)]
    found = {t.number: (t.values[0], _surest(t, own)) for t in allowed}
    reached = [t for t in allowed if is_feasible(t)]
    if not reached:
        return sorted(allowed, key=lambda t: found[t.number][::-1])[:1]
    keep = non_dominated([found[t.number] for t in reached])
    ladder = sorted((t for t, on in zip(reached, keep, strict=True) if on), key=lambda t: (-t.values[0], t.number))
    chosen = dict.fromkeys(np.linspace(0, len(ladder) - 1, min(MOST, len(ladder))).round().astype(int).tolist())
    return [ladder[index] for index in chosen]


def _surest(trial: FrozenTrial, own: set[str]) -> float:
    """The largest shortfall of a headline metric, in margins."""
    return max((v for text, v in trial.constraints.items() if text not in own), default=0.0)


def grouped(members: Sequence[Member], apart: Callable[[str, str], float]) -> list[Member]:
    """The members in groups that cannot be told apart in reliability.

    The most reliable one leads the first group, and all belong to it that are not shown to differ from it; of the rest
    the most reliable one leads the next.

    Args:
        apart: two names -> p value of the hypothesis that they are equally reliable.
    """
    known = {each.name: each.reliability.value for each in members if each.reliability.value is not None}
    rest = sorted(known, key=lambda name: (-(known[name] or 0.0), name))
    level = APART / max(1, len(rest) * (len(rest) - 1) // 2)
    group: dict[str, int] = {}
    number = 0
    while rest:
        number += 1
        same = [name for name in rest if name == rest[0] or apart(rest[0], name) > level]
        group |= dict.fromkeys(same, number)
        rest = [name for name in rest if name not in same]
    return [replace(each, group=group.get(each.name, 0)) for each in members]


def choice_of(members: Sequence[Member], cost: str) -> Choice:
    """The recommended one of those that were searched, by the fallback procedure over all of them.

    Args: cost: metric key, lower is better.
    """
    return choose(
        Candidate(each.name, round(each.metrics[cost], 6), each.decision)
        for each in members
        if each.trial is not None and cost in each.metrics
    )


def cost_told(metrics: Metrics, reference: Metrics) -> str:
    """`4.2 bits per weight instead of 32 (1.2 MB instead of 8.1)`, with the latency where it was measured."""
    bits = f"{metrics[EFFECTIVE_BITS]:.1f} bits per weight instead of {reference[EFFECTIVE_BITS]:.0f}"
    more = [f"{metrics[SIZE]:.3g} MB instead of {reference[SIZE]:.3g}"] if SIZE in metrics and SIZE in reference else []
    more += [f"{metrics[LATENCY]:.2f} times full precision's latency"] if LATENCY in metrics else []
    return bits + (f" ({', '.join(more)})" if more else "")


def sentences(members: Sequence[Member], choice: Choice, reference: Metrics) -> list[str]:
    """What to deploy, and what it may cost at worst on how many images; or that nothing is shown, and what would be."""
    if not choice.candidates:
        return ["Deploy none of these: no candidate could be evaluated on the test split."]
    costs = {each.name: cost_told(each.metrics, reference) for each in members if each.metrics}
    images = images_told(max((each.decision.judged for each in members), key=len))
    best = choice.recommended
    if best is not None:
        return [
            f"Deploy {best.name}: {costs[best.name]}.",
            f"On {images} that the search did not choose on, {_worst(best.decision)}.",
        ]
    count = len(choice.candidates)
    which = "this candidate" if count == 1 else f"these {count} candidates"
    first = f"Deploy none of {which} yet: on {images} none is shown to keep every headline metric within its margin."
    able = [each for each in choice.candidates if each.decision.images]
    if able:
        easiest = min(able, key=lambda each: (each.decision.images or 0, each.cost))
        needed = about(easiest.decision.images or 0)
        return [first, f"About {needed} images would tell for {easiest.name}: {costs[easiest.name]}."]
    surest = min(choice.candidates, key=lambda each: (each.decision.p, each.cost))
    return [first, f"The closest is {surest.name}, {told(surest.decision)}.".replace("`", "")]


def _worst(decision: Decision) -> str:
    """`zero_shot/scenes/accuracy gets worse by at most 0.0123, ...`: the metric that comes closest to its margin."""
    worst, nearest = max((((e.worst or 0.0) / (e.margin or 1.0), e) for e in decision.judged), key=lambda pair: pair[0])
    if worst <= 0:
        return "no headline metric gets worse, even at the worse end of its interval (97.5 % confidence)"
    return (
        f"{nearest.by} gets worse by at most {short(nearest.worst or 0.0)}, with a confidence of 97.5 % (the margin is "
        f"{nearest.margin:g}; the other headline metrics stay farther from theirs)"
    )


def groups_told(members: Sequence[Member], cost: str) -> list[str]:
    """One line for each group of several: that they are equal within error, and which is the cheapest."""
    lines = []
    for number in sorted({each.group for each in members if each.group}):
        own = [each for each in members if each.group == number]
        if len(own) > 1:
            cheapest = min(own, key=lambda each: (each.metrics.get(cost, np.inf), each.name))
            lines.append(
                f"group {number}: these {len(own)} are equally reliable within error; the cheapest is {cheapest.name} "
                f"({cost.replace('_', ' ')} {cheapest.metrics.get(cost, np.nan):.4g})"
            )
    return lines


def validation_reliability(trial: FrozenTrial) -> float | None:
    """A trial's reliability on the validation split."""
    found = trial.user_attrs.get(METRICS, {}).get("reliability")
    return None if found is None else float(found)


def name_of(trial: FrozenTrial) -> str:
    """The short name of a trial's configuration."""
    return str(trial.user_attrs[CONFIGURATION])
