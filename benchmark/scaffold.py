"""`reliquant new task NAME`: a working task and its contract test."""

from __future__ import annotations

import keyword
import re
import sys
from pathlib import Path

from benchmark.errors import InputError

TASK = '''"""{title}."""

from benchmark import Banks, Metric, Outcome, task
from benchmark.metrics.classification import correct


@task("{name}", version=1, needs=("test",), metrics=[Metric("error", better="lower", headline=True)])
def {name}(banks: Banks) -> Outcome:
    """Share of images that the zero-shot classifier gets wrong (replace this with your own measure)."""
    bank = banks["test"]
    hits = correct(bank.cosines(), bank.label)
    return Outcome(
        metrics={{"error": 1.0 - float(hits.mean())}},
        samples={{"sample_id": bank.sample_id, "correct": hits}},
    )
'''

TEST = '''"""Contract and meaning of the task {name}."""

import numpy as np
from {name} import {name}

from benchmark import Banks
from benchmark.testing import TaskContract, make_bank


class Test{camel}Contract(TaskContract):
    """Everything that reliquant asks of a task."""

    task = {name}
    banks = Banks({{"test": [make_bank(seed=0)]}})


def test_a_perfect_model_makes_no_error() -> None:
    bank = make_bank(seed=1, accuracy=1.0)
    assert np.isclose({name}.run(Banks({{"test": [bank]}})).metrics["error"], 0.0)
'''

_TAKEN = {"benchmark", "tasks", "trackers", "search", "task", "correct", "np", "numpy", "pytest"}
"""Names that the written files, or the packages beside them, use themselves."""


def write_task(name: str, folder: Path) -> list[Path]:
    """Write `<folder>/NAME.py` and `<folder>/test_NAME.py`.

    Raises:
        InputError: the name is no identifier or is taken, the folder is missing, or a file exists.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise InputError(f"task name '{name}': lower-case letters, digits and _ only, starting with a letter")
    if keyword.iskeyword(name) or name in sys.stdlib_module_names or name in _TAKEN:
        raise InputError(f"task name '{name}' means something else in Python or in the file; choose another")
    if not folder.is_dir():
        raise InputError(f"--folder {folder}: no such folder")
    words = name.split("_")
    texts = {folder / f"{name}.py": TASK, folder / f"test_{name}.py": TEST}
    for path in texts:
        if path.exists():
            raise InputError(f"{path} exists already")
    for path, text in texts.items():
        camel = "".join(word.capitalize() for word in words)
        path.write_text(text.format(name=name, camel=camel, title=" ".join(words).capitalize()), encoding="utf-8")
    return list(texts)
