r"""Is a quantization non-inferior to full precision? One rule, for table, report, gate, search, card and MLflow.

Every headline metric has a **margin**: what its task declares (`benchmark.plugins.MARGIN`, two points, for a fraction
that declares none), unless the suite or the command line says otherwise. A margin is a convention: what loss is
harmless is for the user to say. A configuration is

- **non-inferior** if the worse end of every headline metric's interval stays within its margin. Each end is a one-sided
  bound at 97.5 %, and all metrics have to pass (intersection-union), so their number needs no adjustment;
- **inferior** if an interval lies wholly beyond its margin;
- else **cannot tell**, with the number of images that would do (`images_needed`).

A metric that has no interval, or fewer than `FEWEST` images, cannot tell. A metric may be printed and judged by another
one beside it (`Metric.judged_by`).

**Choosing** among K candidates is a test of each; `choose` keeps the probability that any candidate that is worse by a
margin is recommended at or below 2.5 %, whatever their number and however alike they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from benchmark.errors import InputError, UnknownNameError
from benchmark.metrics.uncertainty import Estimate
from benchmark.plugins import Metric, tasks
from benchmark.results.compare import Change
from benchmark.results.notation import interval, short
from benchmark.results.tables import Sweeping, headline_among
from benchmark.results.tables import declared as own_tasks
from benchmark.spec import FP32

if TYPE_CHECKING:
    from benchmark.tracking import FinishedConfiguration

Verdict: TypeAlias = Literal["non-inferior", "inferior", "cannot tell"]
Declared: TypeAlias = Callable[[str], Metric]
NON_INFERIOR: Verdict = "non-inferior"
INFERIOR: Verdict = "inferior"
CANNOT_TELL: Verdict = "cannot tell"

ALPHA = 0.025
"""One-sided level: of the worse end of a 95 % interval, and of all candidates of a choice together."""
MISSED = 0.2
"""How often a configuration that loses nothing may fail to be shown so with `images_needed` images."""
FEWEST = 30
"""Images below which nothing is decided: the error itself is then too uncertain."""
MOST = 10**7
"""Images beyond which a number of images is no help."""


@dataclass(frozen=True)
class Judged:
    """A headline metric against its margin. Losses are positive, gains negative, in the metric's unit.

    Attributes:
        key: of the headline metric. by: of the metric whose interval decides, mostly the same.
        change: of `by`; None where there is none. margin: None where nobody declares one.
    """

    key: str
    by: str
    change: Change | None
    margin: float | None

    @property
    def reason(self) -> str:
        """Why it cannot be judged; "" where it can."""
        if self.change is None:
            return "it has no value to compare"
        if self.margin is None:
            return "its task declares no margin; name one in the suite's `margins`, or with --margin"
        if self.change.estimate is None:
            return self.change.reason or "it has no interval"
        if 0 < self.change.images < FEWEST:
            return f"{self.change.images} images are too few, at least {FEWEST} are needed"
        return ""

    @property
    def loss(self) -> float | None:
        """The observed loss."""
        return None if self.change is None else self._sign * self.change.change

    @property
    def worst(self) -> float | None:
        """The largest loss that the interval allows; None where there is no interval."""
        return max(self._ends, default=None)

    @property
    def best(self) -> float | None:
        """The smallest."""
        return min(self._ends, default=None)

    @property
    def p(self) -> float:
        """One-sided p value of a loss of at least the margin; 1 where it cannot be judged."""
        if self.reason or self._estimate is None or self.margin is None:
            return 1.0
        return self._estimate.p_above(-self.margin) if self._sign < 0 else self._estimate.p_below(self.margin)

    @property
    def verdict(self) -> Verdict:
        """By the interval alone."""
        if self.reason or self.worst is None or self.best is None or self.margin is None:
            return CANNOT_TELL
        return NON_INFERIOR if self.worst <= self.margin else INFERIOR if self.best > self.margin else CANNOT_TELL

    @property
    def _estimate(self) -> Estimate | None:
        return None if self.change is None else self.change.estimate

    @property
    def _sign(self) -> float:
        return -1.0 if self.change is not None and self.change.better == "higher" else 1.0

    @property
    def _ends(self) -> tuple[float, ...]:
        return () if self._estimate is None else tuple(self._sign * end for end in self._estimate.interval())


@dataclass(frozen=True)
class Decision:
    """What the headline metrics of one configuration say together."""

    judged: tuple[Judged, ...]

    @property
    def verdict(self) -> Verdict:
        """Inferior in one metric is inferior; non-inferior is only what is so in all."""
        verdicts = [each.verdict for each in self.judged]
        if INFERIOR in verdicts:
            return INFERIOR
        return NON_INFERIOR if verdicts and set(verdicts) == {NON_INFERIOR} else CANNOT_TELL

    @property
    def p(self) -> float:
        """Of the hypothesis that some headline metric loses its margin or more: the largest p of them."""
        return max((each.p for each in self.judged), default=1.0)

    @property
    def images(self) -> int | None:
        """About how many images would do where these cannot tell; None elsewhere, and where nobody knows."""
        return images_needed(self.judged) if self.verdict == CANNOT_TELL else None

    @property
    def open(self) -> tuple[Judged, ...]:
        """The metrics that are not shown to be non-inferior, those that are inferior first, then the farthest out."""
        order = {INFERIOR: 0, CANNOT_TELL: 1}
        found = [each for each in self.judged if each.verdict != NON_INFERIOR]
        return tuple(sorted(found, key=lambda each: (order[each.verdict], not each.reason, -_share(each))))


def _share(each: Judged) -> float:
    """The worst loss that the interval allows, in margins."""
    return each.worst / each.margin if each.worst is not None and each.margin else math.inf


def registered(key: str) -> Metric:
    """The declaration behind a full metric key, of the installed task."""
    return tasks.get(key.split("/", 1)[0]).metric(key)


def decide(
    headline: Iterable[str],
    changes: Mapping[str, Change],
    margins: Mapping[str, float],
    declared: Declared = registered,
) -> Decision:
    """Judge a configuration by its headline metrics; those without a better direction are not judged.

    Args:
        changes: metric key -> change against full precision, also of metrics that are no headline but judge one.
        margins: metric key or pattern of keys -> margin, in place of what the tasks declare.
        declared: metric key -> declaration.
    """
    judged = [key for key in headline if declared(key).better != "neither"]
    return Decision(tuple(judge(key, changes, margins, declared) for key in judged))


def by_configuration(
    headline: Sequence[str],
    changes: Iterable[Change],
    margins: Mapping[str, float],
    declared: Declared = registered,
) -> dict[str, Decision]:
    """Configuration key -> decision, of all changes of a sweep."""
    found: dict[str, dict[str, Change]] = {}
    for change in changes:
        found.setdefault(change.configuration, {})[change.key] = change
    return {key: decide(headline, own, margins, declared) for key, own in found.items()}


def decision_of(finished: FinishedConfiguration) -> Decision | None:
    """Of a configuration in the form for trackers; None for full precision.

    A headline metric that full precision has and the configuration lacks counts: it cannot tell.
    """
    if finished.configuration.quant == FP32:
        return None
    present = [key for record in finished.records for key in record.metrics]
    present += [f"{name}/{key}" for name, outcome in finished.references.items() for key in outcome.metrics]
    headline = headline_among(finished, present)
    changes = {change.key: change for change in finished.changes}
    return decide(headline, changes, finished.suite.margins, declared_by(finished))


def declared_by(plan: Sweeping) -> Declared:
    """Metric key -> declaration, of a plan's own tasks."""
    own = own_tasks(plan)
    return lambda key: own[key.split("/", 1)[0]].metric(key)


