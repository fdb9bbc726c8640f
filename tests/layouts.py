"""Small data sets written in exactly the layouts that the field publishes, with images of all modes and sizes."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

SIZES = ((48, 40), (40, 56), (64, 64), (33, 80), (90, 70))
"""(width, height) that the samples go through in turn."""


@dataclass(frozen=True)
class Sample:
    """One encoded image with its label."""

    key: str
    suffix: str
    encoded: bytes
    label: int

    @property
    def file(self) -> str:
        """File name."""
        return f"{self.key}.{self.suffix}"


def picture(seed: int, size: tuple[int, int] = (48, 40)) -> Image.Image:
    """A smooth RGB picture with a little noise; other seeds give other pictures."""
    rng = np.random.default_rng(seed)
    width, height = size
    y, x = np.mgrid[:height, :width] / max(width, height)
    waves = [np.sin(x * rng.uniform(3, 12) + y * rng.uniform(3, 12) + rng.uniform(0, 6)) for _ in range(3)]
    values = np.stack(waves, axis=2) * 90 + 128 + rng.normal(0, 6, (height, width, 3))
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))


def encoded(image: Image.Image, suffix: str, orientation: int | None = None) -> bytes:
    """The image as a file's bytes; `orientation` is written as EXIF."""
    buffer = io.BytesIO()
    kind = {"jpg": "JPEG", "jpeg": "JPEG", "JPEG": "JPEG", "png": "PNG", "webp": "WEBP", "tiff": "TIFF"}[suffix]
    extra: dict[str, object] = {"quality": 92} if kind == "JPEG" else {}
    if orientation is not None:
        exif = Image.Exif()
        exif[0x0112] = orientation
        extra["exif"] = exif
    image.save(buffer, kind, **extra)
    return buffer.getvalue()


def _rgb(seed: int, size: tuple[int, int]) -> tuple[str, bytes]:
    return "jpg", encoded(picture(seed, size), "jpg")


def _grey(seed: int, size: tuple[int, int]) -> tuple[str, bytes]:
    return "jpg", encoded(picture(seed, size).convert("L"), "jpg")


def _rgba(seed: int, size: tuple[int, int]) -> tuple[str, bytes]:
    image = picture(seed, size).convert("RGBA")
    image.putalpha(picture(seed + 1000, size).convert("L"))
    return "png", encoded(image, "png")


def _palette(seed: int, size: tuple[int, int]) -> tuple[str, bytes]:
    image = picture(seed, size).quantize(32)
    image.info["transparency"] = bytes(range(0, 256, 8))
    return "png", encoded(image, "png")


def _cmyk(seed: int, size: tuple[int, int]) -> tuple[str, bytes]:
    return "jpg", encoded(picture(seed, size).convert("CMYK"), "jpg")


def _deep(seed: int, size: tuple[int, int]) -> tuple[str, bytes]:
    grey = np.asarray(picture(seed, size).convert("L")).astype(np.uint16)
    return "png", encoded(Image.fromarray(grey * 256 + 17), "png")


def _turned(seed: int, size: tuple[int, int]) -> tuple[str, bytes]:
    return "jpg", encoded(picture(seed, size), "jpg", orientation=6)


def _webp(seed: int, size: tuple[int, int]) -> tuple[str, bytes]:
    return "webp", encoded(picture(seed, size), "webp")


def _bilevel(seed: int, size: tuple[int, int]) -> tuple[str, bytes]:
    return "png", encoded(picture(seed, size).convert("1"), "png")


def _grey_alpha(seed: int, size: tuple[int, int]) -> tuple[str, bytes]:
    return "png", encoded(picture(seed, size).convert("LA"), "png")


MODES = {
    "rgb": _rgb,
    "L": _grey,
    "RGBA": _rgba,
    "P": _palette,
    "CMYK": _cmyk,
    "I;16": _deep,
    "exif": _turned,
    "webp": _webp,
    "1": _bilevel,
    "LA": _grey_alpha,
}


