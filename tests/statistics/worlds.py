"""Worlds with a known truth: pictures drawn at random, seen by full precision and by a quantized model.

A picture's feature is its class's weight, its own difficulty and what each model adds to it. The truth of a change is
its value on very many pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark import Banks, FeatureBank, Task, tasks

CLASSES, DIMENSION = 10, 24
WIDTH = 0.30
"""Of what all models share of a picture."""
OWN = 0.05
"""Of what each model adds to it: 1 to 4 % of the answers differ."""
TEXT = np.eye(CLASSES, DIMENSION, dtype=np.float32)
Rng = np.random.Generator
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Model:
    """What a model adds to a picture: noise of this width; its logit scale; how much of the class's weight it keeps."""

    own: float = OWN
    scale: float = 18.0
    signal: float = 1.0


FULL = Model()
NULL = Model()
WORSE = Model(own=0.12, scale=21.0, signal=0.97)


@dataclass(frozen=True)
class World:
    """A task on data of a kind.

    Attributes:
        banks: (rng, pictures, model, what the pictures are) -> its banks; the same pictures for the same seed.
    """

    task: str
    banks: Callable[[Rng, int, Model], Banks]
    options: Mapping[str, Any]


def bank(
    rng: Rng, name: str, n: int, model: Model, signal: float = 1.0, noise: float = 0.0, **more: Any
) -> FeatureBank:
    """A bank of n pictures; everything but the model's own noise is drawn alike for every model."""
    label = more.pop("label", None)
    drawn = rng.integers(0, CLASSES, n)
    shared = more.pop("shared", None)
    drawn_shared = WIDTH * rng.standard_normal((n, DIMENSION))
    extra = noise * rng.standard_normal((n, DIMENSION))
    seeds = rng.integers(0, 2**63, 2)
    label = drawn if label is None else label
    shared = drawn_shared if shared is None else shared
    own = np.random.default_rng([int(seeds[0]), id_of(model)]).standard_normal((n, DIMENSION))
    image = model.signal * signal * TEXT[label.clip(min=0)] * (label >= 0)[:, None] + shared + extra + model.own * own
    image /= np.linalg.norm(image, axis=1, keepdims=True)
    return FeatureBank(
        dataset=name,
        image=image.astype(np.float32),
        label=label,
        sample_id=np.array([f"{name}/{i}" for i in range(n)]),
        text=TEXT,
        class_names=tuple(f"class {i}" for i in range(CLASSES)),
        logit_scale=model.scale,
        **more,
    )


def id_of(model: Model) -> int:
    """Another number for another role; full precision and the null have noise of their own."""
    return 0 if model is FULL else 1


def plain(rng: Rng, n: int, model: Model) -> Banks:
    """Classification of one set."""
    return Banks({"test": [bank(rng, "test", n, model)]})


def fitted(rng: Rng, n: int, model: Model) -> Banks:
    """Calibration with a set of a third of the size to fit the scale on."""
    return Banks({"test": [bank(rng, "test", n, model)], "fit": [bank(rng, "fit", max(n // 3, 200), model)]})


def outside(rng: Rng, n: int, model: Model) -> Banks:
    """Known pictures, and as many of two kinds of unknown ones."""
    known = bank(rng, "id", n, model)
    far = bank(rng, "far", n, model, label=np.full(n, -1))
    near = bank(rng, "near", n // 2, model, signal=0.4)
    return Banks({"id": [known], "ood": [far, near]})


def sides(rng: Rng, n: int, model: Model) -> Banks:
    """Common and counter backgrounds, with groups."""
    common, counter = bank(rng, "common", n, model), bank(rng, "counter", n, model, signal=0.75)
    return Banks(
        {
            role: [FeatureBank(**{**vars(each), "group": each.label % 2 + 2 * (role == "counter")})]
            for role, each in (("common", common), ("counter", counter))
        }
    )


def shifted(rng: Rng, n: int, model: Model) -> Banks:
    """A source and two shifted sets."""
    sets = [bank(rng, f"shift{i}", n, model, signal=signal) for i, signal in enumerate((0.85, 0.7))]
    return Banks({"source": [bank(rng, "source", n, model)], "shifted": sets})


def corrupted(rng: Rng, n: int, model: Model) -> Banks:
    """Clean pictures, and five types of corruptions at three severities of the same pictures."""
    label, shared = rng.integers(0, CLASSES, n), WIDTH * rng.standard_normal((n, DIMENSION))
    same: dict[str, Any] = {"label": label, "shared": shared}
    clean = bank(rng, "clean", n, model, **same)
    variants = [
        bank(
            rng,
            "clean",
            n,
            model,
            noise=0.06 * severity + 0.01 * kind,
            corruption=f"k{kind}",
            severity=severity,
            **same,
        )
        for kind in range(5)
        for severity in (1, 3, 5)
    ]
    return Banks({"clean": [clean], "corrupted": variants})


def shared_sides(rng: Rng, n: int, model: Model) -> Banks:
    """The same scenes on common and on counter backgrounds: one `base_id` for either picture."""
    label, shared = rng.integers(0, CLASSES, n), WIDTH * rng.standard_normal((n, DIMENSION))
    base = np.array([f"scene/{i}" for i in range(n)])
    same: dict[str, Any] = {"label": label, "shared": shared, "base_id": base}
    common = bank(rng, "common", n, model, **same)
    return Banks({"common": [common], "counter": [bank(rng, "counter", n, model, signal=0.75, **same)]})


def one_a_class(rng: Rng, n: int, model: Model) -> Banks:
    """As many classes as images."""
    first = bank(rng, "test", n, model)
    names = tuple(f"class {i}" for i in range(n))
    text = np.random.default_rng(7).standard_normal((n, DIMENSION))
    text /= np.linalg.norm(text, axis=1, keepdims=True)
    image = 1.2 * text + (first.image - TEXT[first.label])
    image /= np.linalg.norm(image, axis=1, keepdims=True)
    fields = {**vars(first), "image": image.astype(np.float32), "text": text.astype(np.float32)}
    return Banks({"test": [FeatureBank(**{**fields, "label": np.arange(n), "class_names": names})]})


WORLDS = {
    "zero_shot": World("zero_shot", plain, {}),
    "calibration": World("calibration", fitted, {}),
    "ood": World("ood", outside, {"scores": ["mcm", "max_logit"]}),
    "spurious": World("spurious", sides, {}),
    "covariate_shift": World("covariate_shift", shifted, {}),
    "corruption": World("corruption", corrupted, {}),
    "selective": World("selective", plain, {}),
}

CASES = {
    "one_a_class": World("zero_shot", one_a_class, {}),
    "shared_scenes": World("spurious", shared_sides, {}),
}
"""Known to be hard."""


def task_of(world: World) -> Task:
    """Its task."""
    return tasks.get(world.task)