def judge(
    key: str, changes: Mapping[str, Change], margins: Mapping[str, float], declared: Declared = registered
) -> Judged:
    """One headline metric against its margin; arguments as for `decide`."""
    by = judging(key, declared)
    return Judged(key, by, changes.get(by), margin_of(key, margins, declared))


def judging(key: str, declared: Declared = registered) -> str:
    """The metric whose change decides about a headline metric: itself, unless its task names another beside it."""
    by = declared(key).judged_by
    return f"{key.rpartition('/')[0]}/{by}" if by else key


def margin_of(key: str, margins: Mapping[str, float], declared: Declared = registered) -> float | None:
    """The margin of a metric.

    That of its key, of the first pattern that fits, the same of the metric that judges it, else what its task declares;
    None for a metric in a unit of its own whose task declares none.
    """
    for name in dict.fromkeys((key, judging(key, declared))):
        fitting = [name] if name in margins else [pattern for pattern in margins if fnmatchcase(name, pattern)]
        if fitting:
            return margins[fitting[0]]
    return declared(key).margin


def parse_margins(texts: Sequence[str]) -> dict[str, float]:
    """Margins of the command line, `KEY=VALUE` each; KEY may be a pattern with `*`.

    Raises:
        InputError: another form, or a value that is not a positive number.
    """
    found = {}
    for text in texts:
        key, _, number = text.partition("=")
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if not key or not (math.isfinite(value) and value > 0):
            raise InputError(
                f"--margin {text}: it needs KEY=VALUE with a positive number, e.g. zero_shot/scenes/accuracy=0.02"
            )
        found[key] = value
    return found


