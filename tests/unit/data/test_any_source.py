"""Random small data sets in every layout: right labels, or an error, or a count of what was left out.

The reference knows nothing of labels: each image is painted in the colour of its class, and the class that a data set
gives it must have that colour's name. So a model that recognises every colour has an accuracy of 1 on exactly the
images that were written, over exactly the classes that were named; anything else must be said.
"""

from __future__ import annotations

import io
import shutil
import tarfile
import tempfile
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from benchmark.data import decode, open_data, prompts
from benchmark.errors import InputError
from benchmark.spec import DataSpec
from tests import layouts
from tests.hub import Hub

COLOURS = np.array([(250, 0, 0), (0, 250, 0), (0, 0, 250), (250, 250, 0), (0, 250, 250), (250, 0, 250)])
POOL = ("cat", "dog", "café", "Ünïcorn", "red circle", "10", "2", "a-b", "train")
WNIDS = {
    "tench": "n01440764", "ostrich": "n01518878", "tiger": "n02129604", "toilet paper": "n15075141"
}  # fmt: skip
SUFFIXES = ("jpg", "JPG", "png", "webp", "JPeG", "", "bin", "txt", "gif")
KINDS = {"jpg": "JPEG", "jpeg": "JPEG", "webp": "WEBP", "gif": "GIF"}


def plain(name: str) -> str:
    """What counts as one name; written apart from the code that is tested."""
    return " ".join(unicodedata.normalize("NFC", name).replace("_", " ").split()).lower()


@dataclass
class Scene:
    """What is written: images with the number of their true class, and the names of the classes.

    Attributes:
        names: of the classes, in the order of their numbers. truth: the class of each image. suffixes: of each file.
        fields: of the DataSpec. named: the label space that somebody names; None where the data alone do.
    """

    root: Path
    names: list[str]
    truth: list[int]
    suffixes: list[str]
    draw: Callable[[Any], Any]
    fields: dict[str, Any] = field(default_factory=dict)
    named: list[str] | None = None

    def image(self, number: int) -> bytes:
        """A picture in the colour of its class, in the format of its suffix."""
        buffer = io.BytesIO()
        kind = KINDS.get(self.suffixes[number].lower(), "PNG")
        Image.fromarray(np.full((16, 16, 3), COLOURS[self.truth[number]], np.uint8)).save(buffer, kind)
        return buffer.getvalue()

    def file(self, number: int) -> str:
        """Its name; some have no suffix, or a wrong one."""
        suffix = self.suffixes[number]
        return f"i{number:03d}" + (f".{suffix}" if suffix else "")

    def spelt(self, name: str) -> str:
        """One name as another system or user writes it."""
        form = self.draw(st.sampled_from(["NFC", "NFD"]))
        name = unicodedata.normalize(form, name)
        return self.draw(st.sampled_from([name, name.replace(" ", "_"), name.upper()])) if name.isascii() else name

    def list_names(self, ordered: bool) -> None:
        """Perhaps name the classes in a list or a file; in another order where the data have names of their own."""
        how = self.draw(st.sampled_from(["none", "list", "file"]))
        if how == "none" and not ordered:
            return
        listed = list(self.names) if ordered else self.draw(st.permutations(self.names))
        change = self.draw(st.sampled_from(["same", "same", "more", "fewer", "other", "twice"]))
        listed = {
            "same": listed,
            "more": [*listed, "one more"],
            "fewer": listed[:-1],
            "other": [*listed[:-1], "quite another"] if not ordered else listed,
            "twice": [*listed, listed[0]],
        }[change]
        self.named = listed
        written = [self.spelt(name) for name in listed]
        if how == "list" or (ordered and how == "none"):
            self.fields["classes"] = written
            return
        mark, end = self.draw(st.sampled_from(["", "\ufeff"])), self.draw(st.sampled_from(["\n", "\r\n"]))
        spoilt = self.draw(st.sampled_from(["no", "no", "blank", "comment", "trailing"]))
        at = self.draw(st.integers(0, len(written) - 1))
        lines = {
            "no": written,
            "trailing": [*written, "", " "],
            "blank": [*written[:at], "", *written[at:]],
            "comment": [*written[:at], "# here they are", *written[at:]],
        }[spoilt]
        path = self.root.parent / "names.txt"
        path.write_bytes((mark + end.join(lines) + end).encode())
        self.fields["classes"] = str(path)


# layouts --------------------------------------------------------------------------------------------------------------


