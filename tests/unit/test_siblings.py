"""Others have files and packages called `tasks`, `trackers` or `search`: ours are found all the same."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from base64 import urlsafe_b64encode
from pathlib import Path

import pytest

from benchmark import cli
from benchmark.errors import PluginError
from benchmark.plugins import Task, tasks
from benchmark.registry import Registry
from benchmark.siblings import HOME, SIBLINGS, Conflict, conflict, own

THEIRS = "raise RuntimeError('their file was imported')"


def start(folder: Path, code: str = "import benchmark; print('started')") -> subprocess.CompletedProcess[str]:
    """Python with a folder before everything else on its path."""
    environment = {
        **os.environ,
        "PYTHONPATH": f"{folder}{os.pathsep}{HOME}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
    }
    command = [sys.executable, "-c", code]  # from a folder where `-c` puts nothing of ours first on the path
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd="/", check=False)


@pytest.fixture(params=["module", "package"])
def theirs(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A folder with `tasks`, `trackers` and `search` of somebody else."""
    for name in SIBLINGS:
        if request.param == "package":
            (tmp_path / name).mkdir()
        place = tmp_path / name / "__init__.py" if request.param == "package" else tmp_path / f"{name}.py"
        place.write_text(THEIRS)
    return tmp_path


EVERYTHING = """
import sys
from benchmark import tasks
from benchmark.cli.app import commands
from benchmark.tracking import trackers
for registry in (tasks, commands, trackers):
    assert [plugin.name for _, plugin in registry] == registry.names()
from benchmark.siblings.search.command import run_search
from benchmark.siblings.search.request import SearchRequest
assert SearchRequest is commands.get("search").request
assert not {"tasks", "trackers", "search"} & set(sys.modules)
print("started")
"""


def test_all_of_ours_is_loaded_among_theirs(theirs: Path) -> None:
    result = start(theirs, EVERYTHING)
    assert result.stdout == "started\n", result.stderr


def test_theirs_can_be_imported_beside_ours(tmp_path: Path) -> None:
    """Before and after, as in a notebook that runs both."""
    (tmp_path / "tasks.py").write_text("THEIRS = True")
    code = "import tasks; assert tasks.THEIRS; import benchmark; print(benchmark.tasks.get('ood').name, tasks.THEIRS)"
    assert start(tmp_path, code).stdout == "ood True\n"
    code = "import benchmark; print(benchmark.tasks.get('ood').name); import tasks; print(tasks.THEIRS)"
    assert start(tmp_path, code).stdout == "ood\nTrue\n"


def test_without_others_ours_have_their_plain_names() -> None:
    import tasks.ood

    assert own("tasks.ood") == "tasks.ood"
    assert own("numpy") == "numpy"
    assert Registry[Task]("task", "reliquant.tasks", Task).get("ood") is tasks.ood.ood


def test_one_process_uses_one_name(tmp_path: Path) -> None:
    """Theirs goes away after ours was loaded under its long name: no module is loaded twice."""
    (tmp_path / "tasks.py").write_text("")
    code = f"""
import sys, benchmark
from benchmark.siblings import own
first = own("tasks.ood")
benchmark.tasks.get("ood")
sys.path.remove({str(tmp_path)!r})
print(first, own("tasks.ood"))
"""
    assert start(tmp_path, code).stdout == "benchmark.siblings.tasks.ood benchmark.siblings.tasks.ood\n"


def test_folders_of_data_with_such_names_do_no_harm(tmp_path: Path) -> None:
    """A folder without __init__.py does not come before a real package."""
    for name in SIBLINGS:
        (tmp_path / name).mkdir()
        (tmp_path / name / "data.txt").write_text("x")
    result = start(tmp_path, "import benchmark.siblings as s; print(s.own('tasks.ood'))")
    assert result.stdout == "tasks.ood\n", result.stderr


def test_the_command_line_runs_in_their_folder(theirs: Path) -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": f"{HOME}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
        "OMP_NUM_THREADS": "1",
    }
    wanted = (
        "run",
        "demo",
        "--limit",
        "12",
        "--task",
        "zero_shot",
        "--quant",
        "rtn-w4-vision",
        "--tracker",
        "jsonl",
        "--no-speed",
    )
    for arguments in (("list", "tasks"), ("search", "--help"), wanted):
        command = [sys.executable, "-m", "benchmark", *arguments]
        result = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=theirs, check=False)
        assert result.returncode == 0, result.stderr
        assert "warning" not in result.stderr
    assert "4 evaluations: 4 computed" in result.stdout


def test_a_model_server_finds_its_protocol_in_their_folder(theirs: Path) -> None:
    """A child process that gets the name as text, as MLflow's server does."""
    from trackers import serving

    source = Path(serving.__file__).read_text(encoding="utf-8")
    [target] = [line.split('"')[3] for line in source.splitlines() if '"UVICORN_HTTP":' in line]
    module, _, name = target.partition(":")
    result = start(theirs, f"from {module} import {name}; print({name}.__name__)")
    assert result.stdout == f"{name}\n", result.stderr


