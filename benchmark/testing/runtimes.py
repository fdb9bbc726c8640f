"""The contracts of a runtime for artifacts."""

from __future__ import annotations

import copy
import pickle
import re
import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmark.errors import ArtifactError
from benchmark.runtimes import base
from benchmark.runtimes.base import INTEGERS, FeatureTable, GraphRuntime, GraphTower, Runtime, Session
from benchmark.runtimes.registry import runtimes
from benchmark.testing.registering import register

SIDE, LENGTH, WORDS, WIDTH = 8, 6, 11, 5
"""Sides of an image, tokens of a text, words of the vocabulary, and numbers of an embedding of the towers below."""


class LinearTower(nn.Module):
    """Pixels (B, 3, SIDE, SIDE) -> flattened @ `weight.T` (B, WIDTH)."""

    def __init__(self) -> None:
        super().__init__()
        values = torch.randn(WIDTH, 3 * SIDE * SIDE, generator=torch.Generator().manual_seed(0))
        self.weight = nn.Parameter(values, requires_grad=False)

    def forward(self, pixels: Tensor) -> Tensor:
        return pixels.flatten(1) @ self.weight.T


class TokenTower(nn.Module):
    """Tokens (B, LENGTH) int64 -> the mean of their rows of `table` (WORDS, WIDTH): (B, WIDTH)."""

    def __init__(self) -> None:
        super().__init__()
        values = torch.randn(WORDS, WIDTH, generator=torch.Generator().manual_seed(1))
        self.table = nn.Parameter(values, requires_grad=False)

    def forward(self, tokens: Tensor) -> Tensor:
        return nn.functional.embedding(tokens, self.table).mean(1)


class _Declared:
    """What holds for every runtime."""

    runtime: ClassVar[Runtime]

    @pytest.fixture(autouse=True)
    def _registered(self) -> None:
        """The runtime is registered under its own name."""
        register(runtimes, self.runtime)

    def test_declaration(self) -> None:
        """What `reliquant list runtimes` and the content hashes rely on."""
        runtime = self.runtime
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", runtime.name)
        assert runtime.version >= 1
        assert runtime.title
        assert "\n" not in runtime.title
        assert runtime.suffixes or runtime.also
        assert all(suffix.startswith(".") for suffix in (*runtime.suffixes, *runtime.also))
        assert runtime.runs_on
        assert set(runtime.runs_on) <= {"cpu", "cuda"}
        assert isinstance(runtime.library_version(), str)
        assert isinstance(runtime.provider(runtime.runs_on[0]), str)

    def test_a_device_that_it_lacks_is_refused(self) -> None:
        """One line that names the runtime and where it runs."""
        with pytest.raises(ArtifactError, match=f"'{self.runtime.name}' does not run on abacus") as error:
            self.runtime.check_available("abacus")
        assert "\n" not in str(error.value)

    def test_a_missing_library_names_what_to_install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """One line with the extra, or nothing where no library is needed."""
        monkeypatch.setattr(base, "find_spec", lambda _: None)
        if not self.runtime.modules:
            self.runtime.check_available(self.runtime.runs_on[0])
            return
        with pytest.raises(ArtifactError, match="is not installed"):
            self.runtime.check_available(self.runtime.runs_on[0])

    def test_a_missing_file_is_named(self, tmp_path: Path) -> None:
        """A folder is no file."""
        suffix = (*self.runtime.suffixes, *self.runtime.also)[0]
        for path in (tmp_path / f"nowhere{suffix}", tmp_path):
            with pytest.raises(ArtifactError, match=re.escape(str(path))):
                self.runtime.files(path)


