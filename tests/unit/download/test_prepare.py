"""ImageNet's validation tar into class folders: by the devkit or a list, stopped anywhere, from anybody's hands."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.cli import app
from benchmark.data import open_data
from benchmark.download import prepare as module
from benchmark.download.catalogue import catalogue
from benchmark.download.prepare import prepare
from benchmark.errors import DataError, StorageError
from benchmark.spec import DataSpec
from tests import layouts

WNIDS = ("n01440764", "n01518878", "n02129604")
IMAGES = 2 * len(WNIDS)


@pytest.fixture
def archives(tmp_path: Path) -> dict[str, bytes]:
    """The authors' two files in `tmp_path / "from"`; what becomes of them."""
    return layouts.write_imagenet_archives(tmp_path / "from", WNIDS)


def run(root: Path, tar: Path | None = None, labels: Path | None = None, images: int = IMAGES) -> module.Prepared:
    """Prepare the archives below `root / "from"` into `root / "data"`; sums are not those of the real files."""
    tar, labels = tar or root / "from" / module.TAR, labels or root / "from" / module.DEVKIT
    return prepare(root / "data", tar, labels, {}, images, len(WNIDS))


def tree(root: Path) -> dict[str, bytes]:
    """Path below `data/imagenet/val` -> bytes."""
    folder = root / "data" / "imagenet" / "val"
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_each_image_comes_into_the_folder_of_its_class_as_it_is(tmp_path: Path, archives: dict[str, bytes]) -> None:
    made = run(tmp_path)
    assert (made.images, made.classes, made.made) == (IMAGES, 3, True)
    assert tree(tmp_path) == archives
    about = json.loads((tmp_path / "data" / "imagenet" / ".reliquant" / "val.made.json").read_text())
    assert (about["images"], about["classes"], about["from"]) == (IMAGES, 3, module.TAR)
    (tmp_path / "from" / module.TAR).unlink()  # what is finished is not read again
    assert run(tmp_path) == module.Prepared(made.folder, IMAGES, 3, made=False)
    spec = DataSpec(source="imagenet", path=str(tmp_path / "data" / "imagenet"), classes="imagenet")
    data = open_data(spec, "imagenet")
    assert data.sample_ids.tolist() == sorted(archives)
    assert data.classes == 1000
    assert [data.class_names[label] for label in data.labels] == ["tench"] * 2 + ["ostrich"] * 2 + ["tiger"] * 2


def test_a_list_of_wordnet_ids_does_in_place_of_the_devkit(tmp_path: Path, archives: dict[str, bytes]) -> None:
    order = sorted(archives, key=lambda path: path.partition("/")[2])
    (tmp_path / "labels.txt").write_text("".join(f"{path.partition('/')[0]}\n" for path in order))
    run(tmp_path, labels=tmp_path / "labels.txt")
    assert tree(tmp_path) == archives


@settings(max_examples=20, deadline=None)
@given(stops=st.lists(st.integers(0, IMAGES - 1), max_size=3), half=st.booleans())
def test_stopped_anywhere_the_same_command_goes_on(
    stops: list[int], half: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("stopped")
    archives = layouts.write_imagenet_archives(root / "from", WNIDS)
    write: Callable[..., None] = module._write
    for stop in stops:
        written = 0

        def stopping(content: io.BytesIO, size: int, path: Path, tar: Path, stop: int = stop) -> None:
            nonlocal written
            if written == stop:
                if half:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.with_suffix(".part").write_bytes(b"half")
                raise KeyboardInterrupt
            written += 1
            write(content, size, path, tar)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "_write", stopping)
            try:
                run(root)
            except KeyboardInterrupt:
                assert not (root / "data" / "imagenet" / "val").exists()
    run(root)
    assert tree(root) == archives


