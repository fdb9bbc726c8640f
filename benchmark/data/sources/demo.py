"""The embedded demo: rendered scenes and scikit-learn's digits, drawn on demand."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from benchmark.data.sources.base import Described, LoadedData, Source, SourceOptions
from benchmark.errors import DataError, UnknownNameError
from benchmark.spec import DataSpec, digest


class DemoSource(Source[SourceOptions]):
    """`split` names the data set (`test`, `sketch`, `far_ood`, `digits`, ...); a limit draws a prefix of it.

    The labels of any prefix are balanced to within one.
    """

    name = "demo"
    version = 1
    title = "rendered scenes and scikit-learn's digits, made on demand (split: test, sketch, near_ood, digits, ...)"
    options = SourceOptions
    limits_itself = True
    needs_path = False

    def check(self, spec: DataSpec) -> None:
        """A known split, and no path."""
        from benchmark.demo.scenes import SPLITS

        super().check(spec)
        if spec.path is not None:
            raise DataError("source 'demo' takes no path; 'split' names the data set")
        if spec.split not in SPLITS:
            raise UnknownNameError("demo split", spec.split or "", SPLITS)

    def fingerprint(self, spec: DataSpec) -> str:
        """The renderer's code and the declaration of the split determine every pixel."""
        from benchmark.demo.scenes import SPLITS

        return digest([spec.split, repr(SPLITS[spec.split or ""]), _renderer()])

    def load(self, spec: DataSpec) -> LoadedData:
        """Draw the first `limit` images."""
        from benchmark.demo.scenes import dataset

        return _loaded(spec, dataset(spec.split or "", spec.limit))

    def describe(self, spec: DataSpec) -> LoadedData:
        """Labels, groups, ids and captions; nothing is drawn."""
        from benchmark.demo.scenes import described

        return _loaded(spec, Described(described(spec.split or "", spec.limit)))

    def draw(self, spec: DataSpec, rows: Sequence[int]) -> list[bytes]:
        """These images alone."""
        from benchmark.demo.scenes import encoded

        return encoded(spec.split or "", rows)


def _loaded(spec: DataSpec, table: Any) -> LoadedData:
    from benchmark.demo import scenes

    digits = scenes.SPLITS[spec.split or ""].content == "digits"
    return LoadedData(
        dataset=table,
        class_names=tuple(scenes.DIGIT_NAMES if digits else scenes.CLASS_NAMES),
        templates=tuple(scenes.DIGIT_TEMPLATES if digits else scenes.TEMPLATES),
        group_names=None if digits else tuple(scenes.BACKGROUNDS),
    )


@functools.cache
def _renderer() -> list[str]:
    """Content hashes of the files that draw, and of what they draw by."""
    folder = files("benchmark.demo")
    names = ("backgrounds.npz", "catalogue.py", "scenes.py", "shapes.py", "textures.py")
    return [hashlib.sha256(folder.joinpath(name).read_bytes()).hexdigest() for name in names]


source = DemoSource()