def check_margins(margins: Iterable[str], headline: Sequence[str]) -> None:
    """Refuse a margin that no headline metric would use.

    Raises:
        UnknownNameError: names it.
    """
    names = [name for key in headline for name in (key, judging(key))]
    for pattern in margins:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UnknownNameError("headline metric (of --margin)", pattern, headline)


def images_needed(judged: Sequence[Judged], alpha: float = ALPHA) -> int | None:
    r"""About how many images would show that a configuration that loses nothing is non-inferior.

    The smallest N with

    .. math:: \sum_t \Phi(z - m_t \sqrt{N / n_t} / SE_t) \le 0.2

    over the headline metrics t, z the normal quantile of 1 - alpha, `m` the margin, `n` the images and `SE` the
    standard error now. Where these images would have done, the loss is near the margin: then N is what tells the
    observed loss of the open metrics from it.

    Args: alpha: one-sided level, smaller for one of several candidates.

    Returns:
        None where a metric has no error to go by (or too few images for one), or more than `MOST` would be needed.
    """
    known = [_Planned.of(each) for each in judged]
    if not known or any(each is None for each in known):
        return None
    plans = [each for each in known if each is not None]
    found = _smallest([(plan.margin, plan) for plan in plans], alpha)
    if found is not None and found > min(plan.images for plan in plans):
        return found
    pairs = zip(plans, judged, strict=True)
    undecided = [plan for plan, each in pairs if each.verdict == CANNOT_TELL or each.p > alpha]
    near = [(abs(plan.margin - plan.loss), plan) for plan in undecided]
    return _smallest(near, alpha)


@dataclass(frozen=True)
class _Planned:
    margin: float
    loss: float
    error: float
    images: int

    @classmethod
    def of(cls, each: Judged) -> _Planned | None:
        change = each.change
        if change is None or change.estimate is None or each.margin is None or each.loss is None:
            return None
        if change.images < FEWEST:
            return None  # nobody knows the error
        return cls(each.margin, each.loss, change.estimate.error, change.images)


def _smallest(distances: Sequence[tuple[float, _Planned]], alpha: float) -> int | None:
    """The smallest number of images that tells all distances apart from 0, each with its error."""
    from scipy.special import ndtr, ndtri  # late: most commands need none

    z = float(ndtri(1.0 - alpha))

    def missed(count: int) -> float:
        return sum(float(ndtr(z - far * math.sqrt(count / plan.images) / plan.error)) for far, plan in distances)

    low, high = 0, 1
    while missed(high) > MISSED:
        low, high = high, 2 * high
        if low > MOST:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if missed(middle) <= MISSED else (middle, high)
    return high


@dataclass(frozen=True)
class Candidate:
    """What may be chosen. Args: cost: lower is better; it must not come from the images."""

    name: str
    cost: float
    decision: Decision


@dataclass(frozen=True)
class Choice:
    """Candidates from the dearest to the cheapest, the level that each was tested at, and whether it passed."""

    candidates: tuple[Candidate, ...]
    levels: tuple[float, ...]
    passed: tuple[bool, ...]

    @property
    def recommended(self) -> Candidate | None:
        """The cheapest that passed."""
        return next((c for c, ok in zip(reversed(self.candidates), reversed(self.passed), strict=True) if ok), None)


def choose(candidates: Iterable[Candidate]) -> Choice:
    """Choose by the fallback procedure: the cheapest candidate that is shown to be non-inferior as one of them all.

    From the dearest to the cheapest, each is tested at `ALPHA` / K and what a passed test hands on: all of its own
    level. The probability of recommending any candidate that loses its margin or more is at most `ALPHA`, whatever the
    dependence between them. Of equal costs the later name counts as cheaper: an order that no image decides.
    Source: Wiens (2003), Pharmaceutical Statistics 2, a fixed sequence Bonferroni procedure.
    """
    ordered = tuple(sorted(candidates, key=lambda each: (-each.cost, each.name)))
    levels, passed = fallback([each.decision.p for each in ordered])
    return Choice(ordered, levels, passed)