class RuntimeContract(_Declared, ABC):
    """What every runtime that runs graphs must satisfy. Set `runtime`, and write a tower as its file in `write`.

    Attributes:
        tolerance: largest difference from torch, relative to the largest number.
        reads_tokens: whether it runs text towers.
        fixes_batches: whether its files can have a fixed batch.
    """

    runtime: ClassVar[GraphRuntime]
    tolerance: ClassVar[float] = 1e-4
    reads_tokens: ClassVar[bool] = True
    fixes_batches: ClassVar[bool] = True

    @abstractmethod
    def write(self, folder: Path, tower: LinearTower | TokenTower, batch: int | None) -> Path:
        """Write a tower into an empty folder; returns the artifact's path. Args: batch: None for a free batch."""

    @pytest.fixture
    def inputs(self) -> NDArray[np.float32]:
        """Seven images."""
        return np.random.default_rng(0).normal(size=(7, 3, SIDE, SIDE)).astype(np.float32)

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        """A `LinearTower` with a free batch."""
        return self.write(_new(tmp_path / "written"), LinearTower(), None)

    def opened(self, path: Path) -> Session:
        """A session of a file on the first device."""
        return self.runtime.open(path, self.runtime.runs_on[0])

    def close(self, found: NDArray[np.float32], tower: nn.Module, inputs: NDArray[Any]) -> None:
        """Compare with torch."""
        wanted = tower(torch.from_numpy(inputs)).numpy()
        assert found.dtype == np.float32
        assert found.shape == wanted.shape
        assert np.abs(found - wanted).max() <= self.tolerance * np.abs(wanted).max()

    def test_embeddings_are_those_of_torch(self, path: Path, inputs: NDArray[np.float32]) -> None:
        """For one image, and for several."""
        session = self.opened(path)
        for rows in (1, 4, 7):
            self.close(session.run(inputs[:rows]), LinearTower(), inputs[:rows])

    def test_ports_tell_what_the_graph_takes(self, path: Path) -> None:
        """Shapes and types are known before anything runs."""
        session = self.opened(path)
        assert session.input.shape in ((None, 3, SIDE, SIDE), (1, 3, SIDE, SIDE))
        assert session.input.dtype in base.FLOATS
        assert session.output.shape == () or session.output.shape[-1] in (None, WIDTH)

    def test_a_row_does_not_depend_on_the_others(self, path: Path, inputs: NDArray[np.float32]) -> None:
        """Otherwise results would depend on the batch size: see `Session.alone`."""
        session = self.opened(path)
        louder = inputs.copy()
        louder[1:] *= 100
        first, second = session.run(inputs)[0], session.run(louder)[0]
        assert np.abs(first - second).max() <= self.tolerance * np.abs(first).max()

    def test_a_fixed_batch_gets_any_number_of_rows(self, tmp_path: Path, inputs: NDArray[np.float32]) -> None:
        """The last part is filled up, and cut again."""
        if not self.fixes_batches:
            pytest.skip("its files have no fixed batch")
        session = self.opened(self.write(_new(tmp_path / "fixed"), LinearTower(), 3))
        assert session.input.shape[0] == 3
        for rows in (1, 3, 7):
            self.close(session.run(inputs[:rows]), LinearTower(), inputs[:rows])

    def test_tokens(self, tmp_path: Path) -> None:
        """Texts of integers, in the type that the graph wants."""
        if not self.reads_tokens:
            pytest.skip("it runs no text towers")
        session = self.opened(self.write(_new(tmp_path / "text"), TokenTower(), None))
        tokens = np.random.default_rng(0).integers(0, WORDS, (5, LENGTH))
        assert session.input.dtype in INTEGERS
        self.close(session.run(tokens), TokenTower(), tokens)

    def test_its_files_are_all_that_it_needs(self, path: Path, tmp_path: Path, inputs: NDArray[np.float32]) -> None:
        """They lie in one folder, which may be moved; what else lies there is not needed."""
        files = self.runtime.files(path)
        assert files[0] == path
        assert {file.parent for file in files} == {path.parent}
        moved = _new(tmp_path / "moved")
        for file in files:
            shutil.copy(file, moved / file.name)
        shutil.rmtree(path.parent)
        self.close(self.opened(moved / path.name).run(inputs), LinearTower(), inputs)

    def test_a_damaged_file_is_one_line(self, path: Path) -> None:
        """Whatever its library says of it."""
        for content in (b"", b"not a graph", b"\x80\x04cposix\nsystem\n(S'true'\ntR."):
            path.write_bytes(content)
            with pytest.raises(ArtifactError) as error:
                self.opened(path)
            assert "\n" not in str(error.value)
            assert path.name in str(error.value)

    def test_a_copy_runs_and_no_session_is_pickled(self, path: Path, inputs: NDArray[np.float32]) -> None:
        """Quantizers copy models; a process opens the file itself."""
        tower = GraphTower(self.opened(path))
        found = copy.deepcopy(tower)(torch.from_numpy(inputs)).numpy()
        np.testing.assert_array_equal(found, tower(torch.from_numpy(inputs)).numpy())
        with pytest.raises(TypeError, match="cannot be pickled"):
            pickle.dumps(tower)


class FeatureTableContract(_Declared, ABC):
    """What every runtime that reads features must satisfy. Set `runtime`, and write them as its file in `write`."""

    runtime: ClassVar[FeatureTable]

    @abstractmethod
    def write(self, folder: Path, arrays: Mapping[str, NDArray[Any]]) -> Path:
        """Write `image_id` (N,) and `image` (N, D), or `text_id` and `text`; returns the path."""

    @pytest.fixture
    def arrays(self) -> dict[str, NDArray[Any]]:
        """Three images."""
        features = np.random.default_rng(0).normal(size=(3, WIDTH)).astype(np.float32)
        return {"image_id": np.array(["a/1", "a/2", "ü 3"]), "image": features}

    def refused(self, folder: Path, arrays: Mapping[str, NDArray[Any]], words: str) -> None:
        """Reading these ends with one line that says `words`."""
        path = self.write(_new(folder), arrays)
        with pytest.raises(ArtifactError, match=words) as error:
            self.runtime.read(path)
        assert "\n" not in str(error.value)
        assert path.name in str(error.value)

    def test_features_by_id(self, tmp_path: Path, arrays: dict[str, NDArray[Any]]) -> None:
        """As they were written, in any order that is asked for."""
        path = self.write(_new(tmp_path / "good"), arrays)
        assert self.runtime.kinds(path) == ("image",)
        found = self.runtime.read(path)["image"]
        np.testing.assert_array_equal(found.of(["ü 3", "a/1"]), arrays["image"][[2, 0]])
        with pytest.raises(ArtifactError, match=r"2 of 3 images have no feature, first 'b'"):
            found.of(["b", "a/1", "c"])

    def test_what_cannot_be_used_is_named(self, tmp_path: Path, arrays: dict[str, NDArray[Any]]) -> None:
        """Ids that stand twice, and numbers that are none."""
        twice = np.array(["a/1", "a/2", "a/1"])
        self.refused(tmp_path / "twice", {**arrays, "image_id": twice}, "1 ids stand twice, first 'a/1'")
        broken = arrays["image"].copy()
        broken[1, 0] = np.nan
        self.refused(tmp_path / "nan", {**arrays, "image": broken}, "NaN or infinity, first 'a/2'")
        self.refused(tmp_path / "zero", {**arrays, "image": 0 * arrays["image"]}, "all zeros, first 'a/1'")

    def test_half_precision_is_named(self, tmp_path: Path, arrays: dict[str, NDArray[Any]]) -> None:
        """It is read, and a note says so."""
        half = {**arrays, "image": arrays["image"].astype(np.float16)}
        found = self.runtime.read(self.write(_new(tmp_path / "half"), half))["image"]
        assert found.features.dtype == np.float32
        assert "float16" in found.notes[0]


def _new(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder
