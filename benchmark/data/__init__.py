"""Data sets: where images come from (`sources`), their prompts, their pixels, their corruptions."""

from benchmark.data.opening import Data, check_data, data_digest, expand, forget, open_data, sources
from benchmark.data.pixels import PixelCache, Pixels

__all__ = [
    "Data",
    "PixelCache",
    "Pixels",
    "check_data",
    "data_digest",
    "expand",
    "forget",
    "open_data",
    "sources",
]
