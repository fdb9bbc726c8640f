"""Small copies of what is fetched, as published: archives, lists and shards on a loopback hub, under the names and in
the layouts of `benchmark/download/files.yaml`, with a user's `downloads.yaml` that points there.
"""

from __future__ import annotations

import fnmatch
import hashlib
import io
import json
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmark.data.corruption_names import COMMON
from benchmark.data.prompts import imagenet_classes
from benchmark.download.catalogue import catalogue
from benchmark.download.schema import Download, File, Source, is_pattern
from tests.hub import Hub
from tests.layouts import (
    COUNTERANIMAL,
    encoded,
    picture,
    write_cifar_binary,
    write_cifar_c,
    write_counteranimal,
    write_crossmodal,
    write_imagenet_folders,
    write_waterbirds,
    write_waterbirds_archive,
    write_webdataset,
)
from tests.published import CIFAR_OOD, IMAGENET_OOD, TEMPLATES, write_cifar

GROUPS = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("frost", "snow", "fog", "brightness"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
}
"""The types in each tar of ImageNet-C."""

Published = dict[str, dict[str, bytes]]
"""Download -> path of a file at its publisher's -> its bytes."""


def tar_of(files: Mapping[str, bytes], mode: str = "w") -> bytes:
    """A tar archive of these files, the same for the same files."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def zip_of(files: Mapping[str, bytes]) -> bytes:
    """A zip archive of these files, the same for the same files."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return out.getvalue()


