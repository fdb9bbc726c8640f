"""Models on the Hugging Face hub: `ORG/NAME` or `ORG/NAME@REVISION`, fetched as snapshots of one commit."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmark.errors import ModelError
from benchmark.spec import HUB_ID
from benchmark.utils.hub import Repository, Snapshot, snapshot


def repository_of(place: str, ref: str) -> Repository:
    """The repository that a reference names.

    Args:
        place: `ORG/NAME` or `ORG/NAME@REVISION`. ref: the whole reference, for the message.

    Raises:
        ModelError: it is no such name, or no revision can have that one.
    """
    name, at, revision = place.partition("@")
    if "/" not in name or not re.fullmatch(HUB_ID, name) or (at and not revision):
        scheme = ref.partition(":")[0]
        raise ModelError(f"{ref}: expected {scheme}:ORG/NAME or {scheme}:ORG/NAME@REVISION")
    return Repository(name, revision or None)


def open_model(place: str | Repository, *, download: bool = True) -> Snapshot:
    """The commit that a repository's revision stands for now, with its list of files.

    Raises:
        ModelError: there is no such repository or revision, or the hub is away and nothing is cached.
    """
    return snapshot(Repository(place) if isinstance(place, str) else place, download=download)


def commits(*snapshots: Snapshot | None) -> Mapping[str, str]:
    """Repository -> commit."""
    return {found.repository.name: found.commit for found in snapshots if found is not None}


def cached(repository: str, names: Sequence[str]) -> Path | None:
    """The first of these files that lies in the local cache; no network is used.

    Raises:
        ModelError: no repository can have that name.
    """
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    place, _, revision = repository.partition("@")
    for name in names:
        try:
            path = try_to_load_from_cache(place, name, revision=revision or None)
        except HFValidationError as error:
            raise ModelError(f"{repository}: {str(error).splitlines()[0]}") from None
        if isinstance(path, str):
            return Path(path)
    return None
