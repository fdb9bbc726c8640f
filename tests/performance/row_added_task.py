"""One task plugin added to the finished sweep."""

from __future__ import annotations

import shutil

import yaml

from benchmark.cli.scaffold import write_plugin
from tests.performance import row_sweep
from tests.performance.setting import Result, Setting

NAME, TARGET = "added-task", 0.05


def measure(setting: Setting) -> Result:
    """A task as `reliquant new task` writes it, bound in the suite, by `--include`; forward passes are counted."""
    first = row_sweep.sweep(setting)
    home = setting.folder / "homes" / "added"
    shutil.rmtree(home, ignore_errors=True)
    shutil.copytree(setting.home("sweep", fresh=False), home)
    folder = setting.folder / "plugin"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    plugin = write_plugin("task", "wrong_answers", folder)[0]
    content = yaml.safe_load(row_sweep.suite(setting).read_text())
    content["tasks"]["wrong_answers"] = {"test": {"test": "test"}}
    (folder / "suite.yaml").write_text(yaml.safe_dump(content))
    used = setting.sweep(folder / "suite.yaml", home, "--include", plugin)
    if used.report["computed"] != first["configurations"]:
        raise SystemExit(f"{used.report['computed']} evaluations were computed, not one for each configuration")
    share, passes = used.wall / first["wall"], used.report["forward_images"]
    return Result(
        NAME,
        "one task plugin added to the finished sweep / the sweep",
        f"{100 * share:.1f} %, {passes} forward passes",
        "0",
        f"no forward pass, <= {100 * TARGET:.0f} %",
        passes == 0 and share <= TARGET,
        (
            f"{used.wall:.1f} s against {first['wall']:.1f} s: {used.report['startup']:.1f} s until the engine began, "
            f"{used.report['computed']} evaluations computed, {used.report['tracking']:.1f} s in the tracker.",
        ),
        {"share": share, "wall": used.wall, **used.report},
    )