def files_in(folder: Path) -> dict[str, bytes]:
    """Path below a folder -> bytes."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def published(scratch: Path, imagenet: bool = True, count: int = 12) -> Published:
    """What the suites `cifar` and `imagenet`, or `cifar` alone, need, as its publishers have it.

    Args:
        scratch: an empty folder.
    """
    write_cifar(scratch, count)
    found: Published = {
        "cifar10": files_in(scratch / "wds_vtab-cifar10"),
        "cifar10-c": {"CIFAR-10-C.tar": tar_of(_below("CIFAR-10-C", files_in(scratch / "CIFAR-10-C")))},
        "coco-pairs": {"test/0.tar": (scratch / "coco-pairs" / "00000.tar").read_bytes()},
    }
    return found | _openood(count) | (_imagenets(scratch, count) if imagenet else {})


def _imagenets(scratch: Path, count: int) -> Published:
    names = imagenet_classes()
    for folder, classes in (
        ("imagenet", names),
        ("wds_imagenetv2", names),
        ("wds_imagenet_sketch", names),
        ("wds_imagenet-a", names[2:202]),
        ("wds_imagenet-r", names[1::5]),
    ):
        write_webdataset(scratch / folder, classes, count, templates=TEMPLATES)
    write_counteranimal(scratch / "LAION-final", COUNTERANIMAL[:5])
    animals = {"LAION-final/imagenet_names.txt": b"0\ttench\n"}
    animals |= _below("LAION-final", files_in(scratch / "LAION-final"))
    return {
        "imagenet": files_in(scratch / "imagenet"),
        "imagenet-c": _imagenet_c(scratch / "wnids"),
        "imagenet-v2": files_in(scratch / "wds_imagenetv2"),
        "imagenet-sketch": files_in(scratch / "wds_imagenet_sketch"),
        "imagenet-a": files_in(scratch / "wds_imagenet-a"),
        "imagenet-r": files_in(scratch / "wds_imagenet-r"),
        "counteranimal": {"LAION-final.zip": zip_of(animals)},
    }


def _below(folder: str, files: Mapping[str, bytes]) -> dict[str, bytes]:
    return {f"{folder}/{path}": content for path, content in files.items()}


def _imagenet_c(scratch: Path) -> dict[str, bytes]:
    """The tars, with the same pictures everywhere: quick to write."""
    write_imagenet_folders(scratch, ("n01440764", "n01518878", "n02129604"))
    pictures = files_in(scratch)
    assert sorted(kind for kinds in GROUPS.values() for kind in kinds) == sorted(COMMON)
    return {
        f"{group}.tar": tar_of(
            {
                f"{kind}/{severity}/{path}": content
                for kind in kinds
                for severity in range(1, 6)
                for path, content in pictures.items()
            }
        )
        for group, kinds in GROUPS.items()
    }


def _openood(count: int) -> Published:
    """Lists and zips, spelt as the hub's copies spell them: NINCO's in two ways, with blanks and without."""
    lists: dict[str, bytes] = {}
    found: Published = {}
    sets = [("imagenet1k", name, name, name) for name in IMAGENET_OOD] + [
        ("imagenet1k", "textures", "texture", "textures")
    ]
    sets += [("cifar10", name, name, DOWNLOADS.get(name, name)) for name in CIFAR_OOD]
    for known, listed, archive, download in sets:
        pictures = {f"part {n % 2}/{n}.jpg": encoded(picture(100 + n), "jpg") for n in range(count)}
        lines = [f"{path} -1" for path in pictures]
        if listed == "ninco":
            lines = [f"NINCO_OOD_classes/{line}" for line in lines]
            pictures = {path.replace(" ", "_"): content for path, content in pictures.items()}
        lists[f"splits/{known}/test_{listed}.txt"] = ("\n".join(lines) + "\n").encode()
        found[download.replace("_", "-")] = {f"{archive}.zip": zip_of(pictures)}
    return found | {"openood-lists": {"splits.zip": zip_of(lists)}}


def the_rest(scratch: Path, count: int = 8) -> Published:
    """What no suite needs, as its publishers have it. Args: scratch: an empty folder."""
    found: Published = {}
    for name, folder in (
        ("cifar100", "wds_vtab-cifar100"),
        ("imagenet-o", "wds_imagenet-o"),
        ("objectnet", "wds_objectnet"),
    ):
        write_webdataset(scratch / folder, ["apple", "bear", "chair"], count)
        found[name] = files_in(scratch / folder)
    for name in ("mscoco-captions", "flickr30k", "flickr8k", "cc3m", "yfcc", "sbu"):
        write_webdataset(scratch / name, None, count, shards=2, captions=True)
        shards = files_in(scratch / name).values()
        form = {"cc3m": "cc3m-validation-000{}.tar", "yfcc": "0000{}.tar", "sbu": "0000{}.tar"}.get(name, "test/{}.tar")
        found[name] = {form.format(number): content for number, content in enumerate(shards)}
        found[name] |= {"test/nshards.txt": b"2\n"} if form.startswith("test/") else {}
    for name, top, file in (
        ("cifar10-binary", "cifar-10-batches-bin", "test_batch.bin"),
        ("cifar100-binary", "cifar-100-binary", "test.bin"),
    ):
        write_cifar_binary(scratch / top, file, count)
        packed = tar_of(_below(top, files_in(scratch / top)), "w:gz")
        found[name] = {f"{name[:5]}-{name[5:]}.tar.gz": packed}
    write_cifar_c(scratch / "CIFAR-100-C", ["fog"], count)
    found["cifar100-c"] = {"CIFAR-100-C.tar": tar_of(_below("CIFAR-100-C", files_in(scratch / "CIFAR-100-C")))}
    return found | _released_imagenets(scratch / "wnid") | _birds(scratch, count) | _crossmodal(scratch / "xm", count)


def _released_imagenets(scratch: Path) -> Published:
    write_imagenet_folders(scratch, ("n01440764", "n01518878", "n02129604"))
    folders = files_in(scratch)
    numbered = {f"{n}/{path.partition('/')[2]}": folders[path] for n, path in zip((0, 10, 9), folders, strict=False)}
    top = "imagenetv2-matched-frequency"
    flat = {f"images/{n}.jpg": content for n, content in enumerate(folders.values())}
    return {
        "imagenet-v2-archive": {f"{top}.tar.gz": tar_of(_below(f"{top}-format-val", numbered), "w:gz")},
        "imagenet-sketch-archive": {"ImageNet-Sketch.zip": zip_of(_below("sketch", folders))},
        "imagenet-a-archive": {"imagenet-a.tar": tar_of(_below("imagenet-a", folders | {"README.txt": b"read"}))},
        "imagenet-r-archive": {"imagenet-r.tar": tar_of(_below("imagenet-r", folders | {"README.txt": b"read"}))},
        "sun": {"SUN.tar.gz": tar_of(_below("SUN", flat), "w:gz")},
        "places": {"Places.tar.gz": tar_of(_below("Places", flat), "w:gz")},
    }


def _birds(scratch: Path, count: int) -> Published:
    write_waterbirds(scratch / "waterbirds", count)
    top = "waterbird_complete95_forest2water2"
    write_waterbirds_archive(scratch / top, count)
    return {
        "waterbirds": files_in(scratch / "waterbirds"),
        "waterbirds-archive": {f"{top}.tar.gz": tar_of(_below(top, files_in(scratch / top)), "w:gz")},
    }


def _crossmodal(scratch: Path, count: int) -> Published:
    write_crossmodal(scratch, count)
    files = {
        "captions.zip": zip_of({"captions.jsonl": (scratch / "captions.jsonl").read_bytes()}),
        "image_attributions.csv": (scratch / "image_attributions.csv").read_bytes(),
        "images.tgz": tar_of(files_in(scratch / "images"), "w:gz"),
    }
    return {"crossmodal3600": files}


DOWNLOADS = {
    **{"cifar100": "cifar10-near-cifar100", "tin": "cifar10-near-tin", "mnist": "cifar10-far-mnist"},
    **{"svhn": "cifar10-far-svhn", "texture": "textures", "places365": "cifar10-far-places"},
}
"""OpenOOD's name of a set beside CIFAR-10 -> the download."""


