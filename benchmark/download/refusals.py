"""A source that does not give its file, and what the hub's own words for that mean for the user."""

from __future__ import annotations

from collections.abc import Mapping

from benchmark.errors import ReliquantError

OFFLINE = "HF_HUB_OFFLINE=1 forbids the download; unset it, or give the file with --from-archive FILE"

_ADVICE = {
    "GatedRepo": "gated; accept its terms on its page of the hub, then run `hf auth login`",
    "RepoNotFound": "no such repository, or one that is private or gated; run `hf auth login` if you have access",
    "EntryNotFound": "no such file in that revision",
    "RevisionNotFound": "no such revision",
}


class SourceError(ReliquantError):
    """A source that did not give the file; the next one is asked."""


def refusal(headers: Mapping[str, str]) -> str | None:
    """What the hub says of a request that it refuses for good; None where it says nothing."""
    code = headers.get("X-Error-Code")
    if not code:
        return None
    return _ADVICE.get(code) or " ".join(headers.get("X-Error-Message", code).split())[:200]
