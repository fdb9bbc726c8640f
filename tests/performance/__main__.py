"""`make bench`: how much time and memory reliquant takes, as ratios. Writes docs/performance.md after each row.

    python -m tests.performance [--quick] [--only ROW ...] [--device cpu|cuda] [--output FILE]

A row that is asked for with `--only` is measured again and the others stay as they are, so that a broken run goes on
where it stopped. `--quick` uses tiny models and few images: it shows that all rows work, its ratios mean nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.performance import (
    page,
    row_added_task,
    row_again,
    row_commands,
    row_help,
    row_linear,
    row_memory,
    row_peer,
    row_quantized,
    row_replicates,
    row_runtime,
    row_suite,
    row_summarise,
    row_sweep,
)
from tests.performance.setting import BUILD, ROOT, Result, Setting

ROWS: dict[str, Callable[[Setting], Result]] = {
    row_help.NAME: row_help.measure,
    row_commands.NAME: row_commands.measure,
    row_suite.NAME: row_suite.measure,
    row_sweep.NAME: row_sweep.measure,
    row_again.NAME: row_again.measure,
    row_added_task.NAME: row_added_task.measure,
    row_peer.LARGE.name: row_peer.LARGE.measure,
    row_peer.SMALL.name: row_peer.SMALL.measure,
    row_quantized.NAME: row_quantized.measure,
    row_runtime.NAME: row_runtime.measure,
    row_memory.NAME: row_memory.measure,
    row_linear.NAME: row_linear.measure,
    row_summarise.NAME: row_summarise.measure,
    row_replicates.NAME: row_replicates.measure,
}


def main() -> None:
    """Measure row by row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    setting = Setting(options.quick, options.device)
    state = setting.folder / "results.json"
    found: dict[str, dict[str, Any]] = json.loads(state.read_text()) if state.is_file() else {}
    if options.only == list(ROWS):
        found = {}
    output = options.output or (BUILD / "quick.md" if options.quick else ROOT / "docs" / "performance.md")
    about = page.machine(options.device)
    flags = " --quick" * options.quick + (f" --device {options.device}" if options.device != "cpu" else "")
    for number, name in enumerate(options.only, 1):
        print(f"[{number}/{len(options.only)}] {name}", file=sys.stderr, flush=True)
        start = time.monotonic()
        result = ROWS[name](setting)
        print(f"  {result.measured} (target {result.target}), {time.monotonic() - start:.0f} s", file=sys.stderr)
        found[name] = result.to_json() | {"about": page.stamp(about)}
        state.write_text(json.dumps(found, indent=1))
        rows = [found[each] for each in ROWS if each in found]
        page.put(output, page.table(rows, about, f"python -m tests.performance{flags}"))
    print(page.table([found[each] for each in ROWS if each in found], about, f"python -m tests.performance{flags}"))


if __name__ == "__main__":
    main()