def test_images_of_an_earlier_command_with_other_labels_do_not_stay(
    tmp_path: Path, archives: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wrong.txt").write_text(f"{WNIDS[0]}\n" * IMAGES)
    with pytest.raises(DataError, match=r"1 classes, expected 3; the labels are not those of this tar"):
        run(tmp_path, labels=tmp_path / "wrong.txt")
    run(tmp_path)
    assert tree(tmp_path) == archives


def test_a_full_disk_is_one_line_and_the_rest_comes_later(
    tmp_path: Path, archives: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("shutil.copyfileobj", full)
        with pytest.raises(StorageError, match="No space left on device; what is finished is kept"):
            run(tmp_path)
        patch.undo()
        patch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
        with pytest.raises(StorageError, match=r"needs .* are free; make room"):
            run(tmp_path)
    run(tmp_path)
    assert tree(tmp_path) == archives


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _member(path: Path, name: str, kind: bytes = tarfile.REGTYPE) -> None:
    with tarfile.open(path, "a") as archive:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, "/etc/passwd"
        archive.addfile(info)


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut": (lambda root: _cut(root / module.TAR), r"img_val.tar: .*fetch it again"),
    "one image more": (
        lambda root: _member(root / module.TAR, "ILSVRC2012_val_00000007.JPEG"),
        r"ILSVRC2012_val_00000007.JPEG is no image that the labels name",
    ),
    "twice": (
        lambda root: _member(root / module.TAR, "../ILSVRC2012_val_00000001.JPEG"),
        r"\.\./ILSVRC2012_val_00000001.JPEG is there twice",
    ),
    "elsewhere": (lambda root: _member(root / module.TAR, "../../evil"), r"\.\./\.\./evil is no image"),
    "no tar": (lambda root: (root / module.TAR).write_bytes(b"<html>" * 500), r"no tar archive"),
    "devkit cut": (lambda root: _cut(root / module.DEVKIT), r"devkit_t12.tar.gz: damaged"),
    "devkit gone": (lambda root: (root / module.DEVKIT).unlink(), r"devkit_t12.tar.gz: no such file"),
    "tar gone": (lambda root: (root / module.TAR).unlink(), r"img_val.tar: no such file"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_wrong_archive_is_one_line_and_makes_nothing(case: str, tmp_path: Path, archives: dict[str, bytes]) -> None:
    spoil, says = BAD[case]
    spoil(tmp_path / "from")
    with pytest.raises(DataError, match=says) as error:
        run(tmp_path)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "data" / "imagenet").exists()
    assert not list(tmp_path.rglob("evil"))


def test_a_link_in_the_place_of_an_image_is_refused(tmp_path: Path) -> None:
    layouts.write_imagenet_archives(tmp_path / "from", WNIDS)
    with tarfile.open(tmp_path / "from" / module.TAR, "w") as archive:
        info = tarfile.TarInfo("ILSVRC2012_val_00000001.JPEG")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(info)
    with pytest.raises(DataError, match="is no image"):
        run(tmp_path)


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (f"{WNIDS[0]}\n" * 5, r"labels of 5 images, expected 6"),
        (f"{WNIDS[0]}\n" * 5 + "cat\n", r"image 6: expected a WordNet id such as n01440764, got 'cat'"),
        (f"{WNIDS[0]}\n" * 5 + "../../x\n", r"image 6: expected a WordNet id"),
    ],
)
def test_a_wrong_list_is_one_line(labels: str, says: str, tmp_path: Path, archives: dict[str, bytes]) -> None:
    (tmp_path / "labels.txt").write_text(labels)
    with pytest.raises(DataError, match=says):
        run(tmp_path, labels=tmp_path / "labels.txt")


def test_a_folder_that_lacks_images_is_said(tmp_path: Path, archives: dict[str, bytes]) -> None:
    run(tmp_path)
    next((tmp_path / "data" / "imagenet" / "val").rglob("*.JPEG")).unlink()
    with pytest.raises(DataError, match=r"imagenet/val: 5 images, expected 6; move it away and run the same command"):
        run(tmp_path)


def test_sizes_and_sums_are_those_of_the_catalogue(tmp_path: Path, archives: dict[str, bytes]) -> None:
    tar, devkit = tmp_path / "from" / module.TAR, tmp_path / "from" / module.DEVKIT
    with pytest.raises(DataError, match=r"devkit_t12.tar.gz: has md5 .*, expected fa75699e90414af021442c21a62c3abf"):
        prepare(tmp_path / "data", tar, devkit, catalogue())
    (tmp_path / "labels.txt").write_text(f"{WNIDS[0]}\n" * IMAGES)
    with pytest.raises(DataError, match=r"img_val.tar: has [\d,]+ bytes, expected 6,744,924,160"):
        prepare(tmp_path / "data", tar, tmp_path / "labels.txt", catalogue())


def overlays(root: Path) -> tuple[Path, Path]:
    """A user's two files that say how large the small copy is, in the shipped files' own fields."""
    (root / "data.yaml").write_text(f"imagenet: {{images: {IMAGES}, classes_present: {len(WNIDS)}}}\n")
    files = {
        name: {
            "bytes": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "sources": [{"manual": "by hand"}],
        }
        for name in (module.TAR, module.DEVKIT)
        for path in [root / "from" / name]
    }
    about = {"about": "small", "terms": "none", "folder": "imagenet-archives", "files": files}
    (root / "downloads.yaml").write_text(json.dumps({"imagenet-archives": about}))
    return root / "data.yaml", root / "downloads.yaml"


def test_the_command(
    tmp_path: Path,
    archives: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from tests.e2e.test_cli import call

    data, downloads = overlays(tmp_path)
    monkeypatch.setenv("RELIQUANT_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("RELIQUANT_DOWNLOADS", str(downloads))
    monkeypatch.chdir(tmp_path)
    command = ("data", "prepare", "imagenet", "--from", str(tmp_path / "from" / module.TAR), "--catalogue", str(data))
    status, out, err = call(monkeypatch, capsys, *command)
    assert (status, err) == (0, "")
    assert out == f"{tmp_path / 'data' / 'imagenet' / 'val'}: 6 images of 3 classes, made\n"
    assert tree(tmp_path) == archives
    assert "was there already" in call(monkeypatch, capsys, *command)[1]
    status, out, _ = call(monkeypatch, capsys, "data", "check", "data:imagenet", "--json")  # no shards are wanted now
    assert (status, json.loads(out)["complete"]) == (0, True)
    (tmp_path / "from" / module.DEVKIT).unlink()
    assert call(monkeypatch, capsys, *command)[0] == 0
    status, _, err = call(monkeypatch, capsys, *command, "--to", str(tmp_path / "other"))
    assert status == 2
    assert "--devkit FILE" in err
    monkeypatch.delenv("RELIQUANT_DATA")
    status, _, err = call(monkeypatch, capsys, *command)
    assert status == 2
    assert "set RELIQUANT_DATA, or give it with --to FOLDER" in err


def test_the_group_of_commands_has_it() -> None:
    assert "data prepare" in {command.name for command in app.COMMANDS}
