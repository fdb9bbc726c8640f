"""The rules that keep the house in order, checked on the source with `ast`."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import pkgutil
import re
import tomllib
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("benchmark", "tasks", "trackers", "search")
ENTRY_POINTS: dict[str, dict[str, str]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
    "entry-points"
]

TASKS, TRACKERS = ENTRY_POINTS["reliquant.tasks"], ENTRY_POINTS["reliquant.trackers"]

TASKS_MAY_IMPORT = ("benchmark", "benchmark.errors", "benchmark.spec", "benchmark.metrics")
TRACKERS_MAY_IMPORT = (
    "benchmark.tracking",
    "benchmark.plugins",
    "benchmark.spec",
    "benchmark.errors",
    "benchmark.results",
    "benchmark.utils.processes",
    "benchmark.utils.output",
    "benchmark.utils.guard",
    "benchmark.ledger.records",
    "benchmark.engine.request",
    "benchmark.utils.browser",
    "benchmark.utils.options",
    "benchmark.utils.origins",
    "benchmark.utils.processes",
    "benchmark.utils.sqlite",
)
RUNS_MODELS = {"encode_image", "encode_image_with", "encode_text"}
MAY_RUN_MODELS = (
    "benchmark/engine/embed.py",
    "benchmark/models/",
    "benchmark/quantization/",
    "benchmark/demo/",
    "benchmark/testing/quantizers.py",
)
ROOMS = (
    "benchmark.__main__",
    "benchmark.api",
    "benchmark.cli",
    "tasks",
    "trackers",
    "search",
    "benchmark.testing",
    "benchmark.report",
    "benchmark.export",
    "benchmark.spectrum",
    "benchmark.sensitivity",
    "benchmark.download",
    "benchmark.engine",
    "benchmark.tracking",
    "benchmark.results",
    "benchmark.quantization",
    "benchmark.models",
    "benchmark.data",
    "benchmark.runtimes",
    "benchmark.ledger",
    "benchmark.plugins",
    "benchmark.bank",
    "benchmark.metrics",
    "benchmark.demo",
    "benchmark.spec",
    "benchmark.registry",
    "benchmark.utils",
    "benchmark.errors",
    "benchmark.siblings",
)
"""From the roof down: what stands lower never imports what stands higher (docs/architecture.md shows the same)."""

LOOSE = {"__init__", "__main__", "api", "bank", "errors", "plugins", "registry", "siblings", "tracking"}
"""Modules at the root of `benchmark`; everything else has a room."""

NAMES_TASKS = {
    "benchmark/results/hypotheses.py": "the hypotheses of the study are about its tasks",
    "benchmark/testing/trackers.py": "the contract's example of a finished configuration",
}
"""Files outside a task's own that may say its name, each with its reason."""


def sources(*packages: str) -> list[Path]:
    """Python files of the packages."""
    return sorted(path for package in packages for path in (ROOT / package).rglob("*.py"))


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imported(path: Path, typing: bool = True) -> Iterator[tuple[int, str]]:
    """Line and full module name of every import, early or late, also `import_module("...")` with a literal.

    Args:
        typing: also those under `if TYPE_CHECKING`.
    """
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    parsed = tree(path)
    unseen = set() if typing else {id(inner) for node in ast.walk(parsed) for inner in for_typing(node)}
    for node in ast.walk(parsed):
        if id(node) in unseen:
            continue
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


def for_typing(node: ast.AST) -> Iterator[ast.AST]:
    """What stands in the body of `if TYPE_CHECKING`."""
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        for statement in node.body:
            yield from ast.walk(statement)


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> str:
    """`benchmark.results.load` -> `benchmark.results`; `tasks.ood` -> `tasks`."""
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "benchmark" else parts[0]


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
    assert {"benchmark.spec", "benchmark.engine.embed", "benchmark.plugins"} <= found