# --- other distributions in the same folder ----------------------------------------------------------------------


def install(home: Path, distribution: str, files: dict[str, str]) -> None:
    """Unpack files and their list as an installer does: it asks nobody before it overwrites."""
    rows = []
    for path, content in files.items():
        (home / path).parent.mkdir(parents=True, exist_ok=True)
        (home / path).write_text(content)
        digest = urlsafe_b64encode(hashlib.sha256(content.encode()).digest()).rstrip(b"=").decode()
        rows.append(f"{path},sha256={digest},{len(content)}")
    info = home / f"{distribution}.dist-info"
    info.mkdir()
    (info / "RECORD").write_text("\n".join([*rows, f"{info.name}/RECORD,,"]))


def ours(home: Path) -> None:
    install(
        home, "reliquant-0.1.0", {f"{name}/{file}.py": f"# {name}" for name in SIBLINGS for file in ("__init__", "a")}
    )


PACKAGE = {"tasks/__init__.py": "# theirs", "tasks/b.py": ""}


def test_alone_there_is_no_conflict(tmp_path: Path) -> None:
    ours(tmp_path)
    install(tmp_path, "another-1.0", {"another/tasks/__init__.py": "", "mytasks.py": "", "tasksel/__init__.py": ""})
    assert conflict(tmp_path) is None


def test_one_that_comes_later_overwrites_ours(tmp_path: Path) -> None:
    ours(tmp_path)
    install(tmp_path, "todo_list-1.0", PACKAGE)
    found = conflict(tmp_path)
    assert found is not None
    assert found.fatal
    assert found.line.startswith(
        f"{tmp_path / 'tasks' / '__init__.py'}: not reliquant's own any more, because 'todo_list"
    )
    assert "separate environments" in found.line
    assert "pip install --force-reinstall --no-deps reliquant" in found.line
    assert "\n" not in found.line


def test_one_that_came_first_is_hidden(tmp_path: Path) -> None:
    install(tmp_path, "todo_list-1.0", PACKAGE)
    ours(tmp_path)
    found = conflict(tmp_path)
    assert found is not None
    assert not found.fatal
    assert found.line.startswith("'todo_list 1.0' installs a top-level 'tasks' too")
    assert "\n" not in found.line


@pytest.mark.parametrize("name", SIBLINGS)
def test_a_single_module_is_hidden_in_either_order(tmp_path: Path, name: str) -> None:
    for home, order in ((tmp_path / "a", 1), (tmp_path / "b", -1)):
        steps = [lambda home=home: ours(home), lambda home=home: install(home, "other-2", {f"{name}.py": ""})]
        for step in steps[::order]:
            step()
        found = conflict(home)
        assert found is not None
        assert not found.fatal
        assert f"'other 2' installs a top-level '{name}' too" in found.line


def test_one_that_was_removed_took_our_file_with_it(tmp_path: Path) -> None:
    ours(tmp_path)
    install(tmp_path, "todo_list-1.0", {"tasks/a.py": "# tasks"})  # even with the very same content
    assert (found := conflict(tmp_path)) is not None
    assert not found.fatal
    (tmp_path / "tasks" / "a.py").unlink()
    assert (found := conflict(tmp_path)) is not None
    assert found.fatal


@pytest.mark.parametrize(("fatal", "kind"), [(True, "error"), (False, "warning")])
def test_the_command_line_says_it_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fatal: bool, kind: str
) -> None:
    monkeypatch.setattr(cli, "conflict", lambda: Conflict("why and the way out", fatal))
    monkeypatch.setattr(sys, "argv", ["reliquant", "list", "suites"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    out, err = capsys.readouterr()
    assert err == f"reliquant: {kind}: why and the way out\n"
    assert (ended.value.code, bool(out)) == ((2, False) if fatal else (0, True))


def test_the_library_gives_it_as_the_reason_of_a_plugin_that_cannot_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmark.siblings.own", lambda module: "tasks.overwritten")
    monkeypatch.setattr("benchmark.siblings.conflict", lambda: Conflict("why and the way out", fatal=True))
    with pytest.raises(
        PluginError, match=r"^the task 'ood' \(tasks.ood:ood\) cannot be imported: why and the way out$"
    ):
        Registry[Task]("task", "reliquant.tasks", Task).get("ood")
    assert "ood" in tasks


def test_importing_benchmark_is_light() -> None:
    """`reliquant --help` stays under a second: no heavy module comes with the package."""
    heavy = "{'torch', 'numpy', 'pydantic', 'mlflow', 'open_clip', 'datasets', 'scipy'}"
    code = f"import sys, benchmark; print(sorted({heavy} & set(sys.modules)))"
    assert start(Path("nowhere"), code).stdout == "[]\n"


def test_the_public_names_load(tmp_path: Path) -> None:
    code = "import benchmark; print([n for n in benchmark.__all__ if getattr(benchmark, n, None) is None])"
    assert start(tmp_path, code).stdout == "[]\n"
