"""A source that does not give its file, and what the hub's own words for that mean for the user."""

from __future__ import annotations

from collections.abc import Mapping

from benchmark.errors import ReliquantError

CLIENTS = {"httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3", "huggingface_hub", "ssl", "http"}
"""Top-level modules whose exceptions tell of the network; the hub's client has changed its own more than once."""

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


def is_transport(error: BaseException) -> bool:
    """Whether an exception tells of the network or a server."""
    modules = {base.__module__.partition(".")[0] for base in type(error).__mro__}
    return isinstance(error, OSError) or not modules.isdisjoint(CLIENTS)


def reason(error: BaseException) -> str:
    """A client's error in a few words: the system's own, where it only wraps them.

    >>> reason(ConnectionRefusedError(111, "Connection refused"))
    'Connection refused'
    """
    seen: list[BaseException] = []
    step: BaseException | None = error
    while step is not None and step not in seen:
        if isinstance(step, OSError) and step.strerror:
            return step.strerror
        seen.append(step)
        step = step.__cause__ or step.__context__
    if any(isinstance(each, TimeoutError) or "Timeout" in type(each).__name__ for each in seen):
        return "no answer in time"
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)[:200]