def test_benchmark_imports_nothing_from_tasks_trackers_or_search() -> None:
    """Rule 1, first half: they come in through entry points."""
    wrong = [
        f"{relative(path)}:{line} imports {module}"
        for path in sources("benchmark")
        for line, module in imported(path)
        if module.split(".")[0] in ("tasks", "trackers", "search")
    ]
    assert not wrong


@pytest.mark.parametrize("package", ["tasks", "trackers", "search"])
def test_these_packages_import_their_own_modules_relatively(package: str) -> None:
    """Otherwise `benchmark.siblings` could not load them where another package of that name comes first."""
    wrong = [
        f"{relative(path)}:{node.lineno}"
        for path in sources(package)
        for node in ast.walk(tree(path))
        if (isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").split(".")[0] == package)
        or (isinstance(node, ast.Import) and any(alias.name.split(".")[0] == package for alias in node.names))
    ]
    assert not wrong


def test_imports_go_down() -> None:
    """Rule 1: no room imports a higher one, late imports included."""
    wrong = []
    for path in sources(*PACKAGES):
        own = room_of(module_of(path))
        for line, module in imported(path, typing=False):
            other = room_of(module)
            ours = other != own and other.split(".")[0] in PACKAGES and "benchmark" not in (own, other)
            if ours and ROOMS.index(other) < ROOMS.index(own):
                wrong.append(f"{relative(path)}:{line} imports {module}")
    assert not wrong


def test_no_circle_of_modules() -> None:
    """Rule 1, within rooms too; a late import closes a circle as well."""
    graph = {module_of(path): {module for _, module in imported(path, typing=False)} for path in sources(*PACKAGES)}
    try:
        order = list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"circle: {' <- '.join(error.args[1])}")
    assert set(graph) <= set(order)


def test_every_module_has_a_room() -> None:
    loose = {path.stem for path in (ROOT / "benchmark").glob("*.py")}
    assert loose == LOOSE
    rooms = {room_of(module_of(path)) for path in sources(*PACKAGES)} - {"benchmark"}
    assert rooms == set(ROOMS)


def test_the_page_shows_the_rooms_in_this_order() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = page.split("\n## Rooms\n")[1].split("\n## ")[0]
    rows = [line.split("`")[1] for line in table.splitlines() if line.startswith("| `")]
    assert [row.removesuffix("/").removesuffix(".py").replace("/", ".") for row in rows] == list(ROOMS)
    assert [row for row in rows if not (ROOT / row).exists()] == []


def test_the_picture_shows_every_room() -> None:
    picture = (ROOT / "docs" / "images" / "architecture.svg").read_text(encoding="utf-8")
    named = set(re.findall(r'class="h"[^>]*>([\w./]+)</text>', picture))
    wanted = {room.removeprefix("benchmark.") for room in ROOMS} - {"__main__"}  # named in the box of `cli/`
    rooms = {name.removesuffix("/").removesuffix(".py") for name in named}
    assert wanted <= rooms
    assert rooms - wanted == {"suite.yaml", "plan", "embed", "evaluate"}  # what goes in, and steps of the engine


def test_nothing_says_a_tasks_name_but_the_task() -> None:
    """Rule 3: names of tasks and keys of their metrics stand in the task's own file."""
    own = {name: target.partition(":")[0].replace(".", "/") + ".py" for name, target in TASKS.items()}
    words = {"calibration", "corruption"}  # also words of specifications: only keys below them are names of tasks
    found = set()
    for path in sources(*PACKAGES):
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                name = node.value.split("/")[0]
                named = node.value not in words and " " not in node.value
                if name in own and named and relative(path) != own[name]:
                    found.add(relative(path))
    assert found == set(NAMES_TASKS)


def test_nothing_says_a_trackers_name_but_the_tracker() -> None:
    """Rule 3: the one exception are the names that the command line uses by itself, in `benchmark.tracking`."""
    names = TRACKERS.keys() - {"jsonl"}  # also a format
    found = {
        relative(path)
        for path in sources("benchmark", "tasks", "search")
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in names
    }
    assert found == {"benchmark/tracking.py"}


