"""Durable file names: a renamed file survives a power failure only when its folder is synced too."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

_CANNOT = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)
"""Errors of file systems that do not support fsync of folders (they write names at once)."""


def sync_folder(folder: Path) -> None:
    """Sync the names in a folder to the disk; Windows does that by itself, and opens no folder.

    Raises:
        OSError: the disk cannot be written.
    """
    if sys.platform == "win32":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
    finally:
        os.close(handle)
