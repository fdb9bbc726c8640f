"""Archives: what comes of them, and what untrusted ones cannot do."""

from __future__ import annotations

import io
import os
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmark.download import archives, writing
from benchmark.download.archives import unpack
from benchmark.download.schema import Unpack
from benchmark.errors import DataError, StorageError

FILES = {"top/a/1.png": b"one", "top/a/2.png": b"two" * 1000, "top/b.txt": b"", "top/c/d/e": b"deep"}


def tar(path: Path, files: Mapping[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as made:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            made.addfile(member, io.BytesIO(content))
    return path


def zipped(path: Path, files: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        for name, content in files.items():
            made.writestr(name, content)
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def run(archive: Path, how: Unpack, folder: Path) -> archives.Unpacked:
    return unpack(archive, archive.name, how, folder, folder.parent / "aside")


@pytest.mark.parametrize("kind", ["w", "w:gz", "w:xz", "w:bz2", "zip"])
def test_an_archive_becomes_its_files(tmp_path: Path, kind: str) -> None:
    path = zipped(tmp_path / "x", FILES) if kind == "zip" else tar(tmp_path / "x", FILES, kind)
    done = run(path, Unpack(strip=1, to="in"), tmp_path / "data")
    assert contents(tmp_path / "data") == {"in" + name.removeprefix("top"): FILES[name] for name in FILES}
    assert done == archives.Unpacked(4, ("in",))
    assert not (tmp_path / "aside").exists()


def test_only_what_is_asked_for_and_beside_what_is_there(tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "a").mkdir(parents=True)
    (data / "a" / "0.png").write_bytes(b"mine")
    done = run(tar(tmp_path / "x", FILES), Unpack(strip=1, only="*.png"), data)
    assert contents(data) == {"a/0.png": b"mine", "a/1.png": b"one", "a/2.png": b"two" * 1000}
    assert done.made == ("a/1.png", "a/2.png")
    assert run(tar(tmp_path / "x", FILES), Unpack(strip=1, only="*.png"), data) == done  # again, over itself


def test_what_is_in_the_way_stays_and_nothing_is_moved(tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "c").mkdir(parents=True)
    (data / "c" / "d").write_bytes(b"a file where a folder should be")
    with pytest.raises(DataError, match=r"c/d: is in the way of what x holds"):
        run(tar(tmp_path / "x", FILES), Unpack(strip=1), data)
    assert contents(data) == {"c/d": b"a file where a folder should be"}


OUTSIDE = ["../evil", "/etc/evil", "a/../../evil", "..", "a\\..\\evil", "C:/evil", "top/.reliquant/x.json"]


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("kind", [tar, zipped])
def test_members_that_lead_elsewhere_are_refused(tmp_path: Path, name: str, kind: object) -> None:
    path = kind(tmp_path / "x", {"top/good": b"good", name: b"evil"})  # type: ignore[operator]
    with pytest.raises(DataError, match="nothing was unpacked"):
        run(path, Unpack(), tmp_path / "data")
    assert not (tmp_path / "data").exists()
    assert not (tmp_path / "evil").exists()
    assert not (tmp_path / "aside").exists()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    parts=st.lists(st.sampled_from(["..", ".", "a", "b", "", ".reliquant", "c:"]), min_size=1, max_size=5),
    zip_=st.booleans(),
)
def test_no_name_leads_out(parts: list[str], zip_: bool, tmp_path_factory: pytest.TempPathFactory) -> None:
    home = tmp_path_factory.mktemp("out")
    name = "/".join(parts)
    path = (zipped if zip_ else tar)(home / "x", {name or "x": b"1"})
    before = {p for p in home.rglob("*") if p.is_file()}
    with suppress(DataError):
        run(path, Unpack(), home / "deep" / "data")
    new = {p for p in home.rglob("*") if p.is_file()} - before
    assert all(p.is_relative_to(home / "deep" / "data") and ".reliquant" not in p.parts for p in new)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_are_refused(tmp_path: Path, kind: bytes) -> None:
    with tarfile.open(tmp_path / "x", "w") as made:
        member = tarfile.TarInfo("link")
        member.type, member.linkname = kind, "/etc/passwd"
        made.addfile(member)
        inner = tarfile.TarInfo("link/file")
        inner.size = 4
        made.addfile(inner, io.BytesIO(b"evil"))
    with pytest.raises(DataError, match="link is a link or a device"):
        run(tmp_path / "x", Unpack(), tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_a_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x", "w") as made:
        info = zipfile.ZipInfo("link")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        made.writestr(info, "/etc/passwd")
    with pytest.raises(DataError, match="link or a device"):
        run(tmp_path / "x", Unpack(), tmp_path / "data")


def test_a_password_is_said(tmp_path: Path) -> None:
    path = zipped(tmp_path / "x.zip", {"a": b"secret"})
    raw = bytearray(path.read_bytes())
    raw[6] |= 1  # the flag in the member's own header, and in the directory
    raw[raw.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(raw)
    with pytest.raises(DataError, match=r"x\.zip has a password.*unpack it yourself"):
        run(path, Unpack(), tmp_path / "data")


def test_two_members_in_one_place_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"two members would become x; unpack\.strip is too large"):
        run(tar(tmp_path / "x", {"a/x": b"1", "b/x": b"2"}), Unpack(strip=1), tmp_path / "data")


@pytest.mark.parametrize("kind", ["w", "w:gz", "w:xz", "w:bz2", "zip"])
def test_damage_is_one_line(tmp_path: Path, kind: str) -> None:
    """Cut or changed at several places: whatever the library raises is ours, or nothing was noticed in the padding."""
    files = {f"f{i}": os.urandom(3000) for i in range(5)}
    path = zipped(tmp_path / "x", files) if kind == "zip" else tar(tmp_path / "x", files, kind)
    whole = path.read_bytes()
    for at in range(10, len(whole) - 1, max(1, len(whole) // 12)):
        for broken in (whole[:at], whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :]):
            path.write_bytes(broken)
            shutil.rmtree(tmp_path / "data", ignore_errors=True)
            try:
                run(path, Unpack(), tmp_path / "data")
            except DataError as error:
                assert "\n" not in str(error)  # noqa: PT017
                assert not (tmp_path / "data").exists()
            assert not (tmp_path / "aside").exists()


def test_what_is_no_archive_is_said(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"something else" * 100)
    with pytest.raises(DataError, match="is no tar and no zip archive"):
        run(tmp_path / "x", Unpack(), tmp_path / "data")


@pytest.mark.parametrize("kind", [tar, zipped])
def test_a_disk_without_room_is_said_before_it_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: object
) -> None:
    """`shutil.disk_usage` is what is asked."""
    path = kind(tmp_path / "x", FILES)  # type: ignore[operator]
    usage = shutil.disk_usage(tmp_path)._replace(free=writing.RESERVE + 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(StorageError, match="make room"):
        run(path, Unpack(), tmp_path / "data")
    assert not (tmp_path / "data").exists()
    assert not (tmp_path / "aside").exists()