def image_folder(scene: Scene) -> None:
    folder = scene.draw(st.sampled_from([".", "test"]))
    spelt = [scene.spelt(name) for name in scene.names]
    for number, label in enumerate(scene.truth):
        twin = unicodedata.normalize(scene.draw(st.sampled_from(["NFC", "NFD"])), spelt[label])  # both forms may occur
        place = scene.root / folder / twin / scene.file(number)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(scene.image(number))
    for clutter in scene.draw(
        st.lists(st.sampled_from(["readme.txt", ".hidden.png", "gone.png", "loose.png"]), max_size=2)
    ):
        place = scene.root / folder / ("" if clutter == "loose.png" else spelt[scene.truth[0]]) / clutter
        place.parent.mkdir(parents=True, exist_ok=True)  # the class may be there in the other normal form alone
        if clutter == "gone.png" and not place.is_symlink():
            place.symlink_to(scene.root / "nowhere")
        elif not place.is_symlink():
            place.write_bytes(b"words" if clutter.endswith("txt") else scene.image(0))
    if scene.draw(st.booleans()):
        (scene.root / folder / "empty class").mkdir()
    scene.fields |= {"source": "image_folder"} | (
        {"split": "test"} if scene.draw(st.booleans()) and folder != "." else {}
    )
    scene.list_names(ordered=False)


def imagenet_folder(scene: Scene) -> None:
    scene.names = list(WNIDS)[: len(scene.names)]
    scene.truth = [label % len(scene.names) for label in scene.truth]
    for number, label in enumerate(scene.truth):
        place = scene.root / WNIDS[scene.names[label]] / scene.file(number)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(scene.image(number))
    scene.fields["source"] = "image_folder"
    if scene.draw(st.booleans()):
        scene.fields["classes"], scene.named = "imagenet", list(prompts.imagenet_classes())
    else:
        scene.list_names(ordered=False)


def webdataset(scene: Scene) -> None:
    shards = scene.draw(st.integers(1, 3))
    order = scene.draw(st.permutations(range(len(scene.truth))))
    folder = scene.root / scene.draw(st.sampled_from([".", "test"]))
    folder.mkdir(parents=True, exist_ok=True)
    label = scene.draw(st.sampled_from(["cls", "cls", "label", "cls.txt"]))
    for shard in range(shards):
        with tarfile.open(folder / f"{shard:02d}.tar", "w") as archive:
            for number in order[shard::shards]:
                layouts._member(archive, scene.file(number), scene.image(number))
                layouts._member(archive, f"i{number:03d}.{label}", str(scene.truth[number]).encode())
    if shards > 1 and scene.draw(st.booleans()):  # the last one would leave no trace
        (folder / f"{scene.draw(st.integers(0, shards - 2)):02d}.tar").unlink()
    if scene.draw(st.booleans()):
        scene.fields["options"] = {"label": label}
    scene.fields["source"] = "webdataset"
    if scene.draw(st.booleans()):
        (scene.root / "classnames.txt").write_text("\n".join(scene.names))
        scene.list_names(ordered=False)
    else:
        scene.list_names(ordered=True)


def rows(scene: Scene, labels: list[Any], **columns: list[Any]) -> dict[str, list[Any]]:
    """Columns of a table whose images are bytes, or paths beside it."""
    images: list[Any] = [scene.image(number) for number in range(len(labels))]
    if scene.draw(st.booleans()):
        for number, encoded in enumerate(images):
            (scene.root / scene.file(number)).write_bytes(encoded)
        images = [scene.file(number) for number in range(len(labels))]
    return {"image": images, "label": labels, **columns}


def write_parquet(scene: Scene, columns: dict[str, list[Any]]) -> None:
    """In one file, or in several with numbers of which one may be missing; none is empty."""
    parts = min(scene.draw(st.integers(1, 3)), len(scene.truth))
    style = scene.draw(st.sampled_from(["{0}.parquet", "test-{0:05d}-of-{1:05d}.parquet"]))
    traced = parts - 1 if "of" in style else parts - 2  # without a total, the last one would leave no trace
    gone = scene.draw(st.sampled_from([9, *range(traced + 1)])) if parts > 1 else 9
    scene.root.mkdir(parents=True, exist_ok=True)
    for part in range(parts):
        table = pa.table({name: values[part::parts] for name, values in columns.items()})
        if part != gone and len(table):
            pq.write_table(table, scene.root / style.format(part, parts))
    if scene.draw(st.booleans()):
        pq.write_table(pa.table({k: v[:1] for k, v in columns.items()}), scene.root / "train-00000-of-00001.parquet")
    scene.fields["source"] = "parquet"
    if scene.draw(st.booleans()) and style.startswith("test"):
        scene.fields["split"] = "test"


