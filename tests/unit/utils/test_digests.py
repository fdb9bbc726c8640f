"""Digests of files: remembered while a file stays as it is, made anew whenever its bytes could be others."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmark.utils import digests
from benchmark.utils.digests import file_digest, file_digests, stamp


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(digests.CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(5):
        (folder / f"{number}.bin").write_bytes(bytes([number]) * 1000)
    return sorted(folder.iterdir())


@pytest.fixture
def _settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the files were old: their ctime cannot be set back."""
    monkeypatch.setattr(digests, "SETTLED_NS", -(10**12))


def seen(files: list[Path]) -> dict[Path, str]:
    return file_digests({path: stamp(path.stat()) for path in files})


def remembered(cache: Path) -> dict[str, list[object]]:
    return {name: row for file in cache.rglob("*.json") for name, row in json.loads(file.read_text()).items()}


def test_they_are_sha256_of_the_bytes(files: list[Path]) -> None:
    expected = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    assert seen(files) == expected
    assert file_digest(files[3]) == expected[files[3]]


@pytest.mark.usefixtures("_settled")
def test_what_is_remembered_is_not_read_again(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    before = seen(files)
    monkeypatch.setattr(digests, "_read", lambda path: pytest.fail(f"{path} was read"))
    assert seen(files) == before


@pytest.mark.usefixtures("_settled")
@pytest.mark.parametrize("how", ["in place", "renamed over"])
def test_a_file_replaced_with_equal_size_and_time_is_read(files: list[Path], tmp_path: Path, how: str) -> None:
    before, victim = seen(files), files[2]
    status = victim.stat()
    if how == "in place":
        victim.write_bytes(b"x" * 1000)
    else:
        (tmp_path / "new").write_bytes(b"x" * 1000)
        (tmp_path / "new").replace(victim)
    os.utime(victim, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (victim.stat().st_size, victim.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    after = seen(files)
    assert after[victim] == hashlib.sha256(b"x" * 1000).hexdigest()
    assert {path for path in files if after[path] != before[path]} == {victim}


def test_a_file_changed_a_moment_ago_is_not_remembered(files: list[Path], cache: Path) -> None:
    """A second change within the clock's step would leave size, times and inode as they are."""
    seen(files)
    assert not remembered(cache)


@pytest.mark.usefixtures("_settled")
@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"/0.bin": 3}', b'{"/0.bin": [1, "x"]}', b"\xff"])
def test_a_damaged_memo_costs_only_time(files: list[Path], cache: Path, damage: bytes) -> None:
    before = seen(files)
    for file in cache.rglob("*.json"):
        file.write_bytes(damage)
    assert seen(files) == before
    assert len(remembered(cache)) == 5


def test_without_a_place_to_remember_they_are_read(files: list[Path], tmp_path: Path, cache: Path) -> None:
    cache.write_text("a file, no folder")
    assert len(seen(files)) == 5


@pytest.mark.usefixtures("_settled")
def test_a_user_without_a_home_has_no_memo(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in (digests.CACHE_VARIABLE, "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    assert len(seen(files)) == 5


@pytest.mark.usefixtures("_settled")
def test_other_processes_remember_too(files: list[Path], cache: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from benchmark.utils import digests\n"
        "digests.SETTLED_NS = -10**12\n"
        "paths = map(Path, sys.argv[1:])\n"
        "digests.file_digests({path: digests.stamp(path.stat()) for path in paths})"
    )
    subprocess.run([sys.executable, "-c", code, *map(str, files)], check=True)
    assert {str(row[-1]) for row in remembered(cache).values()} == set(seen(files).values())


@pytest.mark.usefixtures("_settled")
def test_what_cannot_be_read_is_neither_waited_for_nor_remembered(files: list[Path], cache: Path) -> None:
    pipe = files[0].parent / "pipe"
    os.mkfifo(pipe)
    gone = files[0].parent / "gone"
    found = file_digests({pipe: stamp(pipe.stat()), gone: (1, 1, 1, 1)})
    assert list(found.values()) == ["cannot be read: not a regular file", "cannot be read: No such file or directory"]
    assert not remembered(cache)
    with pytest.raises(OSError, match="No such file"):
        file_digest(gone)