def publish(hub: Hub, contents: Published, path: Path) -> None:
    """Put the files onto the hub, and write a user's `downloads.yaml` with their sums.

    Hub sources are repositories of that name at a whole commit; addresses, and what lies on Google Drive, are plain
    files of the same server.
    """
    shipped, own = catalogue(), {}
    for name, files in contents.items():
        commits: dict[str, str] = {}
        for repository in {str(s.hub) for f in shipped[name].files.values() for s in f.sources if s.hub}:
            commits[repository] = hub.dataset(repository).commit(files)
        own[name] = _entry(hub, shipped[name], files, commits)
    path.write_text(json.dumps(own))


def _entry(hub: Hub, download: Download, files: Mapping[str, bytes], commits: Mapping[str, str]) -> dict[str, Any]:
    entry = download.model_dump(mode="json", exclude_none=True, exclude={"files"})
    entry["files"] = {}
    for name, file in download.files.items():
        if file.optional:
            continue
        about = file.model_dump(mode="json", exclude_none=True, exclude={"sources", "bytes", "md5", "sha256"})
        content = _content(name, file, files)
        if content is not None:
            about |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        about["sources"] = [_source(hub, name, source, content, commits) for source in file.sources[:1]]
        entry["files"][name] = about
    return entry


def _content(name: str, file: File, files: Mapping[str, bytes]) -> bytes | None:
    """The bytes of a file; None for a pattern, after a look at whether it fits any."""
    if is_pattern(name):
        assert any(fnmatch.fnmatchcase(path, str(file.sources[0].path)) for path in files), name
        return None
    return files[file.sources[0].path or name]


def _source(
    hub: Hub, name: str, source: Source, content: bytes | None, commits: Mapping[str, str]
) -> dict[str, str | None]:
    if source.hub is not None:
        return {"hub": source.hub, "revision": commits[source.hub], "path": source.path}
    return {"url": hub.plain(name, content or b"", etag=f'"{hashlib.md5(content or b"").hexdigest()}"')}