def samples(count: int, classes: int, only: str | None = None) -> list[Sample]:
    """`count` images whose modes, sizes and labels go round; `only` keeps the files of one suffix."""
    made = []
    for index in range(count):
        kinds = list(MODES.values())
        suffix, data = kinds[index % len(kinds)](index, SIZES[index % len(SIZES)])
        if only is not None and suffix != only:
            suffix, data = "jpg", encoded(picture(index, SIZES[index % len(SIZES)]), "jpg")
        made.append(Sample(f"s{index:07d}", suffix, data, index % classes))
    return made


def write_image_folder(root: Path, classes: Sequence[str], count: int = 20, split: str | None = None) -> list[Sample]:
    """`[<split>/]<class>/<key>.<suffix>`; labels are positions in `classes`."""
    made = samples(count, len(classes))
    for sample in made:
        place = root / (split or "") / classes[sample.label] / sample.file
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(sample.encoded)
    return made


def write_webdataset(
    root: Path,
    classes: Sequence[str] | None,
    count: int = 20,
    shards: int = 2,
    templates: Sequence[str] | None = ("a photo of a {c}.", "a drawing of the {c}."),
    captions: bool = False,
) -> list[Sample]:
    """CLIP_benchmark's layout; without classes, image-caption pairs `KEY.txt` in plain shards."""
    made = samples(count, len(classes) if classes else 1)
    per_shard = -(-count // shards)
    parts = [made[shard * per_shard : (shard + 1) * per_shard] for shard in range(shards)]
    write_shards(root, parts, classes, templates, captions)
    return made


def write_shards(
    root: Path,
    shards: Sequence[Sequence[Sample]],
    classes: Sequence[str] | None,
    templates: Sequence[str] | None,
    captions: bool = False,
) -> None:
    """The given samples in the given shards, in CLIP_benchmark's layout; see `write_webdataset`."""
    folder = root / "test" if classes else root
    folder.mkdir(parents=True, exist_ok=True)
    for number, part in enumerate(shards):
        name = f"{number}.tar" if classes else f"{number:05d}.tar"
        with tarfile.open(folder / name, "w") as archive:
            for sample in part:
                _member(archive, sample.file, sample.encoded)
                if classes:
                    _member(archive, f"{sample.key}.cls", str(sample.label).encode())
                if captions:
                    _member(archive, f"{sample.key}.txt", f"a caption of {sample.key} \N{HONEYBEE}".encode())
    if classes:
        (folder / "nshards.txt").write_text(f"{len(shards)}\n")
        (root / "classnames.txt").write_text("\n".join(classes) + "\n")
    if classes and templates:
        (root / "zeroshot_classification_templates.txt").write_text("\n".join(templates) + "\n")


def _member(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))


def write_waterbirds(root: Path, count: int = 20) -> list[Sample]:
    """`data/test-00000-of-00001.parquet` with image {bytes, path}, label and place, as on the hub."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    made = samples(count, 2)
    rows = {
        "image": [{"bytes": sample.encoded, "path": sample.file} for sample in made],
        "label": [sample.label for sample in made],
        "place": [index // 2 % 2 for index in range(count)],
    }
    folder = root / "data"
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(rows), folder / "test-00000-of-00001.parquet")
    pq.write_table(pa.table({k: v[:2] for k, v in rows.items()}), folder / "train-00000-of-00001.parquet")
    return made


def write_waterbirds_archive(root: Path, count: int = 20) -> list[Sample]:
    """`metadata.csv` and `<class>/<image>.jpg` as in the authors' tar; every image but the first two is a test one."""
    made = samples(count, 2, only="jpg")
    lines = ["img_id,img_filename,y,split,place,place_filename"]
    for index, sample in enumerate(made):
        file = root / f"{sample.label:03d}.Bird" / sample.file
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(sample.encoded)
        split = index if index < 2 else 2
        place = index // 2 % 2
        lines.append(f"{index},{file.parent.name}/{file.name},{sample.label},{split},{place},/b/bamboo/{index}.jpg")
    (root / "metadata.csv").write_text("\n".join(lines) + "\n")
    return made[2:]