def choose_quantization(bits: Mapping[str, float], decisions: Mapping[str, Decision]) -> Choice:
    """Choose among the quantizations of one model by effective bits.

    Args:
        bits: short name -> effective bits; what has none is no candidate, nor are full precision and controls, which
            nobody would deploy. decisions: by short name; of what was never compared there is none.
    """
    names = [name for name in bits if name != FP32.name and not name.startswith("control-")]
    return choose(Candidate(name, round(bits[name], 6), decisions.get(name, Decision(()))) for name in names)


def fallback(p_values: Sequence[float], alpha: float = ALPHA) -> tuple[tuple[float, ...], tuple[bool, ...]]:
    """Levels and outcomes of tests in their order.

    >>> fallback([0.01, 0.02, 0.02], alpha=0.03)
    ((0.01, 0.02, 0.03), (True, True, True))
    """
    levels: list[float] = []
    passed: list[bool] = []
    for p in p_values:
        level = alpha / len(p_values) + (levels[-1] if passed and passed[-1] else 0.0)
        levels.append(level)
        passed.append(p <= level)
    return tuple(levels), tuple(passed)


def about(count: int) -> str:
    """A number of images with two digits, rounded up.

    >>> about(2314), about(87)
    ('2,400', '87')
    """
    step = 10 ** max(0, len(str(count)) - 2)
    return f"{-(-count // step) * step:,}"


def told(decision: Decision) -> str:
    """A verdict with its reason, on one line; metric keys stand between backticks."""
    verdict, first = decision.verdict, next(iter(decision.open), None)
    if first is None:
        return verdict if decision.judged else f"{verdict}: there is no headline metric to judge"
    if verdict == INFERIOR:
        return f"{verdict}: {beyond(first)}"
    images = decision.images
    enough = f": about {about(images)} images would do" if images else ""
    return f"{verdict}{enough}; {beyond(first)}" if enough else f"{verdict}: {beyond(first)}"


def to_json(decision: Decision) -> dict[str, Any]:
    """The verdict with each metric's, as plain values."""
    return {
        "verdict": decision.verdict,
        "p": decision.p,
        "images_needed": decision.images,
        "metrics": [
            {
                "metric": each.key,
                "judged_by": each.by,
                "verdict": each.verdict,
                "change": None if each.change is None else each.change.change,
                "low": None if each.change is None else each.change.low,
                "high": None if each.change is None else each.change.high,
                "margin": each.margin,
                "p": each.p,
                "images": None if each.change is None or not each.change.images else each.change.images,
                "reason": each.reason,
            }
            for each in decision.judged
        ],
    }


def verdicts_told(decisions: Mapping[str, Decision], recommended: str | None) -> dict[str, str]:
    """Name -> its verdict with the reason on one line, without marks."""
    return {
        name: told(decision).replace("`", "") + ("; recommended" if name == recommended else "")
        for name, decision in decisions.items()
    }


def beyond(each: Judged) -> str:
    """One metric against its margin in words: change, interval, margin, or why it cannot be judged."""
    if each.reason or each.change is None or each.margin is None:
        return f"`{each.by}`: {each.reason}"
    ends = interval(each.change.low, each.change.high, partial(short, sign="+"))
    return f"`{each.by}` {short(each.change.change, '+')} {ends}, margin {each.margin:g}"


def images_told(judged: Sequence[Judged]) -> str:
    """How many images the decision rests on: the most frequent number, then the evaluations with another.

    >>> images_told([])
    'no images'
    """
    counts = {each.key.rpartition("/")[0]: each.change.images for each in judged if each.change and each.change.images}
    if not counts:
        return "no images" if not judged else "an unknown number of images"
    usual = max(counts.values(), key=lambda count: (list(counts.values()).count(count), count))
    others = ", ".join(f"{count:,} in {_evaluation(name)}" for name, count in counts.items() if count != usual)
    return f"{usual:,} images" + (f" ({others})" if others else "")


def _evaluation(key: str) -> str:
    return "/".join(key.split("/")[:2])


def margins_told(judged: Sequence[Judged]) -> str:
    """The margins in use: the most frequent one, then the metrics with another.

    >>> margins_told([])
    'none'
    """
    known = [each for each in judged if each.margin is not None]
    if not known:
        return "none"
    values = [each.margin for each in known]
    usual = max(dict.fromkeys(values), key=values.count)
    others = ", ".join(f"{each.margin:g} in `{each.key}`" for each in known if each.margin != usual)
    return f"{usual:g}" + (f", but {others}" if others else "")
