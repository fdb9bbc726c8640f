"""The runtime interface: what reads a file that somebody ships, and runs the tower in it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmark.errors import ArtifactError

FLOATS, INTEGERS = ("float32", "float16"), ("int64", "int32")
"""Types of pixels, and of tokens, that a session takes."""
EMBEDDINGS = ("image_embeds", "text_embeds")
"""Names that exporters give to the embedding where a graph has other outputs beside it."""
MASK = "attention_mask"
"""A second input that may stand beside tokens: 1 for every position that a tower sees."""


@dataclass(frozen=True)
class Port:
    """An input or output of a graph. `shape` has None for a free axis; `dtype` is numpy's name of the type."""

    name: str
    shape: tuple[int | None, ...]
    dtype: str

    def __str__(self) -> str:
        """`pixels float32 (?, 3, 224, 224)`."""
        return f"{self.name} {self.dtype} ({', '.join('?' if size is None else str(size) for size in self.shape)})"


class Session(ABC):
    """One tower, ready to run: an array with the batch first goes in, embeddings come out. Runs have no state.

    Attributes:
        inputs, outputs: the graph's. alone: whether what the graph makes of one row depends on the others of its batch
            (dynamic quantization over the whole tensor), so that each row must run alone.
    """

    def __init__(self, inputs: Sequence[Port], outputs: Sequence[Port], where: str, alone: bool = False) -> None:
        """Args: where: names the file in messages.

        Raises:
            ArtifactError: several inputs, or no single output that can be the embedding.
        """
        self.inputs, self.outputs, self.where, self.alone = tuple(inputs), tuple(outputs), where, alone
        masks = [port for port in inputs if port.name == MASK]
        rest = [port for port in inputs if port not in masks]
        if len(rest) != 1 or len(masks) > 1:
            raise ArtifactError(
                f"{where}: {_listed('input', inputs)}; a tower has one: pixels or tokens. "
                "Export the image tower and the text tower as a file each."
            )
        self.input, self._masks = rest[0], masks
        self.output = _embedding(outputs, where)

    @abstractmethod
    def compute(self, feed: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """Run the graph once on its inputs by name; gives `self.output`. The batch is as the graph wants it."""

    def run(self, array: NDArray[Any]) -> NDArray[np.float32]:
        """Embeddings (B, D) of pixels (B, 3, H, W) float32 or tokens (B, L) int64, any B from 1; not normalised.

        A graph with a fixed batch gets the rows in parts; the last part is filled up with copies of its last row.

        Raises:
            ArtifactError: the runtime refuses the array, or answers with another number of rows.
        """
        array = np.ascontiguousarray(array, self.input.dtype)
        fixed = self.input.shape[0] if self.input.shape else None
        step = 1 if self.alone else fixed or len(array)
        parts = []
        for start in range(0, len(array), step):
            part = array[start : start + step]
            rows = len(part)
            if fixed is not None and rows < fixed:
                part = np.concatenate([part, np.repeat(part[-1:], fixed - rows, axis=0)])
            feed = {self.input.name: part}
            feed |= {port.name: np.ones(part.shape[:2], port.dtype) for port in self._masks}
            found = self.compute(feed)
            if found.ndim != 2 or len(found) != len(part):
                raise ArtifactError(
                    f"{self.where}: output '{self.output.name}' has the shape {found.shape} for {len(part)} rows, "
                    "expected (rows, width). Export the pooled embedding."
                )
            parts.append(np.asarray(found[:rows], np.float32))
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def __deepcopy__(self, memo: object) -> Session:
        """The session itself: it has no state that a copy could change."""
        return self

    def __reduce__(self) -> Any:
        """Refuse to be pickled; open the file again where it is needed."""
        raise TypeError(f"{self.where}: a session cannot be pickled; open its file again")


def _embedding(outputs: Sequence[Port], where: str) -> Port:
    flat = [port for port in outputs if len(port.shape) in (0, 2)]
    named = [port for port in flat if port.name in EMBEDDINGS]
    found = flat if len(flat) == 1 else named
    if len(found) != 1:
        raise ArtifactError(
            f"{where}: {_listed('output', outputs)}; which is the embedding (batch, width)? "
            f"Export that one alone, or call it {EMBEDDINGS[0]}."
        )
    return found[0]


def _listed(kind: str, ports: Sequence[Port]) -> str:
    shown = "; ".join(map(str, ports[:6])) + ("; ..." if len(ports) > 6 else "")
    return f"it has {len(ports)} {kind}{'s' * (len(ports) != 1)} ({shown})"


class GraphTower(nn.Module):
    """A tower whose forward pass is a session's: (B, 3, H, W) or (B, L) -> (B, D) float32 on the input's device."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session

    def forward(self, inputs: Tensor) -> Tensor:
        """Run the session; no gradient flows."""
        found = torch.from_numpy(self.session.run(inputs.detach().cpu().numpy()))
        return found.to(inputs.device)


@dataclass(frozen=True)
class TowerEncoder:
    """A `GraphTower` in the place of a ClipModel's `image_encoder` or `text_encoder`."""

    tower: nn.Module

    def __call__(self, module: nn.Module, inputs: Tensor) -> Tensor:
        """(the model's module, which is not used; pixels (B, 3, H, W) or tokens (B, L)) -> (B, D)."""
        found: Tensor = self.tower(inputs)
        return found


@dataclass(frozen=True)
class Runtime(ABC):
    """What reads artifacts of a kind. Instances are registered under `name` (entry points `reliquant.runtimes`).

    Attributes:
        name: in suites and on the command line.
        version: raise it when the numbers that it gives for the same file can change.
        title: one line for `reliquant list runtimes`.
        suffixes: of the files that it reads, e.g. `.onnx`. also: those that it reads only where an artifact names it.
        extra: of reliquant, that brings its library. modules: what must be importable. package: the distribution
            whose version is part of the content hash.
        runs_on: device types.
    """

    name: str
    version: int
    title: str
    suffixes: tuple[str, ...]
    also: tuple[str, ...] = ()
    extra: str = ""
    modules: tuple[str, ...] = ()
    package: str = ""
    runs_on: tuple[str, ...] = ("cpu",)

    def check_available(self, device: str) -> None:
        """Refuse a device that it does not run on, or a missing library.

        Args: device: `cpu` or `cuda`.

        Raises:
            ArtifactError: says where it runs, or what to install.
        """
        if device not in self.runs_on:
            raise ArtifactError(
                f"runtime '{self.name}' does not run on {device}; it runs on {', '.join(self.runs_on)}. Give --device."
            )
        if missing := [name for name in self.modules if find_spec(name) is None]:
            raise ArtifactError(
                f"runtime '{self.name}': {missing[0]} is not installed. Run pip install 'reliquant[{self.extra}]'"
            )

    @property
    def installed(self) -> bool:
        """Whether its library is."""
        return all(find_spec(name) is not None for name in self.modules)

    def library_version(self) -> str:
        """Version of the library that computes; part of the content hash."""
        try:
            return version(self.package) if self.package else ""
        except PackageNotFoundError:
            return ""

    def provider(self, device: str) -> str:
        """What computes on a device, in the library's word; part of the content hash."""
        return device

    @abstractmethod
    def files(self, path: Path) -> tuple[Path, ...]:
        """All files that belong to an artifact, `path` first: they make its digest and its size.

        Raises:
            ArtifactError: one is missing, lies outside the folder of `path`, or `path` is no such file.
        """


class GraphRuntime(Runtime):
    """A runtime that runs a tower: image `(B, 3, H, W) -> (B, D)`, or text `(B, L) -> (B, D)`."""

    @abstractmethod
    def open(self, source: Path | bytes, device: str) -> Session:
        """A session of a file, or of the bytes of one. Threads follow `torch.get_num_threads()`.

        No pickle is read, no library of custom operators loaded, and no file outside the folder of `source`.

        Raises:
            ArtifactError: the file cannot be read, or holds an operator that the runtime does not know.
        """


@dataclass(frozen=True)
class Features:
    """Features by name: `features[rows[name]]` is that of the image id, or of the text, `name`.

    Attributes:
        features: (N, D) float32, finite, not normalised. kind: "image" or "text". notes: what a reader should know.
    """

    features: NDArray[np.float32]
    rows: Mapping[str, int]
    where: str
    kind: str
    notes: tuple[str, ...] = ()

    def of(self, names: Sequence[str]) -> NDArray[np.float32]:
        """Features (len(names), D), in that order; raises as `positions`."""
        return self.features[self.positions(names)]

    def positions(self, names: Sequence[str]) -> NDArray[np.int64]:
        """Rows (len(names),) of `features`.

        Raises:
            ArtifactError: some are missing; says how many, and names the first.
        """
        missing = [name for name in names if name not in self.rows]
        if missing:
            raise ArtifactError(
                f"{self.where}: {len(missing)} of {len(names)} {self.kind}s have no feature, first '{missing[0]}'. "
                "Make features of everything that `reliquant artifact inputs` writes for this suite."
            )
        return np.array([self.rows[name] for name in names], np.int64)


class FeatureTable(Runtime):
    """A runtime that runs nothing: it reads features that were made elsewhere."""

    @abstractmethod
    def kinds(self, path: Path) -> tuple[str, ...]:
        """Of what a file holds features, "image" or "text" or both; the features themselves are not read.

        Raises:
            ArtifactError: it is no such file.
        """

    @abstractmethod
    def read(self, path: Path) -> Mapping[str, Features]:
        """The features in a file by kind ("image", "text"), those that it has.

        Raises:
            ArtifactError: they cannot be used; says why.
        """


def checked(path: Path) -> Path:
    """The path of an artifact, if it is a file.

    Raises:
        ArtifactError: it is none.
    """
    if not path.is_file():
        raise ArtifactError(f"{path}: no such file{' (it is a folder)' if path.is_dir() else ''}. Give an artifact.")
    return path


def inside(path: Path, folder: Path, where: str) -> Path:
    """A file that an artifact refers to, if it lies in the artifact's own folder.

    Raises:
        ArtifactError: it lies elsewhere, or is missing.
    """
    root = folder.resolve()
    if path.is_absolute() or not (root / path).resolve().is_relative_to(root):
        raise ArtifactError(
            f"{where}: its external data '{path}' lie outside its folder, where nothing is read. "
            "Put them beside it and export it again."
        )
    if not (root / path).is_file():
        raise ArtifactError(f"{where}: its external data '{path}' are missing. Put that file into {folder}.")
    return folder / path
