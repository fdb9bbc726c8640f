"""`reliquant new KIND NAME`: a working plugin and its contract test, from the templates of `benchmark/scaffolds/`."""

from __future__ import annotations

import keyword
import re
import sys
from importlib.metadata import entry_points
from importlib.resources import files
from pathlib import Path
from string import Template

from benchmark.errors import InputError

FILES = {
    "task": {"task.py.txt": "{}.py", "test_task.py.txt": "test_{}.py", "task.yaml.txt": "{}.yaml"},
    "quantizer": {"quantizer.py.txt": "{}.py", "test_quantizer.py.txt": "test_{}.py"},
    "source": {"source.py.txt": "{}.py", "test_source.py.txt": "test_{}.py"},
    "runtime": {"runtime.py.txt": "{}.py", "test_runtime.py.txt": "test_{}.py"},
}
"""Kind -> template -> name of the written file."""

_FORMS = {
    "task": (r"[a-z][a-z0-9_]*", "lower-case letters, digits and _ only, starting with a letter"),
    "quantizer": (r"[a-z][a-z0-9]*", "lower-case letters and digits only, starting with a letter"),
    "source": (r"[a-z][a-z0-9_]*", "lower-case letters, digits and _ only, starting with a letter"),
    "runtime": (r"[a-z][a-z0-9]*", "lower-case letters and digits only, starting with a letter"),
}
_TAKEN = {
    *("benchmark", "tasks", "trackers", "search", "task", "correct", "affine", "entry", "fingerprint"),
    *("paths_dataset", "rows", "np", "numpy", "pil", "pydantic", "pytest", "torch", "datasets"),
}
"""Names that the written files or their imports already use."""


def write_plugin(kind: str, name: str, folder: Path) -> list[Path]:
    """Write `<folder>/NAME.py`, `<folder>/test_NAME.py` and what else belongs to a plugin of that kind.

    Args:
        kind: `task`, `quantizer`, `source` or `runtime`.

    Raises:
        InputError: the name is invalid or taken, the folder is missing, or a file exists.
    """
    form, words = _FORMS[kind]
    if not re.fullmatch(form, name):
        raise InputError(f"{kind} name '{name}': {words}")
    if keyword.iskeyword(name) or name in sys.stdlib_module_names or name in _TAKEN:
        raise InputError(f"{kind} name '{name}' means something else in Python or in the file; choose another")
    if name in {point.name for point in entry_points(group=f"reliquant.{kind}s")}:
        raise InputError(f"{kind} name '{name}': there is one of that name already; choose another")
    if not folder.is_dir():
        raise InputError(f"--folder {folder}: no such folder")
    parts = name.split("_")
    words_of = {"name": name, "camel": "".join(map(str.capitalize, parts)), "title": " ".join(parts).capitalize()}
    templates = files("benchmark").joinpath("scaffolds")
    texts = {
        folder / target.format(name): Template(templates.joinpath(source).read_text(encoding="utf-8"))
        for source, target in FILES[kind].items()
    }
    for path in texts:
        if path.exists():
            raise InputError(f"{path} exists already")
    for path, template in texts.items():
        path.write_text(template.substitute(words_of), encoding="utf-8")
    return list(texts)
