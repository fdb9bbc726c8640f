"""Named groups of models."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from benchmark.errors import SpecError
from benchmark.spec.base import ModelSpec, parse_spec
from benchmark.spec.yaml_file import load_yaml

GROUPS = Path(__file__).parent / "groups.yaml"


@cache
def groups() -> dict[str, tuple[ModelSpec, ...]]:
    """Named groups of models, read from groups.yaml; `paper` holds the ten models of the study.

    Raises:
        SpecError: the file is damaged.
    """
    data = load_yaml(GROUPS)
    if not isinstance(data, dict):
        raise SpecError(f"{GROUPS}: expected groups of models by name")
    return {
        str(name): tuple(parse_spec(ModelSpec, entry, f"{GROUPS}: {name}") for entry in group["models"])
        for name, group in data.items()
    }
