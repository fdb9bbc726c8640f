"""Write `benchmark/demo/backgrounds.npz`: `python -m tests.unit.demo.backgrounds`."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import benchmark.demo
from benchmark.demo.catalogue import SPLITS
from benchmark.demo.scenes import describe_split

PLACE = Path(benchmark.demo.__file__).with_name("backgrounds.npz")


def drawn() -> dict[str, NDArray[np.uint8]]:
    """The background of each image of each split, as drawing it decides."""
    groups = {name: describe_split(split)[1] for name, split in SPLITS.items()}
    return {name: found.astype(np.uint8) for name, found in groups.items() if found is not None}


if __name__ == "__main__":
    np.savez_compressed(PLACE, allow_pickle=False, **drawn())
