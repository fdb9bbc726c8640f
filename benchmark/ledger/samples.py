"""Arrays as a .npz file that says of itself whether it is whole.

The checksums of a ZIP archive cover its members but not its table of contents: a flipped bit there can make a member
disappear unnoticed. The archive's comment, which every ZIP tool shows or ignores, therefore holds the SHA-256 of all
bytes before it.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

LENGTH = 64
"""Letters of the hexadecimal digest."""
LARGEST = 1 << 31
"""Bytes, unpacked; the columns of 1.3 million images have a tenth of that."""


def pack(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """The compressed archive with its digest."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    body = buffer.getvalue()[:-2] + LENGTH.to_bytes(2, "little")  # the last field is the comment's length, 0 so far
    return body + hashlib.sha256(body).hexdigest().encode()


def digest_of(packed: bytes) -> str:
    """The digest that `pack` has put at the end."""
    return packed[-LENGTH:].decode("ascii", "replace")


def is_whole(content: bytes) -> bool:
    """Whether the content is what was packed."""
    return hashlib.sha256(content[:-LENGTH]).hexdigest().encode() == content[-LENGTH:]


def unpack(content: bytes) -> dict[str, NDArray[Any]]:
    """The arrays of `pack`.

    Raises:
        ValueError: the content is not what was packed.
    """
    if not is_whole(content):
        raise ValueError("its digest does not fit")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if (size := sum(member.file_size for member in archive.infolist())) > LARGEST:
                raise ValueError(f"unpacked it has {size:,} bytes, more than {LARGEST:,}")
        with np.load(io.BytesIO(content), allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except ValueError:
        raise
    except Exception as error:  # a forged archive: zipfile, zlib, struct and the parser of headers have their own
        raise ValueError(f"not a whole .npz archive ({type(error).__name__})") from error
