"""The registry: lazy, refuses duplicates, suggests, blames the right package."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from benchmark.engine.plan import tasks as real_tasks
from benchmark.errors import PluginError, UnknownNameError
from benchmark.plugins import Columns, Metric, Task
from benchmark.registry import Origin, Registry

HERE = Origin("test", "test:here")


def make(name: str) -> Task:
    return Task(name, 1, ("test",), (Metric("x", "higher"),), lambda banks, options: Columns({}))


@pytest.fixture
def registry() -> Registry[Task]:
    return Registry("task", "reliquant.tests.nothing", Task)


def distribution(folder: Path, name: str, points: str, module: str = "", code: str = "") -> None:
    """A distribution with entry points, as an installer leaves it."""
    info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(points)
    if module:
        (folder / f"{module}.py").write_text(code)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the import path, forgotten afterwards."""
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    return tmp_path


def test_the_built_in_tasks_are_there_without_being_imported() -> None:
    fresh: Registry[Task] = Registry("task", "reliquant.tasks", Task)
    assert {"zero_shot", "calibration", "ood", "corruption", "covariate_shift", "spurious"} <= set(fresh.names())
    assert fresh.origin("ood").distribution == "reliquant"
    assert fresh._loaded == {}
    assert fresh.get("ood") is fresh.get("ood")


def test_names_are_sorted_and_contained(registry: Registry[Task]) -> None:
    registry.add("b", make("b"), HERE)
    registry.add("a", make("a"), HERE)
    assert registry.names() == ["a", "b"]
    assert "a" in registry
    assert "c" not in registry
    assert [name for name, _ in registry] == ["a", "b"]
    assert registry.origin("a") == HERE


def test_an_unknown_name_suggests() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown task 'zero_shott'\. Did you mean 'zero_shot'\?") as caught:
        real_tasks.get("zero_shott")
    assert caught.value.suggestion == "zero_shot"


def test_an_unknown_name_unlike_any_other_lists_what_there_is() -> None:
    with pytest.raises(UnknownNameError) as caught:
        real_tasks.origin("qqqq")
    assert caught.value.suggestion is None
    assert "zero_shot" in str(caught.value)


def test_a_duplicate_is_refused(registry: Registry[Task]) -> None:
    registry.add("a", make("a"), HERE)
    with pytest.raises(PluginError, match="'a' exists already"):
        registry.add("a", make("a"), HERE)
    with pytest.raises(PluginError, match=r"'ood' exists already \(from reliquant\)"):
        real_tasks.add("ood", make("ood"), HERE)


def test_a_wrong_object_is_refused(registry: Registry[Task]) -> None:
    with pytest.raises(PluginError, match="is a int, expected Task"):
        registry.add("a", 5, HERE)  # type: ignore[arg-type]
    with pytest.raises(PluginError, match="calls itself 'b'"):
        registry.add("a", make("b"), HERE)
    assert registry.names() == []


def test_removed_is_forgotten(registry: Registry[Task]) -> None:
    registry.add("a", make("a"), HERE)
    registry.remove("a")
    assert "a" not in registry
    registry.add("a", make("a"), HERE)


def test_a_strangers_package_is_found_lazily(site: Path) -> None:
    code = """
from benchmark import Columns, Metric, task
@task("strange_task", version=1, needs=("test",), metrics=[Metric("x", better="higher")])
def strange_task(banks, options):
    return Columns({})
"""
    distribution(
        site, "strange-package", "[g.lazy]\nstrange_task = strange_module:strange_task\n", "strange_module", code
    )
    registry: Registry[Task] = Registry("task", "g.lazy", Task)
    assert registry.names() == ["strange_task"]
    assert registry.origin("strange_task") == Origin("strange-package", "strange_module:strange_task")
    assert "strange_module" not in sys.modules
    assert isinstance(registry.get("strange_task"), Task)
    del sys.modules["strange_module"]


def test_two_packages_with_one_name_are_both_named(site: Path) -> None:
    distribution(site, "first-package", "[g.twice]\nmine = first:mine\n")
    distribution(site, "second-package", "[g.twice]\nmine = second:mine\n")
    registry: Registry[Task] = Registry("task", "g.twice", Task)
    with pytest.raises(PluginError) as caught:
        registry.names()
    assert "first-package" in str(caught.value)
    assert "second-package" in str(caught.value)
    assert "uninstall" in str(caught.value)


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("import a_module_that_does_not_exist", "ModuleNotFoundError"),
        ("1 / 0", "ZeroDivisionError"),
        ("this is no python", "SyntaxError"),
        ("raise SystemExit(0)", "SystemExit"),
        ("other = 1", "AttributeError"),
        ("mine = 'text'", "is a str, expected Task"),
    ],
)
def test_a_broken_package_is_named(site: Path, code: str, says: str) -> None:
    distribution(site, "broken-package", "[g.broken]\nmine = broken_module:mine\n", "broken_module", code)
    registry: Registry[Task] = Registry("task", "g.broken", Task)
    assert registry.names() == ["mine"]
    try:
        with pytest.raises(PluginError) as caught:
            registry.get("mine")
    finally:
        sys.modules.pop("broken_module", None)
    assert says in str(caught.value)
    assert "'mine'" in str(caught.value)
