"""Random small suites of the tasks on files, and what may change in them: for test_differential.py."""

from __future__ import annotations

import io
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from benchmark.demo.scenes import CLASS_NAMES, SPLITS, draw

Row = dict[str, Any]
LABELLED = ("image_folder", "webdataset", "parquet")
TEMPLATES = ("a photo of a {}.", "a picture of a {c}.", "there is a {} here.", "a drawing of a {}.")
NEGATIVES = (
    "red paper",
    "round table",
    "blue river",
    "old car",
    "white cloud",
    "green apple",
    "square",
    "dog",
    "pink",
    "sky",
)


@dataclass
class Suite:
    """A suite below `root`: rows and specification of each data set, and the tasks. `rng` decides everything."""

    root: Path
    rng: np.random.Generator
    rows: dict[str, list[Row]] = field(default_factory=dict)
    data: dict[str, dict[str, Any]] = field(default_factory=dict)
    tasks: dict[str, Any] = field(default_factory=dict)
    quant: str = ""
    limit: int | None = None
    streamed: bool = False

    def __post_init__(self) -> None:
        self.classes = sorted(self.rng.choice(CLASS_NAMES, size=int(self.rng.integers(5, 9)), replace=False).tolist())
        size = len(self.classes)
        self._add("photos", "test", self.classes, int(self.rng.integers(18, 26)), broken=2)
        self._add("pairs", "calibration", self.classes, 14, kind="webdataset", broken=1)
        self.data["pairs"]["text"] = "captions"
        for row in self.rows["pairs"]:  # one to three captions, some equal to other images'
            more = [self._pick(*TEMPLATES).replace("{c}", "{}").replace("{}", self._pick(*self.classes)) for _ in "ab"]
            row["caption"] = "\n".join([row["caption"], *more[: self._pick(0, 1, 2)]])
        self.write("pairs")
        self._add("labelled", "calibration", self.classes, 16)
        mixed = self.rng.permutation([*self.classes[: size - 2], str(self.rng.choice(CLASS_NAMES))]).tolist()
        self._add("drawn", "textured", list(dict.fromkeys(mixed)), 15, broken=1)
        self._add("anew", "v2", self.classes[1:], 12)
        for name, split in (("near", "near_ood"), ("far", "far_ood")):
            self._add(name, split, ["none"], int(self.rng.integers(10, 16)), kind="image_folder", broken=1)
            self.data[name]["text"] = "none"
        for name in ("common", "counter"):
            self._add(name, name, self.classes, 16, kind="parquet", broken=1)
            self.data[name]["options"] = {"group": "group"}
        self._corrupt()
        self._bind()
        self.quant = self._quantization()
        self.limit = 14 if self.rng.random() < 0.3 else None
        self.streamed = bool(self.rng.random() < 0.5)

    def _pick(self, *choices: Any) -> Any:
        return choices[int(self.rng.integers(len(choices)))]

    def _add(self, name: str, split: str, classes: list[str], count: int, kind: str = "", broken: int = 0) -> None:
        start = int(self.rng.integers(1000))
        rows = []
        for i in range(count):
            label = int(self.rng.integers(len(classes))) if i >= len(classes) else i
            shown = CLASS_NAMES.index(classes[label]) if classes[label] in CLASS_NAMES else -1
            made = draw(SPLITS[split], start + i, shown)
            rows.append({"key": f"p{i:03d}", "label": label, "image": self._encoded(made.image)})
            rows[-1]["group"] = int(made.background)
        for row in rows[len(classes) :: 4]:  # wrong labels: the model would make no error on so few classes
            row["label"] = (row["label"] + 1) % len(classes)
        for row in rows:
            row["caption"] = self._pick(*TEMPLATES).replace("{c}", "{}").replace("{}", classes[row["label"]])
        for i in self.rng.choice(count, size=broken, replace=False):
            rows[i]["image"] = rows[i]["image"][:200]
        self.rows[name] = rows
        self.data[name] = {
            "source": kind or self._pick(*LABELLED),
            "path": str(self.root / name),
            "allow_empty_classes": True,
        }
        if self.data[name]["source"] != "image_folder" and classes != ["none"]:
            self.data[name]["classes"] = classes
        else:
            self.data[name]["_folders"] = classes
        if self.rng.random() < 0.5:
            self.data[name]["templates"] = self.rng.permutation(TEMPLATES)[:2].tolist()
        self.write(name)

    def _encoded(self, pixels: Any) -> bytes:
        """A PNG of another size and, now and then, another mode."""
        side = self._pick((64, 64), (80, 72), (70, 90))
        image = Image.fromarray(pixels).resize(side, Image.Resampling.BICUBIC).convert(self._pick("RGB", "RGB", "RGBA"))
        image.save(buffer := io.BytesIO(), "PNG")
        return buffer.getvalue()

    def write(self, name: str) -> None:
        """The files of a data set, as its rows are now."""
        root, kind, rows = Path(self.data[name]["path"]), self.data[name]["source"], self.rows[name]
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir(parents=True)
        if kind == "image_folder":
            folders = self.data[name]["_folders"]
            for row in rows:
                place = root / folders[row["label"]].replace(" ", "_") / f"{row['key']}.png"
                place.parent.mkdir(exist_ok=True)
                place.write_bytes(row["image"])
        elif kind == "webdataset":
            order = self.rng.permutation(len(rows))
            for number, part in enumerate(np.array_split(order, 2)):
                _shard(root / f"{number}.tar", [rows[i] for i in part])
        else:
            columns = {column: [row[column] for row in rows] for column in ("label", "group", "caption")}
            images = [{"bytes": row["image"], "path": row["key"]} for row in rows]
            pq.write_table(pa.table({"image": images, **columns}), root / "all.parquet")

    def _corrupt(self) -> None:
        """Corrupted versions: generated ones of `photos`, or released files beside a clean folder."""
        if self.rng.random() < 0.6:
            limit = int(self.rng.integers(8, 14))  # types with different numbers of severities
            self.data["photos-c"] = {
                "base": "photos",
                "limit": limit,
                "corruptions": ["contrast"],
                "severities": [2, 5],
            }
            self.data["photos-d"] = {"base": "photos", "limit": limit, "corruptions": ["pixelate"], "severities": [4]}
            return
        self._add("clean", "test", self.classes, 14, kind="image_folder")
        self.rows["clean-c"] = self.rows["clean"]
        kinds = {"corruptions": ["fog", "snow"], "severities": [1, 3]}
        self.data["clean-c"] = {"source": "imagenet_c", "path": str(self.root / "clean-c"), **kinds}
        if "templates" in self.data["clean"]:
            self.data["clean-c"]["templates"] = self.data["clean"]["templates"]
        for kind in kinds["corruptions"]:
            for severity in kinds["severities"]:
                self._released(kind, severity)

    def _released(self, kind: str, severity: int) -> None:
        for row in self.rows["clean"]:
            pixels = np.asarray(Image.open(io.BytesIO(row["image"])).convert("RGB")).astype(float)
            noisy = pixels + self.rng.normal(0, 25 * severity, pixels.shape) + 20 * (kind == "fog")
            place = self.root / "clean-c" / kind / str(severity) / self.classes[row["label"]].replace(" ", "_")
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(place / f"{row['key']}.png")

    def _bind(self) -> None:
        corrupted = [name for name in self.data if name.endswith(("-c", "-d"))]
        scores = {"scores": ["mcm", "energy", "neg_label"], "negatives": list(NEGATIVES), "negatives_share": 0.5}
        self.tasks = {
            "zero_shot": {"photos": {"test": "photos"}, "drawn": {"test": "drawn"}},
            "calibration": {
                "photos": {"test": "photos", "fit": self._pick("pairs", "labelled")},
                "drawn": {"test": "drawn"},
            },
            "ood": {
                "both": {"id": "photos", "ood": ["near", "far"], "options": scores},
                "far": {
                    "id": "labelled",
                    "ood": "far",
                    "options": {"scores": ["msp", "max_logit", "negative_entropy"]},
                },
            },
            "corruption": {"c": {"clean": corrupted[0].removesuffix("-c"), "corrupted": corrupted}},
            "covariate_shift": {"shift": {"source": "photos", "shifted": ["drawn", "anew"]}},
            "spurious": {"places": {"common": "common", "counter": "counter"}},
            "retrieval": {"pairs": {"test": "pairs"}},
        }

    def _quantization(self) -> str:
        bits, kind = int(self.rng.integers(2, 6)), self._pick("tensor", "channel", "g32", "g64")
        rest = ["asym"] * int(self.rng.random() < 0.5) + ["skip_%2Amlp%2A"] * int(self.rng.random() < 0.3)
        return "-".join(["rtn", f"w{bits}", kind, *rest, self._pick("vision", "text", "text", "vision+text")])

    def fields(self) -> dict[str, Any]:
        """The suite as YAML has it."""
        data = {name: {k: v for k, v in spec.items() if k[0] != "_"} for name, spec in self.data.items()}
        fields = {"name": "random", "version": 1, "models": ["demo"], "quantizations": ["fp32", self.quant]}
        return {**fields, "data": data, "tasks": self.tasks} | ({"limit": self.limit} if self.limit else {})