def parquet_texts(scene: Scene) -> None:
    texts: list[Any] = [
        unicodedata.normalize("NFD" if n % 2 else "NFC", scene.names[label]) for n, label in enumerate(scene.truth)
    ]
    if scene.draw(st.integers(0, 5)) == 0:
        texts[-1] = None
    write_parquet(scene, rows(scene, texts))
    scene.list_names(ordered=False)


def parquet_numbers(scene: Scene) -> None:
    numbers: list[Any] = list(scene.truth)
    if scene.draw(st.booleans()):
        numbers = [float(number) for number in numbers]
    write_parquet(scene, rows(scene, numbers))
    scene.list_names(ordered=True)


def saved(scene: Scene) -> datasets.Dataset:
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=[plain(name) for name in scene.names])}
    )
    images = [{"bytes": scene.image(number), "path": None} for number in range(len(scene.truth))]
    return datasets.Dataset.from_dict({"image": images, "label": scene.truth}, features=features)


def arrow(scene: Scene) -> None:
    saved(scene).save_to_disk(scene.root)
    scene.fields["source"] = "parquet"
    scene.list_names(ordered=False)


def hub(scene: Scene) -> None:
    place = scene.root / "test-00000-of-00001.parquet"
    saved(scene).to_parquet(place)
    name = f"someone/colours-{len(HUB.repositories)}"
    HUB.dataset(name).commit({place.name: place})
    scene.fields |= {"source": "hub", "path": name}
    scene.list_names(ordered=False)


def image_list(scene: Scene) -> None:
    lines = []
    for number, label in enumerate(scene.truth):
        (scene.root / scene.file(number)).write_bytes(scene.image(number))
        lines.append(f"{scene.file(number)} {label}")
    end = scene.draw(st.sampled_from(["\n", "\r\n", "\n\n"]))
    (scene.root / "list.txt").write_bytes(("\ufeff" * scene.draw(st.booleans()) + end.join(lines)).encode())
    scene.fields |= {"source": "image_list", "path": str(scene.root / "list.txt")}
    scene.list_names(ordered=True)


LAYOUTS = {
    each.__name__: each
    for each in (image_folder, imagenet_folder, webdataset, parquet_texts, parquet_numbers, arrow, hub, image_list)
}
HUB = Hub()


@pytest.fixture(autouse=True, scope="module")
def _offline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("hf"))
        with HUB, HUB.asked_here(tmp_path_factory.mktemp("hub")):
            yield


# the property ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_right_labels_or_an_error_or_a_count(layout: str, data: st.DataObject) -> None:
    try_one(layout, data)


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_right_labels_or_an_error_or_a_count_in_many_tries(layout: str, data: st.DataObject) -> None:
    try_one(layout, data)


def try_one(layout: str, data: st.DataObject) -> None:
    names = data.draw(st.lists(st.sampled_from(POOL), min_size=2, max_size=5, unique=True))
    count = data.draw(st.integers(len(names), 9))
    truth = [number % len(names) for number in range(count)]
    suffixes = data.draw(st.lists(st.sampled_from(SUFFIXES), min_size=count, max_size=count))
    folder = Path(tempfile.mkdtemp())
    try:
        (folder / "data").mkdir()
        scene = Scene(folder / "data", names, data.draw(st.permutations(truth)), suffixes, data.draw)
        LAYOUTS[layout](scene)
        judge(scene, DataSpec.model_validate({"path": str(scene.root), **scene.fields}))
    finally:
        shutil.rmtree(folder)


def judge(scene: Scene, spec: DataSpec) -> None:
    try:
        data = open_data(spec, "colours")
    except InputError as error:
        assert str(error).startswith("data set 'colours': ")  # noqa: PT017 - an error is one of the right answers
        assert "\n" not in str(error)  # noqa: PT017
        return
    table = data.dataset.select_columns([c for c in data.dataset.column_names if c in ("image", "offset", "size")])
    painted = [
        np.asarray(decode.decode(decode.read_bytes(row)))[8, 8] for row in table.with_format("arrow")[:].to_pylist()
    ]
    true = [scene.names[int(np.abs(COLOURS - colour).sum(axis=1).argmin())] for colour in painted]
    told = [data.class_names[label] for label in data.labels]
    assert [plain(name) for name in told] == [plain(name) for name in true]
    assert len(data) + len(data.left_out) >= len(scene.truth), "images disappeared"
    used = {plain(scene.names[label]) for label in scene.truth}
    space = [plain(name) for name in data.class_names]
    assert used <= set(space), "a class disappeared"
    assert spec.classes == "imagenet" or len(set(space)) == len(space), "two classes cannot be told apart"
    if scene.named is not None:
        assert sorted(space) == sorted(map(plain, scene.named)), "the label space is not the named one"
