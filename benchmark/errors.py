"""One exception tree. Everything a user can cause or fix derives from `ReliquantError`.

The command line prints such an error as one line, without a traceback, and exits with `exit_status`.
"""

from __future__ import annotations

import difflib
import errno
import re
from collections.abc import Iterable
from urllib.parse import unquote

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
        """The message on one line, whatever names and library messages went into it."""
        return " ".join(super().__str__().split())


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


_PASSWORDS = (re.compile(r"://[^:/@]*:([^@]+)@"), re.compile(r"[?&]password=([^&]+)"))


def masked(text: str, address: str | None = None) -> str:
    """A text without the password of an address that it may name.

    Args:
        address: None: the text is the address.

    >>> masked("postgresql+psycopg://me:secret@host/studies")
    'postgresql+psycopg://me:***@host/studies'
    """
    for pattern in _PASSWORDS:
        for password in pattern.findall(text if address is None else address):
            for form in {password, unquote(password)}:
                text = re.sub(f"(?<=[:=]){re.escape(form)}(?=[@&]|$)", "***", text)
                text = text.replace(form, "***") if len(form) > 3 else text
    return text


def why(error: OSError) -> str:
    """The reason that the system gives, with the way out where there is one."""
    reason = error.strerror or str(error)
    if error.errno in _FULL:
        return f"{reason}; what is finished is kept: make room and run the same command again"
    if error.errno in _READ_ONLY:
        return f"{reason}; what is finished is kept: make it writable, or choose another with --home DIR"
    return reason
