"""A tower as files of a runtime, and the places where they are kept."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from benchmark.errors import QuantizationError
from benchmark.quantization.calibrate import Store

FEATURES = "features"
"""Name of a graph's output (B, D)."""
SUFFIXES = (".onnx", ".xml")
"""Of a graph's main file."""


@dataclass(frozen=True)
class Graph:
    """A tower as a file of a runtime, with the files that belong to it.

    Attributes:
        main: name of the file that a runtime opens. files: name -> content; `main` among them.
    """

    main: str
    files: Mapping[str, NDArray[np.uint8]]

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(content.nbytes for content in self.files.values())

    def write(self, folder: Path) -> Path:
        """Write all files into a folder; returns the path of the main one."""
        for name, content in self.files.items():
            content.tofile(folder / name)
        return folder / self.main


def read_graph(main: Path) -> Graph:
    """The files of a folder that holds one graph and nothing else."""
    return Graph(main.name, {path.name: np.fromfile(path, np.uint8) for path in sorted(main.parent.iterdir())})


@contextmanager
def written(graph: Graph) -> Iterator[Path]:
    """The graph's main file in a folder that is removed afterwards."""
    with TemporaryDirectory(prefix="reliquant-") as folder:
        yield graph.write(Path(folder))


def made(make: Callable[[Path], Path]) -> Graph:
    """The graph that `make` writes into an empty folder; it returns the path of the main file."""
    with TemporaryDirectory(prefix="reliquant-") as folder:
        return read_graph(make(Path(folder)))


def remembered(store: Store | None, key: str, make: Callable[[], Graph]) -> Graph:
    """The graph of a content key: from the store, where that has it, else made and kept there."""
    if store is None:
        return make()
    known = store.get(key)
    if known is None:
        with store.lock(key):
            known = store.get(key)
            if known is None:
                graph = make()
                store.put(key, graph.files)
                return graph
    return Graph(next(name for name in known if Path(name).suffix in SUFFIXES), dict(known))


@contextmanager
def quiet(what: str) -> Iterator[None]:
    """Silence a library's output, and turn what it raises into one line.

    Raises:
        QuantizationError: the library failed; `what` says at what.
    """
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()):
            warnings.simplefilter("ignore")
            yield
    except QuantizationError:
        raise
    except Exception as error:  # a library may raise anything
        lines = str(error).strip().splitlines() or [""]
        raise QuantizationError(f"{what} failed: {type(error).__name__}: {lines[0][:300]}") from error
    finally:
        logging.disable(before)
