"""Features made elsewhere: what a file of them may hold, and nothing is unpickled."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmark.errors import ArtifactError
from benchmark.runtimes.artifact import resolve_artifact
from benchmark.runtimes.features import runtime
from benchmark.spec import ArtifactSpec

GOOD = {"image_id": np.array(["a/1", "a/2"]), "image": np.eye(2, dtype=np.float32)}
TEXTS = {"text_id": np.array(["a cat"]), "text": np.ones((1, 2), np.float32)}


class Dangerous:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> Any:
        return (pytest.fail, ("a pickle was read",))


def npz(folder: Path, **arrays: Any) -> Path:
    path = folder / "features.npz"
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"image": GOOD["image"]}, "it has 'image' but no 'image_id'"),
        ({"image_id": GOOD["image_id"]}, "it has 'image_id' but no 'image'"),
        ({"feats": GOOD["image"]}, "it holds feats; expected image_id"),
        ({**GOOD, "image_id": np.array([1, 2])}, "expected texts"),
        ({**GOOD, "image": GOOD["image"].astype(np.int8)}, r"int8 \(2, 2\), expected float32"),
        ({**GOOD, "image": np.zeros(2, np.float32)}, r"float32 \(2,\), expected float32 \(N, width\)"),
        ({**GOOD, "image_id": np.array(["a/1"])}, "2 features for 1 ids"),
        ({**GOOD, "image": np.array([[np.inf, 0], [1, 1]])}, "1 features hold NaN or infinity, first 'a/1'"),
        ({**GOOD, "image": np.array([[1e300, 0], [1, 1]])}, "NaN or infinity"),
    ],
)
def test_what_does_not_fit_is_named(arrays: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=says) as error:
        runtime.read(npz(tmp_path, **arrays))
    assert "\n" not in str(error.value)
    assert "features.npz" in str(error.value)


def test_no_pickle_is_read(tmp_path: Path) -> None:
    """Not within an .npz, not in its place, not by a name that looks like one."""
    within = npz(tmp_path, image=GOOD["image"], image_id=np.array([Dangerous(), Dangerous()], dtype=object))
    with pytest.raises(ArtifactError, match="Python objects, which are never read"):
        runtime.read(within)
    single = io.BytesIO()
    np.save(single, np.array([Dangerous()], dtype=object), allow_pickle=True)
    for content in (single.getvalue(), b"", b"PK\x03\x04", b"\x80\x04."):
        (tmp_path / "bad.npz").write_bytes(content)
        with pytest.raises(ArtifactError, match=r"bad\.npz"):
            runtime.kinds(tmp_path / "bad.npz")
    with pytest.raises(ArtifactError, match=r"no runtime reads files that end in '\.pt'\. Known: .*\.onnx \(onnx\)"):
        resolve_artifact("phone", ArtifactSpec(file=str(tmp_path / "visual.pt")), "cpu")


def test_a_damaged_member_is_one_line(tmp_path: Path) -> None:
    path = npz(tmp_path, **GOOD)
    with zipfile.ZipFile(path) as stored:
        place = stored.getinfo("image.npy").header_offset + 80
    content = bytearray(path.read_bytes())
    content[place : place + 60] = b"x" * 60
    path.write_bytes(bytes(content))
    with pytest.raises(ArtifactError, match=r"not an \.npz file"):
        runtime.read(path)


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"id": ["a/1"], "feature": [[1.0]]}, "it holds feature, id; expected image_id"),
        ({"image_id": ["a/1"], "vector": [[1.0]]}, "columns image_id, vector; expected 'image_id' or 'text_id', and"),
        ({"image_id": ["a/1"], "feature": [1.0]}, "expected lists of float32"),
        ({"image_id": ["a/1", "a/2"], "feature": [[1.0], [1.0, 2.0]]}, r"features have \[1, 2\] numbers"),
        ({"image_id": ["a/1", None], "feature": [[1.0], [2.0]]}, "1 values are missing"),
        ({"image_id": ["a/1", "a/2"], "feature": [[1.0], None]}, "1 values are missing"),
    ],
)
def test_parquet_that_does_not_fit(columns: dict[str, Any], says: str, tmp_path: Path) -> None:
    path = tmp_path / "features.parquet"
    pq.write_table(pa.table(columns), path)
    with pytest.raises(ArtifactError, match=says) as error:
        runtime.read(path)
    assert "\n" not in str(error.value)


def test_the_scope_follows_from_what_there_is(tmp_path: Path) -> None:
    both, alone = npz(tmp_path, **GOOD, **TEXTS), tmp_path / "alone.npz"
    np.savez(alone, **GOOD)  # type: ignore[arg-type]
    cases = {
        "vision+text": ArtifactSpec(file=str(both)),
        "vision": ArtifactSpec(file=str(alone)),
        "text": ArtifactSpec(text=str(both)),
    }
    for scope, spec in cases.items():
        assert resolve_artifact("phone", spec, "cpu").quant.scope == scope
    assert resolve_artifact("phone", ArtifactSpec(file=str(both), scope="vision"), "cpu").quant.scope == "vision"
    with pytest.raises(ArtifactError, match=r"scope vision\+text needs the text tower too\. Give text: FILE"):
        resolve_artifact("phone", ArtifactSpec(file=str(alone), scope="vision+text"), "cpu")


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"artifact 'phone': .*none\.npz: no such file"):
        resolve_artifact("phone", ArtifactSpec(file=str(tmp_path / "none.npz")), "cpu")
    with pytest.raises(ArtifactError, match=r"runtime 'openvino' reads \.xml, \.onnx, not '\.npz'"):
        resolve_artifact("phone", ArtifactSpec(file=str(npz(tmp_path, **GOOD)), runtime="openvino"), "cpu")
