"""The rules that keep the house in order, checked on the source with `ast`."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import pkgutil
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("benchmark", "tasks", "trackers", "search")
ENTRY_POINTS: dict[str, dict[str, str]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
    "entry-points"
]

TASKS_MAY_IMPORT = ("benchmark", "benchmark.errors", "benchmark.spec", "benchmark.metrics")
TRACKERS_MAY_IMPORT = (
    "benchmark.tracking",
    "benchmark.plugins",
    "benchmark.spec",
    "benchmark.errors",
    "benchmark.utils.processes",
    "benchmark.utils.output",
    "benchmark.utils.guard",
    "benchmark.analysis",
    "benchmark.ledger.records",
)
RUNS_MODELS = {"encode_image", "encode_image_with", "encode_text"}
MAY_RUN_MODELS = (
    "benchmark/engine/embed.py",
    "benchmark/models/",
    "benchmark/quantization/",
    "benchmark/demo/",
    "benchmark/testing/quantizers.py",
)
COMPOSITION_ROOT = ("benchmark/cli/app.py", "benchmark/cli/search.py")
LONGER_THAN_300_LINES: set[str] = set()
"""Files that may be longer, each with its reason here. None so far."""


def sources(*packages: str) -> list[Path]:
    """Python files of the packages."""
    return sorted(path for package in packages for path in (ROOT / package).rglob("*.py"))


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """Line and full module name of every import, early or late, also `import_module("...")` with a literal."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module or "") if part)
            if is_module(module):
                for alias in node.names:
                    inner = f"{module}.{alias.name}"
                    yield node.lineno, inner if is_module(inner) else module
            else:
                yield node.lineno, module
        elif isinstance(node, ast.Call) and called(node) in ("import_module", "__import__") and node.args:
            name = node.args[0]
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                yield node.lineno, name.value


def is_module(name: str) -> bool:
    place = ROOT.joinpath(*name.split("."))
    return place.with_suffix(".py").is_file() or (place / "__init__.py").is_file()


def called(node: ast.Call) -> str:
    """Last name of what is called: `f` of `f()` and of `a.b.f()`."""
    if isinstance(node.func, ast.Attribute):
        return node.func.attr
    return node.func.id if isinstance(node.func, ast.Name) else ""


def within(module: str, allowed: tuple[str, ...]) -> bool:
    """Whether a module is allowed: a name alone allows itself, except packages below `benchmark`, which allow all."""
    return any(module == name or (name != "benchmark" and module.startswith(name + ".")) for name in allowed)


def test_the_import_reader_sees_early_late_relative_and_dynamic_imports(tmp_path: Path) -> None:
    place = ROOT / "benchmark" / "engine" / "plan.py"
    found = {module for _, module in imported(place)}
    assert {"benchmark.spec", "benchmark.engine.embed", "benchmark.registry"} <= found


def test_benchmark_imports_nothing_from_tasks_trackers_or_search() -> None:
    """Rule 1, first half. The one exception: commands of the CLI reach `search` by a late import."""
    late = {file: late_lines(ROOT / file) for file in COMPOSITION_ROOT}
    wrong = [
        f"{relative(path)}:{line} imports {module}"
        for path in sources("benchmark")
        for line, module in imported(path)
        if module.split(".")[0] in ("tasks", "trackers", "search")
        and not (module.split(".")[0] == "search" and line in late.get(relative(path), ()))
    ]
    assert not wrong