def _shard(path: Path, rows: list[Row]) -> None:
    with tarfile.open(path, "w") as archive:
        for row in rows:
            parts = {"png": row["image"], "cls": str(row["label"]).encode(), "txt": row["caption"].encode()}
            for suffix, content in parts.items():
                member = tarfile.TarInfo(f"{row['key']}.{suffix}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


def _templates(suite: Suite) -> None:
    for name in ("photos", "drawn", "common", "counter"):
        suite.data[name]["templates"] = ["a small {} on a wall", "one {}"]


def _class_name(suite: Suite) -> None:
    """Another name, where names meet labels by position; else other templates."""
    for name in ("common", "counter"):
        suite.data[name]["classes"] = ["big " + suite.classes[0], *suite.classes[1:]]


def _limit(suite: Suite) -> None:
    suite.limit = 11 if suite.limit is None else None


def _one_limit(suite: Suite) -> None:
    suite.data["photos"]["limit"] = 13
    suite.data["drawn"]["limit"] = 9


def _severity(suite: Suite) -> None:
    corrupted = next(spec for name, spec in suite.data.items() if name.endswith("-c"))
    corrupted["severities"] = [3] if 3 not in corrupted["severities"] or len(corrupted["severities"]) > 1 else [1]


def _bits(suite: Suite) -> None:
    bits = int(suite.quant.split("-")[1][1:])
    suite.quant = suite.quant.replace(f"-w{bits}-", f"-w{bits + 1}-")


def _scope(suite: Suite) -> None:
    head, _, scope = suite.quant.rpartition("-")
    suite.quant = f"{head}-{({'vision': 'vision+text', 'text': 'vision', 'vision+text': 'text'})[scope]}"


def _granularity(suite: Suite) -> None:
    parts = suite.quant.split("-")
    parts[2] = {"tensor": "g64", "g64": "channel", "channel": "g32", "g32": "tensor"}[parts[2]]
    suite.quant = "-".join(parts)


def _picture(suite: Suite) -> None:
    """Two pictures change places, their labels stay."""
    for name in ("photos", "near", "common"):
        rows = suite.rows[name]
        rows[0]["image"], rows[-1]["image"] = rows[-1]["image"], rows[0]["image"]
        suite.write(name)


def _label(suite: Suite) -> None:
    for name in ("photos", "labelled", "counter"):
        rows = suite.rows[name]
        rows[-1]["label"] = (rows[-1]["label"] + 1) % len(suite.classes)
        suite.write(name)


def _caption(suite: Suite) -> None:
    suite.rows["pairs"][0]["caption"] = "something else altogether"
    suite.write("pairs")


def _group(suite: Suite) -> None:
    for row in suite.rows["counter"][::2]:
        row["group"] = 7
    suite.write("counter")


def _broken(suite: Suite) -> None:
    for name in ("pairs", "far", "anew"):
        suite.rows[name][3]["image"] = suite.rows[name][3]["image"][:150]
        suite.write(name)


def _negatives(suite: Suite) -> None:
    suite.tasks["ood"]["both"]["options"] |= {"negatives": [*NEGATIVES[:7], "orange star", "an old man"]}


def _share(suite: Suite) -> None:
    suite.tasks["ood"]["both"]["options"] |= {"negatives_share": 0.3}


def _fit(suite: Suite) -> None:
    bound = suite.tasks["calibration"]["photos"]
    bound["fit"] = "labelled" if bound["fit"] == "pairs" else "pairs"


def _roles(suite: Suite) -> None:
    suite.tasks["ood"]["both"]["ood"] = ["far"]
    suite.tasks["covariate_shift"]["shift"]["shifted"] = ["anew"]
    suite.tasks["spurious"]["places"] = {"common": "counter", "counter": "common"}


CHANGES: tuple[Callable[[Suite], None], ...] = (
    *(_templates, _class_name, _limit, _one_limit, _severity, _bits, _scope, _granularity, _picture, _label, _caption),
    *(_group, _broken, _negatives, _share, _fit, _roles),
)
"""One field, or the same kind of change in some data sets that no task uses together."""