def write_cifar_binary(root: Path, name: str = "test_batch.bin", count: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """The binary version: records of one label (`test_batch.bin`) or two (`test.bin`) and 3,072 bytes, by planes.

    Returns:
        Images (count, 32, 32, 3) and labels.
    """
    root.mkdir(parents=True, exist_ok=True)
    images = np.random.default_rng(5).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(count) % 10
    with (root / name).open("wb") as file:
        for image, label in zip(images, labels.tolist(), strict=True):
            file.write(bytes([7, label] if name == "test.bin" else [label]))
            file.write(image.transpose(2, 0, 1).tobytes())
    return images, labels


def write_crossmodal(root: Path, count: int = 12) -> list[Sample]:
    """`captions.jsonl` with two English captions and a German one, `images/<key>.jpg`, `image_attributions.csv`."""
    made = samples(count, 1, only="jpg")
    rows = []
    (root / "images").mkdir(parents=True, exist_ok=True)
    for sample in made:
        (root / "images" / sample.file).write_bytes(sample.encoded)
        english = [f"a picture {sample.key}", f"the picture\n{sample.key}"]
        languages = {"en": {"caption": english}, "de": {"caption": [f"ein Bild {sample.key}"]}}
        rows.append(json.dumps({"image/key": sample.key, "image/locale": "en", **languages}))
    (root / "captions.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    (root / "image_attributions.csv").write_text("ImageID,License\n")
    return made


def write_cifar_c(root: Path, corruptions: Sequence[str], count: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """`<corruption>.npy` (5 count, 32, 32, 3) and `labels.npy`; returns the last images and the labels."""
    root.mkdir(parents=True, exist_ok=True)
    labels = np.arange(count) % 10
    images = np.empty((0,))
    for number, corruption in enumerate(corruptions):
        rng = np.random.default_rng(number)
        images = rng.integers(0, 256, (5 * count, 32, 32, 3), dtype=np.uint8)
        np.save(root / f"{corruption}.npy", images)
    np.save(root / "labels.npy", np.tile(labels, 5).astype(np.uint8))
    return images, labels


def write_imagenet_c(
    root: Path, wnids: Sequence[str], corruptions: Sequence[str], severities: Sequence[int] = (1, 2, 3, 4, 5)
) -> None:
    """`<corruption>/<severity>/<wnid>/ILSVRC2012_val_*.JPEG`, 224 x 224, two images a class."""
    for number, corruption in enumerate(corruptions):
        for severity in severities:
            write_imagenet_folders(root / corruption / str(severity), wnids, 1000 * number + 100 * severity)


def write_imagenet_folders(root: Path, wnids: Sequence[str], seed: int = 0) -> None:
    """`<wnid>/ILSVRC2012_val_*.JPEG`, 224 x 224, two images a class."""
    for label, wnid in enumerate(wnids):
        (root / wnid).mkdir(parents=True, exist_ok=True)
        for copy in range(2):
            data = encoded(picture(seed + 10 * label + copy, (224, 224)), "JPEG")
            (root / wnid / f"ILSVRC2012_val_{label:04d}{copy:04d}.JPEG").write_bytes(data)


def write_imagenet_archives(root: Path, wnids: Sequence[str], copies: int = 2) -> dict[str, bytes]:
    """The authors' flat `ILSVRC2012_img_val.tar` and `ILSVRC2012_devkit_t12.tar.gz`, whose numbers of classes are not
    ImageNet's labels; returns `<wnid>/<file>` -> bytes, what becomes of them.
    """
    from scipy.io import savemat

    root.mkdir(parents=True, exist_ok=True)
    classes = [*reversed(wnids)]
    found, truth = {}, []
    with tarfile.open(root / "ILSVRC2012_img_val.tar", "w") as archive:
        for number in range(1, copies * len(wnids) + 1):
            wnid = classes[number % len(wnids)]
            truth.append(str(classes.index(wnid) + 1))
            name, data = f"ILSVRC2012_val_{number:08d}.JPEG", encoded(picture(number, (64, 48)), "JPEG")
            _member(archive, name, data)
            found[f"{wnid}/{name}"] = data
    kind = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("gloss", "O"), ("num_children", "O")]
    rows = [(float(number), wnid, f"word {number}", "gloss", 0.0) for number, wnid in enumerate(classes, 1)]
    rows.append((float(len(rows) + 1), "n00001740", "entity", "all of it", 3.0))
    meta = io.BytesIO()
    savemat(meta, {"synsets": np.array(rows, dtype=kind)})
    top = "ILSVRC2012_devkit_t12"
    with tarfile.open(root / f"{top}.tar.gz", "w:gz") as archive:
        _member(archive, f"{top}/readme.txt", b"read me")
        _member(archive, f"{top}/data/meta.mat", meta.getvalue())
        _member(archive, f"{top}/data/ILSVRC2012_validation_ground_truth.txt", ("\n".join(truth) + "\n").encode())
    return found


def write_image_list(
    root: Path,
    count: int = 12,
    labels: Sequence[int] | None = None,
    known: str = "imagenet",
    name: str = "ninco",
    images: str = "images_largescale",
    folder: str | None = None,
) -> Path:
    """OpenOOD: `benchmark_imglist/<known>/test_<name>.txt` and `<images>/<folder>/...`; returns the list.

    Args:
        folder: of the set's images; its name by default (the list `textures` is of the folder `texture`).
    """
    lines = []
    for index, sample in enumerate(samples(count, 1)):
        file = f"{folder or name}/class {index % 3}/{sample.file}"
        place = root / images / file
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(sample.encoded)
        lines.append(f"{file} {labels[index] if labels else -1}")
    path = root / "benchmark_imglist" / known / f"test_{name}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


COUNTERANIMAL = (
    *("9 ostrich", "10 brambling", "16 bulbul", "20 American dipper", "23 vulture", "30 bullfrog", "33 loggerhead"),
    *("37 box turtle", "39 iguana", "41 whiptail", "42 agama", "49 Nile crocodile", "54 hog-nosed snake"),
    *("56 kingsnake", "57 garter snake", "58 water snake", "70 harvestman", "71 scorpion", "76 tarantula"),
    *("79 centipede", "80 black grouse", "81 ptarmigan", "83 prairie grouse", "89 sulphur-crested cockatoo"),
    *("100 black swan", "102 echidna", "128 black stork", "130 flamingo", "133 bittern", "144 pelican"),
    *("150 sea lion", "275 African wild dog", "276 hyena", "277 red fox", "279 Arctic fox", "290 jaguar"),
    *("291 lion", "293 cheetah", "296 polar bear", "305 dung beetle", "316 cicada", "337 beaver"),
    *("349 bighorn sheep", "357 mink", "360 otter"),
)
"""The class folders of CounterAnimal: the ImageNet-1k label and a name."""


def write_counteranimal(root: Path, classes: Sequence[str] = ("80 black grouse", "9 ostrich", "292 tiger")) -> None:
    """`<label name>/<common-place|counter-place>/*.jpg`, three common and two counter images a class."""
    for number, folder in enumerate(classes):
        for group, count in (("common-grass", 3), ("counter-snow", 2)):
            (root / folder / group).mkdir(parents=True, exist_ok=True)
            for index in range(count):
                data = encoded(picture(100 * number + index), "jpg")
                (root / folder / group / f"{index}.jpg").write_bytes(data)
