"""How often the verdict about a hypothesis is wrong in worlds with a known truth.

`python -m tests.statistics.hypotheses` prints the table of docs/comparisons.md.

Ten models under 70 quantizations each. A run's change is the truth, plus what its model adds (drawn anew in every
world, so that models of their kind have the truth), plus what the pair of model and quantization adds, plus its error
over the pictures. Errors of all runs are correlated: they share pictures, and those of a model share its full
precision; they have heavy tails. The truth lies exactly at the bound of the claim, where a verdict is wrong most often:
were the truth a trifle inside, "does not hold" would be wrong, and "holds" were it a trifle outside. For a share the
models' shares vary around the bound; for existence one of the four changes of every run is exactly zero.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmark.metrics.uncertainty import GROUPS, Measured, from_replicates
from benchmark.results.effects import Effect
from benchmark.results.findings import Examined, Existence
from benchmark.results.groups import Run, facts_by_model, runs_of
from benchmark.results.hypotheses import FOUR, HYPOTHESES
from benchmark.results.quantities import frame_of
from benchmark.spec.suite import expand_all
from tests.ledgers import TEN

Floats = NDArray[np.float64]
Rng = np.random.Generator

QUANTIZATIONS = expand_all(
    [
        "{rtn,percentile,mse,rotation}-{w8a8,w4a8}-{tensor-tensor,channel-token}-{vision,vision+text}",
        "{gptq,awq,hqq}-{w4,w3}-{channel,g64,g128}-{vision,vision+text}",
        "bnb-nf4-{vision,vision+text}",
    ]
)
RUNS = runs_of([(model, name) for model in TEN for name in QUANTIZATIONS], facts_by_model([], ()))
OCCUPIED = np.ones(GROUPS, dtype=bool)
MODELS, PAIRS = 0.01, 0.01
"""Standard deviation of what a model adds to its changes, and a pair of model and quantization."""
SHARED, FULL, OWN = 0.002, 0.004, 0.003
"""Standard errors: of what all runs share, of full precision, of what a run has alone. Some 2,400 pictures."""
TAILS = 5


@dataclass(frozen=True)
class World:
    """Where the truth of a hypothesis lies.

    Attributes:
        kinds: kind of effect -> what one unit of the quantity is in it. truth: of the quantity. on: the runs that have
            it; the others change by nothing, on average. relative: whether the quantity is a relative change.
        everywhere: whether models also add to the runs beside `on`, as contrasts cancel.
    """

    kinds: Mapping[str, float]
    truth: float
    on: Callable[[Run], bool]
    relative: bool = False
    everywhere: bool = False


def _always(run: Run) -> bool:
    return True


def _four_bits(run: Run) -> bool:
    return run.spec.weight_bits == 4


def _both(run: Run) -> bool:
    return run.spec.scope == "vision+text"


def _on_laion(run: Run) -> bool:
    return run.facts.pretraining == "LAION"


def _convnet(run: Run) -> bool:
    return run.facts.architecture == "convnet"


def _rotated(run: Run) -> bool:
    return run.spec.method == "rotation"


WORLDS: Mapping[str, World] = {
    "tuned, ECE falls below full precision's untuned": World({"tuned, untuned": 1.0}, -0.005, _both),
    "ECE falls below full precision's, both tuned": World({"tuned": 1.0}, -0.005, _both),
    "text tower without tuning raises ECE": World({"ece": 1.0}, 0.005, _both),
    "corruptions rises": World({"corruption": 1.0}, 0.01, _always, relative=True),
    "covariate shift": World({"shift": 1.0}, 0.005, _always, relative=True),
    "spurious correlations": World({"rsg": 1.0}, -0.01, _always),
    "bias grows": World({"rsg": 1.0, "counter": -1.0, "common": 0.0}, 0.01, _four_bits, relative=True, everywhere=True),
    "rotation adds less": World({"rsg": 1.0}, -0.01, _rotated, everywhere=True),
    "LAION": World({"ece": 1.0}, 0.005, _on_laion, everywhere=True),
    "convolutional": World(FOUR, 0.005, _convnet, everywhere=True),
}
"""Words of a claim -> a world in which the truth lies at its bound."""
SHARES = (0.25, 0.55)


def hypothesis_of(words: str) -> Examined:
    """The hypothesis whose claim has these words."""
    [found] = [each for each in HYPOTHESES if words in each.claim]
    return found


def errors(rng: Rng) -> tuple[Floats, Floats]:
    """By group of pictures: of changes (models, quantizations, GROUPS), of full precision (models, 1, GROUPS)."""

    def drawn(*shape: int) -> Floats:
        scale = np.sqrt(GROUPS * (TAILS - 2) / TAILS)
        return np.asarray(scale * rng.standard_t(TAILS, (*shape, GROUPS)))

    count = len(TEN), len(QUANTIZATIONS)
    return SHARED * drawn(1, 1) + OWN * drawn(*count) + OWN * drawn(count[0], 1), FULL * drawn(count[0], 1)


def measured(by_group: Floats) -> list[list[Measured]]:
    """Of means over equal groups (models, quantizations, GROUPS)."""
    values = by_group.mean(axis=-1)
    replicates = (GROUPS * values[..., None] - by_group) / (GROUPS - 1)
    return [
        [Measured(float(value), own) for value, own in zip(*line, strict=True)]
        for line in zip(values, replicates, strict=True)
    ]


def effects(rng: Rng, kinds: Mapping[str, Floats], relative: Iterable[str] = (), alone: bool = False) -> list[Effect]:
    """Runs whose true changes of each kind are (models, quantizations).

    Args: relative: kinds that change in per cent. alone: whether each run's own interval is needed.
    """
    found = []
    for kind, truth in kinds.items():
        of_change, of_full = errors(rng)
        base = 0.5 + 0.2 * rng.random((len(TEN), 1, 1))
        before = base + of_full
        change = (truth[..., None] + of_change) * (base if kind in relative else 1.0)
        full, quantized = measured(before), measured(before + change)
        for m, model in enumerate(TEN):
            for name, now in zip(QUANTIZATIONS, quantized[m], strict=True):
                own = (now.value - full[m][0].value, now.replicates - full[m][0].replicates)
                known = from_replicates(*own, GROUPS) if alone else None
                found.append(Effect(model, name, kind, "d", now, full[m][0], model, known, OCCUPIED, 2400))
    return found


def at_the_bound(rng: Rng, world: World) -> list[Effect]:
    """A world in which the truth of the quantity lies where `world` says."""
    runs = [[RUNS[model, name] for name in QUANTIZATIONS] for model in TEN]
    on = np.array([[world.on(run) for run in row] for row in runs])
    quantity = np.where(on, world.truth + MODELS * rng.standard_normal((len(TEN), 1)), 0.0)
    if world.everywhere:
        quantity = quantity + MODELS * rng.standard_normal((len(TEN), 1))
    quantity = quantity + PAIRS * rng.standard_normal(on.shape)
    kinds = {kind: factor * quantity for kind, factor in world.kinds.items()}
    return effects(rng, kinds, [kind for kind in kinds if world.relative and kind != "rsg"])


def share_at(rng: Rng, share: float) -> list[Effect]:
    """Models of which this share of the runs, on average, has a lower ECE: some by much, some by little."""
    own = rng.beta(8.0 * share, 8.0 * (1.0 - share), (len(TEN), 1))
    size = 0.03 * np.abs(rng.standard_normal((len(TEN), len(QUANTIZATIONS))))
    falls = rng.random(size.shape) < own
    return effects(rng, {"ece": np.where(falls, -size, size)}, alone=True)


def none_at_once(rng: Rng) -> list[Effect]:
    """Every run improves in three of the four, by far; which one stays as it is, is drawn."""
    still = rng.integers(len(FOUR), size=(len(TEN), len(QUANTIZATIONS)))
    kinds = {kind: factor * np.where(still == at, 0.0, 0.05) for at, (kind, factor) in enumerate(FOUR.items())}
    return effects(rng, kinds, alone=True)


Draw = Callable[[Rng], list[Effect]]


def cases() -> dict[str, tuple[Examined, Draw]]:
    """Name -> the hypothesis and how its worlds are drawn."""
    found: dict[str, tuple[Examined, Draw]] = {}
    for words, world in WORLDS.items():
        hypothesis = hypothesis_of(words)
        found[hypothesis.claim] = (hypothesis, lambda rng, world=world: at_the_bound(rng, world))
    share = hypothesis_of("about 40 %")
    for bound in SHARES:
        found[f"{share.claim}: {bound:.0%}"] = (share, lambda rng, bound=bound: share_at(rng, bound))
    [existence] = [each for each in HYPOTHESES if isinstance(each, Existence)]
    found[existence.claim] = (existence, none_at_once)
    return found


def simulate(hypothesis: Examined, draw: Draw, seeds: Iterable[int]) -> Counter[str]:
    """How many worlds got which verdict."""
    verdicts: Counter[str] = Counter()
    for seed in seeds:
        verdicts[hypothesis.examine(frame_of(draw(np.random.default_rng(seed)), RUNS)).verdict] += 1
    return verdicts


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.statistics.hypotheses")
    parser.add_argument("--worlds", type=int, default=400)
    count = parser.parse_args().worlds
    print(f"| claim, its truth at the bound ({count} worlds) | holds | does not hold | no verdict |")
    print("| --- | ---: | ---: | ---: |")
    for name, (hypothesis, draw) in cases().items():
        seen = simulate(hypothesis, draw, range(count))
        holds, fails = seen["holds"] / count, seen["does not hold"] / count
        refuted = "never" if isinstance(hypothesis, Existence) else f"{fails:.1%}"
        print(f"| {name} | {holds:.1%} | {refuted} | {1 - holds - fails:.1%} |", flush=True)


if __name__ == "__main__":
    main()
