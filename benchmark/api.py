"""For Python users and notebooks: a sweep with results to look at, and single steps that keep nothing on disk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console, ConsoleOptions, RenderableType
from rich.jupyter import JupyterMixin

from benchmark.bank import FeatureBank
from benchmark.cli.tables import print_table, print_verdicts
from benchmark.data import Data, PixelCache, Pixels, open_data
from benchmark.engine import prompt_check
from benchmark.engine.embed import embed_classes, embed_images
from benchmark.engine.plan import Plan
from benchmark.engine.request import RayOptions, Timing
from benchmark.engine.run import PIXEL_BUDGET, Sweep
from benchmark.engine.run import run as run_plan
from benchmark.errors import DataError
from benchmark.models import resolve
from benchmark.models.base import ClipModel
from benchmark.quantization import Calibration
from benchmark.report.command import draw_page, save
from benchmark.results.compare import adjust
from benchmark.results.load import Asked, open_ledger
from benchmark.results.rows import better_of
from benchmark.results.tables import comparison_rows, headline_keys
from benchmark.spec import DataSpec, ModelSpec, parse_spec
from benchmark.tracking import Tracker
from benchmark.utils.progress import Progress, open_progress

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("model", "quantization", "metric", "evaluation", "better", "value")
AGAINST = ("reference", "change", "low", "high", "p", "images")
"""Columns of a data frame of results, and those that tell of the comparison with full precision."""
WIDTH = 100
"""Characters of a line of a table, unless asked otherwise."""


@dataclass(frozen=True)
class Shown(JupyterMixin):
    """Text and tables: colours in a notebook and a terminal (`rich.print`), plain with `print`."""

    width: int
    parts: list[RenderableType] = field(default_factory=list)

    def print(self, shown: RenderableType, /) -> None:
        """Add a part below the others."""
        self.parts.append(shown)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        yield from self.parts

    def __str__(self) -> str:
        plain = Console(file=StringIO(), width=self.width, color_system=None, force_jupyter=False)
        with plain.capture() as captured:
            plain.print(*self.parts, sep="\n")
        return captured.get()

    __repr__ = __str__


@dataclass
class Results(Sweep):
    """What `run` found. In a notebook its last line shows the table.

    Attributes:
        home: the results folder.
    """

    home: Path = Path("mlruns")

    def table(self, width: int = WIDTH) -> Shown:
        """Headline metrics, their changes against full precision, and a verdict on each quantization.

        Args:
            width: characters of a line; names and headings are folded to fit.
        """
        shown, keys = Shown(width), headline_keys(self.plan, self.records)
        tested = adjust(change for change in self.changes if change.key in keys)
        print_table(comparison_rows(self.plan, self.records, tested), keys, self.reports, self.plan, shown)
        print_verdicts(self.changes, keys, self.reports, self.plan, shown)
        return shown

    def report(self, path: Path | str = "report.html") -> Path:
        """Write the HTML page of `reliquant report`; returns its path.

        Raises:
            StorageError: it cannot be written.
        """
        suite = self.plan.suite
        return save(draw_page(open_ledger(self.home), Asked(suite.name, suite.name, suite)), Path(path))

    def to_pandas(self) -> pd.DataFrame:
        """One row for each metric of each quantization, full precision too.

        Columns: model, quantization, metric (full key), evaluation (`task/data`), better (`higher` or `lower`), value,
        and against full precision reference, change, low, high (95 % interval), p (not adjusted) and images; NaN where
        there is none.
        """
        import pandas as pd

        values = {(r.model, r.quantization, key): value for r in self.records for key, value in r.metrics.items()}
        compared = {(c.model, c.quantization, c.key): c for c in self.changes}
        rows = []
        for place in {**values, **compared}:  # some metrics only a comparison has
            change, key = compared.get(place), place[2]
            value = change.value if change else values[place]
            row = (*place, "/".join(key.split("/")[:2]), better_of(key), value)
            rows.append((*row, *(getattr(change, name, None) for name in AGAINST)))
        return pd.DataFrame(rows, columns=[*COLUMNS, *AGAINST]).astype(dict.fromkeys(AGAINST, float))

    def _repr_mimebundle_(
        self, include: Sequence[str] = (), exclude: Sequence[str] = (), **kwargs: Any
    ) -> dict[str, str]:
        return self.table()._repr_mimebundle_(include, exclude, **kwargs)


def run(
    plan: Plan,
    home: Path | str = "mlruns",
    *,
    trackers: Sequence[Tracker] = (),
    quiet: bool = False,
    progress: Progress | None = None,
    pixel_budget: int = PIXEL_BUDGET,
    skip_broken: bool = False,
    compare: bool = True,
    timing: Timing = "never",
    ray: RayOptions | None = None,
) -> Results:
    """Evaluate a plan; what the results folder has already is not done again, nor what another process is doing.

    Args:
        plan: from `make_plan`.
        home: results folder (ledger, samples, caches). Several processes may share it, and the work.
        trackers: each finished configuration is logged to them.
        quiet: show no progress. Otherwise bars in a notebook and a terminal, lines on stderr elsewhere.
        progress: shows the progress instead.
        pixel_budget: bytes of decoded pixels to keep on disk, 0 for none.
        skip_broken: leave out images that cannot be decoded, instead of failing.
        compare: give intervals and p values against full precision; a second or so a configuration.
        timing: whether to time the configurations, about a second each; not on Ray.
        ray: evaluate on this cluster instead of in this process.

    Returns:
        All records of the plan. A configuration that fails is recorded as failed, the others go on.

    Raises:
        InputError: the first model cannot be loaded, or an image cannot be decoded: said before any forward pass.
        StorageError: `home` cannot be written.
    """
    home = Path(home)
    with open_progress(quiet or progress is not None) as shown:
        sweep = run_plan(
            plan,
            home,
            trackers=trackers,
            progress=progress or shown,
            pixel_budget=pixel_budget,
            skip_broken=skip_broken,
            compare=compare,
            timing=timing,
            ray=ray,
        )
    return Results(**vars(sweep), home=home)


def load_model(ref: str, device: str = "cpu") -> ClipModel:
    """A model by its reference (`demo`, `NAME/PRETRAINED`, `local-dir:PATH`, ...), in eval mode.

    Raises:
        ReliquantError: unknown, not on this machine and not to be had, or damaged: one line that says which.
    """
    return resolve(parse_spec(ModelSpec, ref, "model")).load(device)


def embed(model: ClipModel, data: DataSpec, name: str = "data", batch_size: int = 64) -> FeatureBank:
    """What a model, quantized or not, makes of one data set; decodes and embeds every time, keeps nothing on disk.

    Args:
        model: from `load_model` or `quantize`.
        data: one data set; `limit` takes a part of it, `corruption` and `severity` corrupt it.
        name: for messages, and the `dataset` of the bank.

    Returns:
        `image` (N, D) and `text` (C, D) float32, L2-normalised; `text` is (0, D) for data without classes.

    Raises:
        DataError: the data cannot be read, ask for `text: captions`, which needs a suite, or have two classes with one
            prompt for this model.
        NonFiniteError: names the first layer whose output is not finite.
    """
    if data.text == "captions":
        raise DataError(f"data set '{name}': text: captions needs a suite and `run`")
    pixels = _pixels(model, data, name)
    found: Data = pixels.data
    image = embed_images(model, pixels.batches(batch_size), lambda count: None)["image"]
    named = bool(found.class_names) and data.text != "none"
    if named:
        prompt_check.check(found, prompt_check.examine(model, found.class_names, found.templates))
    return FeatureBank(
        dataset=name,
        image=image,
        label=pixels.labels,
        sample_id=pixels.ids,
        text=embed_classes(model, found.class_names, found.templates)
        if named
        else np.zeros((0, image.shape[1]), np.float32),
        class_names=found.class_names if named else (),
        logit_scale=model.logit_scale,
        logit_bias=model.logit_bias,
        group=pixels.groups,
        corruption=data.corruption,
        severity=data.severity,
    )


def load_calibration(model: ClipModel, data: DataSpec, name: str = "calibration") -> Calibration:
    """Image-caption pairs at the model's input size, for methods that need them: `quantize(model, spec, pairs)`.

    Images without captions do for the image tower.

    Raises:
        DataError: the data cannot be read.
    """
    pixels = _pixels(model, data, name)
    return Calibration(pixels.array, pixels.data.first_captions(pixels.rows), pixels.digest)


def _pixels(model: ClipModel, data: DataSpec, name: str) -> Pixels:
    return PixelCache(Path(), budget_bytes=0).open(open_data(data, name), model.preprocess)
