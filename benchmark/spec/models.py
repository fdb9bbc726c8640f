"""What is known about models by their reference: family, architecture, pretraining, published accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from benchmark.errors import SpecError
from benchmark.spec.base import ModelFacts, ModelSpec, Text, parse_spec
from benchmark.spec.yaml_file import load_yaml

MODELS = Path(__file__).parent / "models.yaml"


class KnownModel(ModelFacts):
    """An entry of the catalogue.

    `corpus` is what `pretraining` is short for; `hub` the repository on the hub; `source` says who published `top1`.
    """

    corpus: Text
    hub: Text | None = None
    source: Text


@cache
def known_models() -> Mapping[str, KnownModel]:
    """Reference -> what is known, read from models.yaml.

    Raises:
        SpecError: the file is damaged.
    """
    data = load_yaml(MODELS)
    if not isinstance(data, dict):
        raise SpecError(f"{MODELS}: expected models by their reference")
    return {str(ref): parse_spec(KnownModel, entry, f"{MODELS}: {ref}") for ref, entry in data.items()}


def known_model(ref: str) -> KnownModel | None:
    """The entry of `NAME/PRETRAINED` (also `NAME-quickgelu/...`), `hf-hub:ORG/NAME` or `transformers:ORG/NAME`.

    Of these two also at a revision (`@REVISION`).
    """
    ref = unpinned(ref)
    found = known_models().get(ref.replace("-quickgelu/", "/"))
    return found or _by_hub().get(ref.removeprefix("hf-hub:"))


def unpinned(ref: str) -> str:
    """A reference to the hub without its revision; others as they are.

    >>> unpinned("hf-hub:org/name@v1"), unpinned("local-dir:a@b")
    ('hf-hub:org/name', 'local-dir:a@b')
    """
    return ref.partition("@")[0] if ref.startswith(("hf-hub:", "transformers:")) else ref


@cache
def _by_hub() -> Mapping[str, KnownModel]:
    return {entry.hub: entry for entry in known_models().values() if entry.hub}


def facts(spec: ModelSpec) -> ModelFacts:
    """What a suite says about its model, and what the catalogue knows where the suite says nothing."""
    known = known_model(spec.ref)
    fields: dict[str, Any] = {
        name: own if (own := getattr(spec, name)) is not None else getattr(known, name, None)
        for name in ModelFacts.model_fields
    }
    return ModelFacts(**fields)
