"""`python -m tests.e2e.replay_exact`: what goes wrong around the numbers, tried again; status 1 if a hole is open."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.e2e.replay_holes import replay

MODULES = ("vectors_exact",)


def main() -> int:
    """Print the table of tries and outcomes."""
    with tempfile.TemporaryDirectory(prefix="exact-") as folder:
        return int(replay(Path(folder), MODULES) > 0)


if __name__ == "__main__":
    sys.exit(main())
