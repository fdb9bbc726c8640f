"""`make parity`: reliquant beside CLIP_benchmark, OpenOOD's definitions and pytorch-ood, on the same files.

Exits with 1 when a number differs by more than the stated tolerance. Needs a package registry on the first run only.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import yaml

from benchmark.demo.catalogue import CLASS_NAMES
from benchmark.ledger.records import Ledger
from tests.layouts import Sample, write_shards
from tests.models_zoo import write_checkpoint
from tests.parity import ood, peer
from tests.parity.scenes import scene_samples, write_list

COUNT, TOLERANCE = 300, 1e-6
"""Images of each set; what metrics may differ by."""

SCORE_TOLERANCE = {"negative_entropy": 1e-4}
"""What scores of another float32 forward pass may differ by, relative to the largest: 1e-5, and more where the peer
itself is coarse (pytorch-ood clamps small probabilities before it takes the entropy)."""

TEMPLATES = {
    "one": ["a photo of a {c}."],
    "ensemble": ["a photo of a {c}.", "a picture of a {c}.", "a drawing of the {c}.", "there is a {c} here."],
}
METRICS = {"accuracy": "acc1", "accuracy_top5": "acc5", "mean_per_class_recall": "mean_per_class_recall"}
DEMO = peer.ROOT / "benchmark" / "demo" / "checkpoint"
Row = tuple[str, float, float, float]


def write(folder: Path) -> dict[str, list[Sample]]:
    """Webdatasets, OOD lists, checkpoints and the suite; returns the samples of each set."""
    made = {name: scene_samples(split, COUNT) for name, split in (("id", "test"), ("near", "near_ood"))}
    made["far"] = scene_samples("far_ood", COUNT)
    inside = made["id"]
    for name, templates in TEMPLATES.items():
        write_shards(folder / name, [inside[:110], inside[110:180], inside[180:]], CLASS_NAMES, templates)
    for name in ("near", "far"):
        write_list(folder, name, made[name])
    if (DEMO / "open_clip_model.safetensors").is_file():
        shutil.copytree(DEMO, folder / "demo")
    else:
        write_checkpoint("ViT", folder / "demo")
    for family in ("ResNet", "CoCa"):
        write_checkpoint(family, folder / family)
    out = {"source": "image_list", "text": "none", "options": {"root": str(folder / "images")}}
    suite = {
        "name": "parity",
        "version": 1,
        "models": [f"local-dir:{folder / model}" for model in ("demo", "ResNet", "CoCa")],
        "quantizations": ["fp32"],
        "data": {
            **{name: {"source": "webdataset", "path": str(folder / name)} for name in TEMPLATES},
            **{name: {**out, "path": str(folder / f"{name}.txt")} for name in ("near", "far")},
        },
        "tasks": {
            "zero_shot": {name: {"test": name} for name in TEMPLATES},
            "ood": {"scenes": {"id": "ensemble", "ood": ["near", "far"]}},
        },
    }
    (folder / "suite.yaml").write_text(yaml.safe_dump(suite))
    return made


def reliquant(folder: Path) -> Ledger:
    """`reliquant run` on the suite; its ledger."""
    command = [Path(sys.executable).parent / "reliquant", "run", "suite.yaml", "--home", "home", "--tracker", "jsonl"]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return Ledger(folder / "home")


def zero_shot_rows(folder: Path, ledger: Ledger) -> Iterator[Row]:
    """(what, ours, theirs, tolerance) for CLIP_benchmark."""
    models = ["demo", "ResNet", "CoCa"]
    theirs = peer.evaluate(peer.build(), folder, list(TEMPLATES), models)
    for (name, model), metrics in theirs.items():
        record = next(
            r
            for r in ledger.records.values()
            if (r.task, r.dataset, Path(r.model.removeprefix("local-dir:")).name) == ("zero_shot", name, model)
        )
        for ours, other in METRICS.items():
            value = record.metrics[f"zero_shot/{name}/{ours}"]
            yield f"CLIP_benchmark  {model:7} {name:9} {ours}", value, metrics[other], TOLERANCE


def ood_rows(folder: Path, ledger: Ledger, made: dict[str, list[Sample]]) -> Iterator[Row]:
    """(what, ours, theirs, tolerance) for scores from open_clip and pytorch-ood, and for both packages' measures."""
    record = next(r for r in ledger.records.values() if r.task == "ood" and r.model.endswith("demo"))
    outcome = ledger.outcome(record)
    scorer = ood.Scorer(folder / "demo", list(CLASS_NAMES), TEMPLATES["ensemble"])
    theirs = {name: scorer.scores(samples) for name, samples in made.items()}
    is_out = np.r_[np.zeros(COUNT, bool), np.ones(COUNT, bool)]
    known = outcome.columns["id"]
    for score in (name for name in known if name not in ("sample_id", "base_id")):
        for name in ("near", "far"):
            ours = np.r_[known[score], outcome.columns[f"ood:{name}"][score]]
            other = np.r_[theirs["id"][score], theirs[name][score]]
            worst = float(np.abs(ours + other).max() / np.abs(other).max())
            yield (
                f"scores          {name:7} {score:16} largest difference",
                worst,
                0.0,
                SCORE_TOLERANCE.get(score, 1e-5),
            )
            for package, measures in (("OpenOOD", ood.openood), ("pytorch-ood", ood.pytorch_ood)):
                for measure, value in measures(-ours, is_out).items():
                    mine = outcome.metrics[f"{name}/{score}/{measure}"]
                    yield f"{package:15} {name:7} {score:16} {measure}", mine, value, TOLERANCE


def main() -> int:
    """Print the table; 0 when everything agrees."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        made = write(folder)
        ledger = reliquant(folder)
        rows = [*zero_shot_rows(folder, ledger), *ood_rows(folder, ledger, made)]
    wrong = [row for row in rows if not abs(row[1] - row[2]) <= row[3]]
    print(f"{'reference and number':62} {'reliquant':>12} {'reference':>12} {'difference':>10}")
    for row in rows:
        if row in wrong or " mcm " in row[0] or row[0].startswith("CLIP_benchmark"):
            print(
                f"{row[0]:62} {row[1]:12.8f} {row[2]:12.8f} {abs(row[1] - row[2]):10.1e}{' differs' * (row in wrong)}"
            )
    print(f"{len(rows)} numbers compared (of the OOD scores only MCM is shown), {len(wrong)} differ")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
