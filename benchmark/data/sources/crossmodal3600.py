"""Crossmodal-3600: `captions.jsonl` with captions in 36 languages, and the images it names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmark.data.sources.base import LoadedData, Source, SourceOptions, paths_dataset
from benchmark.errors import DataError
from benchmark.spec import DataSpec
from benchmark.utils.files import LARGEST_LIST, Aside, Entry, entry, fingerprint, list_images, numbered_lines

CAPTIONS = "captions.jsonl"


class CrossmodalOptions(SourceOptions):
    """Options of Crossmodal-3600.

    Attributes:
        language: code of the captions' language as the file has it (`en`, `de`, `zh`, ...).
    """

    language: str = "en"


class Crossmodal3600(Source[CrossmodalOptions]):
    """Each line: `image/key`, and for each language `{"caption": [...]}`. The image `<key>.jpg` may lie anywhere below.

    Source: Thapliyal et al. 2022. Images have captions and no labels: use it with `text: captions`.
    """

    name = "crossmodal3600"
    version = 1
    title = "Crossmodal-3600: captions.jsonl and <key>.jpg anywhere below (option language, en by default)"
    options = CrossmodalOptions

    def check(self, spec: DataSpec) -> None:
        """The captions are there."""
        super().check(spec)
        if not (self.root(spec) / CAPTIONS).is_file():
            raise DataError(f"{self.root(spec) / CAPTIONS}: no such file")

    def fingerprint(self, spec: DataSpec) -> str:
        """Bytes of the captions, paths and bytes of all images below."""
        root = self.root(spec)
        return fingerprint([entry(root / CAPTIONS), *list_images(root)[0]])

    def load(self, spec: DataSpec) -> LoadedData:
        """List the images with their captions; none is opened.

        Raises:
            DataError: names the line that is no JSON, lacks the language, or whose image is not there.
        """
        root, language = self.root(spec), self.parse(spec).language
        found, asides = list_images(root)
        images = {Path(image.path).stem: image for image in found}
        rows: list[tuple[str, Entry, list[str]]] = []
        for number, line in numbered_lines(root / CAPTIONS, LARGEST_LIST):
            where = f"{root / CAPTIONS}: line {number}"
            key, captions = _captions(line, language, where)
            if key not in images:
                raise DataError(f"{where}: no image {key}.jpg below {root}; fetch the images again")
            rows.append((key, images[key], captions))
        return LoadedData(
            dataset=paths_dataset(
                [str(root / image.path) for _, image, _ in rows],
                [-1] * len(rows),
                [key for key, _, _ in rows],
                caption=["\n".join(" ".join(text.split()) for text in captions) for _, _, captions in rows],
            ),
            left_out=tuple(aside for aside in asides if aside.path != CAPTIONS and _unknown(aside)),
        )


def _unknown(aside: Aside) -> bool:
    """Whether a file is none of those that come with the data."""
    return not aside.path.endswith((".csv", ".jsonl")) and aside.why != "hidden"


def _captions(line: str, language: str, where: str) -> tuple[str, list[str]]:
    """Key and captions of a line."""
    try:
        row: Any = json.loads(line)
        key = row["image/key"]
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{where}: expected JSON with 'image/key', got '{line[:60]}'") from None
    texts = row.get(language, {}).get("caption") if isinstance(row.get(language, {}), dict) else None
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        languages = sorted(name for name, value in row.items() if isinstance(value, dict) and "caption" in value)
        raise DataError(f"{where}: no captions in '{language}' (option language); it has {', '.join(languages)}")
    return str(key), texts


source = Crossmodal3600()
