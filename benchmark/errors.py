"""One exception tree. Everything a user can cause or fix derives from `ReliquantError`.

The command line prints such an error as one line, without a traceback, and exits with `exit_status`.
"""

from __future__ import annotations

import difflib
import errno
import re
from collections.abc import Iterable
from urllib.parse import unquote, unquote_plus

PARTIAL = 3
"""Exit status when some evaluations failed, or could not be compared, and the rest was done."""

INFERIOR, CANNOT_TELL = 1, 4
"""Exit statuses of a gate that was not passed."""

INTERRUPTED, TERMINATED = 130, 143
"""Exit statuses of a command that was stopped: 128 and the signal's number."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)


class ReliquantError(Exception):
    """Base of all expected errors, one line each; `exit_status` is what the command line exits with."""

    exit_status = 2

    def __str__(self) -> str:
        """The message on one line and without passwords, whatever names and library messages went into it."""
        return masked(" ".join(super().__str__().split()))


class InputError(ReliquantError):
    """Something the user gave (a name, a field, a file) cannot be used."""


class SpecError(InputError):
    """A suite, a specification or a short name is wrong; the message names the field."""


class UnknownNameError(InputError):
    """A name that no registry or catalogue knows."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        names = sorted(str(item) for item in known)
        close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        hint = f" Did you mean '{close[0]}'?" if close else ""
        listing = f" Known: {', '.join(names)}." if names and len(names) <= 40 else ""
        super().__init__(f"unknown {kind} '{name}'.{hint}{listing}")
        self.kind, self.name, self.suggestion = kind, name, close[0] if close else None


class DataError(InputError):
    """A data set that cannot be read or does not fit: the message names file, index or column."""


class ModelError(InputError):
    """A checkpoint or model reference that cannot be loaded as asked."""


class ArtifactError(InputError):
    """A file that somebody ships that cannot be run, or does not fit its model; the message names the file."""


class QuantizationError(ReliquantError):
    """A quantization that cannot be done as asked, or that changed nothing."""


class NonFiniteError(ReliquantError):
    """NaN or infinity where numbers were expected; the message names the layer or tensor."""

    exit_status = 3


class UndefinedMetric(ReliquantError):
    """A metric whose formula has no value on this data (a zero denominator, a single class).

    A task catches it, leaves the metric out and notes the reason in `Outcome.notes`: there are no sentinel values.
    """

    exit_status = 3


class PluginError(ReliquantError):
    """A plugin that cannot be imported, breaks its contract, or raised an unexpected exception."""


class StorageError(ReliquantError):
    """A results folder, cache or tracking store that cannot be written or read."""


class DamagedSamplesError(StorageError):
    """Per-sample columns of a finished evaluation that cannot be read: running the suite computes them again."""


_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*:/{2,}[^\s]+")
_SECRET_KEY = re.compile(
    r"pass|pwd|secret|token|credential|signature|api_?key|access_?key|^(?:key|auth|sig)$", re.IGNORECASE
)
_ASSIGNED = re.compile(r"(?i)([\w-]*(?:passw(?:or)?d|passphrase|pwd|secret|token)[\w-]*)=([^\s&;,'\")]+)")
_QUERY = re.compile(r"([?&;])([^=&;?#]+)=([^&;]*)")
_HIDDEN = "***"


def masked(text: str, address: str | None = None) -> str:
    """A text without the secrets of the addresses in it: passwords, tokens, and secret parts of a query.

    Where parsers disagree on where a password ends (one with `@`, `/` or `#` in it), more is hidden rather than less.

    Args:
        address: one that the text may name in parts, as the errors of database drivers do.

    >>> masked("postgresql+psycopg://me:secret@host/studies")
    'postgresql+psycopg://me:***@host/studies'
    >>> masked("cannot reach postgresql://host/x?sslpassword=a%40b&sslmode=require")
    'cannot reach postgresql://host/x?sslpassword=***&sslmode=require'
    """
    if address:
        before, url = _split(address)
        text = text.replace(address, before + _masked_url(url))
        for secret in sorted(_secrets(url), key=len, reverse=True):
            text = re.sub(rf"(?<![^@:/#?&='\"]){re.escape(secret)}(?![^@:/#?&='\"])", _HIDDEN, text)
            text = text.replace(secret, _HIDDEN) if len(secret) > 3 else text
    text = _URL.sub(lambda found: _masked_url(found[0]), text)
    return _ASSIGNED.sub(rf"\1={_HIDDEN}", text)


def _split(address: str) -> tuple[str, str]:
    """What stands before a URL (`--storage=`), and the URL to its end, blanks in its password included."""
    found = re.search(r"[a-zA-Z][a-zA-Z0-9+.-]*:/{2,}", address)
    return (address[: found.start()], address[found.start() :]) if found else ("", address)


def _parts(url: str) -> tuple[str, str, str]:
    """Of a URL: all before the password (or the token that stands for it), the password, and the rest from `@` on."""
    scheme, mark, rest = url.partition("://")
    info, at, _ = rest.rpartition("@")
    place = info.partition("?")[0]
    if not (mark and at) or info.startswith("/") or (place != info and not set(":@") & set(place)):
        return scheme + mark, "", rest  # no user: a path, or an `@` in the query
    user, colon, password = info.partition(":")
    if not colon:
        if not scheme.lower().startswith("http"):
            return scheme + mark, "", rest
        user, password = "", user  # a token
    elif "?" in user:
        return scheme + mark, "", rest  # the colon lies in the query
    tail = rest[len(info) :]
    begun = re.search(r"[?&;]([^=&;?#]+)=([^&;]*)$", info)
    if begun and _is_secret(begun[1], begun[2]):  # the `@` may lie in a secret of the query
        end = re.search(r"[&;]|$", tail)
        cut = end.start() if end else len(tail)
        password, tail = password + tail[:cut], tail[cut:]
    return f"{scheme}{mark}{user}{colon}", password, tail


def _masked_url(url: str) -> str:
    head, password, tail = _parts(url)
    return f"{head}{_HIDDEN if password else ''}{_QUERY.sub(_masked_pair, tail)}"


def _masked_pair(found: re.Match[str]) -> str:
    return f"{found[1]}{found[2]}={_HIDDEN}" if _is_secret(found[2], found[3]) else found[0]


def _is_secret(key: str, value: str) -> bool:
    return bool(_SECRET_KEY.search(unquote(key)) or _ASSIGNED.search(unquote_plus(value)))


def _secrets(url: str) -> set[str]:
    """What must not be seen of a URL, in the forms that messages have: quoted or not, whole or cut at a mark."""
    _, password, tail = _parts(url)
    found = {password, *(value for _, key, value in _QUERY.findall(tail) if _is_secret(key, value))}
    found |= {unquote(secret) for secret in found} | {unquote_plus(secret) for secret in found}
    found |= {part for secret in found for part in re.split(r"[@:/#?&=;\s]", secret)}
    return {secret for secret in found if re.search(r"\w", secret)}


def why(error: OSError) -> str:
    """The reason that the system gives, with the way out where there is one."""
    reason = error.strerror or str(error)
    if error.errno in _FULL:
        return f"{reason}; what is finished is kept: make room and run the same command again"
    if error.errno in _READ_ONLY:
        return f"{reason}; what is finished is kept: make it writable, or choose another with --home DIR"
    return reason
