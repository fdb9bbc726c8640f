"""Accuracies that others have published for models in full precision: which a loader must reproduce."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated

from pydantic import Field

from benchmark.errors import SpecError
from benchmark.spec.base import DataSpec, Frozen, ModelSpec, Text, parse_spec
from benchmark.spec.models import catalogue_ref, facts, known_model
from benchmark.spec.yaml_file import load_yaml

PUBLISHED = Path(__file__).parent / "published.yaml"


class Published(Frozen):
    """What is published on a data set: `top1` by the reference of a model; without it the model's own `top1` counts."""

    classes: int = Field(ge=1)
    source: Text
    top1: dict[str, Annotated[float, Field(ge=0, le=1)]] | None = None


def published() -> Mapping[str, Published]:
    """Data set -> what is published on it, read from published.yaml.

    Raises:
        SpecError: the file is damaged.
    """
    return _read(PUBLISHED)


@cache
def _read(file: Path) -> Mapping[str, Published]:
    data = load_yaml(file)
    if not isinstance(data, dict):
        raise SpecError(f"{file}: expected data sets by name")
    return {str(name): parse_spec(Published, entry, f"{file}: {name}") for name, entry in data.items()}


def published_top1(model: ModelSpec, data: DataSpec, classes: int) -> tuple[float, str] | None:
    """The published top-1 accuracy (a fraction) of a model on a data set, and where it stands; None: none is known.

    Args: classes: size of the label space that the images were classified over.

    Raises:
        KeyError: `published:` of the data set names none that is known; a plan refuses that.
    """
    if data.published is None or data.corruption is not None or data.corruptions is not None:
        return None
    entry = published()[data.published]
    if classes != entry.classes:
        return None
    if entry.top1 is not None:
        named = {catalogue_ref(ref): value for ref, value in entry.top1.items()}
        value = named.get(catalogue_ref(model.ref))
        return None if value is None else (value, entry.source)
    value = facts(model).top1
    if value is None:
        return None
    known = known_model(model.ref)
    by_suite = model.top1 is not None or known is None
    return value, "the suite's `top1`" if by_suite or known is None else known.source
