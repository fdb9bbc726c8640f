"""The contract of a tracker, and a finished configuration to log."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from benchmark.ledger.records import Record
from benchmark.plugins import Columns, Draw, Metric, NoOptions, Outcome, Summary, Task
from benchmark.quantization import parse
from benchmark.spec import FP32, DataSpec, QuantSpec, SuiteSpec
from benchmark.tracking import FinishedConfiguration, TrackedConfiguration, TrackedEvaluation, Tracker, UsedData

LAYER = {"name": "visual.a", "shape": [4, 8], "packed_bits": 136, "bits": 4.0}
TOWER = {
    "layers": [LAYER],
    "skipped": {},
    "weight_share": 1.0,
    "packed_bytes": 17,
    "float_bytes": 128,
    "embedding_sqnr_db": 20.0,
    "cosine": 0.99,
}
REPORT: Mapping[str, Any] = {
    "towers": {"vision": TOWER},
    "weights": {"vision": 32, "text": 32},
    "parameters": {"vision": 32, "text": 64},
}
"""A QuantizationReport as JSON, as far as trackers read it: 32 weights in 136 bits, and 32 of the other tower."""


def make_finished(
    suite: str,
    quant: QuantSpec | None = None,
    tasks: Sequence[str] = ("zero_shot",),
    failing: Sequence[str] = (),
    drawing: Draw | None = None,
    **fields: Any,
) -> FinishedConfiguration:
    """A finished configuration as a run hands it to trackers: two images, the metrics `accuracy` and `deep/ece_15`.

    Args:
        suite: name of the suite; metric keys are `TASK/scenes/...`.
        quant: the quantization, by default RTN W4A8. tasks: names of its tasks. failing: those that failed.
        drawing: draws the tasks' figures.
        fields: further fields of `FinishedConfiguration`.
    """
    quant = quant or parse("rtn-w4a8")
    data = {"scenes": UsedData(DataSpec(source="demo", split="test"), "d" * 64)}
    evaluations = tuple(TrackedEvaluation(f"{name}/scenes", _task(name, drawing), NoOptions(), data) for name in tasks)
    key = f"{suite}-{quant.name}".ljust(64, "0")
    configuration = TrackedConfiguration(key, "demo", "ViT", quant, evaluations)
    records = tuple(_record(suite, configuration, name, name in failing) for name in tasks)
    samples = {"sample_id": np.array(["a", "b"]), "correct": np.array([True, False])}
    outcome = Outcome(Columns({"test": samples}), Summary({"accuracy": 0.75, "deep/ece_15": 0.125}))
    outcomes = {record.key: outcome for record in records if record.status == "done"}
    full = Outcome(Columns({}), Summary({"accuracy": 0.875}))
    references = {f"{name}/scenes": full for name in tasks} if quant != FP32 else {}
    spec = _suite(suite, quant, tasks)
    return FinishedConfiguration(spec, configuration, REPORT, records, outcomes, references, **fields)


def _task(name: str, drawing: Draw | None) -> Task:
    metrics = (Metric("accuracy", "higher", headline=True), Metric("ece_15", "lower"))
    task = Task(name, 1, ("test",), metrics, lambda banks, options: Columns({}), drawing=drawing)
    task.summarise(lambda columns, options: Summary({}))
    return task


def _record(suite: str, configuration: TrackedConfiguration, name: str, failed: bool) -> Record:
    metrics = {f"{name}/scenes/accuracy": 0.75, f"{name}/scenes/deep/ece_15": 0.125}
    return Record(
        key=f"{suite}-{configuration.quant.name}-{name}".ljust(64, "0"),
        configuration=configuration.key,
        suite=suite,
        model="demo",
        quantization=configuration.quant.name,
        task=name,
        dataset="scenes",
        status="failed" if failed else "done",
        seconds=0.1,
        metrics={} if failed else metrics,
        notes={f"{name}/scenes/x": "undefined"},
        error="NaN in layer 'visual.a'" if failed else None,
    )


def _suite(name: str, quant: QuantSpec, tasks: Sequence[str]) -> SuiteSpec:
    content = {
        "name": name,
        "version": 3,
        "models": ["demo"],
        "quantizations": [quant.name],
        "data": {"scenes": {"source": "demo", "split": "test"}},
        "tasks": {task: {"scenes": {"test": "scenes"}} for task in tasks},
    }
    return SuiteSpec.model_validate(content)


class TrackerContract(ABC):
    """What every tracker must satisfy. Set `tracker`, and say in `written` what it has.

    Attributes:
        tracker: the object that the entry point names, not opened.
        keeps: whether what it wrote is there for the next process; False for one that prints.
    """

    tracker: ClassVar[Tracker]
    keeps: ClassVar[bool] = True

    @abstractmethod
    def written(self, home: Path) -> Sequence[str]:
        """`QUANTIZATION/TASK` of everything that lies in the results folder `home` by now, in any order."""

    @pytest.fixture
    def opened(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Tracker]:
        """Opens the tracker on a results folder, as a new process would; the working folder is another one."""
        (tmp_path / "work").mkdir()
        (tmp_path / "home").mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path / "work")
        return lambda: self.tracker.open(tmp_path / "home")

    def test_opening_gives_a_tracker(self, opened: Callable[[], Tracker]) -> None:
        """Of the same name, and connecting finds what it needs."""
        tracker = opened()
        assert isinstance(tracker, Tracker)
        assert tracker.name == self.tracker.name
        tracker.connect()

    def test_every_finished_evaluation_is_written_once(self, opened: Callable[[], Tracker], tmp_path: Path) -> None:
        """Logged again by the same process or by another one, it is left alone."""
        finished = make_finished("contract", tasks=("zero_shot", "ood"))
        name = finished.configuration.quant.name
        for _ in range(2 if self.keeps else 1):  # two processes, one after the other
            tracker = opened()
            for _ in range(2 if self.keeps else 1):
                tracker.log(finished)
        assert sorted(self.written(tmp_path / "home")) == [f"{name}/ood", f"{name}/zero_shot"]

    def test_a_failed_evaluation_does_not_count_as_written(self, opened: Callable[[], Tracker], tmp_path: Path) -> None:
        """Whatever a tracker makes of a failure, the evaluation is written once it is done."""
        opened().log(make_finished("contract", tasks=("zero_shot", "ood"), failing=("ood",)))
        opened().log(make_finished("contract", tasks=("zero_shot", "ood")))
        assert sum(entry.endswith("/ood") for entry in self.written(tmp_path / "home")) == 1

    def test_other_quantizations_are_written_beside(self, opened: Callable[[], Tracker], tmp_path: Path) -> None:
        """Full precision has no references and no changes."""
        tracker = opened()
        tracker.log(make_finished("contract", FP32))
        tracker.log(make_finished("contract"))
        names = {entry.partition("/")[0] for entry in self.written(tmp_path / "home")}
        assert names == {"fp32", make_finished("contract").configuration.quant.name}

    def test_nothing_is_written_elsewhere(self, opened: Callable[[], Tracker], tmp_path: Path) -> None:
        """Not into the working folder, not beside the results folder."""
        opened().log(make_finished("contract"))
        assert not list((tmp_path / "work").iterdir())
        assert {place.name for place in tmp_path.iterdir()} == {"work", "home"}