def late_lines(path: Path) -> set[int]:
    """Lines inside functions: what stands there is imported when the function runs."""
    functions = [n for n in ast.walk(tree(path)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    return {line for n in functions for line in range(n.body[0].lineno, (n.end_lineno or n.lineno) + 1)}


@pytest.mark.parametrize("file", COMPOSITION_ROOT)
def test_late_lines_are_those_inside_functions(file: str) -> None:
    late = late_lines(ROOT / file)
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    assert (
        1
        + next(
            i for i, line in enumerate(lines) if line.startswith("    ") and line.lstrip().startswith("from search.")
        )
        in late
    )
    assert 1 + next(i for i, line in enumerate(lines) if line.startswith("import typer")) not in late


@pytest.mark.parametrize(
    ("package", "allowed"), [("tasks", TASKS_MAY_IMPORT), ("trackers", TRACKERS_MAY_IMPORT)], ids=["tasks", "trackers"]
)
def test_plugins_import_only_public_names(package: str, allowed: tuple[str, ...]) -> None:
    """Rule 1, second half."""
    files = sources(package)
    assert len(files) > 1
    wrong = [
        f"{relative(path)}:{line} imports {module}"
        for path in files
        for line, module in imported(path)
        if module.split(".")[0] == "benchmark" and not within(module, allowed)
    ]
    assert not wrong


def test_tasks_import_no_model_library() -> None:
    """A task is a pure function of feature banks."""
    heavy = {"torch", "torchvision", "open_clip", "transformers", "bitsandbytes", "mlflow", "datasets"}
    wrong = [
        f"{relative(path)}:{line} imports {module}"
        for path in sources("tasks")
        for line, module in imported(path)
        if module.split(".")[0] in heavy
    ]
    assert not wrong


def test_one_file_runs_models() -> None:
    """Rule 2."""
    calls = [
        (relative(path), node.lineno, called(node))
        for path in sources(*PACKAGES)
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call) and called(node) in RUNS_MODELS
    ]
    assert any(name == "benchmark/engine/embed.py" for name, _, _ in calls)
    assert not [call for call in calls if not call[0].startswith(MAY_RUN_MODELS)]


def test_search_does_not_know_how_a_model_is_run() -> None:
    """It asks the engine for plans, runs and replicates of an evaluation; banks and caches are the engine's."""
    inner = {f"benchmark.engine.{name}" for name in ("banks", "cache", "embed", "evaluate", "local", "parts")}
    found = [(relative(path), line, module) for path in sources("search") for line, module in imported(path)]
    assert any(module == "benchmark.engine.run" for _, _, module in found)
    assert not [where for where in found if where[2] in inner | {"benchmark.bank"}]


def base_of(group: str) -> type[Any]:
    """The class that objects of an entry-point group must be instances of."""
    module, name = {
        "reliquant.tasks": ("benchmark.plugins", "Task"),
        "reliquant.quantizers": ("benchmark.quantization.base", "Quantizer"),
        "reliquant.sources": ("benchmark.data.sources.base", "Source"),
        "reliquant.trackers": ("benchmark.tracking", "Tracker"),
    }[group]
    kind: type[Any] = getattr(importlib.import_module(module), name)
    return kind


@pytest.mark.parametrize(
    ("group", "name", "target"),
    [(group, name, target) for group, points in ENTRY_POINTS.items() for name, target in points.items()],
    ids=lambda value: value.split(":")[0],
)
def test_every_entry_point_names_a_plugin_of_its_kind(group: str, name: str, target: str) -> None:
    """Rule 3: what pyproject declares exists, under its own name."""
    module, _, attribute = target.partition(":")
    plugin = getattr(importlib.import_module(module), attribute)
    assert isinstance(plugin, base_of(group))
    assert plugin.name == name


def test_the_installed_entry_points_are_those_of_pyproject() -> None:
    """Otherwise the environment is stale: install again."""
    installed = {
        group: {p.name: p.value for p in importlib.metadata.entry_points(group=group) if p.dist and is_ours(p.dist)}
        for group in ENTRY_POINTS
    }
    assert installed == ENTRY_POINTS


def is_ours(distribution: importlib.metadata.Distribution) -> bool:
    return bool(distribution.name == "reliquant")


@pytest.mark.parametrize(
    ("package", "group"),
    [
        ("tasks", "reliquant.tasks"),
        ("trackers", "reliquant.trackers"),
        ("benchmark.quantization", "reliquant.quantizers"),
        ("benchmark.data.sources", "reliquant.sources"),
    ],
)
def test_every_built_in_plugin_has_an_entry_point(package: str, group: str) -> None:
    """Rule 3: a plugin object that no entry point names would be invisible."""
    home = importlib.import_module(package)
    registered = {
        id(getattr(importlib.import_module(t.partition(":")[0]), t.partition(":")[2]))
        for t in ENTRY_POINTS[group].values()
    }
    modules = [importlib.import_module(m.name) for m in pkgutil.iter_modules(home.__path__, prefix=f"{package}.")]
    objects = {
        f"{module.__name__}:{name}": id(value)
        for module in modules
        for name, value in vars(module).items()
        if isinstance(value, base_of(group))
    }
    assert objects
    assert not [name for name, value in objects.items() if value not in registered]


def test_nothing_else_at_the_top_level_is_code() -> None:
    beside = {".venv", "mlruns", "build", "dist", "node_modules"}
    folders = {
        place.name
        for place in ROOT.iterdir()
        if place.is_dir() and not place.name.startswith(".") and place.name not in beside and any(place.rglob("*.py"))
    }
    assert folders == {*PACKAGES, "tests", "docs"}
    assert not list(ROOT.glob("*.py"))
    assert {path.parent.name for path in (ROOT / "docs").rglob("*.py")} == {"examples"}


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_is_typed(package: str) -> None:
    assert (ROOT / package / "py.typed").is_file()
    assert (ROOT / package / "__init__.py").is_file()


def test_nothing_is_checked_with_assert() -> None:
    """`python -O` would remove the check. `benchmark.testing` is pytest's, it asserts."""
    wrong = [
        f"{relative(path)}:{node.lineno}"
        for path in sources(*PACKAGES)
        if not relative(path).startswith("benchmark/testing/")
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Assert)
    ]
    assert not wrong


def test_shared_code_moves_nothing_to_cuda_by_itself() -> None:
    wrong = [
        f"{relative(path)}:{node.lineno}"
        for path in sources(*PACKAGES)
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "cuda"
    ]
    assert not wrong


def test_no_failure_is_swallowed() -> None:
    """No bare `except`, and no `except Exception` whose body is only `pass`."""
    wrong = [
        f"{relative(path)}:{node.lineno}"
        for path in sources(*PACKAGES)
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or (is_broad(node.type) and all(isinstance(s, ast.Pass) for s in node.body)))
    ]
    assert not wrong


def is_broad(kind: ast.expr) -> bool:
    return isinstance(kind, ast.Name) and kind.id in ("Exception", "BaseException")


def test_weights_are_never_unpickled() -> None:
    """`torch.load` only with `weights_only=True`; no `pickle.load`."""
    wrong = []
    for path in sources(*PACKAGES):
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
                if keywords.get("weights_only") != "True":
                    wrong.append(f"{relative(path)}:{node.lineno}")
            elif isinstance(node, ast.Call) and ast.unparse(node.func).startswith("pickle.load"):
                wrong.append(f"{relative(path)}:{node.lineno}")
    assert not wrong


def test_files_stay_readable() -> None:
    long = {
        relative(path): lines
        for path in sources(*PACKAGES)
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > 300
    }
    assert set(long) == LONGER_THAN_300_LINES, long
