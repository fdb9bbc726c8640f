"""What went wrong on the way to a server, in one line, whichever client was asked.

httpx, requests, urllib3, aiohttp and the standard library each have errors of their own, and packages change their
client (`huggingface_hub` went from requests to httpx and on to httpx2), so errors are known by the module of their
class, and none of these packages is imported.
"""

from __future__ import annotations

import errno

from benchmark.errors import why

CLIENTS = frozenset(
    [
        *("httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3", "aiohttp", "fsspec", "hf_xet"),
        *("urllib", "http", "ssl", "socket"),
    ]
)
"""Top-level modules whose exceptions are errors of transport."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_LOCAL = (*_FULL, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG)


def is_transport(error: BaseException) -> bool:
    """Whether an exception tells of the network or a server, or of a file system that cannot take what came."""
    modules = {base.__module__.partition(".")[0] for base in type(error).__mro__}
    return isinstance(error, OSError | TimeoutError) or not modules.isdisjoint(CLIENTS)


def is_local(error: BaseException) -> bool:
    """Whether this machine's file system is the reason: full, read-only, or forbidden."""
    return isinstance(error, OSError) and error.errno in _LOCAL


def reason(error: BaseException) -> str:
    """An error of any client in one line, with the system's own words where it only wraps them.

    >>> reason(TimeoutError())
    'no answer in time'
    >>> reason(ConnectionRefusedError(111, "Connection refused"))
    'Connection refused'
    """
    if isinstance(error, OSError) and error.errno in _FULL:
        return why(error)
    chain = _chain(error)
    system = next((each.strerror for each in chain if isinstance(each, OSError) and each.strerror), None)
    kinds = {type(each).__name__ for each in chain}
    if any(isinstance(each, TimeoutError) for each in chain) or any("Timeout" in kind for kind in kinds):
        return "no answer in time"
    text = next((line for each in chain for line in str(each).splitlines() if line.strip()), "")
    return (system or text.strip() or type(error).__name__)[:200]


def _chain(error: BaseException) -> list[BaseException]:
    """The error and those that it was made from."""
    found: list[BaseException] = []
    step: BaseException | None = error
    while step is not None and step not in found:
        found.append(step)
        step = step.__cause__ or step.__context__
    return found
