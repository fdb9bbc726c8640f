"""The embedded positive control: images that encode features with a planted answer, drawn on demand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import Field

from benchmark.data.sources.base import Described, LoadedData, Source, SourceOptions, images_dataset
from benchmark.errors import DataError
from benchmark.spec import DataSpec, digest


class PlantedOptions(SourceOptions):
    """`seed`: of the images; another one draws other images of the same kind."""

    seed: int = Field(default=0, ge=0, lt=2**32)


class PlantedSource(Source[PlantedOptions]):
    """`split` names the data set (`test`, `shifted`, `far_ood`, ...); a limit draws a prefix of it."""

    name = "planted"
    version = 1
    title = "positive control: images that encode planted features (split: test, shifted, far_ood, common, ...)"
    options = PlantedOptions
    limits_itself = True
    needs_path = False

    def check(self, spec: DataSpec) -> None:
        """A known split, and no path."""
        from benchmark.demo.planted import split_of

        super().check(spec)
        if spec.path is not None:
            raise DataError("source 'planted' takes no path; 'split' names the data set")
        split_of(spec.split or "")

    def fingerprint(self, spec: DataSpec) -> str:
        """The code, the split and the seed determine every pixel."""
        from benchmark.demo.planted import content

        return digest([spec.split, self.parse(spec).seed, content()])

    def load(self, spec: DataSpec) -> LoadedData:
        """Draw the first `limit` images."""
        from benchmark.demo.planted import described, encoded

        seed = self.parse(spec).seed
        columns: dict[str, list[Any]] = described(spec.split or "", spec.limit, seed)
        images = encoded(spec.split or "", range(len(columns["label"])), seed)
        return _loaded(images_dataset({"image": [{"bytes": image, "path": None} for image in images], **columns}))

    def describe(self, spec: DataSpec) -> LoadedData:
        """Labels, ids and captions; nothing is drawn."""
        from benchmark.demo.planted import described

        return _loaded(Described(described(spec.split or "", spec.limit, self.parse(spec).seed)))

    def draw(self, spec: DataSpec, rows: Sequence[int]) -> list[bytes]:
        """These images alone."""
        from benchmark.demo.planted import encoded

        return encoded(spec.split or "", rows, self.parse(spec).seed)


def _loaded(table: Any) -> LoadedData:
    from benchmark.demo.planted import CLASS_NAMES, TEMPLATES

    return LoadedData(dataset=table, class_names=CLASS_NAMES, templates=TEMPLATES)


source = PlantedSource()
