"""Print the table of docs/statistics.md."""

from __future__ import annotations

import argparse

import numpy as np

from tests.statistics.coverage import simulate, truth
from tests.statistics.worlds import WORLDS


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.statistics")
    parser.add_argument("--task", nargs="*", default=list(WORLDS))
    parser.add_argument("--images", type=int, nargs="*", default=[300, 2400])
    parser.add_argument("--experiments", type=int, default=400)
    asked = parser.parse_args()
    print("| task | metric | images | truth | error | coverage | null rejected | no interval |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name in asked.task:
        for n in asked.images:
            for key, seen in simulate(name, n, range(asked.experiments)).items():
                if seen.held or seen.rejected:
                    error = float(np.std(seen.changes)) if seen.changes else float("nan")
                    print(
                        f"| {name} | {key} | {n} | {truth(name)[key]:+.4f} | {error:.4f} | {seen.coverage:.1%} | "
                        f"{seen.null_rate:.1%} | {seen.none} |",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
