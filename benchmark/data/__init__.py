"""Data sets: where images come from (`sources`), their prompts, their pixels, their corruptions."""

from benchmark.data.opening import Data, DataSets, check_data, data_digest, expand, open_data, sources
from benchmark.data.pixels import PixelCache, Pixels
from benchmark.data.sources.base import LoadedData, Source, SourceOptions, paths_dataset
from benchmark.spec.catalogue import detect, load_catalogue

__all__ = [
    "Data",
    "DataSets",
    "LoadedData",
    "PixelCache",
    "Pixels",
    "Source",
    "SourceOptions",
    "check_data",
    "data_digest",
    "detect",
    "expand",
    "load_catalogue",
    "open_data",
    "paths_dataset",
    "sources",
]