DECLARES_OPTIONS = {
    "benchmark/cli/parsing.py": ["typer.Argument", "typer.Option"],  # from fields
    "benchmark/cli/app.py": ["typer.Option", "typer.Option"],  # --version and --verbose, of no command
}


def test_options_are_declared_as_fields_of_requests() -> None:
    """Rule 4: nothing else makes options, and `option(...)` stands only where a field of a class gets its default."""
    found: dict[str, list[str]] = {}
    loose = []
    for path in sources(*PACKAGES):
        nodes = list(ast.walk(tree(path)))
        bodies = [statement for node in nodes if isinstance(node, ast.ClassDef) for statement in node.body]
        declared = {id(each.value) for each in bodies if isinstance(each, ast.AnnAssign)}
        for node in nodes:
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                if name.split(".")[0] in ("typer", "click") and name.lower().endswith((".option", ".argument")):
                    found.setdefault(relative(path), []).append(name)
                elif name == "option" and id(node) not in declared:
                    loose.append(f"{relative(path)}:{node.lineno}")
            elif isinstance(node, ast.ImportFrom) and node.module in ("click", "typer"):
                loose += [f"{relative(path)}:{node.lineno}"] * any(a.name in ("Option", "Argument") for a in node.names)
    assert {path: sorted(names) for path, names in found.items()} == DECLARES_OPTIONS
    assert not loose


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


def test_tasks_never_run_a_model() -> None:
    """Rule 2. What does: the engine's `embed`, models, and quantizers, which measure what they change."""
    calls = [
        (relative(path), node.lineno, called(node))
        for path in sources(*PACKAGES)
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call) and called(node) in RUNS_MODELS
    ]
    assert any(name == "benchmark/engine/embed.py" for name, _, _ in calls)
    assert not [call for call in calls if not call[0].startswith(MAY_RUN_MODELS)]


def test_search_does_not_know_how_a_model_is_run_or_tracked() -> None:
    """It asks the engine for plans and runs, and the registry for a tracker; banks and stores are the engine's."""
    inner = {f"benchmark.engine.{name}" for name in ("banks", "embed", "evaluate", "local", "parts")}
    inner |= {"benchmark.ledger.store"}
    found = [(relative(path), line, module) for path in sources("search") for line, module in imported(path)]
    assert any(module == "benchmark.engine.run" for _, _, module in found)
    assert not [where for where in found if where[2] in inner | {"benchmark.bank"}]
    assert not [where for where in found if where[2].startswith(("trackers", "benchmark.cli"))]


def base_of(group: str) -> type[Any]:
    """The class that objects of an entry-point group must be instances of."""
    module, name = {
        "reliquant.tasks": ("benchmark.plugins", "Task"),
        "reliquant.quantizers": ("benchmark.quantization.base", "Quantizer"),
        "reliquant.runtimes": ("benchmark.runtimes.base", "Runtime"),
        "reliquant.sources": ("benchmark.data.sources.base", "Source"),
        "reliquant.commands": ("benchmark.utils.options", "Command"),
        "reliquant.references": ("benchmark.models.references", "Reference"),
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


def test_nothing_asks_one_system_only() -> None:
    """Signals, locks and file modes go through libraries; on Windows `os.kill(pid, 0)` ends the process."""
    posix = {"fcntl", "pwd", "grp", "resource", "termios", "msvcrt", "winreg"}
    calls = {"kill", "killpg", "fork", "getuid", "geteuid", "chown", "mkfifo", "symlink", "sched_getaffinity"}
    wrong = [f"{relative(path)}:{line}" for path in sources(*PACKAGES) for line, m in imported(path) if m in posix]
    wrong += [
        f"{relative(path)}:{node.lineno}"
        for path in sources(*PACKAGES)
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {f"os.{name}" for name in calls}
    ]
    assert [place.rpartition(":")[0] for place in wrong] == ["benchmark/utils/guard.py"], wrong  # behind its platform


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
