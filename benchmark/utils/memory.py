"""Memory kept for the next layer of a forward pass, and collected rarely where many objects are made at once."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Names of the two settings in glibc's malloc.h."""

KEPT_BYTES = 1 << 30


@cache
def keep_freed_memory() -> bool:
    """Keep up to 1 GiB of freed memory in this process; True where that could be set (glibc).

    By default glibc returns a freed tensor of more than 32 MiB to the system at once, and the next layer's pages are
    zeroed and mapped anew: with batches of 64 images on ViT-B/32 that takes as long as the integer products.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # musl has no such function
        return False
    return bool(mallopt(_MMAP_THRESHOLD, KEPT_BYTES) and mallopt(_TRIM_THRESHOLD, KEPT_BYTES))


@contextmanager
def rare_collection(objects: int = 100_000) -> Iterator[None]:
    """Look for unreachable cycles only after so many new objects: each look passes over all there are.

    Drawing with matplotlib makes so many that looking is a seventh of the time.
    """
    before = gc.get_threshold()
    gc.set_threshold(objects, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
